package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// engine is what the sellers of a stage are kept in.
type engine interface {
	// option is what the Caddyfile says of it, and env what the environment does.
	option() string
	env() []string
	// open opens the store from outside, as another instance would.
	open(keyring *secret.Keyring) tokenstore.Store
	pair(account sandbox.Account) record
	connection(account sandbox.Account) record
	// backUp copies all there is, and returns what puts the copy in its place.
	backUp() (restore func())
	// empty takes all there is away, and returns what puts it back.
	empty() (fill func())
}

// record is one record, as it lies there.
type record struct {
	read  func() []byte
	write func([]byte)
}

// folder is Caddy's own storage.
type folder struct{ s *stage }

func (folder) option() string { return "" }
func (folder) env() []string  { return nil }

func (f folder) path() string { return f.s.url("STORAGE") }

func (f folder) open(keyring *secret.Keyring) tokenstore.Store {
	return caddystorage.New(&certmagic.FileStorage{Path: f.path()}, keyring)
}

func (f folder) at(path string) record {
	t := f.s.t
	return record{
		read: func() []byte {
			content, err := os.ReadFile(path)
			require.NoError(t, err)
			return content
		},
		write: func(content []byte) { require.NoError(t, os.WriteFile(path, content, 0o600)) },
	}
}

// record is one file of an account, by how its name begins.
func (f folder) record(account sandbox.Account, begins string) record {
	found, err := filepath.Glob(filepath.Join(f.path(), "mercadopago", "accounts", "*", id(account)+"-live", begins+"*"))
	require.NoError(f.s.t, err)
	require.Len(f.s.t, found, 1)
	return f.at(found[0])
}

func (f folder) pair(account sandbox.Account) record { return f.record(account, "pair-") }

func (f folder) connection(account sandbox.Account) record {
	t, found := f.s.t, ""
	require.NoError(t, filepath.Walk(filepath.Join(f.path(), "mercadopago", "connections"), func(path string, info os.FileInfo, err error) error {
		require.NoError(t, err)
		if !info.IsDir() && bytes.Contains(f.at(path).read(), []byte(id(account))) {
			found = path
		}
		return nil
	}))
	require.NotEmpty(t, found)
	return f.at(found)
}

func (f folder) backUp() (restore func()) {
	t, copied := f.s.t, filepath.Join(f.s.t.TempDir(), "back-up")
	require.NoError(t, os.CopyFS(copied, os.DirFS(f.path())))
	return func() {
		require.NoError(t, os.Rename(f.path(), f.path()+".away"))
		require.NoError(t, os.Rename(copied, f.path()))
	}
}

func (f folder) empty() (fill func()) {
	t, away := f.s.t, f.path()+".away"
	require.NoError(t, os.Rename(f.path(), away))
	require.NoError(t, os.Mkdir(f.path(), 0o700))
	return func() {
		await(t, "the folder is back", func() bool {
			// In between, caddy may write there.
			return os.RemoveAll(f.path()) == nil && os.Rename(away, f.path()) == nil
		})
	}
}

// tables are a database of its own, whose owner is not the server's: what is
// withheld from the one, the test still does as the other.
type tables struct {
	s      *stage
	server *postgrestest.Server
	// hosts is where caddy looks for it.
	hosts      string
	name       string // of the database, and of its owner
	admin      string // the connection string of the server's owner
	parameters string // of the store, in the Caddyfile
	store      tokenstore.Store
}

func newTables(s *stage, server *postgrestest.Server) *tables {
	d := &tables{s: s, server: server, hosts: server.Address(), admin: server.Database(s.t)}
	d.name = server.Name(d.admin)
	d.do("create role %[1]s login password '" + postgrestest.Password + "'; alter database %[1]s owner to %[1]s")
	return d
}

// do runs statements as the server's owner. %[1]s is the name.
func (d *tables) do(sql string) {
	d.s.t.Helper()
	d.server.Exec(d.s.t, d.admin, d.named(sql))
}

// set sets a parameter of the server.
func (d *tables) set(parameter string) {
	d.s.t.Helper()
	d.do("alter system set " + parameter)
	d.do("select pg_reload_conf()")
}

func (d *tables) named(sql string) string {
	if !strings.Contains(sql, "%[1]s") {
		return sql
	}
	return fmt.Sprintf(sql, d.name)
}

// hold opens a session of the server's owner that runs statements, and ends when
// it is let go.
func (d *tables) hold(sql string) (letGo func()) {
	t := d.s.t
	conn, err := pgx.Connect(t.Context(), d.admin)
	require.NoError(t, err)
	_, err = conn.PgConn().Exec(t.Context(), d.named(sql)).ReadAll()
	require.NoError(t, err)
	return func() { require.NoError(t, conn.Close(context.Background())) }
}

func (d *tables) option() string {
	return "		store postgres {env.DATABASE_URL}" + d.parameters + "\n"
}

func (d *tables) env() []string { return []string{"DATABASE_URL=" + d.dsn(d.hosts)} }

func (d *tables) dsn(hosts string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(d.name, postgrestest.Password), Host: "hosts", Path: "/" + d.name, RawQuery: "sslmode=disable"}
	return strings.Replace(u.String(), "hosts", hosts, 1)
}

func (d *tables) open(keyring *secret.Keyring) tokenstore.Store {
	if d.store != nil {
		return d.store
	}
	t := d.s.t
	// What it makes is caddy's.
	database, err := postgres.Open(postgres.Config{DSN: secret.New(d.admin + "&role=" + d.name), MaxConnections: 4})
	require.NoError(t, err)
	d.store, err = database.Store(t.Context(), keyring)
	require.NoError(t, err)
	t.Cleanup(database.Close)
	return d.store
}

func (d *tables) pair(account sandbox.Account) record {
	const where = " where account = (select account from mercadopago.accounts where user_id = $1)"
	return record{
		read: func() (content []byte) {
			d.query(func(conn *pgx.Conn) error {
				return conn.QueryRow(d.s.t.Context(), "select record::text::bytea from mercadopago.pairs"+where, account.UserID).Scan(&content)
			})
			return content
		},
		write: func(content []byte) {
			d.query(func(conn *pgx.Conn) error {
				// No pair is ever updated otherwise.
				_, err := conn.Exec(d.s.t.Context(), "set session_replication_role = replica")
				if err == nil {
					_, err = conn.Exec(d.s.t.Context(), "update mercadopago.pairs set record = $2"+where, account.UserID, string(content))
				}
				return err
			})
		},
	}
}

func (d *tables) connection(sandbox.Account) record { panic("a connection has no record of its own") }

func (d *tables) query(what func(*pgx.Conn) error) {
	t := d.s.t
	conn, err := pgx.Connect(t.Context(), d.admin)
	require.NoError(t, err)
	defer conn.Close(context.Background())
	require.NoError(t, what(conn))
}

var theTables = []string{"accounts", "pairs", "intents", "verdicts", "marks", "connections", "ended", "consumed"}

func (d *tables) backUp() (restore func()) {
	sql := "create schema back_up;"
	for _, table := range theTables {
		sql += " create table back_up." + table + " as table mercadopago." + table + ";"
	}
	d.do(sql)
	return func() {
		sql := "truncate mercadopago." + strings.Join(theTables, ", mercadopago.") + ";"
		for _, table := range theTables {
			sql += " insert into mercadopago." + table + " table back_up." + table + ";"
		}
		d.do(sql)
	}
}

func (d *tables) empty() (fill func()) {
	restore := d.backUp()
	d.do("truncate mercadopago." + strings.Join(theTables, ", mercadopago."))
	return restore
}

// later is when an account that is due is taken by nobody, and yet so soon that no
// walk has it come due sooner.
func later() time.Time { return time.Now().Add(10 * time.Minute) }
