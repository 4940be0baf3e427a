package postgres_test

import (
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func keyring(t testing.TB, letters ...string) *secret.Keyring {
	t.Helper()
	var keys []secret.Secret
	for _, letter := range letters {
		keys = append(keys, secret.New(strings.Repeat(letter, 32)))
	}
	ring, err := secret.NewKeyring(keys...)
	require.NoError(t, err)
	return ring
}

// database opens the database of one instance.
func database(t testing.TB, dsn string, change ...func(*postgres.Config)) *postgres.Database {
	t.Helper()
	config := postgres.Config{DSN: secret.New(dsn)}
	for _, c := range change {
		c(&config)
	}
	d, err := postgres.Open(config)
	require.NoError(t, err)
	t.Cleanup(d.Shut)
	return d
}

// instance opens the store of one instance.
func instance(t testing.TB, dsn string, change ...func(*postgres.Config)) *postgres.Store {
	t.Helper()
	s, err := database(t, dsn, change...).Store(t.Context(), keyring(t, "k"))
	require.NoError(t, err)
	return s
}

// schema returns a schema of its own on the server that the tests share.
func schema(t testing.TB) (dsn string, here func(*postgres.Config)) {
	t.Helper()
	name := "test_" + strings.ToLower(rand.Text()[:12])
	return postgrestest.Shared(t).DSN(), func(c *postgres.Config) { c.Schema = name }
}

// emptied returns the statements that empty all tables of a schema.
func emptied(here func(*postgres.Config)) string {
	var config postgres.Config
	here(&config)
	var all strings.Builder
	for _, table := range []string{"accounts", "pairs", "intents", "verdicts", "marks", "connections", "ended", "consumed"} {
		fmt.Fprintf(&all, "delete from %s.%s;", config.Schema, table)
	}
	return all.String()
}

func TestPostgreSQLKeepsEveryPromise(t *testing.T) {
	dsn, here := schema(t)
	a, b := instance(t, dsn, here), instance(t, dsn, here)
	storetest.Run(t, func(t *testing.T) (tokenstore.Store, tokenstore.Store) {
		postgrestest.Shared(t).Exec(t, dsn, emptied(here))
		return a, b
	})
}
