package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// results is what is known of a package. It is kept in a file, so that a run can
// be interrupted, and an unchanged package is not tried again.
type results struct {
	// Inputs is the hash of all that the results depend on, and Options what else
	// the outcomes depend on.
	Inputs, Options string
	// Skipped are the mutants that do not compile, with the compiler's message.
	Skipped map[int]string
	// Measured is Options when all tests were measured.
	Measured string
	Tests    map[string]*test
	// Found and Survived are mutants that were tried.
	Found    map[int]string
	Survived map[int]bool

	mu    sync.Mutex
	file  string
	saved time.Time
}

// test is a test of the package, or a subtest of one that is slow.
type test struct {
	Name    string
	Seconds float64
	// Reached are the mutants whose expression it evaluates, and Changed those
	// that would change a value. No other mutant can make a difference to it.
	Reached, Changed []int
	// Parent says that its subtests are used in its place.
	Parent bool
}

// openResults reads the results of a package, or begins new ones if its inputs or
// the options changed.
func openResults(folder, name, inputs, options string, again bool) (*results, error) {
	file := strings.ReplaceAll(strings.TrimPrefix(name, "./"), "/", "-")
	if name == "." {
		file = "root"
	}
	r := &results{file: filepath.Join(folder, file+".json")}
	text, err := os.ReadFile(r.file)
	if err == nil {
		err = json.Unmarshal(text, r)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = os.MkdirAll(folder, 0o750)
	}
	if err != nil {
		return nil, err
	}
	if r.Inputs != inputs || r.Tests == nil {
		*r = results{file: r.file, Tests: make(map[string]*test)}
	}
	if r.Options != options || again || r.Found == nil {
		r.Found, r.Survived = make(map[int]string), make(map[int]bool)
	}
	r.Inputs, r.Options = inputs, options
	return r, nil
}

// update changes the results, and saves them now and then.
func (r *results) update(change func()) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	change()
	if time.Since(r.saved) < 5*time.Second {
		return nil
	}
	return r.write()
}

func (r *results) save() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.write()
}

func (r *results) write() error {
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.file+".new", text, 0o600); err != nil {
		return err
	}
	r.saved = time.Now()
	return os.Rename(r.file+".new", r.file)
}
