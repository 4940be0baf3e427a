package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// terminate ends all sessions of caddy.
func (d *tables) terminate() {
	d.s.t.Helper()
	d.do("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '%[1]s'")
}

// killedWithTheServer is a machine that both were on.
func killedWithTheServer(s *stage) {
	var mend func()
	s.answeredInto(func() { mend = crashed(s.tables()) })
	s.suffers()
	s.caddy.kill()
	mend()
	s.caddy.start()
}

// follow starts a replica that has all that the server says it has.
func (d *tables) follow() *postgrestest.Server {
	replica := d.server.Replica(d.s.t)
	d.set("synchronous_standby_names = '*'")
	return replica
}

// becomes is another server in the place of the one that is gone.
func (d *tables) becomes(server *postgrestest.Server) {
	require.NoError(d.s.t, server.Promote())
	d.admin = string(bytes.Replace([]byte(d.admin), []byte(d.server.Address()), []byte(server.Address()), 1))
	d.server, d.store = server, nil
}

func failedOver(s *stage) {
	d := s.tables()
	replica := d.follow()
	d.hosts += "," + replica.Address()
	outage(func(d *tables) func() {
		require.NoError(s.t, d.server.Crash())
		return func() { d.becomes(replica) }
	}).whileServing(s)
}

// replicaOnly is a configuration that names the wrong server, until that is the
// right one.
func replicaOnly(d *tables) func() {
	replica := d.follow()
	d.hosts = replica.Address()
	require.NoError(d.s.t, d.server.Stop())
	return func() { d.becomes(replica) }
}

func laggedBehind(s *stage) {
	d := s.tables()
	replica := d.server.Replica(s.t)
	d.hosts += "," + replica.Address()
	s.running()
	require.NoError(s.t, replica.Stop())
	require.Equal(s.t, ok, s.call(ended))
	s.settled(ended)
	require.NoError(s.t, d.server.Crash())
	require.NoError(s.t, replica.Start())
	d.becomes(replica)
	require.Equal(s.t, uint64(0), s.generation(ended))
	s.order("later 1m")
	s.look()
	await(s.t, "the store has the newer pair again", func() bool { return s.generation(ended) == 1 })
	require.Equal(s.t, 1, s.refreshes())
}

// readOnly has the server take no writes, and waits until caddy has found out.
func readOnly(s *stage) {
	s.running()
	s.tables().set("default_transaction_read_only = on")
	s.suffers()
	s.look()
	s.tables().set("default_transaction_read_only = off")
}

// storm is as many sessions of others as there may be.
func storm(d *tables) func() {
	t, dsn := d.s.t, d.dsn(d.server.Address())
	var others []*pgx.Conn
	for {
		conn, err := pgx.Connect(t.Context(), dsn)
		if err != nil {
			require.ErrorContains(t, err, "53300")
			break
		}
		others = append(others, conn)
	}
	require.NotEmpty(t, others)
	return func() {
		for _, conn := range others {
			require.NoError(t, conn.Close(context.Background()))
		}
	}
}

func tableLocked(d *tables) func() {
	return d.hold("begin; lock table mercadopago.pairs in access exclusive mode")
}

func lockedForEver(s *stage) {
	s.running()
	lock, err := s.store().Lock(s.t.Context(), accountID(ended))
	require.NoError(s.t, err)
	s.t.Cleanup(func() { _ = lock.Unlock(context.Background()) })
	s.look()
}

func slow(w *wire) func() {
	w.does(func(message) error {
		<-time.After(20 * time.Millisecond)
		return nil
	})
	return func() { w.does(nil) }
}

var errCut = errors.New("cut")

func resets(w *wire) func() {
	w.does(func(message) error { return errCut })
	w.cut()
	return func() { w.does(nil) }
}

func resetOnce(w *wire) func() {
	w.cut()
	return func() {}
}

// deaf ends the session that listens, and lets none listen anew.
func deaf(w *wire) func() {
	w.does(func(m message) error {
		if bytes.HasPrefix(m.body, []byte("listen ")) {
			return errCut
		}
		return nil
	})
	w.d.do("select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '%[1]s' and query like 'listen %%'")
	return func() { w.does(nil) }
}

// crowd connects many more accounts whose tokens ended, and that no caddy comes by
// for now.
func (s *stage) crowd(n int) (accounts []sandbox.Account) {
	s.t.Helper()
	for i := range n {
		accounts = append(accounts, sandbox.Account{UserID: 6_000_000_000 + int64(i), Nickname: fmt.Sprint("CROWD_", i)})
	}
	s.accounts = append(sandbox.DefaultAccounts(), accounts...)
	s.platform.open()
	s.front.sandbox = s.provider
	for _, account := range accounts {
		s.unnoticed(account)
	}
	return accounts
}

// terminatedInTurn ends, in the n-th of many refreshes, the backend that is about
// to be sent the refresh's n-th statement.
func terminatedInTurn(s *stage) {
	const most = 40
	w, crowd := s.tables().through(), s.crowd(most)
	s.running()
	for n, account := range crowd {
		var sent atomic.Int64
		w.does(func(m message) error {
			if m.kind != "B" && m.kind != "Q" && m.kind != "P" || sent.Add(1) != int64(n+1) {
				return nil
			}
			return w.d.server.Try(w.d.admin, fmt.Sprintf("select pg_terminate_backend(pid, 5000) from pg_stat_activity where client_port = %d", m.port))
		})
		require.Equal(s.t, ok, s.call(account), "with the backend of statement %d", n+1)
		s.settled(account)
		if sent.Load() <= int64(n) {
			s.t.Logf("a refresh has %d places", n)
			break
		}
		require.Less(s.t, n, most-1, "there are more statements in a refresh than that")
	}
	w.does(nil)
	s.look()
}

// settled waits until a refresh has cleaned up behind it.
func (s *stage) settled(account sandbox.Account) {
	s.t.Helper()
	await(s.t, "the refresh has cleaned up behind it", func() bool {
		state, err := s.store().Account(s.t.Context(), accountID(account))
		require.NoError(s.t, err)
		return len(state.Pairs) == 1 && state.Pairs[0].Generation == 1 && len(state.Intents) == 0
	})
}

func terminatedAtRandom(s *stage) {
	crowd := s.crowd(12)
	s.running()
	over, done := context.WithCancel(s.t.Context())
	killed := make(chan error, 1)
	random := sample.Rand(s.t, terminateStream)
	go func() {
		killed <- s.tables().terminateAtRandom(over, random)
	}()
	for _, account := range crowd {
		require.Contains(s.t, []sees{ok, broken}, s.call(account))
		require.Equal(s.t, ok, s.call(valid))
	}
	require.Contains(s.t, []sees{ok, broken}, s.call(ended))
	s.sawValid, s.sawEnded = s.call(valid), either
	done()
	require.NoError(s.t, <-killed)
	for _, account := range crowd {
		s.served(account)
	}
	s.served(ended)
	require.Equal(s.t, len(crowd)+1, s.refreshes(), "one for each, however often it was asked for")
}

func (d *tables) terminateAtRandom(over context.Context, random *rand.Rand) error {
	conn, err := pgx.Connect(over, d.admin)
	if err != nil {
		return err
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(over, "select setseed($1)", random.Float64()); err != nil {
		return err
	}
	for over.Err() == nil {
		_, err := conn.Exec(context.Background(), "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1 and random() < 0.5", d.name)
		if err != nil {
			return err
		}
		select {
		case <-over.Done():
		case <-time.After(time.Duration(random.Int64N(int64(30 * time.Millisecond)))):
		}
	}
	return nil
}
