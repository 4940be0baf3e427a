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
	// builtBefore is the variable that has a run of this program inside of another
	// one use the other's binary.
	builtBefore = "E2E_CADDY"
	// atATime is how many of the tests that call [parallel] run at a time.
	atATime = 6
)

// What is random comes from the seed of the run: each of these has a stream of its
// own.
const (
	killStreamOnFiles uint64 = iota + 1
	killStreamOnPostgres
	distributedStream
	terminateStream
)

var turns = make(chan struct{}, atATime)

// parallel runs a test beside the others, and few of its kind at a time. A long
// test, most of which is waiting, calls t.Parallel itself, so that it begins at once.
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
	// By default Go runs as many as there are processors: too few, where most of a test
	// is waiting.
	if err := flag.Set("test.parallel", "1000"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	flag.Parse()
	go func() { _, _ = built() }() // while the first tests run that do not need it
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

// built builds Caddy with this module. It differs from cmd/caddy in what FAULTS
// switches on, and in a storage module that only a Caddyfile which names it uses:
// linking a second binary takes longer than most tests.
//
// The binary stays where it is, and Go does not link it again where nothing
// changed since the last run.
var built = sync.OnceValues(func() (string, error) {
	if path := os.Getenv(builtBefore); path != "" {
		return path, nil
	}
	name := "caddy"
	// Linked as xcaddy links it. A revision in it would have each commit link anew.
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
