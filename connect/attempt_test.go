package connect

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
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

// watched is a source that notes what it is called with.
type watched struct {
	*memory
	until time.Time
	left  error
}

func (w *watched) Consume(ctx context.Context, state string, until time.Time) error {
	w.until = until
	return w.memory.Consume(ctx, state, until)
}

func (w *watched) Exchange(ctx context.Context, application, code string, verifier secret.Secret) (tokensource.Consent, error) {
	w.left = ctx.Err()
	return w.memory.Exchange(ctx, application, code, verifier)
}

func (s *site) watch() *watched {
	w := &watched{memory: s.source}
	s.config.Source = w
	s.restart()
	return w
}

func TestAConsumedStateIsRememberedLongerThanItsAttemptLives(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	w := s.watch()
	b := s.browser("shop-42")
	b.comeBack(b.begin(""), tienda())
	require.Greater(t, time.Until(w.until), attemptTTL)
}

func TestABrowserThatLeavesStopsNoExchange(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	w := s.watch()
	b := s.browser("shop-42")
	b.visit(s.issue(b.begin(""), tienda()), "cross-site")
	ctx, leave := context.WithCancel(t.Context())
	leave()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, b.absolute(refreshTarget(b.last.body)), nil)
	require.NoError(t, err)
	for _, c := range b.client.Jar.Cookies(r.URL) {
		r.AddCookie(c)
	}
	s.flow.Load().Serve(httptest.NewRecorder(), r, PageFinish, r.URL, "shop-42")
	require.Equal(t, 1, s.source.exchanges())
	require.NoError(t, w.left)
}

func TestWhatIsNoIDOfAnAttemptIsNone(t *testing.T) {
	f := shopFlow(t)
	id := f.attemptID(strings.Repeat("a", stateSize))
	require.True(t, isAttemptID(id))
	for _, bad := range []string{"", "a", id[1:], id + "a", id[1:] + ";", id[1:] + "/", id[1:] + "="} {
		require.False(t, isAttemptID(bad), bad)
	}
}

func TestAPrefetchSpendsNoCode(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	b.visit(s.issue(b.begin(""), tienda()), "cross-site")
	r, err := http.NewRequest(http.MethodGet, b.absolute(refreshTarget(b.last.body)), nil)
	require.NoError(t, err)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	r.Header.Set("Sec-Purpose", "prefetch")
	b.send(r)
	require.Zero(t, s.source.exchanges())
}

func TestACodeThatWasSpentLeavesTheCookie(t *testing.T) {
	a := &attempt{stage: coded, state: strings.Repeat("a", stateSize), code: "TG-canary", verifier: "canary"}
	a.answered(tienda(), time.Now())
	require.NotContains(t, string(a.pack()), "canary")
}

func TestACodeForAFinishedAttemptReplacesNothing(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	state := b.begin("")
	b.comeBack(state, tienda())
	require.Equal(t, "Account connected", b.title())
	b.comeBack(state, outra())
	require.Equal(t, "Account connected", b.title())
	require.Equal(t, 1, s.source.exchanges())
}
