package caddystorage_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// Each of these holds one guard that no other test misses; tools/mutate takes
// them away one at a time.

func TestNobodyHasNoRecord(t *testing.T) {
	store := caddystorage.New(storetest.NewMemory(), keyring(t, "k"))
	_, err := store.Connection(t.Context(), "", "")
	require.ErrorContains(t, err, "the seller is empty")
	require.NotErrorIs(t, err, tokenstore.ErrNotFound)
	c := shop
	c.Seller = ""
	require.Error(t, store.PutConnection(t.Context(), c))
	c = shop
	c.ID = ""
	require.Error(t, store.DeleteConnection(t.Context(), c))
}

func TestAnAccountWithoutAUserHasNoRecord(t *testing.T) {
	store := caddystorage.New(storetest.NewMemory(), keyring(t, "k"))
	for _, user := range []int64{0, -1} {
		id := account
		id.UserID = user
		_, err := store.Account(t.Context(), id)
		require.ErrorContains(t, err, "must be above 0")
		require.Error(t, store.AddPair(t.Context(), id, newPair(1, 0, "a")))
	}
}

func TestALiveAndATestAccountHaveRecordsOfTheirOwn(t *testing.T) {
	_, store := filled(t)
	test := account
	test.Live = false
	got, err := store.Account(t.Context(), test)
	require.NoError(t, err)
	require.Equal(t, tokenstore.Account{ID: test}, got)
}

func TestALockIsHeldByOneGoroutineAtATime(t *testing.T) {
	store := caddystorage.New(storetest.NoLock(storetest.NewMemory()), keyring(t, "k"))
	held, err := store.Lock(t.Context(), account)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = store.Lock(ctx, account)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, held.Unlock(t.Context()))
}

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

func TestTheTombstoneOfTheLastConnectionStays(t *testing.T) {
	_, store := filled(t)
	require.NoError(t, store.DeleteConnection(t.Context(), shop))
	_, err := store.CleanUp(t.Context(), time.Now().Add(100*24*time.Hour), "", 10)
	require.NoError(t, err)
	_, err = store.Connection(t.Context(), shop.Application, shop.Seller)
	require.ErrorIs(t, err, tokenstore.ErrNotFound)
}

func TestAKeyThatIsMadeAtOnceByTwoIsOne(t *testing.T) {
	storage := storetest.NewMemory()
	var other secret.Secret
	key, err := caddystorage.GeneratedKey(t.Context(), storetest.Hook(storage, func(op, _ string) (err error) {
		if op == "lock" {
			other, err = caddystorage.GeneratedKey(t.Context(), storage)
		}
		return err
	}))
	require.NoError(t, err)
	require.False(t, other.IsZero())
	require.True(t, key.Equal(other))
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

func TestAnIntentThatWentWhileItWasReadShowsWhatCameOfIt(t *testing.T) {
	storage := storetest.NewMemory()
	other := caddystorage.New(storage, keyring(t, "k"))
	old := newPair(1, 0, "old")
	intent := tokenstore.Intent{Pair: old.Hash, Instance: "i", Nonce: "n", At: moment}
	require.NoError(t, other.AddPair(t.Context(), account, old))
	require.NoError(t, other.PutIntent(t.Context(), account, intent))
	met := false
	got, err := caddystorage.New(storetest.Hook(storage, func(op, key string) error {
		if op == "load" && strings.Contains(key, "/intent-") && !met {
			met = true
			return errors.Join(other.AddPair(t.Context(), account, newPair(1, 1, "new")), other.DeleteIntent(t.Context(), account, intent))
		}
		return nil
	}), keyring(t, "k")).Account(t.Context(), account)
	require.NoError(t, err)
	require.True(t, met)
	require.Len(t, got.Pairs, 2, "an old pair without its intent would be posted again")
}
