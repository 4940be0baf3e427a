package storetest

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

var walkPromises = []promise{
	{"AnEmptyStoreHasNoAccountsAndNothingToCleanUp", func(t *testing.T, _ *suite, a, _ tokenstore.Store) {
		ids, next, err := a.Accounts(t.Context(), "", 10)
		require.NoError(t, err)
		require.Empty(t, ids)
		require.Empty(t, next)
		next, err = a.CleanUp(t.Context(), moment, "", 10)
		require.NoError(t, err)
		require.Empty(t, next)
	}},
	{"AWalkMeetsEveryAccountOnceWhateverItsPace", everyAccountIsMet},
	{"AWalkMeetsWhatStaysWhileOthersComeAndGo", whatStaysIsMet},
	{"AConsumedStateIsForgottenADayAfterItsTimeAndNotBefore", statesAreForgotten},
	{"CleaningUpBringsNoEndedConnectionBack", endedStaysEnded},
}

// walk goes through all accounts in steps of n.
func walk(t *testing.T, store tokenstore.Store, n int, between func()) (all []tokenstore.AccountID) {
	t.Helper()
	for after, steps := "", 0; ; steps++ {
		require.Less(t, steps, 1000, "the walk never ends")
		ids, next, err := store.Accounts(t.Context(), after, n)
		require.NoError(t, err)
		require.LessOrEqual(t, len(ids), n)
		all = append(all, ids...)
		if next == "" {
			return all
		}
		require.NotEqual(t, after, next)
		after = next
		between()
	}
}

func cleanUp(t *testing.T, store tokenstore.Store, now time.Time) {
	t.Helper()
	for after, steps := "", 0; ; steps++ {
		require.Less(t, steps, 1000, "cleaning up never ends")
		next, err := store.CleanUp(t.Context(), now, after, 2)
		require.NoError(t, err)
		if next == "" {
			return
		}
		after = next
	}
}

func everyAccountIsMet(t *testing.T, _ *suite, a, b tokenstore.Store) {
	var want []tokenstore.AccountID
	for i, name := range oddNames() {
		for _, live := range []bool{true, false} {
			id := tokenstore.AccountID{ClientID: name, UserID: int64(i+1) << 31, Live: live}
			want = append(want, id)
			require.NoError(t, a.AddPair(t.Context(), id, pair(1, 0, fmt.Sprint(i))))
			require.NoError(t, a.AddPair(t.Context(), id, pair(1, 1, fmt.Sprint(i))))
		}
	}
	for _, n := range []int{1, 2, 7, len(want), 10 * len(want)} {
		for _, store := range []tokenstore.Store{a, b} {
			require.ElementsMatch(t, want, walk(t, store, n, func() {}), "in steps of %d", n)
		}
	}
}

func whatStaysIsMet(t *testing.T, _ *suite, a, b tokenstore.Store) {
	id := func(i int) tokenstore.AccountID {
		return tokenstore.AccountID{ClientID: "1", UserID: int64(1000 + i), Live: true}
	}
	for i := range 20 {
		require.NoError(t, a.AddPair(t.Context(), id(i), pair(1, 0, "x")))
	}
	step := 0
	met := walk(t, b, 3, func() {
		require.NoError(t, a.DeletePairs(t.Context(), id(2*step), pair(1, 0, "x").PairID))
		require.NoError(t, a.AddPair(t.Context(), id(100-step), pair(1, 0, "x")))
		step++
	})
	for i := range 20 {
		if i%2 == 1 {
			require.Contains(t, met, id(i))
		}
	}
}

func statesAreForgotten(t *testing.T, s *suite, a, b tokenstore.Store) {
	for i := range 5 {
		require.NoError(t, a.Consume(t.Context(), fmt.Sprint("early", i), moment))
		require.NoError(t, a.Consume(t.Context(), fmt.Sprint("late", i), moment.Add(48*time.Hour)))
	}
	s.settle()
	cleanUp(t, b, moment.Add(23*time.Hour))
	require.ErrorIs(t, a.Consume(t.Context(), "early0", moment), tokenstore.ErrConsumed)
	cleanUp(t, b, moment.Add(25*time.Hour))
	for i := range 5 {
		require.NoError(t, a.Consume(t.Context(), fmt.Sprint("early", i), moment), "its note was deleted")
		require.ErrorIs(t, a.Consume(t.Context(), fmt.Sprint("late", i), moment), tokenstore.ErrConsumed)
	}
}

func endedStaysEnded(t *testing.T, _ *suite, a, b tokenstore.Store) {
	gone, replaced := connection("gone", "shop-1", account), connection("replaced", "shop-2", account)
	young, kept := connection("young", "shop-2", account), connection("kept", "shop-3", account)
	for _, c := range []tokenstore.Connection{gone, replaced, kept} {
		require.NoError(t, a.PutConnection(t.Context(), c))
	}
	require.NoError(t, a.DeleteConnection(t.Context(), gone))
	require.NoError(t, a.DeleteConnection(t.Context(), replaced))
	require.NoError(t, a.PutConnection(t.Context(), young))
	cleanUp(t, b, time.Now())
	require.ErrorIs(t, a.PutConnection(t.Context(), replaced), tokenstore.ErrNotFound, "a day has not passed")
	for range 2 {
		cleanUp(t, b, time.Now().Add(25*time.Hour))
		requireNoConnection(t, "brasil", "shop-1", a, b)
		requireConnection(t, young, a, b)
		requireConnection(t, kept, a, b)
		requireConnections(t, account, []string{"young", "kept"}, a, b)
		require.ErrorIs(t, b.PutConnection(t.Context(), gone), tokenstore.ErrNotFound)
	}
}
