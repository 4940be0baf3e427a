package e2e

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// replayBound is max_replay_body of the sites here.
const replayBound = 1 << 10

// replaySites put egress where site authors put it. They all lead to the same
// paths of the API.
const replaySites = `
$PLAIN {
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
		max_replay_body 1KiB
	}
	reverse_proxy $API
}

$HANDLE {
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
		max_replay_body 1KiB
	}
	handle /v1/* {
		reverse_proxy $API
	}
	handle {
		respond "nothing is handled here" 500
	}
}

$INSIDE {
	handle /v1/* {
		mercadopago {
			egress
			seller {http.request.header.X-Seller}
			max_replay_body 1KiB
		}
		reverse_proxy $API
	}
	handle {
		respond "nothing is handled here" 500
	}
}

$HANDLE_PATH {
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
		max_replay_body 1KiB
	}
	handle_path /mp/* {
		reverse_proxy $API
	}
}

$URI {
	route {
		mercadopago {
			egress
			seller {http.request.header.X-Seller}
			max_replay_body 1KiB
		}
		uri strip_prefix /mp
		request_header X-Passed-On yes
		reverse_proxy $API
	}
}

$ENCODE {
	encode gzip
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
		max_replay_body 1KiB
	}
	reverse_proxy $API
}
`

// api is the stand-in's API, with a memory of what it was sent.
type api struct {
	provider http.Handler

	mu   sync.Mutex
	sent []sent
}

type sent struct {
	line          string // method and target
	header        http.Header
	authorization string
	body          string
}

func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s := sent{r.Method + " " + r.RequestURI, r.Header.Clone(), r.Header.Get("Authorization"), string(body)}
	s.header.Del("Authorization")
	a.mu.Lock()
	a.sent = append(a.sent, s)
	a.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	a.provider.ServeHTTP(w, r)
}

func (a *api) received() []sent {
	a.mu.Lock()
	defer a.mu.Unlock()
	requests := a.sent
	a.sent = nil
	return requests
}

// replays is a platform whose sellers' tokens die.
type replays struct {
	*platform
	t    *testing.T
	api  *api
	used int
	// later is how far the clock of caddy is ahead.
	later time.Duration
}

func newReplays(t *testing.T, sites string) *replays {
	t.Helper()
	r := &replays{platform: newPlatform(t), t: t}
	r.api = &api{provider: r.provider}
	server := httptest.NewServer(r.api)
	t.Cleanup(server.Close)
	r.values["API"] = server.URL
	for _, name := range []string{"PLAIN", "HANDLE", "INSIDE", "HANDLE_PATH", "URI", "ENCODE"} {
		r.values[name] = "http://" + newAddress(t)
	}
	r.values["OPTIONS"] = "\tservers {\n\t\tprotocols h1 h2c\n\t}\n"
	r.obeyed()
	r.serve(sessionSite + sites)
	for _, account := range sandbox.DefaultAccounts() {
		r.visitor().connect(account)
	}
	return r
}

// deadToken returns a seller whose access token the provider has just revoked. When all
// sellers have been used, it moves the clock of caddy forward: in one minute, caddy
// refreshes an account once because of a 401, and only a few accounts.
func (r *replays) deadToken() sandbox.Account {
	r.t.Helper()
	accounts := sandbox.DefaultAccounts()
	if r.used == len(accounts) {
		r.used = 0
		r.later += 2 * time.Minute
		r.order("later " + r.later.String())
	}
	account := accounts[r.used]
	r.used++
	r.provider.KillAccessTokens(account.UserID)
	return account
}

// clients speak HTTP/1.1 and HTTP/2.
func clients(t *testing.T) map[string]*http.Client {
	t.Helper()
	one := &http.Transport{ExpectContinueTimeout: patience}
	two := &http.Transport{ExpectContinueTimeout: patience, Protocols: new(http.Protocols)}
	two.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(func() {
		one.CloseIdleConnections()
		two.CloseIdleConnections()
	})
	return map[string]*http.Client{
		"HTTP/1.1": {Transport: one, Timeout: 2 * patience},
		"HTTP/2.0": {Transport: two, Timeout: 2 * patience},
	}
}

// paid is a payment's body of a length.
func paid(length int) string {
	const frame = `{"transaction_amount":150,"description":"%s"}`
	return fmt.Sprintf(frame, strings.Repeat("m", length-len(frame)+2))
}

// replayCase is a request that finds its token dead.
type replayCase struct {
	name, site, path string
	method, body     string
	header           []string
	chunked          bool
	mended           bool
}

func replayCases() []replayCase {
	key := []string{"X-Idempotency-Key", "order-1"}
	with := func(more ...string) []string { return append(append([]string{}, key...), more...) }
	cases := []replayCase{
		{name: "a POST without a key", body: paid(200)},
		{name: "a body at the bound", body: paid(replayBound), header: key, mended: true},
		{name: "a body above the bound", body: paid(replayBound + 1), header: key},
		{name: "a body of unknown length", body: paid(200), header: key, chunked: true},
		{name: "Expect: 100-continue", body: paid(200), header: with("Expect", "100-continue"), mended: true},
		{name: "Expect: 100-continue above the bound", body: paid(4 * replayBound), header: with("Expect", "100-continue")},
		{name: "a query", path: "/v1/payments?a=1&access_token=x&b=%20", body: paid(200), header: key, mended: true},
	}
	for i := range cases {
		cases[i].site, cases[i].method = "PLAIN", http.MethodPost
		if cases[i].path == "" {
			cases[i].path = "/v1/payments"
		}
	}
	for site, prefix := range map[string]string{"PLAIN": "", "HANDLE": "", "INSIDE": "", "HANDLE_PATH": "/mp", "URI": "/mp", "ENCODE": ""} {
		cases = append(cases,
			replayCase{name: "a POST with a key in " + site, site: site, path: prefix + "/v1/payments", method: http.MethodPost, body: paid(200), header: key, mended: true},
			replayCase{name: "a GET in " + site, site: site, path: prefix + "/v1/payments/1", method: http.MethodGet, mended: true},
		)
	}
	return cases
}

//nolint:tparallel // the cases use the same sellers
func TestADeadTokenOnEgressIsReplacedAndTheRequestSentOnceMore(t *testing.T) {
	parallel(t)
	r := newReplays(t, replaySites)
	of := clients(t)
	for _, version := range slices.Sorted(maps.Keys(of)) {
		for _, c := range replayCases() {
			t.Run(version+"/"+c.name, func(t *testing.T) { r.try(t, version, of[version], c) })
		}
	}
}

func (r *replays) try(t *testing.T, version string, client *http.Client, c replayCase) {
	account := r.deadToken()
	before := r.refreshes()
	r.api.received()
	got := c.send(t, version, client, r.url(c.site), id(account))
	attempts := r.api.received()
	require.Equal(t, before+1, r.refreshes(), "one forced refresh")
	if !c.mended {
		require.Equal(t, http.StatusUnauthorized, got.status, got.body)
		require.JSONEq(t, `{"message":"invalid access token","error":"unauthorized","status":401,"cause":[]}`, got.body)
		require.Len(t, attempts, 1)
		require.Equal(t, c.body, attempts[0].body)
		// The refresh was not for nothing: the next request is served.
		again := c.send(t, version, client, r.url(c.site), id(account))
		require.Equal(t, http.StatusCreated, again.status, again.body)
		require.Equal(t, before+1, r.refreshes())
		return
	}
	if c.method == http.MethodPost {
		require.Equal(t, http.StatusCreated, got.status, got.body)
		require.Contains(t, got.body, `"collector_id":`+id(account))
	} else {
		require.Equal(t, http.StatusNotFound, got.status, "there is no such payment, which only a live token is told")
	}
	require.Len(t, attempts, 2)
	require.NotEqual(t, attempts[0].authorization, attempts[1].authorization)
	attempts[0].authorization, attempts[1].authorization = "", ""
	require.Equal(t, attempts[0], attempts[1], "the second attempt is the first over again")
	require.Equal(t, c.body, attempts[1].body)
	require.NotContains(t, attempts[1].line, "access_token")
	require.Len(t, got.header.Values("Content-Type"), 1, "nothing of the 401's header is left: %v", got.header)
	require.Len(t, got.header.Values("Date"), 1)
}

func (c replayCase) send(t *testing.T, version string, client *http.Client, site, seller string) answer {
	t.Helper()
	var body io.Reader
	if c.body != "" {
		body = strings.NewReader(c.body)
	}
	if c.chunked {
		body = io.MultiReader(body) // whose length nobody can tell
	}
	request, err := http.NewRequest(c.method, site+c.path, body)
	require.NoError(t, err)
	request.Header.Set("X-Seller", seller)
	for i := 0; i < len(c.header); i += 2 {
		request.Header.Set(c.header[i], c.header[i+1])
	}
	response, err := client.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, version, response.Proto)
	return answer{response.StatusCode, response.Header, string(text)}
}

func TestA401ThatNoRefreshMendsGoesOnUnchangedAfterOneRefresh(t *testing.T) {
	parallel(t)
	r := newReplays(t, replaySites)
	r.provider.Fault(sandbox.Fault{Kind: sandbox.LiveCredentials, Path: "/v1/payments", Times: -1})
	c := replayCase{site: "PLAIN", path: "/v1/payments", method: http.MethodPost, body: paid(200), header: []string{"X-Idempotency-Key", "1"}}
	client := clients(t)["HTTP/1.1"]
	for range 5 {
		got := c.send(t, "HTTP/1.1", client, r.url("PLAIN"), id(aurora))
		require.Equal(t, http.StatusUnauthorized, got.status)
		require.Contains(t, got.body, "Unauthorized use of live credentials")
		require.Equal(t, "application/json; charset=utf-8", got.header.Get("Content-Type"))
	}
	require.Equal(t, 1, r.refreshes())
	r.provider.ClearFaults()
	require.Equal(t, http.StatusCreated, c.send(t, "HTTP/1.1", client, r.url("PLAIN"), id(aurora)).status)
}

func TestAHundredCallersWithADeadTokenCostOneRefresh(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	p.serve(sessionSite + egressSite)
	p.visitor().connect(aurora)
	p.provider.KillAccessTokens(aurora.UserID)
	requireAurora(t, callAtOnce(t, 100, p.caller())...)
	require.Equal(t, 1, p.refreshes())
	require.Zero(t, p.provider.Stats().RefreshReuse)
}

func TestA403IsNoDeadToken(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	p.serve(sessionSite + egressSite)
	p.visitor().connect(aurora)
	p.provider.Fault(sandbox.Fault{Kind: sandbox.Policy, Path: "/users/me"})
	got := p.caller().me(id(aurora))
	require.Equal(t, http.StatusForbidden, got.status)
	require.Contains(t, got.body, "PA_UNAUTHORIZED_RESULT_FROM_POLICIES")
	require.Zero(t, p.refreshes())
}

// On ingress a 401 is the app's own.
func TestA401OfTheAppIsTheAppsOwn(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	p.serve(sessionSite)
	v := p.visitor()
	v.connect(aurora)
	p.app.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", "Basic")
		http.Error(w, "who are you?", http.StatusUnauthorized)
	})
	p.app.received()
	got := v.get(p.url("SHOP") + "/")
	require.Equal(t, http.StatusUnauthorized, got.status)
	require.Equal(t, "who are you?\n", got.body)
	require.Len(t, p.app.received(), 1)
	require.Zero(t, p.refreshes())
}

// A seller who withdrew the authorization is told to reconnect, once the refresh
// token is refused as well; the request that found out gets the API's own 401.
func TestARevokedSellerIsToldToReconnect(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	p.serve(sessionSite + egressSite)
	p.visitor().connect(aurora)
	p.provider.Revoke(aurora.UserID)
	caller := p.caller()
	require.Equal(t, http.StatusUnauthorized, caller.me(id(aurora)).status)
	var got answer
	await(t, "the seller must reconnect", func() bool {
		got = caller.me(id(aurora))
		return got.status == http.StatusForbidden
	})
	require.Contains(t, got.body, "reconnect_required")
	require.Contains(t, got.body, p.url("SHOP")+"/connect")
	p.visitor().connect(aurora)
	await(t, "the seller is back", func() bool { return caller.me(id(aurora)).status == http.StatusOK })
}
