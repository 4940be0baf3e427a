package oauth

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Provider is who is spoken to, and how. [Preset] knows the real ones; each
// field can be replaced.
type Provider struct {
	// AuthorizeURL is the page where a seller consents.
	AuthorizeURL string
	// API is the base address of the API, the token endpoint included.
	API string
	// Issuer is what a callback's iss must equal, where both are set. No
	// preset sets it: the providers do not document theirs.
	Issuer string
	// PlatformID is sent with the authorization URL where it is set.
	PlatformID string
	// FormBody sends token requests as forms rather than as JSON.
	FormBody bool
	// Revokes tells that the provider has an endpoint that ends an
	// authorization.
	Revokes bool
}

// The hosts of the authorization page by country.
var (
	mercadoPagoHosts = map[string]string{
		"":   "auth.mercadopago.com",
		"ar": "auth.mercadopago.com.ar",
		"br": "auth.mercadopago.com.br",
		"cl": "auth.mercadopago.cl",
		"co": "auth.mercadopago.com.co",
		"mx": "auth.mercadopago.com.mx",
		"pe": "auth.mercadopago.com.pe",
		"uy": "auth.mercadopago.com.uy",
	}
	// Mercado Libre documents no host for all countries.
	mercadoLibreHosts = map[string]string{
		"ar": "auth.mercadolibre.com.ar",
		"br": "auth.mercadolivre.com.br",
		"cl": "auth.mercadolibre.cl",
		"co": "auth.mercadolibre.com.co",
		"mx": "auth.mercadolibre.com.mx",
		"pe": "auth.mercadolibre.com.pe",
		"uy": "auth.mercadolibre.com.uy",
	}
)

// Preset returns a provider by name: mercadopago (also for "") or mercadolibre,
// and a country: ar, br, cl, co, mx, pe or uy. An empty country is the host for
// all countries, which Mercado Libre does not have.
func Preset(provider, country string) (Provider, error) {
	preset := Provider{API: "https://api.mercadopago.com", PlatformID: "mp"}
	hosts := mercadoPagoHosts
	switch provider {
	case "", "mercadopago":
	case "mercadolibre":
		preset = Provider{API: "https://api.mercadolibre.com", FormBody: true, Revokes: true}
		hosts = mercadoLibreHosts
	default:
		return Provider{}, fmt.Errorf("unknown provider %q: write mercadopago or mercadolibre", provider)
	}
	host, known := hosts[country]
	if !known {
		countries := slices.Sorted(maps.Keys(hosts))
		list := strings.Join(slices.DeleteFunc(countries, func(c string) bool { return c == "" }), ", ")
		if country == "" {
			return Provider{}, fmt.Errorf("%s needs a country: write one of %s", provider, list)
		}
		return Provider{}, fmt.Errorf("unknown country %q: write one of %s", country, list)
	}
	preset.AuthorizeURL = "https://" + host + "/authorization"
	return preset, nil
}
