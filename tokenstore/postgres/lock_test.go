package postgres_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// Who tidies the tables up (autovacuum) is there at times too.
const connections = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"

func TestALockDiesWithItsHolder(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn := server.Database(t)
	p := newProxy(t, server)
	holder, other := instance(t, p.through(t, dsn)), instance(t, dsn)
	held, err := holder.Lock(t.Context(), account)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = other.Lock(ctx, account)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	p.set(true, nil) // the process dies, or its cable is cut
	got, err := other.Lock(t.Context(), account)
	require.NoError(t, err)
	require.NoError(t, held.Unlock(t.Context()), "the dead one's unlock takes nothing away")
	ctx, cancel = context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	p.set(false, nil)
	_, err = holder.Lock(ctx, account)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NoError(t, got.Unlock(t.Context()))
	again, err := holder.Lock(t.Context(), account)
	require.NoError(t, err, "the one that was cut off is back")
	require.NoError(t, again.Unlock(t.Context()))
}

func TestWhoWaitsForALockHoldsNoConnection(t *testing.T) {
	dsn := postgrestest.Shared(t).Database(t)
	few := func(c *postgres.Config) { c.MaxConnections = 4 }
	a, b := instance(t, dsn, few), instance(t, dsn, few)
	const sellers, waiting = 20, 5
	id := func(i int) tokenstore.AccountID {
		return tokenstore.AccountID{ClientID: "1", UserID: int64(i%sellers + 1)}
	}
	var held []tokenstore.Lock
	for i := range sellers {
		l, err := a.Lock(t.Context(), id(i))
		require.NoError(t, err)
		held = append(held, l)
	}
	var all errgroup.Group
	for i := range sellers * waiting {
		all.Go(func() error {
			l, err := []*postgres.Store{a, b}[i/sellers%2].Lock(t.Context(), id(i))
			if err != nil {
				return err
			}
			return l.Unlock(t.Context())
		})
	}
	for i := range 40 {
		require.NoError(t, []*postgres.Store{a, b}[i%2].PutConnection(t.Context(), shop), "the pool serves on")
		require.LessOrEqual(t, ask[int](t, dsn, connections), 8)
	}
	for _, l := range held {
		require.NoError(t, l.Unlock(t.Context()))
	}
	require.NoError(t, all.Wait())
}

// With the listeners up, whoever waits has the lock as soon as it is free, not at
// its next try.
func TestWhoWaitsIsWokenByTheHolder(t *testing.T) {
	dsn, here := schema(t)
	a, b := instance(t, dsn, here), instance(t, dsn, here)
	told(t, a)
	told(t, b)
	b.NeverAskAgain()
	for range 5 {
		held, err := a.Lock(t.Context(), account)
		require.NoError(t, err)
		waited := make(chan error)
		go func() {
			l, err := b.Lock(t.Context(), account)
			if err == nil {
				err = l.Unlock(t.Context())
			}
			waited <- err
		}()
		require.Eventually(t, func() bool { return a.Contended() }, time.Minute, time.Millisecond, "the holder hears that it is waited for")
		require.NoError(t, held.Unlock(t.Context()))
		require.NoError(t, <-waited)
	}
}

func TestALockIsHadAgainAfterTheServerWasRestarted(t *testing.T) {
	t.Parallel()
	server := postgrestest.New(t, "fsync=off")
	s := instance(t, server.DSN())
	held, err := s.Lock(t.Context(), account)
	require.NoError(t, err)
	require.NoError(t, server.Stop())
	_, err = s.Lock(t.Context(), tokenstore.AccountID{ClientID: "1", UserID: 2})
	require.Error(t, err)
	require.NoError(t, server.Start())
	require.NoError(t, held.Unlock(t.Context()))
	for i := range 3 {
		l, err := s.Lock(t.Context(), account)
		require.NoError(t, err, fmt.Sprint(i))
		require.NoError(t, l.Unlock(t.Context()))
	}
}
