package tokensource

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// The guards of saving, of memory and of serving that no other test misses.

// spilledBy has an instance refresh a pair that its store does not take, and die.
func (w *world) spilledBy(t *testing.T) {
	t.Helper()
	i := w.due()
	i.store.set(failingOp("AddPair"))
	i.lives("shop-1", 100)
	i.crash()
	synctest.Wait()
	require.Len(t, spilledFiles(t, w), 1)
}

// slowly has the storage take its time for records of a kind, and counts them.
func (w *world) slowly(kind string) *atomic.Int32 {
	var n atomic.Int32
	w.storage = storetest.Hook(w.storage, func(op, key string) error {
		if op == "store" && strings.Contains(key, kind) {
			n.Add(1)
			time.Sleep(time.Second)
		}
		return nil
	})
	return &n
}

func TestAConsentThatADisconnectCrossesIsNumberedAboveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.before("AddPair", func() { require.NoError(t, i.store.PutTombstone(context.Background(), accountID(100), 1)) })
		require.Equal(t, uint64(2), i.consent(100).Authorization)
		require.Len(t, i.account(100).Pairs, 1)
	})
}

func TestASpilledPairOfADisconnectedAccountIsNotWrittenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.spilledBy(t)
		other := w.instance(func(c *Config) { c.SpillDir = filepath.Join(t.TempDir(), "one") })
		c, err := other.Connection(t.Context(), "", "shop-1")
		require.NoError(t, err)
		require.NoError(t, other.Disconnect(t.Context(), c))
		written := w.slowly("/pair-")
		i := w.instance()
		time.Sleep(time.Minute)
		require.Empty(t, spilledFiles(t, w))
		require.Zero(t, written.Load())
		require.Empty(t, i.account(100).Pairs)
	})
}

func TestASpilledPairOfAnotherStoreIsNotDeletedForItsNumbers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		root := w.spillDir
		w.spillDir = filepath.Join(root, "before")
		w.spilledBy(t)
		before := w.spillDir
		w.spillDir = filepath.Join(root, "after")
		w.storage = storetest.NewMemory()
		i := w.instance(func(c *Config) { c.SpillDir = filepath.Join(t.TempDir(), "elsewhere") })
		require.NoError(t, i.store.PutTombstone(t.Context(), accountID(100), 1))
		i.consent(100) // another account of the same number, as in a store for tests
		w.instance()
		time.Sleep(time.Minute)
		left, err := filepath.Glob(filepath.Join(before, "*.pair"))
		require.NoError(t, err)
		require.Len(t, left, 1)
	})
}

func TestASpilledConsentThatIsInTheStoreIsNotAddedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		pair := i.top(100)
		pair.Authorization = 0 // as it is spilled when the store cannot tell
		require.NoError(t, new(spill).write(w.spillDir, w.keyring, accountID(100), pair))
		require.Len(t, spilledFiles(t, w), 1)
		w.instance()
		synctest.Wait()
		require.Empty(t, spilledFiles(t, w))
		require.Len(t, i.account(100).Pairs, 1)
	})
}

// odd is a store that answers in odd ways.
type odd struct {
	tokenstore.Store
	blind  atomic.Bool // answers once without pairs
	seller string      // whose connection it returns
}

func (o *odd) Account(ctx context.Context, id tokenstore.AccountID) (tokenstore.Account, error) {
	state, err := o.Store.Account(ctx, id)
	if o.blind.CompareAndSwap(true, false) {
		state.Pairs = nil
	}
	return state, err
}

func (o *odd) Connection(ctx context.Context, application, seller string) (tokenstore.Connection, error) {
	if o.seller != "" {
		seller = o.seller
	}
	return o.Store.Connection(ctx, application, seller)
}

func (w *world) oddly(o *odd) *instance {
	return w.instance(func(c *Config) {
		open := c.Open
		c.Open = func(ctx context.Context) (_ tokenstore.Store, keyring *secret.Keyring, err error) {
			o.Store, keyring, err = open(ctx)
			return o, keyring, err
		}
	})
}

// A list that is read while another instance replaces a pair can show neither.
func TestAListThatShowedNeitherOfTwoPairsIsNoLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := new(odd)
		i := newWorld(t).oddly(o)
		i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		o.blind.Store(true)
		time.Sleep(validFor)
		i.lives("shop-1", 100)
		require.False(t, o.blind.Load())
		require.Zero(t, i.events.count(EventAlarm))
	})
}

func TestARecordOfAnotherSellerIsNeverServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.instance().seller("shop-2", 200)
		i := w.oddly(&odd{seller: "shop-2"})
		problem := i.problem("shop-1")
		require.Equal(t, Connected, problem.Status)
		require.Equal(t, ReasonStore, problem.Reason)
	})
}

func TestAPairThatADisconnectElsewhereDeletedIsNotAddedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, other := w.instance(), w.instance()
		c := i.seller("shop-1", 100)
		other.lives("shop-1", 100)
		a := other.realm.account(accountID(100))
		require.NoError(t, i.Disconnect(t.Context(), c))
		_, err := other.read(t.Context(), other.store, "", a)
		require.NoError(t, err)
		require.Empty(t, i.account(100).Pairs)
		require.Zero(t, other.events.count(EventAlarm))
		require.False(t, a.known.Load().alive())
	})
}

func TestAReadThatIsOlderThanMemoryChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		older := i.account(100)
		i.lives("shop-1", 100)
		synctest.Wait()
		a := i.realm.account(accountID(100))
		a.publish(&older)
		require.Equal(t, uint64(1), a.known.Load().top().Generation)
	})
}

func TestADisconnectElsewhereIsNoticedByASellerWhoRests(t *testing.T) {
	for name, rest := range map[string]func(*instance){
		"for half a minute":         func(*instance) { time.Sleep(validFor) },
		"while the clock goes back": func(i *instance) { i.jump(-time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				i, other := w.instance(), w.instance()
				c := i.seller("shop-1", 100)
				other.lives("shop-1", 100)
				require.NoError(t, i.Disconnect(t.Context(), c))
				rest(other)
				require.Equal(t, NotConnected, other.problem("shop-1").Status)
			})
		})
	}
}

func TestAReconnectElsewhereIsNoticedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, other := w.due(), w.instance()
		w.outdo(100, "revoked")
		require.Equal(t, ReconnectRequired, i.problem("shop-1").Status)
		other.seller("shop-1", 100)
		i.lives("shop-1", 100)
	})
}

func TestAPairBelowTheTombstoneIsNotServed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		state := i.account(100)
		require.True(t, knownOf(&state, 0).alive())
		require.False(t, knownOf(&state, 1).alive())
		state.Tombstone = 1
		require.False(t, knownOf(&state, 0).alive())
	})
}

func TestATokenThatEndsTooSoonIsRenewedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		time.Sleep(life - 2*time.Minute)
		require.Greater(t, time.Until(i.lives("shop-1", 100).ExpiresAt()), 5*time.Minute)
	})
}

func TestALoadGoesOnForOthersWhenItsFirstCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.instance().seller("shop-1", 100)
		i := w.instance()
		i.before("Connection", func() { time.Sleep(time.Second) })
		ctx, leave := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer leave()
		go func() { _, _ = i.Token(ctx, "", "shop-1", 0) }()
		time.Sleep(100 * time.Millisecond)
		i.lives("shop-1", 100)
	})
}

func TestAnOpenBreakerStopsTheApplicationsOwnTokenToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		i.w.refuses(&oauth.Error{Outcome: oauth.ApplicationFault, Code: "invalid_client"})
		i.problem("shop-1")
		_, err := i.ApplicationToken(t.Context(), "", 0)
		require.Equal(t, ReasonApplicationFault, asError(err).Reason)
		require.Zero(t, i.w.provider.own)
	})
}

func TestANewerTokenFromElsewhereCountsAsNoRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, other := w.instance(), w.instance()
		i.seller("shop-1", 100)
		failed := other.lives("shop-1", 100)
		_, err := i.Replace(t.Context(), failed)
		require.NoError(t, err)
		newer, err := other.Replace(t.Context(), failed)
		require.NoError(t, err)
		_, err = other.Replace(t.Context(), newer)
		require.NoError(t, err, "it has not refreshed yet")
		require.Equal(t, 2, w.provider.count())
	})
}

func TestWhoComesDuringARefreshForA401WaitsForItsToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		failed := i.lives("shop-1", 100)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { time.Sleep(time.Second); return nil }
		})
		var callers sync.WaitGroup
		for range 20 {
			callers.Go(func() {
				_, err := i.Replace(t.Context(), failed)
				assert.NoError(t, err)
			})
			time.Sleep(10 * time.Millisecond)
		}
		callers.Wait()
		require.Equal(t, 1, w.provider.count())
	})
}

func TestAFailedRenewalOfTheApplicationsTokenIsNotRepeatedWithEachRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		_, err := i.ApplicationToken(t.Context(), "", 0)
		require.NoError(t, err)
		i.w.provider.script(func(p *provider) { p.ownErr = &oauth.Error{Outcome: oauth.Unknown, Code: "server_error"} })
		time.Sleep(5 * time.Hour)
		for range 100 {
			_, err := i.ApplicationToken(t.Context(), "", 0)
			require.NoError(t, err)
			synctest.Wait()
		}
		require.Equal(t, 2, i.w.provider.own)
	})
}
