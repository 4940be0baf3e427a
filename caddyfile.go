package mercadopago

import (
	"encoding/json"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
)

func init() {
	httpcaddyfile.RegisterGlobalOption(appName, parseGlobal)
	httpcaddyfile.RegisterHandlerDirective(appName, parseHandler)
	// After basic_auth and forward_auth, which identify the seller, and before handle, so that
	// one directive covers a whole site.
	httpcaddyfile.RegisterDirectiveOrder(appName, httpcaddyfile.After, "request_header")
}

// parseGlobal parses the global option. Syntax:
//
//	mercadopago {
//		client_id      <id>
//		client_secret  <secret> [<older>...]
//		redirect_uri   <url>
//		encryption_key <key> [<older>...]
//		provider       mercadopago|mercadolibre
//		country        ar|br|cl|co|mx|pe|uy
//		pkce           on|off
//		test_token     on|off
//		renew_before   <duration>
//		webhook_secret <secret> [<older>...]
//		endpoints {
//			authorize <url>
//			api       <url>
//			issuer    <url>
//		}
//		cache_size     <number>
//		renewal {
//			parallel   <number>
//			walk_every <duration>
//			walk_rate  <accounts a minute>
//		}
//		store postgres <dsn> {
//			schema          <name>
//			table_prefix    <prefix>
//			max_connections <number>
//			query_timeout   <duration>
//		}
//		application <name> {
//			# all of the above, but encryption_key, cache_size, renewal and store
//		}
//	}
func parseGlobal(d *caddyfile.Dispenser, existing any) (any, error) {
	if existing != nil {
		d.Next() // so that the error names file and line
		return nil, d.Err("the global block mercadopago is there already: write its options in one block")
	}
	app := new(App)
	if err := app.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: appName, Value: caddyconfig.JSON(app, nil)}, nil
}

// UnmarshalCaddyfile sets up the app from the global option; see parseGlobal for
// its syntax.
func (a *App) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	a.Applications = make(map[string]*Application)
	var direct Application
	seen := make(once)
	for d.NextBlock(0) {
		switch option := d.Val(); option {
		case "encryption_key":
			if err := seen.note(d); err != nil {
				return err
			}
			a.EncryptionKeys = d.RemainingArgs()
			if len(a.EncryptionKeys) == 0 {
				return d.ArgErr()
			}
		case "cache_size":
			if err := seen.note(d); err != nil {
				return err
			}
			if err := number(d, mostCacheSize, &a.CacheSize); err != nil {
				return err
			}
		case "renewal":
			if err := seen.note(d); err != nil {
				return err
			}
			a.Renewal = new(Renewal)
			if err := a.Renewal.unmarshal(d); err != nil {
				return err
			}
		case "store":
			if err := seen.note(d); err != nil {
				return err
			}
			if err := a.unmarshalStore(d); err != nil {
				return err
			}
		case "application":
			if err := a.unmarshalApplication(d); err != nil {
				return err
			}
		default:
			if err := direct.unmarshalOption(d, seen); err != nil {
				return err
			}
			if _, ok := a.Applications[defaultApplication]; !ok {
				a.Applications[defaultApplication] = &direct
			}
		}
	}
	return nil
}

func (a *App) unmarshalStore(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.ArgErr()
	}
	name := d.Val()
	if _, err := caddy.GetModule(storesNamespace + "." + name); err != nil {
		return d.Errf("store %s: there is no such store here: write postgres, or leave the option out for Caddy's storage", name)
	}
	module, err := caddyfile.UnmarshalModule(d, storesNamespace+"."+name)
	if err != nil {
		return err
	}
	a.StoreRaw = caddyconfig.JSONModuleObject(module, "module", name, nil)
	return nil
}

// UnmarshalCaddyfile sets up the store from the option; see parseGlobal for its
// syntax.
func (p *PostgresStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if err := oneArg(d, &p.DSN); err != nil {
		return err
	}
	seen := make(once)
	for d.NextBlock(0) {
		if err := seen.note(d); err != nil {
			return err
		}
		var err error
		switch option := d.Val(); option {
		case "schema":
			err = oneArg(d, &p.Schema)
		case "table_prefix":
			err = oneArg(d, &p.TablePrefix)
		case "max_connections":
			err = number(d, postgres.MostConnections, &p.MaxConnections)
		case "query_timeout":
			err = duration(d, &p.QueryTimeout)
		default:
			err = d.Errf("unrecognized option '%s' of store postgres: write schema, table_prefix, max_connections or query_timeout", option)
		}
		if err != nil {
			return err
		}
		config := p.config()
		if err := config.Validate(); err != nil {
			return d.Err(err.Error())
		}
	}
	return nil
}

func (a *App) unmarshalApplication(d *caddyfile.Dispenser) error {
	var name string
	if !d.AllArgs(&name) {
		return d.ArgErr()
	}
	if name == defaultApplication {
		return d.Err("application default is the one whose options stand directly in the block mercadopago: write them there, or give this one another name")
	}
	if _, ok := a.Applications[name]; ok {
		return d.Errf("application %s is there already", name)
	}
	application := new(Application)
	seen := make(once)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := application.unmarshalOption(d, seen); err != nil {
			return err
		}
	}
	a.Applications[name] = application
	return nil
}

// unmarshalOption parses the option of an application at which d stands.
func (p *Application) unmarshalOption(d *caddyfile.Dispenser, seen once) error {
	if err := seen.note(d); err != nil {
		return err
	}
	switch option := d.Val(); option {
	case "client_id":
		return oneArg(d, &p.ClientID)
	case "client_secret":
		p.ClientSecrets = d.RemainingArgs()
		if len(p.ClientSecrets) == 0 {
			return d.ArgErr()
		}
		return nil
	case "redirect_uri":
		return oneArg(d, &p.RedirectURI)
	case "provider":
		return oneArg(d, &p.Provider)
	case "country":
		return oneArg(d, &p.Country)
	case "pkce":
		on, err := onOff(d)
		p.PKCE = &on
		return err
	case "test_token":
		on, err := onOff(d)
		p.TestToken = on
		return err
	case "renew_before":
		return duration(d, &p.RenewBefore)
	case "webhook_secret":
		p.WebhookSecrets = d.RemainingArgs()
		if len(p.WebhookSecrets) == 0 {
			return d.ArgErr()
		}
		return nil
	case "endpoints":
		return p.unmarshalEndpoints(d)
	default:
		return d.Errf("unrecognized option '%s' of mercadopago", option)
	}
}

func (p *Application) unmarshalEndpoints(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	p.Endpoints = new(Endpoints)
	seen := make(once)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.note(d); err != nil {
			return err
		}
		var err error
		switch option := d.Val(); option {
		case "authorize":
			err = oneArg(d, &p.Endpoints.Authorize)
		case "api":
			err = oneArg(d, &p.Endpoints.API)
		case "issuer":
			err = oneArg(d, &p.Endpoints.Issuer)
		default:
			err = d.Errf("unrecognized endpoint '%s': write authorize, api or issuer", option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Renewal) unmarshal(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	seen := make(once)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.note(d); err != nil {
			return err
		}
		var err error
		switch option := d.Val(); option {
		case "parallel":
			err = number(d, mostRenewalParallel, &r.Parallel)
		case "walk_every":
			err = duration(d, &r.WalkEvery)
		case "walk_rate":
			err = number(d, mostRenewalWalkRate, &r.WalkRate)
		default:
			err = d.Errf("unrecognized option '%s' of renewal: write parallel, walk_every or walk_rate", option)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// parseHandler parses the directive; see [Handler.UnmarshalCaddyfile]. What it
// can know of the global block it checks here, where file and line are known.
func parseHandler(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	if err := handler.UnmarshalCaddyfile(h.Dispenser); err != nil {
		return nil, err
	}
	global, ok := h.Option(appName).(httpcaddyfile.App)
	if !ok {
		return nil, h.Err("the global block mercadopago is missing: write one with client_id, client_secret and redirect_uri at the top of the file")
	}
	var app struct {
		Applications map[string]json.RawMessage `json:"applications"`
	}
	if err := json.Unmarshal(global.Value, &app); err != nil {
		return nil, err
	}
	name := handler.Application
	if name == "" {
		name = defaultApplication
	}
	if _, ok := app.Applications[name]; !ok {
		if name == defaultApplication {
			return nil, h.Err("the global block mercadopago has no options of its own: write application <name> here, or client_id and the rest there")
		}
		return nil, h.Errf("application %s is not in the global block mercadopago", name)
	}
	return handler, nil
}

// UnmarshalCaddyfile sets up the handler from Caddyfile tokens. Syntax:
//
//	mercadopago [<matcher>] {
//		application      <name>
//		seller           <text with placeholders>
//		as_application
//		connect          <path>|off
//		confirm          on|off
//		inject           <header> [<scheme>] | off
//		unconnected      redirect|reject|pass
//		return_to        <path>...
//		min_validity     <duration>
//		session_lifetime <duration>
//		webhook          <path> [pass]
//		egress
//		clients          <address or range>... | private_ranges
//		allow            <method>[,<method>...]|* <path>...
//		max_replay_body  <size>
//	}
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if d.NextArg() {
		return d.ArgErr()
	}
	var egress Egress
	var egressOnly string // an option that needs egress
	seen := make(once)
	for d.NextBlock(0) {
		if d.Val() == "allow" { // the one option that may come again
			egressOnly = "allow"
			if err := allow(d, &egress.Allow); err != nil {
				return err
			}
			continue
		}
		if err := seen.note(d); err != nil {
			return err
		}
		var err error
		switch option := d.Val(); option {
		case "egress":
			h.Egress = &egress
			err = noArgs(d)
		case "clients":
			egressOnly = option
			err = clients(d, &egress.Clients)
		case "max_replay_body":
			egressOnly = option
			err = size(d, &egress.MaxReplayBody)
		default:
			err = h.unmarshalOption(d)
		}
		if err != nil {
			return err
		}
	}
	// Without egress, clients and allow would be ignored and protect nothing.
	if egressOnly != "" && h.Egress == nil {
		return d.Errf("%s is for egress: write egress too, or remove it", egressOnly)
	}
	return nil
}

func (h *Handler) unmarshalOption(d *caddyfile.Dispenser) error {
	switch option := d.Val(); option {
	case "application":
		return oneArg(d, &h.Application)
	case "seller":
		return oneArg(d, &h.Seller)
	case "as_application":
		h.AsApplication = true
		return noArgs(d)
	case "connect":
		return oneArg(d, &h.Connect)
	case "confirm":
		on, err := onOff(d)
		h.Confirm = &on
		return err
	case "inject":
		return h.unmarshalInject(d)
	case "unconnected":
		if err := oneArg(d, &h.Unconnected); err != nil {
			return err
		}
		switch h.Unconnected {
		case unconnectedRedirect, unconnectedReject, unconnectedPass:
			return nil
		}
		return d.Errf("unconnected %s: write redirect, reject or pass", h.Unconnected)
	case "return_to":
		h.ReturnTo = d.RemainingArgs()
		for _, path := range h.ReturnTo {
			if !strings.HasPrefix(path, "/") {
				return d.Errf("return_to %s: write paths that begin with a slash", path)
			}
		}
		if len(h.ReturnTo) == 0 {
			return d.ArgErr()
		}
		return nil
	case "min_validity":
		return duration(d, &h.MinValidity)
	case "session_lifetime":
		return duration(d, &h.SessionLifetime)
	case "webhook":
		return h.unmarshalWebhook(d)
	default:
		return d.Errf("unrecognized subdirective '%s'", option)
	}
}

func (h *Handler) unmarshalInject(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 || (args[0] == off && len(args) == 2) {
		return d.ArgErr()
	}
	h.Inject = &Inject{Header: args[0]}
	if len(args) == 2 {
		h.Inject.Scheme = args[1]
	}
	return nil
}

func (h *Handler) unmarshalWebhook(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		return d.ArgErr()
	}
	h.Webhook = &Webhook{Path: args[0], Pass: len(args) == 2}
	if !strings.HasPrefix(args[0], "/") {
		return d.Errf("webhook %s: write a path that begins with a slash", args[0])
	}
	if len(args) == 2 && args[1] != "pass" {
		return d.Errf("webhook %s %s: after the path write pass, or nothing", args[0], args[1])
	}
	return nil
}

// Interface guards
var (
	_ caddyfile.Unmarshaler = (*App)(nil)
	_ caddyfile.Unmarshaler = (*Handler)(nil)
	_ caddyfile.Unmarshaler = (*PostgresStore)(nil)
)
