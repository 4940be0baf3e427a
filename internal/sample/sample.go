// Package sample decides which share of a long search one run of the tests plays.
//
// Some tests search far more than one run has time for: millions of interleavings,
// hundreds of faults on every store. A run plays a share that TEST_SEED selects.
// `make test` sets it to the commit, so each commit plays another share, and a
// failure repeats on the same commit. `make soak` plays everything.
package sample

import (
	"hash/fnv"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
)

// Variable is the environment variable that selects the share. Unset is the same
// share every time.
const Variable = "TEST_SEED"

// Seed returns the number that TEST_SEED, which may be any text, stands for.
func Seed() uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(os.Getenv(Variable)))
	return h.Sum64()
}

// Rand returns a source of random numbers, for any number of goroutines, that is the
// same for every run with the same seed. Each stream of a test is another source. Rand
// logs how to repeat the test.
func Rand(t testing.TB, stream uint64) *rand.Rand {
	t.Helper()
	Log(t)
	return rand.New(&source{pcg: rand.NewPCG(Seed(), stream)}) //nolint:gosec // a test must be repeatable
}

// source is a rand.Source for several goroutines. A rand.Rand keeps nothing else.
type source struct {
	mu  sync.Mutex
	pcg *rand.PCG
}

func (s *source) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pcg.Uint64()
}

// Log logs how to repeat a test whose choices the seed decides.
func Log(t testing.TB) {
	t.Helper()
	t.Logf("repeat with %s=%s", Variable, os.Getenv(Variable))
}

// OneIn reports whether row i of a table is in this run's share: every nth row,
// beginning with another one for each seed. n seeds in a row need not cover the
// table, but no row is left out for long.
func OneIn(n, i int) bool {
	return (Seed()%uint64(n)+uint64(i))%uint64(n) == 0
}

// Searched logs how much of something a search has tried. `make soak` adds it up.
func Searched(t testing.TB, n int64, what string) {
	t.Helper()
	t.Logf("searched %d %s", n, what)
}
