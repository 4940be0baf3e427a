package storetest

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

var connectionPromises = []promise{
	{"ASellerWithoutAConnectionIsNotFound", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		requireNoConnection(t, "brasil", "shop-1", a, b)
		requireConnections(t, account, nil, a, b)
	}},
	{"AConnectionIsReadBackAsItWasMade", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		c := connection("c1", "shop-1", account)
		require.NoError(t, a.PutConnection(t.Context(), c))
		requireConnection(t, c, a, b)
		requireConnections(t, account, []string{"c1"}, a, b)
	}},
	{"ToMakeTheSameConnectionAgainIsNoError", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		c := connection("c1", "shop-1", account)
		require.NoError(t, a.PutConnection(t.Context(), c))
		require.NoError(t, b.PutConnection(t.Context(), c))
		c.Authorization, c.Nickname = 4, ""
		require.NoError(t, a.PutConnection(t.Context(), c))
		requireConnection(t, c, a, b)
		requireConnections(t, account, []string{"c1"}, a, b)
	}},
	{"ANewConnectionTakesThePlaceOfTheEarlierOne", aNewConnectionTakesThePlace},
	{"AnEndedConnectionIsNotFound", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		c := connection("c1", "shop-1", account)
		require.NoError(t, a.PutConnection(t.Context(), c))
		require.NoError(t, b.DeleteConnection(t.Context(), c))
		requireNoConnection(t, c.Application, c.Seller, a, b)
		requireConnections(t, account, nil, a, b)
		require.NoError(t, a.DeleteConnection(t.Context(), c), "to end it again is no error")
		require.NoError(t, a.DeleteConnection(t.Context(), connection("c9", "nobody", account)), "to end what never was is no error")
	}},
	{"AnEndedConnectionIsNotMadeAgain", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		old, now := connection("c1", "shop-1", account), connection("c2", "shop-1", account)
		require.NoError(t, a.PutConnection(t.Context(), old))
		require.NoError(t, a.DeleteConnection(t.Context(), old))
		require.ErrorIs(t, b.PutConnection(t.Context(), old), tokenstore.ErrNotFound)
		requireNoConnection(t, old.Application, old.Seller, a, b)
		require.NoError(t, a.PutConnection(t.Context(), now))
		require.ErrorIs(t, b.PutConnection(t.Context(), old), tokenstore.ErrNotFound)
		requireConnection(t, now, a, b)
	}},
	{"AConnectionThatTheSellerHasByAnotherIDIsLeftAlone", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		old, now := connection("c1", "shop-1", account), connection("c2", "shop-1", account)
		require.NoError(t, a.PutConnection(t.Context(), old))
		require.NoError(t, b.PutConnection(t.Context(), now))
		require.NoError(t, a.DeleteConnection(t.Context(), old))
		requireConnection(t, now, a, b)
		requireConnections(t, account, []string{"c2"}, a, b)
	}},
	{"EndingOneConnectionNeverLosesAnotherThatIsMadeMeanwhile", func(t *testing.T, s *suite, a, b tokenstore.Store) {
		for i := range 20 {
			old := connection(fmt.Sprintf("old-%d", i), "shop-1", account)
			now := connection(fmt.Sprintf("new-%d", i), "shop-1", account)
			require.NoError(t, a.PutConnection(t.Context(), old))
			requireAllNil(t, atOnce(2, func(n int) error {
				if n == 0 {
					return a.DeleteConnection(t.Context(), old)
				}
				return b.PutConnection(t.Context(), now)
			}))
			requireConnection(t, now, a, b)
			s.settle()
			requireConnections(t, account, []string{now.ID}, a, b)
		}
	}},
	{"TheConnectionsOfAnAccountAreThoseThatPointToIt", theConnectionsOfAnAccount},
	{"OddNamesAreNamesLikeAnyOther", oddNamesAreNames},
	{"WhatNamesNobodyIsRefused", whatNamesNobodyIsRefused},
}

func aNewConnectionTakesThePlace(t *testing.T, _ *suite, a, b tokenstore.Store) {
	other := account
	other.UserID++
	old, now := connection("c1", "shop-1", account), connection("c2", "shop-1", other)
	require.NoError(t, a.PutConnection(t.Context(), old))
	require.NoError(t, b.PutConnection(t.Context(), now))
	requireConnection(t, now, a, b)
	requireConnections(t, account, nil, a, b)
	requireConnections(t, other, []string{"c2"}, a, b)

	back := connection("c3", "shop-1", account)
	require.NoError(t, a.PutConnection(t.Context(), back))
	requireConnection(t, back, a, b)
	requireConnections(t, account, []string{"c3"}, a, b)
	requireConnections(t, other, nil, a, b)
}

func theConnectionsOfAnAccount(t *testing.T, _ *suite, a, b tokenstore.Store) {
	test := account
	test.Live = false
	here := connection("here", "shop-1", account)
	too := connection("too", "shop-2", account)
	elsewhere := connection("elsewhere", "shop-1", account)
	elsewhere.Application = ""
	ended := connection("ended", "shop-3", account)
	moved := connection("moved", "shop-4", account)
	away := connection("away", "shop-4", test)
	for _, c := range []tokenstore.Connection{here, too, elsewhere, ended, moved, away} {
		require.NoError(t, a.PutConnection(t.Context(), c))
	}
	require.NoError(t, b.DeleteConnection(t.Context(), ended))
	requireConnections(t, account, []string{"here", "too", "elsewhere"}, a, b)
	requireConnections(t, test, []string{"away"}, a, b)
	requireConnection(t, elsewhere, a, b)
}

// oddNamesAreNames gives each odd name, as an application and as a seller, a
// connection of its own, and ends every second one: no other may be touched.
func oddNamesAreNames(t *testing.T, _ *suite, a, b tokenstore.Store) {
	var all []tokenstore.Connection
	for i, name := range oddNames() {
		id := account
		id.ClientID, id.UserID = name, int64(i+1)
		as := connection("seller "+name, name, id)
		of := connection("application "+name, "shop-1", id)
		of.Application = name
		all = append(all, as, of)
	}
	for _, c := range all {
		require.NoError(t, a.PutConnection(t.Context(), c))
		require.NoError(t, a.AddPair(t.Context(), c.Account, pair(1, 0, "of")))
	}
	for i, c := range all {
		requireConnection(t, c, b)
		if i%2 == 0 {
			require.NoError(t, b.DeleteConnection(t.Context(), c))
		}
	}
	for i, c := range all {
		if i%2 == 0 {
			requireNoConnection(t, c.Application, c.Seller, a)
			continue
		}
		requireConnection(t, c, a)
		requireConnections(t, c.Account, []string{c.ID}, a)
		requirePairs(t, c.Account, []tokenstore.Pair{pair(1, 0, "of")}, a)
	}
}

func whatNamesNobodyIsRefused(t *testing.T, _ *suite, a, _ tokenstore.Store) {
	kept := connection("kept", "shop-1", account)
	require.NoError(t, a.PutConnection(t.Context(), kept))
	require.NoError(t, a.AddPair(t.Context(), account, pair(1, 0, "kept")))

	_, err := a.Connection(t.Context(), kept.Application, "")
	require.Error(t, err)
	require.NotErrorIs(t, err, tokenstore.ErrNotFound)
	for name, change := range map[string]func(*tokenstore.Connection){
		"no seller":    func(c *tokenstore.Connection) { c.Seller = "" },
		"no id":        func(c *tokenstore.Connection) { c.ID = "" },
		"no client id": func(c *tokenstore.Connection) { c.Account.ClientID = "" },
		"no user id":   func(c *tokenstore.Connection) { c.Account.UserID = 0 },
	} {
		c := kept
		change(&c)
		require.Error(t, a.PutConnection(t.Context(), c), name)
		require.Error(t, a.DeleteConnection(t.Context(), c), name)
	}
	for _, nobody := range []tokenstore.AccountID{{}, {UserID: 1}, {ClientID: "1"}, {ClientID: "1", UserID: -1}} {
		_, err := a.Account(t.Context(), nobody)
		require.Error(t, err)
		_, err = a.Connections(t.Context(), nobody)
		require.Error(t, err)
		_, err = a.Lock(t.Context(), nobody)
		require.Error(t, err)
		require.Error(t, a.AddPair(t.Context(), nobody, pair(1, 0, "x")))
		require.Error(t, a.DeletePairs(t.Context(), nobody, pair(1, 0, "x").PairID))
		require.Error(t, a.PutTombstone(t.Context(), nobody, 1))
	}
	require.Error(t, a.Consume(t.Context(), "", moment))
	requireConnection(t, kept, a)
	requirePairs(t, account, []tokenstore.Pair{pair(1, 0, "kept")}, a)
}
