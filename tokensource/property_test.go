//go:build soak

package tokensource

import (
	"flag"
	"os"
	"strconv"
	"testing"

	"pgregory.net/rapid"
)

// checks is how many scripts each setting plays; MODEL_CHECKS sets another
// number. They are others at every run, so this searches: it is for make soak.
// What it finds becomes a named test in counterexample_test.go.
const checks = 2000

func init() {
	// A script is no good to keep: one more operation, and it tells another story.
	_ = flag.Set("rapid.nofailfile", "true")
	n := checks
	if more, err := strconv.Atoi(os.Getenv("MODEL_CHECKS")); err == nil {
		n = more
	}
	_ = flag.Set("rapid.checks", strconv.Itoa(n))
}

// TestNoInterleavingLosesASeller lets random scripts decide every step of
// several processes that share a store: the order of their operations, what
// becomes of each, who asks, connects, disconnects and reloads when, and who
// crashes. The rules are in modelrules_test.go.
func TestNoInterleavingLosesASeller(t *testing.T) {
	t.Parallel()
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
