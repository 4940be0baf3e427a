package connect

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

func TestWhatIsSealedIsBoundToApplicationAndPlace(t *testing.T) {
	source := newMemory(t)
	names := func(clientID, application, place string) []string {
		f, err := New(Config{
			Application: application, Source: source, Prefix: "/connect",
			Client: oauth.NewClient(oauth.Config{ClientID: clientID, RedirectURI: shop + "/connect/callback"}),
		})
		require.NoError(t, err)
		return f.names(place)
	}
	sealed := source.keyring.Seal(secret.Session, []byte("x"), names("1", "brasil", "cookie")...)
	for name, other := range map[string][]string{
		"another client id":   names("2", "brasil", "cookie"),
		"another application": names("1", "chile", "cookie"),
		"another place":       names("1", "brasil", "link"),
	} {
		_, err := source.keyring.Open(secret.Session, sealed, other...)
		require.ErrorIs(t, err, secret.ErrOpen, name)
	}
	_, err := source.keyring.Open(secret.Session, sealed, names("1", "brasil", "cookie")...)
	require.NoError(t, err)
}

// sealAttempt returns the cookie of an attempt that holds a text.
func sealAttempt(f *Flow, id, text string) string {
	name := f.attemptCookie(id)
	sealed := f.source.(*memory).keyring.Seal(secret.Attempt, []byte(text), f.names(name)...)
	return name + "=" + base64url.EncodeToString(sealed)
}

// sealSession returns the session cookie that holds a text.
func sealSession(f *Flow, text string) string {
	sealed := f.source.(*memory).keyring.Seal(secret.Session, []byte(text), f.sessionNames...)
	return f.sessionCookie + "=" + base64url.EncodeToString(sealed)
}

// sealLink returns the token of a link that holds a text.
func sealLink(f *Flow, text string) string {
	return base64url.EncodeToString(f.source.(*memory).keyring.Seal(secret.Link, []byte(text), f.names("link")...))
}

// problemAt returns the code of the problem that an address answers with, or "".
func problemAt(t *testing.T, f *Flow, address, cookies string) string {
	r := httptest.NewRequest(http.MethodGet, shop+address, nil)
	r.Header.Set("Cookie", cookies)
	p, ok := f.Match(r.URL.Path)
	require.True(t, ok)
	w := httptest.NewRecorder()
	f.Serve(w, r, p, r.URL, "")
	if w.Header().Get("Content-Type") != "application/problem+json" {
		return ""
	}
	var got document
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &got))
	return got.Code
}

// damaged returns what another version or a fault may have sealed in place of a text
// that begins with version 1. Its last byte must be a part of its last text.
func damaged(text string) map[string]string {
	return map[string]string{
		"nothing":              "",
		"another version":      "\x02" + text[1:],
		"a number of 11 bytes": "\x81" + strings.Repeat("\x80", 9) + "\x00" + text[1:],
		"cut":                  text[:len(text)-1],
		"too long":             text + "x",
	}
}

func TestAnAttemptThatAnotherVersionSealedIsNotContinued(t *testing.T) {
	f := shopFlow(t)
	whole := attempt{stage: started, at: time.Now(), state: strings.Repeat("a", stateSize), connection: "c"}
	changed := func(change func(a *attempt)) string {
		a := whole
		change(&a)
		return string(a.pack())
	}
	problem := func(text, state string) string {
		id := f.attemptID(state)
		return problemAt(t, f, "/connect/finish?attempt="+id, sealAttempt(f, id, text))
	}
	require.Equal(t, CodeUnfinished, problem(string(whole.pack()), whole.state))
	bad := damaged(string(whole.pack()))
	bad["no stage"] = changed(func(a *attempt) { a.stage = 0 })
	bad["an unknown stage"] = changed(func(a *attempt) { a.stage = refused + 1 })
	for name, text := range bad {
		require.Equal(t, CodeOtherBrowser, problem(text, whole.state), name)
	}
	short := whole.state[1:]
	require.Equal(t, CodeOtherBrowser, problem(changed(func(a *attempt) { a.state = short }), short))
}

func TestASessionThatAnotherVersionSealedNamesNobody(t *testing.T) {
	f := shopFlow(t)
	named := func(text string) []string {
		seller, connection, err := f.Session(cookieRequest(sealSession(f, text)))
		require.NoError(t, err)
		return []string{seller, connection}
	}
	ends := time.Now().Add(time.Hour)
	whole := string(session{ends: ends, connection: "c", seller: "241983636"}.pack())
	require.Equal(t, []string{"241983636", "c"}, named(whole))
	bad := damaged(whole)
	bad["no seller"] = string(session{ends: ends, connection: "c"}.pack())
	bad["no connection"] = string(session{ends: ends, seller: "241983636"}.pack())
	for name, text := range bad {
		require.Equal(t, []string{"", ""}, named(text), name)
	}
}

func TestALinkThatAnotherVersionSealedIsNotValid(t *testing.T) {
	f := shopFlow(t)
	problem := func(text string) string { return problemAt(t, f, "/connect/link?link="+sealLink(f, text), "") }
	whole := link{id: strings.Repeat("l", linkIDSize), ends: time.Now().Add(time.Hour), seller: "shop-42", returnTo: "/x"}
	require.Empty(t, problem(string(whole.pack())))
	bad := damaged(string(whole.pack()))
	short, nobody := whole, whole
	short.id, nobody.seller = "l", ""
	bad["a short id"], bad["no seller"] = string(short.pack()), string(nobody.pack())
	for name, text := range bad {
		require.Equal(t, CodeLinkInvalid, problem(text), name)
	}
}

// What follows a fault in base64 is not decoded. The text in front of it could still
// open.
func TestWhatIsSealedDoesNotOpenWithSomethingBehindIt(t *testing.T) {
	f := shopFlow(t)
	for _, seller := range []string{"1", "12", "123"} { // one of them fills whole groups of base64
		a := attempt{stage: started, at: time.Now(), state: strings.Repeat("a", stateSize), returnTo: seller}
		id := f.attemptID(a.state)
		address, cookie := "/connect/finish?attempt="+id, sealAttempt(f, id, string(a.pack()))
		require.Equal(t, CodeUnfinished, problemAt(t, f, address, cookie))
		require.Equal(t, CodeOtherBrowser, problemAt(t, f, address, cookie+"!"))

		s := session{ends: time.Now().Add(time.Hour), connection: "c", seller: seller}
		got, _, err := f.Session(cookieRequest(sealSession(f, string(s.pack())) + "!"))
		require.NoError(t, err)
		require.Empty(t, got)

		l := link{id: strings.Repeat("l", linkIDSize), ends: time.Now().Add(time.Hour), seller: seller}
		address = "/connect/link?link=" + sealLink(f, string(l.pack()))
		require.Empty(t, problemAt(t, f, address, ""))
		require.Equal(t, CodeLinkInvalid, problemAt(t, f, address+"!", ""))
	}
}

func TestTheLogNamesAKeyThatIsMissing(t *testing.T) {
	s := newSite(t, Config{})
	link, err := s.flow.Load().NewLink(t.Context(), "241983636", "", time.Hour)
	require.NoError(t, err)
	b := s.browser("")
	b.comeBack(b.begin(""), tienda())
	state, missing := b.begin(""), s.source.keyring.KeyID()
	s.source.set(func(m *memory) { m.keyring = newMemory(t).keyring })

	for message, c := range map[string]struct {
		do    func()
		level zapcore.Level
	}{
		"an attempt to connect was sealed with a key that is not configured": {func() { b.comeBack(state, tienda()) }, zap.WarnLevel},
		"a connect link was sealed with a key that is not configured":        {func() { b.visit(link, "none") }, zap.WarnLevel},
		"a session cookie does not open":                                     {func() { sessionOf(t, b) }, zap.DebugLevel},
	} {
		s.logs.TakeAll()
		c.do()
		entries := s.logs.FilterMessage(message).All()
		require.Len(t, entries, 1, message)
		require.Equal(t, c.level, entries[0].Level, message)
		require.Contains(t, entries[0].ContextMap()["error"], missing, message)
	}
}
