package mercadopago

import (
	"context"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/connect"
	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
)

var passingSite = strings.Replace(sessionSite, "\tmercadopago\n", "\tmercadopago {\n\t\tunconnected pass\n\t}\n", 1)

// An app that trusts {http.mercadopago.seller} must not take a lost phone for
// the seller who disconnected because of it.
func TestASessionThatWasEndedNamesNobody(t *testing.T) {
	r := newRig(t)
	r.load(passingSite)
	lost, stolen, own := r.connected(aurora), r.connected(aurora), r.connected(aurora)
	page := own.get(r.at("SHOP") + "/connect/disconnect")
	own.confirm(r.at("SHOP"), page)

	require.Equal(t, "app", lost.get(r.at("SHOP")+"/").body)
	require.Empty(t, r.app.last().Header.Get("X-Seller"))

	r.connected(aurora)
	require.Equal(t, "app", stolen.get(r.at("SHOP")+"/").body)
	require.Empty(t, r.app.last().Header.Get("X-Seller"), "a connection made since is not its own")
}

// Memory may have a connection that another instance has replaced. A session of
// the new one is good all the same.
func TestASessionIsNotEndedByAMemoryThatLags(t *testing.T) {
	r := newRig(t)
	r.load(sessionSite)
	before := r.connected(aurora)
	require.Equal(t, "app", before.get(r.at("SHOP")+"/").body)

	other := r.otherInstance()
	seller := strconv.FormatInt(aurora.UserID, 10)
	old, err := other.Connection(t.Context(), "default", seller)
	require.NoError(t, err)
	require.NoError(t, other.Disconnect(t.Context(), old))
	b := r.browser()
	here := b.client.Transport
	b.client.Transport = r.otherSite(other)
	require.Equal(t, http.StatusSeeOther, b.consent(r.at("SHOP")+"/connect?return_to=/", aurora.UserID).status)
	b.client.Transport = here
	r.app.last()

	got := b.get(r.at("SHOP") + "/")
	require.Equal(t, http.StatusServiceUnavailable, got.status, "in a moment it is known here too")
	require.NotEmpty(t, got.header.Get("Retry-After"))
	require.Empty(t, got.header.Values("Set-Cookie"), "the session stays")
	require.Nil(t, r.app.last(), "and nothing is sent for the connection before")
}

// otherInstance is the engine of another Caddy on the same storage.
func (r *rig) otherInstance() *tokensource.Source {
	r.t.Helper()
	key, err := secret.ParseKey(testKey)
	require.NoError(r.t, err)
	keyring, err := secret.NewKeyring(key)
	require.NoError(r.t, err)
	manager := tokensource.NewManager()
	r.t.Cleanup(func() { require.NoError(r.t, manager.Destruct()) })
	return manager.Source(tokensource.Config{
		StoreID: "other", SpillDir: r.t.TempDir(),
		Open: func(context.Context) (tokenstore.Store, *secret.Keyring, error) {
			return caddystorage.New(&certmagic.FileStorage{Path: r.storage}, keyring), keyring, nil
		},
		Applications: []tokensource.Application{{Name: "default", Client: r.oauthClient()}},
	})
}

func (r *rig) oauthClient() *oauth.Client {
	return oauth.NewClient(oauth.Config{
		ClientID: sandbox.DefaultClientID, ClientSecrets: []secret.Secret{secret.New(sandbox.DefaultClientSecret)},
		RedirectURI: r.at("SHOP") + "/connect/callback", PKCE: true,
		Provider: oauth.Provider{AuthorizeURL: r.sandboxURL + "/authorization", API: r.sandboxURL, PlatformID: "mp"},
	})
}

// otherSite answers a browser in the place of the rig's own site.
func (r *rig) otherSite(source *tokensource.Source) http.RoundTripper {
	flow, err := connect.New(connect.Config{Application: "default", Client: r.oauthClient(), Source: source, Prefix: "/connect"})
	require.NoError(r.t, err)
	return roundTripper(func(request *http.Request) *http.Response {
		request.Host = request.URL.Host
		page, _ := flow.Match(request.URL.EscapedPath())
		w := httptest.NewRecorder()
		flow.Serve(w, request, page, request.URL, "")
		return w.Result()
	})
}

type roundTripper func(*http.Request) *http.Response

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

func TestAStoreThatFailsEndsNoSession(t *testing.T) {
	r := newRig(t)
	r.load(sessionSite)
	b := r.connected(aurora)
	require.NoError(t, stopCaddy()) // memory would serve on
	damaged := 0
	require.NoError(t, filepath.WalkDir(filepath.Join(r.storage, "mercadopago", "connections"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			damaged++
			err = os.WriteFile(path, []byte("damaged"), 0o600)
		}
		return err
	}))
	require.Equal(t, 1, damaged)
	r.load(sessionSite)
	got := b.get(r.at("SHOP") + "/")
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.Empty(t, got.header.Values("Set-Cookie"))
}

func TestADisconnectTakesTheSessionFromOtherBrowsers(t *testing.T) {
	r := newRig(t)
	r.load(sessionSite)
	one, two := r.connected(aurora), r.connected(aurora)
	one.confirm(r.at("SHOP"), one.get(r.at("SHOP")+"/connect/disconnect"))
	require.Contains(t, two.get(r.at("SHOP")+"/").header.Get("Set-Cookie"), "mp_session=;")
}
