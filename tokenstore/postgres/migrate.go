package postgres

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/tern/v2/migrate"
)

//go:embed migrations/*.sql
var migrations embed.FS

// migrateTimeout bounds one statement of a migration: at ten million sellers an
// index takes minutes.
const migrateTimeout = 30 * time.Minute

// migrate brings the tables up to date. Instances that start together take turns,
// and where nothing is to be done none of them waits, or needs the right to make
// tables.
//
// Tables that are newer than this program are left as they are: migrations only
// add, and an instance that a roll-out, or the undoing of one, starts late must
// not be turned away.
func (d *Database) migrate(ctx context.Context, conn *pgx.Conn) error {
	version, err := d.version(ctx, conn)
	if err != nil {
		return d.failure(ctx, "reading the version of the tables", err)
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	names, err := migrate.FindMigrations(files)
	if err != nil {
		return err
	}
	if version >= len(names) {
		return nil
	}
	if err := d.migrateFrom(ctx, conn, files); err != nil {
		return d.failure(ctx, "bringing the tables up to date", err)
	}
	return nil
}

func (d *Database) migrateFrom(ctx context.Context, conn *pgx.Conn, files fs.FS) error {
	if err := simple(ctx, conn, fmt.Sprintf("set statement_timeout = %d", migrateTimeout.Milliseconds())); err != nil {
		return err
	}
	if err := d.makeSchema(ctx, conn); err != nil {
		return err
	}
	m, err := migrate.NewMigrator(ctx, conn, d.sql("{version}"))
	if err != nil {
		return err
	}
	m.Data = map[string]any{"schema": d.schema, "prefix": d.prefix}
	if err := m.LoadMigrations(files); err != nil {
		return err
	}
	err = m.Migrate(ctx)
	if bad := migrate.BadVersionError(""); errors.As(err, &bad) {
		// A newer instance was here between our look and our turn.
		return nil
	}
	return err
}

// version returns 0 where there are no tables.
func (d *Database) version(ctx context.Context, conn *pgx.Conn) (version int, err error) {
	var there bool
	err = conn.QueryRow(ctx, "select to_regclass($1) is not null", d.sql("{version}")).Scan(&there)
	if err != nil || !there {
		return 0, err
	}
	err = conn.QueryRow(ctx, d.sql("select coalesce(max(version), 0) from {version}")).Scan(&version)
	return version, err
}

// makeSchema makes the schema where it is missing: under a lock, because two that
// make it at once would both try, and not by "if not exists", because that wants
// the right to make schemas even where there is one.
func (d *Database) makeSchema(ctx context.Context, conn *pgx.Conn) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1)", number(digest("schema", d.schema))); err != nil {
			return err
		}
		var there bool
		err := tx.QueryRow(ctx, "select to_regnamespace($1) is not null", d.schema).Scan(&there)
		if err == nil && !there {
			_, err = tx.Exec(ctx, "create schema "+d.schema)
		}
		return err
	})
}
