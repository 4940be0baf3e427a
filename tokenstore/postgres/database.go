package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// Database is the tables of one [Config], and this process's connections to them.
// Stores with different keyrings may share it.
type Database struct {
	place        string
	config       *pgxpool.Config
	queryTimeout time.Duration
	// schema is quoted; names puts the tables in place of their names in braces.
	schema, prefix string
	names          *strings.Replacer
	// instance and channel are of the notifications: this Database's own are
	// skipped.
	instance, channel string

	opening chan struct{}
	opened  atomic.Pointer[pgxpool.Pool]
	locks   *locks

	mu    sync.Mutex
	users int
}

// Open returns the database that a configuration names. It touches no network.
// Close lets go of it.
func Open(c Config) (*Database, error) {
	config, err := c.parse()
	if err != nil {
		return nil, err
	}
	d := &Database{
		place:        c.place(config),
		config:       config,
		queryTimeout: c.QueryTimeout,
		schema:       pgx.Identifier{c.Schema}.Sanitize(),
		prefix:       c.TablePrefix,
		instance:     rand.Text(),
		// Channels are the whole database's.
		channel: "mercadopago_" + strings.ReplaceAll(digest(c.Schema, c.TablePrefix).String(), "-", ""),
		opening: make(chan struct{}, 1),
		users:   1,
	}
	var pairs []string
	for _, table := range []string{"accounts", "pairs", "intents", "verdicts", "marks", "connections", "ended", "consumed", "version"} {
		pairs = append(pairs, "{"+table+"}", d.schema+"."+pgx.Identifier{c.TablePrefix + table}.Sanitize())
	}
	d.names = strings.NewReplacer(pairs...)
	d.locks = newLocks(d, digest(c.Schema, c.TablePrefix).String())
	config.AfterConnect = d.setUp
	config.ConnConfig.DialFunc = dialer.DialContext
	return d, nil
}

// dialer finds out within half a minute that the other end is gone.
var dialer = &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}}

// Place names the tables: their server, database and schema. It holds no secret
// and does not depend on one.
func (d *Database) Place() string { return d.place }

// Store returns the store in this database, its tokens sealed with keyring. The
// first call connects, and brings the tables up to date.
//
// The Database lives on until it was closed and all of its stores are out of use.
func (d *Database) Store(ctx context.Context, keyring *secret.Keyring) (*Store, error) {
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.users++
	d.mu.Unlock()
	s := &Store{db: d, keyring: keyring}
	runtime.AddCleanup(s, (*Database).leave, d)
	return s, nil
}

// Close lets go of the database. Its connections are closed once nothing that
// still runs can reach a store of it: a token request that is under way has its
// answer to save.
func (d *Database) Close() { d.leave() }

func (d *Database) leave() {
	d.mu.Lock()
	d.users--
	last := d.users == 0
	d.mu.Unlock()
	if last {
		go d.shut()
	}
}

func (d *Database) shut() {
	d.locks.close()
	if pool := d.opened.Load(); pool != nil {
		pool.Close()
	}
}

// open connects once.
func (d *Database) open(ctx context.Context) error {
	if d.opened.Load() != nil {
		return nil
	}
	select {
	case d.opening <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-d.opening }()
	if d.opened.Load() != nil {
		return nil
	}
	conn, err := pgx.ConnectConfig(ctx, d.config.ConnConfig.Copy())
	if err != nil {
		return d.failure(ctx, "connecting to PostgreSQL", err)
	}
	defer closeConn(conn)
	if err := d.checkServer(ctx, conn); err != nil {
		return err
	}
	if err := d.migrate(ctx, conn); err != nil {
		return err
	}
	// What it starts belongs to the pool, not to whoever needed it first.
	pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), d.config)
	if err != nil {
		return d.failure(ctx, "connecting to PostgreSQL", err)
	}
	d.opened.Store(pool)
	return nil
}

// connect opens a session that is not the pool's.
func (d *Database) connect(ctx context.Context) (*pgx.Conn, error) {
	conn, err := pgx.ConnectConfig(ctx, d.config.ConnConfig.Copy())
	if err != nil {
		return nil, err
	}
	if err := d.setUp(ctx, conn); err != nil {
		closeConn(conn)
		return nil, err
	}
	return conn, nil
}

// setUp bounds what a connection may take, and has it write to the disk before it
// says so: a rotated refresh token must outlive a power cut, whatever the database
// is set to.
func (d *Database) setUp(ctx context.Context, conn *pgx.Conn) error {
	timeout := strconv.FormatInt(d.queryTimeout.Milliseconds(), 10)
	return simple(ctx, conn, `set timezone = 'UTC'; set search_path = pg_catalog; set statement_timeout = `+timeout+
		`; set lock_timeout = `+timeout+`; set idle_in_transaction_session_timeout = `+timeout+
		`; select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'`)
}

// simple runs statements without preparing them.
func simple(ctx context.Context, conn *pgx.Conn, sql string) error {
	_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// checkServer refuses what could not work.
func (d *Database) checkServer(ctx context.Context, conn *pgx.Conn) error {
	if encoding := conn.PgConn().ParameterStatus("server_encoding"); encoding != "UTF8" && encoding != "" {
		return fmt.Errorf("the database's encoding is %s: make one with encoding UTF8, for names of sellers have letters of every kind", encoding)
	}
	pooled, err := d.pooledByTransaction(ctx, conn)
	if err != nil {
		return d.failure(ctx, "looking for a pooling proxy", err)
	}
	if pooled {
		return errors.New("there is a proxy in front of PostgreSQL that pools by the transaction or the statement: locks and notifications need sessions; " +
			"point dsn at the server itself, or at a port of the proxy that pools by the session (PgBouncer: pool_mode=session)")
	}
	return nil
}

// pooledByTransaction finds out whether a session's statements go to one backend.
// A server, and a proxy that gives its clients the backend's own number, is told by
// that number. Any other proxy is put to the test: while a second client is in a
// transaction, the first must still find its backend where it was.
func (d *Database) pooledByTransaction(ctx context.Context, first *pgx.Conn) (bool, error) {
	own, err := backend(ctx, first)
	if err != nil || own == strconv.FormatUint(uint64(first.PgConn().PID()), 10) {
		return false, err
	}
	second, err := pgx.ConnectConfig(ctx, d.config.ConnConfig.Copy())
	if err != nil {
		return false, err
	}
	defer closeConn(second)
	if err := simple(ctx, second, "begin"); err != nil {
		if _, refused := errors.AsType[*pgconn.PgError](err); refused {
			return true, nil // it pools by the statement
		}
		return false, err
	}
	taken, err := backend(ctx, second)
	if err != nil {
		return false, err
	}
	if taken == own {
		return true, nil
	}
	again, err := backend(ctx, first)
	if err != nil {
		return false, err
	}
	return again != own, simple(ctx, second, "rollback")
}

func backend(ctx context.Context, conn *pgx.Conn) (string, error) {
	results, err := conn.PgConn().Exec(ctx, "select pg_backend_pid()").ReadAll()
	if err != nil {
		return "", err
	}
	return string(results[0].Rows[0][0]), nil
}

// sql puts the tables in place of their names.
func (d *Database) sql(statement string) string { return d.names.Replace(statement) }

// do runs an operation, and once more if its connection turned out to be broken. A
// restart of the server breaks every connection of the pool, so the pool is reset
// and the second attempt uses a new one.
func (d *Database) do(ctx context.Context, what string, op func(ctx context.Context, pool *pgxpool.Pool) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	pool := d.opened.Load()
	err := op(ctx, pool)
	if broken(err) && ctx.Err() == nil {
		pool.Reset()
		err = op(ctx, pool)
	}
	return d.failure(ctx, what, err)
}

// batch runs statements in one transaction and one journey.
func (d *Database) batch(ctx context.Context, what string, queue func(b *pgx.Batch)) error {
	return d.do(ctx, what, func(ctx context.Context, pool *pgxpool.Pool) error {
		var b pgx.Batch
		queue(&b)
		return pool.SendBatch(ctx, &b).Close()
	})
}

// exec runs one statement.
func (d *Database) exec(ctx context.Context, what, statement string, args ...any) error {
	return d.do(ctx, what, func(ctx context.Context, pool *pgxpool.Pool) error {
		_, err := pool.Exec(ctx, d.sql(statement), args...)
		return err
	})
}

// broken reports whether an error is about the connection rather than about what
// was asked.
func broken(err error) bool {
	if err == nil {
		return false
	}
	said, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		_, refused := errors.AsType[*pgconn.ConnectError](err)
		return !refused && !errors.Is(err, pgx.ErrNoRows) && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) && connectionLost(err)
	}
	switch said.Code {
	case "57P01", "57P02", "57P03", readOnly: // the server ends, or starts
		return true
	}
	return strings.HasPrefix(said.Code, "08")
}

// connectionLost reports whether the other end is gone.
func connectionLost(err error) bool {
	if pgconn.SafeToRetry(err) {
		return true
	}
	_, network := errors.AsType[net.Error](err)
	return network || strings.Contains(err.Error(), "EOF") || strings.Contains(err.Error(), "conn closed") || strings.Contains(err.Error(), "closed pool")
}

// readOnly is what a server says to writes that has become a replica.
const readOnly = "25006"

// failure says what failed. A caller whose context is done is told so first.
func (d *Database) failure(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if said, ok := errors.AsType[*pgconn.PgError](err); ok && said.Code == readOnly {
		// All connections to it are of no use: the next ones look for the server
		// that can be written to.
		if pool := d.opened.Load(); pool != nil {
			pool.Reset()
		}
	}
	if cause := ctx.Err(); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%s: %w: %w", what, cause, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
