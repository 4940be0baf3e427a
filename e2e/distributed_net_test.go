//go:build linux

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const (
	// inside is the variable that tells a run of this program that it has a network
	// of its own.
	inside = "E2E_OWN_NETWORK"
	// insideFor is the longest that such a run may take.
	insideFor = 15 * time.Minute

	hubAddress = "10.77.0.1"
	hubNetwork = "10.77.0.0/24"
)

// inOwnNetwork runs the test that calls it once more, as a process in a network
// namespace of its own, and tells whether this is that process. Nothing in there
// has a name outside: neither can it disturb the machine, nor does it leave
// anything behind, however it ends.
func inOwnNetwork(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) != "" {
		return true
	}
	// The thread that starts the process must not end before it: its end is the
	// signal by which the process is ended with this one.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ctx, cancel := context.WithTimeout(t.Context(), insideFor)
	defer cancel()
	self, err := os.Executable()
	require.NoError(t, err)
	c := exec.CommandContext(ctx, self, "-test.run=^"+t.Name()+"$", "-test.timeout="+insideFor.String())
	c.Env = append(os.Environ(), inside+"=yes", builtBefore+"="+binary(t))
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if uid, gid := os.Getuid(), os.Getgid(); uid != 0 {
		// Who is not root may make networks in a namespace of users, too.
		c.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		c.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		c.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
		c.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}
	}
	var said bytes.Buffer
	c.Stdout, c.Stderr = &said, &said
	if testing.Verbose() {
		c.Stdout, c.Stderr = io.MultiWriter(&said, os.Stdout), io.MultiWriter(&said, os.Stdout)
	}
	require.NoError(t, c.Start(), "this test needs network namespaces: run it as root with CAP_SYS_ADMIN, or allow unprivileged user namespaces")
	if err := c.Wait(); err != nil {
		t.Fatalf("in a network of its own: %v\n%s", err, &said)
	}
	return false
}

// machine is a network namespace with one cable, which leads to the hub, where the
// test itself is.
type machine struct {
	name, address string
	port          string // the hub's end of the cable
	namespace     *os.File
}

// newHub makes the switch that all cables lead to.
func newHub(t *testing.T) {
	t.Helper()
	for _, args := range []string{
		"link set lo up",
		"link add hub type bridge",
		"address add " + hubAddress + "/24 dev hub",
		"link set hub up",
	} {
		require.NoError(t, ip(args))
	}
}

// newMachine plugs one more machine in.
func newMachine(t *testing.T, name, address string) *machine {
	t.Helper()
	m := &machine{name: name, address: address, port: "to-" + name}
	err := onThread(func() error {
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			m.namespace, err = os.Open("/proc/thread-self/ns/net")
		}
		return err
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = m.namespace.Close() })
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), m.namespace.Fd())
	require.NoError(t, ip("link add "+m.port+" master hub type veth peer name eth0 netns "+path))
	require.NoError(t, ip("link set "+m.port+" up"))
	require.NoError(t, m.in(func() error {
		for _, args := range []string{"link set lo up", "address add " + address + "/24 dev eth0", "link set eth0 up"} {
			if err := ip(args); err != nil {
				return err
			}
		}
		return nil
	}))
	return m
}

// ip runs iproute2's ip where the thread is.
func ip(args string) error {
	program := "ip"
	if _, err := exec.LookPath(program); err != nil {
		program = "/usr/sbin/ip" // which is in root's path alone
	}
	out, err := exec.Command(program, strings.Fields(args)...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", args, err, bytes.TrimSpace(out))
	}
	return nil
}

// onThread runs something on a thread that is used for nothing after it.
func onThread(do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- do()
	}()
	return <-done
}

// in runs something on a thread that is on the machine: sockets that it opens and
// processes that it starts are.
func (m *machine) in(do func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(m.namespace.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("going to %s: %w", m.name, err)
		}
		return do()
	})
}

// dial connects from the machine itself.
func (m *machine) dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = m.in(func() error {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// listen listens on the machine.
func (m *machine) listen(address string) (listener net.Listener, err error) {
	err = m.in(func() error {
		listener, err = net.Listen("tcp", address)
		return err
	})
	return listener, err
}

// cut pulls the plug: what is sent is not refused, it vanishes.
func (m *machine) cut() error { return ip("link set " + m.port + " down") }

// mend puts the plug back.
func (m *machine) mend() error { return ip("link set " + m.port + " up") }
