package connect

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
)

// wholeSite is a site on the real source and store, with the sandbox as the
// provider.
func wholeSite(t *testing.T, config Config) (*site, *sandbox.Sandbox, *tokensource.Source) {
	provider := sandbox.New(sandbox.Options{AcceptAny: true})
	api := httptest.NewServer(provider)
	t.Cleanup(api.Close)

	s := newSite(t, config)
	s.config.Client = oauth.NewClient(oauth.Config{
		ClientID: clientID, ClientSecrets: []secret.Secret{secret.New("client-secret")}, PKCE: true,
		RedirectURI: s.server.URL + "/connect/callback",
		Provider:    oauth.Provider{AuthorizeURL: api.URL + "/authorization", API: api.URL, PlatformID: "mp"},
	})
	store := caddystorage.New(&certmagic.FileStorage{Path: t.TempDir()}, s.source.keyring)
	manager := tokensource.NewManager()
	source := manager.Source(tokensource.Config{
		StoreID: "test", SpillDir: t.TempDir(),
		Open: func(context.Context) (tokenstore.Store, *secret.Keyring, error) {
			return store, s.source.keyring, nil
		},
		Applications: []tokensource.Application{{Client: s.config.Client}},
	})
	source.Start()
	t.Cleanup(func() {
		source.Stop()
		source.Release()
		require.NoError(t, manager.Destruct())
	})
	s.config.Source = source
	s.restart()
	return s, provider, source
}

// agree lets an account of the sandbox consent to what the browser was sent for.
func (b *browser) agree(provider *sandbox.Sandbox, account sandbox.Account) {
	callback, err := provider.Approve(b.last.header.Get("Location"), account.UserID)
	require.NoError(b.t, err)
	b.visit(callback, "cross-site")
	b.follow()
}

func TestAWholeWalkOnTheRealStoreAndTheSandbox(t *testing.T) {
	s, provider, source := wholeSite(t, Config{SellerMode: true, Confirm: true})
	accounts := provider.Accounts()
	holds := func(account sandbox.Account) {
		t.Helper()
		token, err := source.Token(t.Context(), "", "shop-42", time.Minute)
		require.NoError(t, err)
		user, ok := provider.AccessTokenOf(token.AccessToken().Reveal())
		require.True(t, ok)
		require.Equal(t, account.UserID, user)
	}
	b := s.browser("shop-42")

	b.visit("/connect", "same-origin")
	b.agree(provider, accounts[0])
	require.Equal(t, "Connect this account?", b.title(), b.last.body)
	require.Contains(t, b.last.body, accounts[0].Nickname)
	b.press("connect")
	b.follow()
	require.Equal(t, "Account connected", b.title(), b.last.body)
	holds(accounts[0])

	b.visit("/connect", "same-origin")
	b.agree(provider, accounts[2])
	require.Equal(t, "Change the account that gets the money?", b.title(), b.last.body)
	b.press("refuse")
	b.follow()
	holds(accounts[0])

	b.visit("/connect", "same-origin")
	b.agree(provider, accounts[2])
	b.press("connect")
	b.follow()
	holds(accounts[2])
	require.Zero(t, provider.Stats().CodeReuse)

	b.visit("/connect/disconnect", "same-origin")
	b.press("")
	b.follow()
	require.Equal(t, "Account disconnected", b.title(), b.last.body)
	_, err := source.Token(t.Context(), "", "shop-42", time.Minute)
	var gone *tokensource.Error
	require.ErrorAs(t, err, &gone)
	require.Equal(t, tokensource.ReasonNotConnected, gone.Reason)
}

func TestTheSandboxesFaultsReachTheSellerAsPages(t *testing.T) {
	s, provider, _ := wholeSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	b.visit("/connect", "same-origin")
	callback, err := provider.Deny(b.last.header.Get("Location"))
	require.NoError(t, err)
	b.visit(callback, "cross-site")
	require.Equal(t, CodeDenied, b.last.problem())

	b.visit("/connect", "same-origin")
	provider.SetCodeLife(time.Nanosecond)
	b.agree(provider, provider.Accounts()[0])
	require.Equal(t, CodeCodeRefused, b.last.problem(), b.last.body)
}
