package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// rig is a soak of two parts that search nothing.
func rig(t *testing.T, path string, command func(p part, seed string) (string, error)) *soak {
	t.Helper()
	l, err := openLedger(path)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = out.Close() })
	return &soak{
		ledger: l, out: out, parts: []part{{name: "often", runs: 4}, {name: "seldom", runs: 2}},
		command: func(_ context.Context, _ string, p part, seed string) ([]byte, error) {
			text, err := command(p, seed)
			return []byte(text), err
		},
	}
}

// runs has a soak make some runs, one at a time, as if it was interrupted each time.
func runs(t *testing.T, n int, path string, command func(p part, seed string) (string, error)) {
	t.Helper()
	for range n {
		if err := rig(t, path, command).run(t.Context(), time.Time{}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestASoakThatWasInterruptedGoesOnWhereItStopped(t *testing.T) {
	var made []string
	runs(t, 6, filepath.Join(t.TempDir(), "artifacts", "soak.json"), func(p part, seed string) (string, error) {
		made = append(made, p.name+": "+seed)
		return "searched 1 kills", nil
	})
	slices.Sort(made)
	want := []string{"often: soak 1", "often: soak 2", "often: soak 3", "often: soak 4", "seldom: soak 1", "seldom: soak 2"}
	if !slices.Equal(made, want) {
		t.Fatalf("%q, not %q", made, want)
	}
}

func TestARunThatFailsEndsTheSoakAndIsRepeatedNextTime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "soak.json")
	var seeds []string
	fails := func(p part, seed string) (string, error) {
		seeds = append(seeds, p.name+seed)
		return "    x_test.go:1: searched 5 kills", errors.New("exit status 1")
	}
	for range 2 {
		err := rig(t, path, fails).run(t.Context(), time.Now().Add(time.Hour))
		if err == nil || !strings.Contains(err.Error(), `TEST_SEED="soak 1"`) {
			t.Fatalf("it does not say how to repeat it: %v", err)
		}
	}
	if seeds[0] != seeds[1] {
		t.Fatalf("it was not repeated: %q", seeds)
	}
	if l, err := openLedger(path); err != nil || len(l.Searched) > 0 {
		t.Fatalf("what failed was counted: %v, %v", l.Searched, err)
	}
}

func TestTheTotalsInTheDocsGrowByWhatWasSearchedAndNeverTwice(t *testing.T) {
	folder := t.TempDir()
	path, page := filepath.Join(folder, "soak.json"), filepath.Join(folder, "page.md")
	if err := os.WriteFile(page, []byte("before\n\n"+totalsBegin+"\n| | searched so far |\n|---|---|\n| kills | 1,200 |\n\n"+totalsEnd+"\nafter\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	publish := func(want ...string) {
		t.Helper()
		for range 2 { // the second one adds nothing
			l, err := openLedger(path)
			if err != nil {
				t.Fatal(err)
			}
			if err := l.publish(page); err != nil {
				t.Fatal(err)
			}
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range append(want, "before\n", "after\n") {
			if !strings.Contains(string(text), row) {
				t.Fatalf("%q is not in\n%s", row, text)
			}
		}
	}
	publish("| kills | 1,200 |\n")
	output := "    kill_test.go:1: searched 20 kills\n    kill_test.go:1: searched 30 kills\n"
	runs(t, 1, path, func(part, string) (string, error) { return output, nil })
	publish("| kills | 1,250 |\n")
	output = "fuzz: elapsed: 3s, execs: 100 (33/sec), new interesting: 1\nfuzz: elapsed: 6s, execs: 1234567 (33/sec), new interesting: 1\nPASS\n"
	runs(t, 1, path, func(part, string) (string, error) { return output, nil })
	publish("| fuzz executions | 1,234,567 |\n| kills | 1,250 |\n")
}

func TestAPageWithoutAPlaceForTheTotalsIsLeftAlone(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(page, []byte("text\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := openLedger(filepath.Join(t.TempDir(), "soak.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.publish(page); err == nil {
		t.Fatal("no error")
	}
	if text, err := os.ReadFile(page); err != nil || string(text) != "text\n" {
		t.Fatalf("%q, %v", text, err)
	}
}

func TestARunThatSearchedNothingFails(t *testing.T) {
	err := rig(t, filepath.Join(t.TempDir(), "soak.json"), func(part, string) (string, error) {
		return "testing: warning: no tests to run\nPASS\n", nil
	}).run(t.Context(), time.Time{})
	if err == nil || !strings.Contains(err.Error(), "nothing") {
		t.Fatalf("a test that was renamed counts as a search: %v", err)
	}
}

func TestEveryFuzzTargetIsAPart(t *testing.T) {
	parts, err := partsOf(filepath.Join("..", ".."), "^fuzz ")
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) < 10 {
		t.Fatalf("only %d fuzz targets were found", len(parts))
	}
}
