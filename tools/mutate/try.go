package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// errTime is returned when the time given by -for is over.
var errTime = errors.New("stopped")

// try tries the mutants of one package.
type try struct {
	binary   *testBinary
	results  *results
	parallel int
	// slow is the duration from which a test is used only if no quicker one can
	// detect the mutant. patience is added to the time limit of each run.
	slow, patience time.Duration
	until          time.Time // zero: no limit
}

// each calls do with 0 to n-1, several at a time. It starts no more calls after one
// fails or when the time is over.
func (t *try) each(ctx context.Context, n int, do func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var works sync.WaitGroup
	places := make(chan struct{}, max(1, t.parallel))
	for i := range n {
		places <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		if t.over() {
			works.Wait()
			return cmp.Or(context.Cause(ctx), errTime)
		}
		works.Go(func() {
			defer func() { <-places }()
			if err := do(ctx, i); err != nil {
				cancel(err) // only the first error is kept
			}
		})
	}
	works.Wait()
	return context.Cause(ctx)
}

// over reports whether the time given by -for is over.
func (t *try) over() bool { return !t.until.IsZero() && time.Now().After(t.until) }

// tests returns the tests that could detect a mutant, quickest first. Slow tests are
// left out if there are quick ones; left is their number.
func (t *try) tests(id int) (tests []*test, left int) {
	all := t.results.concerned(id)
	quick := slices.IndexFunc(all, func(one *test) bool { return one.Seconds > t.slow.Seconds() })
	if quick <= 0 {
		return all, 0
	}
	return all[:quick], len(all) - quick
}

// concerned returns all tests that could detect a mutant.
func (r *results) concerned(id int) []*test {
	var all []*test
	for _, one := range r.Tests {
		if _, changed := slices.BinarySearch(one.Changed, id); changed && !one.Parent {
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b *test) int { return cmp.Or(cmp.Compare(a.Seconds, b.Seconds), cmp.Compare(a.Name, b.Name)) })
	return all
}

// tryAll runs the tests that could detect each of the mutants.
func (t *try) tryAll(ctx context.Context, mutants []*mutant, progress func()) error {
	return t.each(ctx, len(mutants), func(ctx context.Context, i int) error {
		id := mutants[i].ID
		tests, _ := t.tests(id)
		by := ""
		for stage, some := range stages(tests) {
			var err error
			by, err = t.tryOne(ctx, id, some)
			if by != "" && stage > 0 && err == nil {
				// Many tests ran, so one may have failed for another reason.
				by, err = t.tryOne(ctx, id, failedFirst(some, by))
			}
			if err != nil {
				return err
			}
			if by != "" {
				break
			}
		}
		defer progress()
		return t.results.update(func() {
			if by != "" {
				t.results.Found[id] = by
			} else {
				t.results.Survived[id] = true
			}
		})
	})
}

// stages splits tests into several runs, because the quickest few tests find most
// mutants.
func stages(tests []*test) [][]*test {
	var all [][]*test
	for budget := 0.5; len(tests) > 0; budget *= 8 {
		n, sum := 1, tests[0].Seconds
		for n < len(tests) && sum+tests[n].Seconds <= budget {
			sum += tests[n].Seconds
			n++
		}
		all, tests = append(all, tests[:n]), tests[n:]
	}
	return all
}

// failedFirst returns the test that failed, or all tests if the failure names none.
func failedFirst(tests []*test, by string) []*test {
	for _, one := range tests {
		if by == one.Name || strings.HasPrefix(by, one.Name+"/") {
			return []*test{one}
		}
	}
	return tests
}

// tryOne runs tests with a mutant. It returns the test or panic that found the
// mutant, or "" if the tests pass.
func (t *try) tryOne(ctx context.Context, id int, tests []*test) (by string, err error) {
	names := make([]string, 0, len(tests))
	expected := time.Duration(0)
	for _, one := range tests {
		names = append(names, one.Name)
		expected += time.Duration(one.Seconds * float64(time.Second))
	}
	limit := t.patience + 5*expected
	for {
		o, err := t.binary.run(ctx, pattern(names), limit, false, activeVariable+"="+strconv.Itoa(id))
		switch {
		case err != nil:
			return "", err
		case o.passed:
			return "", nil
		case !o.timedOut:
			return o.failed, nil
		}
		// The machine may just be busy. It is a hang only if the same tests are quick
		// without the mutant.
		control, err := t.binary.run(ctx, pattern(names), limit, false, activeVariable+"=")
		switch {
		case err != nil:
			return "", err
		case control.took < limit/2 && control.passed:
			return "hang", nil
		case limit > measureLimit:
			return "", fmt.Errorf("%w: %v, which took %s before, did not end within %s", errRed, names, expected, limit)
		}
		limit *= 2
	}
}
