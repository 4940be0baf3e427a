package tokensource

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// confirmWait bounds one question to the provider whether a token works.
	confirmWait = 8 * time.Second
	// deauthorizedWait bounds all that one notice leads to.
	deauthorizedWait = 40 * time.Second
)

var (
	errStillTaken  = errors.New("the provider says that the account ended its authorization, and takes its token all the same")
	errRefreshing  = errors.New("the account is being refreshed; what a token's end means shows after that")
	errManyNotices = errors.New("the provider says that many accounts ended their authorization at once; no more are believed for now: is it in trouble?")
)

// Deauthorized follows a notice that an account ended its authorization
// elsewhere. The notice is not believed: each living pair of the account is asked
// about with its own access token, and only where the provider answers 401 is
// the verdict written. No other pair is touched, so that a consent made
// meanwhile, or another account, lives on.
//
// An error means that it is not known yet, and that the notice ought to come
// again; the work may end by itself meanwhile. An account that is not known, or
// whose tokens work, is no error.
func (s *Source) Deauthorized(ctx context.Context, application string, userID int64, live bool) error {
	c, app, err := s.serving(application)
	if err != nil {
		return err
	}
	id := tokenstore.AccountID{ClientID: app.clientID, UserID: userID, Live: live}
	_, err = c.realm.notices.do(ctx, c.manager, deauthorizedWait, id, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.deauthorized(ctx, app, id)
	})
	if err != nil {
		return asError(err)
	}
	return nil
}

func (s *Source) deauthorized(ctx context.Context, app *application, id tokenstore.AccountID) error {
	o, err := s.open(ctx)
	if err != nil {
		return storeError(err)
	}
	a := s.realm.account(id)
	judged := make(map[tokenstore.PairID]bool)
	for {
		state, err := s.read(ctx, o.store, app.Name, a)
		if err != nil {
			return storeError(fmt.Errorf("reading account %s: %w", id, err))
		}
		if a.known.Load().unsaved {
			return notYet(errRefreshing)
		}
		pair := unjudged(&state, s.now(), judged)
		if pair == nil {
			return nil
		}
		judged[pair.PairID] = true
		refused, err := s.refused(ctx, app, pair)
		if err != nil {
			return notYet(err)
		}
		if !refused {
			s.observe(Event{Name: EventDeauthorized, Application: app.Name, Account: id, Pair: pair.PairID, Err: errStillTaken})
			continue
		}
		if err := s.bury(ctx, o, app, a, pair); err != nil {
			return err
		}
	}
}

// notYet is a failure to confirm a notice: nothing is known of the seller by it.
func notYet(err error) *Error {
	return &Error{Status: Connected, Reason: ReasonProvider, RetryAfter: providerRetry, Err: err}
}

// unjudged returns the highest living pair that was not checked yet. A pair whose
// access token has expired is skipped: a 401 would prove nothing, and its next
// refresh finds out.
func unjudged(state *tokenstore.Account, now time.Time, judged map[tokenstore.PairID]bool) *tokenstore.Pair {
	for _, p := range state.Living() {
		if !judged[p.PairID] && now.Before(p.ExpiresAt) {
			return &p
		}
	}
	return nil
}

// refused calls the provider with an access token, and reports whether it was rejected
// with a plain 401. Any other failure is an error: it proves nothing about the token.
func (s *Source) refused(ctx context.Context, app *application, pair *tokenstore.Pair) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmWait)
	defer cancel()
	_, err := app.Client.Me(ctx, pair.AccessToken)
	if err == nil {
		return false, nil
	}
	refusal, ok := errors.AsType[*oauth.Error](err)
	// "Unauthorized use of live credentials" is a 401 about what is asked for,
	// not about the token.
	if ok && refusal.Status == http.StatusUnauthorized && !strings.Contains(strings.ToLower(refusal.Description), "live credentials") {
		return true, nil
	}
	return false, fmt.Errorf("asking whether the token works: %w", err)
}

// bury writes the verdict on a pair that the provider refuses, if it is still
// what was asked about. Under the account's lock, because a refresh that is under
// way may have made the token useless itself.
func (s *Source) bury(ctx context.Context, o *opened, app *application, a *account, pair *tokenstore.Pair) error {
	unlock := lockAccount(ctx, s.manager, o.store, a.id(), consentLockWait)
	defer unlock()
	state, err := s.read(ctx, o.store, app.Name, a)
	if err != nil {
		return storeError(fmt.Errorf("reading account %s: %w", a.id(), err))
	}
	now := s.now()
	if s.refreshing(&state, app, pair, now) || a.known.Load().unsaved {
		return notYet(errRefreshing)
	}
	if !isLast(&state, pair) {
		return nil // it was replaced meanwhile; what took its place is asked about next
	}
	if !app.state.mayBelieve(now) {
		s.observe(Event{Name: EventAlarm, Application: app.Name, Account: a.id(), Pair: pair.PairID, Reason: ReasonProvider, Err: errManyNotices})
		return notYet(errManyNotices)
	}
	verdict := tokenstore.Verdict{Pair: pair.Hash, Reason: ReasonDeauthorized, At: wall(now)}
	err = persist(ctx, s.manager, func(ctx context.Context) error { return o.store.PutVerdict(ctx, a.id(), verdict) })
	if err != nil {
		return storeError(fmt.Errorf("writing a verdict for account %s: %w", a.id(), err))
	}
	state.Verdicts = append(state.Verdicts, verdict)
	k := a.publish(&state)
	s.observe(Event{Name: EventDeauthorized, Application: app.Name, Account: a.id(), Pair: pair.PairID})
	if !k.alive() {
		s.observe(Event{Name: EventReconnectRequired, Application: app.Name, Account: a.id(), Pair: pair.PairID, Reason: ReasonDeauthorized})
	}
	return nil
}

// refreshing reports whether someone may just be posting the pair's refresh
// token: a new pair, which may bear the same hash, would then be on its way. By
// the writer's clock, and so with its skew; an intent that was left behind by a
// crash is soon too old to count.
func (s *Source) refreshing(state *tokenstore.Account, app *application, pair *tokenstore.Pair, now time.Time) bool {
	return slices.ContainsFunc(state.Intents, func(i tokenstore.Intent) bool {
		return i.Pair == pair.Hash && now.Sub(i.At) < app.Client.Timeout()+slack+skew
	})
}

// isLast reports whether a pair is living, and no other that lives bears its
// hash: a refresh may keep its refresh token, and a verdict names the hash.
func isLast(state *tokenstore.Account, pair *tokenstore.Pair) bool {
	found := false
	for _, p := range state.Living() {
		if p.Hash != pair.Hash {
			continue
		}
		if p.PairID != pair.PairID {
			return false
		}
		found = true
	}
	return found
}
