package storetest

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

var lockPromises = []promise{
	{"OneAccountsLockHoldsUpNoOther", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		for _, id := range []tokenstore.AccountID{
			account,
			{ClientID: account.ClientID, UserID: account.UserID},
			{ClientID: account.ClientID + "4", UserID: 294_967_299, Live: true},
			{ClientID: account.ClientID[1:], UserID: account.UserID, Live: true},
			{ClientID: "a", UserID: 1},
			{ClientID: "A", UserID: 1},
			{ClientID: "a/", UserID: 1},
		} {
			for _, store := range []tokenstore.Store{a} {
				held, err := store.Lock(t.Context(), id)
				require.NoError(t, err)
				defer func() { require.NoError(t, held.Unlock(t.Context())) }()
			}
		}
	}},
	{"ALockIsWaitedForUntilTheContextIsDone", aLockIsWaitedFor},
	{"ALockIsReleasedByAContextThatIsDone", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		ctx, cancel := context.WithCancel(t.Context())
		held, err := a.Lock(ctx, account)
		require.NoError(t, err)
		cancel()
		require.NoError(t, held.Unlock(ctx))
		again, err := b.Lock(t.Context(), account)
		require.NoError(t, err)
		require.NoError(t, again.Unlock(t.Context()))
	}},
	{"ALockIsReleasedOnceOnly", func(t *testing.T, s *suite, a, b tokenstore.Store) {
		first, err := a.Lock(t.Context(), account)
		require.NoError(t, err)
		require.NoError(t, first.Unlock(t.Context()))
		second, err := b.Lock(t.Context(), account)
		require.NoError(t, err)
		_ = first.Unlock(t.Context())
		if s.exclusive {
			requireLocked(t, a)
		}
		require.NoError(t, second.Unlock(t.Context()))
	}},
	{"NoTwoHoldTheLock", func(t *testing.T, s *suite, a, b tokenstore.Store) {
		var inside, most atomic.Int32
		requireAllNil(t, atOnce(8, func(i int) error {
			return locked(t.Context(), []tokenstore.Store{a, b}[i%2], account, func() error {
				most.Store(max(most.Load(), inside.Add(1)))
				_, err := a.Account(t.Context(), account)
				inside.Add(-1)
				return err
			})
		}))
		if s.exclusive {
			require.Equal(t, int32(1), most.Load())
		}
	}},
	{"AStateIsConsumedOnce", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		until := time.Now().Add(time.Hour)
		for _, state := range oddNames() {
			require.NoError(t, a.Consume(t.Context(), state, until), "state %.20q", state)
		}
		for _, state := range oddNames() {
			require.ErrorIs(t, a.Consume(t.Context(), state, until), tokenstore.ErrConsumed)
			require.ErrorIs(t, b.Consume(t.Context(), state, until), tokenstore.ErrConsumed)
		}
	}},
	{"AStateIsConsumedOnceByFiftyAtOnce", aStateIsConsumedOnceByFifty},
}

// requireLocked checks that the account's lock is not to be had.
func requireLocked(t *testing.T, store tokenstore.Store) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := store.Lock(ctx, account)
	require.ErrorIs(t, err, context.DeadlineExceeded)
}

func aLockIsWaitedFor(t *testing.T, s *suite, a, b tokenstore.Store) {
	held, err := a.Lock(t.Context(), account)
	require.NoError(t, err)
	if !s.exclusive {
		require.NoError(t, held.Unlock(t.Context()))
		return
	}
	requireLocked(t, a) // it is not re-entrant
	requireLocked(t, b)
	waiting := make(chan error, 1)
	go func() { waiting <- locked(t.Context(), b, account, func() error { return nil }) }()
	requireLocked(t, a)
	select {
	case err := <-waiting:
		require.Fail(t, "the other instance did not wait", "%v", err)
	default:
	}
	require.NoError(t, held.Unlock(t.Context()))
	require.NoError(t, <-waiting)
}

func aStateIsConsumedOnceByFifty(t *testing.T, s *suite, a, b tokenstore.Store) {
	consume := func(state string, stores ...tokenstore.Store) (times int) {
		for _, err := range atOnce(50, func(i int) error {
			return stores[i%len(stores)].Consume(t.Context(), state, time.Now().Add(time.Hour))
		}) {
			if err == nil {
				times++
				continue
			}
			require.ErrorIs(t, err, tokenstore.ErrConsumed)
		}
		return times
	}
	require.Equal(t, 1, consume("of one instance", a))
	times := consume("of two instances", a, b)
	if s.exclusive {
		require.Equal(t, 1, times)
		return
	}
	require.GreaterOrEqual(t, times, 1)
	require.LessOrEqual(t, times, 2, "once per instance at the most")
}

var contextPromises = []promise{
	{"NothingIsDoneWithAContextThatIsDone", nothingIsDone},
}

func nothingIsDone(t *testing.T, _ *suite, a, b tokenstore.Store) {
	c, p := connection("c1", "shop-1", account), pair(1, 0, "x")
	intent := tokenstore.Intent{Pair: p.Hash, Instance: "i", Nonce: "n", At: moment}
	mark := tokenstore.Mark{Connection: "c1", Authorization: 1, At: moment}
	require.NoError(t, a.PutConnection(t.Context(), c))
	require.NoError(t, a.AddPair(t.Context(), account, p))
	require.NoError(t, a.PutIntent(t.Context(), account, intent))
	require.NoError(t, a.PutMark(t.Context(), account, mark))
	before := load(t, b, account)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, connErr := a.Connection(ctx, c.Application, c.Seller)
	_, listErr := a.Connections(ctx, account)
	_, readErr := a.Account(ctx, account)
	_, lockErr := a.Lock(ctx, account)
	for name, err := range map[string]error{
		"Connection":       connErr,
		"Connections":      listErr,
		"Account":          readErr,
		"Lock":             lockErr,
		"PutConnection":    a.PutConnection(ctx, connection("c2", "shop-1", account)),
		"DeleteConnection": a.DeleteConnection(ctx, c),
		"AddPair":          a.AddPair(ctx, account, pair(1, 1, "y")),
		"DeletePairs":      a.DeletePairs(ctx, account, p.PairID),
		"PutIntent":        a.PutIntent(ctx, account, tokenstore.Intent{Pair: p.Hash, Instance: "j", At: moment}),
		"DeleteIntent":     a.DeleteIntent(ctx, account, intent),
		"PutVerdict":       a.PutVerdict(ctx, account, tokenstore.Verdict{Pair: p.Hash, Reason: "x", At: moment}),
		"PutMark":          a.PutMark(ctx, account, tokenstore.Mark{Connection: "c2", At: moment}),
		"DeleteMark":       a.DeleteMark(ctx, account, mark),
		"PutTombstone":     a.PutTombstone(ctx, account, 5),
		"Consume":          a.Consume(ctx, "state", moment),
	} {
		require.ErrorIs(t, err, context.Canceled, name)
		require.NotErrorIs(t, err, tokenstore.ErrNotFound, name)
	}
	requireConnection(t, c, a, b)
	after := load(t, b, account)
	require.Equal(t, before.Intents, after.Intents)
	require.Equal(t, before.Marks, after.Marks)
	require.Empty(t, after.Verdicts)
	require.Zero(t, after.Tombstone)
	requirePairs(t, account, []tokenstore.Pair{p}, a, b)
	require.NoError(t, b.Consume(t.Context(), "state", time.Now().Add(time.Hour)))
}
