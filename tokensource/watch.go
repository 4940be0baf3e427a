package tokensource

import (
	"context"
	"sync"
	"time"
	"unique"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// mostUnread bounds the accounts that wait to be read again.
const mostUnread = 100_000

// watcher listens, for the configuration that serves, to what other instances
// change in its store. It makes changes known sooner; where it cannot, memory is
// still read again every 20 to 30 s.
type watcher struct {
	source *Source
	cancel context.CancelFunc
}

// watching has the newest configuration listen whose store is open. One that has
// not needed its store yet leaves the one before it listening.
func (m *Manager) watching() {
	m.watcherMu.Lock()
	defer m.watcherMu.Unlock()
	newest := m.newest.Load()
	if newest != nil && (newest.opened.Load() == nil || m.watcher != nil && m.watcher.source == newest) {
		return
	}
	if m.watcher != nil {
		m.watcher.cancel()
		m.watcher = nil
	}
	if newest == nil {
		return
	}
	o := newest.opened.Load()
	store, ok := o.store.(tokenstore.Watcher)
	if !ok {
		return
	}
	ctx, cancel := context.WithCancel(m.ctx)
	changed := &changedAccounts{wake: make(chan struct{}, 1), unread: make(map[tokenstore.AccountID]struct{})}
	started := m.spawn(0, func(context.Context) { newest.watch(ctx, store, changed) })
	if !started {
		cancel()
		return
	}
	m.watcher = &watcher{source: newest, cancel: cancel}
	m.spawn(0, func(context.Context) { newest.readChanged(ctx, o.store, changed) })
	m.spawn(0, func(context.Context) {
		defer cancel()
		select {
		case <-ctx.Done():
		case <-m.closing:
		}
	})
}

// watch listens again and again, and tells once that it cannot, and once that it
// can again.
func (s *Source) watch(ctx context.Context, store tokenstore.Watcher, changed *changedAccounts) {
	pauses := pausesBetween(200*time.Millisecond, 15*time.Second)
	var deaf bool
	for ctx.Err() == nil {
		err := store.Watch(ctx, func(c tokenstore.Change) {
			if c == (tokenstore.Change{}) {
				pauses.Reset()
				if deaf {
					deaf = false
					s.observe(Event{Name: EventListening})
				}
			}
			s.changed(c, changed)
		})
		if ctx.Err() != nil {
			return
		}
		if !deaf {
			deaf = true
			s.observe(Event{Name: EventNotListening, Reason: ReasonStore, Err: err})
		}
		if !s.manager.sleep(ctx, pauses.NextBackOff()) {
			return
		}
	}
}

// changed takes from memory what another instance changed. A seller is forgotten
// at once: whom it acts with may be another account now, or none. An account is
// read again, and what its sellers have serves on until that has happened.
func (s *Source) changed(c tokenstore.Change, accounts *changedAccounts) {
	r := s.realm
	switch {
	case c.Seller != "":
		k := key{application: unique.Make(c.Application), seller: c.Seller}
		// Whoever is unknown here is not to make others read again.
		if r.has(k) || r.loads.busy(k) {
			r.forget(k)
		}
	case c.Account != tokenstore.AccountID{}:
		if r.knows(c.Account) && !accounts.add(c.Account) {
			r.recheckAll()
		}
	default:
		r.recheckAll()
	}
}

// recheckAll has every seller read again when it is next asked for, in the
// background: whatever was missed.
func (r *realm) recheckAll() {
	for snap := range r.awake.all() {
		snap.recheckAfter.Store(0)
	}
}

// changedAccounts are those that are to be read again.
type changedAccounts struct {
	wake   chan struct{}
	mu     sync.Mutex
	unread map[tokenstore.AccountID]struct{}
}

// add reports false where there are too many.
func (c *changedAccounts) add(id tokenstore.AccountID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.unread) >= mostUnread {
		return false
	}
	c.unread[id] = struct{}{}
	select {
	case c.wake <- struct{}{}:
	default:
	}
	return true
}

func (c *changedAccounts) take() (id tokenstore.AccountID, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id = range c.unread {
		delete(c.unread, id)
		return id, true
	}
	return id, false
}

// readChanged reads them one after the other: what memory does not know of is not
// among them.
func (s *Source) readChanged(ctx context.Context, store tokenstore.Store, changed *changedAccounts) {
	for {
		id, ok := changed.take()
		if !ok {
			select {
			case <-changed.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		rctx, cancel := context.WithTimeout(ctx, loadWait)
		// What fails is read when memory has run out.
		_, _ = s.read(rctx, store, s.nameOf(id.ClientID), s.realm.account(id))
		cancel()
	}
}

func (s *Source) nameOf(clientID string) string {
	for _, app := range s.applications {
		if app.clientID == clientID {
			return app.Name
		}
	}
	return ""
}
