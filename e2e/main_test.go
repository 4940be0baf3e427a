// Package e2e tries the real thing: the caddy binary over real HTTP, a real
// browser, the official SDK. It is a module of its own, so that what only tests
// need enters no user's build.
package e2e

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	// builtBefore is the environment variable with the path of the Caddy under test,
	// for a test that runs this program again.
	builtBefore = "E2E_CADDY"
	// atATime is how many of the tests that call [parallel] run at a time.
	atATime = 6
)

// The streams of random numbers, see [sample.Rand].
const (
	killStreamOnFiles uint64 = iota + 1
	killStreamOnPostgres
	distributedStream
	terminateStream
)

var turns = make(chan struct{}, atATime)

// parallel runs a test in parallel with others, but only [atATime] tests at a time. A
// long test that mostly waits calls t.Parallel instead, so that it starts first.
func parallel(t *testing.T) {
	t.Helper()
	t.Parallel()
	takeTurn(t)
}

func takeTurn(t *testing.T) {
	t.Helper()
	turns <- struct{}{}
	t.Cleanup(func() { <-turns })
}

func TestMain(m *testing.M) {
	// The default is the number of processors: too few for tests that mostly wait.
	if err := flag.Set("test.parallel", "1000"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	flag.Parse()
	go func() { _, _ = built() }() // some tests do not need it, and run meanwhile
	code := m.Run()
	endBrowser()
	os.Exit(code)
}

// binary is the Caddy under test, built once for all tests.
func binary(t testing.TB) string {
	t.Helper()
	path, err := built()
	require.NoError(t, err, "building the Caddy under test")
	return path
}

// built builds the Caddy under test. One binary serves all tests, also those that need
// a wrong clock or a faulty storage, because linking another takes longer than most
// tests. The binary stays in the artifacts folder: if nothing changed, Go does not
// link it again in the next run.
var built = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(builtBefore); path != "" {
		return path, nil
	}
	name := "caddy"
	// These are the flags of xcaddy. -buildvcs=false keeps the binary up to date if a
	// commit changes nothing in it.
	args := []string{"build", "-buildvcs=false", "-ldflags=-w -s"}
	if raceEnabled {
		name += "-race"
		args = append(args, "-race")
	}
	path, err := filepath.Abs(filepath.Join("..", "artifacts", "e2e", name))
	if err != nil {
		return "", err
	}
	build := exec.Command("go", append(args, "-o", path, "./faulty")...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	return path, build.Run()
})
