package tokensource

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
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
		i.realm.entries.CleanUp()
		require.LessOrEqual(t, i.realm.entries.EstimatedSize(), 1)
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
		size := func() int {
			i.realm.entries.CleanUp()
			return i.realm.entries.EstimatedSize()
		}
		require.Equal(t, 20, size())
		smaller := w.config(i)
		smaller.CacheSize = 5
		next := i.manager.Source(smaller)
		next.Start()
		require.Equal(t, 5, size())
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
