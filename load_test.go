package mercadopago

import (
	"os"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// Each fails at load with one sentence that names the place and the cure.
func TestBadInputFailsAtLoadAndSaysWhatToWrite(t *testing.T) {
	r := newRig(t)
	t.Setenv("MP_TEST_EMPTY", "")
	t.Setenv("MP_TEST_SHORT_KEY", "YWJj")
	t.Setenv("MP_TEST_ODD_KEY", "no base64 at all!")
	global := func(replace ...string) string { return strings.NewReplacer(replace...).Replace(globalBlock) }
	second := `
		application second {
			client_id ID
			client_secret {env.MP_TEST_SECRET}
			redirect_uri URI
		}
		encryption_key`
	site := func(options string) string {
		return globalBlock + "\nSHOP {\n\tmercadopago {\n\t\t" + strings.ReplaceAll(options, "\n", "\n\t\t") + "\n\t}\n}\n"
	}
	t.Setenv("MP_TEST_WEBHOOK", webhookSecret)
	t.Setenv("MP_TEST_WEBHOOK_OLD", olderWebhookSecret)
	webhook := func(options string) string {
		return withWebhookSecret(globalBlock) + "\nSHOP {\n\tmercadopago {\n\t\t" + options + "\n\t}\n}\n"
	}
	for name, test := range map[string]struct {
		caddyfile string
		want      []string
	}{
		"no client id": {
			global("		client_id CLIENT_ID\n", ""), []string{"applications.default.client_id is missing"},
		},
		"odd client id": {
			global("client_id CLIENT_ID", `client_id "a/b"`), []string{"applications.default.client_id", "a number, as in the dashboard"},
		},
		"no client secret": {
			global("		client_secret {env.MP_TEST_SECRET}\n", ""), []string{"applications.default.client_secrets is missing", "write client_secret"},
		},
		"client secret without a value": {
			global("{env.MP_TEST_SECRET}", "{env.MP_TEST_UNSET}"), []string{"applications.default.client_secrets[0]", "{env.MP_TEST_UNSET} is empty or unknown where Caddy runs: set it there"},
		},
		"empty client secret": {
			global("{env.MP_TEST_SECRET}", "{env.MP_TEST_EMPTY}"), []string{"applications.default.client_secrets[0]", "{env.MP_TEST_EMPTY}", "set it there"},
		},
		"file that is not there": {
			global("{env.MP_TEST_SECRET}", "{file./nonexistent/secret}"), []string{"applications.default.client_secrets[0]", "{file./nonexistent/secret}", "set it there"},
		},
		"key of the wrong length": {
			global("{env.MP_TEST_KEY}", "{env.MP_TEST_SHORT_KEY}"), []string{"encryption_keys[0]", "{env.MP_TEST_SHORT_KEY}", "has 3 bytes, it needs 32", "openssl rand -base64 32"},
		},
		"key that is no key": {
			global("{env.MP_TEST_KEY}", "{env.MP_TEST_KEY} {env.MP_TEST_ODD_KEY}"), []string{"encryption_keys[1]", "neither base64 nor 64 hex digits"},
		},
		"no redirect uri": {
			global("		redirect_uri SHOP/connect/callback\n", ""), []string{"applications.default.redirect_uri is missing"},
		},
		"redirect uri in clear on a public host": {
			global("SHOP/connect/callback", "http://shop.example.com/connect/callback"), []string{"applications.default.redirect_uri", "must begin with https://"},
		},
		"redirect uri with a host that browsers spell otherwise": {
			global("SHOP/connect/callback", "https://tienda-ñandú.example/connect/callback"), []string{"applications.default.redirect_uri", "xn--"},
		},
		"secret in braces": {
			global("{env.MP_TEST_SECRET}", "`{sandbox-secret-in-braces}`"), []string{"applications.default.client_secrets[0]", "a literal brace"},
		},
		"secret between placeholders": {
			global("{env.MP_TEST_SECRET}", "`{env.MP_TEST_UNSET}sandbox-secret{env.MP_TEST_UNSET}`"), []string{"applications.default.client_secrets[0]", "a placeholder in it is empty or unknown"},
		},
		"redirect uri without a path": {
			global("SHOP/connect/callback", "https://shop.example.com"), []string{"applications.default.redirect_uri", "a path of its own", "/connect/callback"},
		},
		"redirect uri with a query": {
			global("SHOP/connect/callback", "https://shop.example.com/c?x=1"), []string{"applications.default.redirect_uri", "must have no query"},
		},
		"redirect uri that is none": {
			global("SHOP/connect/callback", "shop.example.com/connect"), []string{"applications.default.redirect_uri", "write it whole"},
		},
		"unknown provider": {
			global("endpoints {", "provider mercado\n\t\tendpoints {"), []string{"applications.default", "mercado", "mercadolibre"},
		},
		"unknown country": {
			global("endpoints {", "country fr\n\t\tendpoints {"), []string{"applications.default", "fr", "uy"},
		},
		"endpoint in clear": {
			global("api API", "api http://api.example.com"), []string{"applications.default.endpoints.api", "must begin with https://"},
		},
		"two applications with one redirect uri": {
			global("encryption_key", strings.NewReplacer("ID", "2", "URI", "SHOP/connect/callback").Replace(second)),
			[]string{"applications.second.redirect_uri", `application "default" has the same one`},
		},
		"two applications with one client id": {
			global("encryption_key", strings.NewReplacer("ID", "CLIENT_ID", "URI", "SHOP/other").Replace(second)),
			[]string{"applications.second.client_id", `application "default" has the same one`},
		},
		"seller and as_application": {
			site("seller x\nas_application"), []string{"as_application and seller exclude each other"},
		},
		"as_application with pages": {
			site("as_application\nconnect /connect"), []string{"remove connect"},
		},
		"connect that is no path": {
			site("connect pages"), []string{"connect", "begins with a slash"},
		},
		"callback on a page of the connect path": {
			global("SHOP/connect/callback", "SHOP/connect/finish") + "\nSHOP {\n\tmercadopago\n}\n", []string{"/connect/finish"},
		},
		"callback on the connect path itself": {
			global("SHOP/connect/callback", "SHOP/connect") + "\nSHOP {\n\tmercadopago\n}\n", []string{"/connect"},
		},
		"redirect without pages": {
			site("connect off\nunconnected redirect"), []string{"unconnected redirect needs connect pages"},
		},
		"header that is none": {
			site(`inject "X Y"`), []string{"inject", "not a header name"},
		},
		"scheme that is none": {
			site(`inject X-Y "Bearer x"`), []string{"inject", "write one word such as Bearer"},
		},
		"header that a proxy removes": {
			site("inject te"), []string{"inject Te", "write Authorization"},
		},
		"as_application that injects nothing": {
			site("as_application\ninject off"), []string{"as_application is there to inject"},
		},
		"as_application that passes": {
			site("as_application\nunconnected pass"), []string{"as_application is there to inject"},
		},
		"confirm without pages": {
			site("connect off\nconfirm on"), []string{"confirm is a question of the connect pages", "remove it"},
		},
		"return_to without pages": {
			site("connect off\nreturn_to /a"), []string{"remove return_to"},
		},
		"session_lifetime without sessions": {
			site("seller x\nsession_lifetime 7d"), []string{"session_lifetime is for sessions", "remove it"},
		},
		"session_lifetime on egress": {
			site("egress\nseller x\nsession_lifetime 7d"), []string{"session_lifetime is for sessions", "remove it"},
		},
		"placeholder that is not closed": {
			site(`seller "shop-{http.auth.user.id"`), []string{"seller", "a placeholder is not closed"},
		},
		"egress without a seller": {
			site("egress"), []string{"egress has no sessions: write seller"},
		},
		"egress with pages": {
			site("egress\nseller x\nconnect /connect"), []string{"egress serves no connect pages"},
		},
		"egress that passes": {
			site("egress\nseller x\nunconnected pass"), []string{"egress never calls the API without a token"},
		},
		"egress that injects nothing": {
			site("egress\nseller x\ninject off\nunconnected reject"), []string{"egress is there to inject"},
		},
		"webhook without a secret": {
			site("webhook /hook"), []string{"webhook needs the secret", "write webhook_secret {env.MP_WEBHOOK_SECRET}"},
		},
		"webhook secret without a value": {
			global("encryption_key", "webhook_secret {env.MP_TEST_UNSET}\n\t\tencryption_key"),
			[]string{"applications.default.webhook_secrets[0]", "{env.MP_TEST_UNSET} is empty or unknown where Caddy runs: set it there"},
		},
		"webhook on egress": {
			webhook("egress\n\t\tseller x\n\t\twebhook /hook"), []string{"egress is for your own apps", "remove webhook"},
		},
		"webhook with a query": {
			webhook("webhook /hook?x=1"), []string{"webhook", "nothing behind it"},
		},
		"webhook on another host": {
			webhook("webhook //evil.example/hook"), []string{"webhook", "write a path"},
		},
		"webhook on a connect page": {
			webhook("webhook /connect/link"), []string{"webhook /connect/link", "a path of its own"},
		},
		"webhook on the callback": {
			webhook("webhook /connect/callback"), []string{"webhook /connect/callback", "a path of its own"},
		},
		"webhook of Mercado Libre": {
			strings.Replace(webhook("webhook /hook"), "endpoints {", "provider mercadolibre\n\t\tcountry ar\n\t\tendpoints {", 1),
			[]string{"Mercado Libre", "remove webhook"},
		},
		"egress with return_to": {
			site("egress\nseller x\nreturn_to /a"), []string{"remove return_to"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := r.tryLoad(test.caddyfile)
			require.Error(t, err)
			for _, part := range test.want {
				require.ErrorContains(t, err, part)
			}
			require.NotContains(t, err.Error(), "sandbox-secret", "no error holds a secret")
			require.NotContains(t, err.Error(), "\n", "one sentence")
		})
	}
}

func TestValidatingTouchesNeitherNetworkNorStorage(t *testing.T) {
	r := newRig(t)
	var config caddy.Config
	adapted, err := adapt(t, r.expand(strings.ReplaceAll(globalBlock, "\t\tencryption_key {env.MP_TEST_KEY}\n", "")+sessionSite+egressSite))
	require.NoError(t, err)
	require.NoError(t, caddy.StrictUnmarshalJSON([]byte(adapted), &config))
	require.NoError(t, caddy.Validate(&config))
	left, err := os.ReadDir(r.storage)
	require.NoError(t, err)
	require.Empty(t, left, "no key is generated and nothing is locked")
	require.Empty(t, r.sandbox.Requests())
}

// Caddy may come to the handlers first: their error is then the application's.
func TestAFaultOfTheApplicationIsToldAsSuchByItsHandlersToo(t *testing.T) {
	r := newRig(t)
	for range 8 {
		err := r.tryLoad(strings.Replace(globalBlock, "		client_id CLIENT_ID\n", "", 1) + sessionSite)
		require.ErrorContains(t, err, "applications.default.client_id is missing")
		require.NotContains(t, err.Error(), "no application is configured")
	}
}

func TestOnAStorageThatIsNotTheFileSystemAKeyIsRequired(t *testing.T) {
	a := &App{logger: zap.NewNop(), storage: storetest.NewMemory()}
	require.ErrorContains(t, a.provisionKeys(), "encryption_key is missing")
}
