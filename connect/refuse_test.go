package connect

import (
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

var errStore = errors.New("the store does not answer")

func TestNoForeignOrLateCallbackCausesATokenRequest(t *testing.T) {
	consent := tienda()
	for name, c := range map[string]struct {
		do   func(s *site, b *browser)
		code string
	}{
		"another browser": {func(s *site, b *browser) {
			state := b.begin("")
			s.browser("shop-42").comeBackInto(b, s.issue(state, consent))
		}, CodeOtherBrowser},
		"another seller": {func(s *site, b *browser) {
			state := b.begin("")
			b.login("shop-43")
			b.comeBack(state, consent)
		}, CodeSellerChanged},
		"nobody any more": {func(s *site, b *browser) {
			state := b.begin("")
			b.login("")
			b.comeBack(state, consent)
		}, CodeNoSeller},
		"late at the callback": {func(s *site, b *browser) {
			state := b.begin("")
			s.later(11 * time.Minute)
			b.comeBack(state, consent)
		}, CodeExpired},
		"late at the finish": {func(s *site, b *browser) {
			b.visit(s.issue(b.begin(""), consent), "cross-site")
			s.later(11 * time.Minute)
			b.follow()
		}, CodeExpired},
		"made up": {func(s *site, b *browser) {
			b.begin("")
			b.comeBack(strings.Repeat("A", 43), consent)
		}, CodeOtherBrowser},
		"another application's": {func(s *site, b *browser) {
			state := b.begin("")
			s.config.Application = "brasil"
			s.restart()
			b.comeBack(state, consent)
		}, CodeOtherBrowser},
		"another client id's": {func(s *site, b *browser) {
			state := b.begin("")
			s.config.Client = oauth.NewClient(oauth.Config{ClientID: "1", RedirectURI: s.config.Client.RedirectURI()})
			s.restart()
			b.comeBack(state, consent)
		}, CodeOtherBrowser},
		"a key that is gone": {func(s *site, b *browser) {
			state := b.begin("")
			s.source.set(func(m *memory) { m.keyring = newMemory(s.t).keyring })
			b.comeBack(state, consent)
		}, CodeOtherBrowser},
		"finish without a callback": {func(s *site, b *browser) {
			id := s.flow.Load().attemptID(rawState(s.t, b.begin("")))
			b.visit("/connect/finish?attempt="+id, "same-origin")
		}, CodeUnfinished},
		"finish with a made-up attempt": {func(s *site, b *browser) {
			b.visit("/connect/finish?attempt=../../etc/passwd", "same-origin")
		}, CodeOtherBrowser},
		"consumed by another instance": {func(s *site, b *browser) {
			state := b.begin("")
			require.NoError(s.t, s.source.Consume(s.t.Context(), (&attempt{state: rawState(s.t, state)}).stateName(), time.Now()))
			b.comeBack(state, consent)
		}, CodeUsed},
		"a store that cannot consume": {func(s *site, b *browser) {
			state := b.begin("")
			s.source.set(func(m *memory) { m.consumeErr = errStore })
			b.comeBack(state, consent)
		}, CodeUnavailable},
		"a swapped cookie": {func(s *site, b *browser) {
			first, second := b.begin(""), b.begin("")
			u, _ := url.Parse(s.server.URL)
			f := s.flow.Load()
			one, two := f.attemptCookie(f.attemptID(rawState(s.t, first))), f.attemptCookie(f.attemptID(rawState(s.t, second)))
			for _, c := range b.client.Jar.Cookies(u) {
				if c.Name == one {
					b.client.Jar.SetCookies(u, []*http.Cookie{{Name: two, Value: c.Value, Path: "/"}})
				}
			}
			b.comeBack(second, consent)
		}, CodeOtherBrowser},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Config{SellerMode: true})
			b := s.browser("shop-42")
			c.do(s, b)
			require.Equal(t, c.code, b.last.problem(), b.last.body)
			require.Zero(t, s.source.exchanges(), "nothing may be asked of the provider")
			require.Empty(t, s.source.connection("shop-42").ID)
			require.GreaterOrEqual(t, s.logs.FilterMessage("connect flow refused").Len(), 1)
		})
	}
}

// comeBackInto opens an address in this browser, and shows the page in other.
func (b *browser) comeBackInto(other *browser, address string) {
	b.visit(address, "cross-site")
	other.last = b.last
}

func rawState(t testing.TB, state string) string {
	raw, err := base64url.DecodeString(state)
	require.NoError(t, err)
	return string(raw)
}

func TestACodeIsSpentOnceHoweverOftenTheCookieIsReplayed(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	b.visit(s.issue(b.begin(""), tienda()), "cross-site")
	u, _ := url.Parse(s.server.URL)
	kept := b.client.Jar.Cookies(u)
	finish := b.absolute(refreshTarget(b.last.body))
	b.follow()
	require.Equal(t, "Account connected", b.title())

	thief := s.browser("")
	thief.client.Jar.SetCookies(u, kept)
	thief.visit(finish, "same-origin")
	require.Equal(t, CodeUsed, thief.last.problem())
	require.Equal(t, 1, s.source.exchanges())
}

func TestACallbackThatIsNotAProvidersIsRefused(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	state := b.begin("")
	good := url.Values{"state": {state}, "code": {"TG-1"}}
	with := func(changes url.Values) string {
		q := url.Values{}
		maps.Copy(q, good)
		maps.Copy(q, changes)
		return q.Encode()
	}
	for name, c := range map[string]struct{ query, code string }{
		"nothing":            {"", CodeBadCallback},
		"no state":           {with(url.Values{"state": {}}), CodeBadCallback},
		"two states":         {with(url.Values{"state": {state, state}}), CodeBadCallback},
		"two codes":          {with(url.Values{"code": {"a", "a"}}), CodeBadCallback},
		"code and error":     {with(url.Values{"error": {"access_denied"}}), CodeBadCallback},
		"empty code":         {with(url.Values{"code": {""}}), CodeBadCallback},
		"empty error":        {with(url.Values{"code": {}, "error": {""}}), CodeBadCallback},
		"long code":          {with(url.Values{"code": {strings.Repeat("x", 513)}}), CodeBadCallback},
		"odd code":           {with(url.Values{"code": {"a\r\nb"}}), CodeBadCallback},
		"code beyond ASCII":  {with(url.Values{"code": {"a\x7f"}}), CodeBadCallback},
		"short state":        {with(url.Values{"state": {"abc"}}), CodeBadCallback},
		"padded state":       {with(url.Values{"state": {state + "="}}), CodeBadCallback},
		"unparsable":         {"code=%zz&state=" + state, CodeBadRequest},
		"semicolons":         {"code=a;state=" + state, CodeBadRequest},
		"endless":            {with(url.Values{"x": {strings.Repeat("x", 7000)}}), CodeBadRequest},
		"another issuer":     {with(url.Values{"iss": {"https://evil.example"}}), CodeWrongIssuer},
		"two issuers":        {with(url.Values{"iss": {"https://issuer.example", "https://issuer.example"}}), CodeWrongIssuer},
		"denied":             {with(url.Values{"code": {}, "error": {"access_denied"}, "error_description": {"canary-description"}}), CodeDenied},
		"denied, no state":   {"error=access_denied", CodeDenied},
		"provider's trouble": {with(url.Values{"code": {}, "error": {"server_error"}}), CodeProviderRefused},
	} {
		t.Run(name, func(t *testing.T) {
			b.visit("/connect/callback?"+c.query, "cross-site")
			require.Equal(t, c.code, b.last.problem(), b.last.body)
			require.Empty(t, b.last.header["Set-Cookie"])
			require.NotContains(t, b.last.body, "canary-description", "the provider's words are for the log")
			require.Contains(t, b.last.body, "Start again")
		})
	}
	require.Zero(t, s.source.exchanges())

	b.visit("/connect/callback?"+with(url.Values{"iss": {"https://issuer.example"}, "scope": {"whatever"}}), "cross-site")
	require.Equal(t, "One moment…", b.title(), "the right issuer, and something to ignore")
}

func TestASellerWhoDeniedMayAgreeAfterAll(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	state := b.begin("")
	for range 2 {
		b.visit("/connect/callback?error=access_denied&state="+state, "cross-site")
		require.Equal(t, CodeDenied, b.last.problem())
	}
	b.comeBack(state, tienda())
	require.Equal(t, "Account connected", b.title())
}

func TestTheCallbackAndAStrangersFinishExchangeNothing(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	b.visit(s.issue(b.begin(""), tienda()), "cross-site")
	require.Equal(t, "no-referrer", b.last.header.Get("Referrer-Policy"))
	require.NotContains(t, b.last.body, "TG-", "the code leaves the page")
	finish := b.absolute(refreshTarget(b.last.body))
	require.NotContains(t, finish, "TG-")

	for _, from := range []string{"cross-site", "same-site"} {
		b.visit(finish, from)
		require.Equal(t, "One moment…", b.title())
	}
	r, err := http.NewRequest(http.MethodHead, finish, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, b.send(r).status)
	require.Zero(t, s.source.exchanges())
}

func TestAFailedExchangeSaysWhoCanMendIt(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		code   string
		status int
	}{
		"dead code":         {&oauth.Error{Outcome: oauth.GrantDead, Code: "invalid_grant"}, CodeCodeRefused, 400},
		"application fault": {&oauth.Error{Outcome: oauth.ApplicationFault, Code: "invalid_client"}, CodeApplicationFault, 500},
		"busy":              {&oauth.Error{Outcome: oauth.Refused, Code: "rate_limited", RetryAfter: 42 * time.Second}, CodeProviderBusy, 503},
		"unknown":           {&oauth.Error{Outcome: oauth.Unknown, Code: "timeout"}, CodeOutcomeUnknown, 502},
		"breaker":           {&tokensource.Error{Reason: tokensource.ReasonApplicationFault}, CodeApplicationFault, 500},
		"not configured":    {&tokensource.Error{Reason: tokensource.ReasonUnknownApplication}, CodeApplicationFault, 500},
		"provider":          {&tokensource.Error{Reason: tokensource.ReasonProvider}, CodeProviderBusy, 503},
		"store":             {&tokensource.Error{Reason: tokensource.ReasonStore}, CodeUnavailable, 503},
		"disconnected":      {&tokensource.Error{Reason: tokensource.ReasonDisconnected}, CodeInterrupted, 409},
		"anything":          {errStore, CodeUnavailable, 503},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Config{SellerMode: true})
			b := s.browser("shop-42")
			s.source.set(func(m *memory) { m.exchangeErr = c.err })
			b.comeBack(b.begin(""), tienda())
			require.Equal(t, c.code, b.last.problem())
			require.Equal(t, c.status, b.last.status)
			if c.status == 503 {
				require.NotEmpty(t, b.last.header.Get("Retry-After"))
			}
			b.visit(b.last.address, "same-origin")
			require.Equal(t, CodeUsed, b.last.problem(), "a reload spends no second code")
			require.Equal(t, 1, s.source.exchanges())
		})
	}
}

func TestAStoreThatFailsAfterTheExchangeLosesNothing(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	state := b.begin("")
	for _, fail := range []func(m *memory, err error){
		func(m *memory, err error) { m.connectionErr = err },
		func(m *memory, err error) { m.connectErr = err },
	} {
		s.source.set(func(m *memory) { fail(m, &tokensource.Error{Reason: tokensource.ReasonStore}) })
		if s.source.exchanges() == 0 {
			b.comeBack(state, tienda())
		} else {
			b.visit(b.last.address, "same-origin")
		}
		require.Equal(t, CodeUnavailable, b.last.problem())
		s.source.set(func(m *memory) { fail(m, nil) })
	}
	b.visit(b.last.address, "same-origin")
	b.follow()
	require.Equal(t, "Account connected", b.title())
	require.Equal(t, 1, s.source.exchanges())
}

func TestAnAccountWithoutAnIdentityIsNotConnected(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	b.comeBack(b.begin(""), sampleConsent(0, "", ""))
	require.Equal(t, CodeNoAccount, b.last.problem())
}

func TestEveryFormMustComeFromTheSiteItself(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	_, err := s.source.Connect(t.Context(), "shop-42", tienda())
	require.NoError(t, err)
	for _, path := range []string{"/connect", "/connect/confirm", "/connect/disconnect", "/connect/link"} {
		for _, origin := range []string{"", "null", "https://evil.example", s.server.URL + ".evil.example", strings.ToUpper(s.server.URL)} {
			b := s.browser("shop-42")
			b.post(path, url.Values{"seen": {"connection-1"}}, origin)
			require.Equal(t, CodeForeignForm, b.last.problem(), "%s from %q", path, origin)
			require.Empty(t, b.cookies())
		}
	}
	require.NotEmpty(t, s.source.connection("shop-42").ID)
}

func TestBodiesAndMethodsAreHeldToWhatThePagesNeed(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	b.post("/connect", url.Values{"x": {strings.Repeat("x", 9000)}}, s.server.URL)
	require.Equal(t, CodeBadRequest, b.last.problem())

	for path, allow := range map[string]string{"/connect": "GET, HEAD, POST", "/connect/callback": "GET, HEAD", "/connect/finish": "GET, HEAD"} {
		for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS"} {
			r, err := http.NewRequest(method, s.server.URL+path, nil)
			require.NoError(t, err)
			page := b.send(r)
			require.Equal(t, 405, page.status)
			require.Equal(t, allow, page.header.Get("Allow"))
		}
	}
	require.Equal(t, 405, b.post("/connect/callback", nil, s.server.URL).status)
	for _, path := range []string{"/connect", "/connect/disconnect", "/connect/callback", "/connect/link"} {
		r, err := http.NewRequest(http.MethodHead, s.server.URL+path, nil)
		require.NoError(t, err)
		page := b.send(r)
		require.Empty(t, page.body)
		require.NotEqual(t, "0", page.header.Get("Content-Length"))
	}
}

func TestInSellerModeNobodyIsRefused(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	for _, path := range []string{"/connect", "/connect/disconnect"} {
		b := s.browser("")
		b.visit(path, "same-origin")
		require.Equal(t, 403, b.last.status)
		require.Equal(t, CodeNoSeller, b.last.problem())
	}
	b := s.browser(strings.Repeat("x", 257))
	b.visit("/connect", "same-origin")
	require.Equal(t, CodeBadSeller, b.last.problem())
}

func TestWithoutTheKeyPagesSayToTryAgain(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	b.comeBack(b.begin(""), tienda())
	s.source.set(func(m *memory) { m.keyringErr = errStore })
	b.visit("/connect", "none")
	require.Equal(t, CodeUnavailable, b.last.problem())
	require.Equal(t, 503, b.last.status)

	r := httptest.NewRequest("GET", s.server.URL, nil)
	u, _ := url.Parse(s.server.URL)
	for _, c := range b.client.Jar.Cookies(u) {
		r.AddCookie(c)
	}
	_, _, err := s.flow.Load().Session(r)
	require.ErrorIs(t, err, errStore, "that is not the same as no session")
	_, _, err = s.flow.Load().Session(httptest.NewRequest("GET", s.server.URL, nil))
	require.NoError(t, err, "a request without a session cookie needs no key")
}

func TestLogsHoldNeitherCodeNorStateNorVerifier(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	state := b.begin("")
	callback := s.issue(state, tienda())
	code := mustQuery(t, callback).Get("code")
	b.visit(callback, "cross-site")
	b.follow()
	b.visit("/connect/callback?error=x&error_description="+code+"&state="+state, "cross-site")
	b.visit("/connect/callback?code=%zz"+code+"&state="+state, "cross-site")
	var all strings.Builder
	for _, entry := range s.logs.All() {
		text, err := json.Marshal(entry.ContextMap())
		require.NoError(t, err)
		all.WriteString(entry.Message)
		all.Write(text)
	}
	require.Contains(t, all.String(), "shop-42")
	for _, canary := range []string{code, state, s.source.verifiers[0]} {
		require.NotContains(t, all.String(), canary)
	}
}

func mustQuery(t *testing.T, address string) url.Values {
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u.Query()
}

func TestProgramsGetAProblemDocumentAndPeopleAPage(t *testing.T) {
	for name, c := range map[string]struct {
		header http.Header
		people bool
	}{
		"a navigation":       {http.Header{"Sec-Fetch-Mode": {"navigate"}}, true},
		"a script's fetch":   {http.Header{"Sec-Fetch-Mode": {"cors"}, "Accept": {"text/html"}}, false},
		"an older browser":   {http.Header{"Accept": {"text/html,application/xhtml+xml,*/*;q=0.8"}}, true},
		"curl":               {http.Header{"Accept": {"*/*"}}, false},
		"nothing said":       {http.Header{}, false},
		"json before html":   {http.Header{"Accept": {"application/json, text/html"}}, false},
		"html and then json": {http.Header{"Accept": {"text/html, application/json"}}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			r := httptest.NewRequest("GET", "/", nil)
			r.Header = c.header
			Refuse(w, r, Problem{Code: CodeReconnectRequired, Reason: "invalid_grant", ConnectURL: shop + "/connect", Seller: `shop"<42>`})
			require.Equal(t, 403, w.Code)
			require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
			require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
			if c.people {
				require.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
				require.Contains(t, w.Body.String(), `href="`+shop+`/connect"`)
				require.Contains(t, w.Body.String(), "shop&#34;&lt;42&gt;")
				return
			}
			require.Equal(t, "application/problem+json", w.Header().Get("Content-Type"))
			var got map[string]any
			require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
			require.Equal(t, map[string]any{
				"type": "urn:caddy-mercadopago:problem:reconnect_required", "title": "Mercado Pago has to be connected again",
				"status": 403.0, "detail": english("problem.reconnect_required.detail"), "code": "reconnect_required",
				"reason": "invalid_grant", "mend": "seller", "connect_url": shop + "/connect", "seller": `shop"<42>`,
			}, got)
		})
	}
}

func TestEveryProblemHasWordsAndEvery503SaysWhen(t *testing.T) {
	for code, k := range kinds {
		w := httptest.NewRecorder()
		Refuse(w, httptest.NewRequest("GET", "/", nil), Problem{Code: code, RetryAfter: 1500 * time.Millisecond})
		require.Equal(t, k.status, w.Code)
		require.Equal(t, "2", w.Header().Get("Retry-After"))
		for _, part := range []string{".title", ".detail"} {
			require.Contains(t, texts, "problem."+code+part)
		}
	}
	w := httptest.NewRecorder()
	Refuse(w, httptest.NewRequest("GET", "/", nil), Problem{Code: "no such code"})
	require.Equal(t, 503, w.Code)
	require.Equal(t, "10", w.Header().Get("Retry-After"))
}

func TestAFormWithTwoOriginsIsRefused(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	r, err := http.NewRequest(http.MethodPost, s.server.URL+"/connect", nil)
	require.NoError(t, err)
	r.Header["Origin"] = []string{s.server.URL, "https://evil.example"}
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	require.Equal(t, CodeForeignForm, b.send(r).problem())
}

func TestAProblemIsKeptByNoCacheAndOneOfNoKindIsTemporary(t *testing.T) {
	w := httptest.NewRecorder()
	Refuse(w, httptest.NewRequest(http.MethodGet, shop+"/", nil), Problem{Code: "of no kind"})
	require.Equal(t, http.StatusServiceUnavailable, w.Code)
	require.NotEmpty(t, w.Header().Get("Retry-After"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
}

func TestAnIssuerIsIgnoredIfTheProviderHasNone(t *testing.T) {
	s := newSite(t, Config{})
	s.config.Client = oauth.NewClient(oauth.Config{
		ClientID: clientID, RedirectURI: s.config.Client.RedirectURI(),
		Provider: oauth.Provider{AuthorizeURL: "https://auth.example/authorization", API: "https://api.example", PlatformID: "mp"},
	})
	s.restart()
	b := s.browser("")
	b.visit(s.issue(b.begin(""), tienda())+"&iss=https%3A%2F%2Fissuer.example", "cross-site")
	b.follow()
	require.Equal(t, "Account connected", b.title())
}

func TestStartingAgainKeepsReturnToAndTheLink(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	state := b.begin("?return_to=/settings")
	s.later(11 * time.Minute)
	b.comeBack(state, tienda())
	require.Equal(t, CodeExpired, b.last.problem())
	require.Contains(t, b.last.body, `href="`+s.server.URL+`/connect?return_to=%2Fsettings">Start again`)

	link, err := s.flow.Load().NewLink(t.Context(), "shop-43", "", time.Hour)
	require.NoError(t, err)
	b.visit(link, "cross-site")
	b.press("")
	state = b.stateSent()
	s.later(11 * time.Minute)
	b.comeBack(state, tienda())
	require.Equal(t, CodeExpired, b.last.problem())
	require.Contains(t, b.last.body, "<dt>Seller</dt><dd><strong>shop-43</strong>", "the link names the seller, not the login")
	require.Contains(t, b.last.body, `href="`+s.server.URL+`/connect/link?link=`)
}

// An attempt that began in session mode names no seller.
func TestAProblemNamesTheSellerWhoAsksIfTheAttemptNamesNone(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("shop-42")
	state := b.begin("")
	s.config.SellerMode = true
	s.restart()
	b.visit("/connect/callback?error=access_denied&state="+state, "cross-site")
	require.Equal(t, CodeDenied, b.last.problem())
	require.Contains(t, b.last.body, "<dt>Seller</dt><dd><strong>shop-42</strong>")
}

func TestTheLogHoldsTheErrorBehindAProblem(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	state := b.begin("")
	s.source.set(func(m *memory) { m.consumeErr = errStore })
	b.comeBack(state, tienda())
	entries := s.logs.FilterMessage("connect flow refused").All()
	require.Len(t, entries, 1)
	require.Equal(t, errStore.Error(), entries[0].ContextMap()["error"])
}

func TestTheLogWarnsOfProblemsThatAreNotTheSellers(t *testing.T) {
	warned := []string{
		CodeUnavailable, CodeApplicationFault, CodeProviderBusy, CodeOutcomeUnknown, CodeProviderRefused, CodeNoAccount, CodeWrongIssuer,
	}
	s := newSite(t, Config{SellerMode: true})
	for code := range kinds {
		r := httptest.NewRequest(http.MethodGet, s.server.URL+"/connect", nil)
		(&turn{f: s.flow.Load(), w: httptest.NewRecorder(), r: r, page: PageConnect}).fail(code, nil)
		entries := s.logs.TakeAll()
		require.Len(t, entries, 1)
		require.Equal(t, slices.Contains(warned, code), entries[0].Level == zap.WarnLevel, code)
	}
}

// A record that was sealed with a missing key stays unreadable until an operator adds
// the key, so retrying as soon as after a store failure is pointless.
func TestAMissingKeyIsRetriedLaterThanTheStore(t *testing.T) {
	for want, cause := range map[string]error{"10": &secret.UnknownKeyError{ID: "01020304"}, "2": errStore} {
		s := newSite(t, Config{SellerMode: true})
		s.source.set(func(m *memory) {
			m.connectionErr = &tokensource.Error{Reason: tokensource.ReasonStore, RetryAfter: 2 * time.Second, Err: cause}
		})
		b := s.browser("shop-42")
		b.visit("/connect/disconnect", "same-origin")
		require.Equal(t, CodeUnavailable, b.last.problem())
		require.Equal(t, want, b.last.header.Get("Retry-After"))
	}
}

func TestAProblemPageNeedsNoAddressToStartAgain(t *testing.T) {
	r := httptest.NewRequest(http.MethodGet, shop+"/", nil)
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	for _, address := range []string{"", "http://["} {
		w := httptest.NewRecorder()
		Refuse(w, r, Problem{Code: CodeNotConnected, ConnectURL: address})
		require.Equal(t, http.StatusForbidden, w.Code)
		require.Contains(t, w.Body.String(), "<code>not_connected</code>")
	}
}
