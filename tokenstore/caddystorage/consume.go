package caddystorage

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// consumed notes that a state was used up. The state itself is not kept: it
// came with a request.
type consumed struct {
	Until time.Time `json:"until"`
}

// Consume notes that a state is used up, or returns ErrConsumed where it was.
func (s *Store) Consume(ctx context.Context, state string, until time.Time) error {
	if state == "" {
		return errors.New("consuming a state: the state is empty")
	}
	key := consumedKey(state)
	// Without the lock first: of many who come with one state, all but one leave
	// here.
	if err := s.unconsumed(ctx, key); err != nil {
		return err
	}
	held, err := s.lock(ctx, lockName("state", key))
	if err != nil {
		return fmt.Errorf("consuming a state: %w", err)
	}
	// What it may fail with is of no weight: nobody needs this lock again.
	defer func() { _ = held.Unlock(ctx) }()
	if err := s.unconsumed(ctx, key); err != nil {
		return err
	}
	return s.put(ctx, key, consumed{Until: until.UTC()})
}

// unconsumed returns ErrConsumed if anything lies at the key, be it readable or
// not. It loads, because Exists cannot tell absent from failed.
func (s *Store) unconsumed(ctx context.Context, key string) error {
	_, err := s.load(ctx, key)
	switch {
	case errors.Is(err, tokenstore.ErrNotFound):
		return nil
	case err == nil, errors.Is(err, errTooLong):
		return fmt.Errorf("%s: %w", key, tokenstore.ErrConsumed)
	}
	return err
}
