package mercadopago

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
)

func TestASellerWithAnEmptyOrUnknownPartIsNobody(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"{user}", "ana"},
		{"shop-{user}", "shop-ana"},
		{"{user}@{tenant}", "ana@uno"},
		{"shop-42", "shop-42"},
		{`\{user\}`, "{user}"},
		{`a\{{user}\}`, "a{ana}"},
		{"shop-{empty}", ""},
		{"{empty}", ""},
		{"shop-{unknown.placeholder}", ""},
		{"{unknown.placeholder}", ""},
		{"{user}{empty}", ""},
		{"{long}", ""},
		{"shop-{long}", ""},
		{"{tricky}", "{env.MP_TEST_SECRET}"},
		{"{http.request.header.X-Seller}", "ana"},
		{"shop-{http.request.header.x-seller}-{tenant}", "shop-ana-uno"},
		{"{http.request.header.X-Two}", "ana,eva"},
		{"shop-{http.request.header.X-Empty}", ""},
		{"shop-{http.request.header.X-None}", ""},
		{"{http.request.header.X-Tricky}", "{env.MP_TEST_SECRET}"},
		{"", ""},
	} {
		t.Run(test.text, func(t *testing.T) {
			t.Setenv("MP_TEST_SECRET", "canary")
			repl := caddy.NewReplacer()
			repl.Set("user", "ana")
			repl.Set("tenant", "uno")
			repl.Set("empty", "")
			repl.Set("long", strings.Repeat("x", maxSeller+1))
			repl.Set("tricky", "{env.MP_TEST_SECRET}")
			header := http.Header{"X-Seller": {"ana"}, "X-Two": {"ana", "eva"}, "X-Empty": {""}, "X-Tricky": {"{env.MP_TEST_SECRET}"}}
			parsed, err := parseTemplate(test.text)
			require.NoError(t, err)
			require.Equal(t, test.want, parsed.fill(asking(repl, header)))
		})
	}
}

// asking is a request as Caddy hands it on.
func asking(repl *caddy.Replacer, header http.Header) *http.Request {
	ctx := context.WithValue(context.Background(), caddy.ReplacerCtxKey, repl)
	return (&http.Request{Header: header}).WithContext(ctx)
}

func TestAPlaceholderThatIsNotClosedFailsAtLoad(t *testing.T) {
	for _, text := range []string{"{", "shop-{", "{}", "{a{b}}", "x{user"} {
		_, err := parseTemplate(text)
		require.ErrorContains(t, err, "placeholder", text)
	}
}

func FuzzSeller(f *testing.F) {
	f.Add("shop-{user}", "ana")
	f.Add("shop-{http.request.header.user}", "ana")
	f.Add(`\{{user}`, "{env.HOME}")
	f.Fuzz(func(t *testing.T, text, user string) {
		parsed, err := parseTemplate(text)
		if err != nil {
			return
		}
		repl := caddy.NewReplacer()
		repl.Set("user", user)
		header := http.Header{"User": {user}}
		seller := parsed.fill(asking(repl, header))
		require.LessOrEqual(t, len(seller), maxSeller)
		if user == "" && strings.Contains(text, "{user}") && !strings.Contains(text, `\`) {
			require.Empty(t, seller, "an empty part makes nobody")
		}
	})
}
