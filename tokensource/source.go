package tokensource

import (
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
	"time"
	"unique"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// openWait bounds one try to open the store; it holds the wait for the
	// flights of another store.
	openWait = drainWait + 30*time.Second
	// mostOpenPause bounds the growing pauses between tries to open a store that is
	// down: nobody is served until one succeeds.
	mostOpenPause = 15 * time.Second
	// replayWait is how long the first request waits for spilled pairs.
	replayWait = 5 * time.Second
	// storeWait bounds a store operation on its own.
	storeWait = 10 * time.Second
	// movedRetry is when to ask again about an account that another store is in
	// charge of: a configuration with that store is about to be loaded.
	movedRetry = 10 * time.Second
)

var errMoved = errors.New("the account was moved to another store; load the configuration that names it")

// Source is one configuration's view of the manager. Its methods are served by
// the newest attached configuration, and by its own where none is attached: a
// request depends neither on Start having run nor on Stop not having run.
type Source struct {
	manager      *Manager
	realm        *realm
	applications []*application
	config       Config
	started      atomic.Bool
	released     sync.Once

	opened  atomic.Pointer[opened]
	opening group[struct{}, *opened]
	broken  setback
	replays group[struct{}, struct{}]
}

// opened is a store that was opened once, with the keyring of its configuration.
type opened struct {
	store   tokenstore.Store
	keyring *secret.Keyring
}

type application struct {
	Application
	name     unique.Handle[string]
	clientID string
	state    *applicationState
	// live and test have the application's accounts.
	live, test *side
}

// Source returns a source for a configuration. It starts nothing and opens
// nothing.
func (m *Manager) Source(config Config) *Source {
	s := &Source{config: config, manager: m}
	s.broken.pauses = pausesBetween(time.Second, mostOpenPause)
	m.mu.Lock()
	defer m.mu.Unlock()
	s.realm = m.realms[config.StoreID]
	if s.realm == nil {
		s.realm = newRealm(m, config.cacheSize())
		m.realms[config.StoreID] = s.realm
	}
	s.realm.sources++
	for _, a := range config.Applications {
		k := applicationKey{name: a.Name, clientID: a.Client.ClientID()}
		state := m.applications[k]
		if state == nil {
			state = newApplicationState()
			m.applications[k] = state
		}
		s.applications = append(s.applications, s.realm.application(a, k.clientID, state))
	}
	return s
}

func (r *realm) application(a Application, clientID string, state *applicationState) *application {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &application{
		Application: a, name: unique.Make(a.Name), clientID: clientID, state: state,
		live: r.side(clientID, true), test: r.side(clientID, false),
	}
}

// Start attaches the configuration: the newest attached one serves all.
func (s *Source) Start() {
	s.started.Store(true)
	s.manager.attach(s)
	if s.hasSpilled() {
		s.manager.spawn(openWait, func(ctx context.Context) {
			if o, err := s.open(ctx); err == nil {
				s.replay(ctx, o)
			}
		})
	}
}

// Stop detaches the configuration.
func (s *Source) Stop() { s.manager.detach(s) }

// Release tells that the configuration is gone. Requests that still run with it
// go on. It may be called more than once.
func (s *Source) Release() {
	s.released.Do(func() {
		m := s.manager
		m.detach(s)
		m.mu.Lock()
		defer m.mu.Unlock()
		if s.realm.sources--; s.realm.sources == 0 && m.realms[s.config.StoreID] == s.realm {
			// Nobody is left to ask for this store's memory.
			delete(m.realms, s.config.StoreID)
		}
	})
}

// Keyring returns the keyring, opening it where no one needed it before.
func (s *Source) Keyring(ctx context.Context) (*secret.Keyring, error) {
	o, err := s.inForce().open(ctx)
	if err != nil {
		return nil, storeError(err)
	}
	return o.keyring, nil
}

// Consume uses up a state. It returns [tokenstore.ErrConsumed] the second time.
func (s *Source) Consume(ctx context.Context, state string, until time.Time) error {
	c := s.inForce()
	_, err := detached(ctx, c.manager, storeWait, func(ctx context.Context) (struct{}, error) {
		o, err := c.open(ctx)
		if err == nil {
			err = o.store.Consume(ctx, state, until)
		}
		return struct{}{}, err
	})
	if err == nil || errors.Is(err, tokenstore.ErrConsumed) {
		return err
	}
	return storeError(err)
}

// Connection reads a seller's connection from the store.
func (s *Source) Connection(ctx context.Context, application, seller string) (tokenstore.Connection, error) {
	c, _, err := s.serving(application)
	if err != nil {
		return tokenstore.Connection{}, err
	}
	if isNobody(seller) {
		return tokenstore.Connection{}, notConnected()
	}
	connection, err := detached(ctx, c.manager, storeWait, func(ctx context.Context) (tokenstore.Connection, error) {
		o, err := c.open(ctx)
		if err != nil {
			return tokenstore.Connection{}, err
		}
		return o.store.Connection(ctx, application, seller)
	})
	if err != nil {
		return tokenstore.Connection{}, storeError(err)
	}
	return connection, nil
}

// inForce returns the configuration that serves s: the newest attached one. One
// that was never started and has a store of its own serves itself, for the
// newest is then still the one that it will replace.
func (s *Source) inForce() *Source {
	newest := s.manager.newest.Load()
	if newest == nil || newest == s {
		return s
	}
	if newest.config.StoreID != s.config.StoreID && !s.started.Load() {
		return s
	}
	return newest
}

// serving returns the configuration that serves s and its application. An
// application that only s knows is served by s.
func (s *Source) serving(name string) (*Source, *application, error) {
	c := s.inForce()
	if app := c.application(name); app != nil {
		return c, app, nil
	}
	if app := s.application(name); app != nil {
		return s, app, nil
	}
	return nil, nil, &Error{Status: Connected, Reason: ReasonUnknownApplication}
}

// application returns the application of a name, or nil. There are few.
func (s *Source) application(name string) *application {
	for _, app := range s.applications {
		if app.Name == name {
			return app
		}
	}
	return nil
}

func (s *Source) now() time.Time {
	if s.config.Now != nil {
		return s.config.Now()
	}
	return time.Now()
}

func (s *Source) observe(e Event) {
	if s.config.Observer != nil {
		s.config.Observer.Observe(e)
	}
}

// open opens the store and the keyring once. After a failure it pauses, so that
// requests do not hammer a store that is down.
func (s *Source) open(ctx context.Context) (*opened, error) {
	if o := s.opened.Load(); o != nil {
		return o, nil
	}
	if err := s.broken.check(s.now()); err != nil {
		return nil, err
	}
	return s.opening.do(ctx, s.manager, openWait, struct{}{}, func(ctx context.Context) (*opened, error) {
		if o := s.opened.Load(); o != nil {
			return o, nil
		}
		s.manager.drain(ctx, s.realm)
		store, keyring, err := s.config.Open(ctx)
		if err != nil {
			return nil, s.broken.set(s.now(), storeError(err), 0)
		}
		s.broken.clear()
		o := &opened{store: store, keyring: keyring}
		rctx, cancel := context.WithTimeout(ctx, replayWait)
		defer cancel()
		s.replay(rctx, o)
		s.opened.Store(o)
		s.manager.watching()
		return o, nil
	})
}

// isNobody reports whether no seller can have that name. Memory keeps the length of a
// name in 16 bits, so a longer one could be taken for another seller's. Names in
// requests and pages are far shorter.
func isNobody(seller string) bool { return seller == "" || len(seller) > math.MaxUint16 }

func notConnected() *Error {
	return &Error{Status: NotConnected, Reason: ReasonNotConnected}
}

// hasMoved tells that another store is in charge of the account, which a newer
// configuration uses.
func hasMoved() *Error {
	return &Error{Status: Connected, Reason: ReasonMoved, RetryAfter: movedRetry, Err: errMoved}
}

// storeError converts a failure of the store. Only ErrNotFound means that there is no
// connection. Any other error means that the store does not know.
func storeError(err error) *Error {
	if known, ok := errors.AsType[*Error](err); ok {
		return known
	}
	if errors.Is(err, tokenstore.ErrNotFound) {
		return notConnected()
	}
	return &Error{Status: Connected, Reason: ReasonStore, RetryAfter: storeRetry, Err: err}
}
