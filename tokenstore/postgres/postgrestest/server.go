// Package postgrestest runs real PostgreSQL servers for tests, from the programs
// that are installed on this machine.
package postgrestest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// Password is the password of every server's user: what it looks for finds it in
// places where it ought not to be.
const Password = "canary-of-the-database"

// patience bounds what the programs may take on a loaded machine.
const patience = 2 * time.Minute

// Server is a PostgreSQL server of its own, on a free port of the loopback address.
type Server struct {
	dir, bin string
	port     int
	// janitor's other end of this pipe stops the server and deletes its folder, when
	// it is closed: by Close, or by the end of this process, however it ends.
	janitor io.Closer
	settled <-chan struct{}
}

// shared is the server of a test binary.
var shared struct {
	sync.Once
	server *Server
	err    error
}

// Shared returns the one server of this test binary, which nobody stops. Its data
// is not flushed to the disk: where that is what is tested, [New] is for it.
func Shared(t testing.TB) *Server {
	t.Helper()
	shared.Do(func() {
		shared.server, shared.err = Launch("fsync=off", "synchronous_commit=on", "full_page_writes=off", "max_connections=200")
	})
	require.NoError(t, shared.err)
	return shared.server
}

// New starts a server for one test. Settings are written as name=value.
func New(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := Launch(settings...)
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

// Replica starts a second server that follows s, until it is promoted.
func (s *Server) Replica(t testing.TB) *Server {
	t.Helper()
	r, err := prepare()
	require.NoError(t, err)
	t.Cleanup(r.Close)
	require.NoError(t, r.run("pg_basebackup", "-D", r.data(), "-R", "-X", "stream", "-c", "fast", "-d", s.dsn("postgres")))
	require.NoError(t, r.configure())
	require.NoError(t, r.Start())
	return r
}

// Launch makes a server, and starts it, for who is no test. [Server.Close] ends it.
func Launch(settings ...string) (*Server, error) {
	from, err := template()
	if err != nil {
		return nil, err
	}
	s, err := prepare()
	if err != nil {
		return nil, err
	}
	err = s.execute("cp", "-R", "-p", from.data(), s.data())
	if err == nil {
		err = s.configure(settings...)
	}
	if err == nil {
		err = s.Start()
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// template returns a server that is never started. Each new server gets a copy of its
// data folder, because initdb takes about ten times as long as copying.
var template = sync.OnceValues(func() (*Server, error) {
	s, err := prepare()
	if err != nil {
		return nil, err
	}
	password := filepath.Join(s.dir, "password")
	err = os.WriteFile(password, []byte(Password), 0o600)
	if err == nil {
		err = s.own(password)
	}
	if err == nil {
		err = s.run("initdb", "-D", s.data(), "-U", "caddy", "-A", "scram-sha-256", "--pwfile", password, "-E", "UTF8", "--locale=C", "--no-sync")
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
})

// prepare makes the folder, and whoever deletes it.
func prepare() (*Server, error) {
	bin, err := programs()
	if err != nil {
		return nil, err
	}
	// Not below TMPDIR: the name of a socket has 107 bytes at the most.
	dir, err := os.MkdirTemp("/tmp", "mp-postgres-")
	if err != nil {
		return nil, err
	}
	s := &Server{dir: dir, bin: bin}
	if err := s.own(dir); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s.port = listener.Addr().(*net.TCPAddr).Port //nolint:forcetypeassert // it is TCP
	if err := listener.Close(); err != nil {
		return nil, err
	}
	return s, s.hire()
}

// hire starts the janitor.
func (s *Server) hire() error {
	janitor := exec.Command("/bin/sh", "-c", `cat >/dev/null; "$1"/pg_ctl -D "$2"/data -m immediate -w stop >/dev/null 2>&1; rm -rf "$2"`, "sh", s.bin, s.dir) //nolint:gosec // our own arguments
	janitor.Dir = "/"
	janitor.SysProcAttr = s.attributes()
	// In a session of its own, where no signal to the tests reaches it.
	janitor.SysProcAttr.Setsid = true
	end, pipe, err := os.Pipe()
	if err != nil {
		return err
	}
	janitor.Stdin = end
	if err := janitor.Start(); err != nil {
		return err
	}
	_ = end.Close()
	s.janitor = pipe
	settled := make(chan struct{})
	s.settled = settled
	var once sync.Once
	s.janitor = closer(func() error {
		once.Do(func() {
			_ = pipe.Close()
			_ = janitor.Wait()
			close(settled)
		})
		return nil
	})
	return nil
}

type closer func() error

func (c closer) Close() error { return c() }

// Close stops the server for good, and deletes it.
func (s *Server) Close() {
	_ = s.janitor.Close()
	<-s.settled
}

// programs finds PostgreSQL's programs: Debian keeps them out of the path.
func programs() (string, error) {
	if path, err := exec.LookPath("initdb"); err == nil {
		path, err = filepath.EvalSymlinks(path)
		return filepath.Dir(path), err
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if len(found) == 0 {
		return "", errors.New("PostgreSQL's programs are not on this machine: run `make setup`, or install the package postgresql")
	}
	number := func(path string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
		return n
	}
	return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return number(a) - number(b) })), nil
}

// as is who runs the server, where root does not: it refuses to.
func as() (uid, gid int, ok bool) {
	if os.Geteuid() != 0 {
		return 0, 0, false
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr == nil && gidErr == nil {
			return uid, gid, true
		}
	}
	return 0, 0, false
}

func (s *Server) attributes() *syscall.SysProcAttr {
	uid, gid, ok := as()
	if !ok {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
}

func (s *Server) own(path string) error {
	uid, gid, ok := as()
	if !ok {
		return nil
	}
	return os.Chown(path, uid, gid)
}

// run runs one of PostgreSQL's programs to its end.
func (s *Server) run(program string, args ...string) error {
	return s.execute(filepath.Join(s.bin, program), args...)
}

// execute runs a program to its end, as the user that the server runs as.
func (s *Server) execute(program string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c := exec.CommandContext(ctx, program, args...) //nolint:gosec // as above
	c.Dir = "/"
	c.Env = append(os.Environ(), "LC_ALL=C", "TZ=UTC")
	c.SysProcAttr = s.attributes()
	var out bytes.Buffer
	// Files rather than pipes: what pg_ctl starts would hold those open.
	said, err := os.CreateTemp(s.dir, "said-")
	if err != nil {
		return err
	}
	defer said.Close()
	c.Stdout, c.Stderr = said, said
	if err := c.Run(); err != nil {
		_, _ = said.Seek(0, io.SeekStart)
		_, _ = io.Copy(&out, said)
		return fmt.Errorf("%s: %w\n%s\n%s", program, err, out.String(), s.Log())
	}
	return nil
}

func (s *Server) data() string { return filepath.Join(s.dir, "data") }

// configure adds settings. Of two for one name the last counts.
func (s *Server) configure(settings ...string) error {
	settings = append([]string{
		"listen_addresses=127.0.0.1", "port=" + strconv.Itoa(s.port), "unix_socket_directories=" + s.dir,
		"timezone=UTC", "log_timezone=UTC", "shared_buffers=32MB", "log_min_duration_statement=-1",
	}, settings...)
	f, err := os.OpenFile(filepath.Join(s.data(), "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		fmt.Fprintf(f, "%s = '%s'\n", name, value)
	}
	return f.Close()
}

// Start starts the server again after it was stopped.
func (s *Server) Start() error {
	return s.run("pg_ctl", "-D", s.data(), "-l", filepath.Join(s.dir, "log"), "-w", "-t", strconv.Itoa(int(patience.Seconds())), "start")
}

// Stop stops the server as an administrator does: sessions end at once, what they
// were doing is undone.
func (s *Server) Stop() error { return s.run("pg_ctl", "-D", s.data(), "-m", "fast", "-w", "stop") }

// Crash stops the server as a power cut does.
func (s *Server) Crash() error {
	return s.run("pg_ctl", "-D", s.data(), "-m", "immediate", "-w", "stop")
}

// Admit lets clients in from a network, such as 10.0.0.0/24, beside those of the
// loopback address. Whether the server listens there is for listen_addresses to say.
func (s *Server) Admit(network string) error {
	f, err := os.OpenFile(filepath.Join(s.data(), "pg_hba.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	fmt.Fprintf(f, "host all all %s scram-sha-256\n", network) //nolint:dupword // all databases, all users
	if err := f.Close(); err != nil {
		return err
	}
	return s.run("pg_ctl", "-D", s.data(), "reload")
}

// Promote makes a replica the server that can be written to.
func (s *Server) Promote() error { return s.run("pg_ctl", "-D", s.data(), "-w", "promote") }

// Log returns what the server has logged.
func (s *Server) Log() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	return string(text)
}

// Version is what the server says of itself, as in "17".
func (s *Server) Version() string {
	text, _ := os.ReadFile(filepath.Join(s.data(), "PG_VERSION"))
	return strings.TrimSpace(string(text))
}

// Address is where the server listens.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// dsn is a connection string, with the settings of a query.
func (s *Server) dsn(database string, settings ...string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword("caddy", Password), Host: s.Address(), Path: "/" + database}
	values := url.Values{"sslmode": {"disable"}}
	for _, setting := range settings {
		name, value, _ := strings.Cut(setting, "=")
		values.Set(name, value)
	}
	u.RawQuery = values.Encode()
	return u.String()
}

// DSN is the connection string of the database that every server has.
func (s *Server) DSN(settings ...string) string { return s.dsn("postgres", settings...) }

// Database makes a new database for one test, and returns its connection string.
func (s *Server) Database(t testing.TB, settings ...string) string {
	t.Helper()
	name := "test_" + strings.ToLower(rand.Text()[:12])
	s.Exec(t, s.dsn("postgres"), "create database "+name)
	return s.dsn(name, settings...)
}

// Name is the name of the database in a connection string.
func (s *Server) Name(dsn string) string {
	u, err := url.Parse(dsn)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(u.Path, "/")
}

// Exec runs statements with a connection of their own.
func (s *Server) Exec(t testing.TB, dsn, sql string) {
	t.Helper()
	require.NoError(t, s.Try(dsn, sql))
}

// Try is Exec for goroutines of a test.
func (s *Server) Try(dsn, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
	return err
}
