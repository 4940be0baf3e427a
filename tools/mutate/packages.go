package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// pkg is a package of the module, as go list describes it.
type pkg struct {
	Dir, ImportPath, Name     string
	GoFiles, Imports          []string
	TestGoFiles, XTestGoFiles []string
	TestImports, XTestImports []string
	Module                    *struct{ Path, Dir string }

	// folder is its folder in the repository: . or ./tokensource.
	folder  string
	sources []*source
	mutants []*mutant
}

// module is all that is known of the module at a folder.
type module struct {
	root     string
	packages map[string]*pkg // by import path
}

// loadModule lists the packages of the module at root.
func loadModule(ctx context.Context, root string) (*module, error) {
	list, err := goList(ctx, root, "./...")
	if err != nil {
		return nil, err
	}
	m := &module{root: root, packages: make(map[string]*pkg)}
	for _, p := range list {
		within, err := filepath.Rel(root, p.Dir)
		if err != nil {
			return nil, err
		}
		if p.folder = filepath.ToSlash(within); within != "." {
			p.folder = "./" + p.folder
		}
		m.packages[p.ImportPath] = p
	}
	return m, nil
}

func goList(ctx context.Context, root string, patterns ...string) ([]*pkg, error) {
	command := exec.CommandContext(ctx, "go", append([]string{"list", "-json"}, patterns...)...) //nolint:gosec // the go command
	command.Dir = root
	var output, faults bytes.Buffer
	command.Stdout, command.Stderr = &output, &faults
	if err := command.Run(); err != nil {
		return nil, fmt.Errorf("go list %s: %w\n%s", strings.Join(patterns, " "), err, faults.String())
	}
	var list []*pkg
	for decoder := json.NewDecoder(&output); ; {
		p := new(pkg)
		if err := decoder.Decode(p); errors.Is(err, io.EOF) {
			return list, nil
		} else if err != nil {
			return nil, fmt.Errorf("go list: %w", err)
		}
		list = append(list, p)
	}
}

// selected returns the packages that match the patterns, in order, without those
// that only tests import.
func (m *module) selected(ctx context.Context, patterns []string) ([]*pkg, error) {
	list, err := goList(ctx, m.root, patterns...)
	if err != nil {
		return nil, err
	}
	helpers := m.testHelpers()
	var all []*pkg
	for _, p := range list {
		if known := m.packages[p.ImportPath]; known != nil && !helpers[p.ImportPath] {
			all = append(all, known)
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no packages match %s (packages imported only by tests are left out)", strings.Join(patterns, " "))
	}
	return all, nil
}

// testHelpers returns the packages that are imported by tests or by other such
// packages only.
func (m *module) testHelpers() map[string]bool {
	helpers := make(map[string]bool)
	for _, p := range m.packages {
		for _, path := range slices.Concat(p.TestImports, p.XTestImports) {
			helpers[path] = true
		}
	}
	for changed := true; changed; {
		changed = false
		for _, p := range m.packages {
			if helpers[p.ImportPath] {
				continue
			}
			for _, path := range p.Imports {
				changed = changed || helpers[path]
				delete(helpers, path)
			}
		}
	}
	// A package that tests itself from outside, and that nothing else imports.
	for _, p := range m.packages {
		if slices.Contains(p.XTestImports, p.ImportPath) && !m.importedByOtherTests(p) {
			delete(helpers, p.ImportPath)
		}
	}
	return helpers
}

func (m *module) importedByOtherTests(p *pkg) bool {
	for _, other := range m.packages {
		if other != p && (slices.Contains(other.TestImports, p.ImportPath) || slices.Contains(other.XTestImports, p.ImportPath)) {
			return true
		}
	}
	return false
}

// load finds the package's mutants.
func (p *pkg) load() error {
	sources, err := findMutants(p.Dir, p.GoFiles)
	if err != nil {
		return err
	}
	p.sources, p.mutants = sources, nil
	for _, s := range sources {
		p.mutants = append(p.mutants, s.mutants...)
	}
	return nil
}

// formatVersion changes whenever results of older versions of this tool do not
// hold any longer.
const formatVersion = "1"

// inputs returns a hash of everything in the repository that can change a result
// of the package: its folder, and those of all packages that it or its tests
// depend on.
func (m *module) inputs(p *pkg) (string, error) {
	seen, left := make(map[string]bool), slices.Concat([]string{p.ImportPath}, p.TestImports, p.XTestImports)
	for len(left) > 0 {
		path := left[0]
		left = left[1:]
		if other := m.packages[path]; other != nil && !seen[path] {
			seen[path] = true
			left = append(left, other.Imports...)
		}
	}
	hash := sha256.New()
	fmt.Fprintln(hash, formatVersion, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	entries, err := os.ReadDir(m.root)
	if err != nil {
		return "", err
	}
	// Tests of other folders read files of the root, such as examples.
	for _, entry := range entries {
		if name := entry.Name(); entry.Type().IsRegular() && filepath.Ext(name) != ".go" && !m.ignored(filepath.Join(m.root, name)) {
			if err := hashFile(hash, m.root, filepath.Join(m.root, name)); err != nil {
				return "", err
			}
		}
	}
	for _, path := range slices.Sorted(maps.Keys(seen)) {
		if err := m.hashFolder(hash, m.packages[path], path == p.ImportPath); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// hashFolder hashes the files of a package's folder and of folders below it which
// are no packages, such as testdata. Test files count for the package itself only.
func (m *module) hashFolder(hash io.Writer, p *pkg, tests bool) error {
	return filepath.WalkDir(p.Dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case path == p.Dir:
			return nil
		case entry.IsDir() && (m.ignored(path) || m.apart(path)):
			return fs.SkipDir
		case !entry.Type().IsRegular(), m.ignored(path), !tests && strings.HasSuffix(path, "_test.go"):
			return nil
		}
		return hashFile(hash, m.root, path)
	})
}

// ignored reports whether a file or folder has nothing to do with tests: hidden
// ones, documents and build results.
func (m *module) ignored(path string) bool {
	name := filepath.Base(path)
	switch {
	case strings.HasPrefix(name, "."), name == "node_modules", filepath.Ext(name) == ".test":
		return true
	case filepath.Dir(path) == m.root:
		return slices.Contains([]string{"artifacts", "caddy", "docs", "Makefile"}, name) || filepath.Ext(name) == ".md"
	}
	return false
}

// apart reports whether a folder is a package or a module of its own.
func (m *module) apart(folder string) bool {
	if filepath.Base(folder) == "testdata" {
		return false
	}
	for _, pattern := range []string{"*.go", "go.mod"} {
		if found, _ := filepath.Glob(filepath.Join(folder, pattern)); len(found) > 0 {
			return true
		}
	}
	return false
}

func hashFile(hash io.Writer, root, path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	name, err := filepath.Rel(root, path)
	if err != nil {
		return err
	}
	fmt.Fprintf(hash, "%s %d\n", filepath.ToSlash(name), len(text))
	_, err = hash.Write(text)
	return err
}
