package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

var movedPromises = []promise{
	{"WhereAnAccountMovedIsToldUntilItIsDeleted", whereAnAccountMovedIsTold},
	{"AnEndedConnectionIsToldFromOneThatIsNot", anEndedConnectionIsTold},
}

func whereAnAccountMovedIsTold(t *testing.T, _ *suite, a, b tokenstore.Store) {
	p := pair(1, 0, "x")
	first := tokenstore.Moved{To: "elsewhere", At: moment}
	last := tokenstore.Moved{To: "elsewhere", Pairs: []tokenstore.PairID{p.PairID, pair(2, 7, "y").PairID}, Done: true, At: moment.Add(time.Hour)}
	other := account
	other.UserID++
	require.NoError(t, a.AddPair(t.Context(), account, p))
	require.NoError(t, a.DeleteMoved(t.Context(), account), "what is gone is no error")
	for _, id := range []tokenstore.AccountID{account, other} { // one has no pair
		require.NoError(t, a.PutMoved(t.Context(), id, first))
		require.Equal(t, &first, load(t, b, id).Moved)
		require.NoError(t, b.PutMoved(t.Context(), id, last))
		require.Equal(t, &last, load(t, a, id).Moved)
	}
	requirePairs(t, account, []tokenstore.Pair{p}, a, b)
	require.NoError(t, a.DeleteMoved(t.Context(), account))
	require.NoError(t, b.DeleteMoved(t.Context(), account), "what is gone is no error")
	for _, store := range []tokenstore.Store{a, b} {
		require.Nil(t, load(t, store, account).Moved)
		require.Equal(t, &last, load(t, store, other).Moved)
	}
	requirePairs(t, account, []tokenstore.Pair{p}, a, b)
}

func anEndedConnectionIsTold(t *testing.T, _ *suite, a, b tokenstore.Store) {
	requireEnded := func(c tokenstore.Connection, want bool) {
		t.Helper()
		for _, store := range []tokenstore.Store{a, b} {
			ended, err := store.Ended(t.Context(), c)
			require.NoError(t, err)
			require.Equal(t, want, ended)
		}
	}
	never, first, second := connection("never", "shop-1", account), connection("first", "shop-1", account), connection("second", "shop-1", account)
	require.NoError(t, a.PutConnection(t.Context(), first))
	require.NoError(t, a.PutConnection(t.Context(), second))
	requireEnded(never, false)
	requireEnded(first, false)
	require.NoError(t, b.DeleteConnection(t.Context(), first))
	requireEnded(first, true)
	requireEnded(second, false)
	_, err := a.Ended(t.Context(), tokenstore.Connection{})
	require.Error(t, err)
}

// movedCrashes are changes of where an account moved in the midst of which an
// instance dies.
var movedCrashes = []crash{
	{
		name: "WhereAnAccountMovedIsTheOldOrTheNew",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.PutMoved(t.Context(), account, tokenstore.Moved{To: "old", At: moment}))
		},
		change: func(ctx context.Context, store tokenstore.Store) error {
			return store.PutMoved(ctx, account, tokenstore.Moved{To: "new", At: moment})
		},
		after: func(t *testing.T, store tokenstore.Store, done bool, when string) {
			moved := load(t, store, account).Moved
			require.NotNil(t, moved, when)
			require.True(t, moved.To == "new" || moved.To == "old" && !done, when)
		},
	},
	{
		name: "AnAccountIsMovedOrItIsNot",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.AddPair(t.Context(), account, crashOld))
			require.NoError(t, store.PutMoved(t.Context(), account, tokenstore.Moved{To: "old", At: moment}))
		},
		change: func(ctx context.Context, store tokenstore.Store) error { return store.DeleteMoved(ctx, account) },
		after: func(t *testing.T, store tokenstore.Store, done bool, when string) {
			require.Len(t, load(t, store, account).Pairs, 1, when)
			require.True(t, !done || load(t, store, account).Moved == nil, when)
		},
	},
}
