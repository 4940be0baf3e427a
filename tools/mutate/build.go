package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// errCompile is returned when a package does not compile, with or without mutants.
var errCompile = errors.New("does not compile")

// build compiles the tests of a package with all its mutants into one binary.
// Mutants that do not compile are skipped; skipped holds the compiler's messages.
func (p *pkg) build(ctx context.Context, binary string, race bool) (skipped map[int]string, err error) {
	skipped = make(map[int]string)
	// Each round skips at least one mutant.
	for {
		output, err := p.compile(ctx, binary, race, skipped)
		if err == nil || ctx.Err() != nil {
			return skipped, ctx.Err()
		}
		if !p.skip(skipped, output) {
			return nil, fmt.Errorf("%w:\n%s", errCompile, output)
		}
	}
}

// compile runs `go test -c` once. The rewritten files replace the real ones through
// an overlay, so no file in the repository changes.
func (p *pkg) compile(ctx context.Context, binary string, race bool, skipped map[int]string) (output string, err error) {
	folder, err := os.MkdirTemp(filepath.Dir(binary), "overlay-")
	if err != nil {
		return "", err
	}
	replace := make(map[string]string)
	write := func(name string, text []byte) error {
		file := filepath.Join(folder, name)
		replace[filepath.Join(p.Dir, name)] = file
		return os.WriteFile(file, text, 0o600)
	}
	for _, s := range p.sources {
		if len(s.mutants) > 0 {
			err = errors.Join(err, write(s.name, s.rewrite(skipped)))
		}
	}
	err = errors.Join(err, write(helperFile, helpers(p.Name, len(p.mutants))))
	overlay, failed := json.Marshal(map[string]any{"Replace": replace})
	file := filepath.Join(folder, "overlay.json")
	if err := errors.Join(err, failed, os.WriteFile(file, overlay, 0o600)); err != nil {
		return "", err
	}
	// -s -w: without symbols and debug information, linking takes half the time.
	// -e: the compiler must report all errors, not just the first ten.
	args := []string{"test", "-c", "-vet=off", "-ldflags=-s -w", "-gcflags", p.path + "=-e", "-overlay", file, "-o", binary}
	if race {
		args = append(args, "-race")
	}
	command := exec.CommandContext(ctx, "go", append(args, ".")...) //nolint:gosec // the go command
	command.Dir = p.Dir
	out, err := command.CombinedOutput()
	return string(out), err
}

var position = regexp.MustCompile(`(?m)^(\S+\.go):(\d+):(?:\d+:)? (.*)$`)

// skip adds the mutants on lines with compile errors. It returns false if there are
// none that were not skipped before.
func (p *pkg) skip(skipped map[int]string, output string) (more bool) {
	for _, found := range position.FindAllStringSubmatch(output, -1) {
		line, _ := strconv.Atoi(found[2])
		for _, s := range p.sources {
			if s.name != filepath.Base(found[1]) {
				continue
			}
			for _, t := range s.tagged {
				if t.line == line && !t.skipped {
					t.skipped, more = true, true
				}
			}
			for _, m := range s.mutants {
				if m.Line <= line && line <= m.endLine {
					if m.tagged != nil {
						m.tagged.skipped = true
					}
					more = skipOne(skipped, m, found[3]) || more
				}
			}
		}
	}
	for _, s := range p.sources {
		for _, m := range s.mutants {
			if m.tagged != nil && m.tagged.skipped {
				more = skipOne(skipped, m, "another case of this switch does not compile") || more
			}
		}
	}
	return more
}

func skipOne(skipped map[int]string, m *mutant, message string) bool {
	if _, known := skipped[m.ID]; known {
		return false
	}
	skipped[m.ID] = strings.TrimSpace(message)
	return true
}
