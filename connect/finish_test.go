package connect

import (
	"context"
	"fmt"
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

func TestACodeIsSpentOnARequestThatNoOtherSiteMade(t *testing.T) {
	for _, from := range []string{"same-origin", "none", ""} { // older browsers don't send Sec-Fetch-Site
		s := newSite(t, Config{SellerMode: true})
		b := s.browser("shop-42")
		b.visit(s.issue(b.begin(""), tienda()), "cross-site")
		b.visit(refreshTarget(b.last.body), from)
		require.Equal(t, 1, s.source.exchanges(), from)
		b.follow()
		require.Equal(t, "Account connected", b.title(), from)
	}
}

func TestAHeadRequestConnectsNothing(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	state := b.begin("")
	s.source.set(func(m *memory) { m.connectErr = errStore })
	b.comeBack(state, tienda())
	require.Equal(t, CodeUnavailable, b.last.problem())
	s.source.set(func(m *memory) { m.connectErr = nil })

	finish := b.last.address
	r, err := http.NewRequest(http.MethodHead, finish, nil)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, b.send(r).status)
	require.Empty(t, s.source.connection("shop-42").ID)
	b.visit(finish, "same-origin")
	b.follow()
	require.Equal(t, "Account connected", b.title())
}

func TestNothingIsConnectedWhileTheStoreCannotSayWhatIs(t *testing.T) {
	for name, config := range map[string]Config{"seller mode": {SellerMode: true}, "session mode": {}} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, config)
			b := s.browser("shop-42")
			state := b.begin("")
			s.source.set(func(m *memory) { m.connectionErr = errStore })
			b.comeBack(state, tienda())
			require.Equal(t, CodeUnavailable, b.last.problem())
			require.Empty(t, s.source.connections)
			s.source.set(func(m *memory) { m.connectionErr = nil })
			b.visit(b.last.address, "same-origin")
			b.follow()
			require.Equal(t, "Account connected", b.title())

			s.source.set(func(m *memory) { m.connectionErr = errStore })
			b.visit(b.last.address, "same-origin")
			require.Equal(t, CodeUnavailable, b.last.problem(), "the store is asked when the page is shown again")
		})
	}
}

func TestAQuestionIsNotShownWithoutItsAttemptAndTheStore(t *testing.T) {
	s := newSite(t, Config{SellerMode: true, Confirm: true})
	b := s.browser("shop-42")
	b.comeBack(b.begin(""), tienda())
	question := b.last.address
	s.source.set(func(m *memory) { m.connectionErr = errStore })
	b.visit(question, "same-origin")
	require.Equal(t, CodeUnavailable, b.last.problem())
	s.source.set(func(m *memory) { m.connectionErr = nil })
	b.visit("/connect/confirm?attempt=x", "same-origin")
	require.Equal(t, CodeOtherBrowser, b.last.problem())
}

// In session mode the user ID is the seller's name, so a test account takes the place
// of the live account of the same user, whatever account the browser acts for.
func TestASwitchBetweenTheLiveAndTheTestAccountNamesThem(t *testing.T) {
	s := newSite(t, Config{})
	_, err := s.source.Connect(t.Context(), "241983636", tienda())
	require.NoError(t, err)
	b := s.browser("")
	b.comeBack(b.begin(""), outra())
	consent := sampleConsent(241983636, "TIENDA_PRUEBA", "AR")
	consent.Account.Live = false
	b.comeBack(b.begin(""), consent)
	require.Contains(t, b.last.body, "From now on the money will go to TIENDA_PRUEBA, and TIENDA_AZUL will no longer get it.")
}

func TestASessionMeansNothingInSellerMode(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("shop-42")
	b.comeBack(b.begin(""), tienda())
	require.Contains(t, b.cookies(), "mp_session")

	s.config.SellerMode = true // the site signs its sellers in by itself from now on
	s.restart()
	b.visit("/connect", "none")
	require.NotContains(t, b.last.body, "TIENDA_AZUL")
	b.visit("/connect/disconnect", "same-origin")
	require.Equal(t, "No account is connected", b.title())
	require.Contains(t, b.cookies(), "mp_session", "it may be valid elsewhere on this host")
	b.comeBack(b.begin(""), outra())
	require.Equal(t, "Account connected", b.title(), "another account is no switch")
}

func TestPagesNameTheSellerWhomTheSiteOrALinkNamed(t *testing.T) {
	seller := "<dt>Seller</dt><dd><strong>%s</strong>"
	for name, c := range map[string]struct {
		sellerMode, byLink bool
		seller             string
	}{
		"seller mode":            {sellerMode: true, seller: "shop-42"},
		"a link in seller mode":  {sellerMode: true, byLink: true, seller: "shop-43"},
		"a link in session mode": {byLink: true, seller: "241983636"},
		"session mode":           {},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, Config{SellerMode: c.sellerMode, Confirm: true})
			b := s.browser("shop-42")
			if c.byLink {
				link, err := s.flow.Load().NewLink(t.Context(), c.seller, "", time.Hour)
				require.NoError(t, err)
				b.visit(link, "cross-site")
				b.press("")
			} else {
				b.begin("")
			}
			shows := func() {
				t.Helper()
				if c.seller == "" {
					require.NotContains(t, b.last.body, "<dt>Seller</dt>", "in session mode the account is the seller")
				} else {
					require.Contains(t, b.last.body, fmt.Sprintf(seller, c.seller))
				}
			}
			b.comeBack(b.stateSent(), tienda())
			require.Equal(t, "Connect this account?", b.title())
			shows()
			b.press("connect")
			b.follow()
			require.Equal(t, "Account connected", b.title())
			shows()
		})
	}
}

func TestTheLastPageLeadsBackToTheSite(t *testing.T) {
	lastPage := func(query string, returnTo ...string) string {
		s := newSite(t, Config{SellerMode: true, Confirm: true, ReturnTo: returnTo})
		b := s.browser("shop-42")
		b.comeBack(b.begin(query), tienda())
		b.press("refuse")
		return b.follow().body
	}
	require.Contains(t, lastPage("?return_to=/settings"), `href="/settings">Back to the site`)
	require.Contains(t, lastPage(""), `href="/">Back to the site`)
	require.NotContains(t, lastPage("", "/settings"), "Back to the site", "the configuration does not list the front page")
}
