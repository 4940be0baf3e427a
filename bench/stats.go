package main

import (
	"math/rand/v2"
	"slices"
)

// shuffled returns the numbers below n in an order of their own.
func shuffled(n int) []int { return rand.Perm(n) } //nolint:gosec // chance is all that is asked of it

// spread is a value, the median unless it says otherwise, with the tenth and the
// ninetieth percentile of the rounds.
type spread struct{ Low, Value, High float64 }

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	sorted := slices.Sorted(slices.Values(values))
	at := func(part float64) float64 {
		// Between the two that are nearest.
		place := part * float64(len(sorted)-1)
		below := int(place)
		above := min(below+1, len(sorted)-1)
		return sorted[below] + (sorted[above]-sorted[below])*(place-float64(below))
	}
	return spread{at(0.1), at(0.5), at(0.9)}
}

// each collects one number of many things.
func each[T any](all []T, of func(T) float64) []float64 {
	numbers := make([]float64, 0, len(all))
	for _, one := range all {
		numbers = append(numbers, of(one))
	}
	return numbers
}
