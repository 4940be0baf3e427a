package tokensource

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const day = 24 * time.Hour

// ahead has an instance renew ahead of time.
func ahead(c *Config) { c.Renewal = Renewal{Parallel: 8} }

func TestAYearWithoutTrafficLeavesEverySellerALivingToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(ahead)
		for n := range int64(5) {
			i.seller(fmt.Sprint("shop-", n), 100+n)
		}
		time.Sleep(365 * day)
		require.Equal(t, 2*5, w.provider.count(), "each was renewed twice")
		for n := range int64(5) {
			i.lives(fmt.Sprint("shop-", n), 100+n)
		}
		require.Equal(t, 2*5, w.provider.count(), "a request needed none")
	})
}

func TestShortTokensAreRenewedWithoutTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.life = 6 * time.Hour
		i := w.instance(ahead)
		i.seller("shop-1", 100)
		for range 20 {
			time.Sleep(5 * time.Hour)
			require.True(t, time.Now().Before(i.newest(100).ExpiresAt))
		}
		i.lives("shop-1", 100)
		require.LessOrEqual(t, w.provider.count(), 27)
	})
}

func TestARestartLosesNoRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.instance(ahead)
		first.seller("shop-1", 100)
		first.end()
		time.Sleep(160 * day)
		second := w.instance(ahead)
		time.Sleep(time.Minute)
		require.Equal(t, 1, w.provider.count())
		second.lives("shop-1", 100)
	})
}

func TestSellersThatWereImportedOnOneDayDoNotComeDueTogether(t *testing.T) {
	var hours [72]int
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for n := range int64(10_000) {
		a := newRealm(NewManager(), 1).accountFor(accountID(n+1), pairOf(now, life))
		at, ok := a.renewAt(now, 0)
		require.True(t, ok)
		early := now.Add(150 * day).Sub(at)
		require.True(t, early >= 0 && early < 72*time.Hour, "%s", early)
		again, _ := a.renewAt(now.Add(time.Hour), 0)
		require.Equal(t, at, again, "a restart does not shuffle them")
		hours[int(early/time.Hour)]++
	}
	for _, n := range hours {
		require.InDelta(t, 10_000/72, n, 60, "spread over three days: %v", hours)
	}
}

// accountFor makes an account with one pair.
func (r *realm) accountFor(id tokenstore.AccountID, p tokenstore.Pair) *account {
	a := r.account(id)
	a.known.Store(newKnown([]pair{pack(&p)}, beside{}))
	return a
}

func TestNoMoreTokenRequestsAreUnderWayThanAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		for n := range int64(40) {
			i.seller(fmt.Sprint("shop-", n), 100+n)
		}
		i.end()
		var mu sync.Mutex
		running, most := 0, 0
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				time.Sleep(5 * time.Second)
				mu.Lock()
				running--
				mu.Unlock()
				return nil
			}
		})
		time.Sleep(160 * day)
		w.instance(func(c *Config) { c.Renewal = Renewal{Parallel: 3} })
		time.Sleep(time.Hour)
		require.Equal(t, 40, w.provider.count())
		require.Equal(t, 3, most)
	})
}

func TestAProviderThatAsksToWaitIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		for n := range int64(30) {
			i.seller(fmt.Sprint("shop-", n), 100+n)
		}
		i.end()
		storm := true
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error {
				if !storm {
					return nil
				}
				return &oauth.Error{Outcome: oauth.Refused, Status: 429, RetryAfter: 10 * time.Minute}
			}
		})
		time.Sleep(160 * day)
		i = w.instance(ahead)
		time.Sleep(2*time.Hour - time.Minute)
		require.LessOrEqual(t, w.provider.count(), 13, "one at a time, and never before it said")
		told := i.manager.Renewals()
		require.Positive(t, told.Lag)
		require.Equal(t, 30, told.Due+told.Failing)
		w.provider.script(func(p *provider) { p.posts, storm = 0, false })
		time.Sleep(time.Hour)
		require.Equal(t, 30, w.provider.count())
		require.Zero(t, i.manager.Renewals().Failing)
	})
}

func TestARestartDoesNotAskAProviderSoonerThanItSaid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		for n := range int64(5) {
			i.seller(fmt.Sprint("shop-", n), 100+n)
		}
		i.end()
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error {
				return &oauth.Error{Outcome: oauth.Refused, Status: 429, RetryAfter: 50 * time.Minute}
			}
		})
		time.Sleep(160 * day)
		for range 10 {
			i = w.instance(ahead)
			time.Sleep(4 * time.Minute)
			i.end()
		}
		require.Equal(t, 1, w.provider.count())
	})
}

func TestADeadPairIsAskedAboutOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(ahead)
		i.seller("shop-1", 100)
		w.provider.script(func(p *provider) { delete(p.refresh, 100) })
		time.Sleep(160 * day)
		i.end()
		i = w.instance(ahead)
		time.Sleep(200 * day)
		require.Equal(t, 1, w.provider.count())
		require.Equal(t, ReconnectRequired, i.problem("shop-1").Status)
	})
}

func TestOnceWhicheverInstanceRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { time.Sleep(100 * time.Millisecond); return nil }
		})
		var all []*instance
		for range 3 {
			all = append(all, w.instance(ahead))
		}
		for n := range int64(20) {
			all[0].seller(fmt.Sprint("shop-", n), 100+n)
		}
		time.Sleep(140 * day)
		all[1].end() // instances come and go
		time.Sleep(8*day + 12*time.Hour)
		all[0].crash()
		all = append(all, w.instance(ahead))
		time.Sleep(4 * day)
		require.Equal(t, 20, w.provider.count())
		require.Zero(t, w.provider.reused)
		for n := range int64(20) {
			all[3].lives(fmt.Sprint("shop-", n), 100+n)
		}
	})
}

func TestAnInstanceThatDiesWhileItRenewsHoldsUpNobodyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.instance()
		first.seller("shop-1", 100)
		first.seller("shop-2", 101)
		time.Sleep(160 * day)
		died := make(chan struct{})
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error {
				p.script(func(p *provider) { p.before = nil })
				first.crash()
				close(died)
				return context.Canceled
			}
		})
		go func() { _, _ = first.token("shop-1") }()
		<-died
		second := w.instance(ahead)
		time.Sleep(time.Hour)
		require.Equal(t, uint64(1), second.newest(101).Generation, "others are not held up")
		time.Sleep(25 * time.Hour)
		require.Equal(t, uint64(1), second.newest(100).Generation, "its outcome was unknown")
	})
}

func TestRenewalsOutliveAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(ahead)
		i.seller("shop-1", 100)
		for range 50 {
			time.Sleep(5 * day)
			config := w.config(i)
			ahead(&config)
			next := i.manager.Source(config)
			next.Start()
			i.Stop()
			i.Release()
			i.Source = next
		}
		require.Equal(t, 1, w.provider.count())
		i.Stop()
		i.Release()
		time.Sleep(200 * day)
		require.Equal(t, 1, w.provider.count(), "no configuration, no renewals")
	})
}

func TestAWalkReadsNoFasterThanItMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		for n := range int64(30) {
			i.seller(fmt.Sprint("shop-", n), 100+n)
		}
		i.end()
		i = w.instance(func(c *Config) { c.Renewal = Renewal{Parallel: 1, WalkRate: 10, WalkEvery: time.Hour} })
		var reads int
		var mu sync.Mutex
		i.store.set(func(op string, after bool) error {
			mu.Lock()
			defer mu.Unlock()
			if op == "Account" && !after {
				reads++
			}
			return nil
		})
		for range 60 {
			time.Sleep(time.Minute)
			mu.Lock()
			require.LessOrEqual(t, reads, 11)
			reads = 0
			mu.Unlock()
		}
		told := i.manager.Renewals()
		require.Equal(t, 30, told.Accounts)
		require.InDelta(t, 3*time.Minute, told.Walk, float64(time.Minute))
		require.Equal(t, 1, i.events.count(EventRenewals))
	})
}

func TestAnAccountWithoutAConnectionIsForgottenAfterADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(ahead)
		i.seller("shop-1", 100)
		late, err := i.Exchange(t.Context(), "", w.provider.code(100), noVerifier)
		require.NoError(t, err)
		orphan, err := i.Exchange(t.Context(), "", w.provider.code(200), noVerifier)
		require.NoError(t, err)
		time.Sleep(23 * time.Hour)
		require.Len(t, i.account(200).Pairs, 1)
		time.Sleep(2 * time.Hour)
		require.Empty(t, i.account(200).Pairs)
		require.Empty(t, i.account(200).Marks)
		require.Equal(t, 1, i.events.count(EventForgotten))
		// The page that asks to confirm was still open.
		_, err = i.Connect(t.Context(), "shop-2", orphan)
		require.Error(t, err)
		require.Equal(t, NotConnected, i.problem("shop-2").Status)
		i.seller("shop-2", 200)
		// An account with a connection is never forgotten.
		_, err = i.Connect(t.Context(), "shop-1", late)
		require.NoError(t, err)
		time.Sleep(100 * day)
		i.lives("shop-1", 100)
		i.lives("shop-2", 200)
		require.Equal(t, 1, i.events.count(EventForgotten))
	})
}

func TestAConnectionThatIsMadeWhileItsAccountIsForgottenStandsOrFailsWhole(t *testing.T) {
	for step, op := range []string{"Account", "PutMark", "Connections", "PutTombstone", "DeletePairs", "DeleteMark"} {
		t.Run(op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.storage = noLocks{w.storage}
				i, other := w.instance(ahead), w.instance()
				consent, err := i.Exchange(t.Context(), "", w.provider.code(100), noVerifier)
				require.NoError(t, err)
				time.Sleep(23 * time.Hour)
				connected := make(chan error, 1)
				var marked, done atomic.Bool
				i.store.set(func(at string, after bool) error {
					if at == "PutMark" {
						marked.Store(true)
					}
					if at == op && !after && (marked.Load() || step == 0) && done.CompareAndSwap(false, true) {
						_, err := other.Connect(context.Background(), "shop-1", consent)
						connected <- err
					}
					return nil
				})
				time.Sleep(2 * time.Hour)
				if err := <-connected; err == nil {
					other.lives("shop-1", 100)
					return
				}
				require.Equal(t, NotConnected, other.problem("shop-1").Status)
				time.Sleep(2 * day)
				require.Empty(t, other.account(100).Marks)
			})
		})
	}
}

func TestClockJumpsStopNoRenewal(t *testing.T) {
	for name, jump := range map[string]time.Duration{"an hour back": -time.Hour, "a year back": -365 * day, "a year on": 365 * day} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				i := w.instance(ahead)
				i.seller("shop-1", 100)
				time.Sleep(10 * day)
				i.jump(jump)
				time.Sleep(2 * day)
				i.jump(-jump)
				time.Sleep(360 * day)
				i.lives("shop-1", 100)
				require.Less(t, w.provider.count(), 6)
			})
		})
	}
}

func TestTheOperatorLearnsThatRenewalsAreLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		for n := range int64(20) {
			i.seller(fmt.Sprint("shop-", n), 100+n)
		}
		i.end()
		time.Sleep(160 * day)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error {
				return &oauth.Error{Outcome: oauth.ApplicationFault, Code: "invalid_client"}
			}
		})
		i = w.instance(ahead)
		time.Sleep(3 * time.Hour)
		require.LessOrEqual(t, w.provider.count(), 50, "the breaker is open")
		require.GreaterOrEqual(t, i.reasons(ReasonLate), 1)
		require.LessOrEqual(t, i.reasons(ReasonLate), 3)
	})
}

func (i *instance) newest(user int64) tokenstore.Pair {
	i.w.t.Helper()
	state := i.account(user)
	require.NotEmpty(i.w.t, state.Living())
	return state.Living()[0]
}

func (i *instance) reasons(reason string) (n int) {
	i.events.mu.Lock()
	defer i.events.mu.Unlock()
	for _, e := range i.events.all {
		if e.Reason == reason {
			n++
		}
	}
	return n
}

func TestTheEndOfTheProcessWaitsForNoPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(ahead)
		i.seller("shop-1", 100)
		time.Sleep(day)
		began := time.Now()
		require.NoError(t, i.manager.Destruct())
		require.Less(t, time.Since(began), time.Second)
	})
}

func TestWhatCrashesLeftIsTidiedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(ahead)
		c := i.seller("shop-1", 100)
		i.seller("shop-2", 100) // the second authorization
		old := time.Now()
		require.NoError(t, i.store.PutTombstone(t.Context(), accountID(100), 1))
		require.NoError(t, i.store.PutMark(t.Context(), accountID(100), tokenstore.Mark{Connection: "gone", Authorization: 1, At: old}))
		gone, posted := i.account(100).Pairs[0], i.newest(100)
		gone.Hash = strings.Repeat("ab", 16)
		require.NoError(t, i.store.PutIntent(t.Context(), accountID(100), tokenstore.Intent{Pair: gone.Hash, Nonce: "1", At: old}))
		require.NoError(t, i.store.PutIntent(t.Context(), accountID(100), tokenstore.Intent{Pair: posted.Hash, Nonce: "2", At: old}))
		time.Sleep(20 * time.Hour)
		require.Len(t, i.account(100).Pairs, 2, "a disconnect may be at it")
		time.Sleep(20 * time.Hour)
		state := i.account(100)
		require.Len(t, state.Pairs, 1)
		require.Equal(t, posted.PairID, state.Pairs[0].PairID)
		require.Empty(t, state.Marks)
		require.Len(t, state.Intents, 1, "one of a pair that is there goes on protecting it")
		i.lives("shop-1", 100)
		require.NotEmpty(t, c.ID)
	})
}

func TestAStoreThatFailsForADayStopsNoRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(ahead)
		i.seller("shop-1", 100)
		time.Sleep(140 * day)
		i.store.set(func(string, bool) error { return errCrashed })
		time.Sleep(12 * day)
		require.Zero(t, w.provider.count(), "what cannot be saved is not asked for")
		i.store.set(nil)
		time.Sleep(day)
		require.Equal(t, 1, w.provider.count())
		i.lives("shop-1", 100)
	})
}

func TestAWalkGoesOnWhereTheLastProcessWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMany(3*page, time.Now())
		keyring, dir := newWorld(t).keyring, t.TempDir()
		start := func() *Manager {
			manager := NewManager()
			manager.Source(Config{
				StoreID: "one", SpillDir: dir,
				Open:         func(context.Context) (tokenstore.Store, *secret.Keyring, error) { return m, keyring, nil },
				Applications: []Application{{Client: m}},
				Renewal:      Renewal{Parallel: 64, WalkRate: 60},
			}).Start()
			return manager
		}
		time.Sleep(160 * day)
		for m.posts < 3*page { // each process lives just longer than a page takes
			manager := start()
			time.Sleep((page + 60) * time.Second)
			require.NoError(t, manager.Destruct())
			require.Less(t, time.Since(m.last), time.Hour, "no account is out of reach")
		}
	})
}
