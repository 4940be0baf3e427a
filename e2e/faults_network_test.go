package e2e

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

const reconnects = "200 once the seller has reconnected: the provider replaced the token and the answer that says so is lost"

// untilLeft holds a request until its caller has left.
func untilLeft(ctx context.Context) { <-ctx.Done() }

// lostFaults are requests whose answer does not come, or too late.
func lostFaults() []fault {
	var all []fault
	add := func(name, when, text string, play func(*stage)) *fault {
		all = append(all, fault{
			area: "Token endpoint: no answer", name: name, when: when, play: play,
			valid: ok, ended: busy, told: retried(text), after: ok, how: sentAgain,
		})
		return &all[len(all)-1]
	}
	const (
		before = "before the refresh is carried out"
		after  = "after it was carried out"
	)
	lost := func(name, text string, play func(*stage)) {
		f := add(name, after, text, play)
		f.told = append(f.told, told{"warn", "reconnect_required", "invalid_grant", ""})
		f.after, f.how, f.reuse = rejected, reconnects, 1
	}
	add("time-out", before, "timeout", sandboxed(sandbox.Fault{Kind: sandbox.Latency, Wait: untilLeft}))
	lost("time-out", "timeout", sandboxed(sandbox.Fault{Kind: sandbox.Latency, Wait: untilLeft, After: true}))
	add("time-out, of a provider that does not rotate", after, "timeout", func(s *stage) {
		s.provider.Change(func(settings *sandbox.Settings) { settings.KeepRefreshToken = true })
		sandboxed(sandbox.Fault{Kind: sandbox.Latency, Wait: untilLeft, After: true})(s)
	})
	add("a byte a second", before, "timeout (status 200)", atRefresh(dripping))
	add("cut", before, "cut", sandboxed(sandbox.Fault{Kind: sandbox.Cut}))
	lost("cut", "cut", sandboxed(sandbox.Fault{Kind: sandbox.Cut, After: true}))
	add("cut off in the middle", before, "cut (status 200)", atRefresh(answered(200, jsonType, `{"access_token":"APP_USR-`, "Content-Length", "300")))
	lost("cut off in the middle", "cut (status 200)", sandboxed(sandbox.Fault{Kind: sandbox.Truncated}))
	lost("500", "server_error (status 500)", sandboxed(sandbox.Fault{Kind: sandbox.ServerError, After: true}))
	for _, of := range []struct{ name, answer string }{
		{"tokens of another account", `{"access_token":"APP_USR-other","refresh_token":"TG-other","user_id":` + id(porto) + `}`},
		{"tokens of a test account for a live one", `{"access_token":"APP_USR-other","refresh_token":"TG-other","live_mode":false}`},
	} {
		f := add(of.name, before, "another account's tokens", atRefresh(answered(200, jsonType, of.answer)))
		f.told = append(f.told, told{"error", "alarm", "provider", "another account's tokens"})
	}
	f := add("an answer after 3 seconds", eachRefresh, "", sandboxed(sandbox.Fault{Kind: sandbox.Latency, Delay: sandbox.Duration(3 * time.Second)}))
	f.ended, f.told, f.how = ok, nil, "after 3 seconds"
	for _, at := range []struct {
		when  string
		after bool
	}{{before, false}, {after, true}} {
		f := add("caddy is killed", at.when, "", killed(at.after))
		f.told = []told{{"warn", "renewal_failed", "retried_unknown", ""}}
		if at.after {
			f.told = append(f.told, told{"warn", "reconnect_required", "invalid_grant", ""})
			f.after, f.how, f.reuse = rejected, reconnects, 1
		}
	}
	return all
}

// dripping is an answer that never ends.
func dripping(w http.ResponseWriter, r *http.Request, _ func() *httptest.ResponseRecorder) {
	w.WriteHeader(http.StatusOK)
	for again := time.Tick(time.Second); ; {
		if _, err := w.Write([]byte(" ")); err != nil || http.NewResponseController(w).Flush() != nil {
			return
		}
		select {
		case <-again:
		case <-r.Context().Done():
			return
		}
	}
}

// killed ends the process while a refresh is on its way.
func killed(after bool) func(*stage) {
	return func(s *stage) {
		s.connected(valid, 100*day)
		s.connected(ended, -day)
		reached := make(chan struct{})
		s.provider.Fault(sandbox.Fault{Kind: sandbox.Latency, Grant: "refresh_token", After: after, Wait: func(ctx context.Context) {
			close(reached)
			<-ctx.Done()
		}})
		s.start()
		select {
		case <-reached:
		case <-time.After(patience):
			s.t.Fatal("nothing is refreshed")
		}
		s.caddy.kill()
		s.caddy.start()
		s.look()
	}
}

// gate is an address behind which the network is as bad as one wants.
type gate struct {
	net.Listener

	mu    sync.Mutex
	treat func(net.Conn)
	conns []net.Conn
}

func newGate(t *testing.T, treat func(net.Conn)) *gate {
	t.Helper()
	listener, err := net.Listen("tcp", newAddress(t))
	require.NoError(t, err)
	g := &gate{Listener: listener, treat: treat}
	var open sync.WaitGroup
	open.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			g.mu.Lock()
			treat := g.treat
			g.conns = append(g.conns, conn)
			g.mu.Unlock()
			open.Go(func() { treat(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, conn := range g.conns {
			_ = conn.Close()
		}
	})
	return g
}

func (g *gate) becomes(treat func(net.Conn)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.treat = treat
}

// swallow takes what comes, and says nothing.
func swallow(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }

// reset takes a request, and resets the connection.
func reset(conn net.Conn) {
	var request []byte
	for part := make([]byte, 4096); !bytes.Contains(request, []byte("refresh_token")); {
		n, err := conn.Read(part)
		if request = append(request, part[:n]...); err != nil {
			return
		}
	}
	_ = conn.(*net.TCPConn).SetLinger(0)
	_ = conn.Close()
}

// to passes on what comes.
func to(server *httptest.Server) func(net.Conn) {
	return func(conn net.Conn) {
		defer conn.Close()
		behind, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			return
		}
		var both sync.WaitGroup
		both.Go(func() { _, _ = io.Copy(behind, conn); _ = behind.(*net.TCPConn).CloseWrite() })
		both.Go(func() { _, _ = io.Copy(conn, behind); _ = conn.(*net.TCPConn).CloseWrite() })
		both.Wait()
		_ = behind.Close()
	}
}

// through plays a fault of the network in front of the token endpoint.
func through(scheme string, bad func(*stage, *authority) func(net.Conn)) func(*stage) {
	return func(s *stage) {
		authority := newAuthority(s.t)
		s.values["ROOTS"] = authority.file
		good := httptest.NewUnstartedServer(s.front)
		if scheme == "https" {
			good.TLS = authority.server(s.t, "127.0.0.1", time.Now().Add(day))
			good.StartTLS()
		} else {
			good.Start()
		}
		s.t.Cleanup(good.Close)
		g := newGate(s.t, bad(s, authority))
		s.values["TOKENS"] = scheme + "://" + g.Addr().String()
		s.connected(valid, 25*day)
		s.connected(ended, -day)
		s.start()
		s.look()
		require.Zero(s.t, s.refreshes())
		g.becomes(to(good))
	}
}

func treated(treat func(net.Conn)) func(*stage, *authority) func(net.Conn) {
	return func(*stage, *authority) func(net.Conn) { return treat }
}

// presenting is a server that presents another certificate than it should.
func presenting(config func(*testing.T, *authority) *tls.Config) func(*stage, *authority) func(net.Conn) {
	return func(s *stage, known *authority) func(net.Conn) {
		server := httptest.NewUnstartedServer(s.front)
		server.TLS = config(s.t, known)
		server.Config.ErrorLog = log.New(io.Discard, "", 0) // of the handshakes that fail
		server.StartTLS()
		s.t.Cleanup(server.Close)
		return to(server)
	}
}

func networkFaults() []fault {
	var all []fault
	add := func(name, text string, play func(*stage)) *fault {
		all = append(all, fault{
			area: "Network", name: name, when: eachRefresh, play: play,
			valid: ok, ended: busy, told: failing(text), after: ok, how: asked,
		})
		return &all[len(all)-1]
	}
	unknown := func(name, text string, play func(*stage)) {
		f := add(name, text, play)
		f.told, f.how = retried(text), sentAgain
	}
	add("DNS failure", "dns", nameless)
	add("connection refused", "dial", refusing)
	unknown("connection reset after the request", "cut", through("http", treated(reset)))
	unknown("a black hole after the connection", "timeout", through("http", treated(swallow)))
	add("a black hole in the TLS handshake", "timeout", through("https", treated(swallow)))
	certificate := func(name string, config func(*testing.T, *authority) *tls.Config) {
		add(name, "tls", through("https", presenting(config)))
	}
	certificate("a certificate of an unknown authority", func(t *testing.T, _ *authority) *tls.Config {
		return newAuthority(t).server(t, "127.0.0.1", time.Now().Add(day))
	})
	certificate("an expired certificate", func(t *testing.T, known *authority) *tls.Config {
		return known.server(t, "127.0.0.1", time.Now().Add(-time.Hour))
	})
	certificate("a certificate for another address", func(t *testing.T, known *authority) *tls.Config {
		return known.server(t, "127.0.0.2", time.Now().Add(day))
	})
	add("plain HTTP where TLS should be", "tls", through("https", func(s *stage, _ *authority) func(net.Conn) {
		server := httptest.NewServer(s.front)
		s.t.Cleanup(server.Close)
		return to(server)
	}))
	return all
}

// apiFaults are of the API behind egress.
func apiFaults() []fault {
	withdrawn := func(s *stage) {
		s.running()
		s.provider.KillAccessTokens(valid.UserID)
	}
	return []fault{{
		area: "API", name: "401: the access token was withdrawn", when: "while it should be valid",
		play:  func(s *stage) { withdrawn(s); s.look() },
		valid: ok, ended: ok, after: ok, how: "refreshed, and the request sent once more",
	}, {
		area: "API", name: "401, and the token endpoint answers 500", when: "while it should be valid", faulty: true,
		play: func(s *stage) {
			withdrawn(s)
			s.provider.Fault(sandbox.Fault{Kind: sandbox.ServerError, Grant: "refresh_token", Times: -1})
			s.look()
			s.provider.ClearFaults()
			s.order("later 24h1m")
		},
		valid: unauthorized, ended: busy, told: retried("server_error (status 500)"), after: ok,
		how: "refreshed when the pause was over: 24 h for the token that should be valid",
	}}
}

// nameless is a host that has no address, until the operator writes another one.
func nameless(s *stage) {
	right := s.values["TOKENS"]
	s.values["TOKENS"] = "https://provider.invalid"
	s.connected(valid, 25*day)
	s.connected(ended, -day)
	s.start()
	s.look()
	s.values["TOKENS"] = right
	s.caddy.reload(s.config())
}

// refusing is an address where nobody listens yet.
func refusing(s *stage) {
	address := newAddress(s.t)
	s.values["TOKENS"] = "http://" + address
	s.connected(valid, 25*day)
	s.connected(ended, -day)
	s.start()
	s.look()
	listener, err := net.Listen("tcp", address)
	require.NoError(s.t, err)
	server := &httptest.Server{Listener: listener, Config: &http.Server{Handler: s.front, ReadHeaderTimeout: patience}}
	server.Start()
	s.t.Cleanup(server.Close)
}

// authority signs certificates; its own is in a file.
type authority struct {
	file string
	root *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	a := &authority{key: key, file: filepath.Join(t.TempDir(), "roots.pem"), root: &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a test authority"},
		NotBefore: time.Now().Add(-2 * day), NotAfter: time.Now().Add(2 * day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}}
	der, err := x509.CreateCertificate(rand.Reader, a.root, a.root, &key.PublicKey, key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return a
}

// server is the configuration of a server with a certificate for an address.
func (a *authority) server(t *testing.T, address string, until time.Time) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "a test provider"},
		NotBefore: until.Add(-2 * day), NotAfter: until, IPAddresses: []net.IP{net.ParseIP(address)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, a.root, &key.PublicKey, a.key)
	require.NoError(t, err)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}
