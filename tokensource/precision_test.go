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

// microseconds is a store that keeps times as databases do.
type microseconds struct{ tokenstore.Store }

func (m microseconds) PutIntent(ctx context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	i.At = i.At.Truncate(time.Microsecond)
	return m.Store.PutIntent(ctx, id, i)
}

func TestAnIntentThatADatabaseKeepsLessExactlyHasNotChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(func(c *Config) {
			open := c.Open
			c.Open = func(ctx context.Context) (tokenstore.Store, *secret.Keyring, error) {
				store, keyring, err := open(ctx)
				return microseconds{store}, keyring, err
			}
		})
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute + 123*time.Nanosecond)
		w.refuses(&oauth.Error{Outcome: oauth.Unknown, Status: 500})
		i.problem("shop-1")
		posted := w.provider.count()
		w.refuses(nil)
		time.Sleep(timeout + slack)
		i.lives("shop-1", 100)
		require.Equal(t, posted+1, w.provider.count(), "the pause began with the request, not when its intent was read")
	})
}
