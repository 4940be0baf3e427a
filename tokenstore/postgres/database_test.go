package postgres_test

import (
	"context"
	"fmt"
	"net/url"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// ask returns the one value of a statement.
func ask[T any](t testing.TB, dsn, sql string, args ...any) (value T) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(context.Background())) }()
	require.NoError(t, conn.QueryRow(t.Context(), sql, args...).Scan(&value))
	return value
}

func TestTenInstancesThatStartTogetherMakeTheTablesOnce(t *testing.T) {
	dsn := postgrestest.Shared(t).Database(t)
	var databases []*postgres.Database
	for range 10 {
		databases = append(databases, database(t, dsn))
	}
	ring := keyring(t, "k")
	var all errgroup.Group
	for i, d := range databases {
		all.Go(func() error {
			s, err := d.Store(t.Context(), ring)
			if err != nil {
				return err
			}
			return s.AddPair(t.Context(), tokenstore.AccountID{ClientID: "1", UserID: int64(i + 1)}, newPair(1, 0, fmt.Sprint(i)))
		})
	}
	require.NoError(t, all.Wait())
	require.Equal(t, 10, ask[int](t, dsn, "select count(*) from mercadopago.pairs"))
	require.Equal(t, 1, ask[int](t, dsn, "select count(*) from mercadopago.version"))
}

// In a fleet whose new version is being rolled out, or taken back, an instance of
// the old one starts beside tables of the new one.
func TestTablesOfANewerVersionAreLeftAsTheyAre(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn, here := schema(t)
	require.NoError(t, instance(t, dsn, here).PutConnection(t.Context(), shop))
	var config postgres.Config
	here(&config)
	server.Exec(t, dsn, "update "+config.Schema+".version set version = 99; alter table "+config.Schema+".connections add column colour text")
	c, err := instance(t, dsn, here).Connection(t.Context(), shop.Application, shop.Seller)
	require.NoError(t, err)
	require.Equal(t, shop.ID, c.ID)
	require.Equal(t, 99, ask[int](t, dsn, "select version from "+config.Schema+".version"))
}

func TestTheRightToMakeTablesIsNeededOnlyToMakeThem(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn, here := schema(t)
	instance(t, dsn, here)
	var config postgres.Config
	here(&config)
	user := config.Schema
	server.Exec(t, dsn, fmt.Sprintf(`create role %[1]s login password 'p'; grant usage on schema %[1]s to %[1]s;
		grant select, insert, update, delete on all tables in schema %[1]s to %[1]s`, user))
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.User = url.UserPassword(user, "p")
	require.NoError(t, instance(t, u.String(), here).PutConnection(t.Context(), shop))

	elsewhere := func(c *postgres.Config) { c.Schema = user + "_2" }
	_, err = database(t, u.String(), elsewhere).Store(t.Context(), keyring(t, "k"))
	require.ErrorContains(t, err, "bringing the tables up to date")
	require.ErrorContains(t, err, "permission denied")
}

func TestTwoPrefixesOfOneSchemaDoNotMix(t *testing.T) {
	dsn, here := schema(t)
	one := instance(t, dsn, here, func(c *postgres.Config) { c.TablePrefix = "1_" })
	two := instance(t, dsn, here, func(c *postgres.Config) { c.TablePrefix = "2_" })
	require.NoError(t, one.PutConnection(t.Context(), shop))
	_, err := two.Connection(t.Context(), shop.Application, shop.Seller)
	require.ErrorIs(t, err, tokenstore.ErrNotFound)
	held, err := one.Lock(t.Context(), account)
	require.NoError(t, err)
	other, err := two.Lock(t.Context(), account)
	require.NoError(t, err, "nor do their locks")
	require.NoError(t, other.Unlock(t.Context()))
	require.NoError(t, held.Unlock(t.Context()))
}

func TestAProxyThatPoolsByTheTransactionIsRefused(t *testing.T) {
	server := postgrestest.Shared(t)
	for mode, want := range map[string]string{
		"session":     "",
		"transaction": "pool_mode=session",
		"statement":   "pool_mode=session",
	} {
		t.Run(mode, func(t *testing.T) {
			u, err := url.Parse(server.Database(t))
			require.NoError(t, err)
			u.Host = server.Pooler(t, mode)
			s, err := database(t, u.String()).Store(t.Context(), keyring(t, "k"))
			if want != "" {
				require.ErrorContains(t, err, want)
				require.NotContains(t, err.Error(), postgrestest.Password)
				return
			}
			require.NoError(t, err)
			require.NoError(t, s.PutConnection(t.Context(), shop))
			held, err := s.Lock(t.Context(), account)
			require.NoError(t, err)
			require.NoError(t, held.Unlock(t.Context()))
		})
	}
}

func TestADatabaseOfAnotherEncodingIsRefused(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn := server.DSN()
	server.Exec(t, dsn, "create database latin encoding 'LATIN1' template template0 locale 'C'")
	t.Cleanup(func() { server.Exec(t, dsn, "drop database latin") })
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.Path = "/latin"
	_, err = database(t, u.String()).Store(t.Context(), keyring(t, "k"))
	require.ErrorContains(t, err, "encoding is LATIN1: make one with encoding UTF8")
}

func TestNoErrorHoldsThePassword(t *testing.T) {
	const password = "canary-in-a-dsn"
	for name, dsn := range map[string]string{
		"a port that is none":  "postgres://u:" + password + "@h:port/db",
		"no URL":               "postgres://u:" + password + "%zz@h/db",
		"an unknown mode":      "postgres://u:" + password + "@h/db?sslmode=" + password,
		"no keyword":           "user=u password=" + password + " =",
		"nothing but password": password,
		"an unknown setting":   "host=127.0.0.1 port=1 password=" + password + " pool_max_conns=" + password,
	} {
		_, err := postgres.Open(postgres.Config{DSN: secret.New(dsn)})
		require.ErrorContains(t, err, "dsn", name)
		require.NotContains(t, err.Error(), "canary", name)
	}
	for name, dsn := range map[string]string{
		"nobody listens":     "postgres://u:" + password + "@127.0.0.1:1/db",
		"a wrong password":   "postgres://caddy:" + password + "@" + postgrestest.Shared(t).Address() + "/postgres",
		"no such user":       "postgres://nobody:" + password + "@" + postgrestest.Shared(t).Address() + "/postgres?sslmode=disable",
		"TLS that is absent": "postgres://caddy:" + password + "@" + postgrestest.Shared(t).Address() + "/postgres?sslmode=require",
	} {
		_, err := database(t, dsn).Store(t.Context(), keyring(t, "k"))
		require.ErrorContains(t, err, "connecting to PostgreSQL", name)
		require.NotContains(t, err.Error(), "canary", name)
	}
}

func TestAPlaceIsKnownByWhereItIsAndNotByThePassword(t *testing.T) {
	place := func(dsn, schema string) string {
		d, err := postgres.Open(postgres.Config{DSN: secret.New(dsn), Schema: schema})
		require.NoError(t, err)
		defer d.Close()
		return d.Place()
	}
	one := place("postgres://u:a@h1,h2/db?sslmode=prefer", "")
	require.Equal(t, one, place("postgres://v:b@h1,h2/db?sslmode=disable", "mercadopago"))
	for _, other := range []string{"postgres://u:a@h1/db", "postgres://u:a@h2,h1/db", "postgres://u:a@h1:1,h2/db", "postgres://u:a@h1,h2/other"} {
		require.NotEqual(t, one, place(other, ""))
	}
	require.NotEqual(t, one, place("postgres://u:a@h1,h2/db", "another"))
}

func TestWhatIsOutOfUseHoldsNoConnection(t *testing.T) {
	dsn := postgrestest.Shared(t).Database(t)
	d := database(t, dsn)
	_, err := d.Store(t.Context(), keyring(t, "k"))
	require.NoError(t, err)
	d.Close()
	require.Eventually(t, func() bool {
		collect()
		return ask[int](t, dsn, "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()") == 0
	}, 30*time.Second, 20*time.Millisecond)
}
