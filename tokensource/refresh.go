package tokensource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// slack is added to the deadline of a token request: within it an answer is
	// saved, or its intent renewed.
	slack = 10 * time.Second
	// lockSlack is how long the store's lock is waited for beyond the deadline
	// of the holder's token request.
	lockSlack = slack
	// lockPatience is how long requests with no valid token wait for the lock
	// before they are told to come again: longer than a lock of Caddy's files
	// outlives a holder that was killed (10 s, looked at once a second).
	lockPatience = 15 * time.Second
	// meetWait is how long requests with no valid token wait for what another
	// instance's refresh brings, before they are told to come again.
	meetWait = 5 * time.Second
	// preparation bounds all that a flight does before it has an answer.
	preparation = 5 * time.Minute
)

var (
	errAgain   = errors.New("look again")
	errSaving  = errors.New("the pair of a new consent is just being saved")
	errTooLate = errors.New("the token request was not sent: preparing it took too long")
	errLocked  = errors.New("the account's lock cannot be had: another instance holds it, or the store's locks are broken; the refresh goes on")
	errMeeting = errors.New("another token request for this pair is under way, or its outcome is unknown")
)

// renewal is what a flight is asked for.
type renewal struct {
	minValidity time.Duration
	// force is a pair that is refreshed though it is not due: its access token
	// got a 401.
	force tokenstore.PairID
	// ahead is set by the queue, which renews a little before requests would.
	ahead bool
}

// flight is one refresh of one account. All who need it wait for it; it is on
// the manager's context, so that none of them can end it by leaving, and it
// saves through the store that it began with.
type flight struct {
	renewal
	source  *Source
	app     *application
	account *account
	store   tokenstore.Store
	keyring *secret.Keyring

	// posted is the pair that was posted or held back last; met is since when
	// the flight waits for another instance.
	posted tokenstore.PairID
	met    time.Time
	// held is set when the account is held back until an exact time.
	held bool

	once sync.Once
	done chan struct{}
	err  error
}

// refresh joins the account's flight, or starts it, and waits for it.
func (s *Source) refresh(ctx context.Context, app *application, a *account, r renewal) error {
	f, err := s.renew(app, a, r)
	if err != nil {
		return err
	}
	// The flight may hang in a store that heeds no deadline.
	ctx, cancel := context.WithTimeout(ctx, app.Client.Timeout()+lockSlack)
	defer cancel()
	select {
	case <-f.done:
		return f.err
	case <-ctx.Done():
		return &Error{Status: Connected, Reason: ReasonProvider, RetryAfter: providerRetry, Err: context.Cause(ctx)}
	}
}

// renew returns the account's flight, starting it where there is none and trying
// is of use.
func (s *Source) renew(app *application, a *account, r renewal) (*flight, error) {
	now := s.now()
	u := a.lock()
	defer a.unlock()
	if u.flight != nil {
		return u.flight, nil
	}
	k := a.known.Load()
	pair := k.renewable()
	if pair == nil {
		return nil, k.problem()
	}
	id := pair.id()
	if id == u.failed {
		if err := u.setback.check(now); err != nil {
			return nil, err
		}
	}
	if err := app.state.breaker.allow(now); err != nil {
		return nil, err
	}
	f := &flight{renewal: r, source: s, app: app, account: a, posted: id, done: make(chan struct{})}
	s.realm.begin()
	if !s.manager.spawn(0, f.run) {
		s.realm.end()
		return nil, asError(errEnding)
	}
	u.flight = f
	return f, nil
}

// answer tells all who wait. What the flight still does is for itself.
func (f *flight) answer(err error) {
	f.once.Do(func() {
		f.err = err
		close(f.done)
	})
}

func (f *flight) run(ctx context.Context) {
	defer f.source.realm.end()
	defer func() {
		f.account.lock().flight = nil
		f.account.unlock()
		f.answer(asError(errEnding)) // for those who wait, should a store panic
	}()
	f.answer(f.settle(f.fly(ctx)))
}

// fly is design §6, steps 2 to 7.
func (f *flight) fly(ctx context.Context) error {
	o, err := f.source.open(ctx)
	if err != nil {
		return storeError(err)
	}
	f.store, f.keyring = o.store, o.keyring
	// Step 2. A lock whose holder died, or that is broken, delays the flight only for a
	// while. Callers with no valid token get their answer before that.
	locked := time.AfterFunc(lockPatience, func() { f.answer(f.passing(errLocked, providerRetry)) })
	unlock := lockAccount(ctx, f.source.manager, f.store, f.account.id(), f.app.Client.Timeout()+lockSlack)
	defer unlock()
	locked.Stop()
	pctx, cancel := context.WithTimeout(ctx, preparation)
	defer cancel()
	for {
		if err := f.attempt(ctx, pctx); !errors.Is(err, errAgain) {
			return err
		}
		if pctx.Err() != nil {
			return f.passing(errMeeting, slack)
		}
	}
}

// attempt goes once through steps 3 to 7. It returns errAgain when what it found
// on the way is to be looked at anew.
func (f *flight) attempt(ctx, pctx context.Context) error {
	// Step 3. Another instance may have refreshed the account while the lock was waited for.
	state, err := f.read(pctx)
	if err != nil {
		return storeError(err)
	}
	pair := f.next()
	if pair == nil {
		return nil // another instance was faster, or nothing can be renewed
	}
	if state.Moved != nil { // memory may still hold what was read before the move
		return hasMoved()
	}
	f.posted = pair.PairID
	if _, saving := f.source.manager.landing.Load(pair.Hash); saving {
		// A consent that is still being saved may get another number. Refreshed under
		// this one, its refresh token would be posted again under the next.
		return f.passing(errSaving, providerRetry)
	}
	if err := f.unknown(pctx, &state, pair); err != nil {
		return err
	}
	// Step 4. The intent is written before the POST: if this process crashes, it shows
	// that the pair may be burnt.
	intent := tokenstore.Intent{
		Pair:     pair.Hash,
		Instance: f.source.manager.instance,
		Nonce:    randomID(),
		Attempt:  attempts(f.naming(&state, pair.Hash)),
		At:       wall(f.source.now()),
	}
	before, err := f.announce(pctx, &state, pair, intent)
	if err != nil {
		return err
	}
	// Step 5.
	answer, err := f.post(ctx, pair, intent)
	if err != nil {
		return f.failed(ctx, &before, pair, intent, err)
	}
	// Steps 6 and 7.
	return f.land(ctx, &before, pair, intent, answer)
}

func (f *flight) read(ctx context.Context) (tokenstore.Account, error) {
	state, err := f.source.read(ctx, f.store, f.app.Name, f.account)
	if err != nil {
		return state, fmt.Errorf("reading account %s: %w", f.account.id(), err)
	}
	return state, nil
}

// next returns the pair to post, or nil when what memory knows will do.
func (f *flight) next() *tokenstore.Pair {
	a, now := f.account, f.source.now()
	k := a.known.Load()
	serving, r := k.serve(now, a.rejected()), k.renewable()
	if r != nil && !k.unsaved && serving != nil && serving.id() == f.force {
		return r.unpack()
	}
	if at, ok := a.renewAt(now, f.app.RenewBefore); f.ahead && ok && !now.Before(at) {
		return r.unpack()
	}
	if !k.needed(now, f.app.RenewBefore, f.minValidity, serving) {
		return nil
	}
	return r.unpack()
}

// announce writes the intent, and then reads the account again: another instance may
// have written an intent for this pair, or moved the account to another store, at
// the same time. Of two that write before they read, at least one sees the other's
// record. It returns the account as it was last read before the POST.
func (f *flight) announce(ctx context.Context, state *tokenstore.Account, pair *tokenstore.Pair, intent tokenstore.Intent) (tokenstore.Account, error) {
	if err := f.store.PutIntent(ctx, f.account.id(), intent); err != nil {
		f.withdraw(ctx, intent) // it may have been written
		return tokenstore.Account{}, storeError(fmt.Errorf("writing an intent for account %s: %w", f.account.id(), err))
	}
	before, err := f.read(ctx)
	if err != nil {
		f.withdraw(ctx, intent)
		return tokenstore.Account{}, storeError(err)
	}
	next := f.next()
	met := slices.ContainsFunc(f.naming(&before, pair.Hash), func(i tokenstore.Intent) bool {
		return i.Nonce != intent.Nonce && !slices.ContainsFunc(state.Intents, func(known tokenstore.Intent) bool { return sameIntent(known, i) })
	})
	if !met && before.Moved == nil && next != nil && next.PairID == pair.PairID {
		return before, nil
	}
	f.withdraw(ctx, intent)
	if met {
		// Both may have withdrawn. Their random pauses let one of them go first.
		f.source.manager.sleep(ctx, 50*time.Millisecond+rand.N(500*time.Millisecond))
	}
	return tokenstore.Account{}, errAgain
}

// post sends the one POST. Instances that see the intent wait until the deadline of
// its POST, so nothing may be sent later, and the request ends there too. The wall
// clock is checked right before sending: timers stand still while a machine sleeps,
// and a clock that was set back no longer shows how much time has passed. Nothing is
// sent once the process is shutting down: the answer might not be saved.
func (f *flight) post(ctx context.Context, pair *tokenstore.Pair, intent tokenstore.Intent) (oauth.Answer, error) {
	if intent.Attempt > 0 {
		f.observe(EventRenewalFailed, ReasonRetried, pair.PairID, nil)
	}
	now, deadline := wall(f.source.now()), intent.At.Add(f.app.Client.Timeout())
	if now.Before(intent.At) || !now.Before(deadline) || f.source.manager.ending() {
		return oauth.Answer{}, errTooLate
	}
	pctx, cancel := context.WithTimeout(ctx, deadline.Sub(now))
	defer cancel()
	return f.app.Client.Refresh(pctx, pair.RefreshToken)
}

// land saves what the provider gave, and cleans up behind it.
func (f *flight) land(ctx context.Context, before *tokenstore.Account, pair *tokenstore.Pair, intent tokenstore.Intent, answer oauth.Answer) error {
	id := f.account.id()
	if !answers(answer, id) {
		// These tokens may move another seller's money, so nobody uses them. The old
		// pair may be burnt: the outcome is unknown.
		err := errors.New("the provider answered a refresh with another account's tokens; they were thrown away")
		f.observe(EventAlarm, ReasonProvider, pair.PairID, err)
		return f.lost(pair, intent, err)
	}
	next := successor(pair, answer, f.source.now())
	f.app.state.refreshed(f.source.now())
	l := landing{
		source: f.source, store: f.store, keyring: f.keyring, app: f.app, account: f.account,
		pair: next, intent: &intent,
		early: func() {
			f.account.publishUnsaved(next)
			f.answer(nil)
		},
	}
	after, err := l.run(ctx)
	if errors.Is(err, errVoid) {
		// Disconnected while the request was under way.
		f.withdraw(ctx, f.naming(before, pair.Hash)...)
		return notConnected()
	}
	if err != nil {
		return storeError(err) // the process ends; the spilled pair waits for the next
	}
	// Step 7.
	f.account.publish(&after)
	f.observe(EventRenewed, "", next.PairID, nil)
	f.account.worked()
	f.answer(nil)
	f.source.expect(f.app, f.account, false)
	f.cleanUp(ctx, before, &after, pair, next.PairID, intent)
	return nil
}

// cleanUp deletes only pairs that were read before the POST and are lower than the
// new one: a pair that arrived since may be alive. The next refresh finds again what
// could not be deleted.
func (f *flight) cleanUp(ctx context.Context, before, after *tokenstore.Account, pair *tokenstore.Pair, next tokenstore.PairID, intent tokenstore.Intent) {
	ctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	var lower []tokenstore.PairID
	kept := make(map[string]bool)
	for _, p := range after.Pairs {
		kept[p.Hash] = true
	}
	for _, p := range before.Pairs {
		if p.PairID.Less(next) {
			lower = append(lower, p.PairID)
			kept[p.Hash] = false
		}
	}
	if err := f.store.DeletePairs(ctx, f.account.id(), lower...); err != nil {
		return // the intent stays: it marks the pair that is left as possibly burnt
	}
	// An intent of a deleted pair protects nothing. Intents of the posted pair are
	// settled: the refresh worked, so the pair was not burnt.
	settled := []tokenstore.Intent{intent}
	for _, i := range before.Intents {
		if i.Nonce != intent.Nonce && (i.Pair == pair.Hash || !kept[i.Pair]) {
			settled = append(settled, i)
		}
	}
	f.withdraw(ctx, settled...)
}

// successor is the next generation within the authorization that was read. What
// the answer leaves out stays: a refresh token above all. The hash names the
// refresh token, so a verdict or an intent goes on to count for one that stayed.
func successor(pair *tokenstore.Pair, answer oauth.Answer, now time.Time) tokenstore.Pair {
	next := newPair(answer, now)
	if next.RefreshToken.IsZero() {
		next.RefreshToken = pair.RefreshToken
	}
	if next.PublicKey == "" {
		next.PublicKey = pair.PublicKey
	}
	if next.Scope == "" {
		next.Scope = pair.Scope
	}
	next.PairID = tokenstore.PairID{
		Authorization: pair.Authorization,
		Generation:    pair.Generation + 1,
		Hash:          tokenstore.HashPair(next.AccessToken, next.RefreshToken),
	}
	return next
}

func newPair(answer oauth.Answer, now time.Time) tokenstore.Pair {
	at := answer.ReceivedAt
	if at.IsZero() {
		at = now
	}
	at = wall(at)
	return tokenstore.Pair{
		AccessToken:  answer.AccessToken,
		RefreshToken: answer.RefreshToken,
		PublicKey:    answer.PublicKey,
		Scope:        answer.Scope,
		ObtainedAt:   at,
		ExpiresAt:    at.Add(answer.ExpiresIn),
	}
}

// answers reports whether an answer may belong to the account: what it says of
// itself must not contradict.
func answers(answer oauth.Answer, id tokenstore.AccountID) bool {
	return (answer.UserID == 0 || answer.UserID == id.UserID) && (answer.LiveMode == nil || *answer.LiveMode == id.Live)
}

// wall strips the monotonic reading: a time that others read, or that must count
// the time a machine slept.
func wall(t time.Time) time.Time { return t.Round(0).UTC() }

func (f *flight) observe(name, reason string, pair tokenstore.PairID, err error) {
	f.source.observe(Event{Name: name, Application: f.app.Name, Account: f.account.id(), Pair: pair, Reason: reason, Err: err})
}
