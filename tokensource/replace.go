package tokensource

import (
	"context"
	"errors"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// forcePause is the shortest time between two refreshes of one account because
// of a 401.
const forcePause = time.Minute

var errBurst = errors.New("the provider refuses the tokens of many accounts at once; none is refreshed because of it")

// Replace returns another token for one that got a 401: a newer one that another
// instance saved, else that of one refresh, which is done once for each
// generation and at most once a minute for each account. An error means that the
// 401 stands. Replace of nil is an error.
func (s *Source) Replace(ctx context.Context, failed *Token) (*Token, error) {
	if failed == nil {
		return nil, notConnected()
	}
	c, app, err := s.serving(failed.Application())
	if err != nil {
		return nil, err
	}
	if failed.Seller() == "" {
		return c.replaceOwn(ctx, app, failed)
	}
	snap, err := c.load(ctx, app, failed.key())
	if err != nil {
		return nil, asError(err)
	}
	if newer := other(snap.token(), failed); newer != nil {
		return newer, nil
	}
	a, pair := snap.account, failed.Pair()
	if err := c.mayForce(app, a, pair); err != nil {
		// The refresh that another request asked for may be over by now.
		if newer := other(snap.again(app, c.now()).token(), failed); newer != nil {
			return newer, nil
		}
		return nil, err
	}
	err = c.refresh(ctx, app, a, renewal{force: pair})
	a.lock().forcing--
	a.unlock()
	snap = snap.again(app, c.now())
	if newer := other(snap.token(), failed); newer != nil {
		return newer, nil
	}
	if err == nil {
		return nil, snap.known.problem()
	}
	if problem := asError(err); problem.Status != Connected {
		return nil, problem
	}
	// Nothing came of it, so it was not this generation's one refresh: a token
	// that the provider withdrew must not stay dead because of one bad minute.
	u := a.lock()
	if u.forced == pair {
		u.forced = tokenstore.PairID{}
	}
	a.unlock()
	return nil, asError(err)
}

// other returns the token if it is another than the one that failed.
func other(token, failed *Token) *Token {
	if token == nil || token.AccessToken().Equal(failed.AccessToken()) {
		return nil
	}
	return token
}

// mayForce notes that an account's token got a 401, and decides whether to
// refresh because of it. If so, the account counts as being refreshed from here
// on, and whoever was told so has to take that back.
func (s *Source) mayForce(app *application, a *account, pair tokenstore.PairID) error {
	now := s.now()
	standing := func(err error, after time.Duration) *Error {
		return &Error{Status: Connected, Reason: ReasonProvider, RetryAfter: after, Err: err}
	}
	u := a.lock()
	u.rejected = pair
	flying := u.flight != nil || u.forcing > 0
	if flying {
		u.forcing++
	}
	done := u.forced == pair
	since := now.Sub(u.forcedAt)
	a.unlock()
	if flying {
		// It is being refreshed, or about to be: all who hold the old token wait for
		// the new one.
		return nil
	}
	if done {
		return standing(errors.New("the token got a 401 after it was refreshed for one"), 0)
	}
	if since >= 0 && since < forcePause {
		return standing(errors.New("the account was refreshed for a 401 less than a minute ago"), forcePause-since)
	}
	may, first := app.state.mayReplace(now, a.id())
	if first {
		s.observe(Event{Name: EventAlarm, Application: app.Name, Reason: ReasonProvider, RetryAfter: rejectPause, Err: errBurst})
	}
	if !may {
		return standing(errBurst, rejectPause)
	}
	u = a.lock()
	defer a.unlock()
	u.forced, u.forcedAt = pair, now
	u.forcing++
	return nil
}
