package mercadopago

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

func (h *Handler) setDefaults() {
	if h.Application == "" {
		h.Application = defaultApplication
	}
	if h.Connect == "" {
		h.Connect = defaultConnect
		if h.Egress != nil || h.AsApplication {
			h.Connect = off
		}
	}
	if h.Confirm == nil {
		confirm := h.Seller != ""
		h.Confirm = &confirm
	}
	if h.Inject == nil {
		h.Inject = &Inject{}
	}
	if h.Inject.Header == "" {
		h.Inject.Header = "Authorization"
	}
	if h.Inject.Scheme == "" && strings.EqualFold(h.Inject.Header, "Authorization") {
		h.Inject.Scheme = "Bearer"
	}
	if h.injects() {
		// Headers are maps: a name in any other form would miss the client's own copy.
		h.Inject.Header = http.CanonicalHeaderKey(h.Inject.Header)
	}
	if h.Unconnected == "" {
		switch {
		case !h.injects():
			h.Unconnected = unconnectedPass
		case h.Connect == off:
			h.Unconnected = unconnectedReject
		default:
			h.Unconnected = unconnectedRedirect
		}
	}
	if h.MinValidity == 0 {
		h.MinValidity = caddy.Duration(defaultMinValidity)
	}
	if h.SessionLifetime == 0 {
		h.SessionLifetime = caddy.Duration(defaultSessionLifetime)
	}
}

// check refuses what contradicts itself. Each error says what to write.
func (h *Handler) check() error {
	switch {
	case h.AsApplication && h.Seller != "":
		return errors.New("as_application and seller exclude each other: write the one whose token is meant")
	case h.AsApplication && h.Connect != off:
		return errors.New("as_application needs no connect pages: remove connect")
	case h.Connect != off && !strings.HasPrefix(h.Connect, "/"):
		return fmt.Errorf("connect %q: write a path that begins with a slash, or off", h.Connect)
	case !slices.Contains([]string{unconnectedRedirect, unconnectedReject, unconnectedPass}, h.Unconnected):
		return fmt.Errorf("unconnected %q: write redirect, reject or pass", h.Unconnected)
	case h.Unconnected == unconnectedRedirect && h.Connect == off:
		return errors.New("unconnected redirect needs connect pages to redirect to: write unconnected reject, or a connect path")
	case h.injects() && !isToken(h.Inject.Header):
		return fmt.Errorf("inject %q: not a header name", h.Inject.Header)
	case slices.Contains(uninjectable, h.Inject.Header):
		return fmt.Errorf("inject %s: a proxy sets or removes this header itself; write Authorization, or one of your own such as X-Mp-Token", h.Inject.Header)
	case h.injects() && h.Inject.Scheme != "" && !isToken(h.Inject.Scheme):
		return fmt.Errorf("inject %s %q: not a scheme; write one word such as Bearer", h.Inject.Header, h.Inject.Scheme)
	case h.MinValidity < 0:
		return errors.New("min_validity is negative: write a duration such as 5m")
	case h.SessionLifetime < 0:
		return errors.New("session_lifetime is negative: write a duration such as 30d")
	}
	if h.Egress == nil {
		return nil
	}
	switch {
	case h.Seller == "" && !h.AsApplication:
		return errors.New("egress has no sessions: write seller with a placeholder that names the seller, or as_application")
	case h.Webhook != nil:
		return errors.New("egress is for your own apps, and Mercado Pago does not come there: remove webhook, and write it in a public site")
	case h.Connect != off:
		return errors.New("egress serves no connect pages: remove connect, and write it where people come with browsers")
	case h.Unconnected == unconnectedPass:
		return errors.New("egress never calls the API without a token: remove unconnected pass")
	case !h.injects():
		return errors.New("egress is there to inject: remove inject off")
	}
	return nil
}

// uninjectable are the headers that would not arrive as they are set.
var uninjectable = []string{
	"Connection", "Content-Length", "Cookie", "Host", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// checkIdle refuses options that would do nothing, as long as it can be told
// what was written from what is a default.
func (h *Handler) checkIdle() error {
	pages := h.Connect != off && h.Egress == nil && !h.AsApplication
	switch {
	case h.AsApplication && (h.Unconnected == unconnectedPass || h.Inject != nil && h.Inject.Header == off):
		return errors.New("as_application is there to inject: remove unconnected pass or inject off")
	case h.Confirm != nil && !pages:
		return errors.New("confirm is a question of the connect pages, and this handler serves none: remove it")
	case h.ReturnTo != nil && !pages:
		return errors.New("return_to is where the connect pages lead, and this handler serves none: remove return_to")
	case h.SessionLifetime != 0 && (h.Seller != "" || h.Egress != nil || h.AsApplication):
		return errors.New("session_lifetime is for sessions, and this handler has none: remove it")
	}
	return nil
}

func (h *Handler) injects() bool { return h.Inject.Header != off }
