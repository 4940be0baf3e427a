package storetest

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// meeting is what one instance does between two steps of another's reading.
type meeting struct {
	name   string
	before func(t *testing.T, store tokenstore.Store)
	// meanwhile is done once, whole.
	meanwhile func(ctx context.Context, store tokenstore.Store) error
	// read reads with the instance that is met, and says what it must never see.
	read func(t *testing.T, store tokenstore.Store, when string)
}

var meetings = []meeting{
	{
		name: "AReaderMetByARefreshSeesALivingPair",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.AddPair(t.Context(), account, crashOld))
		},
		meanwhile: func(ctx context.Context, store tokenstore.Store) error {
			if err := store.AddPair(ctx, account, crashNew); err != nil {
				return err
			}
			return store.DeletePairs(ctx, account, crashOld.PairID)
		},
		read: func(t *testing.T, store tokenstore.Store, when string) {
			got := load(t, store, account)
			require.NotEmpty(t, got.Living(), when)
		},
	},
	{
		name: "AReaderMetByARefreshSeesTheIntentOrTheNewPair",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.AddPair(t.Context(), account, crashOld))
			require.NoError(t, store.PutIntent(t.Context(), account, crashIntent(moment)))
		},
		meanwhile: func(ctx context.Context, store tokenstore.Store) error {
			if err := store.AddPair(ctx, account, crashNew); err != nil {
				return err
			}
			if err := store.DeletePairs(ctx, account, crashOld.PairID); err != nil {
				return err
			}
			return store.DeleteIntent(ctx, account, crashIntent(moment))
		},
		read: func(t *testing.T, store tokenstore.Store, when string) {
			got := load(t, store, account)
			living := got.Living()
			require.NotEmpty(t, living, when)
			require.True(t, living[0].PairID == crashNew.PairID || len(got.Intents) == 1, "a burnt pair looks unused %s", when)
		},
	},
	{
		name: "AReaderMetByADisconnectSeesThePairsOrTheTombstone",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.AddPair(t.Context(), account, crashOld))
			require.NoError(t, store.PutMark(t.Context(), account, tokenstore.Mark{Connection: "c", Authorization: 1, At: moment}))
		},
		meanwhile: func(ctx context.Context, store tokenstore.Store) error {
			if err := store.PutTombstone(ctx, account, 1); err != nil {
				return err
			}
			if err := store.DeletePairs(ctx, account, crashOld.PairID); err != nil {
				return err
			}
			return store.DeleteMark(ctx, account, tokenstore.Mark{Connection: "c"})
		},
		read: func(t *testing.T, store tokenstore.Store, when string) {
			got := load(t, store, account)
			require.Equal(t, uint64(2), got.NextAuthorization(), "a consent would be void from the start %s", when)
		},
	},
	{
		name: "AReaderMetByTheDeletionOfADeadPairSeesNoLivingOne",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.AddPair(t.Context(), account, crashOld))
			require.NoError(t, store.PutVerdict(t.Context(), account, tokenstore.Verdict{Pair: crashOld.Hash, Reason: "dead", At: moment}))
		},
		meanwhile: func(ctx context.Context, store tokenstore.Store) error {
			return store.DeletePairs(ctx, account, crashOld.PairID)
		},
		read: func(t *testing.T, store tokenstore.Store, when string) {
			got := load(t, store, account)
			require.Empty(t, got.Living(), when)
		},
	},
	{
		name: "AReaderMetByANewConnectionSeesOneOfTheTwo",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.PutConnection(t.Context(), wasHere))
		},
		meanwhile: func(ctx context.Context, store tokenstore.Store) error {
			if err := store.PutConnection(ctx, connection("new", wasHere.Seller, account)); err != nil {
				return err
			}
			return store.DeleteConnection(ctx, wasHere)
		},
		read: func(t *testing.T, store tokenstore.Store, when string) {
			connections, err := store.Connections(t.Context(), account)
			require.NoError(t, err)
			require.Len(t, connections, 1, when)
			_, err = store.Connection(t.Context(), wasHere.Application, wasHere.Seller)
			require.NoError(t, err, when)
		},
	},
	{
		name: "ASellerMetByASwitchHasAConnection",
		before: func(t *testing.T, store tokenstore.Store) {
			require.NoError(t, store.PutConnection(t.Context(), wasHere))
		},
		meanwhile: func(ctx context.Context, store tokenstore.Store) error {
			if err := store.PutConnection(ctx, isThere); err != nil {
				return err
			}
			return store.DeleteConnection(ctx, wasHere)
		},
		read: func(t *testing.T, store tokenstore.Store, when string) {
			_, err := store.Connection(t.Context(), wasHere.Application, wasHere.Seller)
			require.NoError(t, err, when)
		},
	},
}

// meet runs a meeting at every step of the reader.
func meet(t *testing.T, m meeting, open opener) {
	t.Helper()
	for n := 0; ; n++ {
		require.Less(t, n, mostSteps, "the reader never comes to its end")
		left, met := -1, false
		var reader, other tokenstore.Store
		var meanwhileErr error
		reader, other = open(t, func() error {
			if left == 0 && !met {
				met = true
				meanwhileErr = m.meanwhile(t.Context(), other)
			}
			left--
			return nil
		})
		m.before(t, other)
		left = n
		m.read(t, reader, when("met", n))
		require.NoError(t, meanwhileErr)
		if !met {
			return
		}
	}
}
