package tokensource

import (
	"context"
	"errors"
	"sync"
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

// Each of these holds one guard of the refresh protocol that no other test
// misses; tools/mutate takes them away one at a time.

// before runs something once, before a store operation is carried out.
func (i *instance) before(op string, then func()) { i.at(op, false, then) }

// behind runs something once, after a store operation was carried out.
func (i *instance) behind(op string, then func()) { i.at(op, true, then) }

func (i *instance) at(op string, after bool, then func()) {
	var done atomic.Bool
	i.store.set(func(o string, isAfter bool) error {
		if o == op && isAfter == after && done.CompareAndSwap(false, true) {
			then()
		}
		return nil
	})
}

// calls counts the calls of a store operation.
func (i *instance) calls(op string) *atomic.Int32 {
	var n atomic.Int32
	i.store.set(func(o string, after bool) error {
		if o == op && !after {
			n.Add(1)
		}
		return nil
	})
	return &n
}

// refuses has the provider answer every refresh with an error.
func (w *world) refuses(err error) {
	w.provider.script(func(p *provider) { p.before = func(context.Context, string) error { return err } })
}

// due has a seller whose access token has ended.
func (w *world) due() *instance {
	i := w.instance()
	i.seller("shop-1", 100)
	time.Sleep(life + time.Minute)
	return i
}

func TestAHundredCallersAskTheStoreForOneLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		locks := i.calls("Lock")
		i.w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { time.Sleep(time.Second); return nil }
		})
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() { i.lives("shop-1", 100) })
		}
		callers.Wait()
		require.Equal(t, int32(1), locks.Load())
	})
}

func TestWhoHoldsTheLockIsTheOnlyOneToAnnounceARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, other := w.due(), w.instance()
		i.before("PutIntent", func() { time.Sleep(2 * time.Second) })
		intents := other.calls("PutIntent")
		go refresh(i)
		time.Sleep(time.Second)
		other.eventually("shop-1", 100)
		require.Zero(t, intents.Load())
	})
}

// Where the lock does nothing both see, after they wrote, what the other wrote.
func TestTwoThatAnnounceAtOnceSendOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.storage = storetest.NoLock(w.storage)
		i, other := w.due(), w.instance()
		var both sync.WaitGroup
		both.Add(2)
		for _, one := range []*instance{i, other} {
			one.before("PutIntent", func() {
				both.Done()
				both.Wait()
			})
		}
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { time.Sleep(time.Second); return nil }
		})
		began := time.Now()
		var callers sync.WaitGroup
		callers.Go(func() { i.eventually("shop-1", 100) })
		callers.Go(func() { other.eventually("shop-1", 100) })
		callers.Wait()
		require.Equal(t, 1, w.provider.count())
		require.Less(t, time.Since(began), timeout, "who withdrew holds nobody back")
	})
}

func TestWithoutAnIntentNothingIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		i.store.set(failingOp("PutIntent"))
		require.Equal(t, ReasonStore, i.problem("shop-1").Reason)
		require.Zero(t, i.w.provider.count())
		i.store.set(nil)
	})
}

func TestAnIntentThatWasWrittenInSpiteOfAnErrorHoldsNobodyBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		i.store.set(func(op string, after bool) error {
			if op == "PutIntent" && after {
				return errors.New("the answer was lost")
			}
			return nil
		})
		require.Equal(t, ReasonStore, i.problem("shop-1").Reason)
		require.Empty(t, i.account(100).Intents)
	})
}

func TestAPairThatCameWhileTheIntentWasWrittenIsUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.storage = storetest.NoLock(w.storage)
		i, other := w.due(), w.instance()
		i.before("PutIntent", func() {
			other.lives("shop-1", 100)
			time.Sleep(time.Second) // it withdraws its intent
		})
		i.lives("shop-1", 100)
		require.Equal(t, 1, w.provider.count())
	})
}

func TestNothingIsSentOnceTheProcessEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		i.behind("PutIntent", func() {
			go func() { _ = i.manager.Destruct() }()
			time.Sleep(time.Second)
		})
		i.problem("shop-1")
		require.Zero(t, i.w.provider.count())
		require.Empty(t, i.account(100).Intents)
	})
}

func TestARequestEndsWhenOthersMayTakeItsOutcomeForLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		i.behind("PutIntent", func() { time.Sleep(5 * time.Second) })
		var left time.Duration
		i.w.provider.script(func(p *provider) {
			p.before = func(ctx context.Context, _ string) error {
				deadline, _ := ctx.Deadline()
				left = time.Until(deadline)
				return nil
			}
		})
		i.eventually("shop-1", 100)
		require.InDelta(t, timeout-5*time.Second, left, float64(time.Second))
	})
}

func TestANewPairIsInTheStoreBeforeAnyoneUsesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		i.before("AddPair", func() { time.Sleep(time.Second) })
		i.lives("shop-1", 100)
		require.Equal(t, uint64(1), i.top(100).Generation)
	})
}

func TestAPairThatCameDuringTheRequestIsNotDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		w := i.w
		var came tokenstore.Pair
		w.provider.script(func(p *provider) {
			p.after = func(context.Context, *oauth.Answer) error {
				came = newPair(oauth.Answer{AccessToken: secret.New("APP_USR-came"), RefreshToken: secret.New("TG-came"), ExpiresIn: life}, time.Now())
				came.PairID = tokenstore.PairID{Authorization: 1, Hash: tokenstore.HashPair(came.AccessToken, came.RefreshToken)}
				return i.store.AddPair(context.Background(), accountID(100), came)
			}
		})
		i.lives("shop-1", 100)
		synctest.Wait()
		require.True(t, contains(new(i.account(100)), came.PairID))
	})
}

func TestAConsentThatIsAboveTheNewPairIsNotDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		older := w.provider.refresh[100]
		w.provider.script(func(p *provider) { p.change = func(a *oauth.Answer) { a.RefreshToken = noVerifier } })
		i.consent(100)
		w.provider.script(func(p *provider) { p.change = nil })
		w.outdo(100, older)
		above := i.top(100).PairID
		time.Sleep(life + time.Minute)
		i.lives("shop-1", 100)
		synctest.Wait()
		require.True(t, contains(new(i.account(100)), above))
		require.Len(t, i.account(100).Pairs, 2)
	})
}

func TestAFailureHoldsBackItsOwnPairOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, other := w.due(), w.instance()
		w.refuses(&oauth.Error{Outcome: oauth.Refused, Code: "dial", RetryAfter: time.Hour})
		i.problem("shop-1")
		w.provider.script(func(p *provider) { p.before = nil })
		other.seller("shop-1", 100)
		time.Sleep(validFor)
		_, err := i.Replace(t.Context(), i.lives("shop-1", 100))
		require.NoError(t, err)
	})
}

func TestARefusedRequestLeavesNoIntent(t *testing.T) {
	for name, outcome := range map[string]oauth.Outcome{"refused": oauth.Refused, "application fault": oauth.ApplicationFault} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newWorld(t).due()
				i.w.refuses(&oauth.Error{Outcome: outcome, Code: "whatever"})
				i.problem("shop-1")
				require.Empty(t, i.account(100).Intents)
			})
		})
	}
}

func TestNoProviderMakesASellerWaitForMoreThanAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		i.w.refuses(&oauth.Error{Outcome: oauth.Refused, Code: "rate_limited", RetryAfter: 10 * time.Hour})
		require.Equal(t, time.Hour, i.problem("shop-1").RetryAfter)
	})
}

func TestAnErrorOfNoKindIsAnUnknownOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		i.w.refuses(errors.New("of no kind"))
		require.GreaterOrEqual(t, i.problem("shop-1").RetryAfter, timeout)
		require.Len(t, i.account(100).Intents, 1)
	})
}

func TestAVerdictOnAPairThatWasReplacedMeanwhileIsNotWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		old := i.top(100)
		i.w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error {
				var newer oauth.Answer
				p.script(func(p *provider) { newer = p.issue(100) })
				return i.store.AddPair(context.Background(), accountID(100), successor(&old, newer, time.Now()))
			}
		})
		i.lives("shop-1", 100)
		require.Equal(t, 1, i.w.provider.reused)
		require.Empty(t, i.account(100).Verdicts)
	})
}

func TestAFewCondemnationsAmongManyRefreshesAreBelieved(t *testing.T) {
	now := time.Now()
	a := newApplicationState()
	for range 40 {
		a.refreshed(now)
	}
	for range condemnedMost + 2 {
		require.True(t, a.mayCondemn(now))
	}
}

func TestARefreshThatWasUnderWayDoesNotEndTheSuspicion(t *testing.T) {
	now := time.Now()
	a := newApplicationState()
	for range condemnedMost + 1 {
		a.mayCondemn(now)
	}
	a.refreshed(now.Add(time.Minute))
	require.False(t, a.mayCondemn(now.Add(20*time.Minute)), "long after the window of the others")
	a.refreshed(now.Add(20*time.Minute + suspicionPause))
	require.True(t, a.mayCondemn(now.Add(20*time.Minute+suspicionPause)))
}

func TestAnExchangeThatWorksDoesNotEndTheSuspicion(t *testing.T) {
	now := time.Now()
	a := newApplicationState()
	for range condemnedMost + 1 {
		a.mayCondemn(now)
	}
	a.breaker.open(now, notYet(errSuspicious), suspicionPause)
	a.accepted()
	require.Error(t, a.breaker.check(now))
}

func TestABreakerLetsOneTry(t *testing.T) {
	now := time.Now()
	var b breaker
	b.open(now, notYet(errSuspicious), time.Minute)
	require.Error(t, b.allow(now))
	later := now.Add(time.Hour)
	require.NoError(t, b.allow(later))
	require.Error(t, b.allow(later), "the others wait for what comes of it")
}

func TestAClockThatWasSetBackEndsAWait(t *testing.T) {
	now := time.Now()
	var s setback
	s.set(now, notYet(errSuspicious), time.Hour)
	require.Error(t, s.check(now))
	require.NoError(t, s.check(now.Add(-time.Minute)))
}

func TestASmallWriteThatFailsOnceIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		i.w.refuses(&oauth.Error{Outcome: oauth.Refused, Code: "dial"})
		var failed atomic.Bool
		i.store.set(func(op string, after bool) error {
			if op == "DeleteIntent" && !after && failed.CompareAndSwap(false, true) {
				return errors.New("busy")
			}
			return nil
		})
		i.problem("shop-1")
		require.True(t, failed.Load())
		require.Empty(t, i.account(100).Intents)
	})
}

// announced has another instance's intent name the account's pair.
func (i *instance) announced(at time.Time) tokenstore.Intent {
	intent := tokenstore.Intent{Pair: i.top(100).Hash, Instance: "another", Nonce: "1", At: at}
	require.NoError(i.w.t, i.store.PutIntent(context.Background(), accountID(100), intent))
	return intent
}

func TestAnIntentFromAClockThatIsBehindIsWaitedForAllTheSame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		i.announced(time.Now().Add(-time.Hour))
		began := time.Now()
		for i.w.provider.count() == 0 {
			_, _ = i.token("shop-1")
			time.Sleep(time.Second)
		}
		require.GreaterOrEqual(t, time.Since(began), timeout+slack)
	})
}

func TestAnIntentFromAClockThatIsAheadHoldsNobodyBackForLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		time.Sleep(life - 20*24*time.Hour)
		i.announced(time.Now().Add(30 * 24 * time.Hour))
		i.renewedWithin(t, 26*time.Hour)
	})
}

func TestAClockThatWasSetBackDoesNotHoldAnUnknownOutcomeForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		time.Sleep(life - 20*24*time.Hour)
		i.announced(time.Now())
		i.lives("shop-1", 100)
		synctest.Wait()
		i.jump(-365 * 24 * time.Hour)
		i.renewedWithin(t, 26*time.Hour)
	})
}

// renewedWithin uses a seller's token, and requires that it is refreshed in time.
func (i *instance) renewedWithin(t *testing.T, bound time.Duration) {
	t.Helper()
	for began := time.Now(); time.Since(began) < bound; time.Sleep(time.Hour) {
		i.lives("shop-1", 100)
		synctest.Wait()
	}
	require.Equal(t, 1, i.w.provider.count())
}

func TestWhoHasNoTokenWaitsForTheRefreshOfAnotherInstance(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).due()
		old, intent := i.top(100), i.announced(time.Now())
		time.AfterFunc(2*time.Second, func() {
			var newer oauth.Answer
			i.w.provider.script(func(p *provider) { newer = p.issue(100) })
			_ = i.store.AddPair(context.Background(), accountID(100), successor(&old, newer, time.Now()))
			_ = i.store.DeleteIntent(context.Background(), accountID(100), intent)
		})
		i.lives("shop-1", 100)
		require.Zero(t, i.w.provider.count())
	})
}

func TestAPairWithAnUnknownOutcomeIsLeftAloneByTheNextProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.instance()
		first.seller("shop-1", 100)
		w.refuses(&oauth.Error{Outcome: oauth.Unknown, Code: "cut"})
		time.Sleep(life - 20*24*time.Hour)
		first.lives("shop-1", 100)
		synctest.Wait()
		first.crash()
		second := w.instance()
		for range 23 {
			second.lives("shop-1", 100)
			synctest.Wait()
			time.Sleep(time.Hour)
		}
		require.Equal(t, 1, w.provider.count())
	})
}
