package tokensource

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// toldOfStore is how often the operator was told of the store.
func (i *instance) toldOfStore() [2]int {
	return [2]int{i.events.count(EventAlarm), i.events.count(EventRecovered)}
}

func TestAStoreThatFailsIsToldOnceAndOnceThatItWorksAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.problem("shop-1")
		for outage := 1; outage <= 2; outage++ {
			i.store.set(failingOp("Connection"))
			for range 100 {
				require.Equal(t, ReasonStore, i.problem("shop-1").Reason)
				time.Sleep(time.Minute)
			}
			require.Equal(t, [2]int{outage, outage - 1}, i.toldOfStore())
			i.store.set(nil)
			time.Sleep(45 * time.Second)
			require.Equal(t, [2]int{outage, outage}, i.toldOfStore(), "though nobody has asked for a token")
			i.store.set(failingOp("Connection"))
			i.problem("shop-1")
			require.Equal(t, [2]int{outage, outage}, i.toldOfStore(), "what was under way may end badly")
			i.store.set(nil)
			time.Sleep(time.Minute)
		}
	})
}

func TestARecordThatIsOfNoUseIsToldOnceAMinuteAndHidesNoTroubleOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.problem("shop-1")
		i.store.set(func(op string, _ bool) error {
			if op == "Connection" {
				return &tokenstore.UnreadableError{Err: errors.New("a disk in trouble")}
			}
			return nil
		})
		for range 100 {
			i.problem("shop-1")
		}
		require.Equal(t, [2]int{1, 0}, i.toldOfStore())
		time.Sleep(time.Minute)
		i.problem("shop-1")
		require.Equal(t, [2]int{2, 0}, i.toldOfStore())
		i.store.set(failingOp("Connection"))
		i.problem("shop-1")
		require.Equal(t, [2]int{3, 0}, i.toldOfStore())
		i.store.set(nil)
		time.Sleep(30 * time.Second)
		require.Equal(t, [2]int{3, 1}, i.toldOfStore())
	})
}

func TestAConfigurationThatMendsTheStoreEndsTheTroubleOfTheOneBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.problem("shop-1")
		i.store.set(failingOp("Connection"))
		i.problem("shop-1")
		config := w.config(i)
		config.Open = func(context.Context) (tokenstore.Store, *secret.Keyring, error) { return i.store.Store, w.keyring, nil }
		next := i.manager.Source(config)
		next.Start()
		i.Stop()
		time.Sleep(time.Minute)
		require.Equal(t, [2]int{1, 1}, i.toldOfStore())
	})
}

func TestAStoreThatWasDownAtTheStartIsTriedAgainSoonHoweverLongItWasDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		i := newWorld(t).instance(func(c *Config) {
			open := c.Open
			c.Open = func(ctx context.Context) (tokenstore.Store, *secret.Keyring, error) {
				if !up.Load() {
					return nil, nil, errors.New("connection refused")
				}
				return open(ctx)
			}
		})
		for range 600 {
			require.LessOrEqual(t, i.problem("shop-1").RetryAfter, 25*time.Second)
			time.Sleep(time.Second)
		}
		up.Store(true)
		time.Sleep(time.Minute)
		require.Equal(t, NotConnected, i.problem("shop-1").Status)
		require.Equal(t, [2]int{1, 1}, i.toldOfStore())
	})
}
