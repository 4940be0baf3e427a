package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
)

// panelSite is an app with a login of its own, whose users are the sellers.
const panelSite = `
$SHOP {
	forward_auth $APP {
		uri /whoami
		copy_headers X-Login
	}
	mercadopago {
		seller {http.request.header.X-Login}
		unconnected pass
	}
	reverse_proxy $APP
}
`

// panel is that app. Its login cookie is SameSite=Strict: a browser that comes
// from another site comes without it.
func (p *platform) panel(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/whoami":
		if login, err := r.Cookie("panel_login"); err == nil {
			w.Header().Set("X-Login", login.Value)
		}
	case "/login":
		http.SetCookie(w, &http.Cookie{
			Name: "panel_login", Value: r.URL.Query().Get("as"), Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
		})
		http.Redirect(w, r, "/", http.StatusSeeOther)
	default:
		account := int64(0)
		if token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
			account, _ = p.provider.AccessTokenOf(token)
		}
		language := strings.ToLower(r.Header.Get("Accept-Language")[:2])
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<!doctype html><html lang=%s><title>panel</title><link rel=icon href="data:,">
<b id=login>%s</b> <b id=account>%d</b> <a id=connect href="/connect?return_to=/">connect</a></html>`,
			language, r.Header.Get("X-Login"), account)
	}
}

// newPanel is a platform on localhost, so that the provider's pages, on
// 127.0.0.1, are another site.
func newPanel(t *testing.T) *platform {
	t.Helper()
	p := newPlatform(t)
	p.onLocalhost()
	p.app.answers(p.panel)
	p.serve(panelSite)
	return p
}

// TestASellerOfAPlatformConnectsAndSwitchesInABrowser uses one language, which
// TEST_SEED selects, and not the same as TestTheDemoIsWalkedInABrowser. With
// FAULTS=all, it uses all languages.
func TestASellerOfAPlatformConnectsAndSwitchesInABrowser(t *testing.T) {
	t.Parallel()
	sample.Log(t)
	for i, language := range languages {
		if !inShare(len(languages), i+1) {
			continue
		}
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			takeTurn(t)
			p := newPanel(t)
			b := newBrowser(t, language, "seller-"+language[:2])
			shop := p.url("SHOP")
			b.open(shop + "/login?as=shop-42")
			b.requireSeller(shop, "0")

			b.click("#connect")
			b.agree(p.url("PROVIDER"), aurora)
			b.arrive(shop+"/connect/confirm", `button[value=connect]`)
			require.Contains(t, b.text("main"), "shop-42")
			require.Contains(t, b.text("main"), aurora.Nickname)
			b.see("01-confirm")
			b.requireSellerLater(shop, "0", "nothing is connected before the answer")
			ask[any](b, "history.back()")
			b.arrive(shop+"/connect/confirm", `button[value=connect]`)
			b.click(`button[value=connect]`)
			b.requireSeller(shop, id(aurora))

			b.click("#connect")
			b.agree(p.url("PROVIDER"), porto)
			b.arrive(shop+"/connect/confirm", `button[value=refuse]`)
			for _, name := range []string{"shop-42", aurora.Nickname, porto.Nickname} {
				require.Contains(t, b.text("main"), name)
			}
			b.see("02-switch")
			b.click(`button[value=refuse]`)
			b.arrive(shop+"/connect/finish", "body.kept")
			b.open(shop)
			b.requireSeller(shop, id(aurora))

			b.click("#connect")
			b.agree(p.url("PROVIDER"), porto)
			b.arrive(shop+"/connect/confirm", `button[value=connect]`)
			b.click(`button[value=connect]`)
			b.requireSeller(shop, id(porto))
			b.requireNoComplaint()
		})
	}
}

// requireSeller wants the panel, with the login that only its own SameSite=Strict
// cookie tells of, and the account that it acts for.
func (b *browser) requireSeller(shop, account string) {
	b.t.Helper()
	b.arrive(shop+"/", "#account")
	require.Equal(b.t, "shop-42", b.text("#login"))
	require.Equal(b.t, account, b.text("#account"))
}

// requireSellerLater is requireSeller of a page that is opened for it.
func (b *browser) requireSellerLater(shop, account, why string) {
	b.t.Helper()
	b.open(shop)
	b.arrive(shop+"/", "#account")
	require.Equal(b.t, account, b.text("#account"), why)
}

func TestNobodyIsToldToSignInAndAnotherSellerCannotFinish(t *testing.T) {
	parallel(t)
	p := newPanel(t)
	b := newBrowser(t, "es-AR", "seller-es")
	shop := p.url("SHOP")
	b.open(shop + "/connect")
	b.arrive(shop+"/connect", "body.problem")
	require.Contains(t, b.text("main"), "no_seller")
	b.see("03-nobody")

	b.open(shop + "/login?as=shop-42")
	b.arrive(shop+"/", "#connect")
	b.click("#connect")
	b.arrive(p.url("PROVIDER")+"/authorization", `button[value=approve]`)
	// In another tab, so to speak, somebody else signs in.
	authorization := b.address()
	b.open(shop + "/login?as=shop-43")
	b.arrive(shop+"/", "#connect")
	b.open(authorization)
	b.agree(p.url("PROVIDER"), aurora)
	b.arrive(shop+"/connect/finish", "body.problem")
	require.Contains(t, b.text("main"), "seller_changed")
	b.see("04-seller-changed")
	require.Zero(t, p.provider.Stats().Tokens("authorization_code"), "no token request was made")
	b.requireNoComplaint()
}

func TestComingBackInAnotherBrowserConnectsNothing(t *testing.T) {
	parallel(t)
	p := newPanel(t)
	mine, other := newBrowser(t, "pt-BR", "seller-pt"), newBrowser(t, "pt-BR", "seller-pt")
	shop := p.url("SHOP")
	for _, b := range []*browser{mine, other} {
		b.open(shop + "/login?as=shop-42")
		b.arrive(shop+"/", "#connect")
	}
	mine.click("#connect")
	mine.arrive(p.url("PROVIDER")+"/authorization", `button[value=approve]`)
	other.open(mine.address())
	other.agree(p.url("PROVIDER"), aurora)
	other.arrive(shop+"/connect/callback", "body.problem")
	require.Contains(t, other.text("main"), "other_browser")
	other.see("05-other-browser")
	require.Zero(t, p.provider.Stats().Tokens("authorization_code"), "no token request was made")
	other.requireNoComplaint()
}
