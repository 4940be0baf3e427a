package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const root = "../.."

// A guard that moved or changed its wording is no longer shown to be needed.
func TestEveryGuardOfTheListIsStillInItsPlace(t *testing.T) {
	mutations, err := readList(filepath.Join(root, "tools", "mutate", "guards"))
	if err != nil {
		t.Fatal(err)
	}
	for _, fault := range check(root, mutations) {
		t.Error(fault)
	}
}

func TestAListThatIsWrongIsRefused(t *testing.T) {
	const whole = "= a.b\nA guard.\n! ./pkg TestX\n@@ pkg/file.go\n-\told\n+\tnew\n"
	if _, err := parseList("x.txt", "a comment\n\n"+whole); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"no sentence":    "= a.b\n! ./pkg TestX\n@@ pkg/file.go\n-old\n",
		"no test":        "= a.b\nA guard.\n@@ pkg/file.go\n-old\n",
		"no change":      "= a.b\nA guard.\n! ./pkg TestX\n",
		"nothing old":    "= a.b\nA guard.\n! ./pkg TestX\n@@ pkg/file.go\n+new\n",
		"the same again": "= a.b\nA guard.\n! ./pkg TestX\n@@ pkg/file.go\n same\n",
		"an odd line":    "= a.b\nA guard.\n! ./pkg TestX\n@@ pkg/file.go\nold\n",
	} {
		if _, err := parseList("x.txt", text); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestAChangeIsOfWholeLinesThatAreThereOnce(t *testing.T) {
	h := hunk{file: "f", old: []string{"b"}, new: []string{"x", "y"}}
	got, err := h.apply([]byte("a\nb\nbb\n"))
	if err != nil || string(got) != "a\nx\ny\nbb\n" {
		t.Fatalf("%q, %v", got, err)
	}
	for _, text := range []string{"a\nbb\n", "b\na\nb\n", strings.Repeat("b\n", 2)} {
		if _, err := h.apply([]byte(text)); err == nil {
			t.Errorf("%q: taken", text)
		}
	}
	h = hunk{file: "f", old: []string{"a"}}
	if got, err = h.apply([]byte("a\nb\n")); err != nil || string(got) != "b\n" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestWhatTheToolSaysOfATest(t *testing.T) {
	folder := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("go.mod", "module example\n\ngo 1.26\n")
	write("f.go", "package example\n\nfunc f() int {\n\tn := 1\n\treturn n\n}\n")
	write("f_test.go", "package example\n\nimport \"testing\"\n\nfunc TestOne(t *testing.T) {\n\tif f() != 1 {\n\t\tt.Fatal()\n\t}\n}\n\n"+
		"func TestTwo(*testing.T) {}\n")
	for name, test := range map[string]struct{ test, line, want string }{
		"red":              {"TestOne", "\treturn 2 * n", ""},
		"green":            {"TestTwo", "\treturn 2 * n", "SURVIVED"},
		"does not compile": {"TestOne", "\treturn \"\" + n", "DOES NOT COMPILE"},
		"hangs":            {"TestOne", "\tfor n > 0 {\n\t}\n\treturn n", "HANGS: name a test that fails"},
		"is not there":     {"TestThree", "\treturn 2 * n", "THE TEST DID NOT RUN"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mutation{pkg: ".", test: test.test, hunks: []hunk{{file: "f.go", old: []string{"\treturn n"}, new: []string{test.line}}}}
			_, err := m.try(t.Context(), folder, 5*time.Second)
			if got := message(err); got != test.want {
				t.Fatalf("%q, not %q", got, test.want)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
