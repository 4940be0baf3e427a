package sandbox_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

const (
	clientID     = "4934588586838432"
	clientSecret = "the application's secret"
	redirectURI  = "https://shop.example.com/connect/callback"
	aurora       = 5411000101
	porto        = 5511000201
	verifier     = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
)

// bench is a sandbox that is served, with a clock of its own.
type bench struct {
	*sandbox.Sandbox
	t   *testing.T
	url string

	mu  sync.Mutex
	now time.Time
}

func (b *bench) later(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

func open(t *testing.T, change ...func(*sandbox.Options)) *bench {
	b := &bench{t: t, now: time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)}
	options := sandbox.Options{
		Applications: []sandbox.Application{
			{Name: "Demo shop", ClientID: clientID, ClientSecret: clientSecret, RedirectURIs: []string{redirectURI}},
			{ClientID: "2222", ClientSecret: "other secret", RedirectURIs: []string{redirectURI}, PKCE: true},
		},
		Now: func() time.Time {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.now
		},
	}
	for _, c := range change {
		c(&options)
	}
	b.Sandbox = sandbox.New(options)
	server := httptest.NewServer(b)
	t.Cleanup(server.Close)
	b.url = server.URL
	return b
}

func authorizationURL(change url.Values) string {
	query := url.Values{
		"client_id": {clientID}, "response_type": {"code"}, "platform_id": {"mp"}, "state": {"s t&te"},
		"redirect_uri": {redirectURI},
	}
	maps.Copy(query, change)
	return "https://auth.example.com/authorization?" + query.Encode()
}

func challenge() string {
	sum := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// code walks the consent page and gives the code.
func (b *bench) code(userID int64, change url.Values) string {
	b.t.Helper()
	callback, err := b.Approve(authorizationURL(change), userID)
	require.NoError(b.t, err)
	parsed, err := url.Parse(callback)
	require.NoError(b.t, err)
	return parsed.Query().Get("code")
}

type answer map[string]any

func (a answer) text(name string) string { s, _ := a[name].(string); return s }

// token sends a token request of the first application, as JSON.
func (b *bench) token(fields map[string]string) (int, answer) {
	b.t.Helper()
	all := map[string]string{"client_id": clientID, "client_secret": clientSecret}
	for name, value := range fields {
		if all[name] = value; value == "-" {
			delete(all, name)
		}
	}
	body, err := json.Marshal(all)
	require.NoError(b.t, err)
	response, err := http.Post(b.url+"/oauth/token", "application/json", bytes.NewReader(body))
	require.NoError(b.t, err)
	return read(b.t, response)
}

func read(t *testing.T, response *http.Response) (int, answer) {
	t.Helper()
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	var a answer
	require.NoError(t, json.Unmarshal(text, &a), string(text))
	return response.StatusCode, a
}

func (b *bench) exchange(code string) (int, answer) {
	b.t.Helper()
	return b.token(map[string]string{"grant_type": "authorization_code", "code": code, "redirect_uri": redirectURI})
}

func (b *bench) connect(userID int64) answer {
	b.t.Helper()
	status, a := b.exchange(b.code(userID, nil))
	require.Equal(b.t, http.StatusOK, status, a)
	return a
}

func (b *bench) refresh(token string) (int, answer) {
	b.t.Helper()
	return b.token(map[string]string{"grant_type": "refresh_token", "refresh_token": token})
}

func (b *bench) api(method, path, token, body string) (int, answer) {
	b.t.Helper()
	request, err := http.NewRequest(method, b.url+path, strings.NewReader(body))
	require.NoError(b.t, err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(b.t, err)
	return read(b.t, response)
}
