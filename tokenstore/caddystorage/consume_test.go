package caddystorage_test

import (
	"bytes"
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

func TestANoteThatCannotBeReadKeepsItsStateConsumed(t *testing.T) {
	storage, until := storetest.NewMemory(), moment.Add(time.Hour)
	store := caddystorage.New(storage, keyring(t, "k"))
	require.NoError(t, store.Consume(t.Context(), "state", until))
	key := keys(t, storage, "/consumed/")[0]
	for name, damaged := range map[string][]byte{"cut": []byte("{"), "too long": bytes.Repeat([]byte(" "), 65<<10)} {
		require.NoError(t, storage.Store(t.Context(), key, damaged))
		require.ErrorIs(t, store.Consume(t.Context(), "state", until), tokenstore.ErrConsumed, name)
	}
}

func TestAStateIsNotConsumedWhereTheStorageFails(t *testing.T) {
	for _, failing := range []string{"load", "store"} {
		store := caddystorage.New(storetest.Hook(storetest.NewMemory(), func(op, _ string) error {
			if op == failing {
				return errDisk
			}
			return nil
		}), keyring(t, "k"))
		require.ErrorIs(t, store.Consume(t.Context(), "state", moment), errDisk, failing)
	}
}

func TestTheNoteOfAStateOutlivesItsUse(t *testing.T) {
	store, now := caddystorage.New(storetest.NewMemory(), keyring(t, "k")), time.Now()
	clean := func(at time.Time) {
		_, err := store.CleanUp(t.Context(), at, "", 10)
		require.NoError(t, err)
	}
	require.NoError(t, store.Consume(t.Context(), "state", now))
	clean(now.Add(23 * time.Hour))
	require.ErrorIs(t, store.Consume(t.Context(), "state", now), tokenstore.ErrConsumed)
	clean(now.Add(25 * time.Hour))
	require.NoError(t, store.Consume(t.Context(), "state", now))
}

func TestAStateThatTwoConsumeAtOnceIsConsumedOnce(t *testing.T) {
	for _, at := range []string{"lock", "store"} {
		t.Run("while the first comes to its "+at, func(t *testing.T) {
			storage := storetest.NewMemory()
			other := caddystorage.New(storage, keyring(t, "k"))
			var met bool
			var second error
			first := caddystorage.New(storetest.Hook(storage, func(op, _ string) error {
				if op == at && !met {
					met = true
					ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
					defer cancel()
					second = other.Consume(ctx, "state", moment)
				}
				return nil
			}), keyring(t, "k")).Consume(t.Context(), "state", moment)
			require.True(t, met)
			require.NotEqual(t, first == nil, second == nil, "one of the two: %v, %v", first, second)
		})
	}
}
