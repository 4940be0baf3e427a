package mercadopago

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// TestAHundredReloadsUnderFaultsLeaveNothingBehind reloads the configuration
// while callers call, sellers come and go, and the token endpoint fails in every
// way. What the process uses does not grow with the reloads. When Caddy has
// stopped it is what it was before: not one goroutine and not one open file more,
// and less than 2 MiB of memory.
func TestAHundredReloadsUnderFaultsLeaveNothingBehind(t *testing.T) {
	random := sample.Rand(t, 0)
	// What is made once in a process is made before.
	t.Run("ten before", func(t *testing.T) { reloadUnderFaults(t, random, 10) })
	before, running := rested(t), goleak.IgnoreCurrent()
	t.Run("a hundred", func(t *testing.T) { reloadUnderFaults(t, random, 100) })
	left := func() error { return goleak.Find(running, goleak.IgnoreAnyFunction(keepsLockFresh)) }
	assert.Eventually(t, func() bool { return left() == nil }, time.Minute, 10*time.Millisecond)
	require.NoError(t, left())
	requireAtMost(t, footprint{before.goroutines, before.files, before.heap + 2<<20}, before)
}

func reloadUnderFaults(t *testing.T, random *rand.Rand, reloads int64) {
	m := newMarket(t, 24)
	kinds := []sandbox.FaultKind{
		sandbox.ServerError, sandbox.Cut, sandbox.Truncated, sandbox.RateLimited, sandbox.HTML, sandbox.Empty, sandbox.Redirected,
	}
	m.trouble = func() {
		m.sandbox.ClearFaults()
		kinds = append(kinds[1:], kinds[0])
		for i, kind := range kinds {
			m.sandbox.Fault(sandbox.Fault{Kind: kind, Grant: "refresh_token", After: i%3 == 0})
			m.sandbox.Fault(sandbox.Fault{Kind: kind, Grant: "client_credentials"})
		}
	}
	part := func(reloads int64, faults int) {
		const every = 25 // requests, and five turns are four reloads and one that fails
		for enough := m.changes.of("reloads") + reloads; m.changes.of("reloads") < enough || len(m.sandbox.Stats().Faults) < faults; {
			left := max(enough-m.changes.of("reloads"), 4)
			r := &run{market: m, random: random, reloadEvery: every, requests: (left*5 + 3) / 4 * every, faulty: true}
			r.all()
		}
		m.transport.CloseIdleConnections()
	}
	part(reloads/5, 0)
	early := rested(t)
	// Every kind of failure must have happened.
	part(reloads-reloads/5, len(kinds))
	t.Logf("%d reloads and %d that failed, faults %v", m.changes.of("reloads"), m.changes.of("reloads that failed"), m.sandbox.Stats().Faults)
	requireAtMost(t, footprint{early.goroutines + 20, early.files + 10, early.heap + 4<<20}, early)
}

// requireAtMost waits until the process uses no more than this. What the last
// requests began ends by itself, at a time that nothing here decides.
func requireAtMost(t *testing.T, most, early footprint) {
	t.Helper()
	var now footprint
	defer func() { t.Logf("before %s, after %s, the most is %s", early, now, most) }()
	require.Eventually(t, func() bool {
		now = measured()
		return now.goroutines <= most.goroutines && now.files <= most.files && now.heap <= most.heap
	}, time.Minute, 200*time.Millisecond)
}

// rested measures when what the last requests began has ended: when nothing
// changes for longer than connections may be idle.
func rested(t *testing.T) footprint {
	var last footprint
	looks := 0 // that were all the same
	require.Eventually(t, func() bool {
		now := measured()
		if now.goroutines != last.goroutines || now.files != last.files {
			looks = 0
		}
		looks++
		last = now
		return looks > 7
	}, time.Minute, 200*time.Millisecond)
	return last
}

// keepsLockFresh is what keeps a lock of Caddy's files fresh. It ends up to 5 seconds
// after the lock.
const keepsLockFresh = "github.com/caddyserver/certmagic.keepLockfileFresh"

// footprint is what the process uses.
type footprint struct {
	goroutines, files int
	heap              uint64
}

func (f footprint) String() string {
	return fmt.Sprintf("%d goroutines, %d open files, %d KiB", f.goroutines, f.files, f.heap>>10)
}

func measured() footprint {
	running := goroutines()
	// Clean-ups of what one collection finds let go of more.
	for range 3 {
		runtime.GC()
	}
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	files, _ := os.ReadDir("/proc/self/fd") // where there is none, goroutines and memory tell
	return footprint{goroutines: running, files: len(files), heap: memory.HeapAlloc}
}

// goroutines counts all but those that keep a lock fresh.
func goroutines() int {
	stacks := make([]byte, 8<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	return bytes.Count(stacks, []byte("\n\ngoroutine ")) + 1 - bytes.Count(stacks, []byte(keepsLockFresh+"("))
}
