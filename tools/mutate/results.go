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

// results are the results for one package. They are stored in a file, so that an
// interrupted run can continue and an unchanged package is not tried again.
type results struct {
	// Inputs is the hash of everything that the measured tests depend on. Found and
	// Survived also depend on Options.
	Inputs, Options string
	// Skipped holds the compiler's messages for mutants that do not compile.
	Skipped map[int]string
	// Measured equals Options once all tests are measured.
	Measured string
	Tests    map[string]*test
	// Found holds the test that found each mutant.
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
	// Reached are the mutants whose expression the test evaluates. Changed are those
	// that would have changed the value at least once: the test cannot detect others.
	Reached, Changed []int
	// Parent is set if its subtests are used instead.
	Parent bool
}

// openResults reads the results of a package. Results for other inputs or options
// are dropped.
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

// update changes the results. It saves them every few seconds.
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
