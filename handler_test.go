package mercadopago

import (
	"errors"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

var (
	aurora  = sandbox.DefaultAccounts()[0]
	almacen = sandbox.DefaultAccounts()[1]
)

const sessionSite = `
SHOP {
	mercadopago
	reverse_proxy APP {
		header_up X-Seller {http.mercadopago.seller}
		header_up X-User-Id {http.mercadopago.user_id}
		header_up X-Public-Key {http.mercadopago.public_key}
		header_up X-Live-Mode {http.mercadopago.live_mode}
		header_up X-Application {http.mercadopago.application}
	}
}
`

const sellerSite = `
SHOP {
	mercadopago {
		seller {http.request.header.X-User}
	}
	reverse_proxy APP {
		header_up X-Seller {http.mercadopago.seller}
	}
}
`

func TestASellerConnectsAndTheAppBehindGetsTheRightToken(t *testing.T) {
	r := newRig(t)
	r.load(sessionSite)
	b := r.connected(aurora)

	got := b.get(r.at("SHOP") + "/orders")
	require.Equal(t, "app", got.body)
	require.Equal(t, "private", got.header.Get("Cache-Control"), "no shared cache keeps a seller's page")
	seen := r.app.last()
	require.True(t, strings.HasPrefix(seen.Header.Get("Authorization"), "Bearer APP_USR-"), seen.Header)
	id := strconv.FormatInt(aurora.UserID, 10)
	require.True(t, strings.HasSuffix(seen.Header.Get("Authorization"), "-"+id))
	require.Equal(t, id, seen.Header.Get("X-Seller"))
	require.Equal(t, id, seen.Header.Get("X-User-Id"))
	require.NotEmpty(t, seen.Header.Get("X-Public-Key"))
	require.Equal(t, "true", seen.Header.Get("X-Live-Mode"))
	require.Equal(t, "default", seen.Header.Get("X-Application"))
	require.NotContains(t, seen.Header.Get("Cookie"), "mp_", "our cookies are no app's business")
}

func TestARequestThatActsForNobodyIsAnsweredByWhatItIs(t *testing.T) {
	r := newRig(t)
	r.load(sessionSite)

	page := r.browser().get(r.at("SHOP") + "/orders?page=2")
	require.Equal(t, http.StatusSeeOther, page.status, "a navigation goes to the connect pages")
	require.Equal(t, r.at("SHOP")+"/connect?return_to=%2Forders%3Fpage%3D2", page.header.Get("Location"))

	got := r.call(http.MethodGet, r.at("SHOP")+"/orders", nil, nil)
	require.Equal(t, http.StatusForbidden, got.status)
	problem := r.problem(got)
	require.Equal(t, "not_connected", problem["code"])
	require.Equal(t, r.at("SHOP")+"/connect", problem["connect_url"])
	require.Nil(t, r.app.last(), "nothing reached the app")
}

func TestUnconnectedPassSendsNoTokenAtAll(t *testing.T) {
	r := newRig(t)
	r.load(strings.Replace(sellerSite, "seller {", "unconnected pass\n\t\tseller {", 1))
	for _, user := range []string{"shop-1", ""} {
		got := r.call(http.MethodGet, r.at("SHOP")+"/", nil, http.Header{"X-User": {user}, "Authorization": {"Bearer client-own"}})
		require.Equal(t, "app", got.body)
		require.Empty(t, r.app.last().Header["Authorization"])
	}
}

func TestANobodyIsNeverTheSessionNorTheApplication(t *testing.T) {
	r := newRig(t)
	r.load(sellerSite)
	r.connectSeller("shop-1", aurora)
	for _, site := range []string{"/", "/connect"} {
		got := r.call(http.MethodGet, r.at("SHOP")+site, nil, nil)
		require.Equal(t, http.StatusForbidden, got.status)
		require.Equal(t, "no_seller", r.problem(got)["code"])
	}
	require.Nil(t, r.app.last())
}

func TestTwoSellersEachGetTheirOwnToken(t *testing.T) {
	r := newRig(t)
	r.load(sellerSite)
	r.connectSeller("shop-1", aurora)
	r.connectSeller("shop-2", almacen)
	for user, account := range map[string]sandbox.Account{"shop-1": aurora, "shop-2": almacen} {
		got := r.call(http.MethodGet, r.at("SHOP")+"/", nil, http.Header{"X-User": {user}})
		require.Equal(t, "app", got.body)
		seen := r.app.last()
		require.True(t, strings.HasSuffix(seen.Header.Get("Authorization"), "-"+strconv.FormatInt(account.UserID, 10)))
		require.Equal(t, user, seen.Header.Get("X-Seller"))
	}
}

func TestAConnectionOutlivesAReloadAndARestart(t *testing.T) {
	r := newRig(t)
	r.load(sessionSite)
	b := r.connected(aurora)
	r.load(sessionSite + "\n# reloaded\n")
	require.Equal(t, "app", b.get(r.at("SHOP")+"/").body)
	before := r.app.last().Header.Get("Authorization")
	require.NoError(t, stopCaddy())
	r.load(sessionSite)
	require.Equal(t, "app", b.get(r.at("SHOP")+"/").body)
	require.Equal(t, before, r.app.last().Header.Get("Authorization"))
}

func TestARequestThatIsUnderWayOutlivesTheConfigurationItBeganWith(t *testing.T) {
	r := newRig(t)
	arrived, proceed := make(chan struct{}), make(chan struct{})
	r.app.handle = func(w http.ResponseWriter, _ *http.Request) {
		arrived <- struct{}{}
		<-proceed
		w.WriteHeader(http.StatusUnauthorized)
	}
	sites := sellerSite + strings.Replace(egressSite, "reverse_proxy API", "reverse_proxy APP", 1)
	r.load(sites)
	r.connectSeller("shop-1", aurora)
	answered := make(chan reply)
	go func() {
		answered <- r.call(http.MethodGet, r.at("EGRESS")+"/users/me", nil, http.Header{"X-Seller": {"shop-1"}})
	}()
	<-arrived
	r.load(sites + "\n# another one\n")
	r.app.mu.Lock()
	r.app.handle = nil
	r.app.mu.Unlock()
	close(proceed)
	got := <-answered
	require.Equal(t, http.StatusOK, got.status, "its 401 is mended by a token that the old handler gets after its clean-up")
	require.Equal(t, 1, r.sandbox.Stats().Tokens("refresh_token"))
}

func TestADisconnectAnywhereEndsTheSessionEverywhere(t *testing.T) {
	r := newRig(t)
	r.load(sessionSite)
	one, two := r.connected(aurora), r.connected(aurora)
	page := one.get(r.at("SHOP") + "/connect/disconnect")
	require.Equal(t, http.StatusOK, page.status)
	one.confirm(r.at("SHOP"), page)
	got := two.get(r.at("SHOP") + "/")
	require.Equal(t, http.StatusSeeOther, got.status, "the other browser has to connect again")
	require.Nil(t, r.app.last())
}

func TestAnAppWithoutATokenTakesAPaymentForTheRightSellerThroughEgress(t *testing.T) {
	r := newRig(t)
	r.load(sellerSite + egressSite)
	r.connectSeller("shop-1", aurora)
	got := r.call(http.MethodPost, r.at("EGRESS")+"/v1/payments?access_token=own",
		strings.NewReader(`{"transaction_amount":100,"payment_method_id":"visa","payer":{"email":"a@example.com"}}`),
		http.Header{"X-Seller": {"shop-1"}, "Content-Type": {"application/json"}, "X-Idempotency-Key": {"1"}, "Authorization": {"Bearer dummy"}})
	require.Equal(t, http.StatusCreated, got.status, got.body)
	require.Contains(t, got.body, `"collector_id":`+strconv.FormatInt(aurora.UserID, 10))

	got = r.call(http.MethodGet, r.at("EGRESS")+"/users/me", nil, http.Header{"X-Seller": {"shop-2"}})
	require.Equal(t, http.StatusForbidden, got.status)
	require.Equal(t, r.at("SHOP")+"/connect", r.problem(got)["connect_url"], "an app is told where its seller connects")

	got = r.call(http.MethodPost, r.at("EGRESS")+"/oauth/token", strings.NewReader("{}"), http.Header{"X-Seller": {"shop-1"}})
	require.Equal(t, "forbidden_path", r.problem(got)["code"])
}

func TestAPageInABrowserCannotCallEgress(t *testing.T) {
	r := newRig(t)
	r.load(sellerSite + egressSite)
	r.connectSeller("shop-1", aurora)
	for site, want := range map[string]int{"cross-site": 403, "same-site": 403, "same-origin": 403, "none": 200, "": 200} {
		header := http.Header{"X-Seller": {"shop-1"}}
		if site != "" {
			header.Set("Sec-Fetch-Site", site)
		}
		got := r.call(http.MethodGet, r.at("EGRESS")+"/users/me", nil, header)
		require.Equal(t, want, got.status, site)
	}
}

func TestAnErrorsUpstreamSeesNeitherTokensNorSessions(t *testing.T) {
	r := newRig(t)
	r.load(`
SHOP {
	mercadopago
	reverse_proxy 127.0.0.1:1
	handle_errors {
		reverse_proxy APP
	}
}
`)
	b := r.connected(aurora)
	got := b.do(http.MethodGet, r.at("SHOP")+"/", nil, http.Header{"Authorization": {"Bearer own"}, "Cookie": {"theme=dark"}})
	require.Equal(t, "app", got.body)
	seen := r.app.last()
	require.Empty(t, seen.Header["Authorization"])
	require.Equal(t, "theme=dark", seen.Header.Get("Cookie"))
}

const egressSite = `
EGRESS {
	bind 127.0.0.1
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
	}
	reverse_proxy API {
		header_up -X-Seller
	}
}
`

func TestAsApplicationInjectsOneTokenForAll(t *testing.T) {
	r := newRig(t)
	r.load(`
EGRESS {
	mercadopago {
		egress
		as_application
	}
	reverse_proxy APP
}
`)
	tokens := make(map[string]bool)
	for range 3 {
		r.call(http.MethodGet, r.at("EGRESS")+"/v1/payments", nil, nil)
		tokens[r.app.last().Header.Get("Authorization")] = true
	}
	require.Len(t, tokens, 1, "one token is shared")
	for token := range tokens {
		require.True(t, strings.HasPrefix(token, "Bearer APP_USR-"))
	}
}

func TestTheLogHasOneLineForAConnectAndOneForADisconnect(t *testing.T) {
	r := newRig(t)
	r.load(sessionSite)
	b := r.connected(aurora)
	b.confirm(r.at("SHOP"), b.get(r.at("SHOP")+"/connect/disconnect"))
	require.NoError(t, stopCaddy()) // so that the log is written
	require.Equal(t, 2, strings.Count(r.logged(), "connected\""), r.logged())
	require.Equal(t, 1, strings.Count(r.logged(), `"msg":"connected"`))
	require.Equal(t, 1, strings.Count(r.logged(), `"msg":"disconnected"`))
}

func TestAFailureThatTimeMendsIsNotPassedOn(t *testing.T) {
	h := bearer()
	h.Unconnected = unconnectedPass
	require.True(t, h.passes("shop-1", errNoSession))
	require.True(t, h.passes("", errNobody))
	require.True(t, h.passes("shop-1", &tokensource.Error{Status: tokensource.ReconnectRequired}))
	require.False(t, h.passes("shop-1", &tokensource.Error{Status: tokensource.Connected, Reason: tokensource.ReasonStore}))
	require.False(t, h.passes("shop-1", errors.New("odd")))
	h.Unconnected = unconnectedReject
	require.False(t, h.passes("shop-1", errNoSession))
}
