package tokensource

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

var noVerifier secret.Secret

// noLocks is storage whose locks do nothing.
type noLocks struct{ certmagic.Storage }

func (noLocks) Lock(context.Context, string) error   { return nil }
func (noLocks) Unlock(context.Context, string) error { return nil }

func pairOf(at time.Time, life time.Duration) tokenstore.Pair {
	p := tokenstore.Pair{AccessToken: secret.New("a"), RefreshToken: secret.New("r"), ObtainedAt: at, ExpiresAt: at.Add(life)}
	p.PairID = tokenstore.PairID{Authorization: 1, Hash: tokenstore.HashPair(p.AccessToken, p.RefreshToken)}
	return p
}

// many is a store and a provider with very many accounts, each with a seller, as
// fast as maps are.
type many struct {
	tokenstore.Store
	mu       sync.Mutex
	accounts map[tokenstore.AccountID]*tokenstore.Account
	order    []tokenstore.AccountID
	locks    map[tokenstore.AccountID]chan struct{}
	living   map[int64]int
	posts    int
	reused   int
	latency  time.Duration
	last     time.Time
	// Before downUntil the provider refuses connections.
	downUntil    time.Time
	refusedPosts int
}

func newMany(n int, obtained time.Time) *many {
	m := &many{accounts: map[tokenstore.AccountID]*tokenstore.Account{}, locks: map[tokenstore.AccountID]chan struct{}{}, living: map[int64]int{}}
	for i := range n {
		id := accountID(int64(i + 1))
		p := m.pair(id.UserID, 0, obtained)
		m.accounts[id] = &tokenstore.Account{ID: id, Pairs: []tokenstore.Pair{p}}
		m.order = append(m.order, id)
		m.locks[id] = make(chan struct{}, 1)
	}
	return m
}

func (m *many) pair(user int64, n int, at time.Time) tokenstore.Pair {
	p := tokenstore.Pair{AccessToken: secret.New(fmt.Sprintf("A-%d-%d", n, user)), RefreshToken: secret.New(fmt.Sprintf("TG-%d-%d", n, user)), ObtainedAt: at, ExpiresAt: at.Add(life)}
	p.PairID = tokenstore.PairID{Authorization: 1, Generation: uint64(n), Hash: tokenstore.HashPair(p.AccessToken, p.RefreshToken)}
	return p
}

func (m *many) ClientID() string       { return "1234" }
func (m *many) Timeout() time.Duration { return timeout }

func (m *many) Refresh(_ context.Context, refresh secret.Secret) (oauth.Answer, error) {
	time.Sleep(m.latency)
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Now().Before(m.downUntil) {
		m.refusedPosts++
		return oauth.Answer{}, &oauth.Error{Outcome: oauth.Refused}
	}
	m.posts++
	m.last = time.Now()
	parts := strings.Split(refresh.Reveal(), "-")
	n, _ := strconv.Atoi(parts[1])
	user, _ := strconv.ParseInt(parts[2], 10, 64)
	if m.living[user] != n {
		m.reused++
		return oauth.Answer{}, &oauth.Error{Outcome: oauth.GrantDead, Code: "invalid_grant"}
	}
	m.living[user]++
	p := m.pair(user, n+1, time.Now())
	return oauth.Answer{AccessToken: p.AccessToken, RefreshToken: p.RefreshToken, ExpiresIn: life, UserID: user}, nil
}

func (m *many) Exchange(context.Context, string, secret.Secret) (oauth.Answer, error) {
	return oauth.Answer{}, errCrashed
}

func (m *many) ClientCredentials(context.Context) (oauth.Answer, error) {
	return oauth.Answer{}, errCrashed
}

func (m *many) Me(context.Context, secret.Secret) (oauth.User, error) {
	return oauth.User{}, errCrashed
}
func (m *many) Revoke(context.Context, int64, secret.Secret) error { return nil }

func (m *many) change(id tokenstore.AccountID, change func(*tokenstore.Account)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m.accounts[id])
	return nil
}

func (m *many) Account(_ context.Context, id tokenstore.AccountID) (state tokenstore.Account, err error) {
	return state, m.change(id, func(a *tokenstore.Account) {
		state = *a
		state.Pairs, state.Intents = slices.Clone(a.Pairs), slices.Clone(a.Intents)
	})
}

func (m *many) Connections(_ context.Context, id tokenstore.AccountID) ([]tokenstore.Connection, error) {
	return []tokenstore.Connection{{ID: "c", Seller: "shop", Account: id}}, nil
}

func (m *many) AddPair(_ context.Context, id tokenstore.AccountID, p tokenstore.Pair) error {
	return m.change(id, func(a *tokenstore.Account) { a.Pairs = append(a.Pairs, p) })
}

func (m *many) DeletePairs(_ context.Context, id tokenstore.AccountID, gone ...tokenstore.PairID) error {
	return m.change(id, func(a *tokenstore.Account) {
		a.Pairs = slices.DeleteFunc(a.Pairs, func(p tokenstore.Pair) bool { return slices.Contains(gone, p.PairID) })
	})
}

func (m *many) PutIntent(_ context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	return m.change(id, func(a *tokenstore.Account) { a.Intents = append(a.Intents, i) })
}

func (m *many) DeleteIntent(_ context.Context, id tokenstore.AccountID, gone tokenstore.Intent) error {
	return m.change(id, func(a *tokenstore.Account) {
		a.Intents = slices.DeleteFunc(a.Intents, func(i tokenstore.Intent) bool { return i.Nonce == gone.Nonce })
	})
}

func (m *many) Lock(ctx context.Context, id tokenstore.AccountID) (tokenstore.Lock, error) {
	select {
	case m.locks[id] <- struct{}{}:
		return manyLock(m.locks[id]), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type manyLock chan struct{}

func (l manyLock) Unlock(context.Context) error { <-l; return nil }

func (m *many) Accounts(_ context.Context, after string, n int) ([]tokenstore.AccountID, string, error) {
	from, _ := strconv.Atoi(after)
	to := min(from+n, len(m.order))
	if to == len(m.order) {
		return m.order[from:], "", nil
	}
	return m.order[from:to], strconv.Itoa(to), nil
}

func (m *many) CleanUp(context.Context, time.Time, string, int) (string, error) { return "", nil }

func TestTenThousandDueRenewalsTakeHardlyLongerThanTheyMust(t *testing.T) {
	for _, instances := range []int{1, 3} {
		t.Run(fmt.Sprint(instances), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const n = 10_000
				m := newMany(n, time.Now())
				m.latency = 100 * time.Millisecond
				keyring := newWorld(t).keyring
				time.Sleep(160 * day)
				began := time.Now()
				var managers []*Manager
				for range instances {
					manager := NewManager()
					managers = append(managers, manager)
					manager.Source(Config{
						StoreID:      "one",
						Open:         func(context.Context) (tokenstore.Store, *secret.Keyring, error) { return m, keyring, nil },
						Applications: []Application{{Client: m}},
						Renewal:      Renewal{Parallel: 64, WalkRate: 60_000},
					}).Start()
				}
				time.Sleep(5 * time.Minute)
				for _, manager := range managers {
					require.NoError(t, manager.Destruct())
				}
				ideal := n * m.latency / 64
				t.Logf("%d due renewals, instances: %d, a token request takes %s: done in %s (one instance, 64 at once, needs %s at the least)", m.posts, instances, m.latency, m.last.Sub(began).Round(time.Millisecond), ideal)
				require.Equal(t, n, m.posts)
				require.Zero(t, m.reused)
				require.LessOrEqual(t, m.last.Sub(began), ideal*115/100)
			})
		})
	}
}

// The provider is down when ten thousand come due, and back an hour later.
func TestAnHourWithoutTheProviderLosesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 10_000
		m := newMany(n, time.Now())
		m.latency = 100 * time.Millisecond
		keyring := newWorld(t).keyring
		time.Sleep(160 * day)
		back := time.Now().Add(time.Hour)
		m.downUntil = back
		manager := NewManager()
		manager.Source(Config{
			StoreID:      "one",
			Open:         func(context.Context) (tokenstore.Store, *secret.Keyring, error) { return m, keyring, nil },
			Applications: []Application{{Client: m}},
			Renewal:      Renewal{Parallel: 64, WalkRate: 60_000},
		}).Start()
		time.Sleep(3 * time.Hour)
		require.NoError(t, manager.Destruct())
		t.Logf("%d due renewals, the provider down for an hour: %d requests meanwhile, all renewed %s after it was back", n, m.refusedPosts, m.last.Sub(back).Round(time.Second))
		require.Equal(t, n, m.posts)
		require.Zero(t, m.reused)
		require.Less(t, m.refusedPosts, n/10, "a provider that is down is left alone")
		require.Less(t, m.last.Sub(back), time.Hour)
	})
}
