package caddystorage_test

import (
	"sync"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/memdir"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

func TestAKeyIsGeneratedOnceForManyInstances(t *testing.T) {
	t.Parallel() // Caddy's files look for a free lock once a second
	storage := &certmagic.FileStorage{Path: memdir.New(t)}
	_, err := caddystorage.ExistingKey(t.Context(), storage)
	require.ErrorIs(t, err, tokenstore.ErrNotFound)

	keys := make([]secret.Secret, 3)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			var err error
			if keys[i], err = caddystorage.GeneratedKey(t.Context(), storage); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	_, err = secret.NewKeyring(keys[0])
	require.NoError(t, err, "it is raw")
	for _, key := range keys {
		require.True(t, keys[0].Equal(key))
	}
	existing, err := caddystorage.ExistingKey(t.Context(), storage)
	require.NoError(t, err)
	require.True(t, keys[0].Equal(existing))
}

func TestADamagedKeyIsNeverReplaced(t *testing.T) {
	for name, damaged := range map[string]string{"empty": "", "cut": "c2hvcnQ=", "no base64": "canary???", "long": string(make([]byte, 65<<10))} {
		storage := storetest.NewMemory()
		require.NoError(t, storage.Store(t.Context(), "mercadopago/encryption_key", []byte(damaged)))
		for range 2 {
			_, err := caddystorage.GeneratedKey(t.Context(), storage)
			require.ErrorContains(t, err, "mercadopago/encryption_key", name)
			require.ErrorContains(t, err, "back-up", name)
			require.NotErrorIs(t, err, tokenstore.ErrNotFound)
			require.NotContains(t, err.Error(), "canary")
		}
		raw, err := storage.Load(t.Context(), "mercadopago/encryption_key")
		require.NoError(t, err)
		require.Equal(t, damaged, string(raw))
	}
}

func TestNoKeyIsMadeWhereTheStorageFails(t *testing.T) {
	for _, failing := range []string{"load", "store"} {
		storage := storetest.NewMemory()
		_, err := caddystorage.GeneratedKey(t.Context(), storetest.Hook(storage, func(op, _ string) error {
			if op == failing {
				return errDisk
			}
			return nil
		}))
		require.ErrorIs(t, err, errDisk)
		require.NotErrorIs(t, err, tokenstore.ErrNotFound)
		_, err = caddystorage.ExistingKey(t.Context(), storage)
		require.ErrorIs(t, err, tokenstore.ErrNotFound)
		require.NoError(t, storage.Lock(t.Context(), "free"))
	}
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
