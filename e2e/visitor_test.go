package e2e

import (
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// visitor is a browser that follows nothing by itself.
type visitor struct {
	t      *testing.T
	p      *platform
	client *http.Client
	header http.Header // sent with each request
}

func (p *platform) visitor(header ...string) *visitor {
	p.t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(p.t, err)
	v := &visitor{t: p.t, p: p, header: make(http.Header), client: &http.Client{
		Jar: jar, Timeout: 2 * patience,
		Transport:     &http.Transport{DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
	for i := 0; i < len(header); i += 2 {
		v.header.Set(header[i], header[i+1])
	}
	return v
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	body   string
}

func (a answer) location() string { return a.header.Get("Location") }

func (v *visitor) send(r *http.Request) answer {
	v.t.Helper()
	maps.Copy(r.Header, v.header)
	response, err := v.client.Do(r)
	require.NoError(v.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(v.t, err)
	return answer{response.StatusCode, response.Header, string(body)}
}

// get asks for an address as a link of the site itself would.
func (v *visitor) get(address string, header ...string) answer {
	v.t.Helper()
	r, err := http.NewRequest(http.MethodGet, address, nil)
	require.NoError(v.t, err)
	r.Header.Set("Accept", "text/html")
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Sec-Fetch-Mode", "navigate")
	r.Header.Set("Sec-Fetch-Dest", "document")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	return v.send(r)
}

// post sends a form of the site itself.
func (v *visitor) post(address string, form url.Values) answer {
	v.t.Helper()
	r, err := http.NewRequest(http.MethodPost, address, strings.NewReader(form.Encode()))
	require.NoError(v.t, err)
	origin, err := url.Parse(address)
	require.NoError(v.t, err)
	r.Header.Set("Accept", "text/html")
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", origin.Scheme+"://"+origin.Host)
	return v.send(r)
}

// begin starts to connect, and returns the provider's address that the browser
// is sent to.
func (v *visitor) begin() string {
	v.t.Helper()
	got := v.get(v.p.url("SHOP") + "/connect?return_to=/")
	require.Equal(v.t, http.StatusSeeOther, got.status, got.body)
	require.True(v.t, strings.HasPrefix(got.location(), v.p.url("PROVIDER")+"/authorization?"), got.location())
	return got.location()
}

// consent agrees at the provider, and returns the address of the callback.
func (v *visitor) consent(authorization string, account sandbox.Account) string {
	v.t.Helper()
	callback, err := v.p.provider.Approve(authorization, account.UserID)
	require.NoError(v.t, err)
	return callback
}

var onward = regexp.MustCompile(`http-equiv="refresh" content="0;url=([^"]+)"`)

// finish follows the callback to what comes after the exchange.
func (v *visitor) finish(callback string) answer {
	v.t.Helper()
	moving := v.get(callback, "Sec-Fetch-Site", "cross-site")
	require.Equal(v.t, http.StatusOK, moving.status, moving.body)
	found := onward.FindStringSubmatch(moving.body)
	require.NotNil(v.t, found, "the callback's page moves on by itself:\n%s", moving.body)
	return v.get(v.absolute(html.UnescapeString(found[1])))
}

func (v *visitor) absolute(address string) string {
	if strings.HasPrefix(address, "/") {
		return v.p.url("SHOP") + address
	}
	return address
}

var hiddenSeen = regexp.MustCompile(`name="seen" value="([^"]*)"`)

// decide answers the question that a page at the address asks.
func (v *visitor) decide(address, decision string) answer {
	v.t.Helper()
	question := v.get(v.absolute(address))
	require.Equal(v.t, http.StatusOK, question.status, question.body)
	seen := hiddenSeen.FindStringSubmatch(question.body)
	require.NotNil(v.t, seen, "a question:\n%s", question.body)
	return v.post(v.absolute(address), url.Values{"seen": {html.UnescapeString(seen[1])}, "decision": {decision}})
}

// connect walks the whole way, and agrees to whatever is asked.
func (v *visitor) connect(account sandbox.Account) {
	v.t.Helper()
	v.settle(v.finish(v.consent(v.begin(), account)))
}

// settle agrees where there is a question, and comes back to the site.
func (v *visitor) settle(got answer) {
	v.t.Helper()
	if strings.Contains(got.location(), "/confirm?") {
		got = v.decide(got.location(), "connect")
	}
	require.Equal(v.t, http.StatusSeeOther, got.status, got.body)
	require.Equal(v.t, v.p.url("SHOP")+"/", got.location())
}

// caller is an app that calls egress.
type caller struct {
	t       *testing.T
	address string
	client  *http.Client
}

func (p *platform) caller() *caller {
	transport := &http.Transport{MaxIdleConnsPerHost: 128}
	p.t.Cleanup(transport.CloseIdleConnections)
	return &caller{p.t, p.url("EGRESS"), &http.Client{Transport: transport, Timeout: 2 * patience}}
}

func (c *caller) request(method, path, seller, body string) *http.Request {
	c.t.Helper()
	r, err := http.NewRequest(method, c.address+path, strings.NewReader(body))
	require.NoError(c.t, err)
	if seller != "" {
		r.Header.Set("X-Seller", seller)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	return r
}

func (c *caller) send(r *http.Request) answer {
	c.t.Helper()
	response, err := c.client.Do(r)
	require.NoError(c.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(c.t, err)
	return answer{response.StatusCode, response.Header, string(body)}
}

// me asks whose the token is.
func (c *caller) me(seller string) answer {
	c.t.Helper()
	return c.send(c.request(http.MethodGet, "/users/me", seller, ""))
}
