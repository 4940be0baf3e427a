package tokensource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/memdir"
	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
)

// TestAnHourOfFaultsLeavesNothingBehind runs several instances on one folder of
// Caddy's files for an hour, while the provider and the store fail in every way,
// callers leave, configurations come and go, and processes crash. What the
// process uses does not grow meanwhile, and when all is let go it is back where
// it was: not one goroutine and not one open file more, and of memory less than
// 2 MiB, of the tens that the hour needs.
func TestAnHourOfFaultsLeavesNothingBehind(t *testing.T) {
	// What is made once in a process is made before.
	t.Run("five minutes before", func(t *testing.T) { storm(t, 5*time.Minute) })
	before, running := measured(), goleak.IgnoreCurrent()
	var marks []footprint
	t.Run("the hour", func(t *testing.T) { marks = storm(t, time.Hour) })
	require.NotEmpty(t, marks)
	sample.Searched(t, 1, "hours of faults")
	after := measured()
	t.Logf("before %s, after %s, and every five minutes %s", before, after, marks)
	require.NoError(t, goleak.Find(running))
	require.LessOrEqual(t, after.files, before.files, "open files")
	require.LessOrEqual(t, after.heap, before.heap+2<<20, "bytes of memory")

	early, late := most(marks[6:8]), most(marks[10:])
	t.Logf("from the 35th minute %s, from the 55th %s", early, late)
	require.LessOrEqual(t, late.goroutines, before.goroutines+200, "goroutines while it runs")
	require.LessOrEqual(t, late.files, before.files+50, "open files while it runs")
	require.LessOrEqual(t, late.heap, early.heap+1<<20, "bytes of memory while it runs")
}

// footprint is what the process uses.
type footprint struct {
	goroutines, files int
	heap              uint64
}

func (f footprint) String() string {
	return fmt.Sprintf("%d goroutines, %d open files, %d KiB", f.goroutines, f.files, f.heap>>10)
}

func measured() footprint {
	// Clean-ups of what one collection finds let go of more.
	for range 3 {
		runtime.GC()
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	files, _ := os.ReadDir("/proc/self/fd") // where there is none, goroutines and memory tell
	return footprint{goroutines: runtime.NumGoroutine(), files: len(files), heap: memory.HeapAlloc}
}

func most(all []footprint) footprint {
	top := all[0]
	for _, f := range all {
		top.goroutines, top.files, top.heap = max(top.goroutines, f.goroutines), max(top.files, f.files), max(top.heap, f.heap)
	}
	return top
}

const (
	stormSellers   = 600
	stormAccounts  = 150
	stormInstances = 3
	stormCallers   = 8 // of each instance
)

// weather is what goes on in a storm.
type weather struct {
	*world
	dice *rand.Rand
	// until is when it ends. From half of it on nobody crashes any more, and
	// memory, which has every seller then, shows whether it grows.
	half, until time.Time
	members     []*member
	calm        atomic.Bool
	mu          sync.Mutex
	counts      map[string]int
}

// member is one process of the fleet, which is started again when it crashes.
type member struct {
	*weather
	serves atomic.Pointer[served]
	turn   int
}

type served struct {
	*Source
	manager *Manager
	store   *hooked
}

func storm(t *testing.T, length time.Duration) (marks []footprint) {
	synctest.Test(t, func(t *testing.T) {
		goroutines := runtime.NumGoroutine()
		w := &weather{world: newWorld(t), dice: sample.Rand(t, uint64(length)), counts: make(map[string]int)}
		w.storage = &certmagic.FileStorage{Path: memdir.New(t)}
		w.provider.life = 20 * time.Minute
		for range stormInstances {
			m := &member{weather: w}
			m.start()
			w.members = append(w.members, m)
		}
		w.fill()
		w.half, w.until = time.Now().Add(length/2), time.Now().Add(length)
		w.provider.script(func(p *provider) { p.before, p.after = w.before, w.after })
		var going sync.WaitGroup
		for _, m := range w.members {
			going.Go(m.live)
			for range stormCallers {
				going.Go(m.call)
			}
		}
		going.Go(w.comeAndGo)
		for time.Now().Before(w.until) {
			time.Sleep(length / 12)
			if !time.Now().Before(w.half) && len(marks) == 5 {
				w.everySeller()
			}
			synctest.Wait()
			marks = append(marks, measured())
		}
		going.Wait()
		w.letGo()
		synctest.Wait()
		for range 1_000_000 { // one that has just ended may still be counted
			if runtime.NumGoroutine() <= goroutines {
				break
			}
			runtime.Gosched()
		}
		require.LessOrEqual(t, runtime.NumGoroutine(), goroutines, "goroutines")
		t.Logf("%d token requests, of them %d with a token that was burnt; %v", w.provider.count(), w.provider.reused, w.counts)
		if length >= time.Hour {
			w.wasBad()
		}
	})
	return marks
}

// start begins a process.
func (m *member) start() {
	s := &served{manager: NewManager(), store: &hooked{Store: caddystorage.New(m.storage, m.keyring)}}
	s.store.set(m.storeFault)
	s.Source = m.source(s)
	m.serves.Store(s)
}

// source is a configuration; some have another name for the same store.
func (m *member) source(s *served) *Source {
	m.turn++
	if !time.Now().Before(m.half) {
		m.turn = 0
	}
	source := s.manager.Source(Config{
		StoreID:      []string{"one", "one", "two"}[m.turn%3],
		Open:         func(context.Context) (tokenstore.Store, *secret.Keyring, error) { return s.store, m.keyring, nil },
		Applications: []Application{{Client: m.provider}},
		Renewal:      Renewal{Parallel: 8, WalkEvery: 10 * time.Minute},
		SpillDir:     filepath.Join(m.spillDir, fmt.Sprint(slices.Index(m.members, m))),
		Observer:     m,
	})
	source.Start()
	return source
}

// live reloads the configuration every two minutes, and crashes now and then.
func (m *member) live() {
	for m.goesOn(2 * time.Minute) {
		old := m.serves.Load()
		if m.dice.IntN(3) == 0 && time.Now().Before(m.half) {
			m.count("crashes")
			old.store.set(func(op string, after bool) error {
				if op == "Lock" && after {
					return nil
				}
				return errCrashed
			})
			old.manager.cancel()
			m.start()
			old.end()
			continue
		}
		m.count("reloads")
		next := &served{Source: m.source(old), manager: old.manager, store: old.store}
		m.serves.Store(next)
		old.Stop()
		old.Release()
	}
}

func (s *served) end() {
	s.Stop()
	s.Release()
	_ = s.manager.Destruct() // after a crash it says what was under way
}

// call asks for one seller after the other, for some of them again and again.
// Every other caller leaves before long.
func (m *member) call() {
	for m.goesOn(time.Duration(m.dice.IntN(6000)) * time.Millisecond) {
		seller := m.dice.IntN(stormSellers)
		if m.dice.IntN(2) == 0 {
			seller %= 20
		}
		ctx, leave := context.WithCancel(context.Background())
		if m.dice.IntN(2) == 0 {
			ctx, leave = context.WithTimeout(ctx, time.Duration(m.dice.IntN(2000))*time.Millisecond)
		}
		token, err := m.serves.Load().Token(ctx, "", name(seller), 5*time.Minute)
		switch {
		case err == nil && m.dice.IntN(30) == 0:
			m.count("401s")
			_, _ = m.serves.Load().Replace(ctx, token)
		case err == nil:
			m.count("tokens")
		case ctx.Err() != nil:
			m.count("callers who left")
		default:
			m.count("problems")
		}
		leave()
	}
}

// comeAndGo has sellers connect anew and disconnect.
func (w *weather) comeAndGo() {
	for w.goesOn(4 * time.Second) {
		s, seller := w.members[w.dice.IntN(stormInstances)].serves.Load(), w.dice.IntN(stormSellers)
		if w.dice.IntN(4) > 0 {
			w.connect(s, seller)
			continue
		}
		c, err := s.Connection(context.Background(), "", name(seller))
		if err == nil && s.Disconnect(context.Background(), c) == nil {
			w.count("disconnects")
		}
	}
}

func (w *weather) connect(s *served, seller int) {
	consent, err := s.Exchange(context.Background(), "", w.provider.code(int64(1+seller%stormAccounts)), secret.Secret{})
	if err == nil {
		_, err = s.Connect(context.Background(), name(seller), consent)
	}
	if err == nil {
		w.count("connects")
	}
}

// everySeller has every instance look at every seller.
func (w *weather) everySeller() {
	for _, m := range w.members {
		for seller := range stormSellers {
			_, _ = m.serves.Load().Token(context.Background(), "", name(seller), 0)
		}
	}
}

// fill connects every seller, four to an account, in good weather.
func (w *weather) fill() {
	w.calm.Store(true)
	defer w.calm.Store(false)
	for account := range stormAccounts {
		time.Sleep(time.Second / exchangesPerSecond)
		s := w.members[0].serves.Load()
		consent, err := s.Exchange(context.Background(), "", w.provider.code(int64(1+account)), secret.Secret{})
		require.NoError(w.t, err)
		for seller := account; seller < stormSellers; seller += stormAccounts {
			_, err := s.Connect(context.Background(), name(seller), consent)
			require.NoError(w.t, err)
		}
	}
}

// letGo ends all that goes on, and all that goes on for a moment after that.
func (w *weather) letGo() {
	w.calm.Store(true)
	for _, m := range w.members {
		m.serves.Swap(nil).end()
	}
	time.Sleep(time.Minute)
	synctest.Wait()
}

// wasBad requires that there was something to leave behind.
func (w *weather) wasBad() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for what, least := range map[string]int{
		"reloads": 30, "crashes": 5, "connects": 100, "disconnects": 30, "tokens": 5000, "callers who left": 50,
		"401s": 100, "refused": 20, "timed out": 10, "answer lost": 10, EventRenewed: 200, "store failed": 500, "store failed after": 500,
	} {
		require.GreaterOrEqual(w.t, w.counts[what], least, what)
	}
}

func (w *weather) goesOn(pause time.Duration) bool {
	time.Sleep(pause)
	return time.Now().Before(w.until)
}

func (w *weather) count(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[what]++
}

// Observe counts.
func (w *weather) Observe(e Event) { w.count(e.Name) }

// before is what keeps a refresh from the provider.
func (w *weather) before(ctx context.Context, _ string) error {
	if w.calm.Load() {
		return nil
	}
	time.Sleep(time.Duration(w.dice.IntN(1500)) * time.Millisecond)
	switch w.dice.IntN(12) {
	case 0:
		w.count("refused")
		return &oauth.Error{Outcome: oauth.Refused, Code: "rate_limited", Status: 429, RetryAfter: 2 * time.Second}
	case 1:
		w.count("timed out")
		<-ctx.Done()
		return &oauth.Error{Outcome: oauth.Unknown, Code: "unreachable"}
	}
	return nil
}

// after is what keeps an answer from coming back.
func (w *weather) after(ctx context.Context, _ *oauth.Answer) error {
	if !w.calm.Load() && w.dice.IntN(15) == 0 {
		w.count("answer lost")
		<-ctx.Done()
		return &oauth.Error{Outcome: oauth.Unknown, Code: "cut"}
	}
	return nil
}

var errWeather = errors.New("the disk is full")

func (w *weather) storeFault(op string, after bool) error {
	if w.calm.Load() || w.dice.IntN(20) > 0 || op == "Lock" && after {
		return nil // a lock that was had and is not known of would be held for ever
	}
	time.Sleep(time.Duration(w.dice.IntN(800)) * time.Millisecond)
	switch {
	case w.dice.IntN(3) == 0:
		return nil // it was slow
	case after:
		w.count("store failed after")
	default:
		w.count("store failed")
	}
	return errWeather
}

func name(seller int) string { return fmt.Sprintf("shop-%d", seller) }
