package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// errRed is returned when tests fail without any mutant.
var errRed = errors.New("fails without any mutant")

// measureLimit is the time limit of a test without a mutant.
const measureLimit = 15 * time.Minute

// list returns the names of the package's tests, examples and fuzz targets.
func (b *testBinary) list(ctx context.Context, skip *regexp.Regexp) ([]string, error) {
	command := exec.CommandContext(ctx, b.path, "-test.list", "^(Test|Example|Fuzz)") //nolint:gosec // the package's own tests
	command.Dir = b.folder
	output, err := command.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("listing the tests: %w\n%s", err, output)
	}
	var names []string
	for name := range strings.Lines(string(output)) {
		name = strings.TrimSpace(name)
		if name != "" && (skip == nil || !skip.MatchString(name)) {
			names = append(names, name)
		}
	}
	return names, nil
}

// measure runs each test alone, without a mutant. It records how long the test
// takes and which mutants could change its result.
func (t *try) measure(ctx context.Context, names []string, progress func()) error {
	for name := range t.results.Tests {
		if top, _, _ := strings.Cut(name, "/"); !slices.Contains(names, top) {
			delete(t.results.Tests, name)
		}
	}
	return t.each(ctx, len(names), func(ctx context.Context, i int) error {
		defer progress()
		return t.measureOne(ctx, names[i])
	})
}

// measureOne measures a test unless its results are known. The subtests of a slow
// test are measured as well, and replace it if each of them passes alone.
func (t *try) measureOne(ctx context.Context, name string) error {
	t.results.mu.Lock()
	known := t.results.Tests[name]
	t.results.mu.Unlock()
	if known != nil {
		return nil
	}
	measured, subtests, err := t.alone(ctx, name)
	if err != nil {
		return err
	}
	all := []*test{measured}
	if measured.Seconds > t.slow.Seconds() && len(subtests) > 1 {
		parts, err := t.parts(ctx, subtests)
		if err != nil {
			return err
		}
		measured.Parent = len(parts) > 0
		all = append(all, parts...)
	}
	return t.results.update(func() {
		for _, one := range all {
			t.results.Tests[one.Name] = one
		}
	})
}

// parts measures subtests. It returns none if one of them fails alone.
func (t *try) parts(ctx context.Context, subtests []string) ([]*test, error) {
	var all []*test
	for _, name := range direct(subtests) {
		measured, below, err := t.alone(ctx, name)
		if errors.Is(err, errRed) {
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		all = append(all, measured)
		if measured.Seconds > t.slow.Seconds() && len(below) > 1 {
			parts, err := t.parts(ctx, below)
			if err != nil {
				return nil, err
			}
			measured.Parent = len(parts) > 0
			all = append(all, parts...)
		}
	}
	return all, nil
}

// direct returns the subtests that are not below another subtest in the list.
func direct(subtests []string) []string {
	var all []string
	for _, name := range subtests {
		if !slices.ContainsFunc(subtests, func(other string) bool { return strings.HasPrefix(name, other+"/") }) {
			all = append(all, name)
		}
	}
	return all
}

// alone runs one test without a mutant. Quick tests run twice, because the code a
// test reaches can depend on timing or randomness.
func (t *try) alone(ctx context.Context, name string) (*test, []string, error) {
	first, subtests, err := t.sample(ctx, name)
	if err != nil || first.Seconds > t.slow.Seconds() {
		return first, subtests, err
	}
	second, _, err := t.sample(ctx, name)
	if err != nil {
		return nil, nil, err
	}
	first.Seconds = max(first.Seconds, second.Seconds)
	first.Reached = union(first.Reached, second.Reached)
	first.Changed = union(first.Changed, second.Changed)
	return first, subtests, nil
}

// union returns the numbers in both lists, sorted and without duplicates.
func union(a, b []int) []int {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

// sample runs one test without a mutant.
func (t *try) sample(ctx context.Context, name string) (*test, []string, error) {
	file, err := os.CreateTemp(t.binary.scratch, "record-")
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		_ = file.Close()
		_ = os.Remove(file.Name())
	}()
	o, err := t.binary.run(ctx, pattern([]string{name}), measureLimit, true, activeVariable+"=", recordVariable+"="+file.Name())
	if err != nil {
		return nil, nil, err
	}
	if !o.passed {
		return nil, nil, fmt.Errorf("%s %w:\n%s", name, errRed, o.output)
	}
	measured := &test{Name: name, Seconds: o.took.Seconds()}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		line := lines.Text()
		id, err := strconv.Atoi(line[1:])
		if err != nil {
			return nil, nil, fmt.Errorf("%s: %w", filepath.Base(file.Name()), err)
		}
		switch line[0] {
		case 'r':
			measured.Reached = append(measured.Reached, id)
		case 'c':
			measured.Changed = append(measured.Changed, id)
		}
	}
	// Several processes may have written to the file.
	measured.Reached, measured.Changed = union(measured.Reached, nil), union(measured.Changed, nil)
	var below []string
	for _, sub := range o.subtests {
		if strings.HasPrefix(sub, name+"/") {
			below = append(below, sub)
		}
	}
	return measured, below, lines.Err()
}
