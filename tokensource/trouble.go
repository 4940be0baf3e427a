package tokensource

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// quietFor is how long no new alarm is raised after a store failed or recovered:
// operations that were under way then may still fail.
const quietFor = time.Minute

// trouble remembers which alarms about one store were raised.
type trouble struct {
	mu sync.Mutex
	// lasting is set from the alarm about the store until its recovery.
	lasting bool
	// store and records are when the last event was sent: about the store itself, and
	// about records in it.
	store, records time.Time
}

// begin reports whether the operator is to be told, and whether the store itself
// fails, which ends when it works again.
func (t *trouble) begin(now time.Time, err error) (tell, fails bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	last := &t.store
	// Unreadable records count apart: they must not hide that the store itself fails.
	if unreadable(err) {
		last = &t.records
	} else if t.lasting {
		return false, false
	}
	// A clock that was set back ends the quiet.
	if since := now.Sub(*last); !last.IsZero() && since >= 0 && since < quietFor {
		return false, false
	}
	*last, t.lasting = now, t.lasting || last == &t.store
	return true, last == &t.store
}

func unreadable(err error) bool {
	_, is := errors.AsType[*tokenstore.UnreadableError](err)
	return is
}

func (t *trouble) end(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lasting, t.store = false, now
}

// troubled raises one alarm when the store or its key cannot be used, retries what
// failed, and sends one event when it works again. Sellers in memory are served
// meanwhile, so requests may show neither. Unreadable records in a store that works
// raise an alarm once a minute.
func (s *Source) troubled(app *application, failure *Error, again func(context.Context, *Source) error) {
	if failure.Reason != ReasonStore {
		return
	}
	tell, fails := s.realm.trouble.begin(s.now(), failure)
	if tell {
		s.observe(Event{Name: EventAlarm, Application: app.Name, Reason: ReasonStore, RetryAfter: failure.RetryAfter, Err: failure.Err})
	}
	if !fails {
		return
	}
	ctx, cancel := context.WithCancel(s.manager.ctx)
	s.manager.spawn(0, func(context.Context) {
		defer cancel()
		s.awaitStore(ctx, again)
	})
	s.manager.spawn(0, func(context.Context) {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-s.manager.closing:
		}
	})
}

// awaitStore retries what failed, each time with the configuration in force: a newer
// one may be what fixes it.
func (s *Source) awaitStore(ctx context.Context, again func(context.Context, *Source) error) {
	r := s.realm
	for pauses := pausesBetween(200*time.Millisecond, 30*time.Second); s.manager.sleep(ctx, pauses.NextBackOff()); {
		c := s.inForce()
		if c.realm != r {
			break // nobody uses this store any more
		}
		tctx, cancel := context.WithTimeout(ctx, loadWait)
		err := again(tctx, c)
		cancel()
		if ctx.Err() != nil {
			break
		}
		if err != nil && storeError(err).Reason == ReasonStore && !unreadable(err) {
			continue
		}
		r.trouble.end(c.now())
		c.observe(Event{Name: EventRecovered, Reason: ReasonStore})
		return
	}
	r.trouble.end(s.now())
}

// What is tried to see whether a store works again is what failed: a store that can
// be read and not written works for some.

func opening(ctx context.Context, s *Source) error {
	_, err := s.open(ctx)
	return err
}

// loading reads a seller.
func loading(app *application, k key) func(context.Context, *Source) error {
	return func(ctx context.Context, s *Source) error {
		_, err := s.loadNow(ctx, app, k)
		return err
	}
}

// looking looks at an account as a renewal does, and schedules it.
func looking(app *application, id tokenstore.AccountID) func(context.Context, *Source) error {
	return func(ctx context.Context, s *Source) error {
		o, err := s.open(ctx)
		if err != nil {
			return err
		}
		r := &renewer{source: s, queue: s.realm.queue}
		p, _, due, err := r.look(ctx, o, app, s.realm.account(id))
		if err == nil && o.scheduler() != nil {
			err = sooner(ctx, o.scheduler(), id, due, p.at)
		}
		return err
	}
}

func abandoning(app *application, id tokenstore.AccountID) func(context.Context, *Source) error {
	return func(ctx context.Context, s *Source) error {
		o, err := s.open(ctx)
		if err == nil {
			err = s.abandon(ctx, o, app, s.realm.account(id))
		}
		return err
	}
}

// walking takes a step of a walk.
func walking(ctx context.Context, s *Source) error {
	o, err := s.open(ctx)
	if err == nil {
		_, _, err = o.store.Accounts(ctx, "", 1)
	}
	if err == nil {
		_, err = o.store.CleanUp(ctx, s.now(), "", 1)
	}
	return err
}

// taking takes no account, as if some were due.
func taking(clientID string) func(context.Context, *Source) error {
	return func(ctx context.Context, s *Source) error {
		o, err := s.open(ctx)
		if err == nil && o.scheduler() != nil {
			_, err = o.scheduler().Due(ctx, clientID, s.now(), s.now().Add(lease), 0)
		}
		return err
	}
}
