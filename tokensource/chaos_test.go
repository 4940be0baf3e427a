package tokensource

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// dice is a random source for many goroutines.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func (d *dice) n(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

// chaos is which faults a run has.
type chaos struct {
	storage func(*world)
	// slow delays store operations and requests; failing makes one in so many
	// operations fail; crashing ends instances; refusing has the provider
	// refuse; consenting has the seller connect again and again.
	slow, crashing, refusing, consenting bool
	failing                              int
}

// TestWhateverHappensTheSellerKeepsAToken lets several instances refresh one
// account again and again while operations are slow and fail, instances crash,
// and the seller connects anew. Where no answer of the provider is lost nothing
// may ever be posted twice; a crash may lose one, and what it had for an answer is
// spilled when its successor has looked already. At the end the seller must have
// a token without being asked.
func TestWhateverHappensTheSellerKeepsAToken(t *testing.T) {
	lock := func(*world) {}
	noLock := func(w *world) { w.storage = storetest.NoLock(w.storage) }
	impatient := func(w *world) { w.storage = storetest.ImpatientLock(w.storage) }
	for name, c := range map[string]chaos{
		"slow":                        {storage: lock, slow: true},
		"slow, no lock":               {storage: noLock, slow: true},
		"slow, impatient lock":        {storage: impatient, slow: true},
		"failing":                     {storage: lock, failing: 5},
		"failing, no lock":            {storage: noLock, slow: true, failing: 7},
		"crashing":                    {storage: lock, slow: true, crashing: true},
		"crashing, no lock":           {storage: noLock, slow: true, crashing: true},
		"refusing":                    {storage: noLock, slow: true, refusing: true, failing: 10},
		"consenting":                  {storage: lock, slow: true, consenting: true},
		"everything, impatient lock":  {storage: impatient, slow: true, failing: 9, crashing: true, refusing: true, consenting: true},
		"everything, without a lock":  {storage: noLock, slow: true, failing: 9, crashing: true, refusing: true, consenting: true},
		"everything, with a real one": {storage: lock, slow: true, failing: 9, crashing: true, refusing: true, consenting: true},
	} {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(5) {
				t.Run(fmt.Sprint(seed), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { c.run(t, &dice{r: rand.New(rand.NewPCG(seed, 1))}) })
				})
			}
		})
	}
}

func (c chaos) run(t *testing.T, d *dice) {
	w := newWorld(t)
	w.provider.life = 10 * time.Minute
	c.storage(w)
	w.instance().seller("shop-1", 100)
	w.provider.script(func(p *provider) {
		p.before = func(context.Context, string) error {
			if c.slow {
				time.Sleep(time.Duration(d.n(18)) * time.Second)
			}
			if c.refusing && d.n(3) == 0 {
				return &oauth.Error{Outcome: oauth.Refused, Code: "rate_limited"}
			}
			return nil
		}
	})
	end := time.Now().Add(3 * time.Hour)
	var running sync.WaitGroup
	for range 3 {
		running.Go(func() { c.process(w, d, end) })
	}
	if c.consenting {
		running.Go(func() {
			i := c.broken(w, d)
			for time.Now().Before(end) {
				time.Sleep(time.Duration(d.n(40)) * time.Minute)
				consent, err := i.Exchange(context.Background(), "", w.provider.code(100), secret.Secret{})
				if err == nil {
					_, _ = i.Connect(context.Background(), "shop-1", consent)
				}
			}
			i.store.set(nil)
		})
	}
	running.Wait()
	if !c.consenting && !c.crashing {
		// A consent kills the refresh token of a refresh that is under way.
		require.Zero(t, w.provider.reused, "a burnt token was posted")
	}
	w.provider.script(func(p *provider) { p.before = nil })
	time.Sleep(time.Hour)
	w.instance().eventually("shop-1", 100)
}

// process is a process that is started again whenever it crashes.
func (c chaos) process(w *world, d *dice, end time.Time) {
	for time.Now().Before(end) {
		i := c.broken(w, d)
		life := time.Until(end)
		if c.crashing {
			life = min(life, time.Duration(1+d.n(60))*time.Minute)
		}
		for until := time.Now().Add(life); time.Now().Before(until); {
			if token, err := i.token("shop-1"); err == nil {
				if owner := w.provider.owner(token.AccessToken()); owner != 100 {
					w.t.Errorf("a token of account %d", owner)
				}
			}
			time.Sleep(time.Duration(d.n(60)) * time.Second)
		}
		if c.crashing {
			i.crash()
			continue
		}
		i.store.set(nil)
	}
}

// broken is an instance whose store is slow or fails.
func (c chaos) broken(w *world, d *dice) *instance {
	i := w.instance(func(config *Config) {
		// Others renew for requests only. So do those that crash: they would be at a
		// renewal more often, whose answer is then lost.
		if !c.crashing && d.n(2) == 0 {
			config.Renewal = Renewal{Parallel: 2, WalkEvery: 10 * time.Minute}
		}
	})
	i.store.set(func(string, bool) error {
		if c.slow {
			time.Sleep(time.Duration(d.n(700)) * time.Millisecond)
		}
		if c.failing > 0 && d.n(c.failing) == 0 {
			return errors.New("the disk is full")
		}
		return nil
	})
	return i
}
