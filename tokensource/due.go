package tokensource

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// lease is how long an account that was taken from the store is this instance's:
	// longer than it waits here and is worked on. It is no lock: who is late with it
	// finds, as ever, that another was faster.
	lease = 15 * time.Minute
	// dueEvery is how often the store is asked for more while it has none.
	dueEvery = 10 * time.Second
)

// A store that is shared by a fleet, and holds millions of accounts, is not to be
// read through by each instance to find the few that are due. Where it can tell
// them, it keeps the schedule: an instance takes no more than it can work on soon,
// and says afterwards when each is due next. What is in the queue here is only what
// was taken, and what fails, with what is remembered of it. The walk goes on, for
// what nobody scheduled and for settings that changed.

// scheduler is the store's, or nil where it keeps no schedule.
func (o *opened) scheduler() tokenstore.Scheduler {
	scheduler, _ := o.store.(tokenstore.Scheduler)
	return scheduler
}

// takeDue fills the queue from the store.
func (r *renewer) takeDue(ctx context.Context) {
	pauses := pausesBetween(storeRetry, 5*time.Minute)
	for {
		wait := dueEvery/2 + rand.N(dueEvery)
		o, err := r.source.open(ctx)
		if err == nil {
			if o.scheduler() == nil {
				return
			}
			err = r.takeDueNow(ctx, o.scheduler())
		}
		if err == nil {
			pauses.Reset()
		} else {
			wait = pauses.NextBackOff()
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.queue.room:
		case <-ctx.Done():
		case <-r.source.manager.closing:
		}
		timer.Stop()
		if ctx.Err() != nil || r.source.manager.ending() {
			return
		}
	}
}

func (r *renewer) takeDueNow(ctx context.Context, store tokenstore.Scheduler) error {
	s := r.source
	for clientID, app := range r.byClient {
		now := s.now()
		n := r.queue.wants(clientID, now, s.config.Renewal.Parallel)
		if n == 0 || app.state.breaker.left(now) > 0 {
			continue
		}
		sctx, cancel := context.WithTimeout(ctx, storeWait)
		ids, err := store.Due(sctx, clientID, now, now.Add(lease), n)
		cancel()
		if err != nil {
			if ctx.Err() == nil { // otherwise a reload cancelled it, and the store may be fine
				s.troubled(app, storeError(err), taking(clientID))
			}
			return err
		}
		for _, id := range ids {
			r.queue.put(id, plan{at: now, renews: true}, now, r.horizon())
		}
	}
	return nil
}

// wants is how many more accounts of an application there is work for: enough for
// all hands until the store is asked again, and none while it is held back.
func (q *queue) wants(clientID string, now time.Time, parallel int) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lane(clientID)
	if l.paused.left(now) > 0 {
		return 0
	}
	most := 2 * min(l.limit, parallel)
	here := l.running
	for _, it := range l.waiting {
		if !it.at.After(now) {
			here++
		}
		if here >= most {
			return 0
		}
	}
	return most - here
}

// settle tells the store when an account that was looked at is due next, and
// returns what is left to be planned here: what fails, because of what is
// remembered of it. Should this process die, the store has it come due a little
// later.
func (r *renewer) settle(ctx context.Context, id tokenstore.AccountID, p plan) plan {
	o := r.source.opened.Load()
	if o == nil || o.scheduler() == nil {
		return p
	}
	at, here := p.at, plan{}
	if p.failing || p.account != nil {
		at, here = p.at.Add(lease), p
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWait)
	defer cancel()
	// What cannot be told comes due when the lease is over.
	_ = o.scheduler().Schedule(ctx, id, at)
	return here
}

// schedule tells the store in the background when an account is due.
func (s *Source) schedule(o *opened, id tokenstore.AccountID, at time.Time) {
	s.manager.spawn(storeWait, func(ctx context.Context) { _ = o.scheduler().Schedule(ctx, id, at) })
}

// sooner has an account that the walk came by come due in time, where the store
// would have it come due later, or never.
func sooner(ctx context.Context, store tokenstore.Scheduler, id tokenstore.AccountID, due, want time.Time) error {
	if want.IsZero() || !due.IsZero() && due.Before(want.Add(lease)) {
		return nil
	}
	return store.Schedule(ctx, id, want)
}
