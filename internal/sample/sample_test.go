package sample

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTheSameSeedSelectsTheSameAndAnotherSeedAnother(t *testing.T) {
	t.Setenv(Variable, "deb5c96")
	first, seed := Rand(t, 1).Uint64(), Seed()
	require.Equal(t, first, Rand(t, 1).Uint64())
	require.NotEqual(t, first, Rand(t, 2).Uint64(), "each stream is its own")
	t.Setenv(Variable, "deb5c97")
	require.NotEqual(t, seed, Seed())
	require.NotEqual(t, first, Rand(t, 1).Uint64())
}

func TestARunPlaysItsShareAndManyRunsPlayEverything(t *testing.T) {
	const rows, n = 100, 7
	played := make(map[int]bool)
	for commit := range 200 {
		t.Setenv(Variable, fmt.Sprint("commit ", commit))
		share := 0
		for i := range rows {
			if OneIn(n, i) {
				share++
				played[i] = true
			}
		}
		require.InDelta(t, rows/n, share, 1)
	}
	require.Len(t, played, rows)
}
