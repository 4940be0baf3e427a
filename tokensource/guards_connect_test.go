package tokensource

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// The guards of connecting, disconnecting and renewing that no other test misses.

// exchanges counts the codes that are exchanged, and refuses made-up ones.
type exchanges struct {
	*provider
	err   error
	asked atomic.Int32
}

func (e *exchanges) Exchange(ctx context.Context, code string, verifier secret.Secret) (oauth.Answer, error) {
	e.asked.Add(1)
	if code == "made up" {
		return oauth.Answer{}, e.err
	}
	return e.provider.Exchange(ctx, code, verifier)
}

func (w *world) exchanging(err error) (*instance, *exchanges) {
	e := &exchanges{provider: w.provider, err: err}
	return w.instance(func(c *Config) { c.Applications = []Application{{Client: e}} }), e
}

func TestAProviderThatDoesNotAnswerExchangesIsLeftAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, e := newWorld(t).exchanging(&oauth.Error{Outcome: oauth.Unknown, Code: "timeout"})
		for range 4 * exchangeFailures {
			_, err := i.Exchange(t.Context(), "", "made up", noVerifier)
			require.Error(t, err)
		}
		require.Equal(t, int32(exchangeFailures), e.asked.Load())
	})
}

func TestRefusedCodesDoNotStopTheExchangesOfOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i, _ := newWorld(t).exchanging(&oauth.Error{Outcome: oauth.GrantDead, Code: "invalid_grant"})
		for range 4 * exchangeFailures {
			_, err := i.Exchange(t.Context(), "", "made up", noVerifier)
			require.Error(t, err)
		}
		i.seller("shop-1", 100)
	})
}

func TestAPairOfNobodyIsSavedToNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.me = silent
		w.provider.change = func(a *oauth.Answer) {
			a.UserID, a.AccessToken, a.RefreshToken = 0, secret.New("opaque"), noVerifier
		}
		i := w.instance()
		_, err := i.Exchange(t.Context(), "", w.provider.code(100), noVerifier)
		require.Equal(t, ReasonProvider, asError(err).Reason)
		require.Equal(t, 1, i.events.count(EventAlarm))
		require.Empty(t, spilledFiles(t, w))
	})
}

func TestNobodyIsConnectedAsAnEmptySeller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		_, err := i.Connect(t.Context(), "", i.consent(100))
		require.Equal(t, NotConnected, asError(err).Status)
	})
}

func TestAConsentOfAnotherApplicationMakesNoConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		consent := i.consent(100)
		consent.Account.ClientID = "5678"
		_, err := i.Connect(t.Context(), "shop-1", consent)
		require.Equal(t, ReasonApplicationChanged, asError(err).Reason)
		require.Equal(t, NotConnected, i.problem("shop-1").Status)
	})
}

// The account's last connection ends while another seller, who consented before,
// is asked to confirm.
func TestAConnectionThatIsMadeWhileTheLastOneEndsStandsOrFailsWhole(t *testing.T) {
	for _, op := range []string{"PutMark", "Connections", "PutTombstone", "DeletePairs", "DeleteMark"} {
		for _, after := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, after it %v", op, after), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					w.storage = storetest.NoLock(w.storage)
					i, other := w.instance(), w.instance()
					c, consent := i.seller("shop-1", 100), i.consent(100)
					var connected error
					i.at(op, after, func() { _, connected = other.Connect(context.Background(), "shop-2", consent) })
					require.NoError(t, i.Disconnect(t.Context(), c))
					next := w.instance()
					if connected == nil {
						if _, err := next.Connection(t.Context(), "", "shop-2"); err == nil {
							next.lives("shop-2", 100)
							return
						}
					}
					require.Equal(t, NotConnected, next.problem("shop-2").Status)
				})
			})
		}
	}
}

func TestADisconnectThatCannotTellWhoPointsToTheAccountDeletesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		c := i.seller("shop-1", 100)
		i.seller("shop-2", 100)
		i.store.set(failingOp("Connections"))
		require.NoError(t, i.Disconnect(t.Context(), c))
		i.store.set(nil)
		require.Equal(t, NotConnected, i.problem("shop-1").Status)
		require.Len(t, new(i.account(100)).Living(), 2)
		i.lives("shop-2", 100)
	})
}

func TestAConsentDuringADisconnectIsNeitherDeletedNorRevoked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.storage = storetest.NoLock(w.storage)
		i, other := w.instance(), w.instance()
		c := i.seller("shop-1", 100)
		var consent Consent
		i.behind("PutTombstone", func() { consent = other.consent(100) })
		require.NoError(t, i.Disconnect(t.Context(), c))
		require.Equal(t, uint64(2), consent.Authorization)
		require.Len(t, new(i.account(100)).Living(), 1)
		require.Empty(t, w.provider.gone, "the consent would die too")
	})
}

func TestADisconnectDropsTheAccountFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		c := i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		a := i.realm.account(accountID(100))
		require.NoError(t, i.Disconnect(t.Context(), c))
		require.False(t, a.known.Load().alive())
	})
}

func TestARestartKnowsWhatFailedLast(t *testing.T) {
	dir, now := t.TempDir(), time.Now()
	s := NewManager().Source(Config{StoreID: "one", SpillDir: dir})
	before := &renewer{source: s, queue: newQueue()}
	at := now.Add(20 * time.Minute).Round(time.Second)
	before.queue.plan(accountID(100), plan{at: at, renews: true, failing: true}, now, time.Hour)
	before.queue.changed = true
	before.keep()
	after := &renewer{source: s, queue: newQueue()}
	after.restore()
	require.Contains(t, after.queue.items, accountID(100))
	require.True(t, at.Equal(after.queue.items[accountID(100)].at))
}

func TestAWalkDoesNotBringForwardWhatFails(t *testing.T) {
	now := time.Now()
	q := newQueue()
	q.plan(accountID(100), plan{at: now.Add(time.Hour), failing: true}, now, day)
	q.meet(accountID(100), plan{at: now}, now, day)
	require.Equal(t, now.Add(time.Hour), q.items[accountID(100)].at)
}

func TestARenewalThatAnotherInstanceIsAtIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.storage = storetest.NoLock(w.storage)
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(160 * day)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { time.Sleep(3 * time.Second); return nil }
		})
		i.lives("shop-1", 100) // renews it in the background
		time.Sleep(time.Second)
		other := w.instance(ahead)
		time.Sleep(time.Hour)
		require.Equal(t, 1, w.provider.count())
		require.Zero(t, other.events.count(EventRenewalFailed))
	})
}

func TestATokenThatLivesForSecondsIsNotRenewedAheadOfTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.life = 30 * time.Second
		w.instance(ahead).seller("shop-1", 100)
		time.Sleep(time.Hour)
		require.Zero(t, w.provider.count())
	})
}

func TestOneAccountThatCannotBeReadHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		pair := i.top(100)
		i.seller("shop-2", 200)
		keys, err := w.storage.List(t.Context(), "mercadopago/accounts", true)
		require.NoError(t, err)
		for _, key := range keys {
			if len(key) > len(pair.Hash) && key[len(key)-len(pair.Hash):] == pair.Hash {
				require.NoError(t, w.storage.Store(t.Context(), key, []byte("damaged")))
			}
		}
		i.end()
		time.Sleep(160 * day)
		w.instance(ahead)
		time.Sleep(time.Hour)
		require.Equal(t, 1, w.provider.count())
	})
}

func TestAnAccountThatWasConsentedToMeanwhileIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.consent(100)
		time.Sleep(2 * day)
		i.consent(100)
		a := i.realm.account(accountID(100))
		require.NoError(t, i.abandon(t.Context(), &opened{i.store, i.w.keyring}, i.application(""), a))
		require.Len(t, new(i.account(100)).Living(), 2)
	})
}

func TestAYoungMarkIsNotTidiedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		require.NoError(t, i.store.PutMark(t.Context(), accountID(100), tokenstore.Mark{Connection: "c", Authorization: 1, At: time.Now()}))
		tidy := func() int {
			state := i.account(100)
			require.NoError(t, i.tidy(t.Context(), &opened{i.store, i.w.keyring}, i.realm.account(accountID(100)), &state))
			return len(i.account(100).Marks)
		}
		require.Equal(t, 1, tidy(), "a disconnect may be at it")
		time.Sleep(2 * day)
		require.Zero(t, tidy())
	})
}

func TestAProviderThatFailsIsAskedLessAtOnce(t *testing.T) {
	now := time.Now()
	q := newQueue()
	l := q.lane("1234")
	for range 20 {
		q.worked(l, 8)
	}
	require.Equal(t, 8, l.limit)
	q.failed(l, now, notYet(errPaused), false, 0)
	require.Equal(t, 4, l.limit)
}

func TestAFailedLoadStopsNoRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance(ahead)
		i.seller("shop-1", 100)
		next := i.manager.Source(i.w.config(i))
		next.Start()
		next.Stop()
		time.Sleep(170 * day)
		require.Equal(t, 1, i.w.provider.count())
	})
}
