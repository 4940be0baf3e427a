package caddystorage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// tombstone voids an account's pairs up to an authorization.
type tombstone struct {
	Authorization uint64 `json:"authorization"`
}

// readOrder is the order in which an account's records are read. Others write
// meanwhile, and what they delete must not leave half a picture:
//   - verdicts before pairs, for a pair is deleted before its verdict: a pair
//     that is still there cannot have lost its verdict;
//   - intents and marks before pairs, for they are withdrawn after what they
//     announce was done;
//   - the tombstone last, for it is written before the pairs are deleted. The
//     number of the next consent is reckoned from what is left.
var readOrder = []string{"verdict", "intent", "mark", movedName, "pair"}

// Account returns all that is known of an account.
func (s *Store) Account(ctx context.Context, id tokenstore.AccountID) (tokenstore.Account, error) {
	folder, err := accountFolder(id)
	if err != nil {
		return tokenstore.Account{}, fmt.Errorf("reading an account: %w", err)
	}
	account := tokenstore.Account{ID: id}
	// A pair that went between being named and being read was replaced: what
	// came in its place must be read, or the account would seem to have none. So
	// it is with an intent: what its POST gave was added before it was withdrawn.
	err = s.walk(ctx, folder, func(names []string) (gone bool, err error) {
		return s.read(ctx, folder, names, &account)
	})
	if err != nil {
		return tokenstore.Account{}, err
	}
	if err := s.readTombstone(ctx, folder, &account); err != nil {
		return tokenstore.Account{}, err
	}
	slices.SortFunc(account.Pairs, func(a, b tokenstore.Pair) int {
		if a.Less(b.PairID) {
			return -1
		}
		return 1
	})
	return account, nil
}

// read adds the named records to an account and tells whether a pair among them
// was gone.
func (s *Store) read(ctx context.Context, folder string, names []string, account *tokenstore.Account) (gone bool, err error) {
	for _, wanted := range readOrder {
		for _, name := range names {
			if kind(name) != wanted {
				continue
			}
			err := s.readRecord(ctx, folder, name, account)
			if errors.Is(err, tokenstore.ErrNotFound) {
				gone = gone || wanted == "pair" || wanted == "intent"
				continue
			}
			if err != nil {
				return false, err
			}
		}
	}
	for _, name := range names {
		if number, ok := strings.CutPrefix(name, tombstoneName+"-"); ok {
			if n, err := strconv.ParseUint(number, 10, 64); err == nil {
				account.Tombstone = max(account.Tombstone, n)
			}
		}
	}
	return gone, nil
}

func (s *Store) readRecord(ctx context.Context, folder, name string, account *tokenstore.Account) error {
	switch kind(name) {
	case "verdict":
		return getInto(ctx, s, folder+name, &account.Verdicts)
	case "intent":
		return getInto(ctx, s, folder+name, &account.Intents)
	case "mark":
		return getInto(ctx, s, folder+name, &account.Marks)
	case movedName:
		return s.get(ctx, folder+name, &account.Moved)
	}
	pair, err := s.pair(ctx, account.ID, folder, name)
	if err == nil {
		account.Pairs = append(account.Pairs, pair)
	}
	return err
}

// getInto reads a record and appends it.
func getInto[T any](ctx context.Context, s *Store, key string, all *[]T) error {
	var value T
	err := s.get(ctx, key, &value)
	if err == nil {
		*all = append(*all, value)
	}
	return err
}

// pair reads a pair.
func (s *Store) pair(ctx context.Context, id tokenstore.AccountID, folder, name string) (tokenstore.Pair, error) {
	raw, err := s.load(ctx, folder+name)
	if err != nil {
		return tokenstore.Pair{}, err
	}
	pair, err := s.open(id, name, raw)
	if err != nil {
		return tokenstore.Pair{}, fmt.Errorf("reading %s: %w", folder+name, err)
	}
	return pair, nil
}

// open opens a pair's record and holds it against the place it lies at.
func (s *Store) open(id tokenstore.AccountID, name string, raw []byte) (tokenstore.Pair, error) {
	owner, pair, err := tokenstore.OpenPair(s.keyring, secret.Record, raw)
	if err != nil {
		return tokenstore.Pair{}, err
	}
	if own, err := pairName(pair.PairID); err != nil || own != name || owner != id {
		return tokenstore.Pair{}, fmt.Errorf("it is pair %s of %s, which belongs elsewhere: restore it from a back-up", pair.PairID, owner)
	}
	return pair, nil
}

// readTombstone reads the tombstone that every reader finds at once, however
// late the listing is.
func (s *Store) readTombstone(ctx context.Context, folder string, account *tokenstore.Account) error {
	var t tombstone
	err := s.get(ctx, folder+tombstoneName, &t)
	if err != nil && !errors.Is(err, tokenstore.ErrNotFound) {
		return err
	}
	account.Tombstone = max(account.Tombstone, t.Authorization)
	return nil
}

// AddPair adds a pair.
func (s *Store) AddPair(ctx context.Context, id tokenstore.AccountID, pair tokenstore.Pair) error {
	folder, err := accountFolder(id)
	if err != nil {
		return fmt.Errorf("adding a pair: %w", err)
	}
	record, err := tokenstore.SealPair(s.keyring, secret.Record, id, pair)
	if err != nil {
		return fmt.Errorf("adding a pair: %w", err)
	}
	name, err := pairName(pair.PairID)
	if err != nil {
		return fmt.Errorf("adding a pair: %w", err)
	}
	return s.change(ctx, folder, func() error {
		raw, err := s.load(ctx, folder+name)
		if err == nil {
			if _, err := s.open(id, name, raw); err == nil {
				return nil
			}
		}
		// A record by this name that does not open is damaged, or sealed with a lost
		// key. It was this very pair, so it is written again. After any other error a
		// good record may be there, which must not be overwritten.
		if err != nil && !errors.Is(err, tokenstore.ErrNotFound) && !errors.Is(err, errTooLong) {
			return err
		}
		return s.save(ctx, folder+name, record)
	}, []string{name}, nil)
}

// DeletePairs deletes pairs with their verdicts.
func (s *Store) DeletePairs(ctx context.Context, id tokenstore.AccountID, pairs ...tokenstore.PairID) error {
	folder, err := accountFolder(id)
	if err != nil {
		return fmt.Errorf("deleting pairs: %w", err)
	}
	if len(pairs) == 0 {
		return nil
	}
	names := make([]string, len(pairs))
	for i, p := range pairs {
		if names[i], err = pairName(p); err != nil {
			return fmt.Errorf("deleting pairs: %w", err)
		}
	}
	if err := s.drop(ctx, folder, names...); err != nil {
		return err
	}
	return s.dropVerdicts(ctx, folder, names, pairs)
}

// dropVerdicts deletes the verdicts of pairs that are gone. A verdict that
// speaks of another pair as well stays: where the provider does not change the
// refresh token, a pair and its successor have one hash.
func (s *Store) dropVerdicts(ctx context.Context, folder string, gone []string, pairs []tokenstore.PairID) error {
	names, err := s.names(ctx, folder)
	if err != nil {
		return err
	}
	var verdicts []string
	for _, p := range pairs {
		verdict, err := verdictName(p.Hash)
		if err != nil {
			return err
		}
		shared := slices.ContainsFunc(names, func(name string) bool {
			return kind(name) == "pair" && strings.HasSuffix(name, p.Hash) && !slices.Contains(gone, name)
		})
		if !shared && slices.Contains(names, verdict) {
			verdicts = append(verdicts, verdict)
		}
	}
	if len(verdicts) == 0 {
		return nil
	}
	return s.drop(ctx, folder, verdicts...)
}

// PutIntent writes or renews an intent.
func (s *Store) PutIntent(ctx context.Context, id tokenstore.AccountID, intent tokenstore.Intent) error {
	name, err := intentName(intent)
	return s.addTo(ctx, "an intent", id, name, err, intent)
}

// DeleteIntent withdraws an intent.
func (s *Store) DeleteIntent(ctx context.Context, id tokenstore.AccountID, intent tokenstore.Intent) error {
	name, err := intentName(intent)
	return s.dropFrom(ctx, "an intent", id, name, err)
}

// PutVerdict writes a verdict.
func (s *Store) PutVerdict(ctx context.Context, id tokenstore.AccountID, verdict tokenstore.Verdict) error {
	name, err := verdictName(verdict.Pair)
	return s.addTo(ctx, "a verdict", id, name, err, verdict)
}

// PutMark writes the mark of a disconnect.
func (s *Store) PutMark(ctx context.Context, id tokenstore.AccountID, mark tokenstore.Mark) error {
	name, err := markName(mark)
	return s.addTo(ctx, "a mark", id, name, err, mark)
}

// DeleteMark removes the mark of a disconnect.
func (s *Store) DeleteMark(ctx context.Context, id tokenstore.AccountID, mark tokenstore.Mark) error {
	name, err := markName(mark)
	return s.dropFrom(ctx, "a mark", id, name, err)
}

// PutMoved writes that another store is in charge of the account.
func (s *Store) PutMoved(ctx context.Context, id tokenstore.AccountID, moved tokenstore.Moved) error {
	return s.addTo(ctx, "where an account moved", id, movedName, nil, moved)
}

// DeleteMoved writes that this store is in charge of the account.
func (s *Store) DeleteMoved(ctx context.Context, id tokenstore.AccountID) error {
	return s.dropFrom(ctx, "where an account moved", id, movedName, nil)
}

// PutTombstone voids the account's pairs up to an authorization. It is written
// twice: under a key of its own, which no other writer lowers, and at the fixed
// key, which no late listing hides.
func (s *Store) PutTombstone(ctx context.Context, id tokenstore.AccountID, authorization uint64) error {
	folder, err := accountFolder(id)
	if err != nil {
		return fmt.Errorf("writing a tombstone: %w", err)
	}
	if authorization == 0 {
		return nil
	}
	value := tombstone{Authorization: authorization}
	name := tombstoneName + "-" + strconv.FormatUint(authorization, 10)
	return s.change(ctx, folder, func() error {
		if err := s.put(ctx, folder+name, value); err != nil {
			return err
		}
		var now tombstone
		err := s.get(ctx, folder+tombstoneName, &now)
		if err != nil && !errors.Is(err, tokenstore.ErrNotFound) {
			return err
		}
		if now.Authorization >= authorization {
			return nil
		}
		return s.put(ctx, folder+tombstoneName, value)
	}, []string{name}, nil)
}

func (s *Store) addTo(ctx context.Context, what string, id tokenstore.AccountID, name string, nameErr error, value any) error {
	folder, err := accountFolder(id)
	if err = errors.Join(nameErr, err); err != nil {
		return fmt.Errorf("writing %s: %w", what, err)
	}
	return s.add(ctx, folder, name, value)
}

func (s *Store) dropFrom(ctx context.Context, what string, id tokenstore.AccountID, name string, nameErr error) error {
	folder, err := accountFolder(id)
	if err = errors.Join(nameErr, err); err != nil {
		return fmt.Errorf("deleting %s: %w", what, err)
	}
	return s.drop(ctx, folder, name)
}

// Lock waits for the account's lock.
func (s *Store) Lock(ctx context.Context, id tokenstore.AccountID) (tokenstore.Lock, error) {
	folder, err := accountFolder(id)
	if err != nil {
		return nil, fmt.Errorf("locking an account: %w", err)
	}
	return s.lock(ctx, lockName("account", folder))
}
