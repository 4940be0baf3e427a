package connect

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// What is sealed under a cookie's name is another's attempt: only a fault of ours
// could have put it there.
func TestAnAttemptUnderAnothersNameIsNotItsOwn(t *testing.T) {
	f := shopFlow(t)
	keyring := f.source.(*memory).keyring
	a := &attempt{stage: started, at: time.Now(), state: strings.Repeat("a", stateSize)}
	id := f.attemptID(strings.Repeat("b", stateSize))
	name := f.attemptCookie(id)
	r := httptest.NewRequest(http.MethodGet, shop+"/connect", nil)
	r.AddCookie(&http.Cookie{Name: name, Value: base64url.EncodeToString(keyring.Seal(secret.Attempt, a.pack(), f.names(name)...))})
	_, err := (&turn{f: f, r: r, keyring: keyring}).open(id)
	require.ErrorIs(t, err, secret.ErrOpen)
}

func TestWhatIsNoIDOfAnAttemptIsNone(t *testing.T) {
	f := shopFlow(t)
	id := f.attemptID(strings.Repeat("a", stateSize))
	require.True(t, isAttemptID(id))
	for _, letter := range []string{"A", "Z", "a", "z", "0", "9", "-", "_"} {
		require.True(t, isAttemptID(strings.Repeat(letter, idSize)), letter)
	}
	for _, bad := range []string{"", "a", id[1:], id + "a", id[1:] + ";", id[1:] + "/", id[1:] + "=", id[1:] + "[", id[1:] + "{"} {
		require.False(t, isAttemptID(bad), bad)
	}
}

func TestACodeThatWasSpentLeavesTheCookie(t *testing.T) {
	a := &attempt{stage: coded, state: strings.Repeat("a", stateSize), code: "TG-canary", verifier: "canary"}
	a.answered(tienda(), time.Now())
	require.NotContains(t, string(a.pack()), "canary")
}

func TestOnlyTheAttemptsOfItsOwnApplicationAreDropped(t *testing.T) {
	f := shopFlow(t)
	other, err := New(Config{Application: "brasil", Client: client(shop + "/connect/callback"), Source: newMemory(t), Prefix: "/connect"})
	require.NoError(t, err)
	random := strings.Repeat("0", idSize-tagSize)
	for name, c := range map[string]struct {
		cookie  string
		dropped bool
	}{
		"an attempt that does not open":      {f.cookiePrefix + f.tag + random, true},
		"an attempt of another application":  {other.cookiePrefix + other.tag + random, false},
		"a cookie without our prefix":        {f.tag + random, false},
		"a cookie that only begins like one": {f.cookiePrefix + f.tag + "_settings", false},
	} {
		r := httptest.NewRequest(http.MethodGet, shop+"/connect", nil)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		r.Header.Set("Cookie", c.cookie+"=x")
		w := httptest.NewRecorder()
		f.Serve(w, r, PageConnect, r.URL, "")
		require.Equal(t, http.StatusSeeOther, w.Code)
		set := strings.Join(w.Header()["Set-Cookie"], "\n")
		require.Equal(t, c.dropped, strings.Contains(set, c.cookie+"=;"), "%s: %s", name, set)
	}
}

func TestACookieThatIsSentTwiceIsOneAttempt(t *testing.T) {
	f := shopFlow(t)
	var cookies []string
	for _, letter := range []string{"a", "b", "c"} {
		a := attempt{stage: started, at: time.Now(), state: strings.Repeat(letter, stateSize)}
		cookies = append(cookies, sealAttempt(f, f.attemptID(a.state), string(a.pack())))
	}
	r := httptest.NewRequest(http.MethodGet, shop+"/connect", nil)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Cookie", strings.Join(append(cookies, cookies...), "; "))
	w := httptest.NewRecorder()
	f.Serve(w, r, PageConnect, r.URL, "")
	require.Equal(t, http.StatusSeeOther, w.Code)
	require.Len(t, w.Header()["Set-Cookie"], 1, "three attempts leave room for the new one")
}
