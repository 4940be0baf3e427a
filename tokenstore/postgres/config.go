package postgres

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

const (
	defaultSchema         = "mercadopago"
	defaultMaxConnections = 10

	// defaultQueryTimeout is shorter than what a pair that is being saved waits: a
	// statement that the server ends leaves a connection that can be used.
	defaultQueryTimeout = 4 * time.Second

	// sessions are the connections that are not the pool's: one holds the locks,
	// one listens.
	sessions = 2
	// fewestConnections leaves the pool two: one statement may wait for another.
	fewestConnections = sessions + 2

	// MostConnections is the most that Config.MaxConnections may be.
	MostConnections = 1000

	// connectTimeout bounds the dialing of one host, where the DSN does not.
	connectTimeout = 5 * time.Second
	// idleTime is how long a connection is kept that nobody uses: a store that a
	// reload left behind soon holds none.
	idleTime = time.Minute
)

// Config says where a database is.
type Config struct {
	// DSN is a connection string or URL, as PostgreSQL's own programs take it. It
	// says whether the connection is encrypted (sslmode) and may name several hosts,
	// of which the one that can be written to is used. What it leaves out comes from
	// the PG* variables of the environment.
	DSN secret.Secret
	// Schema holds the tables; it is made where it is missing. Empty is
	// "mercadopago".
	Schema string
	// TablePrefix stands before the name of every table.
	TablePrefix string
	// MaxConnections is how many connections to the server are open at once at the
	// most; 0 is 10.
	MaxConnections int
	// QueryTimeout is how long one statement may take; 0 is 4 s.
	QueryTimeout time.Duration
}

var (
	schemaPattern = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)
	prefixPattern = regexp.MustCompile(`^[a-z0-9_]{0,30}$`)
)

// Validate fills in what is left open, and checks all but the DSN.
func (c *Config) Validate() error {
	if c.Schema == "" {
		c.Schema = defaultSchema
	}
	if c.MaxConnections == 0 {
		c.MaxConnections = defaultMaxConnections
	}
	if c.QueryTimeout == 0 {
		c.QueryTimeout = defaultQueryTimeout
	}
	switch {
	case !schemaPattern.MatchString(c.Schema) || strings.HasPrefix(c.Schema, "pg_"):
		return fmt.Errorf("schema %q: write lower-case letters, digits and underscores, 63 at the most, such as mercadopago", c.Schema)
	case !prefixPattern.MatchString(c.TablePrefix):
		return fmt.Errorf("table_prefix %q: write lower-case letters, digits and underscores, 30 at the most, such as mp_", c.TablePrefix)
	case c.MaxConnections < fewestConnections || c.MaxConnections > MostConnections:
		return fmt.Errorf("max_connections %d: write a number from %d to %d, such as %d", c.MaxConnections, fewestConnections, MostConnections, defaultMaxConnections)
	case c.QueryTimeout < 100*time.Millisecond || c.QueryTimeout > time.Minute:
		return fmt.Errorf("query_timeout %s: write a duration from 100ms to 1m, such as %s", c.QueryTimeout, defaultQueryTimeout)
	}
	return nil
}

// parse reads the DSN. What is wrong with it is not quoted: it holds a password.
func (c *Config) parse() (*pgxpool.Config, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	if c.DSN.IsZero() {
		return nil, errors.New("dsn is missing: write a connection string, such as postgres://caddy@db.example.com/platform?sslmode=verify-full")
	}
	config, err := pgxpool.ParseConfig(c.DSN.Reveal())
	if err != nil {
		return nil, errors.New("dsn is not a connection string that PostgreSQL's programs take, or a file that it names cannot be read: " +
			"write it as postgres://user:password@host:5432/database?sslmode=verify-full, with odd characters of the password in percent-encoding")
	}
	config.MaxConns = int32(c.MaxConnections - sessions)
	config.MinConns, config.MinIdleConns = 0, 0
	config.MaxConnIdleTime = idleTime
	config.HealthCheckPeriod = idleTime / 2
	config.PingTimeout = connectTimeout
	if config.ConnConfig.ConnectTimeout == 0 {
		config.ConnConfig.ConnectTimeout = connectTimeout
	}
	// Whatever the DSN asks for: a replica accepts no pairs and may return stale accounts.
	config.ConnConfig.ValidateConnect = pgconn.ValidateConnectTargetSessionAttrsReadWrite
	if config.ConnConfig.RuntimeParams["application_name"] == "" {
		config.ConnConfig.RuntimeParams["application_name"] = "caddy-mercadopago"
	}
	return config, nil
}

// place names where the tables are, without who asks for them.
func (c *Config) place(config *pgxpool.Config) string {
	hosts := []string{config.ConnConfig.Host + ":" + strconv.Itoa(int(config.ConnConfig.Port))}
	for _, f := range config.ConnConfig.Fallbacks {
		// One host is listed once with TLS and once without, where both will do.
		if host := f.Host + ":" + strconv.Itoa(int(f.Port)); host != hosts[len(hosts)-1] {
			hosts = append(hosts, host)
		}
	}
	return digest(append(hosts, config.ConnConfig.Database, c.Schema, c.TablePrefix)...).String()
}
