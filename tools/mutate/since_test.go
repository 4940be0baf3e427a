package main

import (
	"os/exec"
	"testing"
)

const twoGuards = `package example

func first(n int) int {
	if n < 0 {
		return 0
	}
	return n
}

func second(n int) int {
	if n < 0 {
		return 0
	}
	return n
}
`

const twoGuardsTest = `package example

import "testing"

func TestBoth(t *testing.T) { first(-1); second(-1) }
`

func (f *fixture) git(args ...string) {
	f.t.Helper()
	command := exec.Command("git", append([]string{
		"-c", "user.name=test", "-c", "user.email=test@example.com", "-c", "commit.gpgSign=false", "-c", "core.hooksPath=",
	}, args...)...)
	command.Dir = f.root
	if output, err := command.CombinedOutput(); err != nil {
		f.t.Fatalf("git %v: %v\n%s", args, err, output)
	}
}

func TestSinceSelectsChangedLines(t *testing.T) {
	f := newFixture(t, map[string]string{
		"code.go": twoGuards, "code_test.go": twoGuardsTest,
		"other/code.go": "package other\n\nfunc None(a bool) {\n\tif a {\n\t\tpanic(1)\n\t}\n}\n",
		".gitignore":    "artifacts\n",
	})
	f.git("init", "-q")
	f.git("add", ".")
	f.git("commit", "-q", "-m", "first")
	status, out := f.mutate("-since", "HEAD")
	if status != 0 {
		t.Errorf("exit status %d, not 0:\n%s", status, out)
	}
	lacks(t, out, "mutants")

	f.write("code.go", twoGuards[:len(twoGuards)-len("\t\treturn 0\n\t}\n\treturn n\n}\n")]+"\t\treturn 1\n\t}\n\treturn n\n}\n")
	f.write("new/code.go", "package other\n\nfunc New(a bool) {\n\tif a {\n\t\tpanic(1)\n\t}\n}\n")
	_, out = f.mutate() // uncommitted changes
	contains(
		t, out,
		"changed since HEAD\n", "SURVIVED: ./code.go:11 second", "NOT COVERED: ./new/code.go:4 New", "no test evaluates it",
		".: 1 guards, 1 mutants",
	)
	lacks(t, out, "first", "other")

	f.git("add", ".")
	f.git("commit", "-q", "-m", "second")
	_, out = f.mutate() // the last commit
	contains(t, out, "changed since HEAD~1\n", "SURVIVED: ./code.go:11 second")
	lacks(t, out, "measuring", "trying")

	_, out = f.mutate("-package", ".") // the rest
	contains(t, out, "trying 1 mutants", "SURVIVED: ./code.go:4 first", "2 survived")
}

func TestARunThatIsStoppedSaysWhatIsLeft(t *testing.T) {
	f := newFixture(t, map[string]string{"code.go": twoGuards, "code_test.go": twoGuardsTest})
	status, out := f.mutate("-package", ".", "-for", "1ns")
	if status != 0 {
		t.Errorf("exit status %d, not 0", status)
	}
	contains(t, out, ".: 2 guards, 2 mutants, 0 found, 0 survived, 0 not covered, 0 excused, ", ", 2 left\n", "stopped after 1ns")
}

func TestAPackageThatCannotBeExaminedIsRefused(t *testing.T) {
	f := newFixture(t, map[string]string{
		"red/code.go": twoGuards, "red/code_test.go": twoGuardsTest + "\nfunc TestRed(t *testing.T) { t.Error(\"always\") }\n",
		"broken/code.go": twoGuards + "\nvar broken int = \"\"\n", "broken/code_test.go": twoGuardsTest,
	})
	status, out := f.mutate("-package", "./...")
	if status != 2 {
		t.Errorf("exit status %d, not 2", status)
	}
	contains(t, out, "./red: TestRed fails without any mutant", "./broken: does not compile", "2 of 2 packages could not be examined")
	status, out = f.mutate("-package", "./red", "-skip", "^TestRed$")
	if status != 1 {
		t.Errorf("exit status %d, not 1", status)
	}
	contains(t, out, "2 survived")
}
