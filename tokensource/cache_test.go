package tokensource

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
	"unique"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// A memory of one seller forgets all others at once.
func TestASellerWhoIsForgottenInMidRefreshIsNotRefreshedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(func(c *Config) { c.CacheSize = 1 })
		for n := range int64(20) {
			i.seller(fmt.Sprint("shop-", n), 100+n)
		}
		time.Sleep(life + time.Minute)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error {
				time.Sleep(5 * time.Second)
				return nil
			}
		})
		first := make(chan *Token)
		go func() { first <- i.lives("shop-0", 100) }()
		synctest.Wait() // the refresh is at the provider
		for n := range int64(19) {
			go i.lives(fmt.Sprint("shop-", n+1), 101+n)
		}
		synctest.Wait()
		require.LessOrEqual(t, i.awake(), 1)
		runtime.GC()
		second := i.lives("shop-0", 100)
		require.True(t, second.AccessToken().Equal((<-first).AccessToken()))
		synctest.Wait()
		require.Equal(t, 20, w.provider.count())
		require.Zero(t, w.provider.reused)
	})
}

func TestAReloadWithAnotherCacheSizeKeepsWhatFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		for n := range int64(20) {
			i.seller(fmt.Sprint("shop-", n), 100+n)
			i.lives(fmt.Sprint("shop-", n), 100+n)
		}
		require.Equal(t, 20, i.awake())
		smaller := w.config(i)
		smaller.CacheSize = 5
		next := i.manager.Source(smaller)
		next.Start()
		require.Equal(t, 5, i.awake())
		next.Stop()
		next.Release()
	})
}

func TestAProcessAtRestHasTheSameFewGoroutinesWhateverItKeeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		before := runtime.NumGoroutine()
		i := w.instance(func(c *Config) { c.Renewal = Renewal{Parallel: 8} })
		for n := range int64(50) {
			i.seller(fmt.Sprint("shop-", n), 100+n)
			i.lives(fmt.Sprint("shop-", n), 100+n)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		require.LessOrEqual(t, runtime.NumGoroutine()-before, 2, "the queue and the walk")
	})
}

// remembered is what a new memory has of a seller.
func remembered(t *testing.T, now time.Time) (*realm, *snapshot) {
	t.Helper()
	m := NewManager()
	t.Cleanup(func() { require.NoError(t, m.Destruct()) })
	r := newRealm(m, 10)
	a := r.accountFor(accountID(1), tokenstore.Pair{AccessToken: secret.New("access"), ObtainedAt: now, ExpiresAt: now.Add(life)})
	s := a.snapshot(key{application: unique.Make(""), seller: "shop-1"}, "c", &application{}, now)
	require.True(t, r.remember(s, 0))
	return r, s
}

func TestWhatIsBuiltOnOldMemoryDoesNotReplaceNewMemory(t *testing.T) {
	now, app := time.Now(), &application{}
	r, old := remembered(t, now)
	has := func() *snapshot {
		s, _ := r.awake.get(old.key())
		return s
	}
	next := old.again(app, now)
	r.swap(old, next)
	require.Same(t, next, has())
	r.swap(old, old.again(app, now))
	require.Same(t, next, has())
	r.forget(old.key())
	r.swap(next, next.again(app, now))
	require.Nil(t, has())
}

func TestASellerIsReadAgainByOneRequestAtATime(t *testing.T) {
	now := time.Now()
	_, s := remembered(t, now)
	require.False(t, s.recheck(now.Add(recheckAfter-1)))
	now = now.Add(recheckAfter)
	require.True(t, s.recheck(now))
	require.False(t, s.recheck(now))
	require.True(t, s.again(&application{}, now).recheck(now), "this one is not being read")
	s.rechecked()
	require.True(t, s.recheck(now))
}

func TestMemoryIsNeverBelievedForLongerThanItIsValid(t *testing.T) {
	now := time.Now()
	_, s := remembered(t, now)
	require.True(t, s.believed(now.Add(validFor-1)))
	require.False(t, s.believed(now.Add(validFor)))
	m := momentOf(now)
	s.believe(m, m, m.add(time.Second+time.Millisecond-1))
	require.True(t, s.believed(now.Add(time.Second-1)))
	require.False(t, s.believed(now.Add(time.Second+time.Millisecond-1)))
}
