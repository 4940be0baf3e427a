package mercadopago

import (
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/stretchr/testify/require"
)

// site is the address of one of a shop's sites, by what it is for.
func (m *market) site(purpose string, s *shop) string {
	return "http://" + purpose + "-" + s.name + ".localhost:" + m.port
}

const marketGlobals = `{
	admin off
	persist_config off
	auto_https off
	default_bind 127.0.0.1
	grace_period 10s
	storage file_system STORAGE
	log {
		output discard
	}
	mercadopago {
		encryption_key {env.MP_TEST_KEY}
		%s
	}
}
`

const marketApplication = `
		application %s {
			client_id %s
			client_secret {env.MP_TEST_SECRET}
			redirect_uri %s/callback
			endpoints {
				authorize API/authorization
				api API
			}
		}
`

// A proxy whose configuration is gone keeps the connections of its last requests
// for as long as they may be idle.
const marketTransport = `transport http {
			keepalive 1s
		}`

// The app is told whom it is for, to compare it with the token.
const marketApp = `
	reverse_proxy APP {
		header_up X-Told-Application {http.mercadopago.application}
		header_up X-Told-Seller {http.mercadopago.seller}
		header_up X-Told-User {http.mercadopago.user_id}
		TRANSPORT
	}
`

// Most requests end in Caddy itself, which costs less than an app behind.
const marketPages = `
	reverse_proxy /orders APP {
		header_up X-Told-Application {http.mercadopago.application}
		header_up X-Told-Seller {http.mercadopago.seller}
		header_up X-Told-User {http.mercadopago.user_id}
		TRANSPORT
	}
	respond <<LINES
		{http.request.header.X-Request}
		{http.request.header.Authorization}
		{http.mercadopago.application}
		{http.mercadopago.seller}
		{http.mercadopago.user_id}

		LINES
`

// caddyfile is the market's configuration.
func (m *market) caddyfile() string {
	var applications, sites strings.Builder
	for _, s := range m.shops {
		fmt.Fprintf(&applications, marketApplication, s.name, s.clientID, m.site("pages", s))
		add := func(purpose, options, next string) {
			fmt.Fprintf(&sites, "%s {\n\theader X-Turn first\n\tmercadopago {\n\t\tapplication %s\n\t\t%s\n\t}\n\t%s\n}\n", m.site(purpose, s), s.name, options, next)
		}
		const named = "seller {http.request.header.X-User}\n\t\t"
		if s.sessions {
			add("pages", "", marketPages)
			add("named", named+"connect off", marketApp)
		} else {
			add("pages", named, marketPages)
		}
		add("pass", named+"connect off\n\t\tunconnected pass", marketApp)
		add("own", "as_application", marketApp)
		add("egress", named+"egress", "reverse_proxy API {\n\t\theader_up -X-User\n\t\tTRANSPORT\n\t}")
	}
	return m.vars.Replace(fmt.Sprintf(marketGlobals, applications.String()) + sites.String())
}

// adapted makes what Caddy loads: the configuration, and one that fails when
// its servers start, for then its applications may have started.
func (m *market) adapted(taken string) (good, bad string) {
	adapt := func(text string) string {
		adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
		require.NoError(m.t, err)
		return string(adapted)
	}
	return adapt(m.caddyfile()), adapt(m.caddyfile() + "http://" + taken + " {\n\trespond taken\n}\n")
}
