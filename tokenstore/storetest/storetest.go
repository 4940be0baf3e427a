// Package storetest has the suite that every [tokenstore.Store] passes, [Run]
// and [RunSteps], and storages to test with: one in memory, and doubles of the
// weakest that Caddy's storage plugins are known to be.
package storetest

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// Option says what a store cannot promise, because of what it stands on.
type Option func(*suite)

// WorthlessLock says that the store's lock keeps no other instance away. Two
// instances may then both hold it, and both consume a state if they are asked at
// the same moment; one instance still consumes it once, and so do two that are
// asked one after the other.
func WorthlessLock() Option {
	return func(s *suite) { s.exclusive = false }
}

// SettlesLater says that what two instances write to one account at the same
// moment, without its lock, is all to be seen only after settle was called.
func SettlesLater(settle func()) Option {
	return func(s *suite) { s.settle = settle }
}

// Parallel says that open may be called for several promises at the same time. The
// stores of one promise must share nothing with those of another.
func Parallel() Option {
	return func(s *suite) { s.parallel = true }
}

type suite struct {
	exclusive, parallel bool
	settle              func()
}

type promise struct {
	name string
	test func(t *testing.T, s *suite, a, b tokenstore.Store)
}

// Run holds a store against every sentence of the documentation of
// [tokenstore.Store]. open returns two instances' views of one new, empty store;
// it is called once per promise.
func Run(t *testing.T, open func(t *testing.T) (a, b tokenstore.Store), options ...Option) {
	t.Helper()
	s := &suite{exclusive: true, settle: func() {}}
	for _, option := range options {
		option(s)
	}
	for _, p := range slices.Concat(connectionPromises, accountPromises, movedPromises, lockPromises, contextPromises, walkPromises) {
		t.Run(p.name, func(t *testing.T) {
			if s.parallel {
				t.Parallel()
			}
			a, b := open(t)
			p.test(t, s, a, b)
		})
	}
}

// oddNames are names that have led stores astray.
func oddNames() []string {
	long := make([]byte, 10_000)
	for i := range long {
		long[i] = 'x'
	}
	return []string{
		".", "..", "...", "/", "//", "a/b", "a", "b", "a/", "/a", "../a", "a/../b", "a/..",
		"A", "aA", "AA", "aa", "ä", "a\u0308", "Ünï", "店", "🛒", " ", "a ", " a", "\t", "\n", "\x00", "a\x00b",
		"n-", "h-", "index", "tombstone", "con", "nul", "a.json", "a:b", "a-b", "a_b", "a+b", "a*b", "a\\b", "%2e%2e",
		"{env.HOME}", "'; drop table connections; --", "<script>", "\"", "%", "_",
		string(long), string(long) + "y", string(long[:255]), string(long[:256]), string(long[:50]), string(long[:51]),
	}
}

// account is the account that most promises are about. Its number exceeds 32
// bits, as the provider's do.
var account = tokenstore.AccountID{ClientID: "1234567890123456", UserID: 4_294_967_299, Live: true}

// moment is a time that stores keep whole.
var moment = time.Date(2026, time.March, 1, 12, 30, 15, 123_456_000, time.UTC)

func connection(id, seller string, to tokenstore.AccountID) tokenstore.Connection {
	return tokenstore.Connection{
		ID:            id,
		Application:   "brasil",
		Seller:        seller,
		Account:       to,
		Authorization: 3,
		Nickname:      "LOJA <Ü>",
		Country:       "BR",
		CreatedAt:     moment,
	}
}

// pair returns a pair whose tokens are told apart by word.
func pair(authorization, generation uint64, word string) tokenstore.Pair {
	p := tokenstore.Pair{
		AccessToken:  secret.New("APP_USR-" + word),
		RefreshToken: secret.New("TG-" + word),
		PublicKey:    "APP_USR-public-" + word,
		Scope:        "offline_access payments write",
		ObtainedAt:   moment,
		ExpiresAt:    moment.Add(180 * 24 * time.Hour),
	}
	p.PairID = tokenstore.PairID{
		Authorization: authorization,
		Generation:    generation,
		Hash:          tokenstore.HashPair(p.AccessToken, p.RefreshToken),
	}
	return p
}

func requireConnection(t *testing.T, want tokenstore.Connection, stores ...tokenstore.Store) {
	t.Helper()
	for _, store := range stores {
		got, err := store.Connection(t.Context(), want.Application, want.Seller)
		require.NoError(t, err)
		require.True(t, want.CreatedAt.Equal(got.CreatedAt), "created at %s, want %s", got.CreatedAt, want.CreatedAt)
		got.CreatedAt = want.CreatedAt
		require.Equal(t, want, got)
	}
}

func requireNoConnection(t *testing.T, application, seller string, stores ...tokenstore.Store) {
	t.Helper()
	for _, store := range stores {
		_, err := store.Connection(t.Context(), application, seller)
		require.ErrorIs(t, err, tokenstore.ErrNotFound)
	}
}

func requireConnections(t *testing.T, id tokenstore.AccountID, ids []string, stores ...tokenstore.Store) {
	t.Helper()
	for _, store := range stores {
		connections, err := store.Connections(t.Context(), id)
		require.NoError(t, err)
		got := make([]string, 0, len(connections))
		for _, c := range connections {
			require.Equal(t, id, c.Account)
			got = append(got, c.ID)
		}
		require.ElementsMatch(t, ids, got)
	}
}

func load(t *testing.T, store tokenstore.Store, id tokenstore.AccountID) tokenstore.Account {
	t.Helper()
	a, err := store.Account(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, id, a.ID)
	require.True(t, slices.IsSortedFunc(a.Pairs, func(x, y tokenstore.Pair) int {
		if x.Less(y.PairID) {
			return -1
		}
		return 1
	}), "pairs are in ascending order")
	return a
}

func requirePairs(t *testing.T, id tokenstore.AccountID, want []tokenstore.Pair, stores ...tokenstore.Store) {
	t.Helper()
	for _, store := range stores {
		got := load(t, store, id).Pairs
		require.Len(t, got, len(want))
		for i := range want {
			requireSamePair(t, want[i], got[i])
		}
	}
}

func requireSamePair(t *testing.T, want, got tokenstore.Pair) {
	t.Helper()
	require.True(t, want.AccessToken.Equal(got.AccessToken), "the access token is another")
	require.True(t, want.RefreshToken.Equal(got.RefreshToken), "the refresh token is another")
	require.True(t, want.ObtainedAt.Equal(got.ObtainedAt), "obtained at %s, want %s", got.ObtainedAt, want.ObtainedAt)
	require.True(t, want.ExpiresAt.Equal(got.ExpiresAt), "expires at %s, want %s", got.ExpiresAt, want.ExpiresAt)
	require.Equal(t, want.PairID, got.PairID)
	require.Equal(t, want.PublicKey, got.PublicKey)
	require.Equal(t, want.Scope, got.Scope)
}

// atOnce runs n functions together and returns their errors.
func atOnce(n int, f func(i int) error) []error {
	errs := make([]error, n)
	start := make(chan struct{})
	done := make(chan int, n)
	for i := range n {
		go func() {
			defer func() { done <- i }()
			<-start
			errs[i] = f(i)
		}()
	}
	close(start)
	for range n {
		<-done
	}
	return errs
}

func requireAllNil(t *testing.T, errs []error) {
	t.Helper()
	for i, err := range errs {
		require.NoError(t, err, "of number %d", i)
	}
}

// locked runs f under the account's lock.
func locked(ctx context.Context, store tokenstore.Store, id tokenstore.AccountID, f func() error) error {
	held, err := store.Lock(ctx, id)
	if err != nil {
		return err
	}
	if err := f(); err != nil {
		_ = held.Unlock(ctx)
		return err
	}
	if err := held.Unlock(ctx); err != nil {
		return fmt.Errorf("releasing the lock: %w", err)
	}
	return nil
}
