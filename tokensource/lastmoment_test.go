package tokensource

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// The model found the first of these: while the store did not respond, a request
// waited for it until the valid token in memory had expired, and was then refused.

func TestARequestStopsWaitingForTheStoreBeforeTheTokenInMemoryExpires(t *testing.T) {
	for _, left := range []time.Duration{staleWait / 2 * 3, staleWait, lastMoment + time.Millisecond} {
		t.Run(left.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.provider.life = time.Hour
				i := w.instance()
				i.seller("shop-1", 100)
				i.lives("shop-1", 100)
				time.Sleep(time.Hour - left)
				hang := make(chan struct{})
				defer close(hang)
				i.store.set(func(string, bool) error { <-hang; return nil })
				token, err := i.Token(t.Context(), "", "shop-1", 0)
				require.NoError(t, err)
				require.False(t, time.Now().After(token.ExpiresAt().Add(-lastMoment)), "it is still of use")
			})
		})
	}
}

func TestARequestWhoseTokenExpiresWhileItWaitsForTheStoreGetsTheNewOne(t *testing.T) {
	for name, jump := range map[string]time.Duration{"in its last moment": 0, "by a jump of the clock": time.Hour / 2} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.provider.life = time.Hour
				i, other := w.instance(), w.instance()
				i.seller("shop-1", 100)
				i.lives("shop-1", 100)
				left := lastMoment / 2
				if jump > 0 {
					left = time.Minute
				}
				time.Sleep(time.Hour - left)
				consent, err := other.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{})
				require.NoError(t, err)
				_, err = other.Connect(t.Context(), "shop-1", consent)
				require.NoError(t, err)
				i.store.set(func(_ string, after bool) error {
					if !after {
						time.Sleep(2 * staleWait)
					}
					return nil
				})
				time.AfterFunc(time.Second, func() { i.jump(jump) })
				token := i.lives("shop-1", 100)
				require.True(t, token.ExpiresAt().After(i.clock()))
			})
		})
	}
}

func TestARequestThatTheStoreKeepsWaitingIsToldThatItIsTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.life = time.Hour
		i := w.instance()
		i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		time.Sleep(time.Hour - lastMoment/2)
		hang := make(chan struct{})
		defer close(hang)
		i.store.set(func(string, bool) error { <-hang; return nil })
		problem := i.problem("shop-1")
		require.Equal(t, ReasonStore, problem.Reason)
		require.Positive(t, problem.RetryAfter)
	})
}

func TestARequestStopsWaitingForASlowProviderBeforeItsTokenExpires(t *testing.T) {
	for name, c := range map[string]struct {
		left   time.Duration
		served string
	}{
		"while it can be served": {left: patience / 2, served: "the old token"},
		"in its last moment":     {left: lastMoment / 2, served: "the new token"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.provider.before = func(context.Context, string) error { time.Sleep(patience * 2); return nil }
				i := w.instance()
				i.seller("shop-1", 100)
				old := i.lives("shop-1", 100)
				time.Sleep(life - c.left)
				token, err := i.Token(t.Context(), "", "shop-1", 5*time.Minute)
				require.NoError(t, err)
				require.True(t, token.ExpiresAt().After(time.Now()))
				require.Equal(t, c.served == "the old token", token.Pair() == old.Pair())
				synctest.Wait()
			})
		})
	}
}

func TestARequestForTheApplicationsTokenStopsWaitingBeforeItExpires(t *testing.T) {
	for name, c := range map[string]struct {
		left time.Duration
		old  bool
	}{
		"while it can be served": {left: patience / 2, old: true},
		"in its last moment":     {left: lastMoment / 2, old: false},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				i := w.instance(func(config *Config) {
					config.Applications = []Application{{Client: slowOwn{w.provider}}}
				})
				old, err := i.ApplicationToken(t.Context(), "", 0)
				require.NoError(t, err)
				time.Sleep(time.Until(old.ExpiresAt()) - c.left)
				token, err := i.ApplicationToken(t.Context(), "", 5*time.Minute)
				require.NoError(t, err)
				require.True(t, token.ExpiresAt().After(time.Now()))
				require.Equal(t, c.old, token.AccessToken().Equal(old.AccessToken()))
			})
		})
	}
}

// slowOwn takes long to issue an application's own token.
type slowOwn struct{ *provider }

func (p slowOwn) ClientCredentials(ctx context.Context) (oauth.Answer, error) {
	time.Sleep(2 * patience)
	return p.provider.ClientCredentials(ctx)
}
