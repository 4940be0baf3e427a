package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// Due takes accounts that are due. Several instances that ask at once pass over
// what the others are just taking (skip locked) instead of waiting for it, and
// what was taken is put off in the same statement: each account goes to one of
// them. Nobody holds a row, or a connection, while it works.
func (s *Store) Due(ctx context.Context, clientID string, now, until time.Time, n int) ([]tokenstore.AccountID, error) {
	return query(ctx, s.db, "taking due accounts", func(row pgx.CollectableRow) (id tokenstore.AccountID, err error) {
		err = row.Scan((*text)(&id.ClientID), &id.UserID, &id.Live)
		return id, err
	}, `with due as (
		select account from {accounts} where client = $1 and due_at <= $2 order by due_at limit $4 for update skip locked
	)
	update {accounts} a set due_at = $3 from due where a.account = due.account returning a.client_id, a.user_id, a.live`,
		digest("client", clientID), now, until, n)
}

// Schedule says when an account is due next. One that has never had a pair is not
// there to be scheduled, and needs no renewal.
func (s *Store) Schedule(ctx context.Context, id tokenstore.AccountID, at time.Time) error {
	key, err := accountKey(id)
	if err != nil {
		return fmt.Errorf("scheduling an account: %w", err)
	}
	var due *time.Time
	if !at.IsZero() {
		due = &at
	}
	return s.db.exec(ctx, "scheduling an account", "update {accounts} set due_at = $2 where account = $1 and due_at is distinct from $2", key, due)
}

var _ tokenstore.Scheduler = (*Store)(nil)
