package connect

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// withSession returns a request with a flow's session cookie.
func withSession(t testing.TB, f *Flow, c tokenstore.Connection) *http.Request {
	keyring, err := f.source.Keyring(t.Context())
	require.NoError(t, err)
	w := httptest.NewRecorder()
	(&turn{f: f, w: w, keyring: keyring, now: f.now()}).startSession(c)
	r := httptest.NewRequest("GET", shop+"/", nil)
	r.Header.Set("Cookie", "theme=dark; "+strings.Split(w.Header().Get("Set-Cookie"), ";")[0]+"; other=1")
	return r
}

func TestASessionIsOfOneApplicationAndEndsInTime(t *testing.T) {
	source := newMemory(t)
	now := time.Now()
	flow := func(application string) *Flow {
		f, err := New(Config{
			Application: application, Client: client(shop + "/connect/callback"), Source: source, Prefix: "/connect",
			SessionTTL: time.Hour, Now: func() time.Time { return now },
		})
		require.NoError(t, err)
		return f
	}
	f := flow("default")
	r := withSession(t, f, tokenstore.Connection{ID: "0123456789abcdef", Seller: "241983636"})
	require.Contains(t, r.Header.Get("Cookie"), "__Host-mp_session=")
	seller, connection, err := f.Session(r)
	require.NoError(t, err)
	require.Equal(t, []string{"241983636", "0123456789abcdef"}, []string{seller, connection})

	other := flow("brasil")
	moved := r.Clone(t.Context())
	moved.Header.Set("Cookie", strings.Replace(r.Header.Get("Cookie"), f.sessionCookie, other.sessionCookie, 1))
	for name, c := range map[string]struct {
		f *Flow
		r *http.Request
	}{
		"another application":               {other, r},
		"moved to another application":      {other, moved},
		"without a cookie":                  {f, httptest.NewRequest("GET", shop, nil)},
		"cut":                               {f, cookieRequest(f.sessionCookie + "=AAAA")},
		"not base64":                        {f, cookieRequest(f.sessionCookie + "=%%%")},
		"too long":                          {f, cookieRequest(f.sessionCookie + "=" + strings.Repeat("A", 2000))},
		"a name that only begins like ours": {f, cookieRequest(strings.Replace(r.Header.Get("Cookie"), "session=", "session2=", 1))},
	} {
		seller, _, err := c.f.Session(c.r)
		require.NoError(t, err, name)
		require.Empty(t, seller, name)
	}

	now = now.Add(time.Hour + time.Second)
	seller, _, err = f.Session(r)
	require.NoError(t, err)
	require.Empty(t, seller, "it ends in time")
}

func cookieRequest(cookie string) *http.Request {
	r := httptest.NewRequest("GET", shop, nil)
	r.Header.Set("Cookie", cookie)
	return r
}

func TestCookiesAreOutOfReach(t *testing.T) {
	f := shopFlow(t)
	w := httptest.NewRecorder()
	f.setCookie(w, f.sessionCookie, "value", time.Hour)
	require.Equal(t, "__Host-mp_session=value; Path=/; Max-Age=3600; HttpOnly; Secure; SameSite=Lax", w.Header().Get("Set-Cookie"))
	f.EndSession(w)
	require.Equal(t, []string{"__Host-mp_session=; Path=/; Max-Age=0; HttpOnly; Secure; SameSite=Lax"}, w.Header()["Set-Cookie"])

	plain, err := New(Config{Client: client("http://127.0.0.1:9000/connect/callback"), Source: newMemory(t), Prefix: "/connect"})
	require.NoError(t, err)
	w = httptest.NewRecorder()
	plain.setCookie(w, plain.sessionCookie, "value", time.Hour)
	require.Equal(t, "mp_session=value; Path=/; Max-Age=3600; HttpOnly; SameSite=Lax", w.Header().Get("Set-Cookie"))
}

func TestOurCookiesAreStrippedAndNobodyElses(t *testing.T) {
	f := shopFlow(t)
	id := f.attemptID(strings.Repeat("s", stateSize))
	brasil := "__Host-mp_session_" + strings.Repeat("x", sessionTagSize)
	for given, want := range map[string]string{
		"":                        "",
		"a=b":                     "a=b",
		"a=b; mp_theme=dark":      "a=b; mp_theme=dark",
		"__Host-mp_session=x":     "",
		"mp_session=x; a=b":       "a=b",
		"a=b;__Host-mp_session=x": "a=b",
		brasil + "=x; c=d":        "c=d",
		"a=b; __Host-mp_" + id + "=x; mp_" + id + "=y; c=d": "a=b; c=d",
		`a="x; __Host-mp_session=y"`:                        `a="x`,
		"mp_0123456789abcdef0123456789abcdef_mixpanel=1":    "mp_0123456789abcdef0123456789abcdef_mixpanel=1",
		"__Host-mp_session":                                 "",
		" __Host-mp_session = x ;a=b":                       "a=b",
		"a=b;; __Host-mp_session=x; ;c=d;":                  "a=b; c=d",
		"session=a; mp_session=x":                           "session=a",
		"0123456789abcdef=a; mp_session=x":                  "0123456789abcdef=a",
		"mp_session_id=a":                                   "mp_session_id=a",
		"mp_sessions0123456789a=a":                          "mp_sessions0123456789a=a",
	} {
		h := http.Header{}
		if given != "" {
			h["Cookie"] = []string{given}
		}
		before := h["Cookie"]
		(*Flow)(nil).StripCookies(h)
		require.Equal(t, want, h.Get("Cookie"), given)
		require.Equal(t, want != "", h["Cookie"] != nil, "no header without a cookie: %s", given)
		if given != "" {
			require.Equal(t, given, before[0], "the slice that was there stays as it was")
		}
	}
	h := http.Header{"Cookie": {"a=b", "__Host-mp_session=x", "c=d"}}
	f.StripCookies(h)
	require.Equal(t, []string{"a=b", "c=d"}, h["Cookie"])

	own := []string{"mp_session=the app's", "mp_user_preferences=dark"}
	h = http.Header{"Cookie": own}
	f.StripCookies(h)
	require.Equal(t, own, h["Cookie"], "ours have the prefix on a secure site, so these are the app's")

	plain, err := New(Config{Client: client("http://127.0.0.1:9000/connect/callback"), Source: newMemory(t), Prefix: "/connect"})
	require.NoError(t, err)
	h = http.Header{"Cookie": {"mp_session=x; a=b"}}
	plain.StripCookies(h)
	require.Equal(t, []string{"a=b"}, h["Cookie"], "on plain http ours have no prefix")
}

func TestOpeningASessionIsCheap(t *testing.T) {
	f := shopFlow(t)
	r := withSession(t, f, tokenstore.Connection{ID: strings.Repeat("c", 32), Seller: "241983636"})
	allocations := testing.AllocsPerRun(100, func() {
		if seller, _, err := f.Session(r); err != nil || seller == "" {
			t.Fatal("no session")
		}
	})
	require.LessOrEqual(t, allocations, 1.0, "it is decrypted once")
}

func BenchmarkSession(b *testing.B) {
	f := shopFlow(b)
	r := withSession(b, f, tokenstore.Connection{ID: strings.Repeat("c", 32), Seller: "241983636"})
	b.ReportAllocs()
	for b.Loop() {
		if seller, _, err := f.Session(r); err != nil || seller == "" {
			b.Fatal("no session")
		}
	}
}

func connectionOf(seller string) tokenstore.Connection {
	return tokenstore.Connection{ID: "0123456789abcdef", Seller: seller}
}

func TestAnEndlessSessionCookieIsNotDecoded(t *testing.T) {
	f := shopFlow(t)
	r := withSession(t, f, tokenstore.Connection{ID: "c", Seller: strings.Repeat("x", maxSessionCookie)})
	seller, _, err := f.Session(r)
	require.NoError(t, err)
	require.Empty(t, seller)
}

func TestASessionOfAnEarlierConnectionNamesNobody(t *testing.T) {
	s := newSite(t, Config{})
	lost, own := s.browser(""), s.browser("")
	lost.comeBack(lost.begin(""), tienda())
	own.comeBack(own.begin(""), tienda())
	own.visit("/connect/disconnect", "same-origin")
	own.press("")
	own.comeBack(own.begin(""), tienda()) // connected anew
	lost.visit("/connect/disconnect", "same-origin")
	require.Equal(t, "No account is connected", lost.title())
	require.NotEmpty(t, s.source.connection("241983636").ID)
}

func TestTwoApplicationsOnOneHostHaveTheirOwnSessions(t *testing.T) {
	s := newSite(t, Config{Application: "brasil"})
	b := s.browser("")
	b.comeBack(b.begin(""), outra())
	s.config.Application = "default"
	s.restart()
	b.comeBack(b.begin(""), tienda())
	require.Equal(t, "Account connected", b.title(), "the other application's session is not asked about")
	require.Equal(t, []string{"241983636", "connection-2"}, sessionOf(t, b))
	s.config.Application = "brasil"
	s.restart()
	require.Equal(t, []string{"998877665544", "connection-1"}, sessionOf(t, b))
}
