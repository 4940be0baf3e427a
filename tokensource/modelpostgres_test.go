package tokensource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// The model on PostgreSQL. Every operation that a script lets go on is carried out
// on a real server and on the model's own store, at one moment: what the instances
// see is the server's answer, what the rules are held against is the model's store,
// and the two must say the same each time. So each interleaving is one of the real
// store, faults and late writes included, and the rules go on seeing a true state
// that no instance sees. Locks are PostgreSQL's too: one that is stolen, or whose
// holder crashes, ends because its session is ended at the server.
//
// What takes an operation apart, statement by statement, is not the model's matter:
// storetest.RunSteps cuts a store at each message. Nor are notifications and the
// schedule: a script passes half a year, through which both are asked for every few
// seconds. The fleets of the package postgres have them, and the kill harness.

// outside does what cannot be done in a bubble: the network and its timers. A
// goroutine that waits for a channel from outside is not asleep, so that meanwhile
// the bubble's clock stands still, and so does the script.
type outside struct {
	mu    sync.Mutex
	calls chan func()
	done  chan struct{}
}

func newOutside(t *testing.T) *outside {
	o := &outside{calls: make(chan func()), done: make(chan struct{})}
	go func() {
		for call := range o.calls {
			call()
			o.done <- struct{}{}
		}
	}()
	t.Cleanup(func() { close(o.calls) })
	return o
}

func (o *outside) do(call func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.calls <- call
	<-o.done
}

// longest is how long the server may take for an operation, on a machine that has
// much else to do.
const longest = time.Minute

// twins are the stores of all slots, on one database.
type twins struct {
	*outside
	conn   *pgx.Conn
	stores []*postgres.Store
}

func slotName(slot int) string { return fmt.Sprintf("slot-%d", slot) }

func newTwins(t *testing.T) *twins {
	server := postgrestest.Shared(t)
	dsn := server.Database(t)
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	w := &twins{conn: conn}
	t.Cleanup(func() {
		w.stores = nil
		// A store that is out of use closes its connections.
		require.Eventually(t, func() bool {
			runtime.GC()
			var others int
			err := conn.QueryRow(context.Background(), "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()").Scan(&others)
			return err == nil && others == 0
		}, longest, 20*time.Millisecond)
		require.NoError(t, conn.Close(context.Background()))
	})
	key, err := secret.ParseKey(strings.Repeat("ab", 32))
	require.NoError(t, err)
	keyring, err := secret.NewKeyring(key)
	require.NoError(t, err)
	for slot := range len(model{}.starts) {
		database, err := postgres.Open(postgres.Config{DSN: secret.New(dsn + "&application_name=" + slotName(slot))})
		require.NoError(t, err)
		store, err := database.Store(t.Context(), keyring)
		require.NoError(t, err)
		database.Close()
		w.stores = append(w.stores, store)
	}
	w.outside = newOutside(t)
	return w
}

// clear makes the tables empty, for the next script. The last one has left no lock.
func (w *twins) clear() error {
	if n, err := w.locked(); err != nil || n > 0 {
		return fmt.Errorf("%d locks have outlived all processes: %w", n, err)
	}
	_, err := w.conn.PgConn().Exec(context.Background(), `delete from mercadopago.accounts; delete from mercadopago.pairs; delete from mercadopago.intents;
		delete from mercadopago.verdicts; delete from mercadopago.marks; delete from mercadopago.connections; delete from mercadopago.ended; delete from mercadopago.consumed`).ReadAll()
	return err
}

// sever ends the session in which a slot holds its locks, at the server, and waits
// until the locks are gone.
func (w *twins) sever(m *model, slot int) {
	const holding = `from pg_stat_activity where datname = current_database() and application_name = $1 and pid in (select pid from pg_locks where locktype = 'advisory')`
	w.do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), longest)
		defer cancel()
		_, err := w.conn.Exec(ctx, "select pg_terminate_backend(pid) "+holding, slotName(slot))
		for held := 1; err == nil && held > 0; {
			err = w.conn.QueryRow(ctx, "select count(*) "+holding, slotName(slot)).Scan(&held)
		}
		if err != nil {
			m.journal.violated("ending a session: %v", err)
		}
	})
}

// locked is how many locks the server has.
func (w *twins) locked() (n int, err error) {
	err = w.conn.QueryRow(context.Background(), "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())").Scan(&n)
	return n, err
}

// twin is one instance's view of the model's store and of PostgreSQL.
type twin struct {
	view
	twins *twins
	store *postgres.Store
}

// with is the view that carries an operation out on PostgreSQL too.
func (t twin) with(operation func(ctx context.Context, s *postgres.Store) error) view {
	v := t.view
	v.also = func(want error) error {
		var got error
		t.twins.do(func() {
			ctx, cancel := context.WithTimeout(context.Background(), longest)
			defer cancel()
			got = operation(ctx, t.store)
		})
		if outcome(got) != outcome(want) {
			t.differs("%v", want, "%v", got)
		}
		return got
	}
	return v
}

// outcome is the part of an error that callers tell apart.
func outcome(err error) string {
	for _, known := range []error{tokenstore.ErrNotFound, tokenstore.ErrConsumed} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return fmt.Sprint(err)
}

func (t twin) differs(wanted string, want any, gotten string, got any) {
	t.process.m.journal.violated("PostgreSQL says "+gotten+" and the model's store "+wanted, got, want)
}

// same requires two answers to be one, and returns PostgreSQL's.
func same[T any](t twin, want, got T, told func(T) string, err error) (T, error) {
	if err == nil && told(want) != told(got) {
		t.differs("%s", told(want), "%s", told(got))
	}
	return got, err
}

// tellTime is a time as exactly as PostgreSQL keeps it.
func tellTime(at time.Time) string {
	return at.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano)
}

func tellAccount(a tokenstore.Account) string {
	var lines []string
	for _, i := range a.Intents {
		lines = append(lines, fmt.Sprint("intent ", i.Pair, i.Instance, i.Nonce, i.Attempt, tellTime(i.At)))
	}
	for _, v := range a.Verdicts {
		lines = append(lines, fmt.Sprint("verdict ", v.Pair, v.Reason, tellTime(v.At)))
	}
	for _, m := range a.Marks {
		lines = append(lines, fmt.Sprint("mark ", m.Connection, m.Authorization, tellTime(m.At)))
	}
	slices.Sort(lines) // they come in no particular order, as pairs do not
	for _, p := range a.Pairs {
		lines = append(lines, fmt.Sprint("pair ", p.PairID, p.Hash, p.AccessToken.Reveal(), p.RefreshToken.Reveal(), p.PublicKey, p.Scope, tellTime(p.ObtainedAt), tellTime(p.ExpiresAt)))
	}
	return fmt.Sprint(a.ID, " tombstone ", a.Tombstone, " moved ", a.Moved, "\n", strings.Join(lines, "\n"))
}

func tellConnection(c tokenstore.Connection) string {
	at := tellTime(c.CreatedAt)
	c.CreatedAt = time.Time{}
	return fmt.Sprintf("%+v %s", c, at)
}

func tellConnections(all []tokenstore.Connection) string {
	var lines []string
	for _, c := range all {
		lines = append(lines, tellConnection(c))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func (t twin) Connection(ctx context.Context, application, seller string) (got tokenstore.Connection, err error) {
	want, err := t.with(func(ctx context.Context, s *postgres.Store) (err error) {
		got, err = s.Connection(ctx, application, seller)
		return err
	}).Connection(ctx, application, seller)
	return same(t, want, got, tellConnection, err)
}

func (t twin) Connections(ctx context.Context, id tokenstore.AccountID) (got []tokenstore.Connection, err error) {
	want, err := t.with(func(ctx context.Context, s *postgres.Store) (err error) {
		got, err = s.Connections(ctx, id)
		return err
	}).Connections(ctx, id)
	return same(t, want, got, tellConnections, err)
}

func (t twin) Account(ctx context.Context, id tokenstore.AccountID) (got tokenstore.Account, err error) {
	want, err := t.with(func(ctx context.Context, s *postgres.Store) (err error) {
		got, err = s.Account(ctx, id)
		return err
	}).Account(ctx, id)
	return same(t, want, got, tellAccount, err)
}

func (t twin) Ended(ctx context.Context, c tokenstore.Connection) (got bool, err error) {
	want, err := t.with(func(ctx context.Context, s *postgres.Store) (err error) {
		got, err = s.Ended(ctx, c)
		return err
	}).Ended(ctx, c)
	return same(t, want, got, func(ended bool) string { return fmt.Sprint(ended) }, err)
}

// Accounts meets at least those that the model's store has a pair of: they come in
// an order of PostgreSQL's, and go on by a place of its.
func (t twin) Accounts(ctx context.Context, after string, n int) (ids []tokenstore.AccountID, next string, err error) {
	var paired []tokenstore.AccountID
	_, _, err = t.with(func(ctx context.Context, s *postgres.Store) (err error) {
		for _, id := range slices.Collect(maps.Keys(t.accounts)) {
			if a := t.newest(id); len(a.Pairs) > 0 {
				paired = append(paired, id)
			}
		}
		ids, next, err = s.Accounts(ctx, after, n)
		return err
	}).Accounts(ctx, "", n)
	for _, id := range paired {
		if err == nil && after == "" && next == "" && !slices.Contains(ids, id) {
			t.differs("%v", paired, "%v", ids)
		}
	}
	return ids, next, err
}

func (t twin) CleanUp(ctx context.Context, now time.Time, after string, n int) (next string, err error) {
	_, err = t.with(func(ctx context.Context, s *postgres.Store) (err error) {
		next, err = s.CleanUp(ctx, now, after, n)
		return err
	}).CleanUp(ctx, now, after, n)
	return next, err
}

func (t twin) PutConnection(ctx context.Context, c tokenstore.Connection) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.PutConnection(ctx, c) }).PutConnection(ctx, c)
}

func (t twin) DeleteConnection(ctx context.Context, c tokenstore.Connection) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.DeleteConnection(ctx, c) }).DeleteConnection(ctx, c)
}

func (t twin) AddPair(ctx context.Context, id tokenstore.AccountID, p tokenstore.Pair) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.AddPair(ctx, id, p) }).AddPair(ctx, id, p)
}

func (t twin) DeletePairs(ctx context.Context, id tokenstore.AccountID, ids ...tokenstore.PairID) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.DeletePairs(ctx, id, ids...) }).DeletePairs(ctx, id, ids...)
}

func (t twin) PutIntent(ctx context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.PutIntent(ctx, id, i) }).PutIntent(ctx, id, i)
}

func (t twin) DeleteIntent(ctx context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.DeleteIntent(ctx, id, i) }).DeleteIntent(ctx, id, i)
}

func (t twin) PutVerdict(ctx context.Context, id tokenstore.AccountID, v tokenstore.Verdict) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.PutVerdict(ctx, id, v) }).PutVerdict(ctx, id, v)
}

func (t twin) PutMark(ctx context.Context, id tokenstore.AccountID, m tokenstore.Mark) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.PutMark(ctx, id, m) }).PutMark(ctx, id, m)
}

func (t twin) DeleteMark(ctx context.Context, id tokenstore.AccountID, m tokenstore.Mark) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.DeleteMark(ctx, id, m) }).DeleteMark(ctx, id, m)
}

func (t twin) PutTombstone(ctx context.Context, id tokenstore.AccountID, n uint64) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.PutTombstone(ctx, id, n) }).PutTombstone(ctx, id, n)
}

func (t twin) PutMoved(ctx context.Context, id tokenstore.AccountID, m tokenstore.Moved) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.PutMoved(ctx, id, m) }).PutMoved(ctx, id, m)
}

func (t twin) DeleteMoved(ctx context.Context, id tokenstore.AccountID) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.DeleteMoved(ctx, id) }).DeleteMoved(ctx, id)
}

func (t twin) Consume(ctx context.Context, state string, until time.Time) error {
	return t.with(func(ctx context.Context, s *postgres.Store) error { return s.Consume(ctx, state, until) }).Consume(ctx, state, until)
}

// Lock takes PostgreSQL's lock when the model's is free. The server must have as
// many as the model has.
func (t twin) Lock(ctx context.Context, id tokenstore.AccountID) (tokenstore.Lock, error) {
	var lock tokenstore.Lock
	held, err := t.with(func(ctx context.Context, s *postgres.Store) (err error) {
		lock, err = s.Lock(ctx, id)
		t.agreeOnLocks(len(t.locks))
		return err
	}).Lock(ctx, id)
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	held.(*simLock).end = func() { //nolint:forcetypeassert // it is the model's
		t.twins.do(func() { _ = lock.Unlock(context.Background()) })
	}
	return held, nil
}

func (t twin) agreeOnLocks(want int) {
	got, err := t.twins.locked()
	if err != nil || got != want {
		t.process.m.journal.violated("PostgreSQL has %d locks and the model %d: %v", got, want, err)
	}
}

var _ tokenstore.Store = twin{}
