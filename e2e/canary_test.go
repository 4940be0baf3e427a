package e2e

import (
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// loud is a configuration that tells all that Caddy can tell, and that sends
// what goes wrong to a server of its own.
const loud = `
$SHOP {
	log
	log_append who {http.mercadopago.user_id}
	log_append token {http.request.header.Authorization}
	mercadopago
	handle /broken {
		reverse_proxy 127.0.0.1:9
	}
	handle {
		reverse_proxy $APP
	}
	handle_errors {
		reverse_proxy $ERRORS
	}
}

$EGRESS {
	log
	log_append token {http.request.header.Authorization}
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
	}
	handle /broken {
		reverse_proxy 127.0.0.1:9
	}
	handle {
		reverse_proxy $PROVIDER
	}
	handle_errors {
		reverse_proxy $ERRORS
	}
}
`

// witness gathers what must stay secret, and everything that came out.
type witness struct {
	*platform
	caddy   *caddy
	errors  *wiretap
	visitor *visitor
	states  []string
	quiet   time.Duration // how far the clock of caddy is ahead
	pages   strings.Builder
}

func newWitness(t *testing.T) *witness {
	t.Helper()
	w := &witness{platform: newPlatform(t), errors: newWiretap(t)}
	w.values["ERRORS"] = w.errors.URL
	w.values["OPTIONS"] = "\tdebug\n\tservers {\n\t\ttrace\n\t}\n"
	w.obeyed()
	w.caddy = w.serve(loud)
	w.visitor = w.platform.visitor()
	return w
}

// begin starts a flow and keeps its state.
func (w *witness) begin() string {
	w.t.Helper()
	authorization := w.visitor.begin()
	address, err := url.Parse(authorization)
	require.NoError(w.t, err)
	w.states = append(w.states, address.Query().Get("state"))
	return authorization
}

// show keeps a page that somebody saw.
func (w *witness) show(got answer) answer {
	w.pages.WriteString(got.body)
	return got
}

// live goes through everything that happens to a seller.
func (w *witness) live() {
	t, v, caller := w.t, w.visitor, w.caller()
	v.settle(w.show(v.finish(v.consent(w.begin(), aurora))))
	require.Equal(t, http.StatusOK, w.show(v.get(w.url("SHOP")+"/")).status)
	require.Equal(t, aurora.UserID, w.actsFor(w.app.received()[0]))
	requireAurora(t, caller.me(id(aurora)))

	w.provider.KillAccessTokens(aurora.UserID)
	requireAurora(t, caller.me(id(aurora)))
	w.provider.Fault(sandbox.Fault{Kind: sandbox.LiveCredentials, Path: "/users/me"})
	require.Equal(t, http.StatusUnauthorized, w.show(caller.me(id(aurora))).status)

	w.provider.SetAccessTokenLife(short)
	other := w.platform.visitor()
	other.connect(porto)
	w.expire(short)
	require.Equal(t, http.StatusOK, caller.me(id(porto)).status)
	require.Equal(t, 2, w.refreshes())

	// What goes wrong goes to a server of its own, without the token.
	w.show(v.get(w.url("SHOP") + "/broken"))
	w.show(caller.send(caller.request(http.MethodGet, "/broken", id(aurora), "")))
	require.Len(t, w.errors.received(), 2)
}

// fail goes through everything that can happen on the way back.
func (w *witness) fail() {
	t, v := w.t, w.visitor
	for _, fault := range []sandbox.Fault{
		{Kind: sandbox.InvalidClient},
		{Kind: sandbox.InvalidGrant},
		{Kind: sandbox.HTML},
		{Kind: sandbox.Cut},
		{Kind: sandbox.Truncated},
		{Kind: sandbox.Redirected},
		{Kind: sandbox.RateLimited},
	} {
		w.calm()
		fault.Grant = "authorization_code"
		w.provider.Fault(fault)
		w.show(v.finish(v.consent(w.begin(), rio)))
		w.provider.ClearFaults()
	}
	w.calm()
	w.caddy.kill()
	w.caddy.start()
	callback := v.consent(w.begin(), rio)
	stranger := w.platform.visitor()
	require.Equal(t, http.StatusBadRequest, w.show(stranger.get(callback)).status)
	denied, err := w.provider.Deny(w.begin())
	require.NoError(t, err)
	w.show(v.get(denied))
	w.show(v.get(callback + "&code=twice"))
	w.show(v.get(callback + "&" + strings.Repeat("x", 7<<10)))
	w.show(v.get(strings.Replace(callback, "?", "?%zz=1&", 1)))
	r, err := http.NewRequest(http.MethodPut, callback, nil)
	require.NoError(t, err)
	w.show(v.send(r))
}

// calm moves the clock of caddy forward: after failures, caddy sends no requests to
// the provider for a while.
func (w *witness) calm() {
	w.quiet += time.Hour
	w.order("later " + w.quiet.String())
}

func TestNoSecretIsEverWritten(t *testing.T) {
	parallel(t)
	w := newWitness(t)
	w.live()
	w.fail()
	w.caddy.reload(strings.Replace(w.caddyfile(loud), "\tlog\n", "\tlog\n\theader X-Reloaded yes\n", 1))
	requireAurora(t, w.caller().me(id(aurora)))
	w.show(w.visitor.get(w.url("SHOP") + "/connect/disconnect"))

	config, err := http.Get("http://" + w.caddy.admin + "/config/")
	require.NoError(t, err)
	defer config.Body.Close()
	shown, err := io.ReadAll(config.Body)
	require.NoError(t, err)
	require.Contains(t, string(shown), "{env.MP_CLIENT_SECRET}")
	w.caddy.stop()

	outputs := map[string]string{
		"log": w.caddy.log.String(), "/config/": string(shown),
		"a handle_errors upstream": w.errors.heard(), "a page": w.pages.String(),
	}
	for _, folder := range []string{w.caddy.home, w.url("STORAGE")} {
		maps.Copy(outputs, files(t, folder))
	}
	require.Contains(t, outputs["log"], "handled request", "the access log is on")
	require.Contains(t, outputs["log"], "upstream roundtrip", "the debug log is on")
	secrets := append(w.provider.Issued(), clientSecret, encryptionKey)
	secrets = append(secrets, w.states...)
	require.Greater(t, len(secrets), 20)
	for where, text := range outputs {
		for _, secret := range secrets {
			if before, _, ok := strings.Cut(text, secret); ok {
				line := text[strings.LastIndexByte(before, '\n')+1:]
				line, _, _ = strings.Cut(line, "\n")
				t.Errorf("%q is in %s:\n%s", secret, where, line)
				break
			}
		}
	}
}

// files are all files below a folder.
func files(t *testing.T, folder string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		found[path] = string(text)
		return err
	}))
	require.NotEmpty(t, found)
	return found
}
