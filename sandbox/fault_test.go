package sandbox_test

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// post sends a refresh and tells what came of it on the wire.
func (b *bench) post(refreshToken string) (*http.Response, string, error) {
	b.t.Helper()
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	response, err := client.PostForm(b.url+"/oauth/token", url.Values{
		"client_id": {clientID}, "client_secret": {clientSecret}, "grant_type": {"refresh_token"}, "refresh_token": {refreshToken},
	})
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	return response, string(text), err
}

func TestFaultsAnswerAsTheyDoInProduction(t *testing.T) {
	for kind, test := range map[sandbox.FaultKind]struct {
		status            int
		contentType, body string
	}{
		sandbox.RateLimited:     {429, "application/json; charset=utf-8", `{"errorKey":"local_rate_limited"}`},
		sandbox.RateLimitedText: {429, "text/plain; charset=utf-8", `local_rate_limited`},
		sandbox.ServerError:     {500, "application/json; charset=utf-8", `"internal_error"`},
		sandbox.HTML:            {502, "text/html; charset=utf-8", `<h1>502 Bad Gateway</h1>`},
		sandbox.Empty:           {502, "", ``},
		sandbox.Redirected:      {307, "", ``},
		sandbox.InvalidClient:   {400, "application/json; charset=utf-8", `{"error":"invalid_client","message":"invalid client_id or client_secret"}`},
		sandbox.InvalidGrant:    {400, "application/json; charset=utf-8", `"error":"invalid_grant"`},
		sandbox.Unauthorized:    {401, "application/json; charset=utf-8", `"invalid access token"`},
		sandbox.LiveCredentials: {401, "application/json; charset=utf-8", `"Unauthorized use of live credentials"`},
		sandbox.Policy:          {403, "application/json; charset=utf-8", `"PA_UNAUTHORIZED_RESULT_FROM_POLICIES"`},
	} {
		t.Run(string(kind), func(t *testing.T) {
			b := open(t)
			token := b.connect(aurora).text("refresh_token")
			b.Fault(sandbox.Fault{Kind: kind, Grant: "refresh_token"})
			response, body, err := b.post(token)
			require.NoError(t, err)
			require.Equal(t, test.status, response.StatusCode)
			require.Equal(t, test.contentType, response.Header.Get("Content-Type"))
			require.Contains(t, body, test.body)
			require.Equal(t, kind == sandbox.RateLimited, response.Header.Get("Retry-After") == "1")
			require.Equal(t, 1, b.Stats().TokenRequests["refresh_token"][string(kind)])
			require.Equal(t, 1, b.Stats().Faults[kind])

			response, _, err = b.post(token)
			require.NoError(t, err)
			require.Equal(t, http.StatusOK, response.StatusCode, "it happens once, and has spent nothing")
		})
	}
}

func TestStatusOfAFaultCanBeChosen(t *testing.T) {
	b := open(t)
	b.Fault(sandbox.Fault{Kind: sandbox.HTML, Status: 200})
	response, body, err := b.post("any")
	require.NoError(t, err)
	require.Equal(t, 200, response.StatusCode)
	require.Contains(t, body, "<html>")
}

func TestCutBeforeHandlingSpendsNothing(t *testing.T) {
	b := open(t)
	token := b.connect(aurora).text("refresh_token")
	b.Fault(sandbox.Fault{Kind: sandbox.Cut, Grant: "refresh_token"})
	_, _, err := b.post(token)
	require.Error(t, err)
	response, _, err := b.post(token)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode)
}

func TestAnswerLostAfterRotatingBurnsTheRefreshToken(t *testing.T) {
	for _, fault := range []sandbox.Fault{
		{Kind: sandbox.Cut, After: true},
		{Kind: sandbox.Truncated},
		{Kind: sandbox.ServerError, After: true},
		{Kind: sandbox.HTML, After: true},
	} {
		t.Run(string(fault.Kind), func(t *testing.T) {
			b := open(t)
			token := b.connect(aurora).text("refresh_token")
			before := len(b.Issued())
			fault.Grant = "refresh_token"
			b.Fault(fault)
			_, body, _ := b.post(token)
			require.Len(t, b.Issued(), before+2)
			newest := b.Issued()[before:]
			require.NotContains(t, body, newest[1], "nobody has seen the new refresh token")

			response, body, err := b.post(token)
			require.NoError(t, err)
			require.Equal(t, http.StatusBadRequest, response.StatusCode, body)
			require.Equal(t, 1, b.Stats().RefreshReuse)
			require.Equal(t, 1, b.Stats().TokenRequests["refresh_token"]["ok"], "the lost one was carried out")
		})
	}
}

func TestTruncatedAnswerPromisesMoreThanItHolds(t *testing.T) {
	b := open(t)
	b.Fault(sandbox.Fault{Kind: sandbox.Truncated})
	response, body, err := b.post(b.connectedBefore(t))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.NotEmpty(t, body)
	require.Less(t, len(body), int(response.ContentLength))
}

// connectedBefore gives a refresh token without letting a pending fault see the
// request: the code is exchanged on a path the fault does not match.
func (b *bench) connectedBefore(t *testing.T) string {
	t.Helper()
	pending := b.Faults()
	b.ClearFaults()
	token := b.connect(aurora).text("refresh_token")
	for _, fault := range pending {
		b.Fault(fault)
	}
	return token
}

func TestFaultWaitsAsLongAsATestWants(t *testing.T) {
	for name, after := range map[string]bool{"before it is carried out": false, "after it was carried out": true} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			token := b.connect(aurora).text("refresh_token")
			before := len(b.Issued())
			reached, release := make(chan struct{}), make(chan struct{})
			b.Fault(sandbox.Fault{Kind: sandbox.Latency, Grant: "refresh_token", After: after, Wait: func(ctx context.Context) {
				close(reached)
				select {
				case <-release:
				case <-ctx.Done():
				}
			}})
			done := make(chan int)
			go func() {
				response, _, err := b.post(token)
				if err != nil {
					done <- 0
					return
				}
				done <- response.StatusCode
			}()
			<-reached
			require.Equal(t, after, len(b.Issued()) > before)
			close(release)
			require.Equal(t, http.StatusOK, <-done)
		})
	}
}

func TestFaultHitsOnlyWhatItIsAimedAt(t *testing.T) {
	b := open(t)
	mine, other := b.connect(aurora), b.connect(porto)
	b.Fault(sandbox.Fault{Kind: sandbox.ServerError, Path: "/v1/payments", UserID: aurora, Times: -1})
	for range 2 {
		status, _ := b.api("GET", "/v1/payments/1", mine.text("access_token"), "")
		require.Equal(t, http.StatusInternalServerError, status)
	}
	status, _ := b.api("GET", "/v1/payments/1", other.text("access_token"), "")
	require.Equal(t, http.StatusNotFound, status)
	status, _ = b.api("GET", "/users/me", mine.text("access_token"), "")
	require.Equal(t, http.StatusOK, status)

	b.ClearFaults()
	b.Fault(sandbox.Fault{Kind: sandbox.ServerError, Grant: "refresh_token", UserID: aurora, Times: 2})
	status, _ = b.refresh(other.text("refresh_token"))
	require.Equal(t, http.StatusOK, status)
	for _, want := range []int{500, 500, 200} {
		status, _ = b.refresh(mine.text("refresh_token"))
		require.Equal(t, want, status)
	}
	require.Empty(t, b.Faults())
}

func TestNonsensicalFaultIsRefused(t *testing.T) {
	b := open(t)
	for _, fault := range []sandbox.Fault{
		{Kind: "fire"},
		{Kind: sandbox.Latency},
		{Kind: sandbox.Cut, Delay: -1},
		{Kind: sandbox.HTML, Status: 99},
		{Kind: sandbox.Cut, Grant: "password"},
	} {
		require.Panics(t, func() { b.Fault(fault) }, fault)
	}
}

func TestDelayedAnswerComesLate(t *testing.T) {
	b := open(t)
	b.Fault(sandbox.Fault{Kind: sandbox.Latency, Delay: sandbox.Duration(20 * time.Millisecond)})
	start := time.Now()
	status, _ := b.api("GET", "/users/me", "", "")
	require.Equal(t, http.StatusUnauthorized, status)
	require.GreaterOrEqual(t, time.Since(start), 20*time.Millisecond)
}

func TestJournalTellsWhatWasAskedAndNoSecret(t *testing.T) {
	b := open(t)
	pair := b.connect(aurora)
	_, _ = b.refresh(pair.text("refresh_token"))
	_, _ = b.refresh(pair.text("refresh_token"))
	_, _ = b.api("GET", "/users/me?access_token="+pair.text("access_token"), "", "")
	requests := b.Requests()
	require.Len(t, requests, 4)
	require.True(t, requests[0].TokenInQuery)
	require.Equal(t, "the refresh token was used before", requests[1].Note)
	require.Equal(t, []string{"client_id", "client_secret", "grant_type", "refresh_token"}, requests[1].Fields)
	response, err := http.Get(b.url + "/_sandbox/api/state")
	require.NoError(t, err)
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	page, err := http.Get(b.url + "/_sandbox/")
	require.NoError(t, err)
	defer page.Body.Close()
	html, _ := io.ReadAll(page.Body)
	for _, secret := range append(b.Issued(), clientSecret) {
		require.NotContains(t, string(text), secret)
		require.NotContains(t, string(html), secret)
	}
	require.Contains(t, string(html), "the refresh token was used before")
}
