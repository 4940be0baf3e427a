package connect

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

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

func TestOnlyAnExplicitWordConnects(t *testing.T) {
	s := newSite(t, Config{SellerMode: true, Confirm: true})
	b := s.browser("shop-42")
	b.comeBack(b.begin(""), tienda())
	question := b.last
	for _, word := range []string{"", "yes", "Connect"} {
		b.last = question
		b.press(word)
		require.Empty(t, s.source.connection("shop-42").ID, word)
	}
	b.last = question
	b.press("connect")
	require.NotEmpty(t, s.source.connection("shop-42").ID)
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
