package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// Store is a [tokenstore.Store] in a [Database].
type Store struct {
	db      *Database
	keyring *secret.Keyring
}

const connectionColumns = `connection, application, seller, client_id, user_id, live, "authorization", nickname, country, created_at`

func scanConnection(row pgx.CollectableRow) (tokenstore.Connection, error) {
	var c tokenstore.Connection
	var authorization int64
	err := row.Scan((*text)(&c.ID), (*text)(&c.Application), (*text)(&c.Seller), (*text)(&c.Account.ClientID), &c.Account.UserID, &c.Account.Live,
		&authorization, (*text)(&c.Nickname), (*text)(&c.Country), &c.CreatedAt)
	c.Authorization, c.CreatedAt = uint64(authorization), c.CreatedAt.UTC()
	return c, err
}

// query reads all rows that a statement gives.
func query[T any](ctx context.Context, d *Database, what string, scan pgx.RowToFunc[T], statement string, args ...any) (all []T, err error) {
	err = d.do(ctx, what, func(ctx context.Context, pool *pgxpool.Pool) error {
		rows, err := pool.Query(ctx, d.sql(statement), args...)
		if err == nil {
			all, err = pgx.CollectRows(rows, scan)
		}
		return err
	})
	return all, err
}

// Connection returns a seller's connection, or ErrNotFound.
func (s *Store) Connection(ctx context.Context, application, seller string) (tokenstore.Connection, error) {
	place, err := placeKey(application, seller)
	if err != nil {
		return tokenstore.Connection{}, fmt.Errorf("reading a connection: %w", err)
	}
	found, err := query(ctx, s.db, "reading a connection", scanConnection,
		"select "+connectionColumns+" from {connections} where place = $1", place)
	if err != nil {
		return tokenstore.Connection{}, err
	}
	if len(found) == 0 {
		return tokenstore.Connection{}, fmt.Errorf("connection at %s: %w", place, tokenstore.ErrNotFound)
	}
	if c := found[0]; c.Application == application && c.Seller == seller && c.ID != "" {
		return c, nil
	}
	return tokenstore.Connection{}, fmt.Errorf("reading the connection at %s: it is not this seller's connection: restore it from a back-up", place)
}

// PutConnection makes c the seller's connection. One seller's changes take turns:
// between looking whether c was ended and writing it, another instance could end
// it and connect the seller anew, and that connection would be written over.
func (s *Store) PutConnection(ctx context.Context, c tokenstore.Connection) error {
	const what = "writing a connection"
	place, account, err := connectionKeys(c)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	authorization, err := counted("authorization", c.Authorization)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	var written int64
	err = s.db.batch(ctx, what, func(b *pgx.Batch) {
		b.Queue("select pg_advisory_xact_lock($1)", s.db.turn(place))
		b.Queue(s.db.sql(`insert into {connections} (place, account, `+connectionColumns+`)
			select $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12
			where not exists (select from {ended} where connection = $13)
			on conflict (place) do update set account = excluded.account, connection = excluded.connection,
				client_id = excluded.client_id, user_id = excluded.user_id, live = excluded.live, "authorization" = excluded."authorization",
				nickname = excluded.nickname, country = excluded.country, created_at = excluded.created_at`),
			place, account, text(c.ID), text(c.Application), text(c.Seller), text(c.Account.ClientID), c.Account.UserID, c.Account.Live,
			authorization, text(c.Nickname), text(c.Country), c.CreatedAt, digest("connection", c.ID)).
			Query(func(rows pgx.Rows) error {
				rows.Close()
				written = rows.CommandTag().RowsAffected()
				return rows.Err()
			})
		s.db.notify(b, change{Application: c.Application, Seller: c.Seller})
	})
	if err == nil && written == 0 {
		return fmt.Errorf("%s: %s was disconnected: %w", what, c.ID, tokenstore.ErrNotFound)
	}
	return err
}

// DeleteConnection ends c for good: its tombstone is written and the seller's
// connection, if it still is c, is deleted, both at once.
func (s *Store) DeleteConnection(ctx context.Context, c tokenstore.Connection) error {
	place, _, err := connectionKeys(c)
	if err != nil {
		return fmt.Errorf("ending a connection: %w", err)
	}
	return s.db.batch(ctx, "ending a connection", func(b *pgx.Batch) {
		b.Queue("select pg_advisory_xact_lock($1)", s.db.turn(place))
		b.Queue(s.db.sql("insert into {ended} (connection, place, at) values ($1, $2, $3) on conflict do nothing"), digest("connection", c.ID), place, time.Now())
		b.Queue(s.db.sql("delete from {connections} where place = $1 and connection = $2"), place, text(c.ID))
		s.db.notify(b, change{Application: c.Application, Seller: c.Seller})
	})
}

// Ended reports whether a connection was ended.
func (s *Store) Ended(ctx context.Context, c tokenstore.Connection) (bool, error) {
	const what = "looking whether a connection was ended"
	if _, _, err := connectionKeys(c); err != nil {
		return false, fmt.Errorf("%s: %w", what, err)
	}
	found, err := query(ctx, s.db, what, pgx.RowTo[bool], "select true from {ended} where connection = $1", digest("connection", c.ID))
	return len(found) > 0, err
}

// Connections returns the connections that point to an account.
func (s *Store) Connections(ctx context.Context, id tokenstore.AccountID) ([]tokenstore.Connection, error) {
	account, err := accountKey(id)
	if err != nil {
		return nil, fmt.Errorf("listing connections: %w", err)
	}
	found, err := query(ctx, s.db, "listing connections", scanConnection,
		"select "+connectionColumns+" from {connections} where account = $1", account)
	for _, c := range found {
		if c.Account != id {
			return nil, fmt.Errorf("listing the connections of account %s: one is account %s's: restore it from a back-up", id, c.Account)
		}
	}
	return found, err
}

// Consume notes that a state is used up, or returns ErrConsumed where it was. It
// is not repeated on a broken connection: the first try may have been the one that
// worked.
func (s *Store) Consume(ctx context.Context, state string, until time.Time) error {
	const what = "consuming a state"
	if state == "" {
		return errors.New(what + ": the state is empty")
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	tag, err := s.db.opened.Load().Exec(ctx, s.db.sql("insert into {consumed} (state, until_at) values ($1, $2) on conflict do nothing"), digest("state", state), until)
	if err != nil {
		return s.db.failure(ctx, what, err)
	}
	if tag.RowsAffected() == 0 {
		return tokenstore.ErrConsumed
	}
	return nil
}

func connectionKeys(c tokenstore.Connection) (place, account pgtype.UUID, err error) {
	if err = checkName("connection id", c.ID); err != nil {
		return place, account, err
	}
	if place, err = placeKey(c.Application, c.Seller); err != nil {
		return place, account, err
	}
	account, err = accountKey(c.Account)
	return place, account, err
}

// turn is the number of the lock that a seller's changes take for the length of
// their transaction.
func (d *Database) turn(place pgtype.UUID) int64 {
	return number(digest("turn", d.channel, place.String()))
}

var _ tokenstore.Store = (*Store)(nil)
