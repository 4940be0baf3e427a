package mercadopago

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Handlers may edit a header's values in place: what one attempt made of them is
// not what the next begins with.
func TestTheSecondAttemptBeginsWithTheResponseHeaderOfTheFirst(t *testing.T) {
	r := newRig(t)
	denied := false
	r.app.handle = func(w http.ResponseWriter, _ *http.Request) {
		if !denied {
			denied = true
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	r.load(sellerSite + strings.NewReplacer("mercadopago {", "header X-Stage a\n\tmercadopago {", "reverse_proxy API {\n\t\theader_up -X-Seller\n\t}",
		"handle {\n\t\theader X-Stage a ab\n\t\treverse_proxy APP\n\t}").Replace(egressSite))
	r.connectSeller("shop-1", aurora)
	got := r.call(http.MethodGet, r.at("EGRESS")+"/users/me", nil, http.Header{"X-Seller": {"shop-1"}})
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, []string{"ab"}, got.header["X-Stage"])
}

// Many servers answer TRACE with the request's header.
func TestTraceGetsNoToken(t *testing.T) {
	r := newRig(t)
	r.app.handle = func(w http.ResponseWriter, request *http.Request) { fmt.Fprint(w, request.Header) }
	r.load(sellerSite)
	r.connectSeller("shop-1", aurora)
	got := r.call(http.MethodTrace, r.at("SHOP")+"/", nil, http.Header{"X-User": {"shop-1"}})
	require.Equal(t, http.StatusMethodNotAllowed, got.status)
	require.Equal(t, "method_not_allowed", r.problem(got)["code"])
	require.Nil(t, r.app.last())
}

func TestTheAccessLogKeepsNoCodeAndNoLink(t *testing.T) {
	r := newRig(t)
	r.load(strings.Replace(sellerSite, "mercadopago {", "log\n\tmercadopago {", 1))
	for _, path := range []string{"/connect/callback?code=canary-code&state=canary-state", "/connect/link?link=canary-link", "/connect?seen=yes"} {
		r.call(http.MethodGet, r.at("SHOP")+path, nil, nil)
	}
	require.NoError(t, stopCaddy()) // so that the log is written
	require.Contains(t, r.logged(), "seen=yes")
	require.NotContains(t, r.logged(), "canary")
}
