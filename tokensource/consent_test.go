package tokensource

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// A process that was killed in mid-refresh leaves a lock behind, and older pairs
// are dead from the consent on: whoever waited for that lock with the new pair in
// memory alone would lose the account to the next kill.
func TestAConsentIsSavedWhoeverHoldsTheLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		lock, err := w.instance().store.Lock(t.Context(), accountID(100))
		require.NoError(t, err)
		go func() { _, _ = i.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{}) }()
		time.Sleep(time.Second)
		synctest.Wait()
		i.crash()
		require.NoError(t, lock.Unlock(t.Context()))
		w.instance().lives("shop-1", 100)
		require.Len(t, w.instance().account(100).Pairs, 2)
	})
}
