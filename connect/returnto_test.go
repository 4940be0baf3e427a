package connect

import (
	"bufio"
	"net/http/httptest"
	"net/url"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const shop = "https://shop.example.com"

func shopFlow(t testing.TB, returnTo ...string) *Flow {
	f, err := New(Config{Client: client(shop + "/connect/callback"), Source: newMemory(t), Prefix: "/connect", ReturnTo: returnTo})
	require.NoError(t, err)
	return f
}

// corpus reads payloads, one Go string a line.
func corpus(t testing.TB, name string) []string {
	file, err := os.Open("testdata/" + name)
	require.NoError(t, err)
	defer file.Close()
	var payloads []string
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		payload, err := strconv.Unquote(lines.Text())
		require.NoError(t, err, lines.Text())
		payloads = append(payloads, payload)
	}
	require.NoError(t, lines.Err())
	return payloads
}

func TestNoPayloadOfTheCorpusIsTaken(t *testing.T) {
	payloads := corpus(t, "return_to_refused.txt")
	require.GreaterOrEqual(t, len(payloads), 300)
	f := shopFlow(t)
	for _, payload := range payloads {
		_, err := f.parseReturnTo(payload)
		require.Error(t, err, "%q", payload)
		require.NotContains(t, f.ConnectURL(payload), "return_to", "%q", payload)
		_, err = f.NewLink(t.Context(), "shop-42", payload, time.Hour)
		require.Error(t, err, "%q", payload)
	}
}

func TestWhatOnlyLooksLikeAnotherSiteEndsOnThisOne(t *testing.T) {
	s := newSite(t, Config{})
	for _, payload := range corpus(t, "return_to_harmless.txt") {
		b := s.browser("")
		b.visit(s.issue(b.begin("?"+url.Values{"return_to": {payload}}.Encode()), tienda()), "cross-site")
		b.visit(refreshTarget(b.last.body), "same-origin")
		location := b.last.header.Get("Location")
		requireOnSite(t, payload, strings.Replace(location, s.server.URL, shop, 1))
		require.True(t, strings.HasPrefix(b.follow().body, "app at /"), "%q", payload)
	}
}

func TestABadReturnToIsRefusedBeforeAnythingBegins(t *testing.T) {
	f := shopFlow(t)
	for _, payload := range corpus(t, "return_to_refused.txt") {
		w := httptest.NewRecorder()
		r := httptest.NewRequest("GET", shop+"/connect?"+url.Values{"return_to": {payload}}.Encode(), nil)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
		f.Serve(w, r, PageConnect, r.URL, "")
		require.Equal(t, 400, w.Code, "%q", payload)
		require.Empty(t, w.Header()["Set-Cookie"])
		require.Empty(t, w.Header().Get("Location"))
	}
}

func TestReturnToTakesThePathsOfTheSite(t *testing.T) {
	f := shopFlow(t)
	for given, want := range map[string]string{
		"": "", "/": "/", "/settings": "/settings", "/settings/": "/settings/", "/a/b?c=d&e=%2Ff#g": "/a/b?c=d&e=%2Ff#g",
		"/caf%C3%A9": "/caf%C3%A9", "/a%20b": "/a%20b", "/?next=//other": "/?next=//other", "/#/orders/7": "/#/orders/7",
		"/a:b@c": "/a:b@c", "/.well-known/x": "/.well-known/x", "/a..b": "/a..b", "/connected": "/connected",
		shop + "/settings?x=1": "/settings?x=1", shop + "/": "/",
	} {
		got, err := f.parseReturnTo(given)
		require.NoError(t, err, given)
		require.Equal(t, want, got)
		if got != "" {
			requireOnSite(t, given, f.origin+got)
		}
	}
}

func TestReturnToKeepsToItsPatterns(t *testing.T) {
	f := shopFlow(t, "/settings", "/orders/*")
	for path, allowed := range map[string]bool{
		"/settings": true, "/settings?tab=1": true, "/orders/7": true, "/orders/": true, "/orders/7/items": true,
		"/settings/": false, "/settings/x": false, "/orders": false, "/ordersx": false, "/": false, "/SETTINGS": false,
		"/orders/../admin": false, "/orders/%2e%2e/admin": false, "/orders%2f7": false, "/orders/..%2fadmin": false,
	} {
		_, err := f.parseReturnTo(path)
		require.Equal(t, allowed, err == nil, path)
	}
	require.Equal(t, shop+"/connect?return_to=%2Forders%2F7", f.ConnectURL("/orders/7"))
	require.Equal(t, shop+"/connect", f.ConnectURL("/admin"))
	require.Equal(t, shop+"/connect", f.ConnectURL(""))
}

// requireOnSite resolves an address as a browser does (the URL standard of the
// WHATWG: control characters trimmed, tabs and newlines dropped, backslashes
// read as slashes), and requires that it stays on the shop's origin.
func requireOnSite(t testing.TB, payload, location string) {
	address := strings.TrimFunc(location, func(r rune) bool { return r <= ' ' })
	address = strings.NewReplacer("\t", "", "\n", "", "\r", "", "\\", "/").Replace(address)
	scheme, rest, ok := strings.Cut(address, ":")
	require.True(t, ok && strings.EqualFold(scheme, "https"), "%q becomes %q", payload, location)
	rest = strings.TrimLeft(rest, "/")
	authority := rest
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		authority = rest[:i]
	}
	if i := strings.LastIndex(authority, "@"); i >= 0 {
		authority = authority[i+1:]
	}
	require.Equal(t, "shop.example.com", strings.ToLower(authority), "%q becomes %q", payload, location)
	path := rest[len(authority):]
	require.False(t, strings.HasPrefix(path, "//"), "%q becomes %q", payload, location)
	require.NotContains(t, location, "\r")
	require.NotContains(t, location, "\n")
}

func FuzzReturnTo(f *testing.F) {
	for _, payload := range append(corpus(f, "return_to_refused.txt"), corpus(f, "return_to_harmless.txt")...) {
		f.Add(payload)
	}
	f.Add("/settings?a=b#c")
	flow := shopFlow(f)
	f.Fuzz(func(t *testing.T, payload string) {
		path, err := flow.parseReturnTo(payload)
		if err != nil || path == "" {
			return
		}
		requireOnSite(t, payload, flow.origin+path)
		again, err := flow.parseReturnTo(path)
		require.NoError(t, err)
		require.Equal(t, path, again)
	})
}

func TestTwoReturnTosAreRefused(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	b.visit("/connect?"+url.Values{"return_to": {"/a", "/b"}}.Encode(), "same-origin")
	require.Equal(t, CodeBadReturnTo, b.last.problem())
}
