package mercadopago

import (
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"
	"unicode"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// defaultRenewBefore leaves a month for trouble to be noticed and mended: the
// provider's tokens live 180 days.
const defaultRenewBefore = 30 * 24 * time.Hour

// Application is one application in Mercado Pago's or Mercado Libre's developer
// dashboard. Placeholders in its values are resolved when the configuration is
// loaded, so `{env.…}` and `{file./…}` keep secrets out of the configuration.
type Application struct {
	// The application's number in the dashboard. Required.
	ClientID string `json:"client_id,omitempty"`

	// The application's client secrets. The first is used; the next are tried in
	// order only when the provider answers invalid_client, so that a secret can
	// be renewed without a gap. At least one is required.
	ClientSecrets []string `json:"client_secrets,omitempty"`

	// The address in the dashboard to which the provider sends a seller back,
	// character for character: any difference ends at an error page of the
	// provider. Its path serves the callback; its scheme and host are this
	// platform's public address. https, except on a loopback host. Required, and
	// unique per application.
	RedirectURI string `json:"redirect_uri,omitempty"`

	// `mercadopago` (the default) or `mercadolibre`.
	Provider string `json:"provider,omitempty"`

	// The country whose consent page sellers see: ar, br, cl, co, mx, pe or uy.
	// Default: the provider's global page. Mercado Libre has no global page.
	Country string `json:"country,omitempty"`

	// Whether to use PKCE (RFC 7636, S256). Default: true. Set it to false only
	// if the dashboard does not know it.
	PKCE *bool `json:"pkce,omitempty"`

	// Whether to ask for test tokens: sellers pay and are paid with test money.
	// Default: false.
	TestToken bool `json:"test_token,omitempty"`

	// How long before its end a token is renewed, but not before a sixth of its
	// life has passed. A token that lives less than 90 days is renewed when a third
	// of its life is left. Default: 30d.
	RenewBefore caddy.Duration `json:"renew_before,omitempty"`

	// The secrets by which notifications are known to be Mercado Pago's, as the
	// dashboard shows it below the address of the webhook. Any of them will do, so
	// that it can be renewed without a gap. Required by a handler's webhook.
	WebhookSecrets []string `json:"webhook_secrets,omitempty"`

	// Addresses in place of the provider's own, for a sandbox and for tests.
	Endpoints *Endpoints `json:"endpoints,omitempty"`

	client         *oauth.Client
	webhookSecrets []secret.Secret
}

// Endpoints are addresses in place of the provider's own.
type Endpoints struct {
	// The consent page.
	Authorize string `json:"authorize,omitempty"`
	// The API, without a path: `/oauth/token` and `/users/me` are under it.
	API string `json:"api,omitempty"`
	// The value that `iss` in a callback must have, if it has one (RFC 9207).
	Issuer string `json:"issuer,omitempty"`
}

var clientIDPattern = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// provision resolves and checks the application. The place is its name in the
// JSON configuration, for errors.
func (p *Application) provision(a *App, place string) error {
	clientID, err := resolve(place+".client_id", p.ClientID)
	if err != nil {
		return err
	}
	if !clientIDPattern.MatchString(clientID) {
		return fmt.Errorf("%s.client_id %q: a client id is a number, as in the dashboard", place, clientID)
	}
	if len(p.ClientSecrets) == 0 {
		return fmt.Errorf("%s.client_secrets is missing: write client_secret {env.MP_CLIENT_SECRET}, or another placeholder that holds it", place)
	}
	clientSecrets, err := a.resolveSecrets(place+".client_secrets", p.ClientSecrets)
	if err != nil {
		return err
	}
	if p.webhookSecrets, err = a.resolveSecrets(place+".webhook_secrets", p.WebhookSecrets); err != nil {
		return err
	}
	redirectURI, err := p.redirectURI(place + ".redirect_uri")
	if err != nil {
		return err
	}
	provider, err := p.provider(place)
	if err != nil {
		return err
	}
	if p.RenewBefore < 0 {
		return fmt.Errorf("%s.renew_before is negative: write a duration such as 30d", place)
	}
	p.client = oauth.NewClient(oauth.Config{
		ClientID:      clientID,
		ClientSecrets: clientSecrets,
		RedirectURI:   redirectURI,
		Provider:      provider,
		PKCE:          p.PKCE == nil || *p.PKCE,
		TestToken:     p.TestToken,
		Now:           now,
	})
	return nil
}

func (p *Application) renewBefore() time.Duration {
	if p.RenewBefore == 0 {
		return defaultRenewBefore
	}
	return time.Duration(p.RenewBefore)
}

func (p *Application) redirectURI(place string) (string, error) {
	text, err := resolve(place, p.RedirectURI)
	if err != nil {
		return "", err
	}
	u, err := publicURL(text)
	if err != nil {
		return "", fmt.Errorf("%s %q: %w", place, text, err)
	}
	if u.Path == "" || u.Path == "/" {
		return "", fmt.Errorf("%s %q: it needs a path of its own for the callback, such as /connect/callback", place, text)
	}
	if u.RawQuery != "" || u.ForceQuery {
		return "", fmt.Errorf("%s %q: it must have no query; the provider adds one", place, text)
	}
	return text, nil
}

func (p *Application) provider(place string) (oauth.Provider, error) {
	preset, err := oauth.Preset(p.Provider, p.Country)
	if err != nil {
		return oauth.Provider{}, fmt.Errorf("%s: %w", place, err)
	}
	if p.Endpoints == nil {
		return preset, nil
	}
	for _, endpoint := range []struct {
		name, text string
		into       *string
	}{
		{"authorize", p.Endpoints.Authorize, &preset.AuthorizeURL},
		{"api", p.Endpoints.API, &preset.API},
	} {
		if endpoint.text == "" {
			continue
		}
		where := fmt.Sprintf("%s.endpoints.%s", place, endpoint.name)
		text, err := resolve(where, endpoint.text)
		if err != nil {
			return oauth.Provider{}, err
		}
		u, err := publicURL(text)
		if err != nil {
			return oauth.Provider{}, fmt.Errorf("%s %q: %w", where, text, err)
		}
		*endpoint.into = strings.TrimSuffix(u.String(), "/")
	}
	if p.Endpoints.Issuer != "" {
		if preset.Issuer, err = resolve(place+".endpoints.issuer", p.Endpoints.Issuer); err != nil {
			return oauth.Provider{}, err
		}
	}
	return preset, nil
}

// publicURL parses an absolute https address. http is for loopback hosts, where
// nobody listens in between.
func publicURL(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Opaque != "" {
		return nil, fmt.Errorf("not an address: write it whole, such as https://shop.example.com/connect/callback")
	}
	if strings.ContainsFunc(u.Host, func(r rune) bool { return r > unicode.MaxASCII }) {
		return nil, fmt.Errorf("write the host as browsers send it, in letters that begin with xn--")
	}
	if u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("an address here has neither user nor #fragment")
	}
	switch {
	case u.Scheme == "https":
	case u.Scheme == "http" && loopback(u.Hostname()):
	default:
		return nil, fmt.Errorf("it must begin with https://; http:// is for a loopback host only, because tokens and codes would travel in clear")
	}
	return u, nil
}

func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// missing is what to write for a value that is required, by its field.
var missing = map[string]string{
	"dsn":          "dsn {env.DATABASE_URL}, or another placeholder that holds the address of the database",
	"client_id":    "client_id {env.MP_CLIENT_ID}, or the number from the dashboard",
	"redirect_uri": "redirect_uri with the address from the dashboard, such as https://shop.example.com/connect/callback",
}

// resolve replaces the placeholders of a configured value. The place names the
// field in errors.
func resolve(place, text string) (string, error) {
	if text == "" {
		return "", fmt.Errorf("%s is missing: write %s", place, missing[place[strings.LastIndexByte(place, '.')+1:]])
	}
	value, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil && isPlaceholder(text) {
		return "", fmt.Errorf("%s: %s is empty or unknown where Caddy runs: set it there", place, text)
	}
	if err != nil || value == "" {
		// The text may be a secret that contains braces, so the error quotes none of it.
		return "", fmt.Errorf("%s: a placeholder in it is empty or unknown; write a literal brace as \\{", place)
	}
	return value, nil
}

// resolveSecret is [resolve] for a secret. It warns about one that stands in the
// configuration itself, where the admin API and its autosave show it.
func (a *App) resolveSecret(place, text string) (secret.Secret, error) {
	value, err := resolve(place, text)
	if err != nil {
		return secret.Secret{}, err
	}
	if !isPlaceholder(text) {
		a.logger.Warn("a secret stands in the configuration in clear; use a placeholder such as {env.NAME} or {file./path}, so that it shows in no config dump", zap.String("field", place))
	}
	value = strings.TrimSpace(value)
	if value == "" {
		return secret.Secret{}, fmt.Errorf("%s: %s is blank where Caddy runs: set it there", place, shown(text))
	}
	return secret.New(value), nil
}

func (a *App) resolveSecrets(place string, texts []string) ([]secret.Secret, error) {
	var secrets []secret.Secret
	for i, text := range texts {
		resolved, err := a.resolveSecret(fmt.Sprintf("%s[%d]", place, i), text)
		if err != nil {
			return nil, err
		}
		secrets = append(secrets, resolved)
	}
	return secrets, nil
}

// aPlaceholder is one placeholder and nothing else. Each has a dot in its name: a
// secret in braces has none, as a rule, and two of them may have one between.
var aPlaceholder = regexp.MustCompile(`^\{[a-z_]+\.[^{}]+\}$`)

func isPlaceholder(text string) bool { return aPlaceholder.MatchString(text) }

// shown returns a configured value for an error: only a placeholder, never
// what may be a secret.
func shown(text string) string {
	if isPlaceholder(text) {
		return text
	}
	return "given literally"
}
