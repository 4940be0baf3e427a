package mercadopago

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/connect"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

func init() {
	caddy.RegisterModule(Handler{})
}

// off switches a string option off.
const off = "off"

// What a handler does for a seller who is not connected.
const (
	unconnectedRedirect = "redirect"
	unconnectedReject   = "reject"
	unconnectedPass     = "pass"
)

// Defaults of a handler.
const (
	defaultConnect         = "/connect"
	defaultMinValidity     = 5 * time.Minute
	defaultSessionLifetime = 30 * 24 * time.Hour
)

// Handler puts a seller's access token on requests and serves the pages by which
// sellers connect.
//
// Every request that it passes on has lost the client's own copies of the
// injected header, in every spelling, and our cookies. It is then given exactly
// one token, of exactly the seller that was asked for; or it is answered here:
// with a redirect to the connect pages, or with a problem document (RFC 9457).
//
// These placeholders tell later handlers whom a request acts for. They are empty
// where there is nothing to tell. There is none for the token.
//
// Placeholder | Description
// ------------|-------------
// `{http.mercadopago.seller}` | the seller
// `{http.mercadopago.user_id}` | the number of the seller's Mercado Pago account
// `{http.mercadopago.public_key}` | the public key that came with the token
// `{http.mercadopago.live_mode}` | `true` for a live account, `false` for a test one
// `{http.mercadopago.application}` | the application
type Handler struct {
	// The application to act through. Default: `default`.
	Application string `json:"application,omitempty"`

	// Who the seller of a request is: a text with placeholders, such as
	// `{http.auth.user.id}`. If a placeholder in it is empty or unknown there is
	// no seller. Default: the seller that this browser connected as, by the
	// session cookie; a Mercado Pago user id.
	Seller string `json:"seller,omitempty"`

	// Whether to inject the application's own token (client_credentials) in place
	// of a seller's.
	AsApplication bool `json:"as_application,omitempty"`

	// The path under which the connect pages are served, or `off`. The callback
	// is served on the path of redirect_uri. Both are compared with the path that
	// the browser sent. Default: `/connect`; `off` with egress and
	// as_application.
	Connect string `json:"connect,omitempty"`

	// Whether a person is asked, by a page that names the seller and the
	// account, before a connection is made. Default: true with `seller`; false in
	// session mode, where the account is the seller.
	Confirm *bool `json:"confirm,omitempty"`

	// The header that carries the token.
	Inject *Inject `json:"inject,omitempty"`

	// What happens to the request of a seller who is not connected, or must
	// reconnect. `redirect` sends a browser's navigation to the connect pages and
	// rejects the rest; `reject` answers 403 with connect_url; `pass` passes the
	// request on without any token. Default: `redirect`; `reject` where there are
	// no connect pages; `pass` where nothing is injected.
	Unconnected string `json:"unconnected,omitempty"`

	// The paths to which a connect flow may come back, each exact or with a `*` at
	// its end. Default: any path of redirect_uri's origin.
	ReturnTo []string `json:"return_to,omitempty"`

	// How long a token must at least live on when it is injected; one that lives
	// shorter is renewed first. Default: 5m.
	MinValidity caddy.Duration `json:"min_validity,omitempty"`

	// How long a browser's session lasts. Default: 30d.
	SessionLifetime caddy.Duration `json:"session_lifetime,omitempty"`

	// Where Mercado Pago's notifications arrive. Not together with egress.
	// Default: nowhere.
	Webhook *Webhook `json:"webhook,omitempty"`

	// Set when what follows is Mercado Pago's API, called by apps.
	Egress *Egress `json:"egress,omitempty"`

	logger *zap.Logger
	app    *App
	flow   *connect.Flow // nil where there are neither pages nor sessions
	pages  bool
	seller template
}

// CaddyModule returns the Caddy module information.
func (Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers." + appName,
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision sets up the handler. It touches neither network nor storage.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	configured, err := ctx.AppIfConfigured(appName)
	if errors.Is(err, caddy.ErrNotConfigured) {
		return fmt.Errorf("no application is configured: write a global block mercadopago with client_id, client_secret and redirect_uri: %w", err)
	}
	if err != nil {
		return err // it says what is wrong with the applications
	}
	h.app = configured.(*App)
	if err := h.checkIdle(); err != nil {
		return err
	}
	h.setDefaults()
	application, ok := h.app.Applications[h.Application]
	if !ok {
		return fmt.Errorf("application %q is not configured in the global block mercadopago", h.Application)
	}
	if err := h.check(); err != nil {
		return err
	}
	if h.seller, err = parseTemplate(h.Seller); err != nil {
		return fmt.Errorf("seller: %w", err)
	}
	if h.Egress != nil {
		if err := h.Egress.provision(); err != nil {
			return err
		}
	}
	if h.Webhook != nil {
		if err := h.Webhook.provision(h.Application, application); err != nil {
			return err
		}
	}
	if h.injects() && !strings.EqualFold(h.Inject.Header, "Authorization") {
		h.logger.Warn("the token is injected in a header that Caddy does not mask in its logs; at level DEBUG it is printed there in clear",
			zap.String("header", h.Inject.Header))
	}
	if h.Egress != nil || h.AsApplication {
		return nil
	}
	return h.provisionFlow(application)
}

func (h *Handler) provisionFlow(application *Application) error {
	h.pages = h.Connect != off
	prefix := h.Connect
	if !h.pages {
		prefix = defaultConnect // for sessions only; nothing is served there
	}
	var err error
	h.flow, err = connect.New(connect.Config{
		Application: h.Application,
		Client:      application.client,
		Source:      h.app.source,
		Prefix:      prefix,
		SellerMode:  h.Seller != "",
		Confirm:     *h.Confirm,
		ReturnTo:    h.ReturnTo,
		SessionTTL:  time.Duration(h.SessionLifetime),
		Logger:      h.logger,
		Now:         now,
	})
	if err != nil {
		return err
	}
	if !h.pages {
		return nil
	}
	if h.Webhook != nil {
		if _, taken := h.flow.Match(h.Webhook.Path); taken {
			return fmt.Errorf("webhook %s: a connect page or the callback is there; write a path of its own", h.Webhook.Path)
		}
	}
	h.app.pages.offer(h.Application, h.flow)
	return nil
}

// ServeHTTP answers what is ours, and passes on the rest with the seller's token.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if code := h.refuses(r); code != "" {
		h.tell(r, "")
		h.refuse(w, r, connect.Problem{Code: code})
		return nil
	}
	if h.Webhook.isFor(r) {
		return h.serveWebhook(w, r, next)
	}
	seller := h.seller.fill(r)
	if h.pages && h.serveConnect(w, r, seller) {
		h.tell(r, seller)
		return nil
	}
	token, err := h.token(w, r, &seller)
	if err == nil || h.passes(seller, err) {
		return h.pass(w, r, next, seller, token)
	}
	h.tell(r, seller)
	h.explain(w, r, seller, err)
	return nil
}

// tell tells whom a request is of that gets no token.
func (h *Handler) tell(r *http.Request, seller string) {
	(&placeholders{application: h.Application, seller: seller}).tell(r)
}

// refuses returns the code of the problem for a request that nobody may make, or
// "".
func (h *Handler) refuses(r *http.Request) string {
	if r.Method == http.MethodTrace && h.injects() {
		// Many servers answer it with the request's header: the token would go to
		// the client (RFC 9110 §9.3.8).
		return connect.CodeMethodNotAllowed
	}
	if h.Egress == nil {
		return ""
	}
	return h.Egress.refuses(r)
}

// serveConnect answers a request for the connect pages, and reports whether it
// was one.
func (h *Handler) serveConnect(w http.ResponseWriter, r *http.Request, seller string) bool {
	requested := requestedURL(r)
	page, ok := h.flow.Match(requested.EscapedPath())
	if !ok {
		return false
	}
	switch page {
	case connect.PageConnect, connect.PageCallback, connect.PageLink:
		// These stay out of the access log. The callback's address holds the code. A
		// link's address could be used by a reader of the log before the seller. The
		// connect page's Location holds the state.
		caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	case connect.PageFinish, connect.PageConfirm, connect.PageDisconnect:
	}
	h.flow.Serve(w, r, page, requested, seller)
	return true
}

// token returns the token to inject. In session mode it fills in the seller.
func (h *Handler) token(w http.ResponseWriter, r *http.Request, seller *string) (*tokensource.Token, error) {
	minValidity := time.Duration(h.MinValidity)
	if h.AsApplication {
		return h.app.source.ApplicationToken(r.Context(), h.Application, minValidity)
	}
	if h.Seller != "" {
		if *seller == "" {
			return nil, errNobody
		}
		return h.app.source.Token(r.Context(), h.Application, *seller, minValidity)
	}
	named, connectionID, err := h.flow.Session(r)
	if err != nil {
		return nil, &tokensource.Error{Status: tokensource.Connected, Reason: tokensource.ReasonStore, Err: err}
	}
	if named == "" {
		return nil, errNoSession
	}
	token, err := h.app.source.Token(r.Context(), h.Application, named, minValidity)
	if err == nil && token.Connection() == connectionID {
		*seller = named
		return token, nil
	}
	// Only the store decides whether the session is over. Without a token the
	// connection is unknown here, and memory may lag behind a connection that
	// another instance has just made.
	stands, lookup := h.app.source.Connection(r.Context(), h.Application, named)
	switch {
	case lookup != nil && !mendable(lookup):
		return nil, lookup
	case lookup != nil || stands.ID != connectionID:
		// Disconnected since, perhaps connected anew by another browser.
		h.flow.EndSession(w)
		return nil, errNoSession
	case err == nil:
		return nil, errLags
	}
	*seller = named
	return nil, err
}

var (
	// errNobody says that the request names no seller. Asking who it is belongs
	// to the layer in front.
	errNobody = errors.New("the request names no seller")
	// errNoSession says that this browser is not connected.
	errNoSession = &tokensource.Error{Status: tokensource.NotConnected, Reason: tokensource.ReasonNotConnected}
	// errLags says that memory still has the connection before this one.
	errLags = &tokensource.Error{Status: tokensource.Connected, Reason: tokensource.ReasonStore}
)

// passes reports whether a request is passed on without a token. If a token would be
// injected, a temporary failure is no reason for that: the app would treat a connected
// seller as one who is not connected. If nothing is injected, knowing the seller is
// enough.
func (h *Handler) passes(seller string, err error) bool {
	if h.Unconnected != unconnectedPass {
		return false
	}
	return !h.injects() && seller != "" || errors.Is(err, errNobody) || mendable(err)
}

// mendable reports whether the seller can mend it, by connecting.
func mendable(err error) bool {
	var failure *tokensource.Error
	return errors.As(err, &failure) && failure.Status != tokensource.Connected
}

// explain answers a request for which there is no token.
func (h *Handler) explain(w http.ResponseWriter, r *http.Request, seller string, err error) {
	if errors.Is(err, errNobody) {
		h.refuse(w, r, connect.Problem{Code: connect.CodeNoSeller})
		return
	}
	var failure *tokensource.Error
	if !errors.As(err, &failure) {
		failure = &tokensource.Error{Status: tokensource.Connected, Reason: tokensource.ReasonProvider, Err: err}
	}
	if h.Unconnected == unconnectedRedirect && mendable(err) && navigates(r) {
		w.Header().Set("Cache-Control", "no-store")
		http.Redirect(w, r, h.flow.ConnectURL(requestedURL(r).RequestURI()), http.StatusSeeOther)
		return
	}
	problem := connect.Problem{Code: connect.CodeUnavailable, Reason: failure.Reason, RetryAfter: failure.RetryAfter, Seller: seller}
	switch failure.Status {
	case tokensource.NotConnected:
		problem.Code = connect.CodeNotConnected
		problem.ConnectURL = h.app.pages.url(h.Application)
	case tokensource.ReconnectRequired:
		problem.Code = connect.CodeReconnectRequired
		problem.ConnectURL = h.app.pages.url(h.Application)
	case tokensource.Connected:
		// Only time or the operator can mend it, so the operator is told.
		h.logger.Error("no token for a request", zap.String("application", h.Application), zap.String("seller", seller),
			zap.String("reason", failure.Reason), zap.Duration("retry_after", failure.RetryAfter), zap.Error(failure))
	}
	h.refuse(w, r, problem)
}

func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, problem connect.Problem) {
	if check := h.logger.Check(zap.DebugLevel, "request refused"); check != nil {
		check.Write(zap.String("application", h.Application), zap.String("reason", problem.Code))
	}
	connect.Refuse(w, r, problem)
}

// navigates reports whether a person waits for a page.
func navigates(r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		return false
	}
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate" && r.Header.Get("Sec-Fetch-Dest") == "document"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// requestedURL returns the address as the browser sent it, before any rewrite.
func requestedURL(r *http.Request) *url.URL {
	if original, ok := r.Context().Value(caddyhttp.OriginalRequestCtxKey).(http.Request); ok {
		return original.URL
	}
	return r.URL
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
