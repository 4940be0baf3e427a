package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// readAccount reads all of an account in one statement, and so at one moment: what
// others replace meanwhile is there before or after, never neither.
const readAccount = `select
	coalesce(a.tombstone, 0), a.due_at, a.moved::text,
	array(select record::text from {pairs} where account = $1),
	(select json_agg(json_build_object('pair', pair, 'instance', instance, 'nonce', nonce, 'attempt', attempt, 'at', at)) from {intents} where account = $1),
	(select json_agg(json_build_object('pair', pair, 'reason', reason, 'at', at)) from {verdicts} where account = $1),
	(select json_agg(json_build_object('connection', connection, 'authorization', "authorization", 'at', at)) from {marks} where account = $1)
from (values ($1::uuid)) wanted(account) left join {accounts} a using (account)`

// accountRow is what readAccount gives.
type accountRow struct {
	tombstone int64
	dueAt     *time.Time
	moved     *tokenstore.Moved
	pairs     []string
	// In these a pair's hash is spelled as PostgreSQL spells a uuid, and texts as
	// text does.
	intents []struct {
		Pair            string
		Instance, Nonce text
		Attempt         int
		At              time.Time
	}
	verdicts []struct {
		Pair   string
		Reason text
		At     time.Time
	}
	marks []struct {
		Connection    text
		Authorization uint64
		At            time.Time
	}
}

func scanAccount(row pgx.CollectableRow) (r accountRow, err error) {
	var moved, intents, verdicts, marks []byte
	if err := row.Scan(&r.tombstone, &r.dueAt, &moved, &r.pairs, &intents, &verdicts, &marks); err != nil {
		return r, err
	}
	for _, list := range []struct {
		raw  []byte
		into any
	}{{moved, &r.moved}, {intents, &r.intents}, {verdicts, &r.verdicts}, {marks, &r.marks}} {
		if list.raw == nil {
			continue
		}
		if err := json.Unmarshal(list.raw, list.into); err != nil {
			return r, errors.New("a record is not readable: restore it from a back-up")
		}
	}
	return r, nil
}

// Account returns all that is known of an account.
func (s *Store) Account(ctx context.Context, id tokenstore.AccountID) (tokenstore.Account, error) {
	const what = "reading an account"
	key, err := accountKey(id)
	if err != nil {
		return tokenstore.Account{}, fmt.Errorf("%s: %w", what, err)
	}
	rows, err := query(ctx, s.db, what, scanAccount, readAccount, key)
	if err != nil {
		return tokenstore.Account{}, err
	}
	row := rows[0]
	account := tokenstore.Account{ID: id, Tombstone: uint64(row.tombstone), Moved: row.moved}
	if row.dueAt != nil {
		account.DueAt = row.dueAt.UTC()
	}
	for _, record := range row.pairs {
		pair, err := s.open(id, []byte(record))
		if err != nil {
			return tokenstore.Account{}, fmt.Errorf("%s: %w", what, err)
		}
		account.Pairs = append(account.Pairs, pair)
	}
	slices.SortFunc(account.Pairs, func(a, b tokenstore.Pair) int {
		if a.Less(b.PairID) {
			return -1
		}
		return 1
	})
	for _, i := range row.intents {
		account.Intents = append(account.Intents, tokenstore.Intent{Pair: plainHash(i.Pair), Instance: string(i.Instance), Nonce: string(i.Nonce), Attempt: i.Attempt, At: i.At.UTC()})
	}
	for _, v := range row.verdicts {
		account.Verdicts = append(account.Verdicts, tokenstore.Verdict{Pair: plainHash(v.Pair), Reason: string(v.Reason), At: v.At.UTC()})
	}
	for _, m := range row.marks {
		account.Marks = append(account.Marks, tokenstore.Mark{Connection: string(m.Connection), Authorization: m.Authorization, At: m.At.UTC()})
	}
	return account, nil
}

func plainHash(uuid string) string { return strings.ReplaceAll(uuid, "-", "") }

// open opens a pair's record and holds it against the account it was found at.
func (s *Store) open(id tokenstore.AccountID, record []byte) (tokenstore.Pair, error) {
	owner, pair, err := tokenstore.OpenPair(s.keyring, secret.Record, record)
	if err != nil {
		return tokenstore.Pair{}, err
	}
	if owner != id {
		return tokenstore.Pair{}, fmt.Errorf("pair %s of %s lies at account %s: restore it from a back-up", pair.PairID, owner, id)
	}
	return pair, nil
}

// graceful is how long after a pair was obtained its account comes due if nobody
// scheduled it: the instance that added the pair may have crashed right after.
const graceful = 10 * time.Minute

// AddPair adds a pair.
func (s *Store) AddPair(ctx context.Context, id tokenstore.AccountID, pair tokenstore.Pair) error {
	const what = "adding a pair"
	key, err := accountKey(id)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	record, err := tokenstore.SealPair(s.keyring, secret.Record, id, pair)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	authorization, generation, hash, err := pairKey(pair.PairID)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	damaged := false
	for {
		there := ""
		err := s.db.batch(ctx, what, func(b *pgx.Batch) {
			if damaged {
				b.Queue(s.db.sql(`delete from {pairs} where account = $1 and "authorization" = $2 and generation = $3 and hash = $4`), key, authorization, generation, hash)
			}
			b.Queue(s.db.sql(`insert into {pairs} (account, "authorization", generation, hash, record) values ($1, $2, $3, $4, $5) on conflict do nothing`),
				key, authorization, generation, hash, string(record))
			b.Queue(s.db.sql(`insert into {accounts} as a (account, client, client_id, user_id, live, due_at) values ($1, $2, $3, $4, $5, $6)
				on conflict (account) do update set due_at = least(a.due_at, excluded.due_at)`),
				key, digest("client", id.ClientID), text(id.ClientID), id.UserID, id.Live, pair.ObtainedAt.Add(graceful))
			b.Queue(s.db.sql(`select record::text from {pairs} where account = $1 and "authorization" = $2 and generation = $3 and hash = $4`),
				key, authorization, generation, hash).QueryRow(func(row pgx.Row) error { return row.Scan(&there) })
			s.db.notify(b, change{Account: id})
		})
		if err != nil || damaged {
			return err
		}
		if there == string(record) {
			return nil
		}
		if _, err := s.open(id, []byte(there)); err == nil {
			return nil
		}
		// A record by this name that does not open is damaged, or sealed with a key
		// that is gone. It was this very pair, whose tokens are here.
		damaged = true
	}
}

// DeletePairs deletes pairs with their verdicts, but for a verdict that speaks of
// another pair as well: where the provider does not change the refresh token, a
// pair and its successor have one hash.
func (s *Store) DeletePairs(ctx context.Context, id tokenstore.AccountID, pairs ...tokenstore.PairID) error {
	const what = "deleting pairs"
	key, err := accountKey(id)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if len(pairs) == 0 {
		return nil
	}
	authorizations, generations, hashes := make([]int64, len(pairs)), make([]int64, len(pairs)), make([]pgtype.UUID, len(pairs))
	for i, p := range pairs {
		if authorizations[i], generations[i], hashes[i], err = pairKey(p); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return s.db.batch(ctx, what, func(b *pgx.Batch) {
		b.Queue(s.db.sql(`delete from {pairs} p using unnest($2::bigint[], $3::bigint[], $4::uuid[]) gone("authorization", generation, hash)
			where p.account = $1 and p."authorization" = gone."authorization" and p.generation = gone.generation and p.hash = gone.hash`),
			key, authorizations, generations, hashes)
		b.Queue(s.db.sql(`delete from {verdicts} v where account = $1 and pair = any($2::uuid[])
			and not exists (select from {pairs} p where p.account = v.account and p.hash = v.pair)`), key, hashes)
	})
}

func pairKey(id tokenstore.PairID) (authorization, generation int64, hash pgtype.UUID, err error) {
	authorization, err = counted("authorization", id.Authorization)
	if err == nil {
		generation, err = counted("generation", id.Generation)
	}
	if err == nil {
		hash, err = pairHash(id.Hash)
	}
	return authorization, generation, hash, err
}

// PutIntent writes or renews an intent.
func (s *Store) PutIntent(ctx context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	key, pair, err := s.keys(id, i.Pair)
	if err != nil {
		return fmt.Errorf("writing an intent: %w", err)
	}
	return s.db.exec(ctx, "writing an intent", `insert into {intents} (account, pair, name, instance, nonce, attempt, at) values ($1, $2, $3, $4, $5, $6, $7)
		on conflict (account, pair, name) do update set attempt = excluded.attempt, at = excluded.at`,
		key, pair, digest("intent", i.Instance, i.Nonce), text(i.Instance), text(i.Nonce), i.Attempt, i.At)
}

// DeleteIntent withdraws an intent.
func (s *Store) DeleteIntent(ctx context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	key, pair, err := s.keys(id, i.Pair)
	if err != nil {
		return fmt.Errorf("deleting an intent: %w", err)
	}
	return s.db.exec(ctx, "deleting an intent", "delete from {intents} where account = $1 and pair = $2 and name = $3",
		key, pair, digest("intent", i.Instance, i.Nonce))
}

// PutVerdict writes a verdict.
func (s *Store) PutVerdict(ctx context.Context, id tokenstore.AccountID, v tokenstore.Verdict) error {
	key, pair, err := s.keys(id, v.Pair)
	if err != nil {
		return fmt.Errorf("writing a verdict: %w", err)
	}
	return s.db.batch(ctx, "writing a verdict", func(b *pgx.Batch) {
		b.Queue(s.db.sql(`insert into {verdicts} (account, pair, reason, at) values ($1, $2, $3, $4)
			on conflict (account, pair) do update set reason = excluded.reason, at = excluded.at`), key, pair, text(v.Reason), v.At)
		s.db.notify(b, change{Account: id})
	})
}

func (s *Store) keys(id tokenstore.AccountID, hash string) (account, pair pgtype.UUID, err error) {
	if account, err = accountKey(id); err == nil {
		pair, err = pairHash(hash)
	}
	return account, pair, err
}

// PutMark writes the mark of a disconnect.
func (s *Store) PutMark(ctx context.Context, id tokenstore.AccountID, m tokenstore.Mark) error {
	key, err := markKeys(id, m)
	if err != nil {
		return fmt.Errorf("writing a mark: %w", err)
	}
	authorization, err := counted("authorization", m.Authorization)
	if err != nil {
		return fmt.Errorf("writing a mark: %w", err)
	}
	return s.db.exec(ctx, "writing a mark", `insert into {marks} (account, name, connection, "authorization", at) values ($1, $2, $3, $4, $5)
		on conflict (account, name) do update set "authorization" = excluded."authorization", at = excluded.at`,
		key, digest("mark", m.Connection), text(m.Connection), authorization, m.At)
}

// DeleteMark removes the mark of a disconnect.
func (s *Store) DeleteMark(ctx context.Context, id tokenstore.AccountID, m tokenstore.Mark) error {
	key, err := markKeys(id, m)
	if err != nil {
		return fmt.Errorf("deleting a mark: %w", err)
	}
	return s.db.exec(ctx, "deleting a mark", "delete from {marks} where account = $1 and name = $2", key, digest("mark", m.Connection))
}

func markKeys(id tokenstore.AccountID, m tokenstore.Mark) (pgtype.UUID, error) {
	if err := checkName("connection id", m.Connection); err != nil {
		return pgtype.UUID{}, err
	}
	return accountKey(id)
}

// PutTombstone voids the account's pairs up to an authorization.
func (s *Store) PutTombstone(ctx context.Context, id tokenstore.AccountID, authorization uint64) error {
	const what = "writing a tombstone"
	key, err := accountKey(id)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	number, err := counted("authorization", authorization)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if authorization == 0 {
		return nil
	}
	return s.db.batch(ctx, what, func(b *pgx.Batch) {
		b.Queue(s.db.sql(`insert into {accounts} as a (account, client, client_id, user_id, live, tombstone) values ($1, $2, $3, $4, $5, $6)
			on conflict (account) do update set tombstone = greatest(a.tombstone, excluded.tombstone)`),
			key, digest("client", id.ClientID), text(id.ClientID), id.UserID, id.Live, number)
		s.db.notify(b, change{Account: id})
	})
}

// PutMoved writes that another store is in charge of the account, which is not due
// here any more.
func (s *Store) PutMoved(ctx context.Context, id tokenstore.AccountID, moved tokenstore.Moved) error {
	const what = "writing where an account moved"
	key, err := accountKey(id)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	record, err := json.Marshal(moved)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return s.db.batch(ctx, what, func(b *pgx.Batch) {
		b.Queue(s.db.sql(`insert into {accounts} (account, client, client_id, user_id, live, moved) values ($1, $2, $3, $4, $5, $6)
			on conflict (account) do update set moved = excluded.moved, due_at = null`),
			key, digest("client", id.ClientID), text(id.ClientID), id.UserID, id.Live, string(record))
		s.db.notify(b, change{Account: id})
	})
}

// DeleteMoved writes that this store is in charge of the account, which comes due
// at once: nobody has planned for it here.
func (s *Store) DeleteMoved(ctx context.Context, id tokenstore.AccountID) error {
	const what = "deleting where an account moved"
	key, err := accountKey(id)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return s.db.batch(ctx, what, func(b *pgx.Batch) {
		b.Queue(s.db.sql("update {accounts} set moved = null, due_at = now() where account = $1 and moved is not null"), key)
		s.db.notify(b, change{Account: id})
	})
}
