package tokensource

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

func (v view) Accounts(ctx context.Context, after string, n int) (ids []tokenstore.AccountID, next string, err error) {
	err = v.do(ctx, "Accounts", plain, func() error {
		place := func(id tokenstore.AccountID) string { return fmt.Sprintf("%q", id.String()) }
		for id := range v.accounts {
			if place(id) > after {
				ids = append(ids, id)
			}
		}
		slices.SortFunc(ids, func(a, b tokenstore.AccountID) int { return strings.Compare(place(a), place(b)) })
		if len(ids) > n {
			ids = ids[:n]
			next = place(ids[n-1])
		}
		return nil
	})
	return ids, next, err
}

func (v view) CleanUp(ctx context.Context, now time.Time, _ string, _ int) (next string, err error) {
	return "", v.do(ctx, "CleanUp", plain, func() error {
		maps.DeleteFunc(v.consumed, func(_ string, until time.Time) bool { return now.Sub(until) > 24*time.Hour })
		return nil
	})
}

// simLock is a lock that is held. It dies with its holder.
type simLock struct {
	view view
	id   tokenstore.AccountID
	free chan struct{}
	// end releases what was locked beside it.
	end func()
}

func (v view) Lock(ctx context.Context, id tokenstore.AccountID) (tokenstore.Lock, error) {
	if nobody(id) {
		return nil, errNobody
	}
	if v.process != nil {
		free := func() bool {
			v.mu.Lock()
			defer v.mu.Unlock()
			return v.worthless || v.locks[id] == nil
		}
		switch f := v.process.gate(ctx, "Lock", plain, free); f {
		case refused, broken:
			return nil, errFault // it is as if it had been stolen at once
		case crashed, vanished:
			return nil, errCrashed
		case timedOut:
			return nil, ctx.Err()
		default:
		}
	}
	mine := &simLock{view: v, id: id, free: make(chan struct{})}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		v.mu.Lock()
		held := v.locks[id]
		if held == nil || v.worthless {
			defer v.mu.Unlock()
			v.locks[id] = mine
			return mine, v.carriedOut(nil)
		}
		v.mu.Unlock()
		select {
		case <-held.free:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *simLock) Unlock(context.Context) error {
	l.view.steal(l.id, l)
	return nil
}

// steal ends a lock, by its holder or from outside.
func (s *simStore) steal(id tokenstore.AccountID, held *simLock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held != nil && s.locks[id] == held {
		delete(s.locks, id)
		if held.end != nil {
			held.end()
		}
		close(held.free)
	}
}

var _ tokenstore.Store = view{}

func TestTheModelsStoreKeepsEveryPromiseOfAStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) (a, b tokenstore.Store) {
		store := newSimStore()
		return view{simStore: store}, view{simStore: store}
	})
}
