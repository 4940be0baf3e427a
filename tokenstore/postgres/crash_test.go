package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

var (
	account = tokenstore.AccountID{ClientID: "1234567890123456", UserID: 4_294_967_299, Live: true}
	moment  = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	shop    = tokenstore.Connection{ID: "c1", Application: "brasil", Seller: "shop-42", Account: account, Authorization: 1, CreatedAt: moment}
)

func newPair(authorization, generation uint64, word string) tokenstore.Pair {
	p := tokenstore.Pair{AccessToken: secret.New("APP_USR-" + word), RefreshToken: secret.New("TG-" + word), ObtainedAt: moment, ExpiresAt: moment.Add(time.Hour)}
	p.PairID = tokenstore.PairID{Authorization: authorization, Generation: generation, Hash: tokenstore.HashPair(p.AccessToken, p.RefreshToken)}
	return p
}

// A step is one message of the wire: a statement's text, its values, its execution,
// and the end of the transaction are each one.
func TestAtAnyMessageThereIsTheOldOrTheNewState(t *testing.T) {
	t.Parallel()
	server := postgrestest.Shared(t)
	dsn, here := schema(t)
	p := newProxy(t, server)
	stepping, other := instance(t, p.through(t, dsn), here), instance(t, dsn, here)
	storetest.RunSteps(t, func(t *testing.T, step func() error) (tokenstore.Store, tokenstore.Store) {
		p.set(false, nil)
		server.Exec(t, dsn, emptied(here))
		// A connection that was cut is replaced before the steps count.
		_, err := stepping.Connection(t.Context(), "", "nobody")
		require.ErrorIs(t, err, tokenstore.ErrNotFound)
		p.set(false, func(byte) error { return step() })
		return stepping, other
	})
}

// Backends are killed all the time while eight sellers are refreshed: every refresh
// that was reported as done is there, and no account is ever without a living pair.
func TestBackendsThatAreKilledLoseNothing(t *testing.T) {
	server := postgrestest.Shared(t)
	dsn := server.Database(t)
	a, b := instance(t, dsn), instance(t, dsn)
	killing, stop := context.WithCancel(t.Context())
	var killer errgroup.Group
	var killed atomic.Int64
	killer.Go(func() error {
		for killing.Err() == nil {
			err := server.Try(server.DSN(), fmt.Sprintf(`select pg_terminate_backend(pid) from pg_stat_activity
				where datname = '%s' and random() < 0.5`, server.Name(dsn)))
			if err != nil {
				return err
			}
			killed.Add(1)
		}
		return nil
	})
	var all errgroup.Group
	for user := range int64(8) {
		id := tokenstore.AccountID{ClientID: "1", UserID: user + 1, Live: true}
		all.Go(func() error { return refreshed(t.Context(), id, []*postgres.Store{a, b}) })
	}
	require.NoError(t, all.Wait())
	stop()
	require.NoError(t, killer.Wait())
	require.Positive(t, killed.Load())
}

// refreshed adds generation after generation, each until the store says that it is
// there, and deletes the one before.
func refreshed(ctx context.Context, id tokenstore.AccountID, stores []*postgres.Store) error {
	insist := func(op func(s *postgres.Store) error) error {
		var err error
		for try := range 1000 {
			if err = op(stores[try%len(stores)]); err == nil || errors.Is(err, tokenstore.ErrNotFound) {
				return err
			}
		}
		return err
	}
	last := newPair(1, 0, fmt.Sprint(id.UserID))
	if err := insist(func(s *postgres.Store) error { return s.AddPair(ctx, id, last) }); err != nil {
		return err
	}
	for generation := uint64(1); generation <= 20; generation++ {
		next := newPair(1, generation, fmt.Sprint(id.UserID, "-", generation))
		if err := insist(func(s *postgres.Store) error { return s.AddPair(ctx, id, next) }); err != nil {
			return err
		}
		if err := insist(func(s *postgres.Store) error { return s.DeletePairs(ctx, id, last.PairID) }); err != nil {
			return err
		}
		err := insist(func(s *postgres.Store) error {
			state, err := s.Account(ctx, id)
			if err == nil && (len(state.Pairs) != 1 || state.Pairs[0].PairID != next.PairID) {
				err = fmt.Errorf("%w: %v is not what was added last", tokenstore.ErrNotFound, state.Pairs)
			}
			return err
		})
		if err != nil {
			return err
		}
		last = next
	}
	return nil
}
