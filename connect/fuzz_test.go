package connect

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

func FuzzCallbackQuery(f *testing.F) {
	state := base64url.EncodeToString([]byte(strings.Repeat("s", stateSize)))
	for _, q := range []string{
		"", "code=TG-1&state=" + state, "error=access_denied&state=" + state, "error=access_denied", "code=a&code=b&state=" + state,
		"code=a&state=" + state + "&iss=https%3A%2F%2Fissuer.example", "code=%zz", "code=a;state=b", "state=" + state + "=", "code=%00&state=" + state,
	} {
		f.Add(q)
	}
	flow := shopFlow(f)
	source := flow.source.(*memory)
	f.Fuzz(func(t *testing.T, query string) {
		r := httptest.NewRequest("GET", shop+"/connect/callback", nil)
		w := httptest.NewRecorder()
		flow.Serve(w, r, PageCallback, &url.URL{Path: "/connect/callback", RawQuery: query}, "")
		require.GreaterOrEqual(t, w.Code, 400, "without an attempt nothing goes on")
		require.Less(t, w.Code, 600)
		require.Empty(t, w.Header()["Set-Cookie"])
		require.Empty(t, w.Header().Get("Location"))
		require.Zero(t, source.exchanges()+source.written())
		values, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		if got, err := parseAnswer(values); err == nil {
			require.NotEqual(t, got.code == "", got.err == "", "one of the two")
			require.True(t, got.state != "" || got.err != "")
		}
	})
}

func FuzzAttemptCookie(f *testing.F) {
	flow := shopFlow(f)
	keyring, _ := flow.source.Keyring(f.Context())
	turnOf := func(cookie string) *turn {
		r := httptest.NewRequest("GET", shop, nil)
		r.Header["Cookie"] = []string{cookie}
		return &turn{f: flow, w: httptest.NewRecorder(), r: r, keyring: keyring, now: time.Now()}
	}
	whole := turnOf("")
	a := whole.newAttempt("shop-42", "/x")
	whole.put(a)
	id := flow.attemptID(a.state)
	f.Add(strings.Split(whole.w.Header().Get("Set-Cookie"), ";")[0])
	f.Add(flow.attemptCookie(id) + "=")
	f.Add(flow.attemptCookie(id) + "=AAAA")
	f.Add("; ;=;" + flow.attemptCookie(id))
	f.Fuzz(func(t *testing.T, cookie string) {
		got, err := turnOf(cookie).open(id)
		if err == nil {
			require.Equal(t, a.state, got.state)
			require.Equal(t, a.seller, got.seller)
		}
		other := turnOf(cookie)
		other.makeRoom()
		require.LessOrEqual(t, len(other.heldAttempts()), len(cookie)/len(flow.cookiePrefix)+1)
	})
}

func FuzzAttemptText(f *testing.F) {
	a := &attempt{
		stage: consented, at: time.Unix(1700000000, 0), state: strings.Repeat("s", stateSize), seller: "shop-42", returnTo: "/x",
		link: strings.Repeat("l", linkIDSize), linkEnds: time.Unix(1800000000, 0), linkUsed: true, code: "TG-1", verifier: "v", connection: "c",
		consent: tokensource.Consent{Authorization: 3, Nickname: "ÑANDÚ", Country: "AR", Offline: true},
	}
	a.consent.Account.UserID, a.consent.Account.Live = 1<<62, true
	got, err := unpackAttempt(string(a.pack()))
	require.NoError(f, err)
	require.Equal(f, a, got)
	f.Add(string(a.pack()))
	f.Add("")
	f.Add("\x01\x01\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
	f.Fuzz(func(t *testing.T, text string) {
		a, err := unpackAttempt(text)
		if err != nil {
			return
		}
		again, err := unpackAttempt(string(a.pack()))
		require.NoError(t, err)
		require.Equal(t, a.state, again.state)
		require.Equal(t, a.seller, again.seller)
		require.Equal(t, a.consent, again.consent)
	})
}

func FuzzSessionText(f *testing.F) {
	f.Add(string(session{ends: time.Unix(1800000000, 0), connection: "c", seller: "1"}.pack()))
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := unpackSession(text)
		if err != nil {
			return
		}
		again, err := unpackSession(string(s.pack()))
		require.NoError(t, err)
		require.Equal(t, s, again)
		require.NotEmpty(t, s.seller)
	})
}

func FuzzSessionCookie(f *testing.F) {
	flow := shopFlow(f)
	r := withSession(f, flow, connectionOf("241983636"))
	whole := r.Header.Get("Cookie")
	f.Add(whole)
	f.Add(flow.sessionCookie + "=AAAA")
	f.Add(flow.sessionCookie + "=" + strings.Repeat("A", 200))
	f.Fuzz(func(t *testing.T, cookie string) {
		h := http.Header{"Cookie": {cookie}}
		seller, _, err := flow.Session(&http.Request{Header: h})
		require.NoError(t, err)
		if seller != "" {
			require.Equal(t, "241983636", seller)
		}
		flow.StripCookies(h)
		left := &http.Request{Header: h}
		for _, c := range left.Cookies() {
			require.False(t, isOurCookie(c.Name, flow.secure), cookie)
		}
	})
}

func FuzzLink(f *testing.F) {
	flow := shopFlow(f)
	keyring, _ := flow.source.Keyring(f.Context())
	whole := link{id: strings.Repeat("l", linkIDSize), ends: time.Unix(1800000000, 0), seller: "shop-42", returnTo: "/x"}
	f.Add(flow.sealLink(keyring, whole), string(whole.pack()))
	f.Add("", "")
	f.Add("AAAA", "\x01\x01\x01")
	f.Fuzz(func(t *testing.T, token, text string) {
		if got, err := flow.openLink(keyring, token); err == nil {
			require.Equal(t, whole, got)
		}
		if l, err := unpackLink(text); err == nil {
			again, err := unpackLink(string(l.pack()))
			require.NoError(t, err)
			require.Equal(t, l, again)
		}
	})
}
