package connect

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

func TestASellerConnectsInSessionModeWithoutAQuestion(t *testing.T) {
	s := secureSite(t, Config{})
	b := s.browser("")

	b.visit("/connect?return_to=%2Fsettings%3Ftab%3Dpay", "none")
	require.Equal(t, "Connect your Mercado Pago account", b.title())
	require.Empty(t, b.cookies(), "a page makes nothing")
	b.press("")
	state := b.stateSent()
	require.Len(t, b.cookies(), 1)
	require.True(t, strings.HasPrefix(b.cookies()[0], "__Host-mp_"))
	require.Zero(t, s.source.written(), "nothing is written before the provider has answered")

	page := b.comeBack(state, tienda())
	require.Equal(t, "app at /settings?tab=pay", page.body)
	require.Equal(t, "TIENDA_AZUL", s.source.connection("241983636").Nickname)
	require.Contains(t, b.cookies(), "__Host-mp_session")
	require.Equal(t, []string{"241983636", "connection-1"}, sessionOf(t, b))
	require.Len(t, s.source.verifiers[0], 43)
}

func TestASellerConnectsInSellerModeAfterAQuestion(t *testing.T) {
	s := newSite(t, Config{SellerMode: true, Confirm: true})
	b := s.browser("shop-42")

	page := b.comeBack(b.begin("?return_to=/settings"), tienda())
	require.Equal(t, "Connect this account?", b.title())
	for _, told := range []string{"shop-42", "TIENDA_AZUL", "Argentina", "Live account", "241983636"} {
		require.Contains(t, page.body, told)
	}
	require.Empty(t, s.source.connection("shop-42").ID, "nobody is connected before the answer")

	b.press("connect")
	require.Equal(t, s.server.URL+"/settings", b.last.header.Get("Location"))
	require.Equal(t, int64(241983636), s.source.connection("shop-42").Account.UserID)
	for _, name := range b.cookies() {
		require.NotContains(t, name, "session", "in seller mode the site says who it is, not a session")
	}
}

func TestWithoutReturnToAPageSaysWhatIsConnectedAndOffersToUndoIt(t *testing.T) {
	s := newSite(t, Config{SellerMode: true, Confirm: true})
	b := s.browser("shop-42")
	b.comeBack(b.begin(""), tienda())
	b.press("connect")
	page := b.follow()
	require.Equal(t, "Account connected", b.title())
	require.Contains(t, page.body, "TIENDA_AZUL")
	require.Contains(t, page.body, `href="/connect/disconnect"`)
}

func TestASwitchNamesBothAccountsAndRefusingItKeepsTheOld(t *testing.T) {
	s := newSite(t, Config{SellerMode: true, Confirm: true})
	b := s.browser("shop-42")
	b.comeBack(b.begin(""), tienda())
	b.press("connect")
	before := s.source.connection("shop-42")

	page := b.comeBack(b.begin("?return_to=/settings"), outra())
	require.Equal(t, "Change the account that gets the money?", b.title())
	require.Contains(t, page.body, "From now on the money will go to LOJA_OUTRA, and TIENDA_AZUL will no longer get it.")
	require.Equal(t, before, s.source.connection("shop-42"), "the old connection stays whole until the answer")

	b.press("refuse")
	b.follow()
	require.Equal(t, "Nothing has changed", b.title())
	require.Equal(t, before, s.source.connection("shop-42"))

	b.comeBack(b.begin("?return_to=/settings"), outra())
	b.press("connect")
	require.Equal(t, "app at /settings", b.follow().body)
	require.Equal(t, "LOJA_OUTRA", s.source.connection("shop-42").Nickname)
}

func TestASwitchIsAskedAboutEvenWithConfirmOff(t *testing.T) {
	for name, sellerMode := range map[string]bool{"seller mode": true, "session mode": false} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Config{SellerMode: sellerMode})
			b := s.browser("shop-42")
			b.comeBack(b.begin(""), tienda())
			require.Equal(t, "Account connected", b.title())

			b.comeBack(b.begin(""), tienda())
			require.Equal(t, "Account connected", b.title(), "the same account again is no switch")

			b.comeBack(b.begin(""), outra())
			require.Equal(t, "Change the account that gets the money?", b.title())
			b.press("refuse")
			b.visit("/connect/disconnect", "same-origin")
			require.Contains(t, b.last.body, "TIENDA_AZUL")

			b.comeBack(b.begin(""), outra())
			b.press("connect")
			b.follow()
			require.Equal(t, "Account connected", b.title())
			require.Contains(t, b.last.body, "LOJA_OUTRA")
		})
	}
}

func TestABrowserThatActsForOneAccountIsAskedBeforeItActsForAnother(t *testing.T) {
	s := newSite(t, Config{})
	other := s.browser("")
	other.comeBack(other.begin(""), outra())
	b := s.browser("")
	b.comeBack(b.begin(""), tienda())
	b.comeBack(b.begin(""), outra())
	require.Equal(t, "Change the account that gets the money?", b.title(), "although that account was connected before, elsewhere")
	b.press("refuse")
	require.Equal(t, []string{"241983636", s.source.connection("241983636").ID}, sessionOf(t, b))
	require.NotEmpty(t, s.source.connection("998877665544").ID)
}

func TestAQuestionIsAskedAgainWhenTheConnectionChangedMeanwhile(t *testing.T) {
	s := newSite(t, Config{SellerMode: true, Confirm: true})
	b := s.browser("shop-42")
	b.comeBack(b.begin(""), tienda())
	require.Equal(t, "Connect this account?", b.title())
	question := b.last

	other := s.browser("shop-42")
	other.comeBack(other.begin(""), outra())
	other.press("connect")

	b.last = question
	b.press("connect")
	b.follow()
	require.Equal(t, "Change the account that gets the money?", b.title())
	require.Equal(t, "LOJA_OUTRA", s.source.connection("shop-42").Nickname)
}

func TestAFlowBegunBeforeARestartFinishesAfterIt(t *testing.T) {
	s := newSite(t, Config{SellerMode: true, Confirm: true})
	b := s.browser("shop-42")
	state := b.begin("")
	s.restart()
	b.visit(s.issue(state, tienda()), "cross-site")
	s.restart()
	b.follow()
	s.restart()
	b.press("connect")
	s.restart()
	b.follow()
	require.Equal(t, "Account connected", b.title())
}

func TestReloadingAnyStepShowsWhereTheSellerIs(t *testing.T) {
	s := newSite(t, Config{SellerMode: true, Confirm: true})
	b := s.browser("shop-42")
	state := b.begin("")
	callback := s.issue(state, tienda())
	b.visit(callback, "cross-site")
	moving := b.last
	b.visit(callback, "cross-site")
	b.follow()
	question := b.last
	require.Equal(t, "Connect this account?", b.title())

	b.visit(callback, "cross-site")
	b.follow()
	require.Equal(t, "Connect this account?", b.title(), "back to the callback, and forth again")
	b.visit(question.address, "same-origin")
	require.Equal(t, "Connect this account?", b.title())

	b.press("connect")
	b.follow()
	for _, address := range []string{callback, refreshTarget(moving.body), question.address} {
		b.visit(address, "same-origin")
		b.follow()
		require.Equal(t, "Account connected", b.title(), address)
	}
	require.Equal(t, 1, s.source.exchanges())

	b.visit("/connect/disconnect", "same-origin")
	b.press("")
	b.visit(question.address, "same-origin")
	b.follow()
	require.Equal(t, "This connection has ended", b.title())
}

func TestDisconnectEndsExactlyTheConnectionThatWasShown(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	b.comeBack(b.begin(""), tienda())
	b.visit("/connect/disconnect", "same-origin")
	require.Equal(t, "Disconnect this account?", b.title())
	require.Contains(t, b.last.body, "TIENDA_AZUL")

	action, fields := formOf(t, b.last.body)
	fields.Set("seen", "connection-0")
	b.post(action, fields, s.server.URL)
	b.follow()
	require.Equal(t, "Disconnect this account?", b.title(), "another connection is asked about anew")

	b.press("")
	require.Contains(t, b.last.header.Get("Set-Cookie"), "mp_session=;")
	b.follow()
	require.Equal(t, "Account disconnected", b.title())
	require.Empty(t, s.source.connection("241983636").ID)
	require.Equal(t, []string{"", ""}, sessionOf(t, b))

	b.visit("/connect/disconnect", "none")
	require.Equal(t, "No account is connected", b.title())
}

func TestASessionWhoseConnectionIsGoneEnds(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	b.comeBack(b.begin(""), tienda())
	require.NoError(t, s.source.Disconnect(t.Context(), tokenstore.Connection{Seller: "241983636", ID: "connection-1"}))
	b.visit("/connect/disconnect", "same-origin")
	require.Equal(t, "No account is connected", b.title())
	require.Equal(t, []string{"", ""}, sessionOf(t, b))
}

func TestAPageOfAnEarlierConnectionSaysThatItHasEnded(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	b.comeBack(b.begin(""), tienda())
	page := b.last.address
	b.comeBack(b.begin(""), outra())
	b.press("connect")
	b.visit(page, "same-origin")
	require.Equal(t, "This connection has ended", b.title())
}

func TestInSessionModeNobodyElseSaysWhoTheSellerIs(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("shop-42")
	state := b.begin("")
	b.login("")
	b.comeBack(state, tienda())
	require.Equal(t, "Account connected", b.title())
	require.NotEmpty(t, s.source.connection("241983636").ID)
}

func TestAttemptsThatAreOverAreDropped(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	for range 3 {
		b.begin("")
	}
	s.later(11 * time.Minute)
	b.begin("")
	require.Len(t, b.cookies(), 1)
}

func TestALinkConnectsItsSellerOnce(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	link, err := s.flow.Load().NewLink(t.Context(), "shop-42", "/welcome", time.Hour)
	require.NoError(t, err)

	b := s.browser("") // nobody is signed in
	for range 3 {
		b.visit(link, "cross-site")
		require.Contains(t, b.last.body, "shop-42")
	}
	require.Zero(t, s.source.written(), "reading a link uses nothing up")
	b.press("")
	b.comeBack(b.stateSent(), tienda())
	require.Equal(t, "Connect this account?", b.title(), "a link always asks")
	b.press("connect")
	require.Equal(t, s.server.URL+"/welcome", b.last.header.Get("Location"))
	require.Equal(t, "TIENDA_AZUL", s.source.connection("shop-42").Nickname)

	require.NoError(t, s.source.Disconnect(t.Context(), s.source.connection("shop-42")))
	second := s.browser("")
	second.visit(link, "cross-site")
	second.press("")
	second.comeBack(second.stateSent(), tienda())
	second.press("connect")
	require.Equal(t, CodeLinkUsed, second.last.problem())
	require.Empty(t, s.source.connection("shop-42").ID)
}

func TestALinkMakesNoSessionAndOffersNoUndo(t *testing.T) {
	s := newSite(t, Config{})
	link, err := s.flow.Load().NewLink(t.Context(), "241983636", "", time.Hour)
	require.NoError(t, err)
	b := s.browser("")
	b.visit(link, "none")
	b.press("")
	b.comeBack(b.stateSent(), tienda())
	b.press("connect")
	b.follow()
	require.Equal(t, "Account connected", b.title())
	require.NotContains(t, b.last.body, "disconnect\"")
	require.Equal(t, []string{"", ""}, sessionOf(t, b))
}

func TestALinkNeverSwitchesAnAccount(t *testing.T) {
	for name, c := range map[string]struct {
		sellerMode bool
		seller     string
	}{"seller mode": {true, "shop-42"}, "session mode": {false, "241983636"}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Config{SellerMode: c.sellerMode})
			consent := tienda()
			_, err := s.source.Connect(t.Context(), c.seller, consent)
			require.NoError(t, err)
			before := s.source.connection(c.seller)
			link, err := s.flow.Load().NewLink(t.Context(), c.seller, "", time.Hour)
			require.NoError(t, err)
			b := s.browser("")
			b.visit(link, "none")
			b.press("")
			b.comeBack(b.stateSent(), outra())
			require.Equal(t, CodeLinkSwitch, b.last.problem())
			require.Equal(t, before, s.source.connection(c.seller))
		})
	}
}

func TestAStoreThatFailsDoesNotCostTheSellerTheLink(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	link, err := s.flow.Load().NewLink(t.Context(), "shop-42", "", time.Hour)
	require.NoError(t, err)
	b := s.browser("")
	b.visit(link, "none")
	b.press("")
	b.comeBack(b.stateSent(), tienda())
	question := b.last
	s.source.set(func(m *memory) { m.connectErr = errStore })
	b.press("connect")
	require.Equal(t, CodeUnavailable, b.last.problem())
	s.source.set(func(m *memory) { m.connectErr = nil })
	b.last = question
	b.press("connect")
	b.follow()
	require.Equal(t, "Account connected", b.title())
}

func TestLinksEndAndOpenOnlyWhereTheyBelong(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	link, err := s.flow.Load().NewLink(t.Context(), "shop-42", "", time.Hour)
	require.NoError(t, err)
	b := s.browser("")

	b.visit(link[:len(link)-2], "none")
	require.Equal(t, CodeLinkInvalid, b.last.problem())
	b.visit("/connect/link", "none")
	require.Equal(t, CodeLinkInvalid, b.last.problem())

	s.config.Application = "brasil"
	s.restart()
	b.visit(link, "none")
	require.Equal(t, CodeLinkInvalid, b.last.problem(), "a link of another application")
	s.config.Application = ""
	s.restart()

	s.later(2 * time.Hour)
	b.visit(link, "none")
	require.Equal(t, CodeLinkExpired, b.last.problem())
}

func TestNewLinkSaysWhatItNeeds(t *testing.T) {
	f := newSite(t, Config{ReturnTo: []string{"/settings"}}).flow.Load()
	for name, c := range map[string]struct {
		seller, returnTo string
		ttl              time.Duration
		says             string
	}{
		"no seller":   {"", "", time.Hour, "needs the name of a seller"},
		"long seller": {strings.Repeat("x", 257), "", time.Hour, "of 256 bytes at most"},
		"no time":     {"shop", "", 0, "lives between"},
		"too long":    {"shop", "", 91 * 24 * time.Hour, "90 days"},
		"elsewhere":   {"shop", "https://evil.example/", time.Hour, "return_to must be"},
		"not allowed": {"shop", "/orders", time.Hour, "return_to must be"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.NewLink(t.Context(), c.seller, c.returnTo, c.ttl)
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestAtMostFiveAttemptsAreKeptAndTheOldestGoesFirst(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	var states []string
	for range 7 {
		states = append(states, b.begin(""))
		s.later(time.Second)
	}
	require.Len(t, b.cookies(), 5)
	b.comeBack(states[1], tienda())
	require.Equal(t, CodeOtherBrowser, b.last.problem())
	b.comeBack(states[2], tienda())
	require.Equal(t, "Account connected", b.title())
}

func TestAnotherHostGoesToRedirectURIsHostFirst(t *testing.T) {
	s := newSite(t, Config{})
	for _, path := range []string{"/connect?return_to=%2Fsettings", "/connect/link?link=x", "/connect/disconnect"} {
		r, err := http.NewRequest(http.MethodGet, s.server.URL+path, nil)
		require.NoError(t, err)
		r.Host = "other.example"
		r.Header.Set("X-Forwarded-Host", "evil.example")
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		b := s.browser("")
		page := b.send(r)
		require.Equal(t, http.StatusSeeOther, page.status)
		location := page.header.Get("Location")
		require.True(t, strings.HasPrefix(location, s.server.URL+strings.Split(path, "?")[0]+"?"), location)
		require.Empty(t, b.cookies())
		if strings.Contains(path, "return_to") {
			u, err := url.Parse(location)
			require.NoError(t, err)
			require.Equal(t, "/settings", u.Query().Get("return_to"))
		}

		// A proxy in front that rewrites Host must not send it round for ever.
		r, err = http.NewRequest(http.MethodGet, location, nil)
		require.NoError(t, err)
		r.Host = "internal"
		require.NotContains(t, b.send(r).header.Get("Location"), "/connect")
	}
}

func TestOnlyTheSiteItselfStartsAFlowWithoutAButton(t *testing.T) {
	s := newSite(t, Config{})
	for _, from := range []string{"none", "cross-site", "same-site", "", "nonsense"} {
		b := s.browser("")
		b.visit("/connect", from)
		require.Equal(t, http.StatusOK, b.last.status, from)
		require.Equal(t, "Connect your Mercado Pago account", b.title())
		require.Empty(t, b.cookies())
	}
	r, err := http.NewRequest(http.MethodGet, s.server.URL+"/connect", nil)
	require.NoError(t, err)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Sec-Purpose", "prefetch")
	require.Equal(t, http.StatusOK, s.browser("").send(r).status, "a prefetch begins nothing")
}

func TestTheStartPageTellsWhatIsConnectedNow(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	b.comeBack(b.begin(""), tienda())
	b.visit("/connect", "none")
	require.Contains(t, b.last.body, "TIENDA_AZUL is connected now.")
}

func TestAConnectionThatDoesNotRenewItselfIsToldAtOnce(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	consent := tienda()
	consent.Offline = false
	b.comeBack(b.begin("?return_to=/settings"), consent)
	require.Equal(t, "Account connected", b.title(), "the page comes before return_to")
	require.Contains(t, b.last.body, "offline_access")
	require.Contains(t, b.last.body, `href="/settings"`)
	require.Equal(t, 1, s.logs.FilterMessageSnippet("offline_access").Len())
}

func TestAnAccountWithoutANameIsCalledByItsNumber(t *testing.T) {
	s := newSite(t, Config{SellerMode: true, Confirm: true})
	b := s.browser("shop-42")
	consent := sampleConsent(241983636, "", "")
	consent.Account.Live = false
	b.comeBack(b.begin(""), consent)
	require.Contains(t, b.last.body, "Account 241983636")
	require.Contains(t, b.last.body, "Test account: moves no money")
}

func sessionOf(t *testing.T, b *browser) []string {
	r, err := http.NewRequest(http.MethodGet, b.server.URL, nil)
	require.NoError(t, err)
	u, _ := url.Parse(b.server.URL)
	for _, c := range b.client.Jar.Cookies(u) {
		r.AddCookie(c)
	}
	seller, connection, err := b.flow.Load().Session(r)
	require.NoError(t, err)
	return []string{seller, connection}
}

func TestRedirectsAreKeptByNoCache(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	b.begin("")
	require.Equal(t, "no-store", b.last.header.Get("Cache-Control"))
	require.Equal(t, "no-referrer", b.last.header.Get("Referrer-Policy"))
}

func TestAHeadRequestBeginsNothing(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	r, err := http.NewRequest(http.MethodHead, s.server.URL+"/connect", nil)
	require.NoError(t, err)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	require.Equal(t, http.StatusOK, b.send(r).status)
	require.Empty(t, b.cookies())
}

// hostRewriter is a proxy in front of the site that replaces the Host header.
type hostRewriter struct{ next http.RoundTripper }

func (h hostRewriter) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Host = "internal"
	return h.next.RoundTrip(r)
}

func TestASellerConnectsBehindAProxyThatRewritesTheHost(t *testing.T) {
	s := newSite(t, Config{SellerMode: true, Confirm: true})
	b := s.browser("shop-42")
	b.client.Transport = hostRewriter{b.client.Transport}
	b.visit("/connect", "same-origin")
	b.follow()
	b.visit(s.issue(b.stateSent(), tienda()), "cross-site")
	require.Equal(t, "One moment…", b.title(), "no second address holds the code")
	b.follow()
	require.Equal(t, "Connect this account?", b.title())
	b.press("connect")
	b.follow()
	require.Equal(t, "Account connected", b.title())
}

func TestWithoutAnOriginalAddressTheRequestsOwnIsUsed(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, shop+"/connect?return_to=/settings", nil)
	w := httptest.NewRecorder()
	shopFlow(t).Serve(w, r, PageConnect, nil, "")
	_, fields := formOf(t, w.Body.String())
	require.Equal(t, "/settings", fields.Get("return_to"))
}

func TestALinkIgnoresWhomTheBrowserActsFor(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	b.comeBack(b.begin(""), tienda())
	acting := sessionOf(t, b)
	link, err := s.flow.Load().NewLink(t.Context(), "998877665544", "", time.Hour)
	require.NoError(t, err)
	b.visit(link, "cross-site")
	b.press("")
	b.comeBack(b.stateSent(), outra())
	require.Equal(t, "Connect this account?", b.title())
	b.press("connect")
	require.Equal(t, "LOJA_OUTRA", s.source.connection("998877665544").Nickname)
	require.Equal(t, acting, sessionOf(t, b))
}

func TestALinkWhoseUseCannotBeRecordedConnectsNothing(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	link, err := s.flow.Load().NewLink(t.Context(), "shop-42", "", time.Hour)
	require.NoError(t, err)
	b := s.browser("")
	b.visit(link, "cross-site")
	b.press("")
	b.comeBack(b.stateSent(), tienda())
	question := b.last
	s.source.set(func(m *memory) { m.consumeErr = errStore })
	b.press("connect")
	require.Equal(t, CodeUnavailable, b.last.problem())
	require.Empty(t, s.source.connection("shop-42").ID)
	s.source.set(func(m *memory) { m.consumeErr = nil })
	b.last = question
	b.press("connect")
	require.NotEmpty(t, s.source.connection("shop-42").ID)
}

func TestNewLinkReportsThatTheKeyIsNotAvailable(t *testing.T) {
	s := newSite(t, Config{})
	s.source.set(func(m *memory) { m.keyringErr = errStore })
	_, err := s.flow.Load().NewLink(t.Context(), "shop-42", "", time.Hour)
	require.ErrorIs(t, err, errStore)
}
