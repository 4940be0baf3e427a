package mercadopago

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// rig is Caddy in this process, with the sandbox and an app behind.
type rig struct {
	t          *testing.T
	sandbox    *sandbox.Sandbox
	sandboxURL string
	app        *app
	storage    string
	log        string
	vars       []string
}

// app records what reaches it.
type app struct {
	mu       sync.Mutex
	requests []*http.Request
	handle   http.HandlerFunc
}

func (a *app) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	a.requests = append(a.requests, r.Clone(r.Context()))
	handle := a.handle
	a.mu.Unlock()
	if handle != nil {
		handle(w, r)
		return
	}
	fmt.Fprint(w, "app")
}

// last returns the last request that reached the app, or nil, and forgets all.
func (a *app) last() *http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.requests) == 0 {
		return nil
	}
	r := a.requests[len(a.requests)-1]
	a.requests = nil
	return r
}

const testKey = "abababababababababababababababababababababababababababababababab"

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, app: new(app), storage: t.TempDir(), log: t.TempDir() + "/caddy.log"}
	shop := "http://" + freeAddress(t)
	r.sandbox = sandbox.New(sandbox.Options{Applications: []sandbox.Application{{
		ClientID: sandbox.DefaultClientID, ClientSecret: sandbox.DefaultClientSecret,
		RedirectURIs: []string{shop + "/connect/callback"}, PKCE: true,
	}}})
	stand := httptest.NewServer(r.sandbox)
	t.Cleanup(stand.Close)
	behind := httptest.NewServer(r.app)
	t.Cleanup(behind.Close)
	r.sandboxURL = stand.URL
	t.Setenv("MP_TEST_SECRET", sandbox.DefaultClientSecret)
	t.Setenv("MP_TEST_KEY", testKey)
	r.vars = []string{
		"SHOP", shop, "EGRESS", "http://" + freeAddress(t), "OTHER", "http://" + freeAddress(t), "APP", behind.URL,
		"API", stand.URL, "CLIENT_ID", sandbox.DefaultClientID,
	}
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	return r
}

// at returns an address of the rig by its name.
func (r *rig) at(name string) string {
	for i := 0; i < len(r.vars); i += 2 {
		if r.vars[i] == name {
			return r.vars[i+1]
		}
	}
	r.t.Fatalf("no address %s", name)
	return ""
}

const globalBlock = `{
	admin off
	persist_config off
	auto_https off
	grace_period 1s
	storage file_system STORAGE
	log {
		output file LOGFILE
		level DEBUG
	}
	mercadopago {
		client_id CLIENT_ID
		client_secret {env.MP_TEST_SECRET}
		redirect_uri SHOP/connect/callback
		encryption_key {env.MP_TEST_KEY}
		endpoints {
			authorize API/authorization
			api API
		}
	}
}
`

// load runs Caddy with these sites, in which SHOP, EGRESS, OTHER, APP and API
// stand for addresses.
func (r *rig) load(sites string) {
	r.t.Helper()
	require.NoError(r.t, r.tryLoad(globalBlock+sites))
}

func (r *rig) tryLoad(text string) error {
	adapted, err := adapt(r.t, r.expand(text))
	if err != nil {
		return err
	}
	return caddy.Load([]byte(adapted), true)
}

// expand puts the addresses in place of their names.
func (r *rig) expand(text string) string {
	replacer := strings.NewReplacer(append([]string{"STORAGE", r.storage, "LOGFILE", r.log}, r.vars...)...)
	return string(caddyfile.Format([]byte(replacer.Replace(text))))
}

func freeAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	return listener.Addr().String()
}

// browser is a client with cookies that follows no redirect by itself.
type browser struct {
	rig    *rig
	client *http.Client
	header http.Header
}

func (r *rig) browser() *browser {
	jar, err := cookiejar.New(nil)
	require.NoError(r.t, err)
	transport := &http.Transport{}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &browser{r, &http.Client{
		Jar: jar, Transport: transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, http.Header{"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-Dest": {"document"}, "Accept": {"text/html"}}}
}

type reply struct {
	status int
	header http.Header
	body   string
}

func (b *browser) do(method, address string, body io.Reader, header http.Header) reply {
	b.rig.t.Helper()
	request, err := http.NewRequestWithContext(b.rig.t.Context(), method, address, body)
	require.NoError(b.rig.t, err)
	maps.Copy(request.Header, b.header)
	maps.Copy(request.Header, header)
	response, err := b.client.Do(request)
	if (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.EOF)) && body == nil {
		// A server that was just replaced closes what it had accepted by then.
		response, err = b.client.Do(request)
	}
	require.NoError(b.rig.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(b.rig.t, err)
	return reply{response.StatusCode, response.Header, string(text)}
}

func (b *browser) get(address string) reply { return b.do(http.MethodGet, address, nil, nil) }

// call is a request by a program rather than by a person.
func (r *rig) call(method, address string, body io.Reader, header http.Header) reply {
	r.t.Helper()
	program := r.browser()
	program.header = http.Header{}
	return program.do(method, address, body, header)
}

var (
	finishPattern = regexp.MustCompile(`/[a-z]+/finish[^"'\s]*`)
	formPattern   = regexp.MustCompile(`(?s)<form[^>]*method="post"[^>]*action="([^"]*)".*?</form>`)
	fieldPattern  = regexp.MustCompile(`<(?:input|button)[^>]*name="([^"]*)"[^>]*value="([^"]*)"`)
)

// consent walks from the connect page to the end of the exchange, and returns
// the answer of the finish: a redirect, or a page that asks.
func (b *browser) consent(start string, userID int64) reply {
	b.rig.t.Helper()
	began := b.get(start)
	require.Equal(b.rig.t, http.StatusSeeOther, began.status, began.body)
	callback, err := b.rig.sandbox.Approve(began.header.Get("Location"), userID)
	require.NoError(b.rig.t, err)
	back := b.get(callback)
	require.Equal(b.rig.t, http.StatusOK, back.status, back.body)
	u, err := url.Parse(start)
	require.NoError(b.rig.t, err)
	finish := strings.ReplaceAll(finishPattern.FindString(back.body), "&amp;", "&")
	end := b.get(u.Scheme + "://" + u.Host + finish)
	if to := end.header.Get("Location"); strings.Contains(to, "/confirm") {
		return b.get(u.Scheme + "://" + u.Host + to)
	}
	return end
}

// confirm presses the button of a page that asks.
func (b *browser) confirm(site string, page reply) reply {
	b.rig.t.Helper()
	form := formPattern.FindStringSubmatch(page.body)
	require.NotNil(b.rig.t, form, page.body)
	values := url.Values{}
	for _, field := range fieldPattern.FindAllStringSubmatch(form[0], -1) {
		if !values.Has(field[1]) { // the first button is the one that says yes
			values.Set(field[1], field[2])
		}
	}
	return b.do(http.MethodPost, site+strings.ReplaceAll(form[1], "&amp;", "&"), strings.NewReader(values.Encode()),
		http.Header{"Content-Type": {"application/x-www-form-urlencoded"}, "Origin": {site}})
}

// connected returns a browser with a session of an account.
func (r *rig) connected(account sandbox.Account) *browser {
	r.t.Helper()
	b := r.browser()
	end := b.consent(r.at("SHOP")+"/connect?return_to=/", account.UserID)
	require.Equal(r.t, http.StatusSeeOther, end.status, end.body)
	return b
}

// connectSeller connects a seller of a site in seller mode, where the header
// X-User says who it is.
func (r *rig) connectSeller(seller string, account sandbox.Account) {
	r.t.Helper()
	b := r.browser()
	b.header.Set("X-User", seller)
	page := b.consent(r.at("SHOP")+"/connect?return_to=/", account.UserID)
	require.Equal(r.t, http.StatusOK, page.status, page.body)
	end := b.confirm(r.at("SHOP"), page)
	require.Equal(r.t, http.StatusSeeOther, end.status, end.body)
}

// problem reads a problem document.
func (r *rig) problem(got reply) map[string]any {
	r.t.Helper()
	require.Equal(r.t, "application/problem+json", got.header.Get("Content-Type"), got.body)
	var document map[string]any
	require.NoError(r.t, json.Unmarshal([]byte(got.body), &document))
	return document
}

func stopCaddy() error { return caddy.Stop() }

// raw sends bytes as they are, and returns the status of the answer.
func (r *rig) raw(address, request string) int {
	r.t.Helper()
	u, err := url.Parse(address)
	require.NoError(r.t, err)
	conn, err := net.Dial("tcp", u.Host)
	require.NoError(r.t, err)
	defer conn.Close()
	_, err = io.WriteString(conn, request)
	require.NoError(r.t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(r.t, err)
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	require.NoError(r.t, err)
	return response.StatusCode
}

// logged returns what Caddy has logged.
func (r *rig) logged() string {
	text, err := os.ReadFile(r.log)
	require.NoError(r.t, err)
	return string(text)
}
