package postgres_test

import (
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// hosts is a connection string that names several servers, in this order.
func hosts(t *testing.T, first, second *postgrestest.Server) string {
	t.Helper()
	u, err := url.Parse(first.DSN())
	require.NoError(t, err)
	u.Host += "," + second.Address()
	return u.String()
}

// caughtUp waits until a replica has all that its server has.
func caughtUp(t *testing.T, primary, replica *postgrestest.Server) {
	t.Helper()
	upTo := ask[string](t, primary.DSN(), "select pg_current_wal_lsn()::text")
	require.Eventually(t, func() bool {
		return ask[bool](t, replica.DSN(), "select pg_last_wal_replay_lsn() >= $1::text::pg_lsn", upTo)
	}, time.Minute, 10*time.Millisecond)
}

// cutOff has a replica receive nothing more from its server.
func cutOff(t *testing.T, primary, replica *postgrestest.Server) {
	t.Helper()
	replica.Exec(t, replica.DSN(), "alter system set primary_conninfo = ''")
	replica.Exec(t, replica.DSN(), "select pg_reload_conf()")
	require.Eventually(t, func() bool {
		return ask[int](t, primary.DSN(), "select count(*) from pg_stat_replication") == 0
	}, time.Minute, 10*time.Millisecond)
}

const highest = "select coalesce(max(generation), 0) from mercadopago.pairs"

// unavailable requires that a seller is told to come again, for the store's sake.
func (m *member) unavailable(t *testing.T, seller string) {
	t.Helper()
	_, err := m.Token(t.Context(), "", seller, 5*time.Minute)
	var problem *tokensource.Error
	require.ErrorAs(t, err, &problem)
	require.Equal(t, tokensource.ReasonStore, problem.Reason, err)
	require.Positive(t, problem.RetryAfter)
}

// refreshes has an instance refresh a seller, whose token it holds.
func (m *member) refreshes(t *testing.T, seller string, user int64) *tokensource.Token {
	t.Helper()
	newer, err := m.Replace(t.Context(), m.holds(t, seller, user))
	require.NoError(t, err)
	return newer
}

// What a replica that lags says of an account is a refresh token that was spent.
// Nobody reads there, whatever the connection string asks for.
func TestAReplicaThatLagsIsNeverReadFrom(t *testing.T) {
	t.Parallel()
	primary := postgrestest.New(t, "fsync=off")
	replica := primary.Replica(t)
	p, both := newProvider(), hosts(t, replica, primary)
	a := join(t, p, database(t, both), 0)
	a.connect(t, "shop-1", 1)
	caughtUp(t, primary, replica)
	replica.Exec(t, replica.DSN(), "select pg_wal_replay_pause()")
	newer := a.refreshes(t, "shop-1", 1)
	require.Eventually(t, func() bool { return ask[int](t, primary.DSN(), highest) == 1 }, time.Minute, 10*time.Millisecond)
	require.NoError(t, primary.Crash())
	require.Zero(t, ask[int](t, replica.DSN(), highest))

	follows := join(t, p, database(t, both), 0)
	follows.unavailable(t, "shop-1")
	for _, asked := range []string{"", "target_session_attrs=any", "target_session_attrs=standby", "target_session_attrs=prefer-standby", "target_session_attrs=read-only"} {
		join(t, p, database(t, replica.DSN(asked)), 0).unavailable(t, "shop-1")
	}
	require.True(t, a.holds(t, "shop-1", 1).AccessToken().Equal(newer.AccessToken()), "what is valid serves on")

	require.NoError(t, primary.Start())
	for _, m := range []*member{follows, a} {
		require.Eventually(t, func() bool {
			token, err := m.Token(t.Context(), "", "shop-1", 5*time.Minute)
			return err == nil && token.AccessToken().Equal(newer.AccessToken())
		}, time.Minute, 10*time.Millisecond)
	}
	all, _, reused := p.counted()
	require.Equal(t, 1, all)
	require.Zero(t, reused)
}

// A replica that is promoted without the last pairs has spent refresh tokens. Who
// knows the pair that came of one puts it there, even after the provider has called
// the spent one dead; a seller whom no instance knows must connect again.
func TestAPairThatTheNewServerNeverHadIsAddedAgainByWhoKnowsIt(t *testing.T) {
	t.Parallel()
	primary := postgrestest.New(t, "fsync=off")
	replica := primary.Replica(t)
	p, both := newProvider(), hosts(t, primary, replica)
	a, gone := join(t, p, database(t, both), 0), join(t, p, database(t, both), 0)
	a.connect(t, "shop-1", 1)
	a.connect(t, "shop-2", 2)
	gone.connect(t, "shop-3", 3)
	caughtUp(t, primary, replica)
	cutOff(t, primary, replica)
	newer := map[string]*tokensource.Token{"shop-1": a.refreshes(t, "shop-1", 1), "shop-2": a.refreshes(t, "shop-2", 2)}
	gone.refreshes(t, "shop-3", 3)
	gone.end()
	require.NoError(t, primary.Crash())
	require.NoError(t, replica.Promote())
	require.Zero(t, ask[int](t, replica.DSN(), highest))

	require.Eventually(t, func() bool {
		a.holds(t, "shop-2", 2) // it is read again because it is asked for
		return ask[int](t, replica.DSN(), highest) == 1
	}, time.Minute, 10*time.Millisecond)
	require.True(t, a.events.alarmed("it was added again: is it a replica that lags, or was it restored from a back-up?"))
	all, _, reused := p.counted()
	require.Equal(t, 3, all)
	require.Zero(t, reused)

	b := join(t, p, database(t, both), 0)
	for _, seller := range []string{"shop-1", "shop-3"} {
		token, err := b.Token(t.Context(), "", seller, 5*time.Minute)
		require.NoError(t, err, "the replica's own access token is valid for all that anyone knows")
		_, _ = b.Replace(t.Context(), token) // the provider says that it is not, nor is the refresh token
	}
	for seller, want := range newer {
		require.Eventually(t, func() bool {
			token, err := b.Token(t.Context(), "", seller, 5*time.Minute)
			return err == nil && token.AccessToken().Equal(want.AccessToken())
		}, time.Minute, 10*time.Millisecond)
	}
	require.Equal(t, tokensource.ReconnectRequired, b.status(t, "shop-3"))
	b.connect(t, "shop-3", 3)
	b.holds(t, "shop-3", 3)
}

// Where replication is synchronous, no pair counts as saved that one server alone
// has: not even once that server shows it, because whoever wrote it gave up waiting
// for the replica.
func TestAPairThatASynchronousReplicaDoesNotHaveIsNotTakenForSaved(t *testing.T) {
	t.Parallel()
	primary := postgrestest.New(t, "fsync=off", "synchronous_standby_names=*")
	replica := primary.Replica(t)
	p, spill := newProvider(), filepath.Join(t.TempDir(), "spill")
	a := joinWith(t, p, database(t, hosts(t, primary, replica)), 0, spill)
	a.connect(t, "shop-1", 1)
	p.rotated = func() { cutOff(t, primary, replica) }
	newer := a.refreshes(t, "shop-1", 1)
	spilled := func() bool { entries, _ := os.ReadDir(spill); return len(entries) == 1 }
	require.True(t, spilled(), "it serves once it is there")
	require.Eventually(t, func() bool { return ask[int](t, primary.DSN(), highest) == 1 }, time.Minute, 10*time.Millisecond)
	require.True(t, spilled())
	require.NoError(t, primary.Crash())
	require.NoError(t, replica.Promote())
	replica.Exec(t, replica.DSN(), "alter system set synchronous_standby_names = ''")
	replica.Exec(t, replica.DSN(), "select pg_reload_conf()")

	require.Eventually(t, func() bool { return !spilled() }, time.Minute, 10*time.Millisecond)
	require.Equal(t, 1, ask[int](t, replica.DSN(), highest))
	require.True(t, a.holds(t, "shop-1", 1).AccessToken().Equal(newer.AccessToken()))
	all, _, reused := p.counted()
	require.Equal(t, 1, all)
	require.Zero(t, reused)
}
