package tokensource

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
	"unique"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// crowded is a memory whose sellers become dormant and are asked for, read, renewed
// and forgotten, all at the same time.
type crowded struct {
	*testing.T
	*realm
	now  time.Time
	dice *rand.Rand
	mu   [8]sync.Mutex
	rank [8]uint64 // of each account's pair
}

func (c *crowded) key(account, seller int) key {
	return key{unique.Make("shops"), fmt.Sprintf("shop-%d-%d", account, seller)}
}

// renewed has an account's next pair be known. Nobody but memory has it.
func (c *crowded) renewed(n int) {
	c.mu[n].Lock()
	defer c.mu[n].Unlock()
	a := c.account(accountID(int64(n)))
	assert.Equal(c, c.rank[n], a.known.Load().top().Generation, "what memory alone knew")
	c.rank[n]++
	a.publish(&tokenstore.Account{ID: a.id(), Pairs: []tokenstore.Pair{{
		PairID:      tokenstore.PairID{Authorization: 1, Generation: c.rank[n], Hash: fmt.Sprint(c.rank[n])},
		AccessToken: secret.New(strings.Repeat("a", 1+c.dice.IntN(60))), ObtainedAt: c.now, ExpiresAt: c.now.Add(life),
	}}})
}

func (c *crowded) asks(n, seller int) {
	c.mu[n].Lock()
	least := c.rank[n]
	c.mu[n].Unlock()
	s, ok := c.entry(c.key(n, seller))
	if assert.True(c, ok || seller > 0, "nobody forgot it") && ok {
		assert.Equal(c, c.key(n, seller), s.key())
		assert.Equal(c, int64(n), s.account.user)
		assert.GreaterOrEqual(c, s.account.known.Load().top().Generation, least)
	}
}

func (c *crowded) step() {
	n, seller := c.dice.IntN(len(c.rank)), c.dice.IntN(5)
	a := c.account(accountID(int64(n)))
	switch what := c.dice.IntN(40); {
	case what < 10:
		if s, ok := c.awake.get(c.key(n, seller)); ok {
			c.rest(s)
		}
	case what < 20:
		c.asks(n, seller)
	case what < 25:
		c.remember(a.snapshot(c.key(n, seller), "c", &application{}, c.now), c.epochNow())
	case what < 30:
		if seller > 0 { // the first keeps the account in memory
			c.forget(c.key(n, seller))
		}
	case what < 34:
		c.renewed(n)
	case what < 38:
		a.lock().forcing++
		a.unlock()
		runtime.Gosched()
		again := c.account(accountID(int64(n)))
		assert.Same(c, a, again, "something goes on about it")
		again.lock().forcing--
		again.unlock()
	case what < 39:
		c.packIdle(c.Context(), momentOf(c.now.Add(time.Hour)))
	default:
		runtime.GC()
	}
}

// sound requires that nothing is packed that should not be, and all that should be.
func (c *crowded) sound() {
	d, last, sellers := c.dormant, place(0), make(map[*side]map[int64]uint32)
	n := 0
	for at := d.oldest; at != 0; at = place(d.number(at, newer)) {
		s := d.seller(at)
		require.Equal(c, last, place(d.number(at, older)))
		require.Equal(c, at, d.sellers[d.hash(s.key)])
		_, awake := c.awake.get(s.key)
		require.False(c, awake)
		of := d.sides[s.side]
		if sellers[of] == nil {
			sellers[of] = make(map[int64]uint32)
		}
		sellers[of][s.user]++
		last = at
		n++
	}
	require.Equal(c, d.newest, last)
	require.Len(c, d.sellers, n)
	for of, users := range sellers {
		require.Len(c, of.dormant, len(users))
		for user, sellers := range users {
			at := of.dormant[user]
			require.Equal(c, sellers, d.number(at, count))
			if a := of.accounts[user].Value(); a != nil {
				require.Equal(c, packAccount(sellers, a), d.slab.at(at))
				require.True(c, a.unrest.over())
			}
		}
		require.Empty(c, of.restless)
		n += len(users)
	}
	require.Equal(c, n, d.slab.texts)
}

func TestNothingIsLostHoweverSellersBecomeDormantAndAreAskedFor(t *testing.T) {
	m := NewManager()
	t.Cleanup(func() { require.NoError(t, m.Destruct()) })
	c := &crowded{T: t, realm: newRealm(m, 1000), now: time.Now(), dice: sample.Rand(t, 0)}
	for n := range c.rank {
		c.renewed(n)
		a := c.account(accountID(int64(n)))
		c.remember(a.snapshot(c.key(n, 0), "c", &application{}, c.now), c.epochNow())
	}
	for range 30 {
		var workers sync.WaitGroup
		for range 6 {
			workers.Go(func() {
				for range 200 {
					c.step()
				}
			})
		}
		workers.Wait()
		if c.sound(); t.Failed() {
			return
		}
	}
}
