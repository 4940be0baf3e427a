package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// Size is what sellers take on disk, in one table or in files.
type Size struct {
	Name          string
	Data, Indexes float64 // bytes a seller
}

// Refresh is what refreshing an expired token costs the database and Caddy, with
// the seller read first.
type Refresh struct {
	Count           int
	Statements, WAL float64
	CPU             float64 // microseconds of Caddy's
}

// Needs is what so many sellers need.
type Needs struct {
	Sellers int
	report  *Report
}

// renewedAfter is when a token of [life] is renewed by default.
const renewedAfter = life - 30*24*time.Hour

// Needs are the sizes that the page tells the needs of.
func (r *Report) Needs() []Needs {
	return []Needs{{10_000, r}, {1_000_000, r}, {10_000_000, r}}
}

// Measured reports whether so many sellers were in a store of this run.
func (n Needs) Measured() bool { return n.Sellers <= n.report.Stores[len(n.report.Stores)-1].Sellers }

// Refreshes are token requests a day: of each account one in 150 days.
func (n Needs) Refreshes() float64 { return float64(n.Sellers) / (renewedAfter.Hours() / 24) }

// Statements are those a second that refreshes need.
func (n Needs) Statements() float64 { return n.Refreshes() * n.report.Refresh.Statements / 86400 }

// WAL is what the database writes in a day for refreshes.
func (n Needs) WAL() float64 { return n.Refreshes() * n.report.Refresh.WAL }

// Disk is what the sellers take in PostgreSQL, and Files in a folder.
func (n Needs) Disk() float64 { return float64(n.Sellers) * n.report.perSeller() }

// Files is what they take in a folder.
func (n Needs) Files() float64 { return float64(n.Sellers) * n.report.FolderSize.Data }

// Memory is what an instance needs to have all of them in memory; 0 where that was
// not measured.
func (n Needs) Memory() float64 {
	if len(n.report.Growth) == 0 {
		return 0
	}
	return float64(n.Sellers) * n.report.Growth[len(n.report.Growth)-1].PerSeller
}

// Walk is how many hours an instance takes to go through all accounts.
func (n Needs) Walk() float64 { return float64(n.Sellers) / defaultWalkRate / 60 }

// perSeller is what a seller takes in PostgreSQL.
func (r *Report) perSeller() (bytes float64) {
	for _, table := range r.Tables {
		bytes += table.Data + table.Indexes
	}
	return bytes
}

// tables asks how large each table is.
func tables(ctx context.Context, dsn string, sellers int) ([]Size, error) {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `select relname, pg_table_size(oid)::float8 / $1, pg_indexes_size(oid)::float8 / $1
		from pg_class where relkind = 'r' and relnamespace = 'mercadopago'::regnamespace and reltuples > 0.5 * $1 order by 2 desc`, float64(sellers))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[Size])
}

// folderSize is what a seller takes in a folder: blocks of the disk, not bytes.
func folderSize(folder string, sellers int) (Size, error) {
	var blocks int64
	err := filepath.WalkDir(folder, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return errors.New("the system does not tell what a file takes on disk")
		}
		blocks += stat.Blocks
		return nil
	})
	return Size{Name: "files", Data: float64(blocks) * 512 / float64(sellers)}, err
}

// refreshes measures what it costs to refresh tokens that have ended.
func (b *bench) refreshes(ctx context.Context, r *Report) error {
	b.say("refreshing %s tokens that have ended", count(b.coldSellers))
	server, err := postgrestest.Launch("fsync=on", "shared_preload_libraries=pg_stat_statements")
	if err != nil {
		return err
	}
	defer server.Close()
	if err := fillPostgres(ctx, server.DSN(), b.coldSellers, time.Now().Add(-life)); err != nil {
		return err
	}
	provider := httptest.NewServer(new(renewing))
	defer provider.Close()
	s := &Store{Name: "PostgreSQL", Sellers: b.coldSellers, provider: provider.URL}
	s.lines = [2]string{"storage file_system " + filepath.Join(b.dir, "refreshes"), "store postgres " + server.DSN()}
	c, err := b.storeServer(ctx, s, storeSites, defaultWalkRate)
	if err != nil {
		return err
	}
	defer c.stop()
	conn, err := pgx.Connect(ctx, server.DSN())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var before, after, statements float64
	const position = "select (pg_current_wal_lsn() - '0/0')::float8"
	if _, err := conn.Exec(ctx, "create extension pg_stat_statements"); err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, position).Scan(&before); err != nil {
		return err
	}
	if _, err := conn.Exec(ctx, "select pg_stat_statements_reset()"); err != nil {
		return err
	}
	// The last one was the first to be asked for, and has a new token already.
	ask := c.asked(s, b.coldSellers-1, 8)
	ask.among = b.coldSellers - 1
	got, err := b.send(ctx, ask)
	if err != nil {
		return err
	}
	if err := conn.QueryRow(ctx, position).Scan(&after); err != nil {
		return err
	}
	err = conn.QueryRow(ctx, "select sum(calls)::float8 from pg_stat_statements where query !~ 'pg_stat_statements|pg_current_wal'").Scan(&statements)
	n := float64(got.Requests)
	r.Refresh = Refresh{Count: got.Requests, Statements: statements / n, WAL: (after - before) / n, CPU: got.cpuPerRequest() / 1e3}
	return err
}

// renewing is a provider that knows every refresh token.
type renewing struct{ issued atomic.Int64 }

func (p *renewing) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Token string `json:"refresh_token"`
	}
	err := json.NewDecoder(r.Body).Decode(&asked)
	number, wrong := strconv.ParseInt(asked.Token[strings.LastIndexByte(asked.Token, '-')+1:], 10, 64)
	if err = errors.Join(err, wrong); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_, next := seller(number-firstAccount, time.Now(), life)
	n := p.issued.Add(1)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{
		"access_token": fmt.Sprintf("APP_USR-%s-112210-%032d-%d", clientID, n, number), "token_type": "Bearer",
		"refresh_token": fmt.Sprintf("TG-%024d-%d", n, number), "public_key": next.PublicKey, "scope": next.Scope,
		"expires_in": int(life.Seconds()), "user_id": number, "live_mode": true,
	})
}
