package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// formatVersion must be changed when results of the previous version of this tool
// become invalid.
const formatVersion = "2"

// inputs returns a hash of everything in the repository that can change a result
// of the package: its own folder and the folders of all packages that it or its
// tests depend on.
func (m *module) inputs(p *pkg) (string, error) {
	seen, left := make(map[string]bool), slices.Concat([]string{p.path}, p.TestImports, p.XTestImports)
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
	// Tests in other folders also read files in the root, such as examples.
	for _, entry := range entries {
		if name := entry.Name(); entry.Type().IsRegular() && filepath.Ext(name) != ".go" && !m.ignored(filepath.Join(m.root, name)) {
			if err := hashFile(hash, m.root, filepath.Join(m.root, name)); err != nil {
				return "", err
			}
		}
	}
	for _, path := range slices.Sorted(maps.Keys(seen)) {
		if err := m.hashFolder(hash, m.packages[path], path == p.path); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// fingerprint returns a hash of the mutants. Results are stored by number, so they
// are valid only for the same list.
func (p *pkg) fingerprint() string {
	hash := sha256.New()
	for _, m := range p.mutants {
		fmt.Fprintln(hash, m.ID, m.File, m.start, m.end, m.effect, m.tagged != nil)
	}
	return hex.EncodeToString(hash.Sum(nil)[:8])
}

// hashFolder hashes the files in a package's folder and in subfolders that are not
// packages, such as testdata. Test files of dependencies don't matter.
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

// ignored reports whether a file or folder cannot affect tests: hidden files,
// documentation and build results.
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

// apart reports whether a folder is a package or module of its own.
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
