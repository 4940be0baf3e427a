package caddystorage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/cenkalti/backoff/v5"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/internal/turns"
)

const (
	recordVersion = 1

	// maxRecord bounds what is read and what is written. Real records have
	// about 1 KiB; a full index has 48.
	maxRecord = 64 << 10

	// listPatience bounds how long a listing is tried again that stumbles over
	// records which vanish under it.
	listPatience = 5 * time.Second
)

var errTooLong = fmt.Errorf("the record has more than %d bytes: restore it from a back-up", maxRecord)

// records reads and writes a storage, with what the storages leave undone: it
// asks the context first (Caddy's files do not), bounds sizes, and tells absent
// from unreadable.
type records struct {
	storage certmagic.Storage
	held    turns.Turns[string]
}

// envelope is the outside of every record but the pairs' and the generated key.
// The key inside tells a record that was copied to another place.
type envelope struct {
	Version int             `json:"version"`
	Key     string          `json:"key"`
	Value   json.RawMessage `json:"value"`
}

// load returns what lies at a key, or ErrNotFound.
func (r *records) load(ctx context.Context, key string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("reading %s: %w", key, err)
	}
	raw, err := r.storage.Load(ctx, key)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s: %w", key, tokenstore.ErrNotFound)
	case err != nil:
		return nil, fmt.Errorf("reading %s: %w", key, err)
	case len(raw) > maxRecord:
		return nil, fmt.Errorf("reading %s: %w", key, errTooLong)
	}
	return raw, nil
}

// save puts a value at a key, in place of what is there. It refuses one that is too
// long for load: the record would be lost.
func (r *records) save(ctx context.Context, key string, raw []byte) error {
	if len(raw) > maxRecord {
		return fmt.Errorf("writing %s: it would have %d bytes, the most is %d: the names in it are too long", key, len(raw), maxRecord)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	if err := r.storage.Store(ctx, key, raw); err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	return nil
}

// remove deletes a key. It is only ever given whole keys: storages delete all
// that lies beneath a folder.
func (r *records) remove(ctx context.Context, key string) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("deleting %s: %w", key, err)
	}
	if err := r.storage.Delete(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("deleting %s: %w", key, err)
	}
	return nil
}

// get reads the record at a key into value, or returns ErrNotFound.
func (r *records) get(ctx context.Context, key string, value any) error {
	raw, err := r.load(ctx, key)
	if err != nil {
		return err
	}
	if err := parse(raw, key, value); err != nil {
		return &tokenstore.UnreadableError{Err: fmt.Errorf("reading %s: %w", key, err)}
	}
	return nil
}

// put writes a record.
func (r *records) put(ctx context.Context, key string, value any) error {
	inner, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	raw, err := json.Marshal(envelope{Version: recordVersion, Key: key, Value: inner})
	if err != nil {
		return fmt.Errorf("writing %s: %w", key, err)
	}
	return r.save(ctx, key, raw)
}

// parse never wraps what the JSON parser says: it may quote the record.
func parse(raw []byte, key string, value any) error {
	var e envelope
	if err := json.Unmarshal(raw, &e); err != nil || e.Version < 1 {
		return errors.New("the record is not readable: restore it from a back-up")
	}
	if e.Version > recordVersion {
		return fmt.Errorf("the record has version %d, this program reads up to %d: upgrade caddy-mercadopago", e.Version, recordVersion)
	}
	if e.Key != key {
		return fmt.Errorf("the record belongs at %.200q: put it back there, and restore this one from a back-up", e.Key)
	}
	if err := json.Unmarshal(e.Value, value); err != nil {
		return errors.New("the record is not readable: restore it from a back-up")
	}
	return nil
}

// list returns the names in a folder that have the shape of records; none where
// there is no such folder.
func (r *records) list(ctx context.Context, folder string) ([]string, error) {
	keys, err := r.keys(ctx, strings.TrimSuffix(folder, "/"))
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", strings.TrimSuffix(folder, "/"), err)
	}
	var names []string
	for _, key := range keys {
		if _, name, ok := strings.Cut(key, folder); ok && recordName.MatchString(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// keys returns the keys and folders beneath a prefix; none where there is no such
// folder.
func (r *records) keys(ctx context.Context, prefix string) ([]string, error) {
	return backoff.Retry(ctx, func() ([]string, error) {
		if err := ctx.Err(); err != nil {
			return nil, backoff.Permanent(err)
		}
		keys, err := r.storage.List(ctx, prefix, false)
		if err == nil || !errors.Is(err, fs.ErrNotExist) {
			return keys, permanent(err)
		}
		// Files say this of a folder that is not there, and also, with half of
		// the keys, when a record vanishes while they walk. To take the second
		// for the first would make an account look empty.
		if !r.storage.Exists(ctx, prefix) {
			return nil, nil
		}
		return nil, err
	}, backoff.WithBackOff(quick()), backoff.WithMaxElapsedTime(listPatience))
}

func permanent(err error) error {
	if err == nil {
		return nil
	}
	return backoff.Permanent(err)
}

// quick is the back-off for what another goroutine or instance holds up for a
// moment.
func quick() backoff.BackOff {
	b := backoff.NewExponentialBackOff()
	b.InitialInterval = 5 * time.Millisecond
	b.MaxInterval = 500 * time.Millisecond
	return b
}
