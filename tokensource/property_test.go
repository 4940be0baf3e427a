package tokensource

import (
	"flag"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// Each setting plays checks scripts: the same ones every time, so that a red test
// is the doing of a change. MODEL_CHECKS sets another number, of others at every
// run, which is a search: that is for make soak. What it finds becomes a named
// test in counterexample_test.go.
const (
	checks    = 2000
	rapidSeed = "20261122"
	// onPostgresIn is of how many scripts one is played on PostgreSQL.
	onPostgresIn = 10
)

func init() {
	n, seed := checks, rapidSeed
	if more, err := strconv.Atoi(os.Getenv("MODEL_CHECKS")); err == nil {
		n, seed = more, "0" // chosen at random
	}
	for name, value := range map[string]string{
		// A script is no good to keep: one more operation, and it tells another story.
		"rapid.nofailfile": "true",
		"rapid.checks":     strconv.Itoa(n),
		"rapid.seed":       seed,
	} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
}

// TestNoInterleavingLosesASeller lets random scripts decide every step of
// several processes that share a store: the order of their operations, what
// becomes of each, who asks, connects, disconnects and reloads when, and who
// crashes. The rules are in modelrules_test.go.
func TestNoInterleavingLosesASeller(t *testing.T) {
	t.Parallel()
	t.Run("a store on PostgreSQL", onPostgres) // first, for it waits for most of its time
	for name, s := range map[string]setting{
		"a lock that works":             {faulty: true},
		"a lock that is stolen":         {faulty: true, stolen: true, revoking: true},
		"a lock that does nothing":      {faulty: true, worthless: true},
		"nothing but crashes and loss":  {worthless: true, revoking: true},
		"a store that answers with old": {faulty: true, worthless: true, lag: 5},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) {
				script := rapid.SliceOfN(rapid.Byte(), 150, 500).Draw(rt, "script")
				if violation := play(t, s, script); violation != "" {
					rt.Fatalf("%s", violation)
				}
			})
		})
	}
}

// onPostgres plays fewer scripts: each of their operations is carried out by a real
// server.
func onPostgres(t *testing.T) {
	t.Parallel()
	s := setting{faulty: true, stolen: true, revoking: true, postgres: newTwins(t)}
	scripts := rapid.SliceOfN(rapid.Byte(), 150, 500)
	n, first := checks/onPostgresIn, 1
	if more, err := strconv.Atoi(os.Getenv("MODEL_CHECKS")); err == nil {
		n, first = max(1, more/onPostgresIn), int(time.Now().UnixNano())
	}
	for i := range n {
		require.NoError(t, s.postgres.clear())
		if violation := play(t, s, scripts.Example(first+i)); violation != "" {
			t.Fatalf("script %d: %s", first+i, violation)
		}
	}
}
