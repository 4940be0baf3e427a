package tokensource

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
)

// move has another store be in charge of an account, as copying does it.
func (w *world) move(user int64) {
	w.t.Helper()
	store := caddystorage.New(w.storage, w.keyring)
	require.NoError(w.t, store.PutMoved(context.Background(), accountID(user), tokenstore.Moved{To: "elsewhere", At: time.Now().UTC()}))
}

func (w *world) moveBack(user int64) {
	w.t.Helper()
	require.NoError(w.t, caddystorage.New(w.storage, w.keyring).DeleteMoved(context.Background(), accountID(user)))
}

// requireMoved requires that a caller is told to come again because of a move.
func requireMoved(t *testing.T, err error) {
	t.Helper()
	var problem *Error
	require.ErrorAs(t, err, &problem)
	require.Equal(t, Connected, problem.Status)
	require.Equal(t, ReasonMoved, problem.Reason)
	require.Positive(t, problem.RetryAfter)
}

func TestAMovedAccountServesUntilItsTokenEndsAndIsNotRefreshed(t *testing.T) {
	for name, change := range map[string]func(*Config){"by requests": func(*Config) {}, "ahead of time": ahead} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				i := w.instance(change)
				i.seller("shop-1", 100)
				w.move(100)
				for range 35 {
					time.Sleep(5 * day)
					i.lives("shop-1", 100)
				}
				time.Sleep(6 * day)
				requireMoved(t, i.problem("shop-1"))
				other := w.instance(change)
				requireMoved(t, other.problem("shop-1"))
				time.Sleep(365 * day)
				require.Zero(t, w.provider.count())
				require.Zero(t, i.events.count(EventRenewalFailed), "it is left alone, not tried in vain")
				require.Len(t, i.account(100).Pairs, 1)
				require.Empty(t, i.account(100).Intents)

				requireMoved(t, i.problem("shop-1"))
				requireMoved(t, other.problem("shop-1"))
				w.moveBack(100)
				i.lives("shop-1", 100)
				other.lives("shop-1", 100)
				require.Equal(t, 1, w.provider.count())
			})
		})
	}
}

// The lock is worth nothing here: copying marks the account while it is refreshed.
func TestARefreshThatMeetsAMoveIsNotPosted(t *testing.T) {
	for _, op := range []string{"Lock", "PutIntent"} {
		t.Run("after "+op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				i := w.instance()
				i.seller("shop-1", 100)
				i.jump(life + time.Minute)
				i.behind(op, func() { w.move(100) })
				requireMoved(t, i.problem("shop-1"))
				require.Zero(t, w.provider.count())
				require.Empty(t, i.account(100).Intents, "it is withdrawn")
			})
		})
	}
}

func TestAMovedAccountIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(ahead)
		_, err := i.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{})
		require.NoError(t, err)
		_, err = i.Exchange(t.Context(), "", w.provider.code(200), secret.Secret{})
		require.NoError(t, err)
		// One is moved between the look of the queue and the deed.
		w.move(100)
		time.Sleep(12 * time.Hour)
		var looked bool
		i.store.set(func(op string, after bool) error {
			if op == "Lock" && !looked {
				looked = true
				w.move(200)
			}
			return nil
		})
		time.Sleep(10 * day)
		require.True(t, looked)
		require.Len(t, i.account(100).Pairs, 1)
		require.Len(t, i.account(200).Pairs, 1)
	})
}

// What the provider gave is saved in any case, and copied by the next run; what the
// seller has stays as it was, and the seller is told to try again.
func TestAConsentForAMovedAccountIsSavedAndNotConnected(t *testing.T) {
	for name, meet := range map[string]func(w *world, i *instance){
		"before":                          func(w *world, _ *instance) { w.move(100) },
		"while the connection is written": func(w *world, i *instance) { i.behind("PutConnection", func() { w.move(100) }) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			i := w.instance()
			i.seller("shop-0", 100)
			kept := i.seller("shop-1", 200)
			meet(w, i)
			for _, seller := range []string{"shop-1", "shop-2"} {
				consent, err := i.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{})
				require.NoError(t, err)
				_, err = i.Connect(t.Context(), seller, consent)
				requireMoved(t, err)
			}
			require.Equal(t, uint64(3), i.account(100).Pairs[2].Authorization)
			c, err := i.Connection(t.Context(), "", "shop-1")
			require.NoError(t, err)
			require.Equal(t, kept.ID, c.ID)
			_, err = i.Connection(t.Context(), "", "shop-2")
			require.Error(t, err)
			i.lives("shop-0", 100)
			i.lives("shop-1", 200)
		})
	}
}

func TestASellerOfAMovedAccountDoesNotSwitchToAnother(t *testing.T) {
	w := newWorld(t)
	i := w.instance()
	kept := i.seller("shop-1", 100)
	w.move(100)
	consent, err := i.Exchange(t.Context(), "", w.provider.code(200), secret.Secret{})
	require.NoError(t, err)
	_, err = i.Connect(t.Context(), "shop-1", consent)
	requireMoved(t, err)
	c, err := i.Connection(t.Context(), "", "shop-1")
	require.NoError(t, err)
	require.Equal(t, kept.ID, c.ID)
	require.Equal(t, int64(100), c.Account.UserID)
}

func TestADisconnectOfAMovedAccountIsRefusedNotLost(t *testing.T) {
	w := newWorld(t)
	i := w.instance()
	c := i.seller("shop-1", 100)
	w.move(100)
	requireMoved(t, i.Disconnect(t.Context(), c))
	i.lives("shop-1", 100)
	elsewhere := c
	elsewhere.ID, elsewhere.Seller = "made at the other store", "shop-2"
	requireMoved(t, i.Disconnect(t.Context(), elsewhere))
	require.Empty(t, i.account(100).Marks)
	require.Zero(t, i.events.count(EventDisconnected))
	w.moveBack(100)
	require.NoError(t, i.Disconnect(t.Context(), c))
	require.Equal(t, NotConnected, i.problem("shop-1").Status)
}
