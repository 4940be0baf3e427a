package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// quietFor is how long the listener hears nothing before it asks whether the
	// server is still there.
	quietFor = 20 * time.Second
	// mostPayload is a little less than what PostgreSQL takes.
	mostPayload = 7900
)

// change is tokenstore.Change by the name that it goes by here.
type change = tokenstore.Change

// notice is the payload of a notification. It names what changed, and holds
// nothing of what it changed to.
type notice struct {
	// From is the Database that sent it: one's own are skipped.
	From        string                `json:"from"`
	Account     *tokenstore.AccountID `json:"account,omitempty"`
	Application string                `json:"application,omitempty"`
	Seller      string                `json:"seller,omitempty"`
	// Wanted and Free are the numbers of locks: one that somebody waits for, and
	// one that was released and had been waited for.
	Wanted int64 `json:"wanted,omitempty"`
	Free   int64 `json:"free,omitempty"`
}

// notify queues a notification. It is sent with the commit, or not at all.
func (d *Database) notify(b *pgx.Batch, c change) {
	n := notice{Application: c.Application, Seller: c.Seller}
	if c.Account != (tokenstore.AccountID{}) {
		n.Account = &c.Account
	}
	b.Queue("select pg_notify($1, $2)", d.channel, d.payload(n))
}

// payload names no seller at all where the name is too long: then anything may
// have changed.
func (d *Database) payload(n notice) string {
	n.From = d.instance
	encoded, err := json.Marshal(n)
	if err != nil || len(encoded) > mostPayload {
		encoded, _ = json.Marshal(notice{From: d.instance})
	}
	return string(encoded)
}

// Watch listens on a session of its own.
func (s *Store) Watch(ctx context.Context, changed func(tokenstore.Change)) error {
	err := s.db.listen(ctx, changed)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("listening to changes: %w", err)
}

func (d *Database) listen(ctx context.Context, changed func(change)) error {
	conn, err := d.connect(ctx)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	if err := simple(ctx, conn, "listen "+d.channel); err != nil {
		return err
	}
	changed(change{})
	for {
		n, err := wait(ctx, conn)
		if err != nil {
			return err
		}
		if n == nil {
			continue
		}
		var said notice
		if err := json.Unmarshal([]byte(n.Payload), &said); err != nil || said.From == d.instance {
			continue // sent by another program on our channel, or by this instance
		}
		switch {
		case said.Wanted != 0:
			d.locks.wanted(said.Wanted)
		case said.Free != 0:
			d.locks.wake(said.Free)
		case said.Account != nil:
			changed(change{Account: *said.Account})
		default:
			changed(change{Application: said.Application, Seller: said.Seller})
		}
	}
}

// wait returns the next notification, or nil after a while in which there was none
// and the server answered.
func wait(ctx context.Context, conn *pgx.Conn) (*pgconn.Notification, error) {
	quiet, cancel := context.WithTimeout(ctx, quietFor)
	defer cancel()
	n, err := conn.WaitForNotification(quiet)
	if err == nil || ctx.Err() != nil || !errors.Is(quiet.Err(), context.DeadlineExceeded) {
		return n, err
	}
	ping, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	return nil, conn.Ping(ping)
}

var _ tokenstore.Watcher = (*Store)(nil)
