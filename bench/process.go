package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// patience bounds what a process may take to begin.
const patience = 2 * time.Minute

// process is one that we started, with a home of its own.
type process struct {
	*exec.Cmd
	log   *transcript
	ended chan struct{}
}

// start starts a process that is to serve at an address, and waits until it takes
// connections there.
func start(ctx context.Context, home, address, program string, args []string, env ...string) (*process, error) {
	p := &process{Cmd: exec.CommandContext(ctx, program, args...), log: new(transcript), ended: make(chan struct{})}
	p.Dir, p.Stdout, p.Stderr = home, p.log, p.log
	p.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + home,
		"XDG_DATA_HOME=" + filepath.Join(home, "data"), "XDG_CONFIG_HOME=" + filepath.Join(home, "config"),
	}, env...)
	if err := p.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = p.Wait()
		close(p.ended)
	}()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		select {
		case <-p.ended:
			return nil, fmt.Errorf("%s ended before it served:\n%s", filepath.Base(program), p.log)
		case <-time.After(2 * time.Millisecond):
		}
		if conn, err := net.DialTimeout("tcp", address, time.Second); err == nil {
			return p, conn.Close()
		}
	}
	p.stop()
	return nil, fmt.Errorf("%s does not serve:\n%s", filepath.Base(program), p.log)
}

// stop ends the process.
func (p *process) stop() {
	_ = p.Process.Kill()
	<-p.ended
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

// newAddress finds an address that a process of ours can listen on.
func newAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// server is a process of Caddy.
type server struct {
	*process
	admin string
}

// secrets are what the Caddyfiles below take from the environment.
var secrets = []string{"MP_CLIENT_ID=" + clientID, "MP_CLIENT_SECRET=" + clientSecret, "MP_ENCRYPTION_KEY=" + encryptionKey}

// startCaddy runs a program that is Caddy on a Caddyfile, in which each $NAME is a
// value, $ADMIN among them.
func (b *bench) startCaddy(ctx context.Context, program []string, caddyfile string, values map[string]string, serves string) (*server, error) {
	home, err := os.MkdirTemp(b.dir, "caddy-")
	if err != nil {
		return nil, err
	}
	config := filepath.Join(home, "Caddyfile")
	text := os.Expand(caddyfile, func(name string) string { return values[name] })
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	args := append(program[1:], "run", "--config", config, "--adapter", "caddyfile")
	p, err := start(ctx, home, serves, program[0], args, secrets...)
	if err != nil {
		return nil, err
	}
	return &server{process: p, admin: values["ADMIN"]}, nil
}

// memory is what Go's runtime tells of a process.
type memory struct {
	Mallocs   uint64
	HeapAlloc uint64
	Resident  uint64
}

// memory asks the process, after a garbage collection if that is wanted.
func (c *server) memory(collected bool) (memory, error) {
	if collected {
		for range 2 { // what a clean-up frees, the next one collects
			if _, err := c.get("/debug/pprof/heap?gc=1"); err != nil {
				return memory{}, err
			}
		}
	}
	text, err := c.get("/debug/vars")
	if err != nil {
		return memory{}, err
	}
	var vars struct{ Memstats memory }
	if err := json.Unmarshal(text, &vars); err != nil {
		return memory{}, err
	}
	vars.Memstats.Resident, err = resident(c.Process.Pid)
	return vars.Memstats, err
}

func (c *server) get(path string) ([]byte, error) {
	response, err := http.Get("http://" + c.admin + path)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", path, response.Status)
	}
	return text, err
}

// resident is the memory of a process that is in use.
func resident(pid int) (uint64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		var kilobytes uint64
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &kilobytes); err == nil {
			return kilobytes << 10, nil
		}
	}
	return 0, errors.New("the system does not tell how much memory a process has")
}

// send sends a load from a process of its own.
func (b *bench) send(ctx context.Context, l load) (loaded, error) {
	command := exec.CommandContext(ctx, b.self, l.arguments()...) //nolint:gosec // our own arguments
	command.Stderr = os.Stderr
	out, err := command.Output()
	if err != nil {
		return loaded{}, fmt.Errorf("sending load to %s: %w", l.url, err)
	}
	var got loaded
	if err := json.Unmarshal(out, &got); err != nil {
		return loaded{}, err
	}
	if got.Wrong > 0 || got.Requests == 0 {
		return got, fmt.Errorf("%s: %d of %d answers had not the status %d", l.url, got.Wrong, got.Requests, l.status)
	}
	return got, nil
}

// together sends several loads at the same time.
func (b *bench) together(ctx context.Context, loads []load) ([]loaded, error) {
	got, errs := make([]loaded, len(loads)), make([]error, len(loads))
	var done sync.WaitGroup
	for i, l := range loads {
		done.Go(func() { got[i], errs[i] = b.send(ctx, l) })
	}
	done.Wait()
	return got, errors.Join(errs...)
}
