package e2e

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// patience is how long a test waits for what it expects to come. Only a test
// that fails waits that long.
const patience = 3 * time.Minute

// caddy is a process of the binary under test, with a home of its own.
type caddy struct {
	t      *testing.T
	home   string // XDG_* and HOME
	config string // path of its Caddyfile
	admin  string // address of its admin endpoint
	env    []string
	log    *transcript

	process *exec.Cmd
	ended   chan struct{}
}

// newCaddy writes a Caddyfile and starts a process on it. The Caddyfile's admin
// endpoint must be at the admin address.
func newCaddy(t *testing.T, admin, caddyfile string, env ...string) *caddy {
	t.Helper()
	home := t.TempDir()
	c := &caddy{
		t: t, home: home, config: filepath.Join(home, "Caddyfile"), admin: admin, log: new(transcript),
		env: append(environment(home), env...),
	}
	c.write(caddyfile)
	t.Cleanup(c.clean)
	c.start()
	return c
}

// environment is what a process of ours sees: nothing of the machine but where
// its programs are.
func environment(home string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home,
		"XDG_DATA_HOME=" + filepath.Join(home, "data"), "XDG_CONFIG_HOME=" + filepath.Join(home, "config"),
		// Without this, every process waits for a second before it exits.
		"GORACE=halt_on_error=0 atexit_sleep_ms=50",
	}
}

func (c *caddy) write(caddyfile string) {
	c.t.Helper()
	require.NoError(c.t, os.WriteFile(c.config, []byte(caddyfile), 0o600))
}

// launch starts the process, and waits for nothing.
func (c *caddy) launch() {
	c.t.Helper()
	process := exec.Command(binary(c.t), "run", "--config", c.config, "--adapter", "caddyfile")
	process.Env, process.Dir = c.env, c.home
	process.Stdout, process.Stderr = c.log, c.log
	require.NoError(c.t, process.Start())
	ended := make(chan struct{})
	go func() {
		_ = process.Wait()
		close(ended)
	}()
	c.process, c.ended = process, ended
}

// starting bounds how many processes start at a time. Starting takes much CPU: many at
// once would keep each other, and the processes that serve, from meeting deadlines.
var starting = make(chan struct{}, 2)

// start starts the process and waits until it serves.
func (c *caddy) start() {
	c.t.Helper()
	starting <- struct{}{}
	defer func() { <-starting }()
	c.launch()
	await(c.t, "caddy serves", func() bool {
		select {
		case <-c.ended:
			c.t.Fatalf("caddy ended before it served:\n%s", c.log)
		default:
		}
		// It answers once the configuration is loaded, not before.
		response, err := http.Get("http://" + c.admin + "/config/")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return err == nil && response.StatusCode == http.StatusOK && len(bytes.TrimSpace(body)) > len("null")
	})
}

// kill ends the process as a power cut would.
func (c *caddy) kill() {
	c.t.Helper()
	require.NoError(c.t, c.process.Process.Kill())
	<-c.ended
}

// stop asks the process to end, and waits until it has.
func (c *caddy) stop() {
	c.t.Helper()
	require.NoError(c.t, c.process.Process.Signal(syscall.SIGTERM))
	select {
	case <-c.ended:
	case <-time.After(patience):
		c.t.Fatalf("caddy does not end:\n%s", c.log.tail())
	}
}

// reload loads another Caddyfile into the running process.
func (c *caddy) reload(caddyfile string) {
	c.t.Helper()
	c.write(caddyfile)
	out, err := c.run("reload", "--config", c.config, "--adapter", "caddyfile", "--address", c.admin, "--force")
	require.NoError(c.t, err, out)
}

// run runs another command of the binary, in the same environment.
func (c *caddy) run(args ...string) (output string, err error) {
	command := exec.Command(binary(c.t), args...)
	command.Env, command.Dir = c.env, c.home
	out, err := command.CombinedOutput()
	return string(out), err
}

func (c *caddy) clean() {
	select {
	case <-c.ended:
	default:
		_ = c.process.Process.Kill()
		<-c.ended
	}
	if c.t.Failed() {
		c.t.Logf("caddy's log:\n%s", c.log.tail())
	}
	if log := c.log.String(); strings.Contains(log, "WARNING: DATA RACE") || strings.Contains(log, "panic:") {
		c.t.Errorf("a data race or a panic in caddy:\n%s", c.log)
	}
}

// transcript keeps what a process writes.
type transcript struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *transcript) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *transcript) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *transcript) tail() string {
	const most = 12 << 10
	text := l.String()
	return text[max(0, len(text)-most):]
}

// await waits until a condition holds.
func await(t *testing.T, what string, so func() bool) {
	t.Helper()
	awaitFor(t, patience, what, so)
}

// awaitFor is await with its own deadline. It checks less and less often, to leave the
// processor to the other tests.
func awaitFor(t *testing.T, limit time.Duration, what string, so func() bool) {
	t.Helper()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	for wait := 10 * time.Millisecond; !so(); wait = min(wait*3/2, 200*time.Millisecond) {
		select {
		case <-time.After(wait):
		case <-deadline.C:
			t.Fatalf("it never came to be that %s", what)
		}
	}
}

var taken struct {
	sync.Mutex
	ports map[int]bool
}

// newAddress finds an address that a process of ours can listen on. It stays
// below the ports that the system gives to outgoing connections: one of those
// could take it before the process does.
func newAddress(t *testing.T) string {
	t.Helper()
	taken.Lock()
	defer taken.Unlock()
	if taken.ports == nil {
		taken.ports = make(map[int]bool)
	}
	for range 200 {
		port := 20000 + rand.IntN(12000)
		if taken.ports[port] {
			continue
		}
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			continue
		}
		require.NoError(t, listener.Close())
		taken.ports[port] = true
		return listener.Addr().String()
	}
	t.Fatal("no port is free")
	return ""
}
