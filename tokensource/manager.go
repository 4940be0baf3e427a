package tokensource

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// destructWait is how long the end of the process waits for flights: longer
	// than a token request and the write that follows it.
	destructWait = 40 * time.Second
	// drainWait bounds how long another store's flights are waited for.
	drainWait = 30 * time.Second
	// boundSlack is how long work that heeds its deadline may take to end after it.
	boundSlack = time.Second
)

// DefaultCacheSize is how many sellers are kept in memory unless it is configured.
const DefaultCacheSize = 1 << 18

var errEnding = errors.New("the server is shutting down")

// Manager holds what is live and outlasts a reload of the configuration: memory,
// flights, back-off and breakers. There is one in a process; a second one is as
// safe as a second process would be.
type Manager struct {
	instance string
	// newest is the configuration that serves; nil while none is attached.
	newest atomic.Pointer[Source]

	ctx     context.Context //nolint:containedctx // flights belong to the manager, not to a request
	cancel  context.CancelFunc
	closing chan struct{}
	working sync.WaitGroup
	// landing has the hashes of the pairs that are being saved.
	landing sync.Map

	renewerMu sync.Mutex
	renewer   *renewer
	watcherMu sync.Mutex
	watcher   *watcher

	mu           sync.Mutex
	closed       bool
	attached     []*Source
	realms       map[string]*realm
	applications map[applicationKey]*applicationState
}

// NewManager returns a manager without any configuration.
func NewManager() *Manager {
	m := &Manager{
		instance:     randomID(),
		closing:      make(chan struct{}),
		realms:       make(map[string]*realm),
		applications: make(map[applicationKey]*applicationState),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// Destruct ends what the manager does. It waits for flights, within a bound, so
// that no answer of the provider is lost.
func (m *Manager) Destruct() error {
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	close(m.closing)
	m.mu.Unlock()

	done := make(chan struct{})
	go func() { m.working.Wait(); close(done) }()
	defer m.cancel()
	if waitFor(done, destructWait) {
		return nil
	}
	m.cancel()
	if waitFor(done, 5*time.Second) {
		return nil
	}
	return errors.New("token requests were still under way when the server ended")
}

func waitFor(done <-chan struct{}, bound time.Duration) bool {
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-done:
		return true
	case <-timer.C:
		return false
	}
}

// spawn runs work in the background, on the manager's context and within bound
// (0 is without bound). It reports false, and runs nothing, once the process ends.
func (m *Manager) spawn(bound time.Duration, work func(ctx context.Context)) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return false
	}
	m.working.Go(func() {
		ctx, cancel := m.ctx, context.CancelFunc(func() {})
		if bound > 0 {
			ctx, cancel = context.WithTimeout(ctx, bound)
		}
		defer cancel()
		work(ctx)
	})
	return true
}

// sleep pauses work that may be given up: it reports false when ctx is done or
// the process ends.
func (m *Manager) sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
	case <-m.closing:
	}
	return false
}

// ending reports whether the process is about to end.
func (m *Manager) ending() bool {
	select {
	case <-m.closing:
		return true
	default:
		return false
	}
}

// realm is what is live about one store.
type realm struct {
	// A seller is awake or dormant.
	awake   awake // first: each request looks there
	dormant *dormant
	manager *Manager
	trouble trouble
	tidied  atomic.Int64 // a moment
	loads   group[key, *snapshot]
	// notices are the provider's, about accounts, that are being followed.
	notices group[tokenstore.AccountID, struct{}]
	queue   *queue

	mu   sync.Mutex
	most int // sellers in memory
	// packed counts the sellers whose accounts may be left behind since they became
	// dormant.
	packed int
	sides  map[sideID]*side
	// epoch counts the changes to connections made here. A load that began
	// before one must not write over it.
	epoch uint64
	// sources counts the configurations that may still ask.
	sources int
	// flights counts refreshes and exchanges; idle is closed when it falls to 0.
	flights int
	idle    chan struct{}
}

func newRealm(m *Manager, cacheSize int) *realm {
	r := &realm{
		manager: m,
		dormant: newDormant(), most: cacheSize,
		sides: make(map[sideID]*side),
		queue: newQueue(),
	}
	r.awake.begin()
	return r
}

func (r *realm) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flights == 0 {
		r.idle = make(chan struct{})
	}
	r.flights++
}

func (r *realm) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flights--; r.flights == 0 {
		close(r.idle)
	}
}

// drain waits, within a bound, for the flights of all other stores: two stores
// may know one account, and a flight that began with the old one saves there.
func (m *Manager) drain(ctx context.Context, except *realm) {
	ctx, cancel := context.WithTimeout(ctx, drainWait)
	defer cancel()
	m.mu.Lock()
	var busy []chan struct{}
	for _, r := range m.realms {
		r.mu.Lock()
		if r != except && r.flights > 0 {
			busy = append(busy, r.idle)
		}
		r.mu.Unlock()
	}
	m.mu.Unlock()
	for _, idle := range busy {
		select {
		case <-idle:
		case <-ctx.Done():
			return
		case <-m.closing:
			return
		}
	}
}

// attach makes s the configuration that serves.
func (m *Manager) attach(s *Source) {
	defer m.watching()
	defer m.renewing()
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.Contains(m.attached, s) {
		return
	}
	m.attached = append(m.attached, s)
	m.newest.Store(s)
	s.realm.resize(s.config.cacheSize())
	for _, app := range s.applications {
		app.state.rest()
	}
}

func (m *Manager) detach(s *Source) {
	defer m.watching()
	defer m.renewing()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.attached = slices.DeleteFunc(m.attached, func(a *Source) bool { return a == s })
	var newest *Source
	if n := len(m.attached); n > 0 {
		newest = m.attached[n-1]
	}
	m.newest.Store(newest)
}

// group lets callers of the same work wait for one run of it. Unlike x/sync's,
// its work belongs to the manager: a caller that leaves does not end it.
type group[K comparable, V any] struct {
	mu      sync.Mutex
	running map[K]*pending[V]
}

type pending[V any] struct {
	done  chan struct{}
	value V
	err   error
}

func (g *group[K, V]) do(ctx context.Context, m *Manager, bound time.Duration, k K, work func(context.Context) (V, error)) (V, error) {
	g.mu.Lock()
	p := g.running[k]
	if p == nil {
		p = &pending[V]{done: make(chan struct{})}
		started := m.spawn(bound, func(ctx context.Context) {
			defer func() {
				g.mu.Lock()
				delete(g.running, k)
				g.mu.Unlock()
				close(p.done)
			}()
			p.err = errEnding // for those who wait, should work panic
			p.value, p.err = work(ctx)
		})
		if !started {
			g.mu.Unlock()
			return p.value, errEnding
		}
		if g.running == nil {
			g.running = make(map[K]*pending[V])
		}
		g.running[k] = p
	}
	g.mu.Unlock()
	// A store can hang where no deadline reaches it, in the kernel for example. The
	// work then keeps hanging, but callers stop waiting after its deadline.
	wait := ctx
	if bound > 0 {
		var cancel context.CancelFunc
		wait, cancel = context.WithTimeout(ctx, bound+boundSlack)
		defer cancel()
	}
	select {
	case <-p.done:
		return p.value, p.err
	case <-wait.Done():
		var zero V
		return zero, context.Cause(wait)
	}
}

// busy reports whether the work is under way.
func (g *group[K, V]) busy(k K) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running[k] != nil
}

// detached runs work on the manager's context: who waits may leave, the work
// goes on.
func detached[V any](ctx context.Context, m *Manager, bound time.Duration, work func(context.Context) (V, error)) (V, error) {
	var once group[struct{}, V]
	return once.do(ctx, m, bound, struct{}{}, work)
}

func randomID() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails: the process ends first
	return hex.EncodeToString(raw[:])
}

// lockAccount takes the store's lock of an account, or goes on without it after
// a while: the lock saves work, and safety does not rest on it. What must not
// happen is that a broken lock keeps a pair from being saved or renewed.
func lockAccount(ctx context.Context, m *Manager, store tokenstore.Store, id tokenstore.AccountID, wait time.Duration) (unlock func()) {
	lctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	pauses := pausesBetween(50*time.Millisecond, 2*time.Second)
	for {
		lock, err := store.Lock(lctx, id)
		if err == nil {
			return func() {
				uctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWait)
				defer cancel()
				// What cannot be unlocked runs out by itself.
				_ = lock.Unlock(uctx)
			}
		}
		// Some locks fail at once instead of waiting for their holder.
		if lctx.Err() != nil || !m.sleep(lctx, pauses.NextBackOff()) {
			return func() {}
		}
	}
}
