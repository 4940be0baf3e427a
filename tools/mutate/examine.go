package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// examination holds what all packages of one run share.
type examination struct {
	*options
	module     *module
	changed    changes // nil: everything
	exceptions []exception
	scratch    string
	until      time.Time
}

// examine tries the selected mutants of a package. It returns a nil report if none
// are selected. With errTime it returns an incomplete report.
func (e *examination) examine(ctx context.Context, p *pkg) (*report, error) {
	began := time.Now()
	if err := p.load(); err != nil {
		return nil, err
	}
	r := &report{pkg: p, mutants: p.mutants}
	if e.changed != nil {
		r.mutants = slices.DeleteFunc(slices.Clone(p.mutants), func(m *mutant) bool { return !e.changed.concern(p.folder, m) })
	}
	for _, one := range e.exceptions {
		if one.folder == p.folder {
			r.exceptions = append(r.exceptions, one)
		}
	}
	if len(r.mutants) == 0 && (e.changed != nil || len(r.exceptions) == 0) {
		return nil, nil
	}
	inputs, err := e.module.inputs(p)
	if err != nil {
		return nil, err
	}
	inputs += fmt.Sprintf(" %s race=%t", p.fingerprint(), e.race)
	options := fmt.Sprintf("skip=%v slow=%s", e.skip, e.slow)
	r.results, err = openResults(filepath.Join(e.root, "artifacts", "mutate"), p.folder, inputs, options, e.again)
	if err != nil {
		return nil, err
	}
	t := &try{
		results: r.results, parallel: e.parallel, slow: e.slow, patience: e.patience, until: e.until,
		binary: &testBinary{folder: p.Dir, scratch: e.scratch, race: e.race},
	}
	r.tests = t.tests
	err = e.continueWith(ctx, t, r)
	r.took = time.Since(began)
	return r, err
}

// continueWith measures and tries what the stored results lack.
func (e *examination) continueWith(ctx context.Context, t *try, r *report) (err error) {
	p := r.pkg
	if len(p.TestGoFiles)+len(p.XTestGoFiles) == 0 {
		r.measured = true
		return nil
	}
	if r.measured = r.results.Measured == r.results.Options; r.measured && r.count(pending) == 0 {
		return nil
	}
	if t.over() {
		return errTime
	}
	defer func() {
		if failed := r.results.save(); err == nil {
			err = failed
		}
	}()
	t.binary.path = filepath.Join(e.scratch, strings.ReplaceAll(p.path, "/", "-")+".test")
	defer func() { _ = os.Remove(t.binary.path) }()
	e.say(p, "compiling %d mutants", len(p.mutants))
	if r.results.Skipped, err = p.build(ctx, t.binary.path, e.race); err != nil {
		return err
	}
	tests, err := t.binary.list(ctx, e.skip)
	if err != nil {
		return err
	}
	e.say(p, "measuring %d tests", len(tests))
	if err := t.measure(ctx, tests, e.progress(p, "measured", len(tests))); err != nil {
		return err
	}
	r.measured, r.results.Measured = true, r.results.Options
	left := slices.DeleteFunc(slices.Clone(r.mutants), func(m *mutant) bool { return r.verdict(m) != pending })
	e.say(p, "trying %d mutants", len(left))
	return t.tryAll(ctx, left, e.progress(p, "tried", len(left)))
}

func (e *examination) say(p *pkg, format string, args ...any) {
	fmt.Fprintf(e.log, "%s  %s: %s\n", time.Now().Format(time.TimeOnly), p.folder, fmt.Sprintf(format, args...))
}

// progress returns a function that counts its calls and logs them every 30 seconds.
func (e *examination) progress(p *pkg, what string, all int) func() {
	said, done := time.Now(), make(chan int, 1)
	done <- 0
	return func() {
		n := <-done + 1
		if time.Since(said) > 30*time.Second {
			e.say(p, "%s %d of %d", what, n, all)
			said = time.Now()
		}
		done <- n
	}
}
