package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ledger is what has been searched on this machine. It is written after each run
// of a part.
type ledger struct {
	path string
	// Runs counts the runs of each part that ended well. The next one's seed is made
	// of it, so that none is run twice.
	Runs map[string]int `json:"runs"`
	// Searched are totals, and Published is how much of them stands in the docs.
	Searched  map[string]int64 `json:"searched"`
	Published map[string]int64 `json:"published"`
}

func openLedger(path string) (*ledger, error) {
	l := &ledger{path: path}
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, err
	default:
		if err := json.Unmarshal(text, l); err != nil {
			return nil, fmt.Errorf("%s: %w; move it away to begin anew", path, err)
		}
	}
	for _, m := range []*map[string]int64{&l.Searched, &l.Published} {
		if *m == nil {
			*m = make(map[string]int64)
		}
	}
	if l.Runs == nil {
		l.Runs = make(map[string]int)
	}
	return l, nil
}

func (l *ledger) write() error {
	text, err := json.MarshalIndent(l, "", "\t")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(l.path), 0o755); err != nil {
		return err
	}
	next := l.path + ".new"
	if err := os.WriteFile(next, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(next, l.path)
}

// next returns the part that has made the smallest share of its runs.
func (l *ledger) next(parts []part) part {
	return slices.MinFunc(parts, func(a, b part) int {
		return l.Runs[a.name]*b.runs - l.Runs[b.name]*a.runs
	})
}

// seed is that of a part's next run.
func (l *ledger) seed(p part) string { return fmt.Sprintf("soak %d", l.Runs[p.name]+1) }

// add notes a run that ended well.
func (l *ledger) add(p part, searched map[string]int64) error {
	l.Runs[p.name]++
	for what, n := range searched {
		l.Searched[what] += n
	}
	return l.write()
}

func (l *ledger) describe(p part) string {
	return fmt.Sprintf("%s: %d of %d runs", p.name, l.Runs[p.name], p.runs)
}

const (
	totalsBegin = "<!-- totals: made by make docs from what make soak has searched -->\n"
	totalsEnd   = "<!-- end of totals -->\n"
)

var totalsRow = regexp.MustCompile(`(?m)^\| ([a-z ]+) \| ([0-9,]+) \|$`)

// publish adds what was searched since the last time to the totals in a page.
func (l *ledger) publish(path string) error {
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(page), totalsBegin)
	table, after, closed := strings.Cut(rest, totalsEnd)
	if !found || !closed {
		return fmt.Errorf("%s has no place for the totals: %q to %q", path, totalsBegin, totalsEnd)
	}
	totals := make(map[string]int64)
	for _, row := range totalsRow.FindAllStringSubmatch(table, -1) {
		if totals[row[1]], err = strconv.ParseInt(strings.ReplaceAll(row[2], ",", ""), 10, 64); err != nil {
			return fmt.Errorf("%s: the total of %s: %w", path, row[1], err)
		}
	}
	for what, n := range l.Searched {
		totals[what] += n - l.Published[what]
	}
	var text strings.Builder
	text.WriteString(before + totalsBegin + "\n| | searched so far |\n|---|---|\n")
	for _, what := range slices.Sorted(maps.Keys(totals)) {
		fmt.Fprintf(&text, "| %s | %s |\n", what, grouped(totals[what]))
	}
	text.WriteString("\n" + totalsEnd + after)
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		return err
	}
	l.Published = maps.Clone(l.Searched)
	return l.write()
}

// grouped writes 1234567 as 1,234,567.
func grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	for at := len(digits) - 3; at > 0; at -= 3 {
		digits = digits[:at] + "," + digits[at:]
	}
	return digits
}
