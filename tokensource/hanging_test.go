package tokensource

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// hanging is an operation of a storage that heeds no deadline, until let is
// closed.
func hanging(op string, let chan struct{}) func(string, string) error {
	return func(o, _ string) error {
		if o == op {
			<-let
		}
		return nil
	}
}

func TestNobodyWaitsForAStoreThatHangsBeyondEveryDeadline(t *testing.T) {
	for _, at := range []struct {
		op, reason string
		most       time.Duration
	}{
		{"load", ReasonStore, loadWait + boundSlack},
		{"list", ReasonStore, loadWait + boundSlack},
		{"lock", ReasonProvider, meetWait},
		{"store", ReasonProvider, timeout + lockSlack}, // of the intent
	} {
		t.Run(at.op, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				let, storage := make(chan struct{}), w.storage
				i := w.instance()
				i.seller("shop-1", 100)
				time.Sleep(life + time.Minute)
				w.storage = storetest.Hook(storage, hanging(at.op, let))
				j := w.instance()
				asked := time.Now()
				problem := j.problem("shop-1")
				require.LessOrEqual(t, time.Since(asked), at.most)
				require.Equal(t, Connected, problem.Status)
				require.Equal(t, at.reason, problem.Reason)
				require.Positive(t, problem.RetryAfter)
				require.Zero(t, w.provider.count())
				close(let)
				j.eventually("shop-1", 100)
				require.Equal(t, 1, w.provider.count())
			})
		})
	}
}
