package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
)

// verdict is the state of one mutant.
type verdict string

const (
	pending    verdict = "pending"
	found      verdict = "found"
	survived   verdict = "survived"
	notCovered verdict = "not covered"
	skipped    verdict = "skipped"
)

// report describes the results for the selected mutants of a package.
type report struct {
	pkg     *pkg
	results *results
	mutants []*mutant // those that were selected
	tests   func(id int) (tests []*test, left int)
	// measured is set once all tests are measured. Before that, no mutant can be
	// reported as not covered.
	measured   bool
	exceptions []exception // of this package
	// took is how long this run took.
	took time.Duration
}

func (r *report) verdict(m *mutant) verdict {
	if _, is := r.results.Skipped[m.ID]; is {
		return skipped
	}
	if _, is := r.results.Found[m.ID]; is {
		return found
	}
	if r.results.Survived[m.ID] {
		return survived
	}
	if tests, _ := r.tests(m.ID); r.measured && len(tests) == 0 {
		return notCovered
	}
	return pending
}

// count returns the mutants with a verdict.
func (r *report) count(v verdict) int {
	n := 0
	for _, m := range r.mutants {
		if r.verdict(m) == v {
			n++
		}
	}
	return n
}

// write writes the survivors and a summary. It returns the number of survivors that
// are not excused plus the number of stale exceptions.
func (r *report) write(w io.Writer) (faults int) {
	survivors := make(map[string][]*mutant)
	for _, m := range r.mutants {
		switch r.verdict(m) {
		case pending, found:
		case survived, notCovered:
			survivors[m.Function] = append(survivors[m.Function], m)
		case skipped:
			fmt.Fprintf(w, "%s/%s:%d %s\n  skipped, does not compile: %s\n  %s\n\n",
				r.pkg.folder, m.File, m.Line, m.Function, r.results.Skipped[m.ID], m.Change)
		}
	}
	excused := 0
	for _, e := range r.exceptions {
		n := len(survivors[e.function])
		if n <= e.survivors {
			excused += n
			delete(survivors, e.function)
		}
		if n < e.survivors && r.complete() {
			faults++
			fmt.Fprintf(w, "exceptions.txt:%d: stale: %s %s has %d survivors, not %d\n\n", e.line, e.folder, e.function, n, e.survivors)
		}
	}
	for _, m := range r.mutants {
		if slices.Contains(survivors[m.Function], m) {
			faults++
			if r.whole(m) == nil {
				r.block(w, m)
			}
		}
	}
	r.summary(w, excused)
	return faults
}

// complete reports whether all mutants of the package were selected and tried.
func (r *report) complete() bool {
	return len(r.mutants) == len(r.pkg.mutants) && r.count(pending) == 0
}

// block describes one survivor.
func (r *report) block(w io.Writer, m *mutant) {
	fmt.Fprintf(w, "%s: %s/%s:%d %s\n", strings.ToUpper(string(r.verdict(m))), r.pkg.folder, m.File, m.Line, m.Function)
	fmt.Fprintf(w, "  %s\n", m.Change)
	for _, s := range r.pkg.sources {
		if s.name == m.File {
			fmt.Fprintf(w, "  %s\n", strings.TrimSpace(s.lines[m.Line-1]))
		}
	}
	for _, part := range r.mutants {
		if r.whole(part) == m {
			fmt.Fprintf(w, "  %s\n", part.Change)
		}
	}
	tests, left := r.tests(m.ID)
	switch {
	case len(tests) > 0:
		fmt.Fprintf(w, "  still passing: %s\n", names(tests))
		if left > 0 {
			fmt.Fprintf(w, "  not tried, because slow: %d more\n", left)
		}
	case len(r.reached(m.ID)) > 0:
		fmt.Fprintf(w, "  evaluated, but never %s, in %s\n", m.decisive(), names(r.reached(m.ID)))
	default:
		fmt.Fprintf(w, "  no test evaluates it\n")
	}
	for _, e := range r.exceptions {
		if e.function == m.Function {
			fmt.Fprintf(w, "  exceptions.txt:%d excuses %d survivors of this function\n", e.line, e.survivors)
		}
	}
	fmt.Fprintln(w)
}

// whole returns the outermost condition that contains m, if both are never true in a
// test. They share one block in the report. It returns nil if there is none.
func (r *report) whole(m *mutant) (outermost *mutant) {
	if m.effect != alwaysFalse || r.verdict(m) != notCovered {
		return nil
	}
	for _, other := range r.mutants {
		if other.contains(m) && other.effect == alwaysFalse && r.verdict(other) == notCovered &&
			(outermost == nil || other.contains(outermost)) {
			outermost = other
		}
	}
	return outermost
}

func (m *mutant) contains(part *mutant) bool {
	return m != part && m.File == part.File && m.start <= part.start && part.end <= m.end
}

// decisive is the value of the expression that the mutant changes.
func (m *mutant) decisive() string {
	if m.effect == alwaysTrue {
		return "false"
	}
	return "true"
}

func (r *report) reached(id int) []*test {
	var all []*test
	for _, one := range r.results.Tests {
		if _, is := slices.BinarySearch(one.Reached, id); is && !one.Parent {
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b *test) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// names returns the first three names and the number of other tests.
func names(tests []*test) string {
	all := make([]string, 0, 3)
	for _, one := range tests[:min(3, len(tests))] {
		all = append(all, one.Name)
	}
	text := strings.Join(all, ", ")
	if more := len(tests) - len(all); more > 0 {
		text += fmt.Sprintf(" and %d more", more)
	}
	return text
}

func (r *report) summary(w io.Writer, excused int) {
	guards := make(map[int]bool)
	for _, m := range r.mutants {
		guards[m.guard] = true
	}
	fmt.Fprintf(w, "%s: %d guards, %d mutants, %d found, %d survived, %d not covered, %d excused, %s",
		r.pkg.folder, len(guards), len(r.mutants), r.count(found), r.count(survived), r.count(notCovered), excused, r.took.Round(time.Second))
	if n := r.count(skipped); n > 0 {
		fmt.Fprintf(w, ", %d skipped", n)
	}
	if n := r.count(pending); n > 0 {
		fmt.Fprintf(w, ", %d left", n)
	}
	fmt.Fprintln(w)
}
