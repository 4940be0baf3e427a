package postgrestest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Pooler starts a PgBouncer in front of the server, and returns its address. The
// mode is session, transaction or statement.
func (s *Server) Pooler(t testing.TB, mode string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address = listener.Addr().String()
	port := listener.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it is TCP
	require.NoError(t, listener.Close())

	dir, err := os.MkdirTemp(s.dir, "pooler-")
	require.NoError(t, err)
	users, settings := filepath.Join(dir, "users"), filepath.Join(dir, "settings")
	require.NoError(t, os.WriteFile(users, fmt.Appendf(nil, "%q %q\n", "caddy", Password), 0o600))
	require.NoError(t, os.WriteFile(settings, fmt.Appendf(nil, `[databases]
* = host=127.0.0.1 port=%d
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = scram-sha-256
auth_file = %s
pool_mode = %s
default_pool_size = 20
ignore_startup_parameters = extra_float_digits
`, s.port, port, users, mode), 0o600))
	for _, path := range []string{dir, users, settings} {
		require.NoError(t, s.own(path))
	}
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer" // Debian keeps it out of people's path
	}
	pooler := exec.Command(program, "-q", settings)
	pooler.Dir = "/"
	pooler.SysProcAttr = s.attributes()
	require.NoError(t, pooler.Start(), "run `make setup`, or install the package pgbouncer")
	t.Cleanup(func() {
		_ = pooler.Process.Kill()
		_ = pooler.Wait()
	})
	require.Eventually(t, func() bool {
		conn, err := net.DialTimeout("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), time.Second)
		if err != nil {
			return false
		}
		return conn.Close() == nil
	}, time.Minute, 20*time.Millisecond)
	return address
}
