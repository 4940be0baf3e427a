package postgres_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

func TestNoCallerFeelsThatAllConnectionsOfThePoolWereEnded(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn := server.Database(t)
	s := instance(t, dsn)
	require.NoError(t, s.PutConnection(t.Context(), shop))
	locked, err := s.Lock(t.Context(), account) // its session is ended too
	require.NoError(t, err)
	for range 3 {
		// Those that were used a moment ago are not asked whether they are alive.
		var all errgroup.Group
		for range 100 {
			all.Go(func() error {
				_, err := s.Connection(t.Context(), shop.Application, shop.Seller)
				return err
			})
		}
		require.NoError(t, all.Wait())
		require.Greater(t, ask[int](t, dsn, connections), 2)
		server.Exec(t, dsn, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
		_, err := s.Connection(t.Context(), shop.Application, shop.Seller)
		require.NoError(t, err)
	}
	require.NoError(t, locked.Unlock(t.Context()))
}
