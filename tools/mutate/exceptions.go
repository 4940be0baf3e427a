package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// exception excuses some survivors of one function.
type exception struct {
	folder, function string
	survivors        int
	reason           string
	line             int
}

// readExceptions reads a list of exceptions. Empty lines and lines that begin with
// # are ignored. A missing file means no exceptions.
func readExceptions(file string) ([]exception, error) {
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []exception
	seen := make(map[string]int)
	number := 0
	for line := range strings.Lines(string(text)) {
		number++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		e, err := parseException(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", filepath.Base(file), number, err)
		}
		e.line = number
		key := e.folder + " " + e.function
		if seen[key] != 0 {
			return nil, fmt.Errorf("%s:%d: %s is in line %d too", filepath.Base(file), number, key, seen[key])
		}
		seen[key] = number
		all = append(all, e)
	}
	return all, nil
}

func parseException(line string) (exception, error) {
	fields := strings.Fields(line)
	if len(fields) < 4 {
		return exception{}, fmt.Errorf("want a package folder, a function, a number of survivors and a reason, got %q", line)
	}
	n, err := strconv.Atoi(fields[2])
	if err != nil || n < 1 {
		return exception{}, fmt.Errorf("the number of survivors must be at least 1, got %q", fields[2])
	}
	folder := fields[0]
	if folder != "." && !strings.HasPrefix(folder, "./") {
		return exception{}, fmt.Errorf("a package folder is . or begins with ./, got %q", folder)
	}
	return exception{folder: folder, function: fields[1], survivors: n, reason: strings.Join(fields[3:], " ")}, nil
}

// unknown returns an error for each exception whose function does not exist.
func unknown(root string, exceptions []exception) []error {
	var faults []error
	known := make(map[string]map[string]bool)
	for _, e := range exceptions {
		if known[e.folder] == nil {
			functions, err := functionsOf(filepath.Join(root, filepath.FromSlash(e.folder)))
			if err != nil {
				faults = append(faults, err)
			}
			known[e.folder] = functions
		}
		if !known[e.folder][e.function] {
			faults = append(faults, fmt.Errorf("exceptions.txt:%d: %s has no function or variable %s", e.line, e.folder, e.function))
		}
	}
	return faults
}

// functionsOf returns the functions, methods and variables in a folder.
func functionsOf(folder string) (map[string]bool, error) {
	files, err := filepath.Glob(filepath.Join(folder, "*.go"))
	if err != nil {
		return nil, err
	}
	all := make(map[string]bool)
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		for _, declaration := range file.Decls {
			switch d := declaration.(type) {
			case *ast.FuncDecl:
				all[functionName(d)] = true
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					if values, is := spec.(*ast.ValueSpec); is {
						all[values.Names[0].Name] = true
					}
				}
			}
		}
	}
	return all, nil
}
