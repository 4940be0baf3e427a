package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// result is what the tests of one run of `go test` did.
type result struct {
	started, failed, passed map[string]bool
	built                   bool
	took                    time.Duration
	output                  string
}

// goTest runs the named tests of one package, with some files replaced by
// others.
func goTest(ctx context.Context, root, pkg, pattern string, overlay map[string]string, bound time.Duration) (result, error) {
	args := []string{"test", "-json", "-count=1", "-vet=off", "-timeout", bound.String(), "-run", pattern}
	if len(overlay) > 0 {
		folder, err := os.MkdirTemp("", "mutate-*")
		if err != nil {
			return result{}, err
		}
		defer func() { _ = os.RemoveAll(folder) }()
		text, err := json.Marshal(map[string]any{"Replace": overlay})
		if err != nil {
			return result{}, err
		}
		file := filepath.Join(folder, "overlay.json")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			return result{}, err
		}
		args = append(args, "-overlay", file)
	}
	command := exec.CommandContext(ctx, "go", append(args, ".")...) //nolint:gosec // what is run stands in the repository's own list
	command.Dir = filepath.Join(root, filepath.FromSlash(pkg))      // a package may be in a module of its own
	began := time.Now()
	output, err := command.CombinedOutput()
	if ctx.Err() != nil {
		return result{}, ctx.Err()
	}
	if _, red := errors.AsType[*exec.ExitError](err); err != nil && !red {
		return result{}, fmt.Errorf("running go test: %w", err)
	}
	r := readEvents(output)
	r.took = time.Since(began)
	return r, nil
}

// readEvents reads what `go test -json` writes.
func readEvents(text []byte) result {
	r := result{started: make(map[string]bool), failed: make(map[string]bool), passed: make(map[string]bool), built: true}
	var output strings.Builder
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e struct{ Action, Test, Output string }
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			output.WriteString(lines.Text() + "\n")
			continue
		}
		output.WriteString(e.Output)
		switch {
		case e.Action == "build-fail":
			r.built = false
		case e.Test != "" && e.Action == "run":
			r.started[e.Test] = true
		case e.Test != "" && e.Action == "fail":
			r.failed[e.Test] = true
		case e.Test != "" && e.Action == "pass":
			r.passed[e.Test] = true
		}
	}
	r.output = output.String()
	return r
}

// pattern is the -run pattern of some tests.
func pattern(tests ...string) string {
	if len(tests) == 1 {
		var parts []string
		for part := range strings.SplitSeq(tests[0], "/") {
			parts = append(parts, "^"+regexp.QuoteMeta(strings.ReplaceAll(part, " ", "_"))+"$")
		}
		return strings.Join(parts, "/")
	}
	var functions []string
	for _, test := range tests {
		function, _, _ := strings.Cut(test, "/")
		functions = append(functions, function)
	}
	slices.Sort(functions)
	return "^(" + strings.Join(slices.Compact(functions), "|") + ")$"
}

// events is the name of a test as `go test -json` has it.
func (m *mutation) event() string { return strings.ReplaceAll(m.test, " ", "_") }

// try takes the guard away and runs the test. It returns an error where the test
// stays green, and where it cannot be told.
func (m *mutation) try(ctx context.Context, root string, bound time.Duration) (result, error) {
	changed, err := m.mutate(root)
	if err != nil {
		return result{}, err
	}
	folder, err := os.MkdirTemp("", "mutant-*")
	if err != nil {
		return result{}, err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	overlay := make(map[string]string)
	for path, content := range changed {
		file := filepath.Join(folder, fmt.Sprintf("%d.go", len(overlay)))
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return result{}, err
		}
		overlay[path] = file
	}
	r, err := goTest(ctx, root, m.pkg, pattern(m.test), overlay, bound)
	switch {
	case err != nil:
		return r, err
	case !r.built:
		return r, errors.New("DOES NOT COMPILE")
	case strings.Contains(r.output, "panic: test timed out after"):
		return r, errors.New("HANGS: name a test that fails")
	case r.failed[m.event()]:
		return r, nil
	case r.passed[m.event()]:
		return r, errors.New("SURVIVED")
	case r.started[m.event()] && strings.Contains(r.output, "\npanic: "):
		return r, nil // it ended with the process
	default:
		return r, errors.New("THE TEST DID NOT RUN")
	}
}
