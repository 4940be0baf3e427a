package main

import (
	"bytes"
	"fmt"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mutation takes one guard away.
type mutation struct {
	id string
	// guard is the sentence that says what is taken away.
	guard string
	// pkg is the package, relative to the repository, and test the test in it
	// that must turn red, with a slash before a subtest.
	pkg, test string
	hunks     []hunk
	// place is where it stands, for errors.
	place string
}

// hunk is a change of some whole lines of one file.
type hunk struct {
	file     string
	old, new []string
}

// readList reads the mutations of all files of a folder.
func readList(folder string) ([]mutation, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.txt"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("there are no mutations in %s", folder)
	}
	var all []mutation
	places := make(map[string]string)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		mutations, err := parseList(filepath.Base(file), string(text))
		if err != nil {
			return nil, err
		}
		for _, m := range mutations {
			if place, taken := places[m.id]; taken {
				return nil, fmt.Errorf("%s: %s has the id %s too", m.place, place, m.id)
			}
			places[m.id] = m.place
		}
		all = append(all, mutations...)
	}
	return all, nil
}

// parseList reads the mutations of one file; the package's comment says how they
// are written.
func parseList(name, text string) ([]mutation, error) {
	var all []mutation
	for number, line := range strings.Split(text, "\n") {
		place := fmt.Sprintf("%s:%d", name, number+1)
		if id, begins := strings.CutPrefix(line, "= "); begins {
			all = append(all, mutation{id: strings.TrimSpace(id), place: place})
			continue
		}
		if len(all) == 0 {
			continue // what stands in front is a comment
		}
		if err := all[len(all)-1].take(line); err != nil {
			return nil, fmt.Errorf("%s: %w", place, err)
		}
	}
	for _, m := range all {
		if err := m.complete(); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", m.place, m.id, err)
		}
	}
	return all, nil
}

// take takes one more line.
func (m *mutation) take(line string) error {
	if file, begins := strings.CutPrefix(line, "@@ "); begins {
		m.hunks = append(m.hunks, hunk{file: strings.TrimSpace(file)})
		return nil
	}
	if line == "" {
		return nil
	}
	if len(m.hunks) > 0 {
		h := &m.hunks[len(m.hunks)-1]
		switch line[0] {
		case '-':
			h.old = append(h.old, line[1:])
		case '+':
			h.new = append(h.new, line[1:])
		case ' ':
			h.old, h.new = append(h.old, line[1:]), append(h.new, line[1:])
		default:
			return fmt.Errorf("a line of a change begins with -, + or a space, not as in %q", line)
		}
		return nil
	}
	if words, is := strings.CutPrefix(line, "! "); is {
		m.pkg, m.test, _ = strings.Cut(strings.TrimSpace(words), " ")
		return nil
	}
	m.guard = strings.TrimSpace(m.guard + " " + strings.TrimSpace(line))
	return nil
}

func (m *mutation) complete() error {
	switch {
	case m.guard == "":
		return fmt.Errorf("it does not say what is taken away")
	case m.test == "":
		return fmt.Errorf("it names no test: write ! and the package and the test")
	case len(m.hunks) == 0:
		return fmt.Errorf("it changes nothing: write @@ and the file, and then the change")
	}
	for _, h := range m.hunks {
		if len(h.old) == 0 || slices.Equal(h.old, h.new) {
			return fmt.Errorf("the change of %s changes nothing", h.file)
		}
	}
	return nil
}

// mutate returns the files that the mutation changes, by their path in root, as
// they are with it.
func (m *mutation) mutate(root string) (map[string][]byte, error) {
	changed := make(map[string][]byte)
	for _, h := range m.hunks {
		path := filepath.Join(root, filepath.FromSlash(h.file))
		content, there := changed[path]
		if !there {
			var err error
			if content, err = os.ReadFile(path); err != nil {
				return nil, fmt.Errorf("%s: %s: %w", m.place, m.id, err)
			}
		}
		content, err := h.apply(content)
		if err != nil {
			return nil, fmt.Errorf("%s: %s: %w", m.place, m.id, err)
		}
		changed[path] = content
	}
	for path, content := range changed {
		if _, err := parser.ParseFile(token.NewFileSet(), path, content, parser.SkipObjectResolution); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", m.place, m.id, err)
		}
	}
	return changed, nil
}

// apply replaces the old lines, which must be there exactly once.
func (h *hunk) apply(content []byte) ([]byte, error) {
	lines := strings.Split(string(content), "\n")
	at, times := 0, 0
	for i := range len(lines) - len(h.old) + 1 {
		if slices.Equal(lines[i:i+len(h.old)], h.old) {
			at = i
			times++
		}
	}
	if times != 1 {
		return nil, fmt.Errorf("its old lines are %d times in %s, not once", times, h.file)
	}
	lines = slices.Replace(lines, at, at+len(h.old), h.new...)
	return []byte(strings.Join(lines, "\n")), nil
}

// function is the name of the test's function.
func (m *mutation) function() string {
	name, _, _ := strings.Cut(m.test, "/")
	return name
}

// missing says so where the test's package does not have it.
func (m *mutation) missing(root string) error {
	files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(m.pkg), "*_test.go"))
	if err != nil {
		return err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		if bytes.Contains(content, []byte("\nfunc "+m.function()+"(")) {
			return nil
		}
	}
	return fmt.Errorf("%s: %s: there is no %s in %s", m.place, m.id, m.function(), m.pkg)
}

// check returns all that is wrong with a list, as far as it can be known without
// compiling anything.
func check(root string, mutations []mutation) []error {
	var faults []error
	for i := range mutations {
		if _, err := mutations[i].mutate(root); err != nil {
			faults = append(faults, err)
		}
		if err := mutations[i].missing(root); err != nil {
			faults = append(faults, err)
		}
	}
	return faults
}
