package caddystorage

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// ExistingKey returns the encryption key that lies in storage, or ErrNotFound
// where none was generated. It is raw, as [secret.ParseKey] returns it.
func ExistingKey(ctx context.Context, storage certmagic.Storage) (secret.Secret, error) {
	r := records{storage: storage}
	text, err := r.load(ctx, encryptionKey)
	if err != nil {
		return secret.Secret{}, err
	}
	key, err := secret.ParseKey(string(text))
	if err != nil {
		// What ParseKey advises, to make a new one, would lose every seller.
		return secret.Secret{}, fmt.Errorf("the generated encryption key at %s is damaged: restore it from a back-up, for without it "+
			"no seller's tokens open; delete it only where no seller has ever been connected", encryptionKey)
	}
	return key, nil
}

// GeneratedKey returns the encryption key that lies in storage, and makes one
// where there is none. It never replaces one, not even one that is damaged.
//
// It is for storages whose lock works: with one that does nothing, two
// instances that start together for the very first time may each make a key.
func GeneratedKey(ctx context.Context, storage certmagic.Storage) (secret.Secret, error) {
	key, err := ExistingKey(ctx, storage)
	if !errors.Is(err, tokenstore.ErrNotFound) {
		return key, err
	}
	r := records{storage: storage}
	held, err := r.lock(ctx, lockName("encryption key"))
	if err != nil {
		return secret.Secret{}, fmt.Errorf("making an encryption key: %w", err)
	}
	defer func() { _ = held.Unlock(ctx) }()
	key, err = ExistingKey(ctx, storage)
	if !errors.Is(err, tokenstore.ErrNotFound) {
		return key, err
	}
	text := secret.GenerateKey().Reveal() + "\n"
	if err := r.save(ctx, encryptionKey, []byte(text)); err != nil {
		return secret.Secret{}, fmt.Errorf("making an encryption key: %w", err)
	}
	// Read again: nothing may be sealed with a key that is not in the storage.
	return ExistingKey(ctx, storage)
}
