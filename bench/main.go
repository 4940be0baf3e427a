// Command bench measures what the plugin costs, on one machine and in one run, and
// writes docs/benchmarks.md from what it measured.
//
//	go run .                       a quick look, written to artifacts
//	go run . --scale full          the run that is in the docs
//	go run . load --url <address>  the same load, sent to any proxy
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

func main() {
	commands := map[string]func([]string) error{
		"load": loadCommand, "upstream": upstreamCommand,
		// Caddy as users have it, with one store more.
		"caddy": func(args []string) error {
			os.Args = append([]string{"caddy"}, args...)
			caddycmd.Main()
			return nil
		},
	}
	var err error
	if command := commands[strings.Join(os.Args[1:min(2, len(os.Args))], "")]; command != nil {
		err = command(os.Args[2:])
	} else {
		err = measure()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// scale is how much is measured.
type scale struct {
	costRounds         int
	costLength         time.Duration
	allocationRequests int
	growthRounds       int
	growthLength       time.Duration // some collections of garbage in all rounds together
	sellers            []int         // that are in memory
	settling           time.Duration // until those nobody asks for are dormant; measured before that if 0

	onFiles, onPostgres      int // sellers
	storeRounds, coldSellers int
	callers                  int // at once
	walkLength               time.Duration

	flowRounds, wholeRounds int
}

var scales = map[string]scale{
	"smoke": {costRounds: 2, costLength: 100 * time.Millisecond, allocationRequests: 500, growthRounds: 2, growthLength: 100 * time.Millisecond, sellers: []int{1000, 20_000}, onFiles: 2000, onPostgres: 5000, storeRounds: 2, coldSellers: 200, callers: 500, walkLength: time.Second, flowRounds: 2, wholeRounds: 1},
	"quick": {costRounds: 4, costLength: 300 * time.Millisecond, allocationRequests: 5000, growthRounds: 4, growthLength: 300 * time.Millisecond, sellers: []int{1000, 100_000}, settling: 90 * time.Second, onFiles: 10_000, onPostgres: 50_000, storeRounds: 3, coldSellers: 1000, callers: 5000, walkLength: 2 * time.Second, flowRounds: 4, wholeRounds: 2},
	"full":  {costRounds: 30, costLength: 400 * time.Millisecond, allocationRequests: 20_000, growthRounds: 30, growthLength: 2 * time.Second, sellers: []int{1000, 100_000, 1_000_000}, settling: 90 * time.Second, onFiles: 100_000, onPostgres: 1_000_000, storeRounds: 10, coldSellers: 2000, callers: 5000, walkLength: 10 * time.Second, flowRounds: 15, wholeRounds: 8},
}

// bench is one run.
type bench struct {
	scale
	self   string // this program
	binary string // caddy
	root   string // of the repository
	dir    string // for all that is written, gone afterwards
	begun  time.Time
}

// part is a part of the measurements.
type part struct {
	name string
	run  func(*bench, context.Context, *Report) error
}

var parts = []part{
	{"cost", (*bench).cost},
	{"growth", (*bench).growth},
	{"stores", (*bench).stores},
	{"flow", (*bench).flow},
	{"expired", (*bench).expired},
	{"simulated", (*bench).simulated},
	{"profile", (*bench).profile}, // if asked for
}

func measure() error {
	size := flag.String("scale", "quick", "how much is measured: quick or full")
	only := flag.String("only", "", "measure these `parts` only, separated by commas")
	out := flag.String("out", "", "the `folder` for benchmarks.md and its plots (default: docs, or artifacts after a quick run)")
	flag.Parse()
	chosen, ok := scales[*size]
	if !ok || flag.NArg() > 0 {
		return errors.New("write --scale quick or --scale full")
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{scale: chosen, begun: time.Now()}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	if *out == "" {
		*out = filepath.Join(b.root, map[bool]string{true: "docs", false: "artifacts"}[*size == "full"])
	}
	r := &Report{Scale: *size}
	if err := r.describe(ctx, b); err != nil {
		return err
	}
	for _, p := range parts {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), p.name) || *only == "" && p.name == "profile" {
			continue
		}
		if err := p.run(b, ctx, r); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		r.Took = time.Since(b.begun)
		if err := r.write(*out); err != nil { // after each part: what is measured is not lost
			return err
		}
	}
	b.say("written to %s", filepath.Join(*out, "benchmarks.md"))
	return nil
}

// prepare builds Caddy as users do.
func (b *bench) prepare(ctx context.Context) (err error) {
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return fmt.Errorf("finding the repository: %w", err)
	}
	b.root = strings.TrimSpace(string(root))
	if b.dir, err = os.MkdirTemp("", "caddy-mercadopago-bench-"); err != nil {
		return err
	}
	b.binary = filepath.Join(b.dir, "caddy")
	build := exec.CommandContext(ctx, "go", "build", "-o", b.binary, "./cmd/caddy") //nolint:gosec // our own folder
	build.Dir, build.Stderr = b.root, os.Stderr
	b.say("building Caddy")
	return build.Run()
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%7s  "+format+"\n", append([]any{time.Since(b.begun).Round(time.Second)}, args...)...)
}
