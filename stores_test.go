package mercadopago

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// onPostgres runs sites whose tokens are kept at a connection string.
func (r *rig) onPostgres(dsn, options, sites string) {
	r.t.Helper()
	r.t.Setenv("MP_TEST_DATABASE", dsn)
	require.NoError(r.t, r.tryLoad(withStore(options)+sites))
}

func withStore(options string) string {
	return strings.Replace(globalBlock, "		endpoints {", "		store postgres {env.MP_TEST_DATABASE} {\n"+options+"\n\t\t}\n\t\tendpoints {", 1)
}

// asking is a request of a seller's.
func (r *rig) asking(seller string) reply {
	r.t.Helper()
	return r.call(http.MethodGet, r.at("SHOP")+"/", nil, http.Header{"X-User": {seller}})
}

// value asks a database.
func value[T any](t *testing.T, dsn, sql string) (v T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	require.NoError(t, conn.QueryRow(t.Context(), sql).Scan(&v))
	return v
}

func TestTokensAreKeptInPostgreSQLAndReloadsShareItsConnections(t *testing.T) {
	r := newRig(t)
	dsn := postgrestest.Shared(t).Database(t)
	r.onPostgres(dsn, "schema tokens\ntable_prefix mp_\nmax_connections 6", sellerSite)
	r.connectSeller("shop-1", aurora)
	require.Equal(t, http.StatusOK, r.asking("shop-1").status)
	before := r.app.last().Header.Get("Authorization")
	require.Contains(t, before, "Bearer APP_USR-")
	require.Equal(t, "shop-1", value[string](t, dsn, "select seller from tokens.mp_connections"))

	for i := range 5 {
		r.onPostgres(dsn, "schema tokens\ntable_prefix mp_\nmax_connections 6", sellerSite+fmt.Sprintf("\n# reloaded %d\n", i))
		require.Equal(t, http.StatusOK, r.asking("shop-1").status)
	}
	require.LessOrEqual(t, value[int](t, dsn, "select count(*) from pg_stat_activity where application_name = 'caddy-mercadopago' and datname = current_database()"), 6+1)

	require.NoError(t, stopCaddy())
	r.onPostgres(dsn, "schema tokens\ntable_prefix mp_", sellerSite)
	require.Equal(t, http.StatusOK, r.asking("shop-1").status)
	require.Equal(t, before, r.app.last().Header.Get("Authorization"))
	require.NotContains(t, r.logged(), postgrestest.Password)
}

func TestWhatCannotBeAStoreFailsAtLoadAndSaysWhatToWrite(t *testing.T) {
	r := newRig(t)
	t.Setenv("MP_TEST_DATABASE", "postgres://caddy:canary@127.0.0.1:1/nowhere")
	t.Setenv("MP_TEST_ODD_DATABASE", "postgres://caddy:canary@127.0.0.1:port/nowhere")
	whole := withStore("max_connections 20") + sellerSite
	for name, c := range map[string]struct {
		caddyfile string
		want      []string
	}{
		"no encryption key":       {strings.Replace(whole, "		encryption_key {env.MP_TEST_KEY}\n", "", 1), []string{"encryption_key is missing", "the same one at every instance"}},
		"a placeholder of nobody": {strings.Replace(whole, "{env.MP_TEST_DATABASE}", "{env.MP_TEST_NOWHERE}", 1), []string{"store.dsn: {env.MP_TEST_NOWHERE} is empty or unknown where Caddy runs"}},
		"no connection string":    {strings.Replace(whole, "{env.MP_TEST_DATABASE}", "{env.MP_TEST_ODD_DATABASE}", 1), []string{"store.dsn is not a connection string", "postgres://user:password@host:5432/database"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := r.tryLoad(c.caddyfile)
			for _, want := range c.want {
				require.ErrorContains(t, err, want)
			}
			require.NotContains(t, err.Error(), "canary")
		})
	}
}

func TestAPasswordInTheConfigurationIsWarnedOf(t *testing.T) {
	for dsn, want := range map[string]bool{
		"postgres://caddy:open@db/platform":                true,
		"host=db user=caddy password=open":                 true,
		"host=db user=caddy password = 'open'":             true,
		"{env.DATABASE_URL}":                               false,
		"postgres://caddy:{env.PASSWORD}@db:5432/platform": false,
		"postgres://caddy@db:5432/platform":                false,
		"postgres://db:5432,db2:5433/platform":             false,
		"host=db user=caddy password={file./run/password}": false,
	} {
		require.Equal(t, want, aPassword.MatchString(dsn), dsn)
	}
}

func TestLoadingAConfigurationTouchesNoDatabase(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	var asked atomic.Int64
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			_ = conn.Close()
		}
	}()
	r := newRig(t)
	t.Setenv("MP_TEST_DATABASE", "postgres://caddy:canary@"+listener.Addr().String()+"/nowhere")
	adapted, err := adapt(t, r.expand(withStore("max_connections 20")+sellerSite))
	require.NoError(t, err)
	require.NotContains(t, adapted, "canary")
	var config caddy.Config
	require.NoError(t, json.Unmarshal([]byte(adapted), &config))
	require.NoError(t, caddy.Validate(&config))
	require.Zero(t, asked.Load())
}

// faulty is a platform on a server that is about to fail: shop-1 is in memory,
// shop-2 is not.
func faulty(t *testing.T, dsn string) *rig {
	t.Helper()
	r := newRig(t)
	r.onPostgres(dsn, "query_timeout 500ms", sellerSite)
	r.connectSeller("shop-1", aurora)
	r.connectSeller("shop-2", almacen)
	require.NoError(t, stopCaddy())
	r.onPostgres(dsn, "query_timeout 500ms", sellerSite)
	require.Equal(t, http.StatusOK, r.asking("shop-1").status)
	return r
}

// suffers requires that the one in memory is served, and the other told when to
// come again.
func (r *rig) suffers() {
	r.t.Helper()
	for range 3 {
		require.Equal(r.t, http.StatusOK, r.asking("shop-1").status)
	}
	got := r.asking("shop-2")
	require.Equal(r.t, http.StatusServiceUnavailable, got.status, got.body)
	require.NotEmpty(r.t, got.header.Get("Retry-After"))
	require.Equal(r.t, http.StatusOK, r.asking("shop-1").status)
}

// recovers requires that both are served again by themselves, with the tokens that
// they had.
func (r *rig) recovers() {
	r.t.Helper()
	require.Eventually(r.t, func() bool { return r.asking("shop-2").status == http.StatusOK }, 2*time.Minute, 50*time.Millisecond)
	require.True(r.t, strings.HasSuffix(r.app.last().Header.Get("Authorization"), fmt.Sprint("-", almacen.UserID)))
	require.Equal(r.t, http.StatusOK, r.asking("shop-1").status)
	require.Zero(r.t, r.sandbox.Stats().RefreshReuse)
	require.NotContains(r.t, r.logged(), postgrestest.Password)
}

// told is how often a message is in the log.
func (r *rig) told(message string) int {
	return strings.Count(r.logged(), fmt.Sprintf("%q:%q", "msg", message))
}

func TestARestartOfTheServerIsSurvivedAndToldOnceEachWay(t *testing.T) {
	server := postgrestest.New(t, "fsync=off")
	r := faulty(t, server.DSN())
	require.NoError(t, server.Stop())
	r.suffers()
	require.NoError(t, server.Start())
	r.recovers()
	require.Eventually(t, func() bool { return r.told(tokensource.EventListening) == 1 }, time.Minute, 50*time.Millisecond)
	require.Equal(t, 1, r.told(tokensource.EventNotListening))
}

func TestAFailOverIsFollowed(t *testing.T) {
	first := postgrestest.New(t, "fsync=off", "synchronous_standby_names=*")
	second := first.Replica(t)
	dsn := strings.Replace(first.DSN(), "@"+first.Address(), "@"+first.Address()+","+second.Address(), 1)
	r := faulty(t, dsn)
	require.NoError(t, first.Crash())
	r.suffers() // the replica is there, and is not written to
	require.NoError(t, second.Promote())
	second.Exec(t, second.DSN(), "alter system set synchronous_standby_names = ''; ")
	second.Exec(t, second.DSN(), "select pg_reload_conf()")
	r.recovers()
	r.connectSeller("shop-3", aurora)
	require.Equal(t, "3", value[string](t, second.DSN(), "select count(*)::text from mercadopago.connections"))
}

func TestAServerWithoutAFreeConnectionIsWaitedFor(t *testing.T) {
	server := postgrestest.New(t, "fsync=off", "max_connections=12", "superuser_reserved_connections=0")
	r := faulty(t, server.DSN())
	require.NoError(t, stopCaddy())
	server.Exec(t, server.DSN(), "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'caddy-mercadopago'")
	others := filled(t, server.DSN())
	r.onPostgres(server.DSN(), "query_timeout 500ms", sellerSite)
	for _, seller := range []string{"shop-1", "shop-2"} {
		got := r.asking(seller)
		require.Equal(t, http.StatusServiceUnavailable, got.status, got.body)
		require.NotEmpty(t, got.header.Get("Retry-After"))
	}
	require.Contains(t, r.logged(), "too many clients already")
	for _, conn := range others {
		require.NoError(t, conn.Close(t.Context()))
	}
	r.recovers()
}

// filled takes all twelve connections that a server has.
func filled(t *testing.T, dsn string) (all []*pgx.Conn) {
	t.Helper()
	for len(all) < 12 {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err == nil { // those of the Caddy that was stopped end by and by
			all = append(all, conn)
		}
		require.NoError(t, t.Context().Err())
	}
	return all
}

func TestAServerThatAnswersNoStatementIsWaitedForWithinBounds(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn := server.Database(t)
	r := faulty(t, dsn)
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), "lock table mercadopago.connections, mercadopago.pairs in access exclusive mode")
	require.NoError(t, err)
	r.suffers()
	require.NoError(t, tx.Rollback(t.Context()))
	r.recovers()
}

func TestAServerThatTakesNoWritesIsLeft(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn := server.Database(t)
	r := faulty(t, dsn)
	name := server.Name(dsn)
	server.Exec(t, server.DSN(), "alter database "+name+" set default_transaction_read_only = on")
	server.Exec(t, server.DSN(), "select pg_terminate_backend(pid) from pg_stat_activity where datname = '"+name+"'")
	r.suffers()
	server.Exec(t, server.DSN(), "alter database "+name+" reset default_transaction_read_only")
	r.recovers()
}

// The server dies while the provider rotates the seller's refresh token: what the
// provider gave is the only thing that can be used again.
func TestAPairThatComesWhileTheServerIsDownIsNotLost(t *testing.T) {
	server := postgrestest.New(t) // with its writes on the disk
	r := newRig(t)
	r.sandbox.SetAccessTokenLife(2 * time.Second)
	r.onPostgres(server.DSN(), "", sellerSite)
	r.connectSeller("shop-1", aurora)
	<-time.After(2 * time.Second) // its life
	down := make(chan error, 1)
	r.sandbox.Fault(sandbox.Fault{Kind: sandbox.Latency, Grant: "refresh_token", After: true, Wait: func(context.Context) { down <- server.Crash() }})
	r.sandbox.SetAccessTokenLife(time.Hour)
	require.Equal(t, http.StatusOK, r.asking("shop-1").status, "it serves before it is saved")
	require.NoError(t, <-down)
	served := r.app.last().Header.Get("Authorization")
	require.NoError(t, server.Start())
	require.Eventually(t, func() bool {
		return value[int](t, server.DSN(), `select coalesce(max(generation), 0) from mercadopago.pairs`) == 1
	}, 2*time.Minute, 50*time.Millisecond)
	require.NoError(t, stopCaddy())
	r.onPostgres(server.DSN(), "", sellerSite)
	require.Equal(t, http.StatusOK, r.asking("shop-1").status)
	require.Equal(t, served, r.app.last().Header.Get("Authorization"))
	require.Zero(t, r.sandbox.Stats().RefreshReuse)
}
