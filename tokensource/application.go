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
	current atomic.Pointer[Token]
	fetches group[struct{}, *Token]
	setback setback
	// forcedAt is when it was last fetched because of a 401, as Unix nanoseconds.
	forcedAt atomic.Int64
}

// ownLasts reports whether there is a token of the application's own that is valid for
// minValidity.
func ownLasts(token *Token, now time.Time, minValidity time.Duration) bool {
	return token != nil && token.pair().obtainedAt <= instantOf(now.Add(skew)) && token.lasts(now, minValidity)
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
	now, token := c.now(), own.current.Load()
	if ownLasts(token, now, minValidity) {
		if token.due(now) {
			c.renewOwn(app, token)
		}
		return token, nil
	}
	valid := token
	if !ownLasts(token, now, 0) {
		valid = nil
	}
	var next *Token
	err = c.briefly(ctx, patience, valid, func(ctx context.Context) (err error) {
		next, err = c.fetchOwn(ctx, app, token)
		return err
	})
	if err == nil {
		return next, nil
	}
	if ownLasts(token, c.now(), 0) {
		return token, nil
	}
	return nil, asError(err)
}

// renewOwn fetches a new token while the old one serves.
func (s *Source) renewOwn(app *application, old *Token) {
	own := &app.state.own
	if own.fetches.busy(struct{}{}) || own.setback.check(s.now()) != nil {
		return
	}
	left, cancel := context.WithCancel(context.Background())
	cancel() // nobody waits for it
	_, _ = s.fetchOwn(left, app, old)
}

// fetchOwn fetches a token in place of an old one, once for all who ask.
func (s *Source) fetchOwn(ctx context.Context, app *application, old *Token) (*Token, error) {
	own := &app.state.own
	if err := own.setback.check(s.now()); err != nil {
		return nil, err
	}
	return own.fetches.do(ctx, s.manager, app.Client.Timeout()+slack, struct{}{}, func(ctx context.Context) (*Token, error) {
		if token := own.current.Load(); token != old {
			return token, nil // a fetch has ended since the caller looked
		}
		if err := app.state.breaker.allow(s.now()); err != nil {
			return nil, err
		}
		answer, err := app.Client.ClientCredentials(ctx)
		now := s.now()
		if err == nil {
			own.setback.clear()
			app.state.accepted()
			token := newOwnToken(app, answer, now)
			own.current.Store(token)
			return token, nil
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

func newOwnToken(app *application, answer oauth.Answer, now time.Time) *Token {
	given := newPair(answer, now)
	given.RefreshToken = secret.Secret{} // of no use: the token can be had again at any time
	k := newKnown([]pair{pack(&given)}, nothingBeside)
	dueAt := k.highest.expiresAt.add(-k.highest.life() / 3)
	return &Token{application: app.name, known: k, place: k.place(&k.highest), dueAt: dueAt.second()}
}

// replaceOwn is Replace for an application's own token.
func (s *Source) replaceOwn(ctx context.Context, app *application, failed *Token) (*Token, error) {
	own := &app.state.own
	old := own.current.Load()
	if ownLasts(old, s.now(), 0) {
		if newer := other(old, failed); newer != nil {
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
	token, err := s.fetchOwn(ctx, app, old)
	if err != nil {
		return nil, asError(err)
	}
	return token, nil
}
