package sandbox_test

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

func (b *bench) control(method, path, body string, header ...string) (int, string) {
	b.t.Helper()
	request, err := http.NewRequest(method, b.url+"/_sandbox/"+path, strings.NewReader(body))
	require.NoError(b.t, err)
	for i := 0; i < len(header); i += 2 {
		if header[i] == "Host" {
			request.Host = header[i+1]
		}
		request.Header.Set(header[i], header[i+1])
	}
	response, err := browser().Do(request)
	require.NoError(b.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(b.t, err)
	return response.StatusCode, string(text)
}

func TestControlAPIDoesWhatTheMethodsDo(t *testing.T) {
	b := open(t)
	do := func(method, path, body string) {
		t.Helper()
		status, text := b.control(method, "api/"+path, body)
		require.Equal(t, http.StatusNoContent, status, text)
	}
	do("POST", "settings", `{"access_token_life":"90s","reuse_revokes":true}`)
	require.Equal(t, sandbox.Duration(90*time.Second), b.Settings().AccessTokenLife)
	require.Equal(t, sandbox.Duration(10*time.Minute), b.Settings().CodeLife, "what is not named stays")
	do("POST", "settings", `{"access_token_life":"180d"}`)
	require.True(t, b.Settings().ReuseRevokes)

	do("POST", "faults", `{"kind":"cut","grant":"refresh_token","after":true,"times":2,"delay":"1s"}`)
	require.Equal(t, []sandbox.Fault{
		{Kind: sandbox.Cut, Grant: "refresh_token", After: true, Times: 2, Delay: sandbox.Duration(time.Second)},
	}, b.Faults())
	do("DELETE", "faults", "")
	require.Empty(t, b.Faults())

	pair := b.connect(aurora)
	do("POST", "accounts/5411000101/kill-access-tokens", "")
	_, ok := b.AccessTokenOf(pair.text("access_token"))
	require.False(t, ok)
	do("POST", "accounts/5411000101/revoke", "")
	status, _ := b.refresh(pair.text("refresh_token"))
	require.Equal(t, http.StatusBadRequest, status)

	do("POST", "applications/"+clientID, `{"pkce":true}`)
	_, a := b.exchange(b.code(aurora, nil))
	require.Equal(t, "code_verifier is a required parameter", a.text("message"))

	status, text := b.control("GET", "api/state", "")
	require.Equal(t, http.StatusOK, status)
	var state struct {
		Applications []sandbox.Application
		Accounts     []struct {
			UserID      int64            `json:"user_id"`
			Connections []map[string]any `json:"connections"`
		}
		Stats    sandbox.Stats
		Requests []sandbox.Request
	}
	require.NoError(t, json.Unmarshal([]byte(text), &state))
	require.Len(t, state.Applications, 2)
	require.Equal(t, []map[string]any{
		{"client_id": clientID, "live_mode": true, "refresh_token": false, "access_tokens": 0.0},
	}, state.Accounts[0].Connections)
	require.Equal(t, 1, state.Stats.TokenRequests["authorization_code"]["ok"])
	require.NotEmpty(t, state.Requests)

	do("POST", "reset", "")
	require.Empty(t, b.Requests())
	require.False(t, b.Settings().ReuseRevokes)
}

func TestControlAPISaysWhatIsWrong(t *testing.T) {
	b := open(t)
	for _, test := range []struct{ path, body, want string }{
		{"settings", `{"access_token_life":"soon"}`, `write it like`},
		{"settings", `{"access_token_life":"-1h"}`, "cannot be negative"},
		{"settings", `{"colour":"red"}`, "colour"},
		{"settings", `{} {}`, "more than one"},
		{"settings", `{"error_shape":"x"}`, "error_shape is"},
		{"faults", `{"kind":"fire"}`, "write one of"},
		{"faults", `{"kind":"latency"}`, "needs a delay"},
		{"accounts/1/revoke", ``, "no account"},
		{"accounts/x/revoke", ``, "no account"},
		{"applications/1", `{"pkce":true}`, "no application"},
		{"applications/" + clientID, `{}`, "say what is to change"},
	} {
		status, text := b.control("POST", "api/"+test.path, test.body)
		require.Equal(t, http.StatusBadRequest, status, test)
		require.Contains(t, text, test.want)
	}
}

func TestControlPageIsForThisMachineAndThisOriginAlone(t *testing.T) {
	b := open(t)
	for _, host := range []string{"localhost", "localhost:9100", "127.0.0.1:1", "[::1]:9100", "sandbox.localhost", "LOCALHOST."} {
		status, _ := b.control("GET", "", "", "Host", host)
		require.Equal(t, http.StatusOK, status, host)
	}
	for _, host := range []string{"evil.example", "127.0.0.1.evil.example", "192.168.1.2:9100", "localhost.evil.example"} {
		for _, path := range []string{"", "api/state"} {
			status, _ := b.control("GET", path, "", "Host", host)
			require.Equal(t, http.StatusForbidden, status, host)
		}
	}
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}, {"Origin", "null"},
	} {
		for _, path := range []string{"api/reset", ""} {
			status, _ := b.control("POST", path, "", header...)
			require.Equal(t, http.StatusForbidden, status, header)
		}
	}
}

func TestControlPageFormsDoWhatTheySay(t *testing.T) {
	b := open(t)
	submit := func(form url.Values) (int, string) {
		return b.control("POST", "", form.Encode(), "Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin")
	}
	pair := b.connect(aurora)
	for _, form := range []url.Values{
		{"action": {"settings"}, "code_life": {"1m"}, "access_token_life": {"2d"}, "short_refresh_answers": {"1"}},
		{"action": {"fault"}, "kind": {"cut"}, "target": {"grant refresh_token"}, "times": {"3"}, "after": {"1"}, "account": {"5411000101"}},
		{"action": {"fault"}, "kind": {"latency"}, "target": {"path /v1/payments"}, "times": {"-1"}, "delay": {"3s"}},
		{"action": {"kill"}, "account": {"5411000101"}},
		{"action": {"pkce"}, "client_id": {clientID}, "on": {"true"}},
	} {
		status, text := submit(form)
		require.Equal(t, http.StatusSeeOther, status, text)
	}
	require.Equal(t, sandbox.Duration(48*time.Hour), b.Settings().AccessTokenLife)
	require.Equal(t, sandbox.Duration(180*24*time.Hour), b.Settings().RefreshTokenLife)
	require.True(t, b.Settings().ShortRefreshAnswers)
	require.Equal(t, []sandbox.Fault{
		{Kind: sandbox.Cut, Grant: "refresh_token", UserID: aurora, Times: 3, After: true},
		{Kind: sandbox.Latency, Path: "/v1/payments", Times: -1, Delay: sandbox.Duration(3 * time.Second)},
	}, b.Faults())
	_, ok := b.AccessTokenOf(pair.text("access_token"))
	require.False(t, ok)
	status, page := b.control("GET", "", "")
	require.Equal(t, http.StatusOK, status)
	for _, want := range []string{"no real money", "Librería Aurora", `value="2d"`, "every time", "PKCE is mandatory"} {
		require.Contains(t, page, want)
	}
	for _, form := range []url.Values{{"action": {"clear"}}, {"action": {"revoke"}, "account": {"5411000101"}}} {
		status, _ = submit(form)
		require.Equal(t, http.StatusSeeOther, status)
	}
	require.Empty(t, b.Faults())
	for _, form := range []url.Values{
		{},
		{"action": {"fault"}},
		{"action": {"revoke"}},
		{"action": {"pkce"}},
		{"action": {"settings"}, "code_life": {"<b>"}},
		{"action": {"fault"}, "kind": {"cut"}, "times": {"many"}},
		{"action": {"fault"}, "kind": {"cut"}, "times": {"1"}, "account": {"x"}},
	} {
		status, page = submit(form)
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, page, `role="alert"`)
		require.NotContains(t, page, "<b>&#34;")
	}
	status, _ = submit(url.Values{"action": {"reset"}})
	require.Equal(t, http.StatusSeeOther, status)
	require.Empty(t, b.Requests())
}

func TestControlPageShowsNoSecretButItsOwn(t *testing.T) {
	for _, secret := range []string{sandbox.DefaultClientSecret, "somebody's"} {
		b := open(t, func(o *sandbox.Options) {
			o.Applications = []sandbox.Application{{ClientID: sandbox.DefaultClientID, ClientSecret: secret}}
		})
		_, page := b.control("GET", "", "")
		require.Equal(t, secret == sandbox.DefaultClientSecret, strings.Contains(page, "client_secret "+sandbox.DefaultClientSecret))
		require.NotContains(t, page, "somebody")
	}
}

func TestServeStopsCleanlyThoughARequestIsHeldUp(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	s := sandbox.New(sandbox.Options{})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- s.Serve(ctx, listener) }()

	reached := make(chan struct{})
	s.Fault(sandbox.Fault{Kind: sandbox.Latency, Wait: func(ctx context.Context) { close(reached); <-ctx.Done() }})
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	answered := make(chan error)
	go func() {
		response, err := client.Get("http://" + listener.Addr().String() + "/users/me")
		if err == nil {
			response.Body.Close()
		}
		answered <- err
	}()
	<-reached
	start := time.Now()
	cancel()
	require.NoError(t, <-served)
	require.Error(t, <-answered)
	require.Less(t, time.Since(start), 2*time.Second, "it does not wait for the fault to end")
}

func TestServeTellsWhyItCannotListen(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	require.Error(t, sandbox.New(sandbox.Options{}).Serve(t.Context(), listener))
}

func TestFrontDoorLeadsToTheControlPage(t *testing.T) {
	b := open(t)
	response, err := browser().Get(b.url)
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, "/_sandbox/", response.Header.Get("Location"))
	response, err = browser().Get(b.url + "/sandbox.css")
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, "text/css; charset=utf-8", response.Header.Get("Content-Type"))
}
