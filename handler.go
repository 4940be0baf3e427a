package mercadopago

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
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

// ServeHTTP answers what is ours, and passes on the rest with the seller's token.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if code := h.refuses(r); code != "" {
		tell(repl, h.Application, "", nil)
		h.refuse(w, r, connect.Problem{Code: code})
		return nil
	}
	if h.Webhook.isFor(r) {
		return h.serveWebhook(w, r, next)
	}
	seller := h.seller.fill(repl)
	if h.pages && h.serveConnect(w, r, seller) {
		tell(repl, h.Application, seller, nil)
		return nil
	}
	token, err := h.token(w, r, &seller)
	tell(repl, h.Application, seller, token)
	if err == nil || h.passes(seller, err) {
		return h.pass(w, r, next, token)
	}
	h.explain(w, r, seller, err)
	return nil
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
		// The address of the callback holds the code, that of a link what whoever
		// reads the access log could use before the seller does, and the Location
		// that the connect page answers with holds the state.
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
	if err == nil && token.Connection.ID == connectionID {
		*seller = named
		return token, nil
	}
	// Whether the session is over is for the store to say: without a token
	// nothing tells, and memory may lag behind a connection that another
	// instance has just made.
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

// passes reports whether a request goes on without a token. Where none is
// injected it is enough to know who the seller is.
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
