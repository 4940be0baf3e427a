package e2e

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

const (
	clientID     = "4934588586838432"
	clientSecret = "canary-client-secret-7d1f60c2a9"
	// 32 bytes; the same text must never be found in what Caddy writes.
	encryptionKey = "6b1d5f0e9a8c7b6a5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c"
)

// The accounts that sellers connect.
var (
	aurora = sandbox.DefaultAccounts()[0]
	rio    = sandbox.DefaultAccounts()[1]
	porto  = sandbox.DefaultAccounts()[2]
)

func id(account sandbox.Account) string { return strconv.FormatInt(account.UserID, 10) }

// platform is a marketplace: a stand-in for Mercado Pago, an app, and the
// addresses where a caddy is to stand in front of both.
type platform struct {
	t        *testing.T
	provider *sandbox.Sandbox
	app      *upstream
	values   map[string]string // of $NAMES in Caddyfiles
	accounts []sandbox.Account // that can consent, where it is not the stand-in's own
	orders   string            // path of the file that [platform.order] writes, or ""
}

func newPlatform(t *testing.T) *platform {
	t.Helper()
	p := &platform{t: t, app: newUpstream(t)}
	p.values = map[string]string{
		"ADMIN": newAddress(t), "STORAGE": filepath.Join(t.TempDir(), "storage"),
		"SHOP": "http://" + newAddress(t), "EGRESS": "http://" + newAddress(t), "APP": p.app.URL,
	}
	p.open()
	return p
}

// open opens the stand-in for the shop's address.
func (p *platform) open() {
	p.t.Helper()
	p.values["CALLBACK"] = p.values["SHOP"] + "/connect/callback"
	p.provider = sandbox.New(sandbox.Options{Accounts: p.accounts, Applications: []sandbox.Application{{
		Name: "Casa Lapacho", ClientID: clientID, ClientSecret: clientSecret, PKCE: true,
		RedirectURIs: []string{p.values["CALLBACK"]},
	}}})
	server := httptest.NewServer(p.provider)
	p.t.Cleanup(server.Close)
	p.values["PROVIDER"] = server.URL
}

// onLocalhost moves the shop to the name localhost: the provider, at 127.0.0.1,
// is another site then, as it is in life.
func (p *platform) onLocalhost() {
	p.values["SHOP"] = strings.Replace(p.values["SHOP"], "127.0.0.1", "localhost", 1)
	p.open()
}

func (p *platform) url(name string) string { return p.values[name] }

const globalOptions = `{
	admin $ADMIN
	storage file_system $STORAGE
	auto_https off
	default_bind 127.0.0.1
	grace_period 2s
$OPTIONS	mercadopago {
		client_id {env.MP_CLIENT_ID}
		client_secret {env.MP_CLIENT_SECRET}
		redirect_uri $CALLBACK
		encryption_key {env.MP_ENCRYPTION_KEY}
		endpoints {
			authorize $PROVIDER/authorization
			api $PROVIDER
		}
	}
}
`

// The sites that most platforms have.
const (
	sessionSite = `
$SHOP {
	mercadopago
	reverse_proxy $APP
}
`
	sellerSite = `
$SHOP {
	mercadopago {
		seller {http.request.header.X-Login}
	}
	reverse_proxy $APP
}
`
	egressSite = `
$EGRESS {
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
	}
	reverse_proxy $PROVIDER {
		header_up -X-Seller
		header_up -X-Forwarded-*
	}
}
`
)

// caddyfile fills in the $NAMES.
func (p *platform) caddyfile(sites string) string {
	// Written as `caddy fmt` would write it, Caddy has nothing to warn of.
	return os.Expand(globalOptions+sites, func(name string) string { return p.values[name] })
}

// serve starts a caddy with the sites.
func (p *platform) serve(sites string) *caddy {
	p.t.Helper()
	return newCaddy(p.t, p.values["ADMIN"], p.caddyfile(sites), p.secrets()...)
}

// secrets are the environment variables that a caddy of this platform needs.
func (p *platform) secrets() []string {
	return []string{"MP_CLIENT_ID=" + clientID, "MP_CLIENT_SECRET=" + clientSecret, "MP_ENCRYPTION_KEY=" + encryptionKey, "FAULTS=" + p.orders}
}

// obeyed makes the processes that the test starts from now on follow [platform.order].
func (p *platform) obeyed() {
	p.t.Helper()
	p.orders = filepath.Join(p.t.TempDir(), "orders")
}

// order sets the clock and the faults of the storage to those in lines, which package
// faulty documents. Without lines, nothing is wrong any more.
func (p *platform) order(lines ...string) {
	p.t.Helper()
	next := p.orders + ".next"
	require.NoError(p.t, os.WriteFile(next, []byte(strings.Join(lines, "\n")), 0o600))
	require.NoError(p.t, os.Rename(next, p.orders))
}

// refreshes counts the refreshes that were asked of the provider.
func (p *platform) refreshes() int { return p.provider.Stats().Tokens("refresh_token") }

// expire waits until the access tokens of a life have come to their end, and
// makes the next ones live long.
func (p *platform) expire(life time.Duration) {
	p.t.Helper()
	<-time.After(life)
	p.provider.SetAccessTokenLife(0)
}

// upstream is a server behind caddy that keeps what it was sent.
type upstream struct {
	*httptest.Server

	mu       sync.Mutex
	requests []*http.Request
	answer   func(http.ResponseWriter, *http.Request)
}

func newUpstream(t *testing.T) *upstream {
	t.Helper()
	u := new(upstream)
	u.Server = httptest.NewServer(u)
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	u.mu.Lock()
	u.requests = append(u.requests, r.Clone(r.Context()))
	answer := u.answer
	u.mu.Unlock()
	if answer != nil {
		answer(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	_, _ = w.Write([]byte("the app"))
}

// answers makes the upstream answer in another way.
func (u *upstream) answers(answer func(http.ResponseWriter, *http.Request)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.answer = answer
}

// received returns what came since it was last asked.
func (u *upstream) received() []*http.Request {
	u.mu.Lock()
	defer u.mu.Unlock()
	requests := u.requests
	u.requests = nil
	return requests
}

// actsFor tells which account a request that reached an upstream acts for.
func (p *platform) actsFor(r *http.Request) int64 {
	p.t.Helper()
	const bearer = "Bearer "
	values := r.Header.Values("Authorization")
	require.Len(p.t, values, 1, "a request carries exactly one token")
	require.Greater(p.t, len(values[0]), len(bearer))
	require.Equal(p.t, bearer, values[0][:len(bearer)])
	account, ok := p.provider.AccessTokenOf(values[0][len(bearer):])
	require.True(p.t, ok, "the token is alive")
	return account
}
