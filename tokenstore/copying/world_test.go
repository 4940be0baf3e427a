package copying_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/copying"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// moment is long ago, also by the clock of a synctest bubble: nothing that bears it
// is under way.
var moment = time.Date(1999, time.March, 1, 12, 0, 0, 0, time.UTC)

func keyring(t testing.TB) *secret.Keyring {
	t.Helper()
	ring, err := secret.NewKeyring(secret.New(strings.Repeat("k", 32)))
	require.NoError(t, err)
	return ring
}

func newStore(t testing.TB) tokenstore.Store {
	return caddystorage.New(storetest.NewMemory(), keyring(t))
}

func account(n int) tokenstore.AccountID {
	return tokenstore.AccountID{ClientID: "1234", UserID: 1<<32 + int64(n), Live: true}
}

func newPair(authorization, generation uint64, word string) tokenstore.Pair {
	p := tokenstore.Pair{
		AccessToken: secret.New("APP_USR-" + word), RefreshToken: secret.New("TG-" + word), PublicKey: "PK-" + word, Scope: "offline_access",
		ObtainedAt: moment, ExpiresAt: moment.Add(180 * 24 * time.Hour),
	}
	p.PairID = tokenstore.PairID{Authorization: authorization, Generation: generation, Hash: tokenstore.HashPair(p.AccessToken, p.RefreshToken)}
	return p
}

func connection(id, seller string, to tokenstore.AccountID) tokenstore.Connection {
	return tokenstore.Connection{ID: id, Application: "brasil", Seller: seller, Account: to, Authorization: 1, Nickname: "LOJA", Country: "BR", CreatedAt: moment}
}

// world is two stores, of which things are moved from one to the other.
type world struct {
	t        *testing.T
	from, to tokenstore.Store
}

func newWorld(t *testing.T) *world { return &world{t: t, from: newStore(t), to: newStore(t)} }

func (w *world) options() copying.Options {
	return copying.Options{
		From: copying.Place{Name: "old", Store: w.from}, To: copying.Place{Name: "new", Store: w.to}, Settle: time.Minute,
		Failed: func(id tokenstore.AccountID, err error) { w.t.Logf("%s: %v", id, err) },
	}
}

func (w *world) copy() copying.Summary {
	w.t.Helper()
	done, err := copying.Run(context.Background(), w.options())
	require.NoError(w.t, err)
	return done
}

func (w *world) back() copying.Summary {
	w.t.Helper()
	o := w.options()
	o.From, o.To = o.To, o.From
	done, err := copying.Run(context.Background(), o)
	require.NoError(w.t, err)
	return done
}

func (w *world) read(store tokenstore.Store, id tokenstore.AccountID) tokenstore.Account {
	w.t.Helper()
	a, err := store.Account(context.Background(), id)
	require.NoError(w.t, err)
	return a
}

func (w *world) connections(store tokenstore.Store, id tokenstore.AccountID) []string {
	w.t.Helper()
	found, err := store.Connections(context.Background(), id)
	require.NoError(w.t, err)
	ids := []string{}
	for _, c := range found {
		ids = append(ids, c.ID+"="+c.Seller)
	}
	return ids
}

// add puts pairs into a store.
func (w *world) add(store tokenstore.Store, id tokenstore.AccountID, pairs ...tokenstore.Pair) {
	w.t.Helper()
	for _, p := range pairs {
		require.NoError(w.t, store.AddPair(context.Background(), id, p))
	}
}

func (w *world) connect(store tokenstore.Store, connections ...tokenstore.Connection) {
	w.t.Helper()
	for _, c := range connections {
		require.NoError(w.t, store.PutConnection(context.Background(), c))
	}
}

func (w *world) end(store tokenstore.Store, c tokenstore.Connection) {
	w.t.Helper()
	require.NoError(w.t, store.DeleteConnection(context.Background(), c))
}

// words are the pairs that a store has of an account, by number and by the word in
// their tokens, in order.
func words(a *tokenstore.Account) []string {
	all := []string{}
	for _, p := range a.Pairs {
		all = append(all, fmt.Sprintf("%d.%d %s", p.Authorization, p.Generation, strings.TrimPrefix(p.AccessToken.Reveal(), "APP_USR-")))
	}
	return all
}

func (w *world) pairs(store tokenstore.Store, id tokenstore.AccountID) []string {
	w.t.Helper()
	a := w.read(store, id)
	return words(&a)
}

// fill puts one account of each kind into the source, and returns their ids.
func (w *world) fill() (ids []tokenstore.AccountID) {
	w.t.Helper()
	ctx, s := context.Background(), w.from
	for i := range 8 {
		ids = append(ids, account(i))
	}
	w.add(s, ids[0], newPair(1, 0, "plain"))
	w.connect(s, connection("c0", "shop-0", ids[0]), connection("c0b", "{env.HOME}/../ä", ids[0]))
	// A reconnected seller, whose first consent is still there, and a dead one.
	w.add(s, ids[1], newPair(1, 3, "first"), newPair(2, 0, "second"), newPair(3, 0, "dead"))
	require.NoError(w.t, s.PutVerdict(ctx, ids[1], tokenstore.Verdict{Pair: newPair(3, 0, "dead").Hash, Reason: "invalid_grant", At: moment}))
	w.connect(s, connection("c1", "shop-1", ids[1]))
	// One whose last refresh has an unknown outcome.
	w.add(s, ids[2], newPair(4, 1, "unknown"))
	require.NoError(w.t, s.PutIntent(ctx, ids[2], tokenstore.Intent{Pair: newPair(4, 1, "unknown").Hash, Instance: "i", Nonce: "n", Attempt: 2, At: moment}))
	w.connect(s, connection("c2", "shop-2", ids[2]))
	// One that was disconnected, and connected again by another seller.
	w.add(s, ids[3], newPair(1, 0, "void"), newPair(2, 0, "again"))
	require.NoError(w.t, s.PutTombstone(ctx, ids[3], 1))
	w.connect(s, connection("c3", "shop-3", ids[3]))
	w.end(s, connection("c3", "shop-3", ids[3]))
	w.connect(s, connection("c3b", "shop-3b", ids[3]))
	// One that is gone, one in the midst of a disconnect, one that nobody has
	// confirmed, and one with neither refresh token nor connection.
	require.NoError(w.t, s.PutTombstone(ctx, ids[4], 7))
	w.add(s, ids[5], newPair(1, 0, "marked"))
	require.NoError(w.t, s.PutMark(ctx, ids[5], tokenstore.Mark{Connection: "c5", Authorization: 1, At: moment}))
	w.connect(s, connection("c5b", "shop-5", ids[5]))
	w.add(s, ids[6], newPair(1, 0, "unconfirmed"))
	bare := newPair(1, 0, "bare")
	bare.RefreshToken = secret.Secret{}
	bare.Hash = tokenstore.HashPair(bare.AccessToken, bare.RefreshToken)
	w.add(s, ids[7], bare)
	return ids
}

// requireMoved holds the target against what the source has of an account.
func (w *world) requireMoved(from, to tokenstore.Store, id tokenstore.AccountID, name string) {
	w.t.Helper()
	a, b := w.read(from, id), w.read(to, id)
	require.Nil(w.t, b.Moved, "the target is in charge")
	require.NotNil(w.t, a.Moved)
	require.Equal(w.t, name, a.Moved.To)
	require.True(w.t, a.Moved.Done)
	living, moved := a.Living(), b.Living()
	require.Len(w.t, moved, len(living))
	for i, p := range living {
		require.Equal(w.t, p.PairID, moved[i].PairID)
		require.True(w.t, p.AccessToken.Equal(moved[i].AccessToken) && p.RefreshToken.Equal(moved[i].RefreshToken))
		require.Equal(w.t, p.PublicKey+p.Scope, moved[i].PublicKey+moved[i].Scope)
		require.True(w.t, p.ExpiresAt.Equal(moved[i].ExpiresAt) && p.ObtainedAt.Equal(moved[i].ObtainedAt))
	}
	require.ElementsMatch(w.t, a.Verdicts, b.Verdicts)
	require.ElementsMatch(w.t, a.Intents, b.Intents)
	require.ElementsMatch(w.t, a.Marks, b.Marks)
	require.Equal(w.t, a.Tombstone, b.Tombstone)
	require.Equal(w.t, a.NextAuthorization(), b.NextAuthorization())
	connections, err := from.Connections(w.t.Context(), id)
	require.NoError(w.t, err)
	require.ElementsMatch(w.t, w.connections(from, id), w.connections(to, id))
	for _, c := range connections {
		there, err := to.Connection(w.t.Context(), c.Application, c.Seller)
		require.NoError(w.t, err)
		c.CreatedAt, there.CreatedAt = c.CreatedAt.UTC(), there.CreatedAt.UTC()
		require.Equal(w.t, c, there)
	}
}

var (
	errCrash = errors.New("crashed")
	// errSkipped has an operation say that it was carried out though it was not.
	errSkipped = errors.New("skipped")
)

// hooked asks before each operation, and once it was carried out. An error of the
// second kind is one of an operation that happened.
type hooked struct {
	tokenstore.Store
	hook func(op string, after bool) error
}

func hook(store tokenstore.Store, f func(op string, after bool) error) *hooked {
	return &hooked{Store: store, hook: f}
}

func (h *hooked) do(op string, work func() error) error {
	if err := h.hook(op, false); errors.Is(err, errSkipped) {
		return nil
	} else if err != nil {
		return err
	}
	if err := work(); err != nil {
		return err
	}
	return h.hook(op, true)
}

func (h *hooked) Account(ctx context.Context, id tokenstore.AccountID) (a tokenstore.Account, err error) {
	err = h.do("Account", func() (err error) { a, err = h.Store.Account(ctx, id); return err })
	return a, err
}

func (h *hooked) Connection(ctx context.Context, application, seller string) (c tokenstore.Connection, err error) {
	err = h.do("Connection", func() (err error) { c, err = h.Store.Connection(ctx, application, seller); return err })
	return c, err
}

func (h *hooked) Connections(ctx context.Context, id tokenstore.AccountID) (all []tokenstore.Connection, err error) {
	err = h.do("Connections", func() (err error) { all, err = h.Store.Connections(ctx, id); return err })
	return all, err
}

func (h *hooked) PutConnection(ctx context.Context, c tokenstore.Connection) error {
	return h.do("PutConnection", func() error { return h.Store.PutConnection(ctx, c) })
}

func (h *hooked) DeleteConnection(ctx context.Context, c tokenstore.Connection) error {
	return h.do("DeleteConnection", func() error { return h.Store.DeleteConnection(ctx, c) })
}

func (h *hooked) AddPair(ctx context.Context, id tokenstore.AccountID, p tokenstore.Pair) error {
	return h.do("AddPair", func() error { return h.Store.AddPair(ctx, id, p) })
}

func (h *hooked) DeletePairs(ctx context.Context, id tokenstore.AccountID, p ...tokenstore.PairID) error {
	return h.do("DeletePairs", func() error { return h.Store.DeletePairs(ctx, id, p...) })
}

func (h *hooked) PutIntent(ctx context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	return h.do("PutIntent", func() error { return h.Store.PutIntent(ctx, id, i) })
}

func (h *hooked) PutVerdict(ctx context.Context, id tokenstore.AccountID, v tokenstore.Verdict) error {
	return h.do("PutVerdict", func() error { return h.Store.PutVerdict(ctx, id, v) })
}

func (h *hooked) PutMark(ctx context.Context, id tokenstore.AccountID, m tokenstore.Mark) error {
	return h.do("PutMark", func() error { return h.Store.PutMark(ctx, id, m) })
}

func (h *hooked) PutTombstone(ctx context.Context, id tokenstore.AccountID, n uint64) error {
	return h.do("PutTombstone", func() error { return h.Store.PutTombstone(ctx, id, n) })
}

func (h *hooked) PutMoved(ctx context.Context, id tokenstore.AccountID, m tokenstore.Moved) error {
	return h.do("PutMoved", func() error { return h.Store.PutMoved(ctx, id, m) })
}

func (h *hooked) DeleteMoved(ctx context.Context, id tokenstore.AccountID) error {
	return h.do("DeleteMoved", func() error { return h.Store.DeleteMoved(ctx, id) })
}

func (h *hooked) Lock(ctx context.Context, id tokenstore.AccountID) (l tokenstore.Lock, err error) {
	// The dead hold no lock for long.
	if err := h.hook("Lock", false); err != nil {
		return nil, err
	}
	return h.Store.Lock(ctx, id)
}
