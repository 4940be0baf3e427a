package main

import (
	"errors"
	"fmt"
	"go/build"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// pkg is a package of the module.
type pkg struct {
	*build.Package
	// path is its import path, and folder its folder in the repository: . or
	// ./tokensource.
	path, folder string
	sources      []*source
	mutants      []*mutant
}

// module is the module in a folder.
type module struct {
	root     string
	packages map[string]*pkg // by import path
}

var moduleLine = regexp.MustCompile(`(?m)^module\s+(\S+)`)

// loadModule reads the packages of the module in root. It does not run go list,
// which takes seconds on a busy machine.
func loadModule(root string) (*module, error) {
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		return nil, err
	}
	found := moduleLine.FindSubmatch(text)
	if found == nil {
		return nil, fmt.Errorf("%s has no module line", filepath.Join(root, "go.mod"))
	}
	m := &module{root: root, packages: make(map[string]*pkg)}
	return m, filepath.WalkDir(root, func(folder string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		within, err := filepath.Rel(root, folder)
		if err != nil {
			return err
		}
		if within != "." && foreign(folder) {
			return fs.SkipDir
		}
		files, err := build.ImportDir(folder, 0)
		if _, empty := errors.AsType[*build.NoGoError](err); empty {
			return nil
		}
		if err != nil {
			return err
		}
		p := &pkg{Package: files, path: path.Join(string(found[1]), filepath.ToSlash(within)), folder: "."}
		if within != "." {
			p.folder = "./" + filepath.ToSlash(within)
		}
		m.packages[p.path] = p
		return nil
	})
}

// foreign reports whether a folder is outside of ./...
func foreign(folder string) bool {
	name := filepath.Base(folder)
	if strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") || name == "testdata" || name == "node_modules" {
		return true
	}
	_, err := os.Stat(filepath.Join(folder, "go.mod"))
	return err == nil
}

// selected returns the packages that match the patterns, sorted by folder. Packages
// imported only by tests are left out.
func (m *module) selected(patterns []string) ([]*pkg, error) {
	helpers := m.testHelpers()
	selected := make(map[string]*pkg)
	for _, pattern := range patterns {
		known := false
		for _, p := range m.packages {
			if p.matches(pattern) && !helpers[p.path] {
				selected[p.folder], known = p, true
			}
		}
		if !known {
			return nil, fmt.Errorf("%s matches no package (packages imported only by tests are left out)", pattern)
		}
	}
	all := slices.Collect(maps.Values(selected))
	slices.SortFunc(all, func(a, b *pkg) int { return strings.Compare(a.folder, b.folder) })
	return all, nil
}

// matches reports whether a pattern such as ./oauth or ./... matches the package.
func (p *pkg) matches(pattern string) bool {
	folder := path.Clean(p.folder)
	above, tree := strings.CutSuffix(pattern, "/...")
	above = path.Clean(above)
	return folder == above || tree && (above == "." || strings.HasPrefix(folder, above+"/"))
}

// testHelpers returns the packages that are imported, but only by tests or by other
// test helpers.
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
			if helpers[p.path] {
				continue
			}
			for _, path := range p.Imports {
				changed = changed || helpers[path]
				delete(helpers, path)
			}
		}
	}
	// A package with external tests that nothing else imports is not a helper.
	for _, p := range m.packages {
		if slices.Contains(p.XTestImports, p.path) && !m.importedByOtherTests(p) {
			delete(helpers, p.path)
		}
	}
	return helpers
}

func (m *module) importedByOtherTests(p *pkg) bool {
	for _, other := range m.packages {
		if other != p && (slices.Contains(other.TestImports, p.path) || slices.Contains(other.XTestImports, p.path)) {
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
