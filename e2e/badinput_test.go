package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
)

// badInput is a mistake that people make, and what they are told: where, and
// what to write.
type badInput struct {
	name   string
	global string // the options of the block mercadopago
	site   string
	env    []string
	places []string
	cures  []string
}

const goodGlobal = `
		client_id {env.MP_CLIENT_ID}
		client_secret {env.MP_CLIENT_SECRET}
		redirect_uri https://shop.example.com/connect/callback
		encryption_key {env.MP_ENCRYPTION_KEY}
`

const goodSite = "mercadopago\n\treverse_proxy 127.0.0.1:9"

func badInputs() []badInput {
	return []badInput{
		{
			name: "an unknown option", global: goodGlobal + "\t\tclient_secrets x\n",
			places: []string{"Caddyfile:9", "client_secrets"}, cures: []string{"unrecognized"},
		},
		{
			name: "an unknown option of the handler", site: "mercadopago {\n\t\tselers {http.auth.user.id}\n\t}",
			places: []string{"Caddyfile:", "selers"}, cures: []string{"unrecognized"},
		},
		{
			name: "an option twice", global: goodGlobal + "\t\tclient_id 1\n",
			places: []string{"Caddyfile:9", "client_id"}, cures: []string{"already specified"},
		},
		{
			name: "a secret that is not set", env: []string{"MP_CLIENT_ID=1", "MP_ENCRYPTION_KEY=" + encryptionKey},
			places: []string{"applications.default.client_secrets[0]", "{env.MP_CLIENT_SECRET}"}, cures: []string{"set it"},
		},
		{
			name: "an empty secret", env: []string{"MP_CLIENT_ID=1", "MP_CLIENT_SECRET=", "MP_ENCRYPTION_KEY=" + encryptionKey},
			places: []string{"applications.default.client_secrets[0]", "{env.MP_CLIENT_SECRET}"}, cures: []string{"set it"},
		},
		{
			name: "a blank secret", env: []string{"MP_CLIENT_ID=1", "MP_CLIENT_SECRET=  ", "MP_ENCRYPTION_KEY=" + encryptionKey},
			places: []string{"applications.default.client_secrets[0]"}, cures: []string{"{env.MP_CLIENT_SECRET}"},
		},
		{
			name: "no secret at all", global: strings.Replace(goodGlobal, "client_secret {env.MP_CLIENT_SECRET}", "", 1),
			places: []string{"applications.default.client_secrets"}, cures: []string{"client_secret {env.MP_CLIENT_SECRET}"},
		},
		{
			name: "a secret's file that is not there", global: strings.Replace(goodGlobal, "{env.MP_CLIENT_SECRET}", "{file./nowhere/secret}", 1),
			places: []string{"applications.default.client_secrets[0]", "{file./nowhere/secret}"}, cures: []string{"set it"},
		},
		{
			name: "a key that is too short", env: []string{"MP_CLIENT_ID=1", "MP_CLIENT_SECRET=" + clientSecret, "MP_ENCRYPTION_KEY=" + encryptionKey[:32]},
			places: []string{"encryption_keys[0]", "{env.MP_ENCRYPTION_KEY}"}, cures: []string{"32", "openssl rand -base64 32"},
		},
		{
			name: "a key that is none", env: []string{"MP_CLIENT_ID=1", "MP_CLIENT_SECRET=" + clientSecret, "MP_ENCRYPTION_KEY=correct horse battery staple"},
			places: []string{"encryption_keys[0]", "{env.MP_ENCRYPTION_KEY}"}, cures: []string{"32", "openssl rand -base64 32"},
		},
		{
			name: "a client id that is none", env: []string{"MP_CLIENT_ID=my shop", "MP_CLIENT_SECRET=" + clientSecret, "MP_ENCRYPTION_KEY=" + encryptionKey},
			places: []string{"applications.default.client_id"}, cures: []string{"a number, as in the dashboard"},
		},
		{
			name: "redirect_uri without https", global: strings.Replace(goodGlobal, "https://", "http://", 1),
			places: []string{"applications.default.redirect_uri", "http://shop.example.com/connect/callback"}, cures: []string{"https://", "loopback"},
		},
		{
			name: "redirect_uri that is a path", global: strings.Replace(goodGlobal, "https://shop.example.com", "", 1),
			places: []string{"applications.default.redirect_uri"}, cures: []string{"https://shop.example.com/connect/callback"},
		},
		{
			name: "no redirect_uri", global: strings.Replace(goodGlobal, "redirect_uri https://shop.example.com/connect/callback", "", 1),
			places: []string{"applications.default.redirect_uri"}, cures: []string{"https://shop.example.com/connect/callback"},
		},
		{
			name: "an unknown application", site: "mercadopago {\n\t\tapplication brasil\n\t}",
			places: []string{"brasil"}, cures: []string{"global block mercadopago"},
		},
		{
			name: "no global block", global: "none", site: goodSite,
			places: []string{"Caddyfile:"}, cures: []string{"global block", "client_id", "client_secret", "redirect_uri"},
		},
		{
			name: "connect and callback overlap", site: "mercadopago {\n\t\tconnect /connect/callback\n\t}",
			places: []string{"/connect/callback", "redirect_uri"}, cures: []string{"give it another"},
		},
		{
			name: "the callback is one of the connect pages", global: strings.Replace(goodGlobal, "/connect/callback", "/connect/finish", 1),
			places: []string{"/connect/finish", "redirect_uri"}, cures: []string{"/connect/callback"},
		},
		{
			name:   "two applications with one redirect_uri",
			global: goodGlobal + "\t\tapplication brasil {\n\t\t\tclient_id 2\n\t\t\tclient_secret {env.MP_CLIENT_SECRET}\n\t\t\tredirect_uri https://shop.example.com/connect/callback\n\t\t}\n",
			places: []string{"redirect_uri", "brasil", "default"}, cures: []string{"redirect_uri of its own"},
		},
		{
			name: "egress that passes the unconnected", site: "mercadopago {\n\t\tegress\n\t\tseller {http.request.header.X-Seller}\n\t\tunconnected pass\n\t}",
			places: []string{"egress", "unconnected pass"}, cures: []string{"remove unconnected pass"},
		},
		{
			name: "egress for nobody", site: "mercadopago {\n\t\tegress\n\t}",
			places: []string{"egress"}, cures: []string{"write seller", "as_application"},
		},
		{
			name: "clients that are no addresses", site: "mercadopago {\n\t\tegress\n\t\tseller x\n\t\tclients localhost\n\t}",
			places: []string{"Caddyfile:", "clients localhost"}, cures: []string{"10.0.0.0/8", "private_ranges"},
		},
		{
			name: "an unknown country", global: goodGlobal + "\t\tcountry de\n",
			places: []string{"de", "country"}, cures: []string{"ar, br, cl, co, mx, pe"},
		},
		{
			name: "an unknown provider", global: goodGlobal + "\t\tprovider paypal\n",
			places: []string{"paypal", "provider"}, cures: []string{"mercadopago", "mercadolibre"},
		},
	}
}

func (b badInput) caddyfile() string {
	global, site := b.global, b.site
	if global == "" {
		global = goodGlobal
	}
	if site == "" {
		site = goodSite
	}
	block := "\tmercadopago {" + global + "\t}\n"
	if global == "none" {
		block = ""
	}
	return "{\n\tadmin off\n\tauto_https off\n" + block + "}\n\nhttp://shop.example.com:1 {\n\t" + site + "\n}\n"
}

// TestBadInputIsRefusedWithThePlaceAndTheCure tries every third mistake of the table.
// TEST_SEED selects with which one it begins.
func TestBadInputIsRefusedWithThePlaceAndTheCure(t *testing.T) {
	parallel(t)
	sample.Log(t)
	for i, bad := range badInputs() {
		if !inShare(3, i) {
			continue
		}
		t.Run(bad.name, func(t *testing.T) {
			t.Parallel()
			env := bad.env
			if env == nil {
				env = []string{"MP_CLIENT_ID=1", "MP_CLIENT_SECRET=" + clientSecret, "MP_ENCRYPTION_KEY=" + encryptionKey}
			}
			said, home, err := check(t, "validate", bad.caddyfile(), env)
			require.Error(t, err, said)
			sentence := lastError(t, said)
			for _, part := range append(bad.places, bad.cures...) {
				require.Contains(t, sentence, part)
			}
			require.NotContains(t, said, clientSecret)
			require.NotContains(t, said, encryptionKey[:32])
			require.NotContains(t, said, "correct horse")
			require.NotContains(t, sentence, "\n")
			requireUntouched(t, home)
		})
	}
}

// check runs a command of Caddy's on a Caddyfile, in a home of its own.
func check(t *testing.T, command, caddyfile string, env []string) (said, home string, err error) {
	t.Helper()
	home = t.TempDir()
	config := filepath.Join(home, "Caddyfile")
	require.NoError(t, os.WriteFile(config, []byte(caddyfile), 0o600))
	process := exec.Command(binary(t), command, "--config", config, "--adapter", "caddyfile")
	process.Env, process.Dir = append(environment(home), env...), home
	out, err := process.CombinedOutput()
	return string(out), home, err
}

// lastError is what Caddy tells a person at the end.
func lastError(t *testing.T, said string) string {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(said), "\n")
	var line struct{ Level, Msg string }
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &line), said)
	require.Equal(t, "error", line.Level)
	return line.Msg
}

// requireUntouched wants nothing written: a configuration was only looked at.
func requireUntouched(t *testing.T, home string) {
	t.Helper()
	var found []string
	require.NoError(t, filepath.WalkDir(home, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && entry.Name() != "Caddyfile" {
			found = append(found, path)
		}
		return err
	}))
	require.Empty(t, found)
}

func TestRunRefusesBadInputAsValidateDoes(t *testing.T) {
	parallel(t)
	bad := badInput{}
	said, _, err := check(t, "run", bad.caddyfile(), []string{"MP_CLIENT_ID=1", "MP_ENCRYPTION_KEY=" + encryptionKey})
	require.Error(t, err)
	require.Contains(t, said, "applications.default.client_secrets[0]: {env.MP_CLIENT_SECRET} is empty or unknown where Caddy runs: set it there")
}

func TestValidateTouchesNeitherNetworkNorStorage(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	said, home, err := check(t, "validate", p.caddyfile(sessionSite+egressSite), p.secrets())
	require.NoError(t, err, said)
	requireUntouched(t, home)
	require.NoDirExists(t, p.url("STORAGE"))
	require.Empty(t, p.provider.Requests())
}

func TestAReloadWithBadInputLeavesWhatServesAsItIs(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	c := p.serve(sessionSite + egressSite)
	v := p.visitor()
	v.connect(aurora)
	c.write(strings.Replace(p.caddyfile(sessionSite+egressSite), "\t\tclient_secret {env.MP_CLIENT_SECRET}\n", "", 1))
	out, err := c.run("reload", "--config", c.config, "--adapter", "caddyfile", "--address", c.admin)
	require.Error(t, err)
	require.Contains(t, out, "applications.default.client_secrets")
	requireAurora(t, p.caller().me(id(aurora)))
	v.connect(rio)
}
