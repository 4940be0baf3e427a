package tokensource

import (
	"flag"
	"os"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
)

// Each setting plays this many scripts, chosen by TEST_SEED: another commit plays
// others. MODEL_CHECKS sets another number, for make soak. What a search finds
// becomes a named test in counterexample_test.go.
const (
	checks = 200
	// onPostgresIn is of how many scripts one is played on PostgreSQL.
	onPostgresIn = 10
)

func modelChecks() int {
	if n, err := strconv.Atoi(os.Getenv("MODEL_CHECKS")); err == nil {
		return n
	}
	return checks
}

// modelSeed is never 0, for which rapid would choose at random, and leaves room for
// numbers after it.
func modelSeed() int { return int(sample.Seed()>>2 | 1) }

func init() {
	for name, value := range map[string]string{
		// A script is no good to keep: one more operation, and it tells another story.
		"rapid.nofailfile": "true",
		"rapid.checks":     strconv.Itoa(modelChecks()),
		"rapid.seed":       strconv.Itoa(modelSeed()),
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
	sample.Log(t)
	var played atomic.Int64
	t.Cleanup(func() { sample.Searched(t, played.Load(), "interleavings") })
	t.Run("a store on PostgreSQL", func(t *testing.T) { onPostgres(t, &played) }) // first, for it waits for most of its time
	for name, s := range map[string]setting{
		"a lock that works":             {faulty: true},
		"a lock that is stolen":         {faulty: true, stolen: true, revoking: true},
		"a lock that does nothing":      {faulty: true, worthless: true},
		"nothing but crashes and loss":  {worthless: true, revoking: true},
		"a store that answers with old": {faulty: true, worthless: true, lag: 5},
		"renewals in the background":    {faulty: true, stolen: true, revoking: true, renewing: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(rt *rapid.T) {
				script := rapid.SliceOfN(rapid.Byte(), 150, 500).Draw(rt, "script")
				played.Add(1)
				if violation := play(t, s, script); violation != "" {
					rt.Fatalf("%s", violation)
				}
			})
		})
	}
}

// onPostgres plays fewer scripts: each of their operations is carried out by a real
// server.
func onPostgres(t *testing.T, played *atomic.Int64) {
	t.Parallel()
	s := setting{faulty: true, stolen: true, revoking: true, postgres: newTwins(t)}
	scripts := rapid.SliceOfN(rapid.Byte(), 150, 500)
	first := modelSeed()
	for i := range max(1, modelChecks()/onPostgresIn) {
		require.NoError(t, s.postgres.clear())
		played.Add(1)
		if violation := play(t, s, scripts.Example(first+i)); violation != "" {
			t.Fatalf("script %d: %s", first+i, violation)
		}
	}
}
