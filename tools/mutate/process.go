package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"
)

// testBinary is a compiled test binary with all mutants of one package.
type testBinary struct {
	path, folder string
	scratch      string // parent of each process's own temporary folder
	race         bool
}

// outcome is how a process ended.
type outcome struct {
	passed, timedOut bool
	// failed is the first test that failed, or the panic that ended the process.
	failed string
	output string
	// subtests are the names of all subtests that ran, if the run was verbose.
	subtests []string
	took     time.Duration
}

// memoryKiB limits the address space of a process, because a mutant may allocate
// memory in an endless loop.
const memoryKiB = 16 << 20

// run runs the tests that match a pattern. Each process gets its own temporary and
// configuration folders, so that what one mutant writes cannot affect another.
func (b *testBinary) run(ctx context.Context, pattern string, limit time.Duration, verbose bool, variables ...string) (outcome, error) {
	scratch, err := os.MkdirTemp(b.scratch, "run-")
	if err != nil {
		return outcome{}, err
	}
	defer func() { _ = os.RemoveAll(scratch) }()
	// The process exits by itself at its limit. Kill it if it does not.
	bounded, cancel := context.WithTimeout(ctx, limit+10*time.Second)
	defer cancel()
	script := fmt.Sprintf(`ulimit -v %d 2>/dev/null; exec "$@"`, memoryKiB)
	if b.race {
		script = `exec "$@"` // the race detector reserves terabytes
	}
	command := exec.CommandContext(bounded, "sh", "-c", script, "sh", b.path,
		"-test.run", pattern, "-test.failfast", "-test.count=1", "-test.timeout", limit.String(), fmt.Sprintf("-test.v=%t", verbose))
	command.Dir = b.folder
	command.Env = append(os.Environ(), variables...)
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME", "TMPDIR"} {
		folder := filepath.Join(scratch, strings.ToLower(name))
		if err := os.Mkdir(folder, 0o700); err != nil {
			return outcome{}, err
		}
		command.Env = append(command.Env, name+"="+folder)
	}
	// In a process group of its own, so that its child processes are killed too.
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	command.Cancel = func() error { return syscall.Kill(-command.Process.Pid, syscall.SIGKILL) }
	command.WaitDelay = 5 * time.Second
	output := new(tail)
	command.Stdout, command.Stderr = output, output
	began := time.Now()
	err = command.Run()
	took := time.Since(began)
	if ctx.Err() != nil {
		return outcome{}, ctx.Err()
	}
	if command.ProcessState == nil {
		return outcome{}, fmt.Errorf("starting the tests of %s: %w", b.folder, err)
	}
	_ = syscall.Kill(-command.Process.Pid, syscall.SIGKILL) // what the tests left behind
	text := string(output.text)
	return outcome{
		passed:   command.ProcessState.Success(),
		timedOut: errors.Is(bounded.Err(), context.DeadlineExceeded) || strings.Contains(text, "panic: test timed out after"),
		failed:   firstFailure(text), output: text, took: took,
		subtests: output.subtests,
	}, nil
}

var failure = regexp.MustCompile(`(?m)^\s*--- FAIL: (\S+)`)

func firstFailure(output string) string {
	if found := failure.FindStringSubmatch(output); found != nil {
		return found[1]
	}
	for _, word := range []string{"panic: ", "fatal error: "} {
		if _, after, found := strings.Cut(output, word); found {
			line, _, _ := strings.Cut(after, "\n")
			return word + line
		}
	}
	return "exit"
}

// tail keeps the end of the output, because a mutant may print in an endless loop,
// and collects the names of subtests.
type tail struct {
	text     []byte
	line     []byte
	subtests []string
}

const tailBytes = 64 << 10

func (t *tail) Write(text []byte) (int, error) {
	t.text = append(t.text, text...)
	if len(t.text) > 2*tailBytes {
		t.text = bytes.Clone(t.text[len(t.text)-tailBytes:])
	}
	for rest := text; ; {
		line, after, complete := bytes.Cut(rest, []byte("\n"))
		if len(t.line) < tailBytes {
			t.line = append(t.line, line...)
		}
		if !complete {
			return len(text), nil
		}
		if name, is := bytes.CutPrefix(t.line, []byte("=== RUN   ")); is && bytes.Contains(name, []byte("/")) {
			t.subtests = append(t.subtests, string(name))
		}
		t.line, rest = t.line[:0], after
	}
}

// pattern returns the -test.run pattern of some tests or subtests.
func pattern(tests []string) string {
	all := make([]string, 0, len(tests))
	for _, test := range tests {
		parts := strings.Split(test, "/")
		for i := range parts {
			parts[i] = "^" + regexp.QuoteMeta(parts[i]) + "$"
		}
		all = append(all, strings.Join(parts, "/"))
	}
	return strings.Join(all, "|")
}
