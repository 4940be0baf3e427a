package tokensource

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// loadWait bounds the reading of one seller from the store.
	loadWait = 15 * time.Second
	// patience is how long a request waits for a refresh while its token is
	// still valid.
	patience = 5 * time.Second
	// lastMoment is the remaining life below which a token is no reason to stop
	// waiting for a better one: it would expire on its way.
	lastMoment = time.Second
)

// Token returns a live access token of exactly this seller, valid for
// minValidity where that can be had. A token that is still valid is never
// withheld. The error is an [*Error].
//
// The token of a seller in memory costs neither a lock nor an allocation.
func (s *Source) Token(ctx context.Context, application, seller string, minValidity time.Duration) (*Token, error) {
	c, app, err := s.serving(application)
	if err != nil {
		return nil, err
	}
	if isNobody(seller) {
		return nil, notConnected()
	}
	k := key{application: app.name, seller: seller}
	now := c.now()
	snap, ok := c.realm.awake.get(k)
	if ok && snap.of(app) && snap.fresh(now) && snap.lasts(now, minValidity) {
		c.tend(app, snap, now)
		return snap.token(), nil
	}
	token, err := c.fetch(ctx, app, k, minValidity)
	if err != nil {
		return nil, asError(err)
	}
	return token, nil
}

// asError makes of any failure an Error: what is none yet is a caller that left
// or a process that ends, and asking again helps.
func asError(err error) *Error {
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	return &Error{Status: Connected, Reason: ReasonProvider, RetryAfter: providerRetry, Err: err}
}

// tend does, in the background, what a hit shows to be of use soon: reading the
// seller again, and renewing a token that is due.
func (s *Source) tend(app *application, snap *snapshot, now time.Time) {
	if snap.recheck(now) {
		started := s.manager.spawn(loadWait, func(ctx context.Context) {
			defer snap.rechecked()
			_, _ = s.load(ctx, app, snap.key()) // what fails shows when memory has run out
		})
		if !started {
			snap.rechecked()
		}
	}
	if !snap.due(now) {
		return
	}
	a := snap.account
	at := a.tryAt.Load()
	if wait := at - now.UnixNano(); wait > 0 && wait <= int64(time.Minute) {
		return
	}
	if !a.tryAt.CompareAndSwap(at, now.Add(time.Second).UnixNano()) {
		return
	}
	if _, err := s.renew(app, a, renewal{}); err != nil {
		wait := min(max(asError(err).RetryAfter, time.Second), time.Minute)
		a.tryAt.Store(now.Add(wait).UnixNano())
	}
}

// fetch is the way that memory alone could not go: the store, then one refresh
// for all who wait.
func (s *Source) fetch(ctx context.Context, app *application, k key, minValidity time.Duration) (*Token, error) {
	snap := s.fromMemory(app, k)
	if snap == nil {
		var err error
		if snap, err = s.loadOrStale(ctx, app, k); err != nil {
			return nil, err
		}
	}
	now := s.now()
	if snap.lasts(now, minValidity) {
		s.tend(app, snap, now)
		return snap.token(), nil
	}
	err := s.briefly(ctx, patience, snap.token(), func(ctx context.Context) error {
		return s.refresh(ctx, app, snap.account, renewal{minValidity: minValidity})
	})
	// Whatever came of it: what is valid now is served.
	snap = snap.again(app, s.now())
	if token := snap.token(); token != nil {
		return token, nil
	}
	if err == nil {
		err = snap.known.problem()
	}
	return nil, err
}

// fromMemory returns what memory knows of a seller, where it is believed.
func (s *Source) fromMemory(app *application, k key) *snapshot {
	snap, ok := s.realm.entry(k)
	now := s.now()
	if !ok || !snap.of(app) || !snap.believed(now) {
		return nil
	}
	if snap.known != snap.account.known.Load() {
		// The account was refreshed, by this or by another of its sellers.
		next := snap.again(app, now)
		s.realm.swap(snap, next)
		snap = next
	}
	if !snap.known.alive() {
		// The seller may have reconnected at another instance just now.
		return nil
	}
	if snap.known.moved && snap.pair() == nil {
		return nil // the account may have been moved back just now
	}
	return snap
}

// loadOrStale reads a seller. If memory has a valid token, a store that does not
// respond is waited for only briefly.
func (s *Source) loadOrStale(ctx context.Context, app *application, k key) (snap *snapshot, err error) {
	old, ok := s.realm.entry(k)
	if !ok {
		return s.load(ctx, app, k)
	}
	err = s.briefly(ctx, staleWait, old.stale(app, s.now()).token(), func(ctx context.Context) (err error) {
		snap, err = s.load(ctx, app, k)
		return err
	})
	if _, responded := errors.AsType[*Error](err); err == nil || responded {
		return snap, err
	}
	stale := old.stale(app, s.now())
	if stale == nil {
		return nil, err
	}
	s.realm.swap(old, stale)
	return stale, nil
}

// briefly waits for work, but not longer than bound if the caller has a valid token
// to serve instead, and not until that token has expired too. If the token expires
// all the same, because the clock jumped, the caller waits like one without a token.
func (s *Source) briefly(ctx context.Context, bound time.Duration, token *Token, work func(context.Context) error) error {
	if token == nil {
		return work(ctx)
	}
	left := token.ExpiresAt().Sub(s.now()) - lastMoment
	if left <= 0 {
		return work(ctx)
	}
	bctx, cancel := context.WithTimeout(ctx, min(bound, left))
	defer cancel()
	err := work(bctx)
	if err == nil || bctx.Err() == nil || ctx.Err() != nil || token.lasts(s.now(), 0) {
		return err
	}
	return work(ctx)
}

// load reads a seller from the store, once for all who ask.
func (s *Source) load(ctx context.Context, app *application, k key) (*snapshot, error) {
	snap, err := s.realm.loads.do(ctx, s.manager, loadWait, k, func(ctx context.Context) (*snapshot, error) {
		snap, err := s.loadNow(ctx, app, k)
		if err == nil {
			return snap, nil
		}
		failure := storeError(err)
		if failure.Status != Connected {
			return nil, failure
		}
		s.troubled(app, failure, loading(app, k))
		old, ok := s.realm.entry(k)
		if !ok {
			return nil, failure
		}
		stale := old.stale(app, s.now())
		if stale == nil {
			return nil, failure
		}
		s.realm.swap(old, stale)
		return stale, nil
	})
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		err = storeError(err) // it hangs, and heeds no deadline
		s.troubled(app, asError(err), loading(app, k))
	}
	return snap, err
}

func (s *Source) loadNow(ctx context.Context, app *application, k key) (*snapshot, error) {
	o, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	for tries := 0; ; tries++ {
		now, epoch := s.now(), s.realm.epochNow()
		c, err := o.store.Connection(ctx, app.Name, k.seller)
		if errors.Is(err, tokenstore.ErrNotFound) {
			if s.realm.epochNow() != epoch && tries < 3 {
				continue
			}
			if err := s.vanished(ctx, o.store, k); err != nil {
				return nil, err
			}
			s.realm.drop(k)
			return nil, notConnected()
		}
		if err != nil {
			return nil, fmt.Errorf("reading the connection: %w", err)
		}
		if c.Application != app.Name || c.Seller != k.seller {
			// Nothing but the seller's own record may choose whose token it is.
			return nil, errors.New("reading the connection: the store returned another seller's")
		}
		if c.Account.ClientID != app.clientID {
			s.realm.drop(k)
			return nil, &Error{Status: ReconnectRequired, Reason: ReasonApplicationChanged}
		}
		a := s.realm.account(c.Account)
		if _, err := s.read(ctx, o.store, app.Name, a); err != nil {
			return nil, fmt.Errorf("reading account %s: %w", a.id(), err)
		}
		snap := a.snapshot(key{application: app.name, seller: c.Seller}, c.ID, app, now)
		if s.realm.remember(snap, epoch) || tries >= 3 {
			s.realm.tidy(now)
			return snap, nil
		}
	}
}

// vanished returns an error if the store lost everything about the account, which
// must not be taken for a disconnect.
func (s *Source) vanished(ctx context.Context, store tokenstore.Store, k key) error {
	snap, ok := s.realm.entry(k)
	if !ok {
		return nil
	}
	a := snap.account
	if !a.known.Load().alive() {
		return nil
	}
	state, err := store.Account(ctx, a.id())
	if err != nil {
		return fmt.Errorf("reading account %s: %w", a.id(), err)
	}
	return wiped(ctx, store, &state)
}
