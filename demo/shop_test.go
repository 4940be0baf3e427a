package demo

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	canary = "APP_USR-canary-token-of-the-seller"
	seller = "5411000101"
)

// provider stands for egress and for the API, and remembers what it was asked.
type provider struct {
	*httptest.Server

	mu    sync.Mutex
	asked []*http.Request
	body  string

	answer func(w http.ResponseWriter, r *http.Request)
}

func newProvider(t *testing.T) *provider {
	p := &provider{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		p.mu.Lock()
		p.asked = append(p.asked, r)
		p.body = string(body)
		p.mu.Unlock()
		if p.answer != nil {
			p.answer(w, r)
			return
		}
		if r.URL.Path == "/users/me" {
			io.WriteString(w, `{"id":5411000101,"nickname":"LIBRERIA_AURORA","country_id":"AR"}`)
			return
		}
		io.WriteString(w, `{"id":1300000001,"status":"approved","transaction_amount":30900,"currency_id":"ARS","collector_id":5411000101}`)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *provider) requests() []*http.Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked
}

// counter is a browser at the shop, with Caddy between them while connected.
type counter struct {
	*testing.T

	url       string
	client    *http.Client
	connected bool
	language  string
}

func open(t *testing.T, egress, api *provider) *counter {
	c := &counter{T: t, language: "es"}
	shop := newShop(egress.URL, api.URL)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Header.Set("X-Seller", "")
		if c.connected {
			r.Header.Set("X-Seller", seller)
			r.Header.Set("Authorization", "Bearer "+canary)
		}
		shop.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	c.url, c.client = server.URL, &http.Client{Jar: jar}
	return c
}

func (c *counter) do(method, path string, form url.Values, site string) (int, string) {
	c.Helper()
	request, err := http.NewRequestWithContext(c.Context(), method, c.url+path, strings.NewReader(form.Encode()))
	require.NoError(c, err)
	request.Header.Set("Accept-Language", c.language)
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.Header.Set("Sec-Fetch-Site", site)
	response, err := c.client.Do(request)
	require.NoError(c, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(c, err)
	require.NotContains(c, string(body)+strings.Join(response.Header.Values("Set-Cookie"), " "), canary, "a token in what the browser gets")
	return response.StatusCode, string(body)
}

func (c *counter) get(path string) string {
	c.Helper()
	_, body := c.do(http.MethodGet, path, nil, "same-origin")
	return body
}

func (c *counter) post(path string, form url.Values) (int, string) {
	c.Helper()
	return c.do(http.MethodPost, path, form, "same-origin")
}

func field(t *testing.T, body, pattern string) string {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(body)
	require.NotNil(t, found, "%s in\n%s", pattern, body)
	return found[1]
}

func TestTheShopOffersToConnectWhileNobodyIsPaid(t *testing.T) {
	for language, button := range map[string]string{
		"es-AR,es;q=0.9": "Conectar Mercado Pago", "pt-BR": "Conectar Mercado Pago", "en-GB": "Connect Mercado Pago", "fi": "Conectar Mercado Pago",
	} {
		c := open(t, newProvider(t), newProvider(t))
		c.language = language
		body := c.get("/")
		require.Contains(t, body, `href="/connect?return_to=/"`)
		require.Contains(t, body, button)
		require.Contains(t, body, `id="pay" disabled`)
		require.NotContains(t, body, `id="disconnect"`)
	}
}

func TestTheShopShowsWhomItActsForAndNeverTheToken(t *testing.T) {
	egress, api := newProvider(t), newProvider(t)
	c := open(t, egress, api)
	c.connected = true
	for _, language := range []string{"es", "pt", "en"} {
		c.language = language
		body := c.get("/")
		require.Equal(t, "LIBRERIA_AURORA", field(t, body, `id="nickname">([^<]*)<`))
		require.Equal(t, seller, field(t, body, `id="seller-id">([^<]*)<`))
		require.Equal(t, language, field(t, body, `<html lang="([^"]*)"`))
	}
	require.Equal(t, "Bearer "+canary, api.requests()[0].Header.Get("Authorization"))
	require.Empty(t, egress.requests())
}

func TestAnAccountWithAnOddNicknameIsShownAllTheSame(t *testing.T) {
	for nickname, initial := range map[string]string{"": "·", "Ñandú": "Ñ", "<b>": "&lt;"} {
		api := newProvider(t)
		api.answer = func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"id":5411000101,"nickname":"`+nickname+`"}`)
		}
		c := open(t, newProvider(t), api)
		c.connected = true
		require.Equal(t, initial, field(t, c.get("/"), `aria-hidden="true">([^<]*)</span>`))
	}
}

func TestAPaymentIsTakenThroughEgressWithNoToken(t *testing.T) {
	egress, api := newProvider(t), newProvider(t)
	c := open(t, egress, api)
	c.connected = true
	order := field(t, c.get("/"), `name="order" value="([^"]*)"`)

	_, body := c.post("/payments", url.Values{"order": {order}})

	require.Contains(t, field(t, body, `(?s)id="payee">(.*?)</dd>`), "LIBRERIA_AURORA")
	require.Equal(t, seller, field(t, body, `id="collector">([^<]*)<`))
	require.Contains(t, body, "$ 30.900")
	asked := egress.requests()
	require.Equal(t, "POST /v1/payments", asked[0].Method+" "+asked[0].URL.Path)
	require.Equal(t, order, asked[0].Header.Get("X-Idempotency-Key"))
	for _, r := range asked {
		require.Equal(t, []string{seller}, r.Header["X-Seller"])
		require.Empty(t, r.Header.Values("Authorization"))
	}
}

func TestACollectorOtherThanTheSellerIsNotGivenTheSellersName(t *testing.T) {
	egress := newProvider(t)
	egress.answer = func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/users/me" {
			io.WriteString(w, `{"id":7,"nickname":"SOMEONE_ELSE"}`)
			return
		}
		io.WriteString(w, `{"id":1,"status":"approved","collector_id":8}`)
	}
	c := open(t, egress, newProvider(t))
	c.connected = true
	body := c.get("/payments/1")
	require.Equal(t, "8", field(t, body, `id="collector">([^<]*)<`))
	require.NotContains(t, field(t, body, `(?s)id="payee">(.*?)</dd>`), "SOMEONE_ELSE")
}

func TestARefusedPaymentSaysWhy(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		said   string
	}{
		"a problem document": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusForbidden)
			io.WriteString(w, `{"title":"Reconnect <required>","detail":"connect again"}`)
		}, "403 Reconnect &lt;required&gt;. connect again"},
		"something unreadable": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `<html>`)
		}, "503 Service Unavailable"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, "307 Temporary Redirect"},
	} {
		t.Run(name, func(t *testing.T) {
			egress := newProvider(t)
			egress.answer = test.answer
			c := open(t, egress, newProvider(t))
			c.connected = true
			status, body := c.post("/payments", url.Values{"order": {"1"}})
			require.Equal(t, http.StatusBadGateway, status)
			require.Contains(t, body, test.said)
			require.Len(t, egress.requests(), 1)
		})
	}
}

func TestTheTokenFollowsNoRedirect(t *testing.T) {
	elsewhere, api := newProvider(t), newProvider(t)
	api.answer = func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+"/users/me", http.StatusTemporaryRedirect)
	}
	c := open(t, newProvider(t), api)
	c.connected = true
	require.Equal(t, seller, field(t, c.get("/"), `id="nickname">([^<]*)<`), "the seller's number, where nobody tells the name")
	require.Empty(t, elsewhere.requests())
}

func TestTheCartIsPaidAsItIsShown(t *testing.T) {
	egress := newProvider(t)
	c := open(t, egress, newProvider(t))
	c.connected = true
	c.language = "en"
	_, body := c.post("/cart", url.Values{"change": {"more-bombilla"}})
	require.Contains(t, body, "$ 42,800")
	_, body = c.post("/cart", url.Values{"change": {"less-mate"}})
	require.Contains(t, body, "$ 24,300")
	c.post("/payments", url.Values{"order": {"1"}})
	paid := false
	for _, r := range egress.requests() {
		paid = paid || r.Method == http.MethodPost
	}
	require.True(t, paid)
	for range maxQuantity + 3 {
		_, body = c.post("/cart", url.Values{"change": {"more-mate"}})
	}
	require.Contains(t, body, "<output>9</output>")
	for range maxQuantity {
		c.post("/cart", url.Values{"change": {"less-mate"}})
		c.post("/cart", url.Values{"change": {"less-yerba"}})
		_, body = c.post("/cart", url.Values{"change": {"less-bombilla"}})
	}
	require.Contains(t, body, `id="pay" disabled`)
	status, _ := c.post("/payments", url.Values{"order": {"2"}})
	require.Equal(t, http.StatusBadRequest, status)
}

func TestTheShopsOwnLoginIsStrictAndStays(t *testing.T) {
	egress := newProvider(t)
	shop := newShop(egress.URL, egress.URL)
	first := httptest.NewRecorder()
	shop.ServeHTTP(first, httptest.NewRequest(http.MethodGet, "/", nil))
	cookie := first.Result().Cookies()[0]
	require.Equal(t, loginCookie, cookie.Name)
	require.Equal(t, http.SameSiteStrictMode, cookie.SameSite)
	require.True(t, cookie.HttpOnly)

	again := httptest.NewRequest(http.MethodGet, "/", nil)
	again.AddCookie(cookie)
	second := httptest.NewRecorder()
	shop.ServeHTTP(second, again)
	require.Empty(t, second.Result().Cookies())
	login := `id="login">([^<]*)<`
	require.Equal(t, field(t, first.Body.String(), login), field(t, second.Body.String(), login))
}

func TestAnotherSiteCanMakeTheShopTakeNoPayment(t *testing.T) {
	egress := newProvider(t)
	c := open(t, egress, newProvider(t))
	c.connected = true
	status, _ := c.do(http.MethodPost, "/payments", url.Values{"order": {"1"}}, "cross-site")
	require.Equal(t, http.StatusForbidden, status)
	require.Empty(t, egress.requests())
}

func TestCartCookiesThatPeopleWriteAreHarmless(t *testing.T) {
	for _, value := range []string{"", "...", "-1.99.x", "1.1.1.1.1", strings.Repeat("9.", 1000), "9999999999999999999999"} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.AddCookie(&http.Cookie{Name: cartCookie, Value: value})
		quantities := readCart(r)
		require.Len(t, quantities, len(products))
		for _, n := range quantities {
			require.True(t, n >= 0 && n <= maxQuantity)
		}
	}
}

func TestEveryTextIsThereInEveryLanguage(t *testing.T) {
	for _, words := range translations {
		value := reflect.ValueOf(*words)
		for i := range value.NumField() {
			require.NotEmpty(t, value.Field(i).String(), "%s in %s", value.Type().Field(i).Name, words.Lang)
		}
	}
}

func TestPagesAskNobodyElseForAnything(t *testing.T) {
	w := httptest.NewRecorder()
	egress := newProvider(t)
	newShop(egress.URL, egress.URL).ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Contains(t, w.Header().Get("Content-Security-Policy"), "default-src 'none'")
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.NotRegexp(t, `(src|href)="(https?:)?//`, w.Body.String())
	require.NotContains(t, w.Body.String(), "<script")
	require.NotContains(t, string(style), "url(")
}
