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
		require.False(t, old.AccessToken.Equal(i.lives("shop-1", 100).AccessToken))
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
		require.True(t, old.AccessToken.Equal(i.lives("shop-1", 100).AccessToken))
		synctest.Wait()
		require.Equal(t, 1, i.w.provider.count())
		require.False(t, old.AccessToken.Equal(i.lives("shop-1", 100).AccessToken))
	})
}

func TestAValidTokenIsNeverWithheldHoweverARefreshFails(t *testing.T) {
	for name, script := range map[string]func(context.Context, string) error{
		"refused": func(context.Context, string) error { return &oauth.Error{Outcome: oauth.Refused, Code: "dial"} },
		"unknown": func(context.Context, string) error { return &oauth.Error{Outcome: oauth.Unknown, Code: "server_error"} },
		"dead": func(context.Context, string) error {
			return &oauth.Error{Outcome: oauth.GrantDead, Code: "invalid_grant"}
		},
		"application fault": func(context.Context, string) error {
			return &oauth.Error{Outcome: oauth.ApplicationFault, Code: "invalid_client"}
		},
		"no answer": func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newWorld(t).instance()
				i.seller("shop-1", 100)
				i.w.provider.script(func(p *provider) { p.before = script })
				time.Sleep(life - 2*time.Minute) // less than the validity asked for
				for range 10 {
					began := time.Now()
					i.lives("shop-1", 100)
					require.LessOrEqual(t, time.Since(began), patience)
					time.Sleep(5 * time.Second)
				}
				synctest.Wait()
				require.LessOrEqual(t, i.w.provider.count(), 7)
			})
		})
	}
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

func TestALostAnswerIsTriedAgainLateWhileTheTokenLivesAndSoonerAfter(t *testing.T) {
	lost := func(context.Context, *oauth.Answer) error { return &oauth.Error{Outcome: oauth.Unknown, Code: "cut"} }
	t.Run("while it lives", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := newWorld(t).instance()
			i.seller("shop-1", 100)
			i.w.provider.script(func(p *provider) {
				p.before = func(context.Context, string) error { return &oauth.Error{Outcome: oauth.Unknown, Code: "server_error"} }
			})
			time.Sleep(life - 20*24*time.Hour)
			i.lives("shop-1", 100)
			synctest.Wait()
			require.Equal(t, 1, i.w.provider.count())
			require.Len(t, i.account(100).Intents, 1, "the intent stays")
			for range 23 {
				time.Sleep(time.Hour)
				i.lives("shop-1", 100)
			}
			synctest.Wait()
			require.Equal(t, 1, i.w.provider.count())
			i.w.provider.script(func(p *provider) { p.before = nil })
			time.Sleep(2 * time.Hour)
			i.lives("shop-1", 100)
			synctest.Wait()
			require.Equal(t, 2, i.w.provider.count())
			require.Empty(t, i.account(100).Intents)
		})
	})
	t.Run("once it has ended", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			i := newWorld(t).instance()
			i.seller("shop-1", 100)
			i.w.provider.script(func(p *provider) { p.after = lost })
			time.Sleep(life + time.Minute)
			problem := i.problem("shop-1")
			require.Equal(t, Connected, problem.Status)
			require.Equal(t, ReasonProvider, problem.Reason)
			require.InDelta(t, timeout+slack, problem.RetryAfter, float64(time.Second))
			require.Equal(t, 1, i.w.provider.count())
			time.Sleep(timeout + slack - time.Second)
			i.problem("shop-1")
			require.Equal(t, 1, i.w.provider.count())
			// It was burnt; only now is the seller asked.
			time.Sleep(2 * time.Second)
			problem = i.problem("shop-1")
			require.Equal(t, ReconnectRequired, problem.Status)
			require.Equal(t, "invalid_grant", problem.Reason)
			require.Equal(t, 2, i.w.provider.count())
			i.seller("shop-1", 100)
			i.lives("shop-1", 100)
		})
	})
}

func TestPausesGrowAfterUnknownOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		i.w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { return &oauth.Error{Outcome: oauth.Unknown, Code: "server_error"} }
		})
		time.Sleep(life + time.Minute)
		last := time.Duration(0)
		for range 5 {
			problem := i.problem("shop-1")
			require.Greater(t, problem.RetryAfter, last)
			last = problem.RetryAfter
			time.Sleep(problem.RetryAfter)
		}
		i.w.provider.script(func(p *provider) { p.before = nil })
		i.eventually("shop-1", 100)
	})
}

func TestAProviderThatRefusesIsGivenTheTimeItAsksFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		i.w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error {
				return &oauth.Error{Outcome: oauth.Refused, Code: "rate_limited", Status: 429, RetryAfter: 90 * time.Second}
			}
		})
		time.Sleep(life + time.Minute)
		problem := i.problem("shop-1")
		require.GreaterOrEqual(t, problem.RetryAfter, 90*time.Second)
		synctest.Wait()
		require.Empty(t, i.account(100).Intents, "nothing was carried out")
		time.Sleep(80 * time.Second)
		i.problem("shop-1")
		require.Equal(t, 1, i.w.provider.count())
		i.w.provider.script(func(p *provider) { p.before = nil })
		time.Sleep(20 * time.Second)
		i.lives("shop-1", 100)
	})
}

func TestAFaultOfTheApplicationTouchesNoAccountAndStopsHammering(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		i.seller("shop-2", 200)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error {
				return &oauth.Error{Outcome: oauth.ApplicationFault, Code: "invalid_client", Status: 400}
			}
		})
		time.Sleep(life + time.Minute)
		require.Equal(t, ReasonApplicationFault, i.problem("shop-1").Reason)
		require.Equal(t, ReasonApplicationFault, i.problem("shop-2").Reason)
		require.Equal(t, 1, w.provider.count())
		require.Equal(t, 1, i.events.count(EventAlarm))
		require.Empty(t, i.account(100).Verdicts)
		require.Empty(t, i.account(100).Intents)
		// The operator mends the secret and reloads.
		w.provider.script(func(p *provider) { p.before = nil })
		next := i.manager.Source(w.config(i))
		next.Start()
		i.lives("shop-1", 100)
		i.lives("shop-2", 200)
	})
}

func TestAVerdictIsForItsPairOnlyAndTheOtherConsentIsTried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		// A second consent, made elsewhere at the same time, that the provider
		// ordered before the first.
		dead := tokenstore.Pair{AccessToken: secret.New("dead"), RefreshToken: secret.New("TG-dead-100"), ObtainedAt: time.Now(), ExpiresAt: time.Now().Add(life)}
		dead.PairID = tokenstore.PairID{Authorization: 2, Hash: tokenstore.HashPair(dead.AccessToken, dead.RefreshToken)}
		require.NoError(t, i.store.AddPair(t.Context(), accountID(100), dead))
		time.Sleep(life + time.Minute)
		i.lives("shop-1", 100)
		require.Equal(t, 2, w.provider.count())
		synctest.Wait()
		state := i.account(100)
		require.Len(t, state.Verdicts, 1)
		require.Equal(t, dead.Hash, state.Verdicts[0].Pair)
		require.Zero(t, i.events.count(EventReconnectRequired))
	})
}

func TestADeadPairIsToldOnceAndStillServesWhileItsAccessTokenIsValid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		w.provider.script(func(p *provider) { p.refresh[100] = "revoked" })
		time.Sleep(life - 10*24*time.Hour)
		i.lives("shop-1", 100)
		synctest.Wait()
		require.Equal(t, 1, i.events.count(EventReconnectRequired))
		time.Sleep(24 * time.Hour)
		i.lives("shop-1", 100)
		time.Sleep(10 * 24 * time.Hour)
		problem := i.problem("shop-1")
		require.Equal(t, ReconnectRequired, problem.Status)
		require.Equal(t, "invalid_grant", problem.Reason)
		require.Equal(t, 1, w.provider.count())
		require.Equal(t, 1, i.events.count(EventReconnectRequired))
	})
}

func TestManyCondemnationsAtOnceCondemnNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		const sellers = 20
		name := func(n int) string { return "shop-" + string(rune('a'+n)) }
		for n := range sellers {
			i.seller(name(n), int64(100+n))
			time.Sleep(time.Second)
		}
		time.Sleep(life + time.Minute)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error {
				return &oauth.Error{Outcome: oauth.GrantDead, Code: "invalid_grant", Status: 400}
			}
		})
		condemned := 0
		for n := range sellers {
			problem := i.problem(name(n))
			if problem.Status == ReconnectRequired {
				condemned++
				continue
			}
			require.Positive(t, problem.RetryAfter)
		}
		require.Equal(t, condemnedMost, condemned)
		require.Equal(t, condemnedMost+1, w.provider.count(), "after that all is stopped")
		require.Equal(t, 1, i.events.count(EventAlarm))
		// The provider mends itself.
		w.provider.script(func(p *provider) { p.before = nil })
		for n := condemnedMost; n < sellers; n++ {
			i.eventually(name(n), int64(100+n))
		}
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
			require.Equal(t, "PK-100", token.PublicKey)
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
		require.NoError(t, i.store.DeletePairs(t.Context(), accountID(100), newer.Pair))
		time.Sleep(time.Minute)
		require.True(t, newer.AccessToken.Equal(i.lives("shop-1", 100).AccessToken))
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
