//go:build linux

package e2e

import (
	"bufio"
	"bytes"
	binaries "encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// deafener stands between an instance and PostgreSQL. It passes everything on, but
// where it is told so, no connection that listens.
type deafener struct {
	net.Listener
	server string

	mu        sync.Mutex
	deaf      bool
	conns     map[net.Conn]bool // and whether it listens
	closed    bool
	deafening int // how often a connection was ended because it listens
}

func newDeafener(t *testing.T, server string) *deafener {
	t.Helper()
	listener, err := net.Listen("tcp", hubAddress+":0")
	require.NoError(t, err)
	d := &deafener{Listener: listener, server: server, conns: make(map[net.Conn]bool)}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() { d.serve(client) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		d.mu.Lock()
		d.closed = true
		for conn := range d.conns {
			_ = conn.Close()
		}
		d.mu.Unlock()
		all.Wait()
	})
	return d
}

// deafen ends what listens, now and until it is called with false.
func (d *deafener) deafen(deaf bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deaf = deaf
	for conn, listens := range d.conns {
		if deaf && listens {
			_ = conn.Close()
		}
	}
}

func (d *deafener) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", d.server)
	if err != nil {
		return
	}
	defer server.Close()
	d.mu.Lock()
	closed := d.closed
	d.conns[client] = false
	d.mu.Unlock()
	if closed {
		return
	}
	defer func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.conns, client)
	}()
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	_ = d.forward(client, server)
	_ = server.Close()
	_ = client.Close()
	back.Wait()
}

// forward passes on message by message: the first has no type, and every other one
// begins with it.
func (d *deafener) forward(client net.Conn, server io.Writer) error {
	from, to := bufio.NewReader(client), bufio.NewWriter(server)
	for kind := 0; ; kind = 1 {
		head, err := from.Peek(kind + 4)
		if err != nil {
			return err
		}
		length := kind + int(binaries.BigEndian.Uint32(head[kind:]))
		if kind == 1 && head[0] == 'Q' {
			question, err := from.Peek(min(length, 32))
			if err != nil {
				return err
			}
			if bytes.HasPrefix(question[5:], []byte("listen ")) && d.hears(client) {
				return fmt.Errorf("nobody listens through here")
			}
		}
		if _, err := io.CopyN(to, from, int64(length)); err != nil {
			return err
		}
		if from.Buffered() == 0 {
			if err := to.Flush(); err != nil {
				return err
			}
		}
	}
}

// hears notes that a connection listens, and tells whether it may not.
func (d *deafener) hears(client net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.conns[client] = true
	if d.deaf {
		d.deafening++
	}
	return d.deaf
}
