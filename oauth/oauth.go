// Package oauth speaks Mercado Pago's OAuth on the wire: the authorization URL,
// the token endpoint with its three grants, and the outcomes of a request.
//
// It stores nothing, retries nothing and follows no redirect: a token request
// may burn a single-use code or refresh token, so when to ask again is for the
// caller to decide, by the [Outcome].
package oauth

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/oauth2"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// Answer is what the token endpoint gave.
type Answer struct {
	AccessToken secret.Secret
	// RefreshToken is empty where the answer has none.
	RefreshToken secret.Secret
	// ExpiresIn is how long the access token lives from ReceivedAt. It is an
	// hour where the answer does not say, and 180 days where it says more.
	//
	// Where our clock is more than 5 minutes ahead of the answer's Date it is
	// reckoned from that Date, so shorter by the difference (but an hour at
	// least, where the token lives that long): once our clock is set right the
	// stored expiry must not lie beyond the token's end. A clock that is behind
	// changes nothing: its expiry is early, and early costs one refresh.
	ExpiresIn time.Duration
	// ReceivedAt is our clock when the answer came.
	ReceivedAt time.Time
	Scope      string
	// UserID is 0, PublicKey empty and LiveMode nil where the answer has none
	// (Mercado Libre, some refreshes).
	UserID    int64
	PublicKey string
	LiveMode  *bool
}

// User is what /users/me tells of an account. Nickname and Country are empty
// where it does not tell them.
type User struct {
	ID       int64
	Nickname string
	// Country is a code of two capital letters.
	Country string
}

// Config says how to reach the provider as one application. It is not
// validated here.
type Config struct {
	ClientID string
	// ClientSecrets are tried in order: the next one only after an explicit
	// invalid_client, which proves that nothing was done. The one that worked
	// last is tried first.
	ClientSecrets []secret.Secret
	RedirectURI   string
	Provider      Provider
	// PKCE sends a code challenge (S256) with each attempt.
	PKCE bool
	// TestToken asks for test credentials at the exchange.
	TestToken bool
	// Timeout bounds a call with everything in it, from the first dial to the
	// answer's last byte; 20 seconds where it is 0.
	Timeout time.Duration
	// Transport carries the requests. nil is one of the client's own: TLS 1.2
	// or newer, HTTP/1.1, a new connection for each request, and the proxy that
	// HTTPS_PROXY names, for https only.
	Transport http.RoundTripper
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Client speaks to the provider as one application. It is safe for concurrent
// use and owns nothing that would have to be closed.
type Client struct {
	config Config
	// authorize is what all addresses where sellers consent begin with.
	authorize string
	// working is the index of the client secret that worked last.
	working atomic.Int64
}

// NewClient returns a client. It does no I/O.
func NewClient(config Config) *Client {
	config.Timeout = cmp.Or(config.Timeout, 20*time.Second)
	config.Provider.API = strings.TrimRight(config.Provider.API, "/")
	if config.Transport == nil {
		config.Transport = newTransport(config.Timeout)
	}
	if config.Now == nil {
		config.Now = time.Now
	}
	return &Client{config: config, authorize: authorizeURL(&config)}
}

func authorizeURL(config *Config) string {
	query := url.Values{"client_id": {config.ClientID}, "response_type": {"code"}, "redirect_uri": {config.RedirectURI}}
	if id := config.Provider.PlatformID; id != "" {
		query.Set("platform_id", id)
	}
	separator := "?"
	if strings.Contains(config.Provider.AuthorizeURL, "?") {
		separator = "&"
	}
	return config.Provider.AuthorizeURL + separator + query.Encode()
}

// ClientID returns the application's number.
func (c *Client) ClientID() string { return c.config.ClientID }

// RedirectURI returns the address that the provider sends browsers back to.
func (c *Client) RedirectURI() string { return c.config.RedirectURI }

// Provider returns the provider as it is configured.
func (c *Client) Provider() Provider { return c.config.Provider }

// PKCE reports whether an attempt needs a verifier.
func (c *Client) PKCE() bool { return c.config.PKCE }

// Timeout returns the longest that a call takes.
func (c *Client) Timeout() time.Duration { return c.config.Timeout }

// NewVerifier returns a new random PKCE verifier.
func NewVerifier() secret.Secret { return secret.New(oauth2.GenerateVerifier()) }

// AuthorizationURL returns the address where a seller is asked to consent. The
// verifier is used with PKCE only.
func (c *Client) AuthorizationURL(state string, verifier secret.Secret) string {
	address := c.authorize + "&state=" + url.QueryEscape(state)
	if c.config.PKCE && !verifier.IsZero() {
		address += "&code_challenge_method=S256&code_challenge=" + oauth2.S256ChallengeFromVerifier(verifier.Reveal())
	}
	return address
}
