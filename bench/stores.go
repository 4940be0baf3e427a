package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
)

// unsynced is Caddy's file system without waiting for the disk: it is filled once,
// and measured as Caddy's own.
type unsynced struct {
	*certmagic.FileStorage
}

func (u unsynced) Store(_ context.Context, key string, value []byte) error {
	path := u.Filename(key)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return os.WriteFile(path, value, 0o600)
}

// fillFiles connects n sellers in a folder that is Caddy's storage.
func fillFiles(ctx context.Context, folder string, n int) error {
	keyring, err := newKeyring()
	if err != nil {
		return err
	}
	store := caddystorage.New(unsynced{&certmagic.FileStorage{Path: folder}}, keyring)
	obtained := time.Now()
	return atOnce(n, func(i int64) error {
		connection, pair := seller(i, obtained, life)
		if err := store.AddPair(ctx, connection.Account, pair); err != nil {
			return err
		}
		return store.PutConnection(ctx, connection)
	})
}

// atOnce does something for each number from 1, on all cores.
func atOnce(n int, do func(i int64) error) error {
	numbers, errs := make(chan int64), make(chan error, runtime.NumCPU())
	var workers sync.WaitGroup
	for range 2 * runtime.NumCPU() {
		workers.Go(func() {
			for i := range numbers {
				if err := do(i); err != nil {
					select {
					case errs <- err:
					default:
					}
				}
			}
		})
	}
	for i := range int64(n) {
		numbers <- i + 1
	}
	close(numbers)
	workers.Wait()
	select {
	case err := <-errs:
		return err
	default:
		return nil
	}
}

// fillPostgres connects n sellers in a database, by COPY: the tables are made by
// the store itself, and the rows are as it writes them, which the requests that
// follow show. None of them is due.
func fillPostgres(ctx context.Context, dsn string, n int, obtained time.Time) error {
	keyring, err := newKeyring()
	if err != nil {
		return err
	}
	database, err := postgres.Open(postgres.Config{DSN: secret.New(dsn)})
	if err != nil {
		return err
	}
	if _, err := database.Store(ctx, keyring); err != nil {
		return err
	}
	database.Close()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows := &rows{n: int64(n), keyring: keyring, obtained: obtained.Truncate(time.Microsecond)}
	for _, table := range []struct {
		name    string
		columns []string
		row     func(int64) ([]any, error)
	}{
		{"accounts", []string{"account", "client", "client_id", "user_id", "live", "due_at"}, rows.account},
		{"pairs", []string{"account", "authorization", "generation", "hash", "record"}, rows.pair},
		{"connections", []string{"place", "account", "connection", "application", "seller", "client_id", "user_id", "live", "authorization", "nickname", "country", "created_at"}, rows.connection},
	} {
		if _, err := conn.CopyFrom(ctx, pgx.Identifier{"mercadopago", table.name}, table.columns, pgx.CopyFromFunc(rows.each(table.row))); err != nil {
			return fmt.Errorf("copying %s: %w", table.name, err)
		}
	}
	_, err = conn.Exec(ctx, "vacuum analyze")
	return err
}

// rows makes the rows of the sellers.
type rows struct {
	n        int64
	keyring  *secret.Keyring
	obtained time.Time
}

func (r *rows) each(row func(int64) ([]any, error)) func() ([]any, error) {
	i := int64(0)
	return func() ([]any, error) {
		if i++; i > r.n {
			return nil, nil
		}
		return row(i)
	}
}

func (r *rows) account(i int64) ([]any, error) {
	c, _ := seller(i, r.obtained, life)
	return []any{digest("account", c.Account.String()), digest("client", clientID), clientID, c.Account.UserID, true, time.Now().Add(life / 2)}, nil
}

func (r *rows) pair(i int64) ([]any, error) {
	c, pair := seller(i, r.obtained, life)
	record, err := tokenstore.SealPair(r.keyring, secret.Record, c.Account, pair)
	var hash pgtype.UUID
	if err == nil {
		err = hash.Scan(pair.Hash)
	}
	return []any{digest("account", c.Account.String()), int64(1), int64(0), hash, string(record)}, err
}

func (r *rows) connection(i int64) ([]any, error) {
	c, _ := seller(i, r.obtained, life)
	return []any{
		digest("place", c.Application, c.Seller), digest("account", c.Account.String()), c.ID, c.Application, c.Seller,
		clientID, c.Account.UserID, true, int64(1), c.Nickname, c.Country, c.CreatedAt,
	}, nil
}

// digest is what the store finds a row by.
func digest(names ...string) pgtype.UUID {
	var text []byte
	for _, name := range names {
		text = binary.AppendUvarint(text, uint64(len(name)))
		text = append(text, name...)
	}
	sum := sha256.Sum256(text)
	return pgtype.UUID{Bytes: [16]byte(sum[:16]), Valid: true}
}
