package oauth

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/oauth2"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// A proxy that nothing may go through: none is used for loopback addresses.
const proxyAddress = "http://127.0.0.1:1"

func TestMain(m *testing.M) {
	// Here, because net/http reads them once.
	_ = os.Setenv("HTTP_PROXY", proxyAddress)
	_ = os.Setenv("HTTPS_PROXY", proxyAddress)
	_ = os.Setenv("NO_PROXY", "")
	goleak.VerifyTestMain(m)
}

const fullAnswer = `{"access_token":"APP_USR-4934588586838432-XXXXXXXX-241983636","token_type":"bearer","expires_in":15552000,
 "scope":"read write offline_access","user_id":241983636,"refresh_token":"TG-XXXXXXXX-241983636",
 "public_key":"APP_USR-d0a26210-XXXXXXXX-479f0400869e","live_mode":true}`

// newTestClient returns a client of the provider at address.
func newTestClient(t testing.TB, address string, change ...func(*Config)) *Client {
	t.Helper()
	provider, err := Preset("mercadopago", "")
	require.NoError(t, err)
	provider.API = address
	config := Config{
		ClientID:      "4934588586838432",
		ClientSecrets: []secret.Secret{secret.New("client-secret")},
		RedirectURI:   "https://shop.example.com/connect/callback",
		Provider:      provider,
		PKCE:          true,
		Timeout:       10 * time.Second,
	}
	for _, c := range change {
		c(&config)
	}
	return NewClient(config)
}

// serve runs a provider for the length of a test.
func serve(t testing.TB, handler http.HandlerFunc) string {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server.URL
}

func requireError(t testing.TB, err error) *Error {
	t.Helper()
	var failure *Error
	require.ErrorAs(t, err, &failure)
	require.NoError(t, errors.Unwrap(err), "what lies below may hold addresses and secrets")
	return failure
}

func TestAuthorizationURLsHoldWhatEachProviderDocuments(t *testing.T) {
	verifier := NewVerifier()
	const state = "st/ate+with=marks&more"
	for _, row := range []struct {
		provider, country, host string
		pkce                    bool
	}{
		{"mercadopago", "", "auth.mercadopago.com", true},
		{"", "", "auth.mercadopago.com", false},
		{"mercadopago", "ar", "auth.mercadopago.com.ar", true},
		{"mercadopago", "br", "auth.mercadopago.com.br", true},
		{"mercadopago", "cl", "auth.mercadopago.cl", true},
		{"mercadopago", "co", "auth.mercadopago.com.co", true},
		{"mercadopago", "mx", "auth.mercadopago.com.mx", true},
		{"mercadopago", "pe", "auth.mercadopago.com.pe", true},
		{"mercadopago", "uy", "auth.mercadopago.com.uy", true},
		{"mercadolibre", "ar", "auth.mercadolibre.com.ar", true},
		{"mercadolibre", "br", "auth.mercadolivre.com.br", true},
		{"mercadolibre", "cl", "auth.mercadolibre.cl", true},
		{"mercadolibre", "mx", "auth.mercadolibre.com.mx", false},
	} {
		provider, err := Preset(row.provider, row.country)
		require.NoError(t, err)
		client := NewClient(Config{ClientID: "493", RedirectURI: "https://shop.example.com/cb", Provider: provider, PKCE: row.pkce})
		address, err := url.Parse(client.AuthorizationURL(state, verifier))
		require.NoError(t, err)
		require.Equal(t, "https://"+row.host+"/authorization", address.Scheme+"://"+address.Host+address.Path)
		want := url.Values{
			"client_id": {"493"}, "response_type": {"code"}, "state": {state},
			"redirect_uri": {"https://shop.example.com/cb"},
		}
		if row.provider != "mercadolibre" {
			want.Set("platform_id", "mp")
		}
		if row.pkce {
			want.Set("code_challenge", oauth2.S256ChallengeFromVerifier(verifier.Reveal()))
			want.Set("code_challenge_method", "S256")
		}
		require.Equal(t, want, address.Query())
		require.NotContains(t, address.String(), verifier.Reveal())
	}
}

func TestAnAuthorizationURLKeepsTheEndpointsOwnQuery(t *testing.T) {
	client := NewClient(Config{ClientID: "1", Provider: Provider{AuthorizeURL: "http://127.0.0.1:9100/authorization?site=x"}})
	address, err := url.Parse(client.AuthorizationURL("s", secret.Secret{}))
	require.NoError(t, err)
	require.Equal(t, "x", address.Query().Get("site"))
	require.Equal(t, "s", address.Query().Get("state"))
	require.NotContains(t, address.Query(), "platform_id")
}

func TestAnAttemptWithoutAVerifierHasNoChallenge(t *testing.T) {
	address, err := url.Parse(newTestClient(t, "").AuthorizationURL("s", secret.Secret{}))
	require.NoError(t, err)
	require.NotContains(t, address.Query(), "code_challenge", "the exchange would have no verifier to send")
	require.NotContains(t, address.Query(), "code_challenge_method")
}

func TestAnUnknownPresetIsToldWhatMayBeWritten(t *testing.T) {
	for _, row := range []struct{ provider, country, says string }{
		{"mercadopagos", "", `unknown provider "mercadopagos": write mercadopago or mercadolibre`},
		{"mercadopago", "AR", `unknown country "AR": write one of ar, br, cl, co, mx, pe, uy`},
		{"mercadolibre", "es", `unknown country "es": write one of ar, br, cl, co, mx, pe, uy`},
		{"mercadolibre", "", "mercadolibre needs a country: write one of ar, br, cl, co, mx, pe, uy"},
	} {
		_, err := Preset(row.provider, row.country)
		require.EqualError(t, err, row.says)
	}
}

func TestVerifiersAreLongAndNeverTheSame(t *testing.T) {
	a, b := NewVerifier(), NewVerifier()
	require.False(t, a.Equal(b))
	require.Regexp(t, `^[A-Za-z0-9_-]{43}$`, a.Reveal())
}

func TestAClientTellsHowItIsConfigured(t *testing.T) {
	client := newTestClient(t, "https://api.example.com/")
	require.Equal(t, "4934588586838432", client.ClientID())
	require.Equal(t, "https://shop.example.com/connect/callback", client.RedirectURI())
	require.Equal(t, "https://api.example.com", client.Provider().API)
	require.True(t, client.PKCE())
	require.Equal(t, 10*time.Second, client.Timeout())
	require.Equal(t, 20*time.Second, NewClient(Config{}).Timeout())
}

func TestEachGrantSendsItsFieldsAndNoOthers(t *testing.T) {
	verifier, none := NewVerifier(), secret.Secret{}
	refresh := secret.New("TG-refresh+/=&")
	exchange := func(verifier secret.Secret) func(*Client) error {
		return func(c *Client) error {
			_, err := c.Exchange(t.Context(), "TG-code", verifier)
			return err
		}
	}
	for name, row := range map[string]struct {
		testToken bool
		ask       func(*Client) error
		fields    map[string]string
	}{
		"exchange": {ask: exchange(verifier), fields: map[string]string{
			"grant_type": "authorization_code", "code": "TG-code", "code_verifier": verifier.Reveal(),
			"redirect_uri": "https://shop.example.com/connect/callback",
		}},
		"exchange without PKCE": {ask: exchange(none), fields: map[string]string{
			"grant_type": "authorization_code", "code": "TG-code",
			"redirect_uri": "https://shop.example.com/connect/callback",
		}},
		"exchange for test credentials": {testToken: true, ask: exchange(none), fields: map[string]string{
			"grant_type": "authorization_code", "code": "TG-code", "test_token": "true",
			"redirect_uri": "https://shop.example.com/connect/callback",
		}},
		"refresh": {testToken: true, ask: func(c *Client) error {
			_, err := c.Refresh(t.Context(), refresh)
			return err
		}, fields: map[string]string{"grant_type": "refresh_token", "refresh_token": refresh.Reveal()}},
		"client credentials": {testToken: true, ask: func(c *Client) error {
			_, err := c.ClientCredentials(t.Context())
			return err
		}, fields: map[string]string{"grant_type": "client_credentials"}},
	} {
		row.fields["client_id"] = "4934588586838432"
		row.fields["client_secret"] = "client-secret"
		for _, form := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				var got *http.Request
				var body string
				address := serve(t, func(w http.ResponseWriter, r *http.Request) {
					content, _ := io.ReadAll(r.Body)
					got, body = r, string(content)
					_, _ = io.WriteString(w, fullAnswer)
				})
				client := newTestClient(t, address, func(c *Config) {
					c.TestToken = row.testToken
					c.Provider.FormBody = form
				})
				require.NoError(t, row.ask(client))

				require.Equal(t, http.MethodPost, got.Method)
				require.Equal(t, "/oauth/token", got.RequestURI, "no query")
				require.Equal(t, "application/json", got.Header.Get("Accept"))
				require.Empty(t, got.Header.Get("Authorization"), "Basic is not supported")
				require.Equal(t, int64(len(body)), got.ContentLength)
				require.Equal(t, row.fields, fieldsOf(t, got.Header.Get("Content-Type"), body))
				require.Equal(t, form, strings.HasPrefix(got.Header.Get("Content-Type"), "application/x-www"))
			})
		}
	}
}

// fieldsOf reads a token request by its content type.
func fieldsOf(t *testing.T, contentType, body string) map[string]string {
	t.Helper()
	fields := make(map[string]string)
	switch contentType {
	case "application/json":
		require.NoError(t, json.Unmarshal([]byte(body), &fields))
	case "application/x-www-form-urlencoded":
		form, err := url.ParseQuery(body)
		require.NoError(t, err)
		for name, values := range form {
			require.Len(t, values, 1)
			fields[name] = values[0]
		}
	default:
		t.Fatalf("content type %q", contentType)
	}
	return fields
}

func TestNothingIsSentWhereThereIsNothingToSend(t *testing.T) {
	address := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") })
	client := newTestClient(t, address, func(c *Config) { c.Provider.Revokes = true })
	none := secret.Secret{}
	for name, ask := range map[string]func(*Client) error{
		"exchange": func(c *Client) error { _, err := c.Exchange(t.Context(), "", none); return err },
		"refresh":  func(c *Client) error { _, err := c.Refresh(t.Context(), none); return err },
		"me":       func(c *Client) error { _, err := c.Me(t.Context(), none); return err },
		"revoke":   func(c *Client) error { return c.Revoke(t.Context(), 1, none) },
	} {
		failure := requireError(t, ask(client))
		require.Equal(t, Refused, failure.Outcome, name)
		require.Equal(t, "not_sent", failure.Code, name)
	}
	broken := newTestClient(t, "http://[bad")
	_, err := broken.ClientCredentials(t.Context())
	require.EqualError(t, err, "provider: not_sent: the api endpoint is not a URL")
	_, err = broken.Me(t.Context(), secret.New("APP_USR-1"))
	require.EqualError(t, err, "provider: not_sent: the api endpoint is not a URL")
}

func TestTheNextClientSecretIsTriedOnlyAfterAnExplicitInvalidClient(t *testing.T) {
	const (
		invalid = `{"message":"invalid client_id or client_secret","error":"invalid_client"}`
		dead    = `{"error":"invalid_grant","message":"Error validating grant"}`
	)
	type answer struct {
		status int
		body   string
	}
	ok := answer{200, fullAnswer}
	for name, row := range map[string]struct {
		answers map[string]answer // by client secret
		tried   []string
		code    string
		outcome Outcome
	}{
		"the first works":        {answers: map[string]answer{"one": ok}, tried: []string{"one"}},
		"the last works":         {answers: map[string]answer{"one": {400, invalid}, "two": {401, invalid}, "three": ok}, tried: []string{"one", "two", "three"}},
		"none works":             {answers: map[string]answer{"one": {400, invalid}, "two": {400, invalid}, "three": {400, invalid}}, tried: []string{"one", "two", "three"}, code: "invalid_client", outcome: ApplicationFault},
		"a dead refresh token":   {answers: map[string]answer{"one": {400, dead}}, tried: []string{"one"}, code: "invalid_grant", outcome: GrantDead},
		"another fault":          {answers: map[string]answer{"one": {401, `{"error":"unauthorized_application"}`}}, tried: []string{"one"}, code: "unauthorized_application", outcome: ApplicationFault},
		"invalid_client in 500":  {answers: map[string]answer{"one": {500, invalid}}, tried: []string{"one"}, code: "server_error", outcome: Unknown},
		"invalid_client in 200":  {answers: map[string]answer{"one": {200, invalid}}, tried: []string{"one"}, code: "unreadable", outcome: Unknown},
		"rate limited":           {answers: map[string]answer{"one": {429, invalid}}, tried: []string{"one"}, code: "rate_limited", outcome: Refused},
		"the second is no proof": {answers: map[string]answer{"one": {400, invalid}, "two": {502, ""}}, tried: []string{"one", "two"}, code: "server_error", outcome: Unknown},
	} {
		t.Run(name, func(t *testing.T) {
			var tried []string
			address := serve(t, func(w http.ResponseWriter, r *http.Request) {
				var fields map[string]string
				_ = json.NewDecoder(r.Body).Decode(&fields)
				tried = append(tried, fields["client_secret"])
				answer := row.answers[fields["client_secret"]]
				w.WriteHeader(answer.status)
				_, _ = io.WriteString(w, answer.body)
			})
			client := newTestClient(t, address, func(c *Config) {
				c.ClientSecrets = []secret.Secret{secret.New("one"), secret.New("two"), secret.New("three")}
			})
			_, err := client.Refresh(t.Context(), secret.New("TG-r"))
			require.Equal(t, row.tried, tried)
			if row.code == "" {
				require.NoError(t, err)
				tried = nil
				_, err = client.Refresh(t.Context(), secret.New("TG-r"))
				require.NoError(t, err)
				require.Equal(t, row.tried[len(row.tried)-1:], tried, "the one that worked is tried first")
				return
			}
			failure := requireError(t, err)
			require.Equal(t, row.code, failure.Code)
			require.Equal(t, row.outcome, failure.Outcome)
		})
	}
}

func TestAClientWithoutSecretsIsAFaultOfTheApplication(t *testing.T) {
	client := newTestClient(t, "http://127.0.0.1:1", func(c *Config) { c.ClientSecrets = nil })
	_, err := client.ClientCredentials(t.Context())
	failure := requireError(t, err)
	require.Equal(t, ApplicationFault, failure.Outcome)
	require.Equal(t, "provider: invalid_client: no client secret is configured", failure.Error())
}
