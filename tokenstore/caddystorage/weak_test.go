package caddystorage_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// One process hides nothing from itself, however late the listing is and
// whatever the lock is worth.
func TestWhatManyGoroutinesAddAtOnceIsSeenWithoutTheListing(t *testing.T) {
	store := caddystorage.New(storetest.NoLock(storetest.NewLateListings(storetest.NewMemory())), keyring(t, "k"))
	var all errgroup.Group
	for i := range 40 {
		all.Go(func() error { return store.AddPair(t.Context(), account, newPair(1, uint64(i), fmt.Sprint(i))) })
	}
	require.NoError(t, all.Wait())
	got, err := store.Account(t.Context(), account)
	require.NoError(t, err)
	require.Len(t, got.Pairs, 40)
}

func TestATombstoneIsSeenWithoutListingAndIndex(t *testing.T) {
	storage := storetest.NewMemory()
	store := caddystorage.New(storetest.NewLateListings(storage), keyring(t, "k"))
	require.NoError(t, store.PutTombstone(t.Context(), account, 7))
	require.NoError(t, store.PutTombstone(t.Context(), account, 6))
	require.NoError(t, storage.Delete(t.Context(), keys(t, storage, "/index")[0]))
	got, err := store.Account(t.Context(), account)
	require.NoError(t, err)
	require.Equal(t, uint64(7), got.Tombstone)
}

// Where no lock keeps two instances apart, one may write a lower number over the
// fixed key after the other looked.
func TestATombstoneThatWasOvertakenIsNotLowered(t *testing.T) {
	storage := storetest.NewMemory()
	b := caddystorage.New(storage, keyring(t, "k"))
	met := false
	a := caddystorage.New(storetest.Hook(storage, func(op, key string) error {
		if op == "store" && strings.HasSuffix(key, "/tombstone") && !met {
			met = true
			return b.PutTombstone(t.Context(), account, 9)
		}
		return nil
	}), keyring(t, "k"))
	require.NoError(t, a.PutTombstone(t.Context(), account, 3))
	require.True(t, met)
	got, err := b.Account(t.Context(), account)
	require.NoError(t, err)
	require.Equal(t, uint64(9), got.Tombstone)
}

// heedful is storage that does as its documentation asks: nothing, once the
// context is done.
type heedful struct{ certmagic.Storage }

func (h heedful) Unlock(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return h.Storage.Unlock(ctx, name)
}

func TestALockIsReleasedAtAStorageThatHeedsContexts(t *testing.T) {
	storage := heedful{storetest.NewMemory()}
	ctx, cancel := context.WithCancel(t.Context())
	held, err := caddystorage.New(storage, keyring(t, "k")).Lock(ctx, account)
	require.NoError(t, err)
	cancel()
	require.NoError(t, held.Unlock(ctx))
	held, err = caddystorage.New(storage, keyring(t, "k")).Lock(t.Context(), account)
	require.NoError(t, err)
	require.NoError(t, held.Unlock(t.Context()))
}

func TestNamesThatARecordCouldNotHoldAreRefused(t *testing.T) {
	store := caddystorage.New(storetest.NewMemory(), keyring(t, "k"))
	for name, change := range map[string]func(c *tokenstore.Connection){
		"id":          func(c *tokenstore.Connection) { c.ID = "\xff" },
		"seller":      func(c *tokenstore.Connection) { c.Seller = "shop-\xff" },
		"application": func(c *tokenstore.Connection) { c.Application = "\xff" },
		"client id":   func(c *tokenstore.Connection) { c.Account.ClientID = "\xff" },
	} {
		c := shop
		change(&c)
		require.ErrorContains(t, store.PutConnection(t.Context(), c), "UTF-8", name)
	}
	c := shop
	c.Seller = strings.Repeat("x", 70<<10)
	require.ErrorContains(t, store.PutConnection(t.Context(), c), "too long")
}

// A record under the right key with another seller's name, as a writer with a
// fault of its own could leave it.
func TestAConnectionThatNamesAnotherSellerIsAnError(t *testing.T) {
	storage, store := filled(t)
	key := keys(t, storage, "/connections/")[0]
	whole, err := storage.Load(t.Context(), key)
	require.NoError(t, err)
	for _, lie := range [][2]string{{`"seller":"shop-42"`, `"seller":"shop-43"`}, {`"application":"brasil"`, `"application":""`}, {`"id":"c1"`, `"id":""`}} {
		require.NoError(t, storage.Store(t.Context(), key, []byte(strings.Replace(string(whole), lie[0], lie[1], 1))))
		_, err := store.Connection(t.Context(), shop.Application, shop.Seller)
		require.ErrorContains(t, err, "not this seller's connection")
		require.NotErrorIs(t, err, tokenstore.ErrNotFound)
	}
}

func TestAPairUnderAnotherPairsKeyIsAnError(t *testing.T) {
	storage, store := filled(t)
	from := keys(t, storage, "/pair-")[0]
	raw, err := storage.Load(t.Context(), from)
	require.NoError(t, err)
	to := strings.Replace(from, "/pair-2-0-", "/pair-9-0-", 1)
	require.NoError(t, storage.Store(t.Context(), to, raw))
	_, err = store.Account(t.Context(), account)
	require.ErrorContains(t, err, to)
	require.ErrorContains(t, err, "belongs elsewhere")
}

// A record that is there is never written again: a storage that dies in the
// midst of it could leave neither.
func TestAPairIsNeverWrittenOver(t *testing.T) {
	storage, _ := filled(t)
	failing := ""
	store := caddystorage.New(storetest.Hook(storage, func(op, key string) error {
		if op == failing && strings.Contains(key, "/pair-") {
			return errDisk
		}
		if op == "store" && strings.Contains(key, "/pair-") {
			return fmt.Errorf("%s is written over", key)
		}
		return nil
	}), keyring(t, "k"))
	require.NoError(t, store.AddPair(t.Context(), account, newPair(2, 0, "canary")))
	failing = "load"
	require.ErrorIs(t, store.AddPair(t.Context(), account, newPair(2, 0, "canary")), errDisk, "whether it is there is not known")
}
