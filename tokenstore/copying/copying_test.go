package copying_test

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
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
//
// One run of the tests crashes at every third operation on an account; CRASHES=all
// crashes at each.
func TestACrashAtAnyOperationLosesNothing(t *testing.T) {
	sample.Log(t)
	all := os.Getenv("CRASHES") == "all"
	filled := storetest.NewMemory()
	w := &world{t: t, from: caddystorage.New(filled, keyring(t))}
	crashes := int64(0)
	for which, id := range w.fill() {
		for n := 0; ; n++ {
			if !all && !sample.OneIn(3, which+n) {
				continue
			}
			if !crashAt(t, filled, id, n) {
				break
			}
			crashes++
		}
	}
	sample.Searched(t, crashes, "crashes while moving")
}

// crashAt moves one account and crashes at its nth operation. It reports whether
// there was one.
func crashAt(t *testing.T, filled *storetest.Memory, id tokenstore.AccountID, n int) (crashed bool) {
	t.Helper()
	from, to, left := tokenstore.Store(only{caddystorage.New(filled.Clone(), keyring(t)), id}), newStore(t), n
	crash := func(string, bool) error {
		if left == 0 {
			crashed = true
			return errCrash
		}
		left--
		return nil
	}
	w := &world{t: t, from: only{hook(from, crash), id}, to: hook(to, crash)}
	o := w.options()
	o.Failed = nil
	_, err := copying.Run(t.Context(), o)
	require.Equal(t, crashed, err != nil)
	a, b := w.read(from, id), w.read(to, id)
	if b.Moved == nil && len(b.Living()) > 0 {
		w.requireMoved(from, to, id, "new")
	}
	if a.Moved != nil {
		require.Len(t, b.Living(), len(a.Living()), "at operation %d", n)
		require.ElementsMatch(t, w.connections(from, id), w.connections(to, id), "at operation %d", n)
	}
	w.from, w.to = from, to
	w.copy()
	w.requireMoved(from, to, id, "new")
	return crashed
}

// only shows one account.
type only struct {
	tokenstore.Store
	id tokenstore.AccountID
}

func (o only) Accounts(context.Context, string, int) ([]tokenstore.AccountID, string, error) {
	return []tokenstore.AccountID{o.id}, "", nil
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
		"a higher pair": {
			func(w *world) { w.add(w.to, id, newPair(5, 2, "own")) },
			[]string{"5.2 own", "6.1 first", "7.0 second"},
			[]string{"c=shop"},
			1,
		},
		"a pair of the same number": {
			func(w *world) { w.add(w.to, id, newPair(3, 0, "own")) },
			[]string{"3.0 own", "4.1 first", "5.0 second"},
			[]string{"c=shop"},
			1,
		},
		"a pair that the source's tombstone would void": {
			func(w *world) { w.add(w.to, id, newPair(1, 0, "own")) },
			[]string{"1.0 own", "2.1 first", "3.0 second"},
			[]string{"c=shop"},
			0,
		},
		"a tombstone that would void the source's": {
			func(w *world) { require.NoError(w.t, w.to.PutTombstone(ctx, id, 9)) },
			[]string{"10.1 first", "11.0 second"},
			[]string{"c=shop"},
			9,
		},
		"the source's pair, disconnected": {func(w *world) {
			w.add(w.to, id, newPair(2, 1, "first"))
			require.NoError(w.t, w.to.PutTombstone(ctx, id, 2))
		}, []string{"2.1 first", "3.1 first", "4.0 second"}, []string{"c=shop"}, 2},
		"the source's consent, disconnected": {
			func(w *world) {
				w.add(w.to, id, newPair(2, 0, "own"))
				require.NoError(w.t, w.to.PutTombstone(ctx, id, 2))
			},
			[]string{"2.0 own", "3.1 first", "4.0 second"},
			[]string{"c=shop"},
			2,
		},
		"a newer connection": {
			func(w *world) { w.connect(w.to, newer) },
			[]string{"2.1 first", "3.0 second"},
			[]string{"newer=shop"},
			1,
		},
		"an ended connection": {
			func(w *world) { w.end(w.to, connection("c", "shop", id)) },
			[]string{"2.1 first", "3.0 second"},
			[]string{},
			1,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			require.NoError(t, w.from.PutTombstone(ctx, id, 1))
			w.add(w.from, id, newPair(2, 1, "first"), newPair(3, 0, "second"))
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
