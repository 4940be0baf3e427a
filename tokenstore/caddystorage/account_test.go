package caddystorage_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

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
