package mercadopago

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
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
	for _, path := range []string{"/connect/callback?code=canary-code&state=canary-state", "/connect/link?link=canary-link", "/connect/disconnect?seen=yes"} {
		r.call(http.MethodGet, r.at("SHOP")+path, nil, nil)
	}
	require.NoError(t, stopCaddy()) // so that the log is written
	require.Contains(t, r.logged(), "seen=yes")
	require.NotContains(t, r.logged(), "canary")
}

func TestPlaceholdersTellOfTheTokenThatIsSent(t *testing.T) {
	r := newRig(t)
	r.load(sellerSite + strings.Replace(egressSite, "reverse_proxy API {", "reverse_proxy APP {\n\t\theader_up X-User-Id {http.mercadopago.user_id}", 1))
	r.connectSeller("shop-1", aurora)
	seller := http.Header{"X-Seller": {"shop-1"}}
	r.call(http.MethodGet, r.at("EGRESS")+"/", nil, seller) // now it is in memory

	// Another instance lets the seller switch.
	other, client, verifier := r.otherInstance(), r.oauthClient(), oauth.NewVerifier()
	callback, err := r.sandbox.Approve(client.AuthorizationURL("state", verifier), almacen.UserID)
	require.NoError(t, err)
	back, err := url.Parse(callback)
	require.NoError(t, err)
	consent, err := other.Exchange(t.Context(), "default", back.Query().Get("code"), verifier)
	require.NoError(t, err)
	_, err = other.Connect(t.Context(), "shop-1", consent)
	require.NoError(t, err)

	r.app.handle = func(w http.ResponseWriter, request *http.Request) {
		token, id := request.Header.Get("Authorization"), request.Header.Get("X-User-Id")
		if !strings.HasSuffix(token, "-"+id) {
			t.Errorf("a token of another account than %s", id)
		}
		if !strings.HasSuffix(token, "-"+strconv.FormatInt(almacen.UserID, 10)) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	require.Equal(t, http.StatusOK, r.call(http.MethodGet, r.at("EGRESS")+"/", nil, seller).status)
}

func TestPlaceholdersAreEmptyWhereThereIsNothingToTell(t *testing.T) {
	r := newRig(t)
	r.load(strings.Replace(sellerSite, "mercadopago {", "log\n\tlog_append told {http.mercadopago.user_id}\n\tmercadopago {", 1))
	r.call(http.MethodGet, r.at("SHOP")+"/connect/disconnect", nil, http.Header{"X-User": {"shop-1"}})
	r.call(http.MethodTrace, r.at("SHOP")+"/", nil, nil)
	require.NoError(t, stopCaddy()) // so that the log is written
	require.Equal(t, 2, strings.Count(r.logged(), `"told":""`), "empty, and never unset")
}

func TestAHeaderThatWasKeptIsWhatItWasWhateverBecameOfIt(t *testing.T) {
	header := http.Header{"A": {"1", "2"}, "B": {"3"}, "X-Forwarded-For": nil, "Empty": {}}
	was := header.Clone()
	kept := keepHeader(nil, nil, header)
	header["A"][1] = "edited in place"
	header["B"] = append(header["B"][:0], "over it")
	delete(header, "Empty")
	header["New"] = []string{"x"}
	kept.restore(header)
	require.Equal(t, was, header)
	require.Nil(t, header["X-Forwarded-For"])
	require.Contains(t, header, "X-Forwarded-For")
}
