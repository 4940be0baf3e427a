// Package e2e tries the real thing: the caddy binary over real HTTP, a real
// browser, the official SDK. It is a module of its own, so that what only tests
// need enters no user's build.
package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binary is Caddy with this module, built once for all tests.
var binary string

// builtBefore is the variable that has a run of this program inside of another one
// use the other's binary.
const builtBefore = "E2E_CADDY"

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if binary = os.Getenv(builtBefore); binary != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "caddy-mercadopago-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "caddy")
	args := []string{"build", "-o", binary}
	if raceEnabled {
		args = append(args, "-race")
	}
	build := exec.Command("go", append(args, "./cmd/caddy")...)
	build.Dir = ".."
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the caddy under test:", err)
		return 1
	}
	return m.Run()
}
