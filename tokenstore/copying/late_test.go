package copying_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/copying"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// The source goes on between a crash and the next run: what it was given meanwhile
// is what is moved.
func TestWhatTheSourceDidAfterACrashIsWhatIsMoved(t *testing.T) {
	ctx, id := context.Background(), account(0)
	for name, c := range map[string]struct {
		goesOn      func(w *world)
		pairs       []string
		connections []string
	}{
		"it refreshed": {func(w *world) {
			w.add(w.from, id, newPair(1, 1, "next"))
			require.NoError(w.t, w.from.DeletePairs(ctx, id, newPair(1, 0, "first").PairID))
		}, []string{"1.1 next"}, []string{"c=shop"}},
		"it was given a consent": {func(w *world) {
			w.add(w.from, id, newPair(2, 0, "consent"))
		}, []string{"1.0 first", "2.0 consent"}, []string{"c=shop"}},
		"the seller connected again": {func(w *world) {
			again := connection("c", "shop", id)
			again.Authorization = 2
			w.add(w.from, id, newPair(2, 0, "consent"))
			w.connect(w.from, again)
		}, []string{"1.0 first", "2.0 consent"}, []string{"c=shop"}},
		"it disconnected": {func(w *world) {
			w.end(w.from, connection("c", "shop", id))
			require.NoError(w.t, w.from.PutTombstone(ctx, id, 1))
			require.NoError(w.t, w.from.DeletePairs(ctx, id, newPair(1, 0, "first").PairID))
		}, []string{}, []string{}},
		"another seller connected": {func(w *world) {
			w.connect(w.from, connection("d", "shop-2", id))
		}, []string{"1.0 first"}, []string{"c=shop", "d=shop-2"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := copiedAndCrashed(t, id)
			c.goesOn(w)
			w.copy()
			w.requireMoved(w.from, w.to, id, "new")
			require.Equal(t, c.pairs, w.pairs(w.to, id))
			require.ElementsMatch(t, c.connections, w.connections(w.to, id))
		})
	}
}

// copiedAndCrashed is an account that was copied, and not handed over.
func copiedAndCrashed(t *testing.T, id tokenstore.AccountID) *world {
	t.Helper()
	w := newWorld(t)
	w.add(w.from, id, newPair(1, 0, "first"))
	w.connect(w.from, connection("c", "shop", id))
	o := w.options()
	o.From.Store = hook(w.from, func(op string, _ bool) error {
		if op == "PutMoved" {
			return errCrash
		}
		return nil
	})
	_, err := copying.Run(context.Background(), o)
	require.ErrorContains(t, err, "1 of 1 accounts could not be moved")
	require.Equal(t, []string{"1.0 first"}, w.pairs(w.to, id))
	require.NotNil(t, w.read(w.to, id).Moved)
	return w
}

// Back to where everything was, after a crash: what the target had of its own comes
// along, and what it had been given does not come back.
func TestARunTheOtherWayAfterACrashBringsWhatIsNewAndNothingElse(t *testing.T) {
	t.Run("the target was in charge", func(t *testing.T) {
		w, id := newWorld(t), account(0)
		w.add(w.from, id, newPair(1, 0, "first"))
		w.copy()
		w.connect(w.to, connection("new", "shop-new", id))
		w.add(w.from, id, newPair(2, 0, "late"))
		o := w.options()
		o.From.Store = hook(w.from, func(op string, _ bool) error {
			if op == "PutMoved" {
				return errCrash
			}
			return nil
		})
		_, err := copying.Run(t.Context(), o)
		require.Error(t, err)
		w.back()
		require.Equal(t, []string{"new=shop-new"}, w.connections(w.from, id))
		require.Nil(t, w.read(w.from, id).Moved)
	})
	t.Run("the target was not in charge", func(t *testing.T) {
		id := account(0)
		w := copiedAndCrashed(t, id)
		w.connect(w.from, connection("d", "shop", account(1)))
		w.end(w.from, connection("d", "shop", account(1)))
		w.back()
		require.Empty(t, w.connections(w.from, id), "the seller had switched, and disconnected")
		require.Nil(t, w.read(w.from, id).Moved)
	})
}

// A source that was restored from a back-up shows nothing that replaced the pair.
func TestAPairThatTheSourceOnlyLostIsKept(t *testing.T) {
	id := account(0)
	w := copiedAndCrashed(t, id)
	require.NoError(t, w.from.DeletePairs(t.Context(), id, newPair(1, 0, "first").PairID))
	w.copy()
	require.Equal(t, []string{"1.0 first"}, w.pairs(w.to, id))
}

func TestNothingIsDeletedBeforeWhatReplacedItWasReadBack(t *testing.T) {
	id := account(0)
	w := copiedAndCrashed(t, id)
	w.add(w.from, id, newPair(1, 1, "next"))
	require.NoError(t, w.from.DeletePairs(t.Context(), id, newPair(1, 0, "first").PairID))
	to, skipped := w.to, false
	w.to = hook(to, func(op string, after bool) error {
		switch {
		case op == "AddPair" && !after && !skipped:
			skipped = true
			return errSkipped
		case op == "DeletePairs" && after:
			require.NotEmpty(t, w.pairs(to, id))
		}
		return nil
	})
	w.copy()
	require.True(t, skipped)
	require.Equal(t, []string{"1.1 next"}, w.pairs(to, id))
}

func TestWhatCameLateIsBroughtOverOnceAndNothingElse(t *testing.T) {
	w, ctx, id := newWorld(t), context.Background(), account(0)
	w.add(w.from, id, newPair(1, 0, "first"))
	w.connect(w.from, connection("c", "shop", id), connection("d", "shop-2", id))
	mark := tokenstore.Mark{Connection: "gone", Authorization: 1, At: moment}
	require.NoError(t, w.from.PutMark(ctx, id, mark))
	w.copy()
	// The target goes on: it tidies up, refreshes, a seller connects with another account and
	// disconnects that.
	require.NoError(t, w.to.DeleteMark(ctx, id, mark))
	w.add(w.to, id, newPair(1, 1, "next"))
	require.NoError(t, w.to.DeletePairs(ctx, id, newPair(1, 0, "first").PairID))
	w.connect(w.to, connection("e", "shop-2", account(1)))
	w.end(w.to, connection("e", "shop-2", account(1)))
	// A consent was saved to the source all the same.
	w.add(w.from, id, newPair(2, 0, "late"))

	done := w.copy()
	require.Equal(t, copying.Summary{Accounts: 1, Seen: 1, Late: 1, Pairs: 1}, done)
	require.Equal(t, []string{"1.1 next", "2.0 late"}, w.pairs(w.to, id), "what the target replaced does not come back")
	require.Equal(t, []string{"c=shop"}, w.connections(w.to, id), "nor whom it disconnected")
	require.Empty(t, w.read(w.to, id).Marks)

	// The target refreshes that too: it does not come back either.
	w.add(w.to, id, newPair(2, 1, "last"))
	require.NoError(t, w.to.DeletePairs(ctx, id, newPair(1, 1, "next").PairID, newPair(2, 0, "late").PairID))
	require.Equal(t, 1, w.copy().Unchanged)
	require.Equal(t, []string{"2.1 last"}, w.pairs(w.to, id))
}

// A crash between the two writes that bring a late pair, and a target that goes on
// then, must not have the pair posted again.
func TestALatePairIsNobodysToPostUntilTheSourceHasHandedItOver(t *testing.T) {
	w, id := newWorld(t), account(0)
	w.add(w.from, id, newPair(1, 0, "first"))
	w.copy()
	w.add(w.from, id, newPair(2, 0, "late"))
	from := w.from
	w.from = hook(from, func(op string, _ bool) error {
		if op == "PutMoved" {
			return errCrash
		}
		return nil
	})
	_, err := copying.Run(t.Context(), w.options())
	require.Error(t, err)
	require.NotNil(t, w.read(w.to, id).Moved)
	w.from = from
	w.copy()
	w.requireMoved(w.from, w.to, id, "new")
	require.Equal(t, []string{"1.0 first", "2.0 late"}, w.pairs(w.to, id))
}

func TestAConnectionThatWasEndedLateIsEndedInTheTargetUnlessItWasMadeAnewThere(t *testing.T) {
	for name, anew := range map[string]bool{"ended": false, "made anew": true} {
		t.Run(name, func(t *testing.T) {
			w, id := newWorld(t), account(0)
			c := connection("c", "shop", id)
			w.add(w.from, id, newPair(1, 0, "first"))
			w.connect(w.from, c)
			w.copy()
			w.end(w.from, c)
			if anew {
				again := c
				again.Authorization = 2
				w.add(w.to, id, newPair(2, 0, "second"))
				w.connect(w.to, again)
			}
			done := w.copy()
			if anew {
				require.Zero(t, done.Ended)
				require.Equal(t, []string{"c=shop"}, w.connections(w.to, id))
				return
			}
			require.Equal(t, 1, done.Ended)
			require.Empty(t, w.connections(w.to, id))
		})
	}
}

// A connection that is replaced in the source is replaced in the target, whichever
// account is moved first.
func TestASellerWhoSwitchedBetweenTwoRunsHasTheNewAccount(t *testing.T) {
	w := newWorld(t)
	for i := range 6 {
		w.add(w.from, account(i), newPair(1, 0, "x"))
	}
	w.connect(w.from, connection("c", "shop", account(2)))
	w.copy()
	for i := range 6 {
		require.NoError(t, w.from.DeleteMoved(t.Context(), account(i)), "as if the first run had ended before")
		require.NoError(t, w.to.PutMoved(t.Context(), account(i), tokenstore.Moved{To: "old", Done: true}))
	}
	next := connection("d", "shop", account(4))
	next.CreatedAt = moment.Add(time.Minute)
	w.connect(w.from, next)
	w.copy()
	require.Empty(t, w.connections(w.to, account(2)))
	require.Equal(t, []string{"d=shop"}, w.connections(w.to, account(4)))
}

func TestWhatTheSourceEndedGivesWayWhateverTheClocksSay(t *testing.T) {
	id := account(0)
	w := copiedAndCrashed(t, id)
	next := connection("d", "shop", id)
	next.CreatedAt = moment.Add(-time.Minute)
	w.end(w.from, connection("c", "shop", id))
	w.connect(w.from, next)
	// The old one is of another account in the target, whose turn comes later.
	w.add(w.from, account(1), newPair(1, 0, "other"))
	w.connect(w.to, connection("c", "shop", account(1)))
	o := w.options()
	o.Parallel = 1
	_, err := copying.Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, []string{"d=shop"}, w.connections(w.to, id))
}

func TestATokenRequestThatIsUnderWayIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, id := newWorld(t), account(0)
		first, next := newPair(1, 0, "first"), newPair(1, 1, "next")
		w.add(w.from, id, first)
		intent := tokenstore.Intent{Pair: first.Hash, Instance: "i", Nonce: "n", At: time.Now()}
		require.NoError(t, w.from.PutIntent(t.Context(), id, intent))
		go func() {
			// Less than it may take, and not at the moment of one of the looks.
			<-time.After(40*time.Second + 100*time.Millisecond)
			_ = w.from.AddPair(context.Background(), id, next)
			_ = w.from.DeletePairs(context.Background(), id, first.PairID)
			_ = w.from.DeleteIntent(context.Background(), id, intent)
		}()
		begun := time.Now()
		w.copy()
		require.GreaterOrEqual(t, time.Since(begun), 40*time.Second)
		require.Less(t, time.Since(begun), time.Minute)
		w.requireMoved(w.from, w.to, id, "new")
		require.Equal(t, []string{"1.1 next"}, w.pairs(w.to, id))
	})
}

// One that nobody renews has an unknown outcome; one that is renewed all the time is
// of an instance that cannot save its pair.
func TestATokenRequestThatDoesNotEndIsMovedAsUnknownOrLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, id := newWorld(t), account(0)
		first := newPair(1, 0, "first")
		w.add(w.from, id, first)
		intent := tokenstore.Intent{Pair: first.Hash, Instance: "i", Nonce: "n", At: time.Now().UTC()}
		require.NoError(t, w.from.PutIntent(t.Context(), id, intent))
		stop := make(chan struct{})
		go func() {
			for again := intent; ; {
				select {
				case <-stop:
					return
				case <-time.After(10 * time.Second):
				}
				again.At = time.Now().UTC()
				_ = w.from.PutIntent(context.Background(), id, again)
			}
		}()
		_, err := copying.Run(t.Context(), w.options())
		require.Error(t, err)
		require.NotNil(t, w.read(w.from, id).Moved, "nobody posts it")
		require.NotNil(t, w.read(w.to, id).Moved)
		close(stop)
		synctest.Wait()
		begun := time.Now()
		w.copy()
		require.GreaterOrEqual(t, time.Since(begun), time.Minute)
		w.requireMoved(w.from, w.to, id, "new")
		require.Len(t, w.read(w.to, id).Intents, 1)
	})
}

func TestTwoRunsThatWouldMoveItBothWaysLeaveOneStoreInCharge(t *testing.T) {
	random := &chance{random: sample.Rand(t, 0)}
	synctest.Test(t, func(t *testing.T) {
		open := func() tokenstore.Store { return caddystorage.New(random.slowly(storetest.NewMemory()), keyring(t)) }
		w := &world{t: t, from: open(), to: open()}
		ids := w.fill()
		w.copy()
		for range 10 {
			// As a crash leaves it: nobody is in charge, and either could be.
			for _, id := range ids {
				a, b := w.read(w.from, id), w.read(w.to, id)
				require.NoError(t, w.from.PutMoved(t.Context(), id, tokenstore.Moved{To: "new", Done: true, Pairs: numbers(a.Pairs)}))
				require.NoError(t, w.to.PutMoved(t.Context(), id, tokenstore.Moved{To: "old", Done: true, Pairs: numbers(b.Pairs)}))
			}
			var runs sync.WaitGroup
			runs.Go(func() { w.copy() })
			runs.Go(func() { w.back() })
			runs.Wait()
			for _, id := range ids {
				a, b := w.read(w.from, id), w.read(w.to, id)
				require.False(t, a.Moved == nil && b.Moved == nil && len(a.Living())*len(b.Living()) > 0, "both are in charge of %s", id)
				require.False(t, a.Moved != nil && b.Moved != nil, "nobody is in charge of %s", id)
			}
		}
	})
}

func numbers(pairs []tokenstore.Pair) (ids []tokenstore.PairID) {
	for _, p := range pairs {
		ids = append(ids, p.PairID)
	}
	return ids
}
