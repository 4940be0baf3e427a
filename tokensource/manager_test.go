package tokensource

import (
	"context"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

func TestAReloadDuringARefreshCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { time.Sleep(5 * time.Second); return nil }
		})
		old := i.Source
		var callers sync.WaitGroup
		callers.Go(func() { i.lives("shop-1", 100) })
		time.Sleep(time.Second)
		next := i.manager.Source(w.config(i))
		next.Start()
		old.Stop()
		old.Release()
		old.Release()
		callers.Go(func() {
			token, err := next.Token(t.Context(), "", "shop-1", 0)
			require.NoError(t, err)
			require.Equal(t, int64(100), w.provider.owner(token.AccessToken()))
		})
		callers.Wait()
		require.Equal(t, 1, w.provider.count())
		// Requests of the old configuration run on.
		i.lives("shop-1", 100)
	})
}

func TestRequestsDependNeitherOnStartNorOnStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		early := i.manager.Source(w.config(i))
		_, err := early.Token(t.Context(), "", "shop-1", 0)
		require.NoError(t, err)
		i.Stop()
		i.Release()
		i.lives("shop-1", 100)
		_, err = early.Token(t.Context(), "", "shop-1", 0)
		require.NoError(t, err)
		// A load that failed: what was attached before serves again.
		early.Start()
		early.Stop()
		i.lives("shop-1", 100)
	})
}

func TestTheNewestConfigurationServesAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		other := newWorld(t).provider
		other.clientID = "5678"
		config := w.config(i)
		config.Applications = []Application{{Client: other}}
		next := i.manager.Source(config)
		_, err := i.token("shop-1")
		require.NoError(t, err)
		next.Start()
		require.Equal(t, ReasonApplicationChanged, i.problem("shop-1").Reason)
		next.Stop()
		i.lives("shop-1", 100)
		_, err = i.Token(t.Context(), "unheard-of", "shop-1", 0)
		var problem *Error
		require.ErrorAs(t, err, &problem)
		require.Equal(t, ReasonUnknownApplication, problem.Reason)
	})
}

func TestAnotherStoreServesOnlyOnceFlightsOfTheOldOneAreSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { time.Sleep(10 * time.Second); return nil }
		})
		elsewhere := storetest.NewMemory()
		config := w.config(i)
		config.StoreID = "two"
		opened := time.Time{}
		config.Open = func(context.Context) (tokenstore.Store, *secret.Keyring, error) {
			opened = time.Now()
			return caddystorage.New(elsewhere, w.keyring), w.keyring, nil
		}
		old := i.Source
		var callers sync.WaitGroup
		began := time.Now()
		callers.Go(func() { i.lives("shop-1", 100) })
		time.Sleep(time.Second)
		next := i.manager.Source(config)
		next.Start()
		old.Stop()
		_, err := next.Token(t.Context(), "", "shop-1", 0)
		var problem *Error
		require.ErrorAs(t, err, &problem)
		require.Equal(t, NotConnected, problem.Status)
		callers.Wait()
		require.GreaterOrEqual(t, opened.Sub(began), 10*time.Second)
		require.Equal(t, uint64(1), i.account(100).Pairs[0].Generation, "saved through the store it began with")
		// Old requests are served by the newest configuration.
		require.Equal(t, NotConnected, i.problem("shop-1").Status)
	})
}

func TestTheEndOfTheProcessWaitsForFlights(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		w.provider.script(func(p *provider) {
			p.after = func(context.Context, *oauth.Answer) error { time.Sleep(5 * time.Second); return nil }
		})
		ctx, leave := context.WithTimeout(t.Context(), time.Second)
		defer leave()
		_, err := i.Token(ctx, "", "shop-1", 0)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, i.manager.Destruct())
		require.Equal(t, uint64(1), i.account(100).Pairs[0].Generation)
		// What is warm serves on, what is not says so, and nothing panics.
		i.lives("shop-1", 100)
		require.Equal(t, Connected, i.problem("shop-2").Status)
		require.NoError(t, i.manager.Destruct())
	})
}

func TestTheEndOfTheProcessDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		i.store.set(failingOp("AddPair"))
		i.lives("shop-1", 100)
		began := time.Now()
		require.NoError(t, i.manager.Destruct())
		require.LessOrEqual(t, time.Since(began), destructWait+5*time.Second)
		require.Len(t, spilledFiles(t, w), 1)
	})
}

func failingOp(name string) func(string, bool) error {
	return func(op string, _ bool) error {
		if op == name {
			return fmt.Errorf("%s: the disk is full", op)
		}
		return nil
	}
}

func TestABusySellerIsReadAgainInTheBackgroundAndADisconnectElsewhereIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.instance(), w.instance()
		c := a.seller("shop-1", 100)
		b.lives("shop-1", 100)
		reads := 0
		var mu sync.Mutex
		b.store.set(func(op string, after bool) error {
			mu.Lock()
			defer mu.Unlock()
			if op == "Connection" && !after {
				reads++
			}
			return nil
		})
		for range 60 {
			began := time.Now()
			b.lives("shop-1", 100)
			require.Zero(t, time.Since(began))
			time.Sleep(time.Second)
		}
		mu.Lock()
		require.Equal(t, 2, reads)
		mu.Unlock()
		require.NoError(t, a.Disconnect(t.Context(), c))
		require.Equal(t, NotConnected, a.problem("shop-1").Status, "at once, where it was done")
		time.Sleep(validFor)
		require.Equal(t, NotConnected, b.problem("shop-1").Status)
	})
}

func TestTwoSellersOfOneAccountShareItsRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		i.seller("shop-2", 100)
		time.Sleep(life + time.Minute)
		one := i.lives("shop-1", 100)
		two := i.lives("shop-2", 100)
		require.True(t, one.AccessToken().Equal(two.AccessToken()))
		require.Equal(t, "shop-2", two.Seller())
		require.Equal(t, 1, w.provider.count())
	})
}

func TestAccountsThatNobodyHoldsAreForgotten(t *testing.T) {
	m := NewManager()
	r := newRealm(m, 1)
	held := r.account(accountID(1))
	for n := range int64(50 * fewAccounts) {
		if n%fewAccounts == 0 {
			runtime.GC()
		}
		r.account(accountID(n + 2))
	}
	require.LessOrEqual(t, len(held.side.accounts), 2*fewAccounts)
	require.Same(t, held, r.account(accountID(1)))
	require.NoError(t, m.Destruct())
}

// warm fills a source's memory with sellers.
func warm(tb testing.TB, sellers int) *Source {
	tb.Helper()
	m := NewManager()
	tb.Cleanup(func() { _ = m.Destruct() })
	p := &provider{clientID: "1234"}
	s := m.Source(Config{StoreID: "one", Applications: []Application{{Client: p}}})
	s.Start()
	now := time.Now()
	app := s.application("")
	for n := range sellers {
		a := s.realm.account(accountID(int64(n)))
		pair := tokenstore.Pair{AccessToken: secret.New("access"), RefreshToken: secret.New("refresh"), ObtainedAt: now, ExpiresAt: now.Add(life)}
		pair.PairID = tokenstore.PairID{Authorization: 1, Hash: tokenstore.HashPair(pair.AccessToken, pair.RefreshToken)}
		a.publish(&tokenstore.Account{ID: a.id(), Pairs: []tokenstore.Pair{pair}})
		snap := a.snapshot(key{application: app.name, seller: sellerName(n)}, "c", app, now)
		snap.believe(momentOf(now), momentOf(now.Add(time.Hour)), momentOf(now.Add(time.Hour)))
		s.realm.remember(snap, 0)
	}
	return s
}

func sellerName(n int) string { return fmt.Sprintf("shop-%d", n) }

func TestAWarmTokenCostsNoAllocation(t *testing.T) {
	for _, sellers := range []int{1, 1000, 10_000} {
		t.Run(fmt.Sprint(sellers), func(t *testing.T) {
			s := warm(t, sellers)
			names := make([]string, 1000)
			for n := range names {
				names[n] = sellerName(n * sellers / len(names))
			}
			n := 0
			allocs := testing.AllocsPerRun(10_000, func() {
				if _, err := s.Token(context.Background(), "", names[n%len(names)], 5*time.Minute); err != nil {
					t.Fatal(err)
				}
				n++
			})
			require.Zero(t, allocs)
		})
	}
}

func BenchmarkAWarmToken(b *testing.B) {
	for _, sellers := range []int{1, 1000, 100_000} {
		b.Run(fmt.Sprint(sellers), func(b *testing.B) {
			s := warm(b, sellers)
			name := sellerName(sellers / 2)
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Token(context.Background(), "", name, 5*time.Minute); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
