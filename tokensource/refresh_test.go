package tokensource

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

func TestAConnectedSellerHasATokenAndNobodyElseHas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		i.seller("shop-2", 200)
		i.lives("shop-1", 100)
		i.lives("shop-2", 200)
		require.Equal(t, NotConnected, i.problem("shop-3").Status)
		require.Equal(t, NotConnected, i.problem("").Status)
		require.Zero(t, i.w.provider.count())
	})
}

func TestRefreshIsDoneOnceForAHundredCallers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		old := i.lives("shop-1", 100)
		time.Sleep(life + time.Minute)
		i.w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { time.Sleep(time.Second); return nil }
		})
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() { i.lives("shop-1", 100) })
		}
		callers.Wait()
		require.Equal(t, 1, i.w.provider.count())
		require.False(t, old.AccessToken().Equal(i.lives("shop-1", 100).AccessToken()))
		synctest.Wait()
		state := i.account(100)
		require.Len(t, state.Pairs, 1)
		require.Empty(t, state.Intents)
	})
}

func TestTwoInstancesRefreshOnce(t *testing.T) {
	for name, storage := range map[string]func(*world){
		"with a lock":                      func(*world) {},
		"with a lock that does nothing":    func(w *world) { w.storage = storetest.NoLock(w.storage) },
		"with a lock that fails at once":   func(w *world) { w.storage = storetest.ImpatientLock(w.storage) },
		"with a lock that always fails":    func(w *world) { w.storage = storetest.Hook(w.storage, failing("lock")) },
		"with a lock that does not unlock": func(w *world) { w.storage = storetest.Hook(w.storage, failing("unlock")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				storage(w)
				a, b := w.instance(), w.instance()
				a.seller("shop-1", 100)
				time.Sleep(life + time.Minute)
				w.provider.script(func(p *provider) {
					p.before = func(context.Context, string) error { time.Sleep(time.Second); return nil }
				})
				var callers sync.WaitGroup
				for range 10 {
					callers.Go(func() { a.eventually("shop-1", 100) })
					callers.Go(func() { b.eventually("shop-1", 100) })
				}
				callers.Wait()
				require.Equal(t, 1, w.provider.count())
				require.Zero(t, w.provider.reused)
			})
		})
	}
}

func TestNobodyWaitsLongForALockThatCannotBeHad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.storage = storetest.Hook(w.storage, failing("lock"))
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		asked := time.Now()
		problem := i.problem("shop-1")
		require.LessOrEqual(t, time.Since(asked), lockPatience)
		require.Equal(t, Connected, problem.Status)
		require.ErrorIs(t, problem, errLocked)
		i.eventually("shop-1", 100)
		require.LessOrEqual(t, time.Since(asked), timeout+lockSlack+problem.RetryAfter, "the refresh goes on without the lock")
		require.Equal(t, 1, w.provider.count())
	})
}

func failing(op string) func(string, string) error {
	return func(o, _ string) error {
		if o == op {
			return errors.New("the storage plugin failed")
		}
		return nil
	}
}

func TestACallerThatLeavesInMidRefreshCostsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		i.w.provider.script(func(p *provider) {
			p.before = func(ctx context.Context, _ string) error {
				time.Sleep(time.Second)
				return ctx.Err()
			}
		})
		ctx, leave := context.WithCancel(t.Context())
		time.AfterFunc(500*time.Millisecond, leave)
		_, err := i.Token(ctx, "", "shop-1", 0)
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(time.Second)
		i.lives("shop-1", 100)
		require.Equal(t, 1, i.w.provider.count())
	})
}

func TestATokenThatIsDueIsRenewedByItsUseAndServesMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		old := i.lives("shop-1", 100)
		time.Sleep(life - 29*24*time.Hour)
		require.True(t, old.AccessToken().Equal(i.lives("shop-1", 100).AccessToken()))
		synctest.Wait()
		require.Equal(t, 1, i.w.provider.count())
		require.False(t, old.AccessToken().Equal(i.lives("shop-1", 100).AccessToken()))
	})
}

func TestATokenThatLivesShorterThanTheValidityAskedForIsNotRefreshedInACircle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.life = 4 * time.Minute
		i := w.instance()
		i.seller("shop-1", 100)
		for range 24 {
			i.lives("shop-1", 100)
			time.Sleep(10 * time.Second)
		}
		synctest.Wait()
		require.LessOrEqual(t, w.provider.count(), 2)
	})
}

func TestAPairObtainedInTheFutureIsDueNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		i.jump(-time.Hour)
		i.lives("shop-1", 100)
		synctest.Wait()
		require.Equal(t, 1, i.w.provider.count())
		time.Sleep(time.Minute)
		i.lives("shop-1", 100)
		synctest.Wait()
		require.Equal(t, 1, i.w.provider.count(), "the new pair is of the clock that counts")
	})
}

func TestAClockThatJumpsForwardOnlyCostsARefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		i.jump(2 * life)
		i.lives("shop-1", 100)
		require.Equal(t, 1, i.w.provider.count())
	})
}

func TestAnotherApplicationsConnectionIsToldWithoutARequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.instance().seller("shop-1", 100)
		w.provider.clientID = "5678"
		i := w.instance()
		time.Sleep(life + time.Minute)
		problem := i.problem("shop-1")
		require.Equal(t, ReconnectRequired, problem.Status)
		require.Equal(t, ReasonApplicationChanged, problem.Reason)
		require.Zero(t, w.provider.count())
	})
}

func TestAnAnswerWithoutARefreshTokenKeepsTheOldOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		w.provider.script(func(p *provider) {
			p.change = func(a *oauth.Answer) {
				// The provider does not rotate.
				p.refresh[100] = "TG-2-100"
				a.RefreshToken, a.PublicKey, a.UserID, a.LiveMode = secret.Secret{}, "", 0, nil
			}
		})
		kept := i.account(100).Pairs[0].RefreshToken.Reveal()
		w.provider.script(func(p *provider) {
			p.change = func(a *oauth.Answer) {
				p.refresh[100] = kept
				a.RefreshToken, a.PublicKey, a.UserID, a.LiveMode = secret.Secret{}, "", 0, nil
			}
		})
		for range 3 {
			time.Sleep(life + time.Minute)
			token := i.lives("shop-1", 100)
			require.Equal(t, "PK-100", token.PublicKey())
			synctest.Wait()
			state := i.account(100)
			require.Len(t, state.Pairs, 1)
			require.Empty(t, state.Intents)
			require.Equal(t, kept, state.Pairs[0].RefreshToken.Reveal())
		}
	})
}

func TestAnotherAccountsTokensAreNeverUsed(t *testing.T) {
	live := false
	for name, change := range map[string]func(*oauth.Answer){
		"another user": func(a *oauth.Answer) { a.UserID = 666 },
		"another mode": func(a *oauth.Answer) { a.LiveMode = &live },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				i := w.instance()
				i.seller("shop-1", 100)
				w.provider.script(func(p *provider) { p.change = change })
				time.Sleep(life + time.Minute)
				require.Equal(t, Connected, i.problem("shop-1").Status)
				require.Equal(t, 1, i.events.count(EventAlarm))
				state := i.account(100)
				require.Len(t, state.Pairs, 1)
				require.Zero(t, state.Pairs[0].Generation)
			})
		})
	}
}

func TestAPairWithoutARefreshTokenServesToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.change = func(a *oauth.Answer) { a.RefreshToken = secret.Secret{} }
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life - time.Second)
		i.lives("shop-1", 100)
		time.Sleep(2 * time.Second)
		problem := i.problem("shop-1")
		require.Equal(t, ReconnectRequired, problem.Status)
		require.Equal(t, ReasonNoRefreshToken, problem.Reason)
		require.Zero(t, w.provider.count())
	})
}

func TestMemoryThatKnowsAHigherPairThanTheStoreAddsItAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		old := i.account(100).Pairs[0]
		time.Sleep(life + time.Minute)
		newer := i.lives("shop-1", 100)
		synctest.Wait()
		// A back-up is restored.
		require.NoError(t, i.store.AddPair(t.Context(), accountID(100), old))
		require.NoError(t, i.store.DeletePairs(t.Context(), accountID(100), newer.Pair()))
		time.Sleep(time.Minute)
		require.True(t, newer.AccessToken().Equal(i.lives("shop-1", 100).AccessToken()))
		require.Len(t, i.account(100).Pairs, 2)
		require.Equal(t, 1, i.events.count(EventAlarm))
		require.Equal(t, 1, w.provider.count())
	})
}

func TestNothingIsSentOnceTheDeadlineOfTheIntentHasPassed(t *testing.T) {
	for name, delay := range map[string]func(*instance){
		"the store was slow":  func(*instance) { time.Sleep(timeout + time.Second) },
		"the machine slept":   func(i *instance) { i.jump(time.Hour) },
		"the clock went back": func(i *instance) { i.jump(-time.Second) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newWorld(t).instance()
				i.seller("shop-1", 100)
				time.Sleep(life + time.Minute)
				i.store.set(func(op string, after bool) error {
					if op == "PutIntent" && after {
						delay(i)
					}
					return nil
				})
				require.Equal(t, ReasonProvider, i.problem("shop-1").Reason)
				require.Zero(t, i.w.provider.count())
				require.Empty(t, i.account(100).Intents)
				i.store.set(nil)
				i.eventually("shop-1", 100)
			})
		})
	}
}

func TestAVerdictWaitsForAnotherInstanceThatMayHoldTheNewPair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, other := w.instance(), w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		old := i.account(100).Pairs[0]
		store := other.store
		intent := tokenstore.Intent{Pair: old.Hash, Instance: "other", Nonce: "nonce", At: time.Now()}
		var newer oauth.Answer
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error {
				// Another instance lost its lease, and was faster.
				w.provider.script(func(p *provider) { newer = p.issue(100) })
				return store.PutIntent(context.Background(), accountID(100), intent)
			}
		})
		time.AfterFunc(15*time.Second, func() {
			_ = store.AddPair(context.Background(), accountID(100), successor(&old, newer, time.Now()))
			_ = store.DeleteIntent(context.Background(), accountID(100), intent)
		})
		i.lives("shop-1", 100)
		require.Equal(t, 1, w.provider.count())
		require.Empty(t, i.account(100).Verdicts)
		require.Zero(t, i.events.count(EventReconnectRequired))
	})
}
