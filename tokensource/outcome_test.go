package tokensource

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

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

// coarse is a store that keeps times to the microsecond, as PostgreSQL does.
type coarse struct{ tokenstore.Store }

func (s coarse) PutIntent(ctx context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	i.At = i.At.Truncate(time.Microsecond)
	return s.Store.PutIntent(ctx, id, i)
}

func TestAPauseIsNotBegunAnewBecauseTheStoreKeepsTimesLessExactly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.store.Store = coarse{i.store.Store}
		i.seller("shop-1", 100)
		i.w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { return &oauth.Error{Outcome: oauth.Unknown, Code: "server_error"} }
		})
		time.Sleep(life + time.Minute + 123*time.Nanosecond)
		problem := i.problem("shop-1")
		require.InDelta(t, timeout+slack, problem.RetryAfter, float64(time.Second))
		i.w.provider.script(func(p *provider) { p.before = nil })
		time.Sleep(timeout + slack + time.Second)
		i.lives("shop-1", 100)
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
