package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path"
	"regexp"
	"strconv"
	"strings"
)

// changes are the changed lines by file, relative to the module. A file without any
// is untracked, and all its lines count as changed.
type changes map[string][]lines

type lines struct{ first, last int }

// changedSince returns what changed since a revision, including uncommitted changes
// and untracked files.
func changedSince(ctx context.Context, root, revision string) (changes, error) {
	diff, err := git(ctx, root, "diff", "--unified=0", "--no-color", "--no-ext-diff", "--find-renames", "--relative",
		"--src-prefix=a/", "--dst-prefix=b/", revision, "--", ".")
	if err != nil {
		return nil, err
	}
	untracked, err := git(ctx, root, "ls-files", "--others", "--exclude-standard")
	if err != nil {
		return nil, err
	}
	c := parseDiff(diff)
	for name := range strings.Lines(untracked) {
		c[strings.TrimSpace(name)] = nil
	}
	return c, nil
}

var hunkHeader = regexp.MustCompile(`^@@ -\S+ \+(\d+)(?:,(\d+))? @@`)

func parseDiff(diff string) changes {
	c, file := make(changes), ""
	for line := range strings.Lines(diff) {
		line = strings.TrimRight(line, "\n")
		if name, is := strings.CutPrefix(line, "+++ "); is {
			file = strings.TrimPrefix(name, "b/")
			continue
		}
		found := hunkHeader.FindStringSubmatch(line)
		if found == nil {
			continue
		}
		first, _ := strconv.Atoi(found[1])
		count := 1
		if found[2] != "" {
			count, _ = strconv.Atoi(found[2])
		}
		// If lines were only deleted, the lines before and after count as changed.
		last := first + count - 1
		if count == 0 {
			last = first + 1
		}
		c[file] = append(c[file], lines{first, last})
	}
	return c
}

// concern reports whether a line of a mutant changed.
func (c changes) concern(folder string, m *mutant) bool {
	changed, is := c[path.Join(folder, m.File)]
	if !is {
		return false
	}
	for _, l := range changed {
		if l.first <= m.last && m.first <= l.last {
			return true
		}
	}
	return len(changed) == 0
}

// lastChange returns the revision before the latest change: HEAD if there are
// uncommitted changes, otherwise HEAD~1.
func lastChange(ctx context.Context, root string) (string, error) {
	status, err := git(ctx, root, "status", "--porcelain", "--", "*.go")
	if err != nil {
		return "", err
	}
	if status != "" {
		return "HEAD", nil
	}
	return "HEAD~1", nil
}

func git(ctx context.Context, root string, args ...string) (string, error) {
	command := exec.CommandContext(ctx, "git", append([]string{"-c", "core.quotePath=false"}, args...)...) //nolint:gosec // git
	command.Dir = root
	var output, faults bytes.Buffer
	command.Stdout, command.Stderr = &output, &faults
	if err := command.Run(); err != nil {
		return "", fmt.Errorf("git %s: %w\n%s", args[0], err, faults.String())
	}
	return output.String(), nil
}
