package tokensource

import (
	"sync"
	"time"

	"github.com/cenkalti/backoff/v5"
	"golang.org/x/time/rate"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// storeRetry is when to ask again after the store failed.
	storeRetry = 5 * time.Second
	// providerRetry is when to ask again while a token request is under way.
	providerRetry = 2 * time.Second
	// mostRetryAfter bounds what a provider may ask to wait.
	mostRetryAfter = time.Hour

	// Exchanges have a limit of their own: codes made up by strangers must not
	// use up what the provider grants to renewals.
	exchangesPerSecond = 5
	exchangesAtOnce    = 50
	// exchangeFailures in a row open the breaker of exchanges.
	exchangeFailures = 5

	// More than condemnedMost condemnations, and more than a fifth of the
	// refreshes, within condemnWindow minutes are not the sellers' doing.
	condemnedMost  = 5
	condemnedShare = 5
	condemnWindow  = 10

	// Verdicts because of notices have a limit too: more sellers than that do not
	// leave at once.
	noticesPerMinute = 5
	noticesAtOnce    = 50

	// rejectedMost accounts whose tokens got a 401 within a minute are not the
	// sellers' doing either.
	rejectedMost = 5
	rejectPause  = 5 * time.Minute
)

// pausesBetween returns growing pauses with jitter.
func pausesBetween(first, most time.Duration) *backoff.ExponentialBackOff {
	return &backoff.ExponentialBackOff{
		InitialInterval:     first,
		MaxInterval:         most,
		Multiplier:          2,
		RandomizationFactor: 0.5,
	}
}

// setback remembers a failure, and that until some time trying again is of no
// use. The zero setback blocks nothing.
type setback struct {
	mu     sync.Mutex
	err    *Error
	since  time.Time
	until  time.Time
	pauses *backoff.ExponentialBackOff
}

// check returns the failure while trying again is of no use, with what is left
// to wait. A clock that was set back ends the wait.
func (s *setback) check(now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil || now.Before(s.since) || !now.Before(s.until) {
		return nil
	}
	err := *s.err
	err.RetryAfter = max(s.until.Sub(now), time.Second)
	return &err
}

// set remembers a failure, and returns it with what is to be waited: the pause
// grows with each failure, and is at least atLeast.
func (s *setback) set(now time.Time, err *Error, atLeast time.Duration) *Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pauses == nil {
		s.pauses = pausesBetween(time.Second, 5*time.Minute)
	}
	pause := max(s.pauses.NextBackOff(), atLeast, time.Second)
	held := *err
	held.RetryAfter = pause
	s.err, s.since, s.until = &held, now, now.Add(pause)
	return &held
}

// hold remembers a failure until an exact time.
func (s *setback) hold(now time.Time, err *Error, until time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err, s.since, s.until = err, now, until
}

// clear forgets the failure: something worked.
func (s *setback) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = nil
	if s.pauses != nil {
		s.pauses.Reset()
	}
}

// over reports whether there is no failure to remember.
func (s *setback) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err == nil
}

// rest lets the next try through without forgetting how long the pauses grew.
func (s *setback) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.until = s.since
}

// breaker stops requests for a whole application. When its pause is over one
// request is let through to try; the others go on waiting for what comes of it.
type breaker struct {
	setback
}

// allow returns the failure that the breaker is open for, or lets the caller try.
func (b *breaker) allow(now time.Time) error {
	if err := b.check(now); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		b.since, b.until = now, now.Add(30*time.Second)
	}
	return nil
}

// open opens the breaker. It returns the failure with what is to be waited, and
// whether the breaker was closed before.
func (b *breaker) open(now time.Time, err *Error, atLeast time.Duration) (held *Error, first bool) {
	b.mu.Lock()
	first = b.err == nil
	b.mu.Unlock()
	return b.set(now, err, atLeast), first
}

type applicationKey struct{ name, clientID string }

// applicationState is what is live about one application.
type applicationState struct {
	// breaker stops everything, for a fault of the application.
	breaker breaker
	// exchangeBreaker and exchanges hold back exchanges only.
	exchangeBreaker breaker
	exchanges       *rate.Limiter
	own             ownToken
	// notices limits the verdicts that notices of the provider lead to.
	notices *rate.Limiter

	mu             sync.Mutex
	exchangeFailed int
	outcomes       [condemnWindow]minute
	// suspicious is set when too many pairs were called dead, and until one
	// refresh works: condemn nobody.
	suspicious bool
	stopped    time.Time
	rejected   map[tokenstore.AccountID]time.Time
	rejectsEnd time.Time
}

// minute counts the verdicts of the provider within one minute.
type minute struct {
	at         int64
	done, dead int
}

func newApplicationState() *applicationState {
	return &applicationState{
		exchanges: rate.NewLimiter(exchangesPerSecond, exchangesAtOnce),
		notices:   rate.NewLimiter(rate.Every(time.Minute/noticesPerMinute), noticesAtOnce),
		rejected:  make(map[tokenstore.AccountID]time.Time),
	}
}

func (a *applicationState) count(now time.Time, done, dead int) (allDone, allDead int) {
	at := now.Unix() / 60
	this := &a.outcomes[((at%condemnWindow)+condemnWindow)%condemnWindow]
	if this.at != at {
		*this = minute{at: at}
	}
	this.done += done
	this.dead += dead
	for _, m := range a.outcomes {
		if age := at - m.at; age >= 0 && age < condemnWindow {
			allDone += m.done
			allDead += m.dead
		}
	}
	return allDone, allDead
}

// refreshed notes a refresh that worked.
func (a *applicationState) refreshed(now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.count(now, 1, 0)
	if a.suspicious && now.Before(a.stopped) {
		return // it was under way when refreshes were stopped: it proves nothing about now
	}
	a.suspicious = false
	a.breaker.clear()
}

// accepted notes a request that proves that the application's credentials work. It
// proves nothing about refreshes, so it ends no suspicion.
func (a *applicationState) accepted() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.suspicious {
		a.breaker.clear()
	}
}

// rest lets one request through: the operator may have mended what was wrong.
func (a *applicationState) rest() {
	a.breaker.rest()
	a.exchangeBreaker.rest()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = time.Time{}
}

// mayCondemn notes that the provider called a pair dead, and reports whether to
// believe it.
func (a *applicationState) mayCondemn(now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	done, dead := a.count(now, 1, 1)
	if dead > condemnedMost && dead*condemnedShare > done {
		a.suspicious = true
	}
	if a.suspicious {
		a.stopped = now.Add(suspicionPause)
	}
	return !a.suspicious
}

// mayBelieve reports whether to believe that one more account ended its
// authorization elsewhere. It counts apart from refreshes: many notices do not
// stop those.
func (a *applicationState) mayBelieve(now time.Time) bool {
	a.mu.Lock()
	suspicious := a.suspicious
	a.mu.Unlock()
	return !suspicious && a.notices.AllowN(now, 1)
}

// mayReplace notes that a token of an account got a 401, and reports whether to
// believe it; first tells the first time that it does not.
func (a *applicationState) mayReplace(now time.Time, account tokenstore.AccountID) (may, first bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Before(a.rejectsEnd) && a.rejectsEnd.Sub(now) <= rejectPause {
		return false, false
	}
	for other, at := range a.rejected {
		if age := now.Sub(at); age < 0 || age >= time.Minute {
			delete(a.rejected, other)
		}
	}
	a.rejected[account] = now
	if len(a.rejected) <= rejectedMost {
		return true, false
	}
	a.rejectsEnd = now.Add(rejectPause)
	clear(a.rejected)
	return false, true
}
