package tokensource

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

func TestATokenThatGotA401IsReplacedByANewerOneOrByOneRefresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.instance(), w.instance()
		a.seller("shop-1", 100)
		failed := a.lives("shop-1", 100)
		b.lives("shop-1", 100)

		var callers sync.WaitGroup
		for range 20 {
			callers.Go(func() {
				newer, err := a.Replace(t.Context(), failed)
				if assert.NoError(t, err, "who comes while it is refreshed waits for the new token") {
					assert.Equal(t, int64(100), w.provider.owner(newer.AccessToken()))
				}
			})
		}
		callers.Wait()
		require.Equal(t, 1, w.provider.count())
		newer, err := a.Replace(t.Context(), failed)
		require.NoError(t, err)
		require.False(t, newer.AccessToken().Equal(failed.AccessToken()))
		// Another instance reads it, and refreshes nothing.
		again, err := b.Replace(t.Context(), failed)
		require.NoError(t, err)
		require.True(t, again.AccessToken().Equal(newer.AccessToken()))
		require.Equal(t, 1, w.provider.count())

		// At most once a minute for an account.
		_, err = a.Replace(t.Context(), newer)
		require.Error(t, err)
		require.Equal(t, 1, w.provider.count())
		time.Sleep(time.Minute)
		_, err = a.Replace(t.Context(), newer)
		require.NoError(t, err)
		require.Equal(t, 2, w.provider.count())
	})
}

func TestARefreshForA401ThatWasRefusedIsTriedAgainOnceAMinuteAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { return &oauth.Error{Outcome: oauth.Refused, Code: "dial"} }
		})
		failed := i.lives("shop-1", 100)
		for range 50 {
			_, err := i.Replace(t.Context(), failed)
			var problem *Error
			require.ErrorAs(t, err, &problem)
			require.Equal(t, Connected, problem.Status)
			time.Sleep(time.Second)
		}
		require.Equal(t, 1, w.provider.count())
		i.lives("shop-1", 100)
		w.provider.script(func(p *provider) { p.before = nil })
		time.Sleep(time.Minute)
		_, err := i.Replace(t.Context(), failed)
		require.NoError(t, err)
		require.Equal(t, 2, w.provider.count())
	})
}

func TestARefreshForA401WithAnUnknownOutcomeIsNotRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { return &oauth.Error{Outcome: oauth.Unknown, Code: "server_error"} }
		})
		failed := i.lives("shop-1", 100)
		for range 20 {
			_, err := i.Replace(t.Context(), failed)
			require.Error(t, err)
			time.Sleep(time.Hour)
		}
		require.Equal(t, 1, w.provider.count())
	})
}

func TestASellerWhoRevokedIsToldToReconnectAfterA401(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		failed := i.lives("shop-1", 100)
		w.provider.script(func(p *provider) { p.refresh[100] = "revoked" })
		_, err := i.Replace(t.Context(), failed)
		var problem *Error
		require.ErrorAs(t, err, &problem)
		require.Equal(t, ReconnectRequired, problem.Status)
		// The token was seen to fail: it serves no more.
		require.Equal(t, ReconnectRequired, i.problem("shop-1").Status)
	})
}

func TestABurstOf401sAcrossAccountsRefreshesNobodyFurther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		names := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"}
		for n, name := range names {
			i.seller(name, int64(100+n))
		}
		for n, name := range names {
			_, err := i.Replace(t.Context(), i.lives(name, int64(100+n)))
			require.Equal(t, n < rejectedMost, err == nil)
		}
		require.Equal(t, rejectedMost, w.provider.count())
		require.Equal(t, 1, i.events.count(EventAlarm))
		time.Sleep(rejectPause)
		_, err := i.Replace(t.Context(), i.lives("j", 109))
		require.NoError(t, err)
	})
}

func TestReplaceOfNothingIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		_, err := i.Replace(t.Context(), nil)
		require.Error(t, err)
	})
}

func TestAnApplicationsTokenIsSharedAndRenewedBeforeItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		own := func() *Token {
			token, err := i.ApplicationToken(t.Context(), "", 5*time.Minute)
			require.NoError(t, err)
			require.Empty(t, token.Seller())
			return token
		}
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() { own() })
		}
		callers.Wait()
		require.Equal(t, 1, w.provider.own)
		first := own()
		time.Sleep(4*time.Hour - time.Minute)
		own()
		synctest.Wait()
		require.Equal(t, 1, w.provider.own)
		time.Sleep(2 * time.Minute)
		require.Same(t, first, own(), "the old one serves meanwhile")
		synctest.Wait()
		require.Equal(t, 2, w.provider.own)
		second := own()
		require.NotSame(t, first, second)
		// Renewing fails: the valid one serves on, and nothing is hammered.
		w.provider.script(func(p *provider) { p.ownErr = &oauth.Error{Outcome: oauth.Unknown, Code: "server_error"} })
		time.Sleep(5 * time.Hour)
		for range 100 {
			require.Same(t, second, own())
		}
		synctest.Wait()
		require.Equal(t, 3, w.provider.own)
		time.Sleep(time.Hour)
		_, err := i.ApplicationToken(t.Context(), "", 0)
		var problem *Error
		require.ErrorAs(t, err, &problem)
		require.Equal(t, Connected, problem.Status)
		require.Positive(t, problem.RetryAfter)
		w.provider.script(func(p *provider) { p.ownErr = nil })
		time.Sleep(problem.RetryAfter)
		own()
	})
}

func TestAnApplicationsTokenThatGotA401IsFetchedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		failed, err := i.ApplicationToken(t.Context(), "", 0)
		require.NoError(t, err)
		newer, err := i.Replace(t.Context(), failed)
		require.NoError(t, err)
		again, err := i.Replace(t.Context(), failed)
		require.NoError(t, err)
		require.Same(t, newer, again)
		_, err = i.Replace(t.Context(), newer)
		require.Error(t, err)
		require.Equal(t, 2, w.provider.own)
		time.Sleep(time.Minute)
		_, err = i.Replace(t.Context(), newer)
		require.NoError(t, err)
	})
}

func TestOnlyInvalidClientCrossesFromExchangesToRenewals(t *testing.T) {
	for code, crosses := range map[string]bool{"invalid_client": true, "invalid_request": false} {
		t.Run(code, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				i := w.instance()
				i.seller("shop-1", 100)
				time.Sleep(life + time.Minute)
				broken := &faulty{provider: w.provider, err: &oauth.Error{Outcome: oauth.ApplicationFault, Code: code}}
				config := w.config(i)
				config.Applications = []Application{{Client: broken}}
				next := i.manager.Source(config)
				next.Start()
				_, err := next.Exchange(t.Context(), "", "code", secret.Secret{})
				refusal, ok := errors.AsType[*oauth.Error](err)
				require.True(t, ok)
				require.Equal(t, code, refusal.Code)
				if crosses {
					require.Equal(t, ReasonApplicationFault, i.problem("shop-1").Reason)
					return
				}
				i.lives("shop-1", 100)
			})
		})
	}
}

// faulty is a provider that fails every exchange.
type faulty struct {
	*provider
	err error
}

func (f *faulty) Exchange(context.Context, string, secret.Secret) (oauth.Answer, error) {
	return oauth.Answer{}, f.err
}
