// Command mutate takes the guards of this repository away, one at a time, and
// shows that a test turns red for each: a guard that no test misses is one that
// the next change may lose.
//
// It changes no file: `go test -overlay` compiles the changed ones in their place.
// It exits with 1 where a test stays green (SURVIVED), where a change does not
// compile, and where it does not find what it changes.
//
// The guards stand in guards/*.txt, each as
//
//	= id
//	What is taken away, in a sentence.
//	! ./package TestThatMustTurnRed/subtest
//	@@ package/file.go
//	 	a line that stays
//	-	a line that goes
//	+	a line that comes in its place
//
// A change is of whole lines, with their tabs, and its old ones must be in the
// file exactly once. A guard may need several; each begins with @@.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

type options struct {
	root, list, ids string
	parallel        int
	bound           time.Duration
	checkOnly, show bool
}

func run(ctx context.Context) error {
	var o options
	flag.StringVar(&o.root, "root", "..", "the repository's folder")
	flag.StringVar(&o.list, "list", "tools/mutate/guards", "the folder of the guards, in the repository's")
	flag.StringVar(&o.ids, "run", "", "try only ids that match this pattern")
	flag.IntVar(&o.parallel, "parallel", 2, "how many to try at once")
	flag.DurationVar(&o.bound, "timeout", 3*time.Minute, "how long one test may take")
	flag.BoolVar(&o.checkOnly, "check", false, "only see whether each guard and each test is still there")
	flag.BoolVar(&o.show, "v", false, "show what the tests print")
	flag.Parse()
	root, err := filepath.Abs(o.root)
	if err != nil {
		return err
	}
	o.root = root
	mutations, err := readList(filepath.Join(root, filepath.FromSlash(o.list)))
	if err != nil {
		return err
	}
	if faults := check(root, mutations); len(faults) > 0 {
		return errors.Join(faults...)
	}
	wanted, err := regexp.Compile(o.ids)
	if err != nil {
		return err
	}
	mutations = slices.DeleteFunc(mutations, func(m mutation) bool { return !wanted.MatchString(m.id) })
	if o.checkOnly {
		fmt.Printf("%d guards, each in its place\n", len(mutations))
		return nil
	}
	if err := o.green(ctx, mutations); err != nil {
		return err
	}
	return o.tryAll(ctx, mutations)
}

// green runs the tests with every guard in its place: red proves nothing of one
// that was red before.
func (o *options) green(ctx context.Context, mutations []mutation) error {
	tests := make(map[string][]string)
	for _, m := range mutations {
		tests[m.pkg] = append(tests[m.pkg], m.test)
	}
	for pkg, names := range tests {
		r, err := goTest(ctx, o.root, pkg, pattern(names...), nil, 10*time.Minute)
		if err != nil {
			return err
		}
		if len(r.failed) > 0 || !r.built {
			return fmt.Errorf("%s\n%s: not green with every guard in its place", r.output, pkg)
		}
		for _, m := range mutations {
			if m.pkg == pkg && !r.passed[m.event()] {
				return fmt.Errorf("%s: %s: %s has no test %s", m.place, m.id, pkg, m.test)
			}
		}
	}
	return nil
}

// tryAll tries the mutations and prints a line for each.
func (o *options) tryAll(ctx context.Context, mutations []mutation) error {
	began, width := time.Now(), 0
	for _, m := range mutations {
		width = max(width, len(m.id))
	}
	var (
		mu     sync.Mutex
		bad    []string
		works  sync.WaitGroup
		places = make(chan struct{}, max(1, o.parallel))
	)
	for i := range mutations {
		m := &mutations[i]
		places <- struct{}{}
		works.Go(func() {
			defer func() { <-places }()
			r, err := m.try(ctx, o.root, o.bound)
			mu.Lock()
			defer mu.Unlock()
			what := "red: " + m.test
			if err != nil {
				what = fmt.Sprintf("%v: %s %s", err, m.pkg, m.test)
				bad = append(bad, m.id)
			}
			fmt.Printf("%-*s  %5.1fs  %s\n%*s          %s\n", width, m.id, r.took.Seconds(), m.guard, width, "", what)
			if o.show || err != nil && !r.built {
				fmt.Println(r.output)
			}
		})
	}
	works.Wait()
	fmt.Printf("\n%d guards in %s", len(mutations), time.Since(began).Round(time.Second))
	if len(bad) == 0 {
		fmt.Println(": a test turns red without each")
		return nil
	}
	fmt.Println()
	return fmt.Errorf("%d of %d are not shown to be needed: %s", len(bad), len(mutations), strings.Join(bad, " "))
}
