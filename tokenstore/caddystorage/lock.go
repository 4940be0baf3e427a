package caddystorage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// unlockPatience bounds an unlock. It is tried again, because a lock of Caddy's
// files that is not released is kept fresh until the process ends.
const unlockPatience = 5 * time.Second

// lock waits for a lock until ctx is done: first for this process's other
// goroutines, so that they do not wait for each other at the storage's pace
// (Caddy's files look once a second), then for the storage's.
func (r *records) lock(ctx context.Context, name string) (tokenstore.Lock, error) {
	leave, err := r.held.Enter(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("waiting for lock %s: %w", name, err)
	}
	if err := r.lockStorage(ctx, name); err != nil {
		leave()
		return nil, fmt.Errorf("waiting for lock %s: %w", name, err)
	}
	return &lock{records: r, name: name, leave: leave}, nil
}

// lockStorage takes every error for "not yet": some storages fail at once when
// another holds the lock, and do not say so in a way that could be told apart.
func (r *records) lockStorage(ctx context.Context, name string) error {
	var last error
	_, err := backoff.Retry(ctx, func() (struct{}, error) {
		if err := ctx.Err(); err != nil {
			return struct{}{}, backoff.Permanent(err)
		}
		err := r.storage.Lock(ctx, name)
		if err != nil && ctx.Err() == nil {
			last = err
		}
		return struct{}{}, err
	}, backoff.WithBackOff(quick()), backoff.WithMaxElapsedTime(0))
	if err != nil && last != nil {
		return fmt.Errorf("%w: the storage said: %w", err, last)
	}
	return err
}

// lock is a held lock.
type lock struct {
	records *records
	name    string
	leave   func()
	once    sync.Once
	err     error
}

// Unlock releases the lock, once: a second call must not release what another
// holds by then. One that is gone, because it was taken for stale, is no error.
func (l *lock) Unlock(ctx context.Context) error {
	l.once.Do(func() {
		defer l.leave()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unlockPatience)
		defer cancel()
		_, err := backoff.Retry(ctx, func() (struct{}, error) {
			err := l.records.storage.Unlock(ctx, l.name)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
			return struct{}{}, err
		}, backoff.WithBackOff(quick()), backoff.WithMaxElapsedTime(unlockPatience))
		if err != nil {
			l.err = fmt.Errorf("releasing lock %s: %w", l.name, err)
		}
	})
	return l.err
}
