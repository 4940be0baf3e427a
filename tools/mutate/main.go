// Command mutate lists the conditions in this repository that no test checks.
//
// A mutant is the code with one condition changed: a guard is removed, an if with
// an else is inverted, or an operand of && or || is dropped. A mutant survives if
// all tests still pass with it: no test checks that condition.
//
// All mutants of a package are compiled into one test binary through an overlay, so
// no file in the repository changes. Each test first runs alone without a mutant, to
// record which mutants would change a value in it. Then each mutant runs with those
// tests only. Results are stored in artifacts/mutate and reused until the package or
// one of its dependencies changes.
//
// exceptions.txt lists functions with survivors that are accepted, one per line:
//
//	<package folder> <Function or Type.Method> <number of survivors> <reason>
//
// Exit status: 1 for survivors that are not excused and for stale exceptions; 2 if
// a package does not compile or its tests fail without a mutant.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	status := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(status)
}

type options struct {
	root, since   string
	patterns      []string
	skip          *regexp.Regexp
	slow, lasting time.Duration
	patience      time.Duration
	parallel      int
	again, race   bool
	out, log      io.Writer
}

// several is a flag that can be repeated or hold several values.
type several []string

func (s *several) String() string { return strings.Join(*s, " ") }

func (s *several) Set(value string) error {
	*s = append(*s, strings.Fields(value)...)
	return nil
}

func run(ctx context.Context, args []string, out, log io.Writer) (status int) {
	o := options{out: out, log: log}
	flags := flag.NewFlagSet("mutate", flag.ContinueOnError)
	flags.SetOutput(log)
	flags.StringVar(&o.root, "root", "..", "folder of the module to examine")
	flags.Var((*several)(&o.patterns), "package", "package `patterns` such as ./oauth or ./...; default: the packages that changed")
	flags.StringVar(&o.since, "since", "", "only conditions whose lines changed since this git `revision`;\ndefault without -package: HEAD if there are uncommitted changes, otherwise HEAD~1")
	skip := flags.String("skip", "", "leave out tests whose name matches this `pattern`")
	flags.DurationVar(&o.slow, "slow", 10*time.Second, "leave out tests that take longer, unless no other test could find the mutant")
	flags.DurationVar(&o.lasting, "for", 0, "stop after this time; the next run continues")
	flags.DurationVar(&o.patience, "patience", 10*time.Second, "time limit of a run, in addition to five times its duration without a mutant")
	flags.IntVar(&o.parallel, "parallel", 2, "how many test processes run at once")
	flags.BoolVar(&o.again, "again", false, "try all mutants again, even if their results are stored")
	flags.BoolVar(&o.race, "race", false, "use the race detector")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if flags.NArg() > 0 {
		fmt.Fprintf(log, "unexpected argument %s\n", flags.Arg(0))
		return 2
	}
	faults, err := o.prepare(ctx, *skip)
	switch {
	case err != nil:
		fmt.Fprintln(log, err)
		return 2
	case faults > 0:
		return 1
	}
	return 0
}

// prepare completes the options and examines the packages.
func (o *options) prepare(ctx context.Context, skip string) (faults int, err error) {
	if o.root, err = filepath.Abs(o.root); err != nil {
		return 0, err
	}
	if skip != "" {
		if o.skip, err = regexp.Compile(skip); err != nil {
			return 0, err
		}
	}
	if len(o.patterns) == 0 && o.since == "" {
		if o.since, err = lastChange(ctx, o.root); err != nil {
			return 0, err
		}
	}
	m, err := loadModule(o.root)
	if err != nil {
		return 0, err
	}
	return o.all(ctx, m)
}

// all examines the selected packages one after the other. It continues with the next
// one if a package cannot be examined.
func (o *options) all(ctx context.Context, m *module) (faults int, err error) {
	exceptions, err := readExceptions(filepath.Join(o.root, "tools", "mutate", "exceptions.txt"))
	if err != nil {
		return 0, err
	}
	var changed changes
	if o.since != "" {
		if changed, err = changedSince(ctx, o.root, o.since); err != nil {
			return 0, err
		}
		fmt.Fprintf(o.log, "Conditions that changed since %s\n", o.since)
	}
	patterns := o.patterns
	if len(patterns) == 0 {
		patterns = []string{"./..."}
	}
	packages, err := m.selected(patterns)
	if err != nil {
		return 0, err
	}
	scratch, err := os.MkdirTemp("", "mutate-")
	if err != nil {
		return 0, err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	e := &examination{options: o, module: m, changed: changed, exceptions: exceptions, scratch: scratch}
	if o.lasting > 0 {
		e.until = time.Now().Add(o.lasting)
	}
	var failed []error
	var left []string
	for _, p := range packages {
		r, err := e.examine(ctx, p)
		if ctx.Err() != nil {
			return faults, errors.New("interrupted: the next run continues")
		}
		if err != nil && !errors.Is(err, errTime) {
			failed = append(failed, fmt.Errorf("%s: %w", p.folder, err))
			fmt.Fprintf(o.log, "%s: %v\n", p.folder, err)
			continue
		}
		if r != nil {
			faults += r.write(o.out)
		}
		if err != nil {
			left = append(left, p.folder)
		}
	}
	if len(left) > 0 {
		fmt.Fprintf(o.log, "stopped after %s: the next run continues with %s\n", o.lasting, strings.Join(left, " "))
	}
	if len(failed) > 0 {
		return faults, fmt.Errorf("%d of %d packages could not be examined, see above", len(failed), len(packages))
	}
	return faults, nil
}
