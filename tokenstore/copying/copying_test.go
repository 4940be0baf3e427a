package copying_test

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/copying"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// newPostgres opens a database of its own on the server that the tests share.
func newPostgres(t *testing.T) tokenstore.Store {
	t.Helper()
	d, err := postgres.Open(postgres.Config{
		DSN: secret.New(postgrestest.Shared(t).DSN()), Schema: "copy_" + strings.ToLower(rand.Text()[:12]),
	})
	require.NoError(t, err)
	t.Cleanup(d.Close)
	s, err := d.Store(t.Context(), keyring(t))
	require.NoError(t, err)
	return s
}

func TestAllThatIsKnownOfAnAccountIsMovedThereAndBack(t *testing.T) {
	for name, open := range map[string]func(*testing.T) tokenstore.Store{
		"to another storage": func(t *testing.T) tokenstore.Store { return newStore(t) },
		"to PostgreSQL":      newPostgres,
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{t: t, from: newStore(t), to: open(t)}
			ids := w.fill()
			done := w.copy()
			require.Equal(t, copying.Summary{Accounts: len(ids), Seen: len(ids), Moved: len(ids), Pairs: 9, Connections: 6}, done)
			for _, id := range ids {
				w.requireMoved(w.from, w.to, id, "new")
			}

			// What happens there meanwhile comes back with the rest.
			next := newPair(1, 1, "renewed there")
			w.add(w.to, ids[0], next)
			require.NoError(t, w.to.DeletePairs(t.Context(), ids[0], newPair(1, 0, "plain").PairID))
			w.end(w.to, connection("c0b", "{env.HOME}/../ä", ids[0]))
			w.connect(w.to, connection("new", "shop-new", ids[0]))
			require.Equal(t, len(ids), w.back().Moved)
			for _, id := range ids {
				if id != ids[3] { // the void pair stays where it was
					require.Equal(t, w.pairs(w.to, id), w.pairs(w.from, id))
				}
				w.requireMoved(w.to, w.from, id, "old")
			}
			require.Equal(t, []string{"1.1 renewed there"}, w.pairs(w.from, ids[0]), "what was replaced there is gone here")
			require.ElementsMatch(t, []string{"c0=shop-0", "new=shop-new"}, w.connections(w.from, ids[0]))
		})
	}
}

func TestToRunItAgainChangesNothingWhereNothingHasChanged(t *testing.T) {
	w := newWorld(t)
	ids := w.fill()
	w.copy()
	for _, store := range []*tokenstore.Store{&w.from, &w.to} {
		*store = hook(*store, func(op string, _ bool) error {
			if op != "Account" && op != "Connections" && op != "Connection" {
				return errors.New("this ought not to be needed: " + op)
			}
			return nil
		})
	}
	require.Equal(t, copying.Summary{Accounts: len(ids), Seen: len(ids), Unchanged: len(ids)}, w.copy())
}

// A crash at any operation, before or after it took place, leaves the source in
// charge, or everything in the target; and never two stores that would both post a
// pair. The next run brings the rest.
func TestACrashAtAnyOperationLosesNothing(t *testing.T) {
	for n := 0; ; n++ {
		w := newWorld(t)
		ids := w.fill()
		from, to, left := w.from, w.to, n
		crash := func(string, bool) error {
			if left == 0 {
				return errCrash
			}
			left--
			return nil
		}
		w.from, w.to = hook(from, crash), hook(to, crash)
		o := w.options()
		o.Parallel, o.Failed = 1, nil
		_, err := copying.Run(t.Context(), o)
		w.from, w.to = from, to
		for _, id := range ids {
			a, b := w.read(from, id), w.read(to, id)
			if b.Moved == nil && len(b.Living()) > 0 {
				w.requireMoved(from, to, id, "new")
			}
			if a.Moved != nil {
				require.Len(t, b.Living(), len(a.Living()), "at operation %d", n)
				require.ElementsMatch(t, w.connections(from, id), w.connections(to, id), "at operation %d", n)
			}
		}
		w.copy()
		for _, id := range ids {
			w.requireMoved(from, to, id, "new")
		}
		if err == nil {
			t.Logf("%d operations", n)
			return
		}
	}
}

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
			w := newWorld(t)
			w.add(w.from, id, newPair(1, 0, "first"))
			w.connect(w.from, connection("c", "shop", id))
			from := w.from
			w.from = hook(from, func(op string, _ bool) error {
				if op == "PutMoved" {
					return errCrash
				}
				return nil
			})
			_, err := copying.Run(ctx, w.options())
			require.ErrorContains(t, err, "1 of 1 accounts could not be moved")
			w.from = from
			require.Equal(t, []string{"1.0 first"}, w.pairs(w.to, id), "it was copied, and not handed over")
			require.NotNil(t, w.read(w.to, id).Moved)

			c.goesOn(w)
			w.copy()
			w.requireMoved(w.from, w.to, id, "new")
			require.Equal(t, c.pairs, w.pairs(w.to, id))
			require.ElementsMatch(t, c.connections, w.connections(w.to, id))
		})
	}
}

func TestWhatCameLateIsBroughtOverOnceAndNothingElse(t *testing.T) {
	w, ctx, id := newWorld(t), context.Background(), account(0)
	w.add(w.from, id, newPair(1, 0, "first"))
	w.connect(w.from, connection("c", "shop", id), connection("d", "shop-2", id))
	w.copy()
	// The target goes on: it refreshes, a seller connects with another account and
	// disconnects that.
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

func TestWhatTheTargetHasOfItsOwnIsKept(t *testing.T) {
	ctx, id := context.Background(), account(0)
	newer := connection("newer", "shop", id)
	newer.CreatedAt = moment.Add(time.Hour)
	for name, c := range map[string]struct {
		has         func(w *world)
		pairs       []string
		connections []string
		tombstone   uint64
	}{
		"a higher pair": {func(w *world) { w.add(w.to, id, newPair(5, 2, "own")) },
			[]string{"5.2 own", "6.0 first", "7.0 second"}, []string{"c=shop"}, 1},
		"a pair of the same number": {func(w *world) { w.add(w.to, id, newPair(3, 0, "own")) },
			[]string{"3.0 own", "4.0 first", "5.0 second"}, []string{"c=shop"}, 1},
		"a pair that the source's tombstone would void": {func(w *world) { w.add(w.to, id, newPair(1, 0, "own")) },
			[]string{"1.0 own", "2.0 first", "3.0 second"}, []string{"c=shop"}, 0},
		"a tombstone that would void the source's": {func(w *world) { require.NoError(w.t, w.to.PutTombstone(ctx, id, 9)) },
			[]string{"10.0 first", "11.0 second"}, []string{"c=shop"}, 9},
		"a newer connection": {func(w *world) { w.connect(w.to, newer) },
			[]string{"2.0 first", "3.0 second"}, []string{"newer=shop"}, 1},
		"an ended connection": {func(w *world) { w.end(w.to, connection("c", "shop", id)) },
			[]string{"2.0 first", "3.0 second"}, []string{}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			require.NoError(t, w.from.PutTombstone(ctx, id, 1))
			w.add(w.from, id, newPair(2, 0, "first"), newPair(3, 0, "second"))
			w.connect(w.from, connection("c", "shop", id))
			c.has(w)
			w.copy()
			require.Equal(t, c.pairs, w.pairs(w.to, id))
			require.ElementsMatch(t, c.connections, w.connections(w.to, id))
			require.Equal(t, c.tombstone, w.read(w.to, id).Tombstone)
			require.Nil(t, w.read(w.to, id).Moved)
			require.Equal(t, 1, w.copy().Unchanged)
		})
	}
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

func TestATokenRequestThatIsUnderWayIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, id := newWorld(t), account(0)
		first, next := newPair(1, 0, "first"), newPair(1, 1, "next")
		w.add(w.from, id, first)
		intent := tokenstore.Intent{Pair: first.Hash, Instance: "i", Nonce: "n", At: time.Now()}
		require.NoError(t, w.from.PutIntent(t.Context(), id, intent))
		go func() {
			time.Sleep(40 * time.Second) // less than it may take
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
	synctest.Test(t, func(t *testing.T) {
		open := func() tokenstore.Store { return caddystorage.New(slowly(storetest.NewMemory()), keyring(t)) }
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

func TestAStoreThatWasMovedElsewhereIsNotCopiedFrom(t *testing.T) {
	w, id := newWorld(t), account(0)
	w.add(w.from, id, newPair(1, 0, "first"))
	w.copy()
	o := w.options()
	o.To.Name, o.To.Store = "third", newStore(t)
	var told error
	o.Failed = func(_ tokenstore.AccountID, err error) { told = err }
	_, err := copying.Run(t.Context(), o)
	require.Error(t, err)
	require.ErrorContains(t, told, "old says that it was moved to new, not to third: copy it from there")
	require.Empty(t, w.pairs(o.To.Store, id))
}

func TestOneAccountThatCannotBeReadStopsNoOther(t *testing.T) {
	w := newWorld(t)
	ids := w.fill()
	var failed []tokenstore.AccountID
	o := w.options()
	o.From.Store = hook(w.from, func(string, bool) error { return nil })
	o.To.Store = broken{w.to, ids[2]}
	o.Failed = func(id tokenstore.AccountID, _ error) { failed = append(failed, id) }
	var seen []int
	o.Progress = func(s copying.Summary) { seen = append(seen, s.Seen) }
	done, err := copying.Run(t.Context(), o)
	require.ErrorContains(t, err, "1 of 8 accounts could not be moved; nothing is lost: run it again")
	require.Equal(t, []tokenstore.AccountID{ids[2]}, failed)
	require.Equal(t, 7, done.Moved)
	require.Equal(t, []int{1, 2, 3, 4, 5, 6, 7, 8}, seen)
}

// broken cannot read one account.
type broken struct {
	tokenstore.Store
	id tokenstore.AccountID
}

func (b broken) Account(ctx context.Context, id tokenstore.AccountID) (tokenstore.Account, error) {
	if id == b.id {
		return tokenstore.Account{}, errors.New("damaged")
	}
	return b.Store.Account(ctx, id)
}

func TestARunThatIsInterruptedFinishesWhatItHasBegun(t *testing.T) {
	w := newWorld(t)
	ids := w.fill()
	ctx, cancel := context.WithCancel(t.Context())
	var moves atomic.Int64
	from := w.from
	w.from = hook(from, func(op string, after bool) error {
		if op == "PutMoved" && !after && moves.Add(1) == 1 {
			cancel()
		}
		return nil
	})
	o := w.options()
	o.Parallel = 1
	done, err := copying.Run(ctx, o)
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 1, done.Moved)
	require.Less(t, done.Seen, len(ids))
	for _, id := range ids {
		a, b := w.read(from, id), w.read(w.to, id)
		require.Equal(t, a.Moved != nil, b.Moved == nil && len(b.Pairs)+int(b.Tombstone) > 0, "moved, or not begun")
	}
}
