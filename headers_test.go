package mercadopago

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

func TestACopyOfTheHeaderIsStrippedInEverySpellingThatServersFold(t *testing.T) {
	for _, test := range []struct{ inject, sent string }{
		{"Authorization", "Authorization"}, // other cases: net/http makes them this one
		{"X-Mp-Token", "X-Mp-Token"},
		{"X-Mp-Token", "x_mp_token"},
		{"X-Mp-Token", "X.Mp.Token"},
		{"X-Mp-Token", "X-Mp_Token"},
		{"X-Mp-Token", "X!MP~TOKEN"},
		{"X_Mp_Token", "X-Mp-Token"},
	} {
		t.Run(test.sent, func(t *testing.T) {
			r := &http.Request{
				Header:  http.Header{test.sent: {"stolen", "twice"}, "Accept": {"*/*"}},
				Trailer: http.Header{test.sent: {"late"}, strings.ToLower(test.sent): {"later"}},
			}
			changed := strip(r, test.inject, nil)
			require.Equal(t, http.Header{"Accept": {"*/*"}}, r.Header)
			require.Empty(t, r.Trailer)
			restore(r.Header, changed)
			require.Equal(t, []string{"stolen", "twice"}, r.Header[test.sent], "put back as it was")
		})
	}
}

func TestOtherHeadersAreLeftAlone(t *testing.T) {
	for _, sent := range []string{"Proxy-Authorization", "Authorization-Info", "Authorizatio", "X-Idempotency-Key", "X-Mp-Token2"} {
		r := &http.Request{Header: http.Header{sent: {"kept"}}}
		require.Empty(t, strip(r, "Authorization", nil))
		require.Empty(t, strip(r, "X-Mp-Token", nil))
		require.Equal(t, "kept", r.Header[sent][0])
	}
}

func TestAClientCannotHaveTheTokenRemovedByConnection(t *testing.T) {
	for sent, want := range map[string][]string{
		"Authorization":                       nil,
		"close, Authorization":                {"close"},
		"keep-alive,authorization , upgrade":  {"keep-alive, upgrade"},
		" AUTHORIZATION ":                     nil,
		"authorization, Authorization, close": {"close"},
	} {
		t.Run(sent, func(t *testing.T) {
			r := &http.Request{Header: http.Header{"Connection": {sent}}}
			changed := strip(r, "Authorization", nil)
			require.Equal(t, want, r.Header["Connection"])
			restore(r.Header, changed)
			require.Equal(t, []string{sent}, r.Header["Connection"])
		})
	}
}

func TestATrailerThatArrivesAfterTheBodyIsStripped(t *testing.T) {
	r := &http.Request{ContentLength: -1}
	r.Body = arriving{strings.NewReader("body"), func() {
		r.Trailer = http.Header{"authorization": {"Bearer stolen"}, "Digest": {"x"}}
	}}
	strip(r, "Authorization", nil)
	body, err := io.ReadAll(r.Body)
	require.NoError(t, err)
	require.Equal(t, "body", string(body))
	require.Equal(t, http.Header{"Digest": {"x"}}, r.Trailer)
}

// arriving is a body whose trailers are there when it ends, as net/http does it.
type arriving struct {
	*strings.Reader
	ended func()
}

func (a arriving) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if err == io.EOF {
		a.ended()
	}
	return n, err
}

func (arriving) Close() error { return nil }

func TestTheOldStyleTokenIsRemovedFromTheQueryAndNothingElse(t *testing.T) {
	for query, want := range map[string]string{
		"":                                   "",
		"a=1&b=%20x&c":                       "a=1&b=%20x&c",
		"access_token=x":                     "",
		"a=1&access_token=x&b=2":             "a=1&b=2",
		"access_token=x&access_token=y&a":    "a",
		"ACCESS_TOKEN=x&a=1":                 "a=1",
		"access%5Ftoken=x&a=1":               "a=1",
		"%61ccess_token=x":                   "",
		"access%255Ftoken=x&a=1":             "a=1",
		"access.token=x&a=1":                 "a=1",
		"access-token=x&a=1":                 "a=1",
		"access_token[]=x&a=1":               "a=1",
		"access_token%5B0%5D=x&a=1":          "a=1",
		"+access_token=x&a=1":                "a=1",
		"a=1;access_token=x;b=2":             "a=1;b=2",
		"a=1&access_token":                   "a=1",
		"my_access_token=x&access_tokens=y":  "my_access_token=x&access_tokens=y",
		"q=access_token&redirect=%26a%3Db%3": "q=access_token&redirect=%26a%3Db%3",
	} {
		require.Equal(t, want, stripAccessToken(query), "of %q", query)
	}
}

func TestNoSpellingOfAPathReachesOAuth(t *testing.T) {
	for _, path := range []string{
		"/oauth/token", "/oauth", "/oauth/", "//oauth/token", "/OAuth/token", "/./oauth/token", "/x/../oauth/token",
		"/%6fauth/token", "/%6F%61uth/token", "/oauth%2ftoken", "/%2foauth/token", "/%252foauth/token", "/%2%35%36fauth/token",
		"/oauth;x=1/token", "/oauth%3bx/token", "\\oauth\\token", "/%5coauth/token", "/api/oauth/token", "/oauth./token",
		"/oauth%20/token", "/oauth%00/token", "/v1/%2e%2e/oauth/token", "/oauth%3Fx", "/oauth%23x/token", "/%25252525256foauth/token",
	} {
		u := &url.URL{Path: path, RawPath: path}
		if parsed, err := url.Parse(path); err == nil && parsed.Host == "" {
			u = parsed
		}
		require.True(t, reachesOAuth(u), path)
	}
	for _, path := range []string{"/", "/v1/payments", "/v1/payments/123", "/users/me", "/oauths", "/v1/oauth2", "/v1/100%25", "/a;b/c"} {
		u, err := url.Parse(path)
		require.NoError(t, err)
		require.False(t, reachesOAuth(u), path)
	}
}

func TestOnlyConfiguredPeersMayCallEgress(t *testing.T) {
	for _, test := range []struct {
		clients []string
		admits  []string
		refuses []string
	}{
		{
			nil,
			[]string{"127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "@", ""},
			[]string{"10.0.0.1:1", "192.0.2.1:1", "[2001:db8::1]:1", "[fe80::1%eth0]:1", "localhost:1", "nonsense"},
		},
		{
			[]string{"10.0.0.0/8", "203.0.113.7", "fe80::/10"},
			[]string{"10.1.2.3:1", "203.0.113.7:1", "[::ffff:10.1.2.3]:1", "[fe80::1%eth0]:1"},
			[]string{"127.0.0.1:1", "203.0.113.8:1", "[::1]:1"},
		},
		{[]string{"127.0.0.1"}, []string{"127.0.0.1:1"}, []string{"127.0.0.10:1", "127.0.0.1"}},
	} {
		egress := Egress{Clients: test.clients}
		require.NoError(t, egress.provision())
		for _, remote := range test.admits {
			require.True(t, egress.admits(remote), remote)
		}
		for _, remote := range test.refuses {
			require.False(t, egress.admits(remote), remote)
		}
	}
}

// liveToken is a seller's token, and what it goes upstream as.
func liveToken(t *testing.T) (token *tokensource.Token, bearer string) {
	t.Helper()
	w := warm(t, 1)
	token, err := w.app.source.Token(t.Context(), defaultApplication, w.sellers[0], time.Minute)
	require.NoError(t, err)
	return token, "Bearer " + token.AccessToken().Reveal()
}

// getRequest is a request as a server of Caddy hands it on.
func getRequest() *http.Request {
	return prepare(httptest.NewRequest(http.MethodGet, "/", nil), nil, new(caddyhttp.Server))
}

func bearer() *Handler { return &Handler{Inject: &Inject{Header: "Authorization", Scheme: "Bearer"}} }

func TestTheHeadersOfARequestAreAsTheyWereBehindTheHandler(t *testing.T) {
	const cookies = "theme=dark; __Host-mp_session=x"
	token, value := liveToken(t)
	for name, sent := range map[string]http.Header{
		"with a copy of its own": {"Authorization": {"Bearer own"}, "Cookie": {cookies}, "Connection": {"authorization, close"}},
		"without":                {"Cookie": {cookies}, "Accept": {"*/*"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := getRequest()
			r.Header = sent.Clone()
			next := func(_ http.ResponseWriter, r *http.Request) error {
				assert.Equal(t, []string{value}, r.Header["Authorization"])
				assert.Equal(t, []string{"theme=dark"}, r.Header["Cookie"], "another handler's session is no app's business")
				return nil
			}
			require.NoError(t, bearer().pass(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(next), "", token))
			require.Equal(t, sent, r.Header)
			failing := func(http.ResponseWriter, *http.Request) error { return errors.New("no upstream") }
			require.Error(t, bearer().pass(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(failing), "", token))
			require.Empty(t, r.Header["Authorization"], "handle_errors comes next")
			require.Equal(t, []string{"theme=dark"}, r.Header["Cookie"])
		})
	}
}

func TestEachRequestHasTheTokenInASliceOfItsOwn(t *testing.T) {
	token, value := liveToken(t)
	for range 2 {
		next := func(_ http.ResponseWriter, r *http.Request) error {
			values := r.Header["Authorization"]
			assert.Equal(t, []string{value}, values)
			values[0] = "edited in place" // as header_up with a replacement does
			_ = append(values, "more")
			return nil
		}
		r := getRequest()
		require.NoError(t, bearer().pass(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(next), "", token))
	}
}
