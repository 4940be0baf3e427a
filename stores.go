package mercadopago

import (
	"context"
	"crypto/sha256"
	"fmt"
	"regexp"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
)

// storesNamespace is where the modules are that keep tokens.
const storesNamespace = appName + ".stores"

func init() {
	caddy.RegisterModule(PostgresStore{})
}

// StoreModule is what a module in the namespace mercadopago.stores does.
type StoreModule interface {
	// StoreID names the store by where it is, not by how it is reached: what is in
	// memory is kept when a configuration with the same one is loaded.
	StoreID() string
	// OpenStore opens the store when it is first needed, and is called again, later,
	// after it failed. Loading a configuration opens nothing. A store that is out of
	// use is not closed by Cleanup: a token request may have its answer to save.
	OpenStore(ctx context.Context, keyring *secret.Keyring) (tokenstore.Store, error)
}

// PostgresStore keeps tokens in PostgreSQL, for fleets of many instances. They
// renew each account once, and learn of each other's changes at once.
type PostgresStore struct {
	// The connection string or URL of the database, as PostgreSQL's own programs take
	// it. Placeholders are resolved when the configuration is loaded; use them, so
	// that no password stands in the configuration itself. `sslmode=verify-full`
	// encrypts the connection and checks whose it is. Several hosts may be named; the
	// one that can be written to is used. Required.
	DSN string `json:"dsn,omitempty"`

	// The schema that holds the tables. It is made where it is missing. Default:
	// mercadopago.
	Schema string `json:"schema,omitempty"`

	// What stands before the name of every table. Default: nothing.
	TablePrefix string `json:"table_prefix,omitempty"`

	// How many connections to the server this instance opens at the most, from 4 to
	// 1000. Default: 10.
	MaxConnections int `json:"max_connections,omitempty"`

	// How long one statement may take, from 100ms to 1m. Default: 4s.
	QueryTimeout caddy.Duration `json:"query_timeout,omitempty"`

	database *pooledDatabase
	key      string
}

// CaddyModule returns the Caddy module information.
func (PostgresStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  storesNamespace + ".postgres",
		New: func() caddy.Module { return new(PostgresStore) },
	}
}

// databases are shared by the configurations of this process that name the same
// one: a reload opens no connection.
var databases = caddy.NewUsagePool()

// pooledDatabase lets go of a database when no configuration names it any more.
type pooledDatabase struct{ *postgres.Database }

// Destruct implements caddy.Destructor.
func (p *pooledDatabase) Destruct() error {
	p.Close()
	return nil
}

// aPassword is one that stands in a connection string itself.
var aPassword = regexp.MustCompile(`(?i)(://[^/@:]*:[^{@/\s][^/\s]*@|\bpassword\s*=\s*'?[^{\s&])`)

// Provision reads the connection string. It touches no network.
func (p *PostgresStore) Provision(ctx caddy.Context) error {
	dsn, err := resolve("store.dsn", p.DSN)
	if err != nil {
		return err
	}
	if aPassword.MatchString(p.DSN) {
		ctx.Logger().Warn("a secret stands in the configuration in clear; use a placeholder such as {env.NAME} or {file./path}, so that it shows in no config dump", zap.String("field", "store.dsn"))
	}
	config := p.config()
	config.DSN = secret.New(dsn)
	key := fmt.Sprintf("%x %+v", sha256.Sum256([]byte(dsn)), p.config())
	database, _, err := databases.LoadOrNew(key, func() (caddy.Destructor, error) {
		database, err := postgres.Open(config)
		return &pooledDatabase{database}, err
	})
	if err != nil {
		return fmt.Errorf("store.%w", err)
	}
	p.database, p.key = database.(*pooledDatabase), key //nolint:forcetypeassert // nothing else is in the pool
	return nil
}

// config is what is configured, but for the connection string.
func (p *PostgresStore) config() postgres.Config {
	return postgres.Config{Schema: p.Schema, TablePrefix: p.TablePrefix, MaxConnections: p.MaxConnections, QueryTimeout: time.Duration(p.QueryTimeout)}
}

// StoreID implements StoreModule.
func (p *PostgresStore) StoreID() string { return "postgres-" + p.database.Place() }

// OpenStore implements StoreModule.
func (p *PostgresStore) OpenStore(ctx context.Context, keyring *secret.Keyring) (tokenstore.Store, error) {
	store, err := p.database.Store(ctx, keyring)
	if err != nil {
		return nil, err
	}
	return store, nil
}

// Cleanup lets go of the database. Who still works with it is not disturbed.
func (p *PostgresStore) Cleanup() error {
	if p.database == nil {
		return nil
	}
	p.database = nil
	_, err := databases.Delete(p.key)
	return err
}

// Interface guards
var (
	_ StoreModule        = (*PostgresStore)(nil)
	_ caddy.Provisioner  = (*PostgresStore)(nil)
	_ caddy.CleanerUpper = (*PostgresStore)(nil)
)
