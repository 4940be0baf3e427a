// Command soak runs the project's long searches for hours, in parts, and adds up
// what has been searched.
//
// Each search runs again and again with a new seed. The one that is furthest from
// its target runs next, so that a soak of any length does some of each. What is
// done is kept in artifacts/soak.json: an interrupted soak goes on where it
// stopped. The first search that fails ends the soak; it is told how to repeat it.
//
// With -docs it adds what was searched since the last time to the totals in
// docs/reliability.md instead.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "soak:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	root := flag.String("root", "..", "the repository's folder")
	length := flag.Duration("for", time.Hour, "how long to search; the part that is running then is finished")
	only := flag.String("only", "", "run only parts whose name matches this pattern")
	list := flag.Bool("list", false, "list the parts and what has been searched, and run nothing")
	docs := flag.Bool("docs", false, "add what has been searched to the totals in docs/reliability.md, and run nothing")
	flag.Parse()
	if flag.NArg() > 0 {
		return fmt.Errorf("unknown argument %q", flag.Arg(0))
	}
	folder, err := filepath.Abs(*root)
	if err != nil {
		return err
	}
	ledger, err := openLedger(filepath.Join(folder, "artifacts", "soak.json"))
	if err != nil {
		return err
	}
	if *docs {
		return ledger.publish(filepath.Join(folder, "docs", "reliability.md"))
	}
	parts, err := partsOf(folder, *only)
	if err != nil {
		return err
	}
	if *list {
		for _, p := range parts {
			fmt.Println(ledger.describe(p))
		}
		return nil
	}
	s := soak{root: folder, ledger: ledger, parts: parts, out: os.Stdout, command: goCommand}
	return s.run(ctx, time.Now().Add(*length))
}

// soak is a run of parts, one after the other.
type soak struct {
	root   string
	ledger *ledger
	parts  []part
	out    *os.File
	// command runs one part and returns what it printed.
	command func(ctx context.Context, root string, p part, seed string) ([]byte, error)
}

func (s *soak) run(ctx context.Context, until time.Time) error {
	for first := true; first || time.Now().Before(until); first = false {
		p := s.ledger.next(s.parts)
		seed := s.ledger.seed(p)
		fmt.Fprintf(s.out, "%s  %s, TEST_SEED=%q …\n", time.Now().Format(time.TimeOnly), p.name, seed)
		output, err := s.command(ctx, s.root, p, seed)
		if ctx.Err() != nil {
			return errors.New("interrupted; what was finished is kept, run it again to go on")
		}
		if err != nil {
			fmt.Fprintf(s.out, "%s\n", output)
			return fmt.Errorf("%s failed: %w; repeat it with: %s", p.name, err, p.repeat(seed))
		}
		found := searched(output)
		if len(found) == 0 {
			fmt.Fprintf(s.out, "%s\n", output)
			return fmt.Errorf("%s ended well and says nothing of what it searched", p.name)
		}
		if err := s.ledger.add(p, found); err != nil {
			return err
		}
		fmt.Fprintf(s.out, "          %s\n", s.ledger.describe(p))
	}
	return nil
}
