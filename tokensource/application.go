package tokensource

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// ownToken is an application's own token. It is kept in memory only: it can be
// had again at any time.
type ownToken struct {
	current atomic.Pointer[ownSnapshot]
	fetches group[struct{}, *ownSnapshot]
	setback setback
	// forcedAt is when it was last fetched because of a 401, as Unix nanoseconds.
	forcedAt atomic.Int64
}

type ownSnapshot struct {
	token *Token
	dueAt instant
}

func (o *ownSnapshot) lasts(now time.Time, minValidity time.Duration) bool {
	return o != nil && o.token.pair().obtainedAt <= instantOf(now.Add(skew)) && o.token.pair().lasts(now, minValidity)
}

// ApplicationToken returns the application's own token, valid for minValidity
// where that can be had. All callers share one; it is renewed in the background
// from a third of its life before its end. The error is an [*Error].
func (s *Source) ApplicationToken(ctx context.Context, application string, minValidity time.Duration) (*Token, error) {
	c, app, err := s.serving(application)
	if err != nil {
		return nil, err
	}
	own := &app.state.own
	now, snap := c.now(), own.current.Load()
	if snap.lasts(now, minValidity) {
		if instantOf(now) >= snap.dueAt {
			c.renewOwn(app, snap)
		}
		return snap.token, nil
	}
	fctx, cancel := ctx, context.CancelFunc(func() {})
	if snap.lasts(now, 0) {
		fctx, cancel = context.WithTimeout(ctx, patience)
	}
	defer cancel()
	next, err := c.fetchOwn(fctx, app, snap)
	if err == nil {
		return next.token, nil
	}
	if snap.lasts(c.now(), 0) {
		return snap.token, nil
	}
	return nil, asError(err)
}

// renewOwn fetches a new token while the old one serves.
func (s *Source) renewOwn(app *application, old *ownSnapshot) {
	own := &app.state.own
	if own.fetches.busy(struct{}{}) || own.setback.check(s.now()) != nil {
		return
	}
	left, cancel := context.WithCancel(context.Background())
	cancel() // nobody waits for it
	_, _ = s.fetchOwn(left, app, old)
}

// fetchOwn fetches a token in place of an old one, once for all who ask.
func (s *Source) fetchOwn(ctx context.Context, app *application, old *ownSnapshot) (*ownSnapshot, error) {
	own := &app.state.own
	if err := own.setback.check(s.now()); err != nil {
		return nil, err
	}
	return own.fetches.do(ctx, s.manager, app.Client.Timeout()+slack, struct{}{}, func(ctx context.Context) (*ownSnapshot, error) {
		if snap := own.current.Load(); snap != old {
			return snap, nil // a fetch has ended since the caller looked
		}
		if err := app.state.breaker.allow(s.now()); err != nil {
			return nil, err
		}
		answer, err := app.Client.ClientCredentials(ctx)
		now := s.now()
		if err == nil {
			own.setback.clear()
			app.state.accepted()
			snap := s.ownSnapshot(app, answer, now)
			own.current.Store(snap)
			return snap, nil
		}
		refusal, ok := errors.AsType[*oauth.Error](err)
		if ok && (refusal.Outcome == oauth.ApplicationFault || refusal.Outcome == oauth.GrantDead) {
			// There is no grant to be dead: the application may not have a token.
			return nil, s.applicationFault(app, err)
		}
		failure := &Error{Status: Connected, Reason: ReasonProvider, Err: err}
		var asked time.Duration
		if ok {
			asked = min(refusal.RetryAfter, mostRetryAfter)
		}
		failure = own.setback.set(now, failure, asked)
		s.observe(Event{Name: EventRenewalFailed, Application: app.Name, Reason: ReasonProvider, RetryAfter: failure.RetryAfter, Err: err})
		return nil, failure
	})
}

func (s *Source) ownSnapshot(app *application, answer oauth.Answer, now time.Time) *ownSnapshot {
	given := newPair(answer, now)
	given.RefreshToken = secret.Secret{} // of no use: the token can be had again at any time
	k := newKnown([]pair{pack(&given)}, nothingBeside)
	return &ownSnapshot{
		token: &Token{application: app.name, known: k, place: 1},
		dueAt: k.highest.expiresAt.add(-k.highest.life() / 3),
	}
}

// replaceOwn is Replace for an application's own token.
func (s *Source) replaceOwn(ctx context.Context, app *application, failed *Token) (*Token, error) {
	own := &app.state.own
	old := own.current.Load()
	if old.lasts(s.now(), 0) {
		if newer := other(old.token, failed); newer != nil {
			return newer, nil
		}
	}
	now, last := s.now(), own.forcedAt.Load()
	since := time.Duration(now.UnixNano() - last)
	if last != 0 && since >= 0 && since < forcePause || !own.forcedAt.CompareAndSwap(last, now.UnixNano()) {
		// Whoever was first may be fetching it: it is waited for, not repeated.
		if !own.fetches.busy(struct{}{}) {
			return nil, &Error{Status: Connected, Reason: ReasonProvider, RetryAfter: forcePause, Err: errors.New("the application's token was fetched for a 401 less than a minute ago")}
		}
	}
	snap, err := s.fetchOwn(ctx, app, old)
	if err != nil {
		return nil, asError(err)
	}
	return snap.token, nil
}
