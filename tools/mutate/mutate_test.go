package main

import (
	"strings"
	"testing"
)

// code has two functions for each kind of mutant. Tests find the mutants of the one
// whose name ends in Found, and none of the other.
const code = `package example

type flag bool

func returnFound(n int) int {
	if n < 0 {
		return 0
	}
	return n
}

func returnLost(n int) int {
	if n < 0 {
		return 0
	}
	return n
}

func elseFound(n int) string {
	text := ""
	if n > 1 {
		text = "many"
	} else {
		text = "one"
	}
	return text
}

func elseLost(n int) string {
	text := ""
	if n > 1 {
		text = "many"
	} else {
		text = "one"
	}
	return text
}

func andFound(a, b bool) bool { return a && b }

func andLost(a, b bool) bool { return a && b }

func orFound(a, b bool) flag { return flag(a || b) }

func orLost(a, b flag) flag { return a ||
	b }

func caseFound(n int) string {
	switch {
	case n > 1:
		return "many"
	default:
		return "one"
	}
}

func caseLost(n int) string {
	switch {
	case n > 1:
		return "many"
	default:
		return "one"
	}
}

func tagFound(n int) string {
	switch n := n + 1; n {
	case 1, 2:
		return "few"
	}
	return "many"
}

func tagLost[T comparable](n, one T) string {
	switch n {
	case one:
		return "one"
	}
	return "many"
}

func uncovered(err error) error {
	if err != nil {
		return err
	}
	return nil
}

func hangFound(n int) int {
	for i := 0; ; i++ {
		if i >= n {
			break
		}
	}
	return n
}

func named(a, b int) flag {
	var f flag = a == 1 && b == 1
	return f
}
`

const codeTest = `package example

import "testing"

func check[T comparable](t *testing.T, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%v, not %v", got, want)
	}
}

func TestFound(t *testing.T) {
	check(t, returnFound(-1), 0)
	check(t, elseFound(1), "one")
	for _, a := range []bool{true, false} {
		for _, b := range []bool{true, false} {
			want := false
			if a {
				want = b
			}
			check(t, andFound(a, b), want)
			want = b
			if a {
				want = true
			}
			check(t, orFound(a, b), flag(want))
		}
	}
	check(t, caseFound(2), "many")
	check(t, tagFound(0), "few")
	check(t, tagFound(1), "few")
	check(t, uncovered(nil), nil)
}

func TestHang(t *testing.T) { hangFound(1) }

func TestLost(t *testing.T) {
	returnLost(-1)
	elseLost(1)
	tagLost(1, 1)
	caseLost(2)
	for _, a := range []bool{true, false} {
		for _, b := range []bool{true, false} {
			andLost(a, b)
			orLost(flag(a), flag(b))
		}
	}
}
`

func TestSurvivorsAreTheConditionsThatNoTestChecks(t *testing.T) {
	f := newFixture(t, map[string]string{"code.go": code, "code_test.go": codeTest})
	status, out := f.mutate("-package", ".")
	if status != 1 {
		t.Errorf("exit status %d, not 1", status)
	}
	lacks(t, out, "Found\n  removed", "Found\n  dropped", "Found\n  inverted")
	contains(
		t, out,
		"SURVIVED: ./code.go:13 returnLost\n  removed: if n < 0 { return … }\n  if n < 0 {\n  still passing: TestLost\n",
		"SURVIVED: ./code.go:31 elseLost\n  inverted: if n > 1 { … } else { … }\n",
		"SURVIVED: ./code.go:41 andLost\n  dropped: a of a && b\n",
		"SURVIVED: ./code.go:41 andLost\n  dropped: b of a && b\n",
		"SURVIVED: ./code.go:45 orLost\n  dropped: a of a || b\n",
		"SURVIVED: ./code.go:46 orLost\n  dropped: b of a || b\n",
		"SURVIVED: ./code.go:59 caseLost\n  removed: case n > 1\n",
		"SURVIVED: ./code.go:76 tagLost\n  removed: case one\n",
		"NOT COVERED: ./code.go:83 uncovered\n  removed: if err != nil { return … }\n  if err != nil {\n  evaluated, but never true, in TestFound\n",
		"./code.go:99 named\n  skipped, does not compile: ",
		".: 16 guards, 21 mutants, 10 found, 8 survived, 1 not covered, 0 excused, ",
		", 2 skipped\n",
	)

	t.Run("known results are not tried again", func(t *testing.T) {
		status, again := f.mutate("-package", "./...")
		if status != 1 {
			t.Errorf("exit status %d, not 1", status)
		}
		lacks(t, again, "measuring", "trying")
		contains(t, again, "10 found, 8 survived, 1 not covered")
		_, again = f.mutate("-package", ".", "-again")
		contains(t, again, "trying 18 mutants", "10 found, 8 survived, 1 not covered")
	})

	t.Run("exceptions excuse survivors", f.exceptions)
}

func (f *fixture) exceptions(t *testing.T) {
	const most = ". elseLost 1 a reason\n. andLost 2 a reason\n. orLost 2 a reason\n" +
		"# a comment\n\n. caseLost 1 a reason\n. tagLost 1 a reason\n. uncovered 1 a reason\n"
	for name, run := range map[string]struct {
		list   string
		status int
		want   string
	}{
		"all":              {most + ". returnLost 1 a reason\n", 0, "9 excused"},
		"too few":          {strings.Replace(most, "andLost 2", "andLost 1", 1), 1, "exceptions.txt:2 excuses 1 survivors of this function"},
		"none":             {most, 1, "SURVIVED: ./code.go:13 returnLost"},
		"too many":         {most + ". returnLost 2 a reason\n", 1, "exceptions.txt:9: stale: . returnLost has 1 survivors, not 2\n"},
		"unknown function": {most + ". gone 1 a reason\n", 1, "exceptions.txt:9: stale: . gone has 0 survivors, not 1\n"},
	} {
		f.write("tools/mutate/exceptions.txt", run.list)
		status, out := f.mutate("-package", ".")
		if status != run.status {
			t.Errorf("%s: exit status %d, not %d", name, status, run.status)
		}
		contains(t, out, run.want)
	}
}
