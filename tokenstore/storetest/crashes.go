package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// errCrash is what every step says after the crash.
var errCrash = errors.New("crashed")

// mostSteps bounds the steps that a change or a reading may take.
const mostSteps = 200

type opener func(t *testing.T, step func() error) (stepping, other tokenstore.Store)

// RunSteps goes through what an instance does step by step. A crash at any of
// them leaves the old state or the new one, never neither; and a reader that
// another instance meets between any two of them sees the old state or the new
// one, never neither.
//
// open returns two instances of one new, empty store. The first calls step
// before each thing it does to what lies below, but for releasing a lock (the
// dead hold none for long), and does not do it where step returns an error.
func RunSteps(t *testing.T, open func(t *testing.T, step func() error) (stepping, other tokenstore.Store)) {
	t.Helper()
	for _, c := range slices.Concat(crashes, movedCrashes) {
		t.Run(c.name, func(t *testing.T) { die(t, c, open) })
	}
	for _, m := range meetings {
		t.Run(m.name, func(t *testing.T) { meet(t, m, open) })
	}
}

// die crashes at every step of a change.
func die(t *testing.T, c crash, open opener) {
	t.Helper()
	for n := 0; ; n++ {
		require.Less(t, n, mostSteps, "the change never comes to its end")
		left := -1
		ctx, cancel := context.WithCancel(t.Context())
		crashing, other := open(t, func() error {
			if left == 0 {
				cancel()
				return errCrash
			}
			left--
			return nil
		})
		c.before(t, crashing)
		left = n
		err := c.change(ctx, crashing)
		cancel()
		if err != nil {
			require.True(t, errors.Is(err, errCrash) || errors.Is(err, context.Canceled), "%v", err)
		}
		c.after(t, other, err == nil, when("crashed", n))
		require.NoError(t, c.change(t.Context(), other), "what crashed is done again, %s", when("crashed", n))
		c.after(t, other, true, when("done again after it crashed", n))
		if err == nil {
			return
		}
	}
}

func when(what string, step int) string { return fmt.Sprintf("%s at step %d", what, step) }

// crash is a change in the midst of which an instance dies.
type crash struct {
	name   string
	before func(t *testing.T, store tokenstore.Store)
	change func(ctx context.Context, store tokenstore.Store) error
	// after checks what another instance then sees; done tells whether the
	// change was reported as done.
	after func(t *testing.T, store tokenstore.Store, done bool, when string)
}

var (
	crashOld = pair(1, 0, "old")
	crashNew = pair(1, 1, "new")
	wasHere  = connection("old", "shop-1", account)
	isThere  = connection("new", "shop-1", tokenstore.AccountID{ClientID: "2", UserID: 2})
)

var crashes = []crash{
	{
		name: "ARefreshLeavesTheOldPairOrTheNewOne",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.AddPair(t.Context(), account, crashOld))
		},
		change: func(ctx context.Context, store tokenstore.Store) error {
			if err := store.AddPair(ctx, account, crashNew); err != nil {
				return err
			}
			return store.DeletePairs(ctx, account, crashOld.PairID)
		},
		after: func(t *testing.T, store tokenstore.Store, done bool, when string) {
			got := load(t, store, account)
			living := got.Living()
			require.NotEmpty(t, living, when)
			if done {
				require.Len(t, living, 1, when)
				requireSamePair(t, crashNew, living[0])
			}
		},
	},
	{
		name:   "APairThatWasReportedAsAddedIsThere",
		before: func(*testing.T, tokenstore.Store) {},
		change: func(ctx context.Context, store tokenstore.Store) error { return store.AddPair(ctx, account, crashNew) },
		after: func(t *testing.T, store tokenstore.Store, done bool, when string) {
			pairs := load(t, store, account).Pairs
			if done {
				require.Len(t, pairs, 1, when)
			}
			for _, p := range pairs {
				requireSamePair(t, crashNew, p)
			}
		},
	},
	{
		name: "ASwitchLeavesTheOldConnectionOrTheNewOne",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.PutConnection(t.Context(), wasHere))
		},
		change: func(ctx context.Context, store tokenstore.Store) error { return store.PutConnection(ctx, isThere) },
		after: func(t *testing.T, store tokenstore.Store, done bool, when string) {
			c, err := store.Connection(t.Context(), wasHere.Application, wasHere.Seller)
			require.NoError(t, err, when)
			if done || c.ID == isThere.ID {
				requireConnection(t, isThere, store)
				requireConnections(t, isThere.Account, []string{isThere.ID}, store)
				requireConnections(t, wasHere.Account, nil, store)
				return
			}
			requireConnection(t, wasHere, store)
			requireConnections(t, wasHere.Account, []string{wasHere.ID}, store)
			requireConnections(t, isThere.Account, nil, store)
		},
	},
	{
		name: "ADisconnectLeavesTheConnectionOrNone",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.PutConnection(t.Context(), wasHere))
			require.NoError(t, store.PutConnection(t.Context(), connection("other", "shop-2", account)))
		},
		change: func(ctx context.Context, store tokenstore.Store) error { return store.DeleteConnection(ctx, wasHere) },
		after: func(t *testing.T, store tokenstore.Store, done bool, when string) {
			_, err := store.Connection(t.Context(), wasHere.Application, wasHere.Seller)
			if err == nil && !done {
				requireConnections(t, account, []string{"old", "other"}, store)
				return
			}
			require.ErrorIs(t, err, tokenstore.ErrNotFound, when)
			requireConnections(t, account, []string{"other"}, store)
		},
	},
	{
		name: "ATombstoneIsTheOldOneOrTheNewOne",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.PutTombstone(t.Context(), account, 2))
		},
		change: func(ctx context.Context, store tokenstore.Store) error { return store.PutTombstone(ctx, account, 3) },
		after: func(t *testing.T, store tokenstore.Store, done bool, when string) {
			got := load(t, store, account).Tombstone
			require.True(t, got == 3 || got == 2 && !done, "%d %s", got, when)
		},
	},
	{
		name: "AVerdictIsTheOldOneOrTheNewOne",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.AddPair(t.Context(), account, crashOld))
			require.NoError(t, store.PutVerdict(t.Context(), account, tokenstore.Verdict{Pair: crashOld.Hash, Reason: "old", At: moment}))
		},
		change: func(ctx context.Context, store tokenstore.Store) error {
			return store.PutVerdict(ctx, account, tokenstore.Verdict{Pair: crashOld.Hash, Reason: "new", At: moment})
		},
		after: func(t *testing.T, store tokenstore.Store, done bool, when string) {
			verdicts := load(t, store, account).Verdicts
			require.Len(t, verdicts, 1, when)
			require.True(t, verdicts[0].Reason == "new" || verdicts[0].Reason == "old" && !done, when)
		},
	},
	{
		name: "ADeadPairNeverRisesWhileItIsDeleted",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.AddPair(t.Context(), account, crashOld))
			require.NoError(t, store.PutVerdict(t.Context(), account, tokenstore.Verdict{Pair: crashOld.Hash, Reason: "dead", At: moment}))
		},
		change: func(ctx context.Context, store tokenstore.Store) error {
			return store.DeletePairs(ctx, account, crashOld.PairID)
		},
		after: func(t *testing.T, store tokenstore.Store, done bool, when string) {
			got := load(t, store, account)
			require.Empty(t, got.Living(), when)
			if done {
				require.Empty(t, got.Pairs, when)
			}
		},
	},
	{
		name: "AnIntentIsTheOldOneOrTheRenewedOne",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.PutIntent(t.Context(), account, crashIntent(moment)))
		},
		change: func(ctx context.Context, store tokenstore.Store) error {
			return store.PutIntent(ctx, account, crashIntent(moment.Add(time.Minute)))
		},
		after: func(t *testing.T, store tokenstore.Store, done bool, when string) {
			intents := load(t, store, account).Intents
			require.Len(t, intents, 1, when)
			require.True(t, !done || intents[0].At.After(moment), when)
		},
	},
	{
		name:   "AStateThatWasReportedAsConsumedIsConsumed",
		before: func(*testing.T, tokenstore.Store) {},
		change: func(ctx context.Context, store tokenstore.Store) error {
			err := store.Consume(ctx, "state", time.Now().Add(time.Hour))
			if errors.Is(err, tokenstore.ErrConsumed) {
				return nil
			}
			return err
		},
		after: func(t *testing.T, store tokenstore.Store, done bool, when string) {
			if done {
				require.ErrorIs(t, store.Consume(t.Context(), "state", time.Now().Add(time.Hour)), tokenstore.ErrConsumed, when)
			}
		},
	},
}

func crashIntent(at time.Time) tokenstore.Intent {
	return tokenstore.Intent{Pair: crashOld.Hash, Instance: "i", Nonce: "n", At: at}
}
