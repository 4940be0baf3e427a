package mercadopago

import (
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// TestAHundredReloadsUnderFaultsLeaveNothingBehind reloads the configuration
// while callers call, sellers come and go, and the token endpoint fails in every
// way. What the process uses does not grow with the reloads. When Caddy has
// stopped it is what it was before: not one goroutine and not one open file more,
// and less than 2 MiB of memory.
func TestAHundredReloadsUnderFaultsLeaveNothingBehind(t *testing.T) {
	// What is made once in a process is made before.
	t.Run("ten before", func(t *testing.T) { reloadUnderFaults(t, 10) })
	before, running := measured(), goleak.IgnoreCurrent()
	t.Run("a hundred", func(t *testing.T) { reloadUnderFaults(t, 100) })
	// What keeps a lock of Caddy's files fresh ends up to 5 seconds after the lock.
	require.NoError(t, goleak.Find(running, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh")))
	after := measured()
	t.Logf("before %s, after %s", before, after)
	require.LessOrEqual(t, after.files, before.files, "open files")
	require.LessOrEqual(t, after.heap, before.heap+2<<20, "bytes of memory")
}

func reloadUnderFaults(t *testing.T, reloads int64) {
	m := newMarket(t)
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
	part := func(reloads int64) footprint {
		for enough := m.changes.of("reloads") + reloads; m.changes.of("reloads") < enough; {
			r := &run{market: m, reloadEvery: 50, requests: 1000, faulty: true}
			r.all()
		}
		m.transport.CloseIdleConnections()
		return m.rested()
	}
	early := part(reloads / 5)
	late := part(reloads - reloads/5)
	stats := m.sandbox.Stats()
	t.Logf("%d reloads and %d that failed, faults %v; after a fifth %s, after all %s",
		m.changes.of("reloads"), m.changes.of("reloads that failed"), stats.Faults, early, late)
	if reloads >= 100 {
		require.Len(t, stats.Faults, len(kinds))
	}
	require.LessOrEqual(t, late.goroutines, early.goroutines+20, "goroutines")
	require.LessOrEqual(t, late.files, early.files+10, "open files")
	require.LessOrEqual(t, late.heap, early.heap+4<<20, "bytes of memory")
}

// rested measures when what the last requests began has ended: when nothing
// changes any more, for longer than what keeps a lock fresh outlives that.
func (m *market) rested() footprint {
	var last footprint // of nothing: the first look, which comes at once, has none to compare with
	require.Eventually(m.t, func() bool {
		now := measured()
		still := now.goroutines == last.goroutines && now.files == last.files
		last = now
		return still
	}, time.Minute, 6*time.Second)
	return last
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
