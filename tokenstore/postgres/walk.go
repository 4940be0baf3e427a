package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// keptFor is how long a note outlives its use: longer than any request that began
// before runs, and than clocks in a fleet differ.
const keptFor = 24 * time.Hour

// Accounts goes through the accounts in the order of their keys.
func (s *Store) Accounts(ctx context.Context, after string, n int) (ids []tokenstore.AccountID, next string, err error) {
	const what = "listing accounts"
	from, err := cursor(after)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", what, err)
	}
	var last pgtype.UUID
	ids, err = query(ctx, s.db, what, func(row pgx.CollectableRow) (id tokenstore.AccountID, err error) {
		err = row.Scan(&last, (*text)(&id.ClientID), &id.UserID, &id.Live)
		return id, err
	}, "select account, client_id, user_id, live from {accounts} where $1::uuid is null or account > $1 order by account limit $2", from, max(n, 1))
	if err != nil || len(ids) < max(n, 1) {
		return ids, "", err
	}
	return ids, last.String(), nil
}

// cursor reads where a walk goes on; null is its beginning.
func cursor(after string) (from pgtype.UUID, err error) {
	if after == "" {
		return from, nil
	}
	if from.Scan(after) != nil {
		return from, errors.New("where to go on was told by another store")
	}
	return from, nil
}

// ended stands before the key at which cleaning up goes on among the tombstones of
// connections; consumed states need none, for the index finds the next.
const endedCursor = "ended/"

// CleanUp deletes notes that have served their time.
func (s *Store) CleanUp(ctx context.Context, now time.Time, after string, n int) (next string, err error) {
	const what = "cleaning up"
	old, left := now.Add(-keptFor), max(n, 1)
	if after == "" || after == "consumed" {
		states, err := query(ctx, s.db, what, pgx.RowTo[pgtype.UUID],
			`delete from {consumed} where state in (select state from {consumed} where until_at <= $1 order by until_at limit $2 for update skip locked) returning state`, old, left)
		if err != nil {
			return "", err
		}
		if len(states) == left {
			return "consumed", nil
		}
		after = endedCursor
	}
	key, known := strings.CutPrefix(after, endedCursor)
	from, err := cursor(key)
	if err != nil || !known {
		return "", fmt.Errorf("%s: where to go on was told by another store", what)
	}
	seen, err := query(ctx, s.db, what, pgx.RowTo[pgtype.UUID],
		"select connection from {ended} where $1::uuid is null or connection > $1 order by connection limit $2", from, left)
	if err != nil || len(seen) == 0 {
		return "", err
	}
	// Where a seller has no other connection, the tombstone is what keeps the old one
	// from being made again.
	err = s.db.exec(ctx, what, `delete from {ended} e where connection = any($1::uuid[]) and at <= $2
		and exists (select from {connections} c where c.place = e.place)`, seen, old)
	if err != nil || len(seen) < left {
		return "", err
	}
	return endedCursor + seen[len(seen)-1].String(), nil
}
