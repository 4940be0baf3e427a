package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fixture is a module on disk that the tool examines.
type fixture struct {
	t    *testing.T
	root string
}

func newFixture(t *testing.T, files map[string]string) *fixture {
	t.Helper()
	f := &fixture{t: t, root: t.TempDir()}
	f.write("go.mod", "module example\n\ngo 1.26\n")
	for name, text := range files {
		f.write(name, text)
	}
	return f
}

func (f *fixture) write(name, text string) {
	f.t.Helper()
	path := filepath.Join(f.root, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		f.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

// mutate runs the tool with a short time limit. The limit does not depend on the
// machine's speed, because the tool compares each hang with a run without the mutant.
func (f *fixture) mutate(args ...string) (status int, out string) {
	f.t.Helper()
	var buffer bytes.Buffer
	status = run(context.Background(), append([]string{"-root", f.root, "-patience", "2s"}, args...), &buffer, &buffer)
	return status, buffer.String()
}

func contains(t *testing.T, text string, wanted ...string) {
	t.Helper()
	for _, want := range wanted {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in:\n%s", want, text)
		}
	}
}

func lacks(t *testing.T, text string, unwanted ...string) {
	t.Helper()
	for _, not := range unwanted {
		if strings.Contains(text, not) {
			t.Errorf("unexpected %q in:\n%s", not, text)
		}
	}
}
