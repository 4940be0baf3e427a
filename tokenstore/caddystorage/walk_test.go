package caddystorage_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

func TestTheTombstoneOfAReplacedConnectionIsDeletedAfterADay(t *testing.T) {
	memory := storetest.NewMemory()
	s := caddystorage.New(memory, keyring(t, "k"))
	c := tokenstore.Connection{ID: "old", Seller: "shop-1", Account: tokenstore.AccountID{ClientID: "1", UserID: 1, Live: true}}
	require.NoError(t, s.PutConnection(t.Context(), c))
	require.NoError(t, s.DeleteConnection(t.Context(), c))
	c.ID = "new"
	require.NoError(t, s.PutConnection(t.Context(), c))
	ended := func() []string {
		names, _ := memory.List(t.Context(), "mercadopago/ended", false)
		return names
	}
	_, err := s.CleanUp(t.Context(), time.Now().Add(23*time.Hour), "", 10)
	require.NoError(t, err)
	require.Len(t, ended(), 1)
	_, err = s.CleanUp(t.Context(), time.Now().Add(25*time.Hour), "", 10)
	require.NoError(t, err)
	require.Empty(t, ended())
}

func TestAWalkReadsNoAccount(t *testing.T) {
	memory := storetest.NewMemory()
	fill(t, caddystorage.New(memory, keyring(t, "k")))
	s := caddystorage.New(storetest.Hook(memory, func(op, _ string) error {
		require.NotEqual(t, "load", op)
		return nil
	}), keyring(t, "k"))
	ids, _, err := s.Accounts(t.Context(), "", 10)
	require.NoError(t, err)
	require.Len(t, ids, 2)
}

func TestAWalkListsTheAccountsOnceAndTheNextWalkAnew(t *testing.T) {
	memory, lists := storetest.NewMemory(), 0
	s := caddystorage.New(storetest.Hook(memory, func(op, key string) error {
		if op == "list" && key == "mercadopago/accounts/n-ge" {
			lists++
		}
		return nil
	}), keyring(t, "k"))
	fill(t, s)
	all := func() (met int) {
		for after := ""; ; {
			ids, next, err := s.Accounts(t.Context(), after, 1)
			require.NoError(t, err)
			met += len(ids)
			if after = next; next == "" {
				return met
			}
		}
	}
	require.Equal(t, 2, all())
	require.Equal(t, 1, lists)
	id := tokenstore.AccountID{ClientID: "1", UserID: 3, Live: true}
	require.NoError(t, s.PutVerdict(t.Context(), id, tokenstore.Verdict{Pair: "0123456789abcdef0123456789abcdef"}))
	require.Equal(t, 3, all(), "a new walk meets who came since")
	require.Equal(t, 2, lists)
}

func TestAFailedListingIsNotTheEndOfAWalk(t *testing.T) {
	memory := storetest.NewMemory()
	fill(t, caddystorage.New(memory, keyring(t, "k")))
	s := caddystorage.New(storetest.Hook(memory, func(op, _ string) error {
		if op == "list" {
			return context.DeadlineExceeded
		}
		return nil
	}), keyring(t, "k"))
	_, _, err := s.Accounts(t.Context(), "", 10)
	require.Error(t, err)
}

func fill(t *testing.T, s *caddystorage.Store) {
	t.Helper()
	for i := range int64(2) {
		id := tokenstore.AccountID{ClientID: "1", UserID: i + 1, Live: true}
		require.NoError(t, s.PutVerdict(t.Context(), id, tokenstore.Verdict{Pair: "0123456789abcdef0123456789abcdef"}))
	}
}

func TestTheTombstoneOfTheLastConnectionStays(t *testing.T) {
	_, store := filled(t)
	require.NoError(t, store.DeleteConnection(t.Context(), shop))
	_, err := store.CleanUp(t.Context(), time.Now().Add(100*24*time.Hour), "", 10)
	require.NoError(t, err)
	_, err = store.Connection(t.Context(), shop.Application, shop.Seller)
	require.ErrorIs(t, err, tokenstore.ErrNotFound)
}
