package caddystorage

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

var (
	partName     = regexp.MustCompile(`^(n-[a-z2-7]{1,80}|h-[0-9a-f]{64})$`)
	accountName  = regexp.MustCompile(`^[1-9][0-9]{0,18}-(live|test)$`)
	consumedName = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// listing is the accounts of one client as a walk saw them. A folder can only be
// listed as a whole: listed anew for each page, a walk would cost the square of
// its accounts.
type listing struct {
	client string
	names  []string
	at     time.Time
}

// listedFor is how long a walk goes on with what it listed. Who comes meanwhile
// is met by the next walk, who goes is read as one who has nothing.
const listedFor = 15 * time.Minute

// Accounts lists folders, not records: an account costs a name.
func (s *Store) Accounts(ctx context.Context, after string, n int) (ids []tokenstore.AccountID, next string, err error) {
	clients, err := s.children(ctx, root+"accounts/", partName)
	if err != nil {
		return nil, "", err
	}
	from, _, _ := strings.Cut(after, "/")
	for _, client := range clients {
		if client < from {
			continue
		}
		names, err := s.accountsOf(ctx, client, client == from)
		if err != nil {
			return nil, "", err
		}
		for _, name := range names {
			at := client + "/" + name
			if at <= after {
				continue
			}
			if len(ids) >= max(n, 1) {
				return ids, next, nil
			}
			next = at
			id, ok, err := s.accountAt(ctx, client, name)
			if err != nil {
				return nil, "", err
			}
			if ok {
				ids = append(ids, id)
			}
		}
	}
	s.listed.Store(nil)
	return ids, "", nil
}

// accountsOf lists the accounts of a client, unless a walk that goes on has just
// done so.
func (s *Store) accountsOf(ctx context.Context, client string, goesOn bool) ([]string, error) {
	if last := s.listed.Load(); goesOn && last != nil && last.client == client && time.Since(last.at) < listedFor {
		return last.names, nil
	}
	now := time.Now()
	names, err := s.children(ctx, root+"accounts/"+client+"/", accountName)
	if err == nil {
		s.listed.Store(&listing{client, names, now})
	}
	return names, err
}

// accountAt returns whose folder it is. A client id too long to be encoded in the
// folder's name stands in the records: in those of its pairs.
func (s *Store) accountAt(ctx context.Context, client, name string) (id tokenstore.AccountID, ok bool, err error) {
	number, mode, _ := strings.Cut(name, "-")
	if id.UserID, err = strconv.ParseInt(number, 10, 64); err != nil {
		return id, false, nil //nolint:nilerr // a number beyond 63 bits is no account's
	}
	id.Live = mode == "live"
	if encoded, short := strings.CutPrefix(client, "n-"); short {
		raw, err := base32Lower.DecodeString(encoded)
		id.ClientID = string(raw)
		return id, err == nil && part(id.ClientID) == client, nil
	}
	folder := root + "accounts/" + client + "/" + name + "/"
	names, err := s.names(ctx, folder)
	if err != nil {
		return id, false, err
	}
	for _, name := range names {
		if kind(name) != "pair" {
			continue
		}
		raw, err := s.load(ctx, folder+name)
		if errors.Is(err, tokenstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return id, false, err
		}
		owner, _, err := tokenstore.OpenPair(s.keyring, secret.Record, raw)
		if err == nil {
			return owner, true, nil
		}
	}
	return id, false, nil
}

// CleanUp deletes notes that have served their time.
func (s *Store) CleanUp(ctx context.Context, now time.Time, after string, n int) (next string, err error) {
	left := max(n, 1)
	for _, group := range []struct {
		folder string
		shape  *regexp.Regexp
		clean  func(ctx context.Context, key string, now time.Time) error
	}{
		{"consumed/", consumedName, s.cleanConsumed},
		{"ended/", partName, s.cleanEnded},
	} {
		if after > group.folder+"~" {
			continue
		}
		names, err := s.children(ctx, root+group.folder, group.shape)
		if err != nil {
			return "", err
		}
		for _, name := range names {
			at := group.folder + name
			if at <= after {
				continue
			}
			if left == 0 {
				return next, nil
			}
			if err := group.clean(ctx, root+at, now); err != nil {
				return "", err
			}
			next = at
			left--
		}
	}
	return "", nil
}

func (s *Store) cleanConsumed(ctx context.Context, key string, now time.Time) error {
	var note consumed
	err := s.get(ctx, key, &note)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return nil //nolint:nilerr // one that cannot be read keeps its state consumed
	case now.Before(note.Until.Add(keptFor)):
		return nil
	}
	return s.remove(ctx, key)
}

// keptFor is how long a note outlives its use: longer than any request that began
// before runs, and than clocks in a fleet differ.
const keptFor = 24 * time.Hour

// cleanEnded deletes the tombstone of a connection where nothing is left for it to
// void. The last connection that a seller had stays with its tombstone: to delete
// a seller's connection is never safe, for another instance may be putting a new
// one in its place.
func (s *Store) cleanEnded(ctx context.Context, key string, now time.Time) error {
	var note ended
	err := s.get(ctx, key, &note)
	if err := ctx.Err(); err != nil {
		return err
	}
	if err != nil || note.Of.ID == "" || now.Before(note.At.Add(keptFor)) {
		return nil //nolint:nilerr // what cannot be read goes on voiding
	}
	place, folder, name, err := connectionPlaces(note.Of)
	if err != nil {
		return nil //nolint:nilerr // as above
	}
	if err := s.dropNote(ctx, note.Of.Account, folder, name); err != nil {
		return err
	}
	c, err := s.pointer(ctx, place, note.Of.Application, note.Of.Seller)
	if errors.Is(err, tokenstore.ErrNotFound) || err == nil && c.ID != note.Of.ID {
		return s.remove(ctx, key)
	}
	return ctx.Err()
}

// dropNote removes what an account knows of an ended connection, where a crash
// left it.
func (s *Store) dropNote(ctx context.Context, id tokenstore.AccountID, folder, name string) error {
	if _, err := s.load(ctx, folder+name); errors.Is(err, tokenstore.ErrNotFound) {
		return nil
	}
	held, err := s.Lock(ctx, id)
	if err != nil {
		return err
	}
	defer func() { _ = held.Unlock(ctx) }() // one that stays runs out by itself
	return s.drop(ctx, folder, name)
}

// children returns, sorted, the names in a folder that have a shape.
func (s *Store) children(ctx context.Context, folder string, shape *regexp.Regexp) ([]string, error) {
	keys, err := s.keys(ctx, strings.TrimSuffix(folder, "/"))
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", strings.TrimSuffix(folder, "/"), err)
	}
	var names []string
	for _, key := range keys {
		_, name, ok := strings.Cut(strings.TrimSuffix(key, "/"), folder)
		if ok && shape.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}
