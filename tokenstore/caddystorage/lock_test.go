package caddystorage_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

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
