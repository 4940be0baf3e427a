package tokensource

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// tick bounds every wait: timers stand still while a machine sleeps, and a
	// clock may be set.
	tick = 5 * time.Minute
	// watchEvery is how often what goes on is judged and kept.
	watchEvery = 10 * time.Second
	// workWait bounds the wait for one account; its flight goes on.
	workWait = 10 * time.Minute
	// lagMost is how late renewals may be before the operator is told.
	lagMost = time.Hour

	defaultWalkEvery = 12 * time.Hour
	defaultWalkRate  = 600
)

var errPaused = errors.New("the provider did not answer renewals well before the restart")

// Renewal says how tokens are renewed ahead of time, without requests.
type Renewal struct {
	// Parallel is how many token requests are under way at once for each
	// application; 0 renews when a request needs it only.
	Parallel int
	// WalkEvery is how often all accounts of the store are looked at; 0 is 12 h.
	WalkEvery time.Duration
	// WalkRate is how many accounts a minute a walk reads; 0 is 600.
	WalkRate int
}

func (r Renewal) every() time.Duration {
	if r.WalkEvery <= 0 {
		return defaultWalkEvery
	}
	return r.WalkEvery
}

// step is the time between two accounts of a walk.
func (r Renewal) step() time.Duration {
	rate := r.WalkRate
	if rate <= 0 {
		rate = defaultWalkRate
	}
	return time.Minute / time.Duration(rate)
}

// horizon is how far ahead the queue plans.
func (r *renewer) horizon() time.Duration {
	q := r.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	return 2 * max(r.source.config.Renewal.every(), q.walk.took)
}

// renewer runs the queue of one store, for the configuration that serves.
type renewer struct {
	source   *Source
	queue    *queue
	byClient map[string]*application
	cancel   context.CancelFunc
	watched  time.Time
	late     time.Time
}

// renewing has the newest configuration run its store's queue, and no other.
func (m *Manager) renewing() {
	m.renewerMu.Lock()
	defer m.renewerMu.Unlock()
	newest := m.newest.Load()
	if m.renewer != nil {
		if m.renewer.source == newest {
			return
		}
		m.renewer.cancel()
		m.renewer = nil
	}
	if newest == nil || newest.config.Renewal.Parallel <= 0 {
		return
	}
	r := &renewer{source: newest, queue: newest.realm.queue, byClient: make(map[string]*application)}
	for _, app := range newest.applications {
		r.byClient[app.clientID] = app
	}
	ctx, cancel := context.WithCancel(m.ctx)
	r.cancel = cancel
	if m.spawn(0, func(context.Context) { r.run(ctx) }) {
		m.spawn(0, func(context.Context) { r.walk(ctx) })
		m.spawn(0, func(context.Context) { r.takeDue(ctx) })
		m.renewer = r
	} else {
		cancel()
	}
}

// run starts what is due, until another configuration does.
func (r *renewer) run(ctx context.Context) {
	r.restore()
	defer r.keep()
	for {
		wait := min(r.start(), r.watch())
		timer := time.NewTimer(max(min(wait, tick), time.Millisecond))
		select {
		case <-timer.C:
			continue
		case <-r.queue.wake:
			timer.Stop()
			continue
		case <-ctx.Done():
		case <-r.source.manager.closing:
		}
		timer.Stop()
		return
	}
}

// start starts what may be started, and returns how long to wait for more.
func (r *renewer) start() time.Duration {
	s, wait := r.source, tick
	for clientID, app := range r.byClient {
		for {
			now := s.now()
			if held := app.state.breaker.left(now); held > 0 {
				wait = min(wait, held)
				break
			}
			it, more := r.queue.take(clientID, now, s.config.Renewal.Parallel)
			if it == nil {
				wait = min(wait, more)
				break
			}
			started := s.manager.spawn(workWait, func(ctx context.Context) {
				p := plan{at: it.at} // for others, should a store panic
				defer func() { r.queue.done(it, p, s.now(), r.horizon()) }()
				p = r.settle(ctx, it.id, r.attend(ctx, app, it))
			})
			if !started {
				r.queue.done(it, it.plan, now, r.horizon())
				return tick
			}
		}
	}
	return wait
}

// watch keeps what the next process should know, and tells of renewals that are
// late. It returns how long that can wait.
func (r *renewer) watch() time.Duration {
	now := r.source.now()
	if since := now.Sub(r.watched); since >= 0 && since < watchEvery {
		return watchEvery - since
	}
	r.watched = now
	r.keep()
	if since := now.Sub(r.late); since >= 0 && since < lagMost && !r.late.IsZero() {
		return tick
	}
	if t := r.queue.tell(now); t.Lag > lagMost {
		r.late = now
		err := fmt.Errorf("renewals are late by %s, %d are due: is the provider answering, and is parallel high enough?", t.Lag.Round(time.Minute), t.Due)
		r.source.observe(Event{Name: EventAlarm, Reason: ReasonLate, Err: err, Renewals: &t})
	}
	return tick
}

// attend looks at one account, and does what is due. It returns when to look
// again.
func (r *renewer) attend(ctx context.Context, app *application, it *item) plan {
	s := r.source
	o, err := s.open(ctx)
	if err != nil {
		return r.again(app, it, storeError(err), opening)
	}
	a := it.account
	if a == nil {
		a = s.realm.account(it.id)
	}
	p, orphan, _, err := r.look(ctx, o, app, a)
	now := s.now()
	switch {
	case err != nil:
		return r.again(app, it, storeError(err), looking(app, it.id))
	case p.at.IsZero() || p.at.After(now):
		return p
	case orphan:
		if err := s.abandon(ctx, o, app, a); err != nil {
			return r.again(app, it, storeError(err), abandoning(app, it.id))
		}
		return plan{}
	}
	return r.renew(ctx, app, it, a, p)
}

// again puts off an account that could not be read or forgotten.
func (r *renewer) again(app *application, it *item, failure *Error, trying func(context.Context, *Source) error) plan {
	r.source.troubled(app, failure, trying)
	it.tries++
	wait := min(storeRetry<<min(it.tries, 10), time.Hour)
	wait = max(failure.RetryAfter, wait/2+rand.N(wait/2))
	return plan{at: r.source.now().Add(wait), renews: it.renews, failing: true, account: it.account}
}

// renew joins or starts the account's flight, and judges what came of it.
func (r *renewer) renew(ctx context.Context, app *application, it *item, a *account, p plan) plan {
	s := r.source
	p.account = a
	if wait := a.busy(s.manager.instance, s.now(), app.Client.Timeout()+slack); wait > 0 {
		// Another instance is renewing it; its new pair arrives in a moment.
		p.at = s.now().Add(min(wait, slack/2+rand.N(slack/2)))
		return p
	}
	before := a.known.Load().top()
	f, err := s.renew(app, a, renewal{ahead: true})
	if err == nil {
		select {
		case <-f.done:
			err = f.err
		case <-ctx.Done():
			err = asError(ctx.Err())
		}
	}
	now := s.now()
	if err == nil {
		if before.Less(a.known.Load().top()) {
			r.queue.worked(it.lane, s.config.Renewal.Parallel)
		}
		next := r.renewAt(app, a)
		if !next.at.IsZero() && !next.at.After(now) {
			next.at = now.Add(time.Minute) // it was not renewed for a reason
		}
		return next
	}
	failure := asError(err)
	switch {
	case failure.Status != Connected:
		return plan{} // nothing to renew with: asking again is of no use
	case failure.Reason == ReasonApplicationFault || errors.Is(failure, errSuspicious):
		return p // the breaker holds all
	}
	if f != nil {
		r.judge(it.lane, failure)
	}
	wait := max(failure.RetryAfter, time.Second)
	return plan{at: now.Add(wait + rand.N(wait/10+1)), renews: true, failing: true, account: a}
}

// judge slows the application down where the failure is the provider's.
func (r *renewer) judge(l *lane, failure *Error) {
	refusal, ok := errors.AsType[*oauth.Error](failure)
	if !ok {
		return
	}
	refused := refusal.Outcome == oauth.Refused
	busy := refused && refusal.RetryAfter > 0 || refusal.Status == 429
	r.queue.failed(l, r.source.now(), failure, busy, min(refusal.RetryAfter, mostRetryAfter))
}

// busy is how long another instance's token request may be under way.
func (a *account) busy(instance string, now time.Time, bound time.Duration) (wait time.Duration) {
	pair := a.known.Load().renewable()
	u := a.lock()
	defer a.unlock()
	for _, s := range u.sightings {
		if pair != nil && s.intent.Pair == pair.id().Hash && s.intent.Instance != instance {
			wait = max(wait, s.at.Add(bound).Sub(now))
		}
	}
	return wait
}

// renewAt plans the account's next renewal.
func (r *renewer) renewAt(app *application, a *account) plan {
	now := r.source.now()
	at, ok := a.renewAt(now, app.RenewBefore)
	if !ok {
		return plan{}
	}
	if wait := at.Sub(now); wait > 0 {
		// Instances do not all look at the same moment.
		at = at.Add(rand.N(min(wait/20, time.Minute) + 1))
	}
	return plan{at: at, renews: true}
}

// pause is sleep with a pace that a clock which is set anew does not upset.
func (r *renewer) pause(ctx context.Context, until func(now time.Time) time.Duration) bool {
	for {
		wait := until(r.source.now())
		if wait <= 0 {
			return ctx.Err() == nil && !r.source.manager.ending()
		}
		if !r.source.manager.sleep(ctx, min(wait, tick)) {
			return false
		}
	}
}

// expect plans the next renewal of an account that has a new pair.
func (s *Source) expect(app *application, a *account, consent bool) {
	if s.config.Renewal.Parallel <= 0 {
		return
	}
	r := &renewer{source: s, queue: s.realm.queue}
	p, now := r.renewAt(app, a), s.now()
	if forget := now.Add(forgetAfter + time.Minute); consent && (p.at.IsZero() || p.at.After(forget)) {
		p = plan{at: forget} // unless someone confirms it
	}
	if o := s.opened.Load(); o != nil && o.scheduler() != nil {
		s.schedule(o, a.id(), p.at)
		return
	}
	s.realm.queue.put(a.id(), p, now, r.horizon())
}

// shortestLife is how long a token must live to be renewed ahead of time. The
// real ones live for hours at least.
const shortestLife = time.Minute

// renewAt is when the account is renewed without being asked for: a little before
// a request would have it renewed, each account at a time of its own, which is
// the same in every instance and after every restart. Ten thousand sellers that
// were imported on one day do not come due together.
func (a *account) renewAt(now time.Time, renewBefore time.Duration) (at time.Time, ok bool) {
	k := a.known.Load()
	r, serving := k.renewable(), k.serve(now, a.rejected())
	switch {
	case r == nil || k.unsaved:
		return time.Time{}, false
	case r.life() < shortestLife:
		return time.Time{}, false // requests renew it; the queue would do nothing else
	case serving == nil || serving.below(r):
		return now, true
	case serving != r:
		return serving.expiresAt.time(), true // a newer consent without a refresh token
	}
	due := r.dueAt(now, renewBefore)
	window := max(0, min(r.expiresAt.sub(due), due.sub(r.obtainedAt))/10)
	return due.add(-time.Duration(share(a.id()) * float64(window))).time(), true
}

// share is a number from 0 to 1 that belongs to an account.
func share(id tokenstore.AccountID) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(id.String()))
	// FNV's high bits hardly differ for numbers that follow each other.
	x := h.Sum64() * 0x9E3779B97F4A7C15
	x = (x ^ x>>32) * 0x9E3779B97F4A7C15
	return float64(x>>11) / (1 << 53)
}
