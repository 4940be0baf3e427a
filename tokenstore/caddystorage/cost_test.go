package caddystorage_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// counting counts what a storage is asked for.
type counting struct {
	certmagic.Storage
	loads, lists, others atomic.Int32
}

func (c *counting) Load(ctx context.Context, key string) ([]byte, error) {
	c.loads.Add(1)
	return c.Storage.Load(ctx, key)
}

func (c *counting) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	c.lists.Add(1)
	return c.Storage.List(ctx, path, recursive)
}

func (c *counting) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	c.others.Add(1)
	return c.Storage.Stat(ctx, key)
}

func (c *counting) Exists(ctx context.Context, key string) bool {
	c.others.Add(1)
	return c.Storage.Exists(ctx, key)
}

func (c *counting) Lock(ctx context.Context, name string) error {
	c.others.Add(1)
	return c.Storage.Lock(ctx, name)
}

func (c *counting) Store(ctx context.Context, key string, value []byte) error {
	c.others.Add(1)
	return c.Storage.Store(ctx, key, value)
}

func TestWhatAColdSellerCosts(t *testing.T) {
	storage := &counting{Storage: storetest.NewMemory()}
	store := caddystorage.New(storage, keyring(t, "k"))
	id := tokenstore.AccountID{ClientID: "1234", UserID: 5411000101, Live: true}
	pair := tokenstore.Pair{
		AccessToken: secret.New("access"), RefreshToken: secret.New("refresh"),
		ObtainedAt: time.Now(), ExpiresAt: time.Now().Add(time.Hour),
	}
	pair.PairID = tokenstore.PairID{Authorization: 1, Hash: tokenstore.HashPair(pair.AccessToken, pair.RefreshToken)}
	require.NoError(t, store.AddPair(t.Context(), id, pair))
	require.NoError(t, store.PutConnection(t.Context(), tokenstore.Connection{ID: "c", Application: "default", Seller: "shop-1", Account: id, Authorization: 1}))
	storage.loads.Store(0)
	storage.lists.Store(0)
	storage.others.Store(0)

	connection, err := store.Connection(t.Context(), "default", "shop-1")
	require.NoError(t, err)
	_, err = store.Account(t.Context(), connection.Account)
	require.NoError(t, err)
	require.Equal(t, int32(5), storage.loads.Load(), "the connection, its tombstone, the index, the pair, the account's tombstone")
	require.Equal(t, int32(1), storage.lists.Load(), "the account's folder")
	require.Zero(t, storage.others.Load(), "nothing is locked, and nothing written")
}
