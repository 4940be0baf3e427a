package postgres_test

import (
	"encoding/binary"
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// proxy stands between a store and its server. It calls step before it passes on
// each message of a client that has logged in, and cuts the connection instead
// where step fails.
type proxy struct {
	net.Listener
	server string

	// statements and journeys count what clients send, but for what is said to a
	// connection that is new or has rested.
	statements, journeys atomic.Int64

	mu    sync.Mutex
	step  func(kind byte) error
	conns map[net.Conn]bool
	down  bool
}

func newProxy(t *testing.T, server *postgrestest.Server) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	p := &proxy{Listener: listener, server: server.Address(), conns: make(map[net.Conn]bool)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		p.set(true, nil)
		all.Wait()
	})
	return p
}

// through is a connection string that leads through the proxy.
func (p *proxy) through(t *testing.T, dsn string) string {
	t.Helper()
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.Host = p.Addr().String()
	return u.String()
}

// set says what happens to messages. One that is down cuts all connections.
func (p *proxy) set(down bool, step func(kind byte) error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.down, p.step = down, step
	if down {
		for conn := range p.conns {
			_ = conn.Close()
		}
	}
}

func (p *proxy) join(conns ...net.Conn) (welcome bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		p.conns[conn] = true
	}
	return !p.down
}

func (p *proxy) part(conns ...net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range conns {
		delete(p.conns, conn)
		_ = conn.Close()
	}
}

func (p *proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.server)
	if err != nil {
		_ = client.Close()
		return
	}
	defer p.part(client, server)
	if !p.join(client, server) {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	_ = p.forward(client, server)
	_ = server.Close()
	_ = client.Close()
	back.Wait()
}

// forward passes on message by message: the first has no type.
func (p *proxy) forward(client io.Reader, server io.Writer) error {
	head := make([]byte, 4)
	for kind := []byte(nil); ; kind = make([]byte, 1) {
		if _, err := io.ReadFull(client, kind); err != nil {
			return err
		}
		if _, err := io.ReadFull(client, head); err != nil {
			return err
		}
		body := make([]byte, binary.BigEndian.Uint32(head)-4)
		if _, err := io.ReadFull(client, body); err != nil {
			return err
		}
		switch string(kind) {
		case "E":
			p.statements.Add(1)
		case "S":
			p.journeys.Add(1)
		}
		p.mu.Lock()
		step := p.step
		p.mu.Unlock()
		if step != nil && len(kind) == 1 && kind[0] != 'p' && kind[0] != 'X' {
			if err := step(kind[0]); err != nil {
				return err
			}
		}
		if _, err := server.Write(append(append(kind, head...), body...)); err != nil {
			return err
		}
	}
}
