package oauth

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

func TestMeTellsWhoseATokenIs(t *testing.T) {
	for body, want := range map[string]User{
		`{"id":241983636,"nickname":"TIENDA","country_id":"AR","site_id":"MLA","email":"a@example.com"}`: {ID: 241983636, Nickname: "TIENDA", Country: "AR"},
		`{"id":"2419836367"}`:                                               {ID: 2419836367},
		`{"id":7,"nickname":null,"country_id":5}`:                           {ID: 7},
		`{"id":7,"nickname":"a\u202e\nb","country_id":"Argentina"}`:         {ID: 7, Nickname: "a b"},
		`{"id":7,"nickname":"` + strings.Repeat("n", 200) + `"}`:            {ID: 7, Nickname: strings.Repeat("n", maxNickname-1) + "…"},
		`{"id":7,"nickname":"<b>x</b>","country_id":"ar","tags":["a","b"]}`: {ID: 7, Nickname: "<b>x</b>"},
		`{"id":7,"country_id":"aR"}`:                                        {ID: 7},
		`{"id":7,"country_id":"Ar"}`:                                        {ID: 7},
		`{"id":7,"country_id":"A1"}`:                                        {ID: 7},
	} {
		var got *http.Request
		address := serve(t, func(w http.ResponseWriter, r *http.Request) {
			got = r
			_, _ = io.WriteString(w, body)
		})
		user, err := newTestClient(t, address).Me(t.Context(), secret.New("APP_USR-1"))
		require.NoError(t, err, body)
		require.Equal(t, want, user)
		require.Equal(t, "GET /users/me", got.Method+" "+got.RequestURI)
		require.Equal(t, "Bearer APP_USR-1", got.Header.Get("Authorization"))
		require.Equal(t, "application/json", got.Header.Get("Accept"))
	}
}

func TestAFailedMeIsNoVerdict(t *testing.T) {
	for _, row := range []struct {
		status  int
		body    string
		outcome Outcome
		code    string
	}{
		{200, `{"nickname":"X"}`, Unknown, "unreadable"},
		{200, `{"id":0}`, Unknown, "unreadable"},
		{200, `<html>`, Unknown, "unreadable"},
		{200, strings.Repeat(" ", maxBody) + `{"id":7}`, Unknown, "unreadable"},
		{400, `{"error":"invalid_grant"}`, Unknown, "unexpected"},
		{401, `{"error":"invalid_client","message":"invalid access token"}`, Unknown, "unauthorized"},
		{403, `{"code":"PA_UNAUTHORIZED_RESULT_FROM_POLICIES"}`, Unknown, "forbidden"},
		{429, ``, Refused, "rate_limited"},
		{500, ``, Unknown, "server_error"},
	} {
		address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(row.status)
			_, _ = io.WriteString(w, row.body)
		})
		user, err := newTestClient(t, address).Me(t.Context(), secret.New("APP_USR-1"))
		failure := requireError(t, err)
		require.Zero(t, user)
		require.Equal(t, row.outcome, failure.Outcome, row.body)
		require.Equal(t, row.code, failure.Code, row.body)
	}
}

func TestACallWithoutAnAnswerNamesTheCauseAndIsNoVerdict(t *testing.T) {
	closed := closedAddress(t)
	broken := func(err error) http.RoundTripper {
		return roundTripper(func(*http.Request) (*http.Response, error) { return nil, err })
	}
	for name, row := range map[string]struct {
		address   string
		transport http.RoundTripper
		code      string
	}{
		"nobody listens": {address: "https://" + closed, code: "dial"},
		"nobody listens at the proxy": {address: "https://api.example.com", code: "dial", transport: &http.Transport{
			Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: closed}),
		}},
		"the connection was reset": {transport: broken(&net.OpError{Op: "read", Err: errors.New("connection reset by peer")}), code: "cut"},
		"the connection ended":     {transport: broken(io.ErrUnexpectedEOF), code: "cut"},
	} {
		client := newTestClient(t, row.address, func(c *Config) {
			c.Provider.Revokes = true
			c.Transport = row.transport
		})
		user, err := client.Me(t.Context(), secret.New("APP_USR-1"))
		require.Zero(t, user)
		for _, err := range []error{err, client.Revoke(t.Context(), 7, secret.New("APP_USR-1"))} {
			failure := requireError(t, err)
			require.Equal(t, Unknown, failure.Outcome, name)
			require.Equal(t, row.code, failure.Code, name)
			require.Zero(t, failure.Status, name)
		}
	}
}

func TestRevokeAsksWhereTheProviderCanBeAsked(t *testing.T) {
	var asked []string
	status := http.StatusOK
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.RequestURI+" "+r.Header.Get("Authorization"))
		w.WriteHeader(status)
	})
	token := secret.New("APP_USR-1")
	require.NoError(t, newTestClient(t, address).Revoke(t.Context(), 7, token))
	require.Empty(t, asked, "mercadopago has no such endpoint")

	client := newTestClient(t, address, func(c *Config) { c.Provider.Revokes = true })
	require.NoError(t, client.Revoke(t.Context(), 7, token))
	require.Equal(t, []string{"DELETE /users/7/applications/4934588586838432 Bearer APP_USR-1"}, asked)

	status = http.StatusForbidden
	require.Equal(t, "forbidden", requireError(t, client.Revoke(t.Context(), 7, token)).Code)
}

func FuzzMe(f *testing.F) {
	f.Add(`{"id":7,"nickname":"X","country_id":"AR"}`)
	f.Add(`{"id":"7","nickname":["X"]}`)
	f.Fuzz(func(t *testing.T, body string) {
		client := newTestClient(t, "http://127.0.0.1:1", func(c *Config) {
			c.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
				return &http.Response{StatusCode: 200, Header: make(http.Header), Body: io.NopCloser(strings.NewReader(body))}, nil
			})
		})
		user, err := client.Me(t.Context(), secret.New("APP_USR-1"))
		if err != nil {
			requireError(t, err)
			return
		}
		require.Positive(t, user.ID)
		require.LessOrEqual(t, len([]rune(user.Nickname)), maxNickname)
		require.Equal(t, clean(user.Nickname), user.Nickname)
		require.Contains(t, []int{0, 2}, len(user.Country))
	})
}
