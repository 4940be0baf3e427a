package tokensource

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// page is how many ids a walk takes from the store at once.
	page = 500
	// forgetAfter is how long an account is kept that no connection points to,
	// and what a crash left: longer than any connect page stays open.
	forgetAfter = 24 * time.Hour
	// keptMost bounds what is kept for the next process.
	keptMost  = 10_000
	keptBytes = 4 << 20
	keptName  = "renewals.json"
)

// walkState is how far a walk through the store is.
type walkState struct {
	after string
	// next is when the next one begins, ended when the last one did.
	next, begun, ended time.Time
	took               time.Duration
	seen, last         int
	// partial is set while the walk goes on with one of the last process: what
	// that one had met, this one does not know.
	partial bool
}

// walk reads all accounts of the store, again and again, so slowly that neither the
// store nor the start of the process is slowed down.
func (r *renewer) walk(ctx context.Context) {
	q, s := r.queue, r.source
	for {
		due := func(now time.Time) time.Duration {
			q.mu.Lock()
			defer q.mu.Unlock()
			if q.walk.next.Sub(now) > s.config.Renewal.every() {
				q.walk.next = now // the clock was set back
			}
			return q.walk.next.Sub(now)
		}
		if !r.pause(ctx, due) {
			return
		}
		q.mu.Lock()
		if q.walk.begun.IsZero() {
			q.walk.begun, q.walk.seen = s.now(), 0
		}
		q.mu.Unlock()
		if !r.insist(ctx, r.walkAccounts) || !r.insist(ctx, r.cleanUp) {
			return
		}
		now := s.now()
		q.mu.Lock()
		w, partial := &q.walk, q.walk.partial
		if !partial {
			w.next = w.begun.Add(s.config.Renewal.every())
			w.took, w.last, w.ended = max(0, now.Sub(w.begun)), w.seen, now
		}
		w.begun, w.partial = time.Time{}, false
		q.changed = true
		q.mu.Unlock()
		if partial {
			continue
		}
		told := q.tell(now)
		s.observe(Event{Name: EventRenewals, Renewals: &told})
	}
}

// insist repeats a part of the walk that the store fails, and reports whether it
// came to its end.
func (r *renewer) insist(ctx context.Context, part func(context.Context, *opened) error) bool {
	pauses := pausesBetween(storeRetry, 5*time.Minute)
	for {
		o, err := r.source.open(ctx)
		if err == nil {
			err = part(ctx, o)
		}
		if ctx.Err() != nil || r.source.manager.ending() {
			return false
		}
		if err == nil {
			return true
		}
		for _, app := range r.byClient {
			r.source.troubled(app, storeError(fmt.Errorf("walking through the store: %w", err)), walking)
			break
		}
		if !r.source.manager.sleep(ctx, pauses.NextBackOff()) {
			return false
		}
	}
}

func (r *renewer) walkAccounts(ctx context.Context, o *opened) error {
	q, s := r.queue, r.source
	for {
		q.mu.Lock()
		after := q.walk.after
		q.mu.Unlock()
		lctx, cancel := context.WithTimeout(ctx, time.Minute)
		ids, next, err := o.store.Accounts(lctx, after, page)
		cancel()
		if err != nil {
			return err
		}
		for _, id := range ids {
			if !s.manager.sleep(ctx, s.config.Renewal.step()) {
				return context.Canceled
			}
			r.meet(ctx, o, id)
		}
		q.mu.Lock()
		q.walk.after, q.changed = next, true
		q.mu.Unlock()
		if next == "" {
			return nil
		}
	}
}

// meet plans an account that the walk came by.
func (r *renewer) meet(ctx context.Context, o *opened, id tokenstore.AccountID) {
	app := r.byClient[id.ClientID]
	if app == nil {
		return // of an application that is not configured any more
	}
	ctx, cancel := context.WithTimeout(ctx, loadWait)
	defer cancel()
	s := r.source
	p, _, due, err := r.look(ctx, o, app, s.realm.account(id))
	scheduler := o.scheduler()
	if scheduler != nil && err == nil {
		err = sooner(ctx, scheduler, id, due, p.at)
	}
	if err != nil {
		if ctx.Err() == nil {
			s.troubled(app, storeError(err), looking(app, id))
		}
		// One account that cannot be read holds up no other.
		p = plan{at: s.now().Add(storeRetry), renews: true}
	}
	if scheduler != nil {
		r.queue.pass()
		return
	}
	r.queue.meet(id, p, s.now(), r.horizon())
}

// look reads an account, tidies it up, and plans what is to be done for it.
func (r *renewer) look(ctx context.Context, o *opened, app *application, a *account) (p plan, orphan bool, due time.Time, err error) {
	s := r.source
	state, err := s.read(ctx, o.store, app.Name, a)
	if err != nil {
		return p, false, due, fmt.Errorf("reading account %s: %w", a.id(), err)
	}
	connections, err := o.store.Connections(ctx, a.id())
	if err != nil {
		return p, false, due, fmt.Errorf("listing the connections of account %s: %w", a.id(), err)
	}
	if err := s.tidy(ctx, o, a, &state); err != nil {
		return p, false, due, fmt.Errorf("tidying account %s: %w", a.id(), err)
	}
	if len(connections) > 0 {
		return r.renewAt(app, a), false, state.DueAt, nil
	}
	if len(state.Pairs) == 0 {
		return plan{}, true, state.DueAt, nil
	}
	return plan{at: newest(&state).Add(forgetAfter)}, true, state.DueAt, nil
}

// newest is when the account's newest pair was obtained.
func newest(state *tokenstore.Account) (at time.Time) {
	for _, p := range state.Pairs {
		at = later(at, p.ObtainedAt)
	}
	return at
}

// tidy deletes what crashes left: intents of pairs that are gone, marks of
// disconnects that are over, pairs that a tombstone voids.
func (s *Source) tidy(ctx context.Context, o *opened, a *account, state *tokenstore.Account) error {
	// Younger records may belong to work that is still under way.
	old := s.now().Add(-forgetAfter)
	var intents []tokenstore.Intent
	for _, i := range state.Intents {
		// An intent stays as long as its pair: it marks the pair as possibly burnt.
		named := slices.ContainsFunc(state.Pairs, func(p tokenstore.Pair) bool { return p.Hash == i.Pair })
		if !named && i.At.Before(old) {
			intents = append(intents, i)
		}
	}
	marks := slices.DeleteFunc(slices.Clone(state.Marks), func(m tokenstore.Mark) bool { return !m.At.Before(old) })
	void := slices.ContainsFunc(state.Pairs, func(p tokenstore.Pair) bool {
		return p.Authorization <= state.Tombstone && p.ObtainedAt.Before(old)
	})
	if len(intents) == 0 && len(marks) == 0 && !void {
		return nil
	}
	unlock := lockAccount(ctx, s.manager, o.store, a.id(), consentLockWait)
	defer unlock()
	for _, i := range intents {
		if err := o.store.DeleteIntent(ctx, a.id(), i); err != nil {
			return err
		}
	}
	if void {
		if _, err := s.deleteVoid(ctx, o, a, state.Tombstone); err != nil {
			return err
		}
	}
	for _, m := range marks {
		if err := o.store.DeleteMark(ctx, a.id(), m); err != nil {
			return err
		}
	}
	return nil
}

// abandon forgets an account that no connection points to, in the way of a
// disconnect: a connection that is being made at the same time sees the mark, or
// is seen.
func (s *Source) abandon(ctx context.Context, o *opened, app *application, a *account) error {
	unlock := lockAccount(ctx, s.manager, o.store, a.id(), consentLockWait)
	defer unlock()
	state, err := o.store.Account(ctx, a.id())
	if err != nil {
		return fmt.Errorf("reading account %s: %w", a.id(), err)
	}
	if state.Moved != nil || len(state.Pairs) == 0 || s.now().Before(newest(&state).Add(forgetAfter)) {
		// Another instance was faster, a seller came back, or the account was moved: a
		// pair that came late must still be copied to the other store.
		return nil
	}
	mark := tokenstore.Mark{Connection: randomID(), Authorization: highest(&state, &tokenstore.Connection{}), At: wall(s.now())}
	kept, err := s.release(ctx, o, app, a, mark)
	if err == nil && !kept {
		s.observe(Event{Name: EventForgotten, Application: app.Name, Account: a.id()})
	}
	return err
}

// cleanUp deletes short-lived records, at the pace of the walk.
func (r *renewer) cleanUp(ctx context.Context, o *opened) error {
	const portion = 50
	for after := ""; ; {
		cctx, cancel := context.WithTimeout(ctx, time.Minute)
		next, err := o.store.CleanUp(cctx, r.source.now(), after, portion)
		cancel()
		if err != nil || next == "" {
			return err
		}
		if !r.source.manager.sleep(ctx, portion*r.source.config.Renewal.step()) {
			return context.Canceled
		}
		after = next
	}
}

// kept is what the next process should know, so that a restart causes no extra
// requests: which applications and accounts failed, until when each is left alone,
// and how far the walk was. It is a hint, and holds no secret.
type kept struct {
	After    string               `json:"after,omitempty"`
	Paused   map[string]time.Time `json:"paused,omitempty"` // by client id
	Accounts []keptAccount        `json:"accounts,omitempty"`
}

type keptAccount struct {
	tokenstore.AccountID
	At time.Time `json:"at"`
}

// keep writes what changed.
func (r *renewer) keep() {
	dir, now := r.source.config.SpillDir, r.source.now()
	q := r.queue
	k := kept{Paused: make(map[string]time.Time)}
	q.mu.Lock()
	changed := q.changed
	q.changed = false
	k.After = q.walk.after
	for clientID, l := range q.lanes {
		if wait := l.paused.left(now); wait > 0 {
			k.Paused[clientID] = wall(now.Add(wait))
		}
	}
	for _, it := range q.items {
		if it.failing && len(k.Accounts) < keptMost {
			k.Accounts = append(k.Accounts, keptAccount{it.id, wall(it.at)})
		}
	}
	q.mu.Unlock()
	for clientID, app := range r.byClient {
		if wait := app.state.breaker.left(now); wait > 0 {
			k.Paused[clientID] = later(k.Paused[clientID], wall(now.Add(wait)))
			changed = true
		}
	}
	if !changed || dir == "" {
		return
	}
	text, err := json.Marshal(k)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	// Whole or not at all, but not waiting for the disk: without it the next
	// process asks once more.
	path := filepath.Join(dir, keptName)
	if err == nil {
		err = os.WriteFile(path+r.source.manager.instance, text, 0o600)
	}
	if err == nil {
		_ = os.Rename(path+r.source.manager.instance, path)
	}
}

// restore reads, once, what the last process kept.
func (r *renewer) restore() {
	q, now := r.queue, r.source.now()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.restored || r.source.config.SpillDir == "" {
		return
	}
	q.restored = true
	path := filepath.Join(r.source.config.SpillDir, keptName)
	if info, err := os.Stat(path); err != nil || info.Size() > keptBytes {
		return
	}
	text, err := os.ReadFile(path)
	var k kept
	if err != nil || json.Unmarshal(text, &k) != nil {
		return
	}
	q.walk.after, q.walk.partial = k.After, k.After != ""
	for clientID, until := range k.Paused {
		if wait := until.Sub(now); wait > 0 && wait <= mostRetryAfter {
			failure := &Error{Status: Connected, Reason: ReasonProvider, RetryAfter: wait, Err: errPaused}
			q.lane(clientID).paused.hold(now, failure, until)
		}
	}
	for _, a := range k.Accounts[:min(len(k.Accounts), keptMost)] {
		if wait := a.At.Sub(now); wait > 0 && wait <= retryUnknown && q.items[a.AccountID] == nil {
			q.plan(a.AccountID, plan{at: a.At, renews: true, failing: true}, now, retryUnknown)
		}
	}
}
