package postgres_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

func collect() { runtime.GC() }

func TestNothingSecretReachesTheDatabase(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn := server.Database(t)
	s := instance(t, dsn)
	server.Exec(t, dsn, "alter database "+server.Name(dsn)+" set log_statement = 'all'")
	require.NoError(t, s.AddPair(t.Context(), account, newPair(1, 0, "canary-of-a-token")))
	require.NoError(t, s.PutConnection(t.Context(), shop))
	all := ask[string](t, dsn, "select string_agg(p::text, ' ') from mercadopago.pairs p")
	require.Contains(t, all, account.ClientID, "metadata is in clear")
	require.NotContains(t, all, "canary")
	require.NotContains(t, server.Log(), "canary-of-a-token")
}

func TestAPairIsNeverUpdatedAndNeverThereTwice(t *testing.T) {
	dsn, here := schema(t)
	s := instance(t, dsn, here)
	require.NoError(t, s.AddPair(t.Context(), account, newPair(1, 0, "a")))
	var config postgres.Config
	here(&config)
	conn := func(sql string) error {
		d := database(t, dsn)
		_, err := d.Store(t.Context(), keyring(t, "k"))
		require.NoError(t, err)
		return d.Run(t.Context(), sql)
	}
	for sql, want := range map[string]string{
		`update %s.pairs set record = '{}'`:               "a pair is never updated",
		`update %s.pairs set generation = generation + 1`: "a pair is never updated",
		`insert into %s.pairs select * from %[1]s.pairs`:  "duplicate key",
		`insert into %s.pairs (account, "authorization", generation, hash, record) select account, 0, 0, hash, record from %[1]s.pairs`: "violates check constraint",
	} {
		require.ErrorContains(t, conn(fmt.Sprintf(sql, config.Schema)), want)
	}
	got, err := s.Account(t.Context(), account)
	require.NoError(t, err)
	require.Len(t, got.Living(), 1)
}

func TestAConnectionAtAnotherSellersPlaceIsNobodys(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn, here := schema(t)
	s := instance(t, dsn, here)
	for _, seller := range []string{"shop-1", "shop-2"} {
		require.NoError(t, s.PutConnection(t.Context(), tokenstore.Connection{ID: "of " + seller, Application: "a", Seller: seller, Account: account, Authorization: 1}))
	}
	var config postgres.Config
	here(&config)
	server.Exec(t, dsn, fmt.Sprintf(`create table %[1]s.kept as table %[1]s.connections; update %[1]s.connections c set connection = k.connection, seller = k.seller
		from %[1]s.kept k where k.place <> c.place`, config.Schema))
	_, err := s.Connection(t.Context(), "a", "shop-1")
	require.ErrorContains(t, err, "restore it from a back-up")
	require.NotErrorIs(t, err, tokenstore.ErrNotFound)
}

// A damaged record is neither absent nor passed over; the pair itself mends it.
func TestADamagedPairIsAnErrorUntilItIsAddedAgain(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn, here := schema(t)
	s, pair := instance(t, dsn, here), newPair(1, 0, "a")
	require.NoError(t, s.AddPair(t.Context(), account, pair))
	var config postgres.Config
	here(&config)
	server.Exec(t, dsn, fmt.Sprintf(`create table %[1]s.kept as table %[1]s.pairs; delete from %[1]s.pairs;
		insert into %[1]s.pairs select account, "authorization", generation, hash, replace(record::text, '"tokens":"', '"tokens":"AAAA')::json from %[1]s.kept`, config.Schema))
	_, err := s.Account(t.Context(), account)
	require.ErrorContains(t, err, "encryption_key")
	require.NotErrorIs(t, err, tokenstore.ErrNotFound)
	require.NoError(t, s.AddPair(t.Context(), account, pair))
	got, err := s.Account(t.Context(), account)
	require.NoError(t, err)
	require.Len(t, got.Living(), 1)
}

func TestAPairUnderAnotherAccountDoesNotOpen(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn, here := schema(t)
	s := instance(t, dsn, here)
	other := account
	other.UserID++
	require.NoError(t, s.AddPair(t.Context(), account, newPair(1, 0, "a")))
	require.NoError(t, s.AddPair(t.Context(), other, newPair(1, 0, "b")))
	var config postgres.Config
	here(&config)
	server.Exec(t, dsn, fmt.Sprintf(`create table %[1]s.kept as table %[1]s.pairs; delete from %[1]s.pairs;
		insert into %[1]s.pairs select a.account, p."authorization", p.generation, p.hash, p.record from %[1]s.kept p join %[1]s.accounts a on a.account <> p.account`, config.Schema))
	_, err := s.Account(t.Context(), account)
	require.ErrorContains(t, err, "restore it from a back-up")
}

func TestAMovedAccountIsNotDueUntilItComesBackAndThenAtOnce(t *testing.T) {
	dsn, here := schema(t)
	s := instance(t, dsn, here)
	require.NoError(t, s.AddPair(t.Context(), account, newPair(1, 0, "a")))
	due := func() []tokenstore.AccountID {
		ids, err := s.Due(t.Context(), account.ClientID, time.Now().Add(time.Minute), time.Now().Add(time.Hour), 10)
		require.NoError(t, err)
		return ids
	}
	require.NoError(t, s.PutMoved(t.Context(), account, tokenstore.Moved{To: "elsewhere"}))
	require.Empty(t, due())
	require.NoError(t, s.DeleteMoved(t.Context(), account))
	require.Equal(t, []tokenstore.AccountID{account}, due())
}

func TestDueAccountsGoToOneInstanceEach(t *testing.T) {
	dsn, here := schema(t)
	stores := []*postgres.Store{instance(t, dsn, here), instance(t, dsn, here), instance(t, dsn, here)}
	const sellers = 90
	id := func(i int) tokenstore.AccountID {
		return tokenstore.AccountID{ClientID: "1", UserID: int64(i + 1), Live: true}
	}
	for i := range sellers {
		require.NoError(t, stores[0].AddPair(t.Context(), id(i), newPair(1, 0, fmt.Sprint(i))))
		require.NoError(t, stores[0].Schedule(t.Context(), id(i), moment.Add(time.Duration(i)*time.Minute)))
	}
	elsewhere := tokenstore.AccountID{ClientID: "2", UserID: 1}
	require.NoError(t, stores[0].AddPair(t.Context(), elsewhere, newPair(1, 0, "x")))

	now, until := moment.Add(sellers/2*time.Minute), moment.Add(24*time.Hour)
	taken := make(chan tokenstore.AccountID, sellers)
	var all errgroup.Group
	for _, s := range stores {
		all.Go(func() error {
			for {
				ids, err := s.Due(t.Context(), "1", now, until, 4)
				if err != nil || len(ids) == 0 {
					return err
				}
				for _, id := range ids {
					taken <- id
				}
			}
		})
	}
	require.NoError(t, all.Wait())
	close(taken)
	seen := make(map[tokenstore.AccountID]int)
	for id := range taken {
		seen[id]++
	}
	require.Len(t, seen, sellers/2+1)
	for i := range sellers/2 + 1 {
		require.Equal(t, 1, seen[id(i)], "account %d", i)
	}
	// Who took some and died gives them back by the passing of time.
	ids, err := stores[0].Due(t.Context(), "1", until, until.Add(time.Hour), 2*sellers)
	require.NoError(t, err)
	require.Len(t, ids, sellers)
	require.Equal(t, id(sellers/2+1), ids[0], "the longest due first")
}

func TestAnAccountThatNobodyScheduledComesDueSoon(t *testing.T) {
	dsn, here := schema(t)
	s, pair := instance(t, dsn, here), newPair(1, 0, "a")
	require.NoError(t, s.AddPair(t.Context(), account, pair))
	due := func() time.Time {
		got, err := s.Account(t.Context(), account)
		require.NoError(t, err)
		return got.DueAt
	}
	require.Equal(t, pair.ObtainedAt.Add(10*time.Minute), due())
	require.NoError(t, s.Schedule(t.Context(), account, moment.Add(time.Hour)))
	require.Equal(t, moment.Add(time.Hour), due())
	require.NoError(t, s.AddPair(t.Context(), account, newPair(1, 1, "b")))
	require.Equal(t, pair.ObtainedAt.Add(10*time.Minute), due())
	require.NoError(t, s.Schedule(t.Context(), account, time.Time{}))
	require.Zero(t, due())
	ids, err := s.Due(t.Context(), account.ClientID, moment.Add(1e6*time.Hour), moment, 10)
	require.NoError(t, err)
	require.Empty(t, ids)
}

// Whatever the size of the table: what is due is read from the index, and nothing
// else is.
func TestWhatIsDueIsFoundByTheIndex(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn, here := schema(t)
	s := instance(t, dsn, here)
	require.NoError(t, s.AddPair(t.Context(), account, newPair(1, 0, "a")))
	var config postgres.Config
	here(&config)
	server.Exec(t, dsn, fmt.Sprintf(`insert into %[1]s.accounts (account, client, client_id, user_id, live, due_at)
		select gen_random_uuid(), (select client from %[1]s.accounts), '%s', 5e9 + n, true, now() + n * interval '1 minute' from generate_series(1, 20000) n; analyze %[1]s.accounts`, config.Schema, account.ClientID))
	plan := ask[string](t, dsn, fmt.Sprintf(`explain (format json) select account from %[1]s.accounts
		where client = (select client from %[1]s.accounts limit 1) and due_at <= now() order by due_at limit 8 for update skip locked`, config.Schema))
	require.Contains(t, plan, "accounts_due")
	require.NotContains(t, plan, `"Sort"`)
}

// Between looking whether a connection was ended and writing it lies a moment: one
// that is being ended just then does not come back.
func TestAConnectionThatIsJustBeingEndedIsNotMadeAgain(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn := server.Database(t)
	p := newProxy(t, server)
	ending, making := instance(t, p.through(t, dsn)), instance(t, dsn)
	require.NoError(t, ending.PutConnection(t.Context(), shop))
	other := shop
	other.ID, other.Seller = "c2", "another"
	require.NoError(t, ending.DeleteConnection(t.Context(), other), "its statements are prepared")

	made := make(chan error, 1)
	p.set(false, func(kind byte) error {
		if kind != 'S' {
			return nil
		}
		// Ended, but not committed.
		p.set(false, nil)
		for ask[int](t, dsn, "select count(*) from pg_locks where granted and relation = 'mercadopago.connections'::regclass and mode = 'RowExclusiveLock'") == 0 {
			runtime.Gosched()
		}
		go func() { made <- making.PutConnection(context.Background(), shop) }()
		for len(made) == 0 && ask[int](t, dsn, "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'") == 0 {
			runtime.Gosched()
		}
		return nil
	})
	require.NoError(t, ending.DeleteConnection(t.Context(), shop))
	require.ErrorIs(t, <-made, tokenstore.ErrNotFound)
	_, err := making.Connection(t.Context(), shop.Application, shop.Seller)
	require.ErrorIs(t, err, tokenstore.ErrNotFound)
}

// told collects what a store says of others' changes.
func told(t *testing.T, s *postgres.Store) chan tokenstore.Change {
	t.Helper()
	heard := make(chan tokenstore.Change, 100)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Watch(ctx, func(c tokenstore.Change) { heard <- c }) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
	require.Equal(t, tokenstore.Change{}, <-heard, "first it says that it listens")
	return heard
}

func TestAnInstanceIsToldWhatOthersChange(t *testing.T) {
	dsn, here := schema(t)
	a, b := instance(t, dsn, here), instance(t, dsn, here)
	heard := told(t, b)
	long := shop
	long.ID, long.Seller = "c2", strings.Repeat("long", 5000)
	pair := newPair(1, 0, "canary")
	for _, c := range []struct {
		change func(s *postgres.Store) error
		want   tokenstore.Change
	}{
		{func(s *postgres.Store) error { return s.AddPair(t.Context(), account, pair) }, tokenstore.Change{Account: account}},
		{func(s *postgres.Store) error { return s.PutConnection(t.Context(), shop) }, tokenstore.Change{Application: shop.Application, Seller: shop.Seller}},
		{func(s *postgres.Store) error {
			return s.PutVerdict(t.Context(), account, tokenstore.Verdict{Pair: pair.Hash, Reason: "invalid_grant", At: moment})
		}, tokenstore.Change{Account: account}},
		{func(s *postgres.Store) error { return s.DeleteConnection(t.Context(), shop) }, tokenstore.Change{Application: shop.Application, Seller: shop.Seller}},
		{func(s *postgres.Store) error { return s.PutTombstone(t.Context(), account, 1) }, tokenstore.Change{Account: account}},
		{func(s *postgres.Store) error { return s.PutConnection(t.Context(), long) }, tokenstore.Change{}},
	} {
		require.NoError(t, c.change(b), "one's own is not told")
		require.NoError(t, c.change(a))
		require.Equal(t, c.want, <-heard)
	}
	require.Empty(t, heard)
}

func TestAListenerWhoseSessionEndsSaysSo(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn := server.Database(t)
	s := instance(t, dsn)
	began, done := make(chan struct{}), make(chan error)
	go func() { done <- s.Watch(t.Context(), func(tokenstore.Change) { close(began) }) }()
	<-began
	server.Exec(t, server.DSN(), "select pg_terminate_backend(pid) from pg_stat_activity where datname = '"+server.Name(dsn)+"'")
	err := <-done
	require.ErrorContains(t, err, "listening to changes")
}
