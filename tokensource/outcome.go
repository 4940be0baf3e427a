package tokensource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// retryUnknown is how long a pair whose POST had an unknown outcome is left
	// alone while its access token lives; a third of the token's life where that
	// is shorter. A provider may revoke the whole account when a burnt token
	// comes again.
	retryUnknown = 24 * time.Hour
	// mostUnknownPause bounds the growing pauses once the access token has ended.
	mostUnknownPause = time.Hour
	// faultPause is the first pause after a fault of the application.
	faultPause = 10 * time.Second
	// suspicionPause is how long all is quiet after too many condemnations.
	suspicionPause = 10 * time.Minute
)

// errSuspicious is what the alarm of a mass condemnation says.
var errSuspicious = errors.New("the provider calls many sellers' refresh tokens dead at once; none is condemned: was a back-up restored, the application changed, or is the provider in trouble?")

// failed sorts what came of the POST instead of an answer.
func (f *flight) failed(ctx context.Context, before *tokenstore.Account, pair *tokenstore.Pair, intent tokenstore.Intent, err error) error {
	if errors.Is(err, errTooLate) {
		f.withdraw(ctx, intent)
		return f.passing(err, 0)
	}
	refusal, ok := errors.AsType[*oauth.Error](err)
	if !ok {
		return f.lost(pair, intent, err)
	}
	switch refusal.Outcome {
	case oauth.Refused:
		f.withdraw(ctx, intent)
		return f.passing(err, min(refusal.RetryAfter, mostRetryAfter))
	case oauth.ApplicationFault:
		f.withdraw(ctx, intent)
		return f.source.applicationFault(f.app, err)
	case oauth.GrantDead:
		return f.condemn(ctx, before, pair, intent, refusal)
	default:
		return f.lost(pair, intent, err)
	}
}

// passing returns a temporary failure: retrying later may succeed.
func (f *flight) passing(err error, retryAfter time.Duration) error {
	return &Error{Status: Connected, Reason: ReasonProvider, RetryAfter: retryAfter, Err: err}
}

// lost handles an unknown outcome. The intent stays, so that every instance treats
// the pair as possibly burnt.
func (f *flight) lost(pair *tokenstore.Pair, intent tokenstore.Intent, err error) error {
	f.account.lock().note(intent, f.source.now())
	f.account.unlock()
	return f.hold(f.retryAt([]tokenstore.Intent{intent}, pair), err)
}

// hold holds the account back until an exact time.
func (f *flight) hold(until time.Time, err error) error {
	now := f.source.now()
	failure := &Error{Status: Connected, Reason: ReasonProvider, RetryAfter: max(until.Sub(now), time.Second), Err: err}
	f.account.lock().setback.hold(now, failure, until)
	f.account.unlock()
	f.held = true
	return failure
}

// applicationFault opens the application's breaker. It says nothing about a
// seller, so no account is touched.
func (s *Source) applicationFault(app *application, err error) error {
	failure, first := app.state.breaker.open(s.now(), &Error{Status: Connected, Reason: ReasonApplicationFault, Err: err}, faultPause)
	if first {
		s.observe(Event{Name: EventAlarm, Application: app.Name, Reason: ReasonApplicationFault, RetryAfter: failure.RetryAfter, Err: err})
	}
	return failure
}

// condemn writes the provider's verdict on a pair, unless another instance was
// given a new pair for it or the provider condemns too many.
func (f *flight) condemn(ctx context.Context, before *tokenstore.Account, pair *tokenstore.Pair, intent tokenstore.Intent, refusal *oauth.Error) error {
	state, err := f.awaitOthers(ctx, pair, intent)
	if err != nil {
		return err // without a verdict the outcome counts as unknown
	}
	if arrived(before, &state, pair.PairID) {
		f.withdraw(ctx, intent)
		return errAgain
	}
	now := f.source.now()
	if !f.app.state.mayCondemn(now) {
		f.withdraw(ctx, intent)
		failure, first := f.app.state.breaker.open(now, &Error{Status: Connected, Reason: ReasonProvider, Err: errSuspicious}, suspicionPause)
		if first {
			f.observe(EventAlarm, ReasonProvider, pair.PairID, errSuspicious)
		}
		return failure
	}
	verdict := tokenstore.Verdict{Pair: pair.Hash, Reason: refusal.Code, At: wall(now)}
	err = f.persist(ctx, func(ctx context.Context) error { return f.store.PutVerdict(ctx, f.account.id(), verdict) })
	if err != nil {
		return storeError(fmt.Errorf("writing a verdict for account %s: %w", f.account.id(), err))
	}
	state.Verdicts = append(state.Verdicts, verdict)
	k := f.account.publish(&state)
	f.withdraw(ctx, f.naming(&state, pair.Hash)...)
	if !k.alive() {
		f.observe(EventReconnectRequired, refusal.Code, pair.PairID, refusal)
	}
	return errAgain // the next living pair is tried, where there is one
}

// arrived reports whether a living pair above this one is there that was not
// there before the POST.
func arrived(before, after *tokenstore.Account, pair tokenstore.PairID) bool {
	return slices.ContainsFunc(after.Living(), func(p tokenstore.Pair) bool {
		return pair.Less(p.PairID) && !contains(before, p.PairID)
	})
}

func contains(state *tokenstore.Account, id tokenstore.PairID) bool {
	return slices.ContainsFunc(state.Pairs, func(p tokenstore.Pair) bool { return p.PairID == id })
}

// awaitOthers reads the account again after a verdict. If another instance's intent
// names the pair, the verdict may only mean that the other instance refreshed it
// first. So it waits until that intent has not changed for so long that its writer
// can no longer be saving a new pair.
func (f *flight) awaitOthers(ctx context.Context, pair *tokenstore.Pair, intent tokenstore.Intent) (tokenstore.Account, error) {
	ctx, cancel := context.WithTimeout(ctx, preparation)
	defer cancel()
	before := f.account.known.Load().top()
	for {
		state, err := f.read(ctx)
		if err != nil {
			return state, storeError(err)
		}
		others := slices.DeleteFunc(f.naming(&state, pair.Hash), func(i tokenstore.Intent) bool { return i.Instance == intent.Instance })
		quiet := f.seen(others).Add(f.app.Client.Timeout() + slack)
		wait := quiet.Sub(f.source.now())
		if len(others) == 0 || wait <= 0 || before.Less(f.account.known.Load().top()) {
			return state, nil
		}
		if !f.source.manager.sleep(ctx, min(wait, time.Second)) {
			return state, f.passing(errMeeting, slack)
		}
	}
}

// unknown decides what an intent that names the pair means. It returns nil where
// there is none, or where the pair may be tried again.
func (f *flight) unknown(ctx context.Context, state *tokenstore.Account, pair *tokenstore.Pair) error {
	naming := f.naming(state, pair.Hash)
	if len(naming) == 0 {
		return nil
	}
	now, at := f.source.now(), f.retryAt(naming, pair)
	wait := at.Sub(now)
	if wait <= 0 {
		return nil
	}
	if f.met.IsZero() {
		f.met = now
	}
	// Another instance's refresh that is under way brings a new pair soon: those
	// who have no valid token wait for it a little.
	foreign := slices.ContainsFunc(naming, func(i tokenstore.Intent) bool { return i.Instance != f.source.manager.instance })
	if foreign && !now.Before(pair.ExpiresAt) && now.Sub(f.met) < meetWait {
		if f.source.manager.sleep(ctx, min(wait, 200*time.Millisecond+rand.N(300*time.Millisecond))) {
			return errAgain
		}
	}
	return f.hold(at, errMeeting)
}

// retryAt is when a pair may be posted again after an unknown outcome: not
// before a POST that was announced must have ended and been saved, which only
// our own clock can tell; and much later while the access token still lives.
func (f *flight) retryAt(naming []tokenstore.Intent, pair *tokenstore.Pair) time.Time {
	now := f.source.now()
	unit := f.app.Client.Timeout() + slack
	pause := unit
	for range attempts(naming) - 1 {
		pause = min(2*pause, max(mostUnknownPause, unit))
	}
	at := f.seen(naming).Add(pause)
	if !now.Before(pair.ExpiresAt) {
		return at
	}
	long := min(retryUnknown, pair.ExpiresAt.Sub(pair.ObtainedAt)/3)
	var until time.Time
	for _, i := range naming {
		since := i.At
		// Its writer's clock is ahead: count from when the intent was seen here.
		if since.After(now) {
			since = f.seen(naming)
		}
		if next := since.Add(long); next.After(until) {
			until = next
		}
	}
	if until.After(pair.ExpiresAt) {
		until = pair.ExpiresAt // when the access token ends the short rule counts
	}
	// What is left of each is compared, not the times: the long rule is reckoned
	// on a wall clock, which jumps, and must not hide the short one.
	if until.Sub(now) > at.Sub(now) {
		return until
	}
	return at
}

// attempts is the number of POSTs with an unknown outcome that intents tell of.
func attempts(naming []tokenstore.Intent) int {
	n := 0
	for _, i := range naming {
		n = max(n, i.Attempt+1)
	}
	return n
}

// naming returns the intents that name a pair, without those of ours that were
// never followed by a POST.
func (f *flight) naming(state *tokenstore.Account, hash string) []tokenstore.Intent {
	u := f.account.lock()
	defer f.account.unlock()
	var naming []tokenstore.Intent
	for _, i := range state.Intents {
		if _, unsent := u.unsent[i.Nonce]; i.Pair == hash && !unsent {
			naming = append(naming, i)
		}
	}
	return naming
}

// seen is when any of these intents was last seen to change, on our own clock.
func (f *flight) seen(naming []tokenstore.Intent) time.Time {
	u := f.account.lock()
	defer f.account.unlock()
	var last time.Time
	for _, i := range naming {
		if s := u.sightings[i.Nonce]; s.at.After(last) {
			last = s.at
		}
	}
	return last
}

// withdraw deletes intents. One that cannot be deleted makes other instances treat
// the outcome as unknown; this process remembers that its outcome is known.
func (f *flight) withdraw(ctx context.Context, intents ...tokenstore.Intent) {
	for _, i := range intents {
		err := f.persist(ctx, func(ctx context.Context) error { return f.store.DeleteIntent(ctx, f.account.id(), i) })
		if err != nil {
			u := f.account.lock()
			if u.unsent == nil {
				u.unsent = make(map[string]struct{})
			}
			u.unsent[i.Nonce] = struct{}{}
			u.note(i, f.source.now())
			f.account.unlock()
		}
	}
}

// persist tries a small write a few times, also while the caller's own time runs
// out.
func (f *flight) persist(ctx context.Context, write func(context.Context) error) error {
	return persist(ctx, f.source.manager, write)
}

func persist(ctx context.Context, m *Manager, write func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWait)
	defer cancel()
	pauses := pausesBetween(50*time.Millisecond, time.Second)
	for tries := 0; ; tries++ {
		err := write(ctx)
		if err == nil || tries == 3 || !m.sleep(ctx, pauses.NextBackOff()) {
			return err
		}
	}
}

// settle remembers how the flight ended, so that the next waits as long as is of
// use, and tells it.
func (f *flight) settle(err error) error {
	a, now := f.account, f.source.now()
	failure, ok := errors.AsType[*Error](err)
	if !ok || failure.Status != Connected {
		a.worked()
		a.tryAt.Store(0)
		return err
	}
	if errors.Is(failure, errTooLate) && f.source.manager.ending() {
		return failure // nothing failed: the next process need not hold back
	}
	u := a.lock()
	u.failed = f.posted
	// An application's breaker, and a hold, reckoned their time already.
	if failure.Reason != ReasonApplicationFault && !errors.Is(failure, errSuspicious) && !f.held {
		failure = u.setback.set(now, failure, failure.RetryAfter)
	}
	a.unlock()
	f.source.observe(Event{
		Name: EventRenewalFailed, Application: f.app.Name, Account: a.id(), Pair: f.posted,
		Reason: failure.Reason, RetryAfter: failure.RetryAfter, Err: failure,
	})
	a.tryAt.Store(now.Add(min(max(failure.RetryAfter, time.Second), time.Minute)).UnixNano())
	return failure
}
