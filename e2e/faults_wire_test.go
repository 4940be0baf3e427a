package e2e

import (
	"context"
	"io"
	"net"
	"sync"
)

// wire is a network between caddy and its server, on which the messages of the
// clients are looked at before they go on.
type wire struct {
	*gate
	d *tables

	mu sync.Mutex
	// step does what it likes to a message, and cuts the connection by an error.
	step func(message) error
}

// message is one of a client's. The first of a connection has no kind.
type message struct {
	kind string
	body []byte
	port int // of the connection, as the server sees it
}

// through leads caddy's way to its server over a wire.
func (d *tables) through() *wire {
	w := &wire{d: d}
	w.gate = newGate(d.s.t, w.carry)
	d.hosts = w.Addr().String()
	return w
}

// does says what happens to messages from here on: nothing, where step is nil.
func (w *wire) does(step func(message) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.step = step
}

func (w *wire) carry(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("tcp", w.d.server.Address())
	if err != nil {
		return
	}
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(client, server)
		_ = client.Close()
	})
	_ = w.forward(client, server)
	_ = server.Close()
	back.Wait()
}

func (w *wire) forward(client io.Reader, server net.Conn) error {
	port := server.LocalAddr().(*net.TCPAddr).Port
	head := make([]byte, 4)
	for kind := []byte(nil); ; kind = make([]byte, 1) {
		for _, part := range [][]byte{kind, head} {
			if _, err := io.ReadFull(client, part); err != nil {
				return err
			}
		}
		body := make([]byte, length(head))
		if _, err := io.ReadFull(client, body); err != nil {
			return err
		}
		w.mu.Lock()
		step := w.step
		w.mu.Unlock()
		if step != nil {
			if err := step(message{string(kind), body, port}); err != nil {
				return err
			}
		}
		if _, err := server.Write(append(append(kind, head...), body...)); err != nil {
			return err
		}
	}
}

// cut ends the connections that there are.
func (w *wire) cut() {
	w.gate.mu.Lock()
	defer w.gate.mu.Unlock()
	for _, conn := range w.conns {
		_ = conn.(*net.TCPConn).SetLinger(0)
		_ = conn.Close()
	}
}

// held keeps all messages until it is let go.
func (w *wire) held() (letGo func()) {
	ctx, cancel := context.WithCancel(w.d.s.t.Context())
	w.does(func(message) error {
		<-ctx.Done()
		return nil
	})
	return func() {
		w.does(nil)
		cancel()
	}
}

// length is how much of a message follows its head.
func length(head []byte) uint32 {
	return uint32(head[0])<<24 + uint32(head[1])<<16 + uint32(head[2])<<8 + uint32(head[3]) - 4
}
