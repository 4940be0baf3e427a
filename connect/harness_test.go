package connect

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/net/html"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const clientID = "4934588586838432"

// memory is a Source that keeps everything in memory and counts what would have
// gone to the provider.
type memory struct {
	mu          sync.Mutex
	keyring     *secret.Keyring
	codes       map[string]tokensource.Consent
	connections map[string]tokenstore.Connection
	consumed    map[string]bool
	exchanged   []string // codes, as they were spent
	verifiers   []string
	ids         int

	// What fails, and how.
	keyringErr, exchangeErr, connectionErr, connectErr, consumeErr, disconnectErr error
}

func newMemory(t testing.TB) *memory {
	key, err := secret.ParseKey(secret.GenerateKey().Reveal())
	require.NoError(t, err)
	keyring, err := secret.NewKeyring(key)
	require.NoError(t, err)
	return &memory{keyring: keyring, codes: map[string]tokensource.Consent{}, connections: map[string]tokenstore.Connection{}, consumed: map[string]bool{}}
}

func (m *memory) Keyring(context.Context) (*secret.Keyring, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.keyring, m.keyringErr
}

func (m *memory) Exchange(_ context.Context, application, code string, verifier secret.Secret) (tokensource.Consent, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.exchanged = append(m.exchanged, code)
	m.verifiers = append(m.verifiers, verifier.Reveal())
	if m.exchangeErr != nil {
		return tokensource.Consent{}, m.exchangeErr
	}
	consent, ok := m.codes[code]
	if !ok {
		return tokensource.Consent{}, &oauth.Error{Outcome: oauth.GrantDead, Code: "invalid_grant", Description: "canary-description", Status: 400}
	}
	delete(m.codes, code)
	consent.Application = application
	return consent, nil
}

func (m *memory) Connection(_ context.Context, application, seller string) (tokenstore.Connection, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.connectionErr != nil {
		return tokenstore.Connection{}, m.connectionErr
	}
	c, ok := m.connections[application+"/"+seller]
	if !ok {
		return c, &tokensource.Error{Status: tokensource.NotConnected, Reason: tokensource.ReasonNotConnected}
	}
	return c, nil
}

func (m *memory) Connect(_ context.Context, seller string, consent tokensource.Consent) (tokenstore.Connection, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.connectErr != nil {
		return tokenstore.Connection{}, m.connectErr
	}
	c := m.connections[consent.Application+"/"+seller]
	if c.Account != consent.Account || c.ID == "" {
		m.ids++
		c.ID = fmt.Sprintf("connection-%d", m.ids)
	}
	c.Application, c.Seller, c.Account, c.Authorization = consent.Application, seller, consent.Account, consent.Authorization
	c.Nickname, c.Country = consent.Nickname, consent.Country
	m.connections[consent.Application+"/"+seller] = c
	return c, nil
}

func (m *memory) Disconnect(_ context.Context, c tokenstore.Connection) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.disconnectErr != nil {
		return m.disconnectErr
	}
	if m.connections[c.Application+"/"+c.Seller].ID == c.ID {
		delete(m.connections, c.Application+"/"+c.Seller)
	}
	return nil
}

func (m *memory) Consume(_ context.Context, state string, _ time.Time) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.consumeErr != nil {
		return m.consumeErr
	}
	if m.consumed[state] {
		return tokenstore.ErrConsumed
	}
	m.consumed[state] = true
	return nil
}

func (m *memory) connection(seller string) tokenstore.Connection {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.connections["/"+seller]
}

func (m *memory) exchanges() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.exchanged)
}

func (m *memory) written() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.consumed)
}

func (m *memory) set(f func(m *memory)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(m)
}

// The sample accounts.
func tienda() tokensource.Consent { return sampleConsent(241983636, "TIENDA_AZUL", "AR") }
func outra() tokensource.Consent  { return sampleConsent(998877665544, "LOJA_OUTRA", "BR") }

func sampleConsent(user int64, nickname, country string) tokensource.Consent {
	return tokensource.Consent{
		Account:       tokenstore.AccountID{ClientID: clientID, UserID: user, Live: true},
		Authorization: 1, Nickname: nickname, Country: country, Offline: true,
	}
}

// site is a site with a flow in front of an app.
type site struct {
	t      testing.TB
	server *httptest.Server
	config Config
	flow   atomic.Pointer[Flow]
	source *memory
	logs   *observer.ObservedLogs
	clock  atomic.Int64 // seconds that the clock runs ahead
}

// newSite serves plain http on loopback; secureSite serves https.
func newSite(t testing.TB, config Config) *site { return startSite(t, config, false) }

func secureSite(t testing.TB, config Config) *site { return startSite(t, config, true) }

func startSite(t testing.TB, config Config, secure bool) *site {
	s := &site{t: t, source: newMemory(t)}
	s.server = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	if secure {
		s.server.StartTLS()
	} else {
		s.server.Start()
	}
	t.Cleanup(s.server.Close)
	core, logs := observer.New(zap.DebugLevel)
	s.logs = logs
	config.Client = client(s.server.URL + "/connect/callback")
	config.Source, config.Logger = s.source, zap.New(core)
	config.Prefix = cmp.Or(config.Prefix, "/connect")
	config.Now = func() time.Time { return time.Now().Add(time.Duration(s.clock.Load()) * time.Second) }
	s.config = config
	s.restart()
	return s
}

func client(redirectURI string) *oauth.Client {
	return oauth.NewClient(oauth.Config{
		ClientID: clientID, RedirectURI: redirectURI, PKCE: true,
		Provider: oauth.Provider{AuthorizeURL: "https://auth.example/authorization", API: "https://api.example", PlatformID: "mp", Issuer: "https://issuer.example"},
	})
}

// restart does what a restart of the process does to a flow: all memory is gone.
func (s *site) restart() {
	f, err := New(s.config)
	require.NoError(s.t, err)
	s.flow.Store(f)
}

func (s *site) later(d time.Duration) { s.clock.Add(int64(d / time.Second)) }

func (s *site) serve(w http.ResponseWriter, r *http.Request) {
	f := s.flow.Load()
	seller := ""
	if login, err := r.Cookie("login"); err == nil {
		seller = login.Value
	}
	if p, ok := f.Match(r.URL.EscapedPath()); ok {
		answers := &answerCounter{ResponseWriter: w}
		defer func() {
			if failure := recover(); failure != nil {
				s.t.Errorf("%s %s panics: %v\n%s", r.Method, r.URL.Path, failure, debug.Stack())
			} else if answers.n != 1 {
				s.t.Errorf("%s %s is answered %d times", r.Method, r.URL.Path, answers.n)
			}
		}()
		f.Serve(answers, r, p, r.URL, seller)
		return
	}
	fmt.Fprintf(w, "app at %s", r.URL.RequestURI())
}

// answerCounter counts the answers to a request. A browser shows only the first one,
// so a handler that continues after a refusal would go unnoticed.
type answerCounter struct {
	http.ResponseWriter
	n int
}

func (c *answerCounter) WriteHeader(status int) {
	c.n++
	c.ResponseWriter.WriteHeader(status)
}

// browser is a browser with a cookie jar that tells where its requests come
// from, as browsers do.
type browser struct {
	*site
	client *http.Client
	last   *answerPage
}

// answerPage is what a browser shows.
type answerPage struct {
	address string
	status  int
	header  http.Header
	body    string
}

func (s *site) browser(login string) *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(s.t, err)
	b := &browser{site: s, client: &http.Client{
		Jar: jar, Transport: s.server.Client().Transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	b.login(login)
	return b
}

func (b *browser) login(seller string) {
	u, _ := url.Parse(b.server.URL)
	c := &http.Cookie{Name: "login", Value: seller, Path: "/", MaxAge: 1 << 30}
	if seller == "" {
		c.MaxAge = -1
	}
	b.client.Jar.SetCookies(u, []*http.Cookie{c})
}

func (b *browser) send(r *http.Request) *answerPage {
	response, err := b.client.Do(r)
	require.NoError(b.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(b.t, err)
	b.last = &answerPage{r.URL.String(), response.StatusCode, response.Header, string(body)}
	return b.last
}

func (b *browser) absolute(address string) string {
	base := b.server.URL + "/"
	if b.last != nil {
		base = b.last.address
	}
	u, err := url.Parse(base)
	require.NoError(b.t, err)
	u, err = u.Parse(address)
	require.NoError(b.t, err)
	return u.String()
}

// visit opens an address once; from is what Sec-Fetch-Site says.
func (b *browser) visit(address, from string) *answerPage {
	r, err := http.NewRequest(http.MethodGet, b.absolute(address), nil)
	require.NoError(b.t, err)
	r.Header.Set("Sec-Fetch-Site", from)
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	r.Header.Set("Accept-Language", "en")
	return b.send(r)
}

// follow goes along redirects and self-moving pages, until a page stays or
// another site is reached.
func (b *browser) follow() *answerPage {
	for range 10 {
		next := b.last.header.Get("Location")
		if next == "" {
			next = refreshTarget(b.last.body)
		}
		if next == "" || !strings.HasPrefix(b.absolute(next), b.server.URL+"/") {
			return b.last
		}
		b.visit(next, "same-origin")
	}
	b.t.Fatal("the browser goes round and round")
	return nil
}

// press presses the button of the page's form, by its value where it has one.
func (b *browser) press(decision string) *answerPage {
	action, fields := formOf(b.t, b.last.body)
	if decision != "" {
		fields.Set("decision", decision)
	}
	return b.post(action, fields, b.server.URL)
}

func (b *browser) post(address string, fields url.Values, origin string) *answerPage {
	r, err := http.NewRequest(http.MethodPost, b.absolute(address), strings.NewReader(fields.Encode()))
	require.NoError(b.t, err)
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	r.Header.Set("Accept-Language", "en")
	if origin != "" {
		r.Header.Set("Origin", origin)
	}
	return b.send(r)
}

// begin walks from /connect to the provider, and returns the state.
func (b *browser) begin(query string) string {
	b.visit("/connect"+query, "same-origin")
	return b.stateSent()
}

func (b *browser) stateSent() string {
	require.Equal(b.t, http.StatusSeeOther, b.last.status, b.last.body)
	u, err := url.Parse(b.last.header.Get("Location"))
	require.NoError(b.t, err)
	require.Equal(b.t, "auth.example", u.Host)
	state := u.Query().Get("state")
	require.NotEmpty(b.t, state)
	return state
}

// comeBack returns from the provider with a consent, and walks on as far as it
// goes by itself.
func (b *browser) comeBack(state string, consent tokensource.Consent) *answerPage {
	b.visit(b.issue(state, consent), "cross-site")
	return b.follow()
}

var codes atomic.Int64

// issue makes a code for a consent, and the callback's address with it.
func (s *site) issue(state string, consent tokensource.Consent) string {
	code := fmt.Sprintf("TG-%024d-%d", codes.Add(1), consent.Account.UserID)
	s.source.set(func(m *memory) { m.codes[code] = consent })
	return s.server.URL + "/connect/callback?" + url.Values{"code": {code}, "state": {state}}.Encode()
}

// cookies lists the names of our cookies that the browser holds.
func (b *browser) cookies() []string {
	u, _ := url.Parse(b.server.URL)
	var names []string
	for _, c := range b.client.Jar.Cookies(u) {
		if c.Name != "login" {
			names = append(names, c.Name)
		}
	}
	return names
}

func (b *browser) title() string { return heading(b.last.body) }

// problem is the code that a problem page shows, or "".
func (p *answerPage) problem() string {
	_, rest, _ := strings.Cut(p.body, "<code>")
	code, _, ok := strings.Cut(rest, "</code>")
	if !ok {
		return ""
	}
	return code
}

func heading(body string) string {
	_, rest, _ := strings.Cut(body, "<h1>")
	title, _, _ := strings.Cut(rest, "</h1>")
	return html.UnescapeString(title)
}

func refreshTarget(body string) string {
	_, rest, _ := strings.Cut(body, `content="0;url=`)
	target, _, ok := strings.Cut(rest, `"`)
	if !ok {
		return ""
	}
	return html.UnescapeString(target)
}

// formOf returns the form of a page: where it is sent, and its hidden fields.
func formOf(t testing.TB, body string) (string, url.Values) {
	doc, err := html.Parse(strings.NewReader(body))
	require.NoError(t, err)
	action, fields := "", url.Values{}
	for n := range doc.Descendants() {
		attributes := map[string]string{}
		for _, a := range n.Attr {
			attributes[a.Key] = a.Val
		}
		switch n.Data {
		case "form":
			action = attributes["action"]
		case "input":
			fields.Set(attributes["name"], attributes["value"])
		}
	}
	require.NotEmpty(t, action, "the page has no form: %s", body)
	return action, fields
}
