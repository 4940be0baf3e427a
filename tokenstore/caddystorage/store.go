package caddystorage

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/internal/turns"
)

// Store is a [tokenstore.Store] on CertMagic storage.
type Store struct {
	records
	keyring *secret.Keyring
	indexes turns.Turns[string]
	listed  atomic.Pointer[listing]
}

// New returns the store that lies in storage, its tokens sealed with keyring. It
// does not touch the storage.
func New(storage certmagic.Storage, keyring *secret.Keyring) *Store {
	return &Store{records: records{storage: storage}, keyring: keyring}
}

// ended is the tombstone of a connection: a note that it was disconnected. The
// rest lets a later clean-up tell whether it is still of use.
type ended struct {
	Connection string                `json:"connection"`
	At         time.Time             `json:"at"`
	Of         tokenstore.Connection `json:"of"`
}

// pointing is what an account knows of a connection that was made to point to
// it: where to look. Whether it still does, the seller's connection says.
type pointing struct {
	Connection  string `json:"connection"`
	Application string `json:"application"`
	Seller      string `json:"seller"`
}

// Connection returns a seller's connection, or ErrNotFound.
func (s *Store) Connection(ctx context.Context, application, seller string) (tokenstore.Connection, error) {
	key, err := connectionKey(application, seller)
	if err != nil {
		return tokenstore.Connection{}, fmt.Errorf("reading a connection: %w", err)
	}
	for last := ""; ; {
		c, err := s.pointer(ctx, key, application, seller)
		if err != nil {
			return tokenstore.Connection{}, err
		}
		over, err := s.hasEnded(ctx, c.ID)
		if err != nil {
			return tokenstore.Connection{}, err
		}
		if !over {
			return c, nil
		}
		// It may have been replaced, and ended only then: look again, until it is
		// the ended one that stays.
		if c.ID == last {
			return tokenstore.Connection{}, fmt.Errorf("%s was disconnected: %w", key, tokenstore.ErrNotFound)
		}
		last = c.ID
	}
}

// pointer reads the connection that was made last for a seller, ended or not.
func (s *Store) pointer(ctx context.Context, key, application, seller string) (tokenstore.Connection, error) {
	var c tokenstore.Connection
	if err := s.get(ctx, key, &c); err != nil {
		return tokenstore.Connection{}, err
	}
	if c.Application != application || c.Seller != seller || c.ID == "" {
		return tokenstore.Connection{}, fmt.Errorf("reading %s: it is not this seller's connection: restore it from a back-up", key)
	}
	return c, nil
}

// PutConnection makes c the seller's connection.
func (s *Store) PutConnection(ctx context.Context, c tokenstore.Connection) error {
	key, folder, name, err := connectionPlaces(c)
	if err != nil {
		return fmt.Errorf("writing a connection: %w", err)
	}
	over, err := s.hasEnded(ctx, c.ID)
	if err != nil {
		return err
	}
	if over {
		return fmt.Errorf("writing a connection: %s was disconnected: %w", c.ID, tokenstore.ErrNotFound)
	}
	// The account learns of it first: a connection that its account does not
	// know of would let another seller's disconnect delete the pairs it lives on.
	err = s.add(ctx, folder, name, pointing{Connection: c.ID, Application: c.Application, Seller: c.Seller})
	if err != nil {
		return err
	}
	return s.put(ctx, key, c)
}

// DeleteConnection ends c for good. The seller's connection stays where it is,
// voided by the tombstone: between looking whether it is still c and deleting
// it, another writer could have put a new one there, and it would be lost.
func (s *Store) DeleteConnection(ctx context.Context, c tokenstore.Connection) error {
	_, folder, name, err := connectionPlaces(c)
	if err != nil {
		return fmt.Errorf("ending a connection: %w", err)
	}
	if err := s.put(ctx, endedKey(c.ID), ended{Connection: c.ID, At: time.Now().UTC(), Of: c}); err != nil {
		return err
	}
	return s.drop(ctx, folder, name)
}

// Ended reports whether a connection was ended.
func (s *Store) Ended(ctx context.Context, c tokenstore.Connection) (bool, error) {
	if _, _, _, err := connectionPlaces(c); err != nil {
		return false, fmt.Errorf("looking whether a connection was ended: %w", err)
	}
	return s.hasEnded(ctx, c.ID)
}

// Connections returns the connections that point to an account.
func (s *Store) Connections(ctx context.Context, id tokenstore.AccountID) ([]tokenstore.Connection, error) {
	folder, err := accountFolder(id)
	if err != nil {
		return nil, fmt.Errorf("listing connections: %w", err)
	}
	found := make(map[string]tokenstore.Connection)
	err = s.walk(ctx, folder, func(names []string) (gone bool, err error) {
		for _, name := range names {
			if kind(name) != "connection" {
				continue
			}
			var p pointing
			err := s.get(ctx, folder+name, &p)
			if errors.Is(err, tokenstore.ErrNotFound) {
				gone = true
				continue
			}
			if err != nil {
				return false, err
			}
			if err := s.follow(ctx, p, id, found); err != nil {
				return false, err
			}
		}
		return gone, nil
	})
	if err != nil {
		return nil, err
	}
	return slices.Collect(maps.Values(found)), nil
}

// follow adds the connection that a seller has now to those found, by id, if it
// points to the account.
func (s *Store) follow(ctx context.Context, p pointing, id tokenstore.AccountID, found map[string]tokenstore.Connection) error {
	c, err := s.Connection(ctx, p.Application, p.Seller)
	if errors.Is(err, tokenstore.ErrNotFound) {
		return nil
	}
	if err == nil && c.Account == id {
		found[c.ID] = c
	}
	return err
}

func (s *Store) hasEnded(ctx context.Context, connection string) (bool, error) {
	var e ended
	err := s.get(ctx, endedKey(connection), &e)
	if errors.Is(err, tokenstore.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// connectionPlaces returns the key of a seller's connection, and the folder and
// name of its account's note of it.
func connectionPlaces(c tokenstore.Connection) (key, folder, name string, err error) {
	if err := checkName("connection id", c.ID); err != nil {
		return "", "", "", err
	}
	if key, err = connectionKey(c.Application, c.Seller); err != nil {
		return "", "", "", err
	}
	if folder, err = accountFolder(c.Account); err != nil {
		return "", "", "", err
	}
	return key, folder, "connection-" + part(c.ID), nil
}

var _ tokenstore.Store = (*Store)(nil)
