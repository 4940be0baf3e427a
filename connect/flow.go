// Package connect serves the pages with which a seller connects a Mercado Pago
// account: the way to the provider and back, the question before a connection is
// made, disconnecting, sessions and connect links. It also turns errors into
// pages for people and problem documents for programs.
//
// A walk goes connect → provider → callback → finish → (confirm) → return_to.
// The callback exchanges nothing: it moves on to finish from our own origin, so
// that the site's own login cookies are there when it matters who is asking.
package connect

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// Source is what a flow needs of a [tokensource.Source].
type Source interface {
	Exchange(ctx context.Context, application, code string, verifier secret.Secret) (tokensource.Consent, error)
	Connection(ctx context.Context, application, seller string) (tokenstore.Connection, error)
	Connect(ctx context.Context, seller string, consent tokensource.Consent) (tokenstore.Connection, error)
	Disconnect(ctx context.Context, c tokenstore.Connection) error
	Consume(ctx context.Context, state string, until time.Time) error
	Keyring(ctx context.Context) (*secret.Keyring, error)
}

// Config is what a flow is made of.
type Config struct {
	// Application is the application's name in the configuration. The session
	// cookie of "default", or "", is __Host-mp_session; others' have a suffix.
	Application string
	Client      *oauth.Client
	Source      Source
	// Prefix is the path of the connect pages, such as /connect.
	Prefix string
	// SellerMode says that the site tells who the seller is. Otherwise it is the
	// session that tells, and the account's user id is the seller's name.
	SellerMode bool
	// Confirm asks before each connection. Connect links, and whatever would make
	// money go to another account than before, are asked about always.
	Confirm bool
	// ReturnTo lists the paths a flow may come back to: a path, or one that ends
	// in *. nil allows any path of the origin.
	ReturnTo []string
	// SessionTTL is the life of a session; 0 is 30 days.
	SessionTTL time.Duration
	// Logger is told of each connect and each failure; nil is told nothing.
	Logger *zap.Logger
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// Page is one of a flow's pages.
type Page int

// The pages there are. The callback's address holds a code and a state: keep it
// out of the access log.
const (
	PageConnect Page = iota + 1
	PageCallback
	PageFinish
	PageConfirm
	PageDisconnect
	PageLink
)

const (
	hostPrefix       = "__Host-" // browsers then insist on Secure, Path=/ and no Domain
	plainPrefix      = "mp_"
	sessionTagSize   = 11
	defaultSession   = 30 * 24 * time.Hour
	defaultName      = "default" // of an application; its session cookie has no suffix
	maxQuery         = 6 << 10
	maxForm          = 8 << 10
	attemptParam     = "attempt"
	returnToParam    = "return_to"
	hopParam         = "hop"
	exchangeOverhead = 30 * time.Second // for the store, beside the provider's own deadline
)

// Flow serves the connect pages of one application on one site. It keeps nothing
// but its configuration: all that a walk needs travels in sealed cookies.
type Flow struct {
	application string
	client      *oauth.Client
	source      Source
	sellerMode  bool
	confirm     bool
	returnTo    []string
	sessionTTL  time.Duration
	log         *zap.Logger
	now         func() time.Time

	origin, host string // of redirect_uri, never of a request
	secure       bool
	pages        map[string]Page // by escaped path
	paths        map[Page]string

	tag           string // begins the ids of this application's attempts
	cookiePrefix  string
	sessionCookie string
	sessionNames  []string
	opened        openedSessions
}

// New returns a flow, or says what is wrong with its configuration. It touches
// no network and no store.
func New(c Config) (*Flow, error) {
	f := &Flow{
		opened:      openedSessions{seed: maphash.MakeSeed()},
		application: c.Application, client: c.Client, source: c.Source,
		sellerMode: c.SellerMode, confirm: c.Confirm, returnTo: slices.Clone(c.ReturnTo),
		sessionTTL: c.SessionTTL, log: c.Logger, now: c.Now,
	}
	if f.sessionTTL <= 0 {
		f.sessionTTL = defaultSession
	}
	if f.log == nil {
		f.log = zap.NewNop()
	}
	if f.now == nil {
		f.now = time.Now
	}
	redirect, err := f.takeOrigin(c.Client.RedirectURI())
	if err != nil {
		return nil, err
	}
	if err := f.takePaths(c.Prefix, redirect); err != nil {
		return nil, err
	}
	if err := checkReturnToPatterns(f.returnTo); err != nil {
		return nil, err
	}
	f.nameCookies()
	return f, nil
}

// takeOrigin reads the public address from redirect_uri. Host and X-Forwarded-*
// come from the client and may be forged.
func (f *Flow) takeOrigin(redirectURI string) (*url.URL, error) {
	u, err := url.Parse(redirectURI)
	if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" {
		return nil, fmt.Errorf("redirect_uri %q is not an address such as https://shop.example.com/connect/callback", redirectURI)
	}
	f.secure = u.Scheme == "https"
	if !f.secure && (u.Scheme != "http" || !isLoopback(u.Hostname())) {
		return nil, fmt.Errorf("redirect_uri %q must begin with https:// (plain http is for a loopback host)", redirectURI)
	}
	f.host = normalHost(u.Host, f.secure)
	f.origin = u.Scheme + "://" + f.host
	return u, nil
}

func (f *Flow) takePaths(prefix string, redirect *url.URL) error {
	u := &url.URL{Path: prefix}
	if !strings.HasPrefix(prefix, "/") || strings.HasSuffix(prefix, "/") || strings.Contains(prefix, "//") || strings.ContainsAny(prefix, "?#%*\\") {
		return fmt.Errorf("connect %q: write a path such as /connect, without a slash at its end", prefix)
	}
	base := u.EscapedPath()
	f.paths = map[Page]string{
		PageConnect: base, PageFinish: base + "/finish", PageConfirm: base + "/confirm",
		PageDisconnect: base + "/disconnect", PageLink: base + "/link",
		PageCallback: redirect.EscapedPath(),
	}
	f.pages = make(map[string]Page, len(f.paths))
	for p, path := range f.paths {
		f.pages[path] = p
	}
	if len(f.pages) < len(f.paths) {
		return fmt.Errorf("redirect_uri has the path %q, which is one of the connect pages under %q: give it another, such as %s/callback", redirect.EscapedPath(), prefix, base)
	}
	return nil
}

func (f *Flow) nameCookies() {
	f.cookiePrefix = plainPrefix
	if f.secure {
		f.cookiePrefix = hostPrefix + plainPrefix
	}
	sum := sha256.Sum256([]byte(f.client.ClientID() + "\x00" + f.application))
	f.tag = base64url.EncodeToString(sum[:])[:tagSize]
	f.sessionCookie = f.cookiePrefix + "session"
	if f.application != "" && f.application != defaultName {
		name := sha256.Sum256([]byte(f.application))
		f.sessionCookie += "_" + base64url.EncodeToString(name[:])[:sessionTagSize]
	}
	f.sessionNames = f.names(f.sessionCookie)
}

// names binds what is sealed to the application and to where it belongs.
func (f *Flow) names(place string) []string {
	return []string{f.client.ClientID(), f.application, place}
}

// Match returns the page that is served on a path, in its escaped form as the
// browser sent it, before any rewrite.
func (f *Flow) Match(escapedPath string) (Page, bool) {
	p, ok := f.pages[escapedPath]
	return p, ok
}

// ConnectURL returns the address where a seller begins to connect, and comes
// back to returnTo at the end. A returnTo that is not allowed is left out.
func (f *Flow) ConnectURL(returnTo string) string {
	address := f.origin + f.pagePath(PageConnect)
	if path, err := f.parseReturnTo(returnTo); err == nil && path != "" {
		address += "?" + url.Values{returnToParam: {path}}.Encode()
	}
	return address
}

func (f *Flow) pagePath(p Page) string { return f.paths[p] }

// turn is one request to a flow.
type turn struct {
	f       *Flow
	w       http.ResponseWriter
	r       *http.Request
	page    Page
	uri     *url.URL
	query   url.Values
	seller  string // whom the site says it is; "" is nobody, or session mode
	keyring *secret.Keyring
	now     time.Time
	attempt *attempt // once it is opened
}

var methods = map[Page][]string{
	PageConnect:    {http.MethodGet, http.MethodHead, http.MethodPost},
	PageCallback:   {http.MethodGet, http.MethodHead},
	PageFinish:     {http.MethodGet, http.MethodHead},
	PageConfirm:    {http.MethodGet, http.MethodHead, http.MethodPost},
	PageDisconnect: {http.MethodGet, http.MethodHead, http.MethodPost},
	PageLink:       {http.MethodGet, http.MethodHead, http.MethodPost},
}

// Serve answers a request for a page, always. requestURI is the address as the
// browser sent it, nil if that is r.URL; seller is whom the site says it is, "" for
// nobody and in session mode.
func (f *Flow) Serve(w http.ResponseWriter, r *http.Request, p Page, requestURI *url.URL, seller string) {
	if !f.sellerMode {
		seller = ""
	}
	t := &turn{f: f, w: w, r: r, page: p, uri: requestURI, seller: seller, now: f.now()}
	if t.uri == nil {
		t.uri = r.URL
	}
	if !slices.Contains(methods[p], r.Method) {
		w.Header().Set("Allow", strings.Join(methods[p], ", "))
		t.fail(CodeMethodNotAllowed, nil)
		return
	}
	if !t.readQuery() || t.elsewhere() || t.foreign() || !t.unlock() {
		return
	}
	map[Page]func(*turn){
		PageConnect: (*turn).connect, PageCallback: (*turn).callback, PageFinish: (*turn).finish,
		PageConfirm: (*turn).confirm, PageDisconnect: (*turn).disconnect, PageLink: (*turn).link,
	}[p](t)
}

func (t *turn) readQuery() bool {
	var err error
	if len(t.uri.RawQuery) > maxQuery {
		err = fmt.Errorf("a query of %d bytes, %d are allowed", len(t.uri.RawQuery), maxQuery)
	} else {
		t.query, err = url.ParseQuery(t.uri.RawQuery)
	}
	if err == nil {
		return true
	}
	// The parser's error quotes the query, and with it a code.
	t.fail(CodeBadRequest, errors.New("the query does not parse"))
	return false
}

// elsewhere redirects a browser that uses another host to redirect_uri's: the
// attempt's cookie must live where the callback arrives. It does so once: if a proxy
// in front rewrites Host, the browser would otherwise be redirected forever.
func (t *turn) elsewhere() bool {
	if t.page == PageCallback || t.r.Method == http.MethodPost || t.query.Has(hopParam) || normalHost(t.r.Host, t.f.secure) == t.f.host {
		return false
	}
	query := t.uri.Query()
	query.Set(hopParam, "1")
	t.redirect(t.f.origin + t.f.pagePath(t.page) + "?" + query.Encode())
	return true
}

// foreign refuses a form that was not sent by a page of ours.
func (t *turn) foreign() bool {
	if t.r.Method != http.MethodPost {
		return false
	}
	if origins := t.r.Header["Origin"]; len(origins) == 1 && origins[0] == t.f.origin {
		return false
	}
	t.fail(CodeForeignForm, nil, zap.Strings("origin", t.r.Header["Origin"]))
	return true
}

func (t *turn) unlock() bool {
	keyring, err := t.f.source.Keyring(t.r.Context())
	if err != nil {
		t.fail(CodeUnavailable, err)
		return false
	}
	t.keyring = keyring
	return true
}

// form reads a form, and answers itself when it cannot.
func (t *turn) form() (url.Values, bool) {
	t.r.Body = http.MaxBytesReader(t.w, t.r.Body, maxForm)
	if err := t.r.ParseForm(); err != nil {
		t.fail(CodeBadRequest, errors.New("the form does not parse, or is too long"))
		return nil, false
	}
	return t.r.PostForm, true
}

// connect begins a walk.
func (t *turn) connect() {
	if t.nobody() {
		return
	}
	asked := t.query
	if t.r.Method == http.MethodPost {
		form, ok := t.form()
		if !ok {
			return
		}
		asked = form
	}
	returnTo, err := t.f.parseReturnTo(asked.Get(returnToParam))
	if err != nil || len(asked[returnToParam]) > 1 {
		t.fail(CodeBadReturnTo, errReturnTo)
		return
	}
	if t.r.Method == http.MethodPost || t.straight() {
		t.start(t.newAttempt(t.seller, returnTo))
		return
	}
	t.render(page{
		Name: "start", Action: t.f.pagePath(PageConnect), Title: "start.title",
		Seller: t.seller, ReturnTo: returnTo, Account: t.currentAccount(), Onward: true,
	})
}

// straight reports whether the site itself sent the browser here: only then may
// a GET begin something, for else any page on the web could.
func (t *turn) straight() bool {
	return t.r.Method == http.MethodGet && t.r.Header.Get("Sec-Fetch-Site") == "same-origin" && t.r.Header.Get("Sec-Purpose") == ""
}

// nobody refuses a request without a seller in seller mode. To ask who it is
// belongs to the layer in front.
func (t *turn) nobody() bool {
	switch {
	case !t.f.sellerMode:
		return false
	case t.seller == "":
		t.fail(CodeNoSeller, nil)
		return true
	case len(t.seller) > maxSeller:
		t.fail(CodeBadSeller, nil)
		return true
	default:
		return false
	}
}

// start sends the seller to the provider, with a new attempt in a cookie.
func (t *turn) start(a *attempt) {
	t.makeRoom()
	t.put(a)
	t.f.log.Debug("connect flow started", t.f.fields(a.seller)...)
	t.redirect(t.f.client.AuthorizationURL(base64url.EncodeToString([]byte(a.state)), secret.New(a.verifier)))
}

// currentAccount is the account that the seller is connected to, or nil where
// there is none or the store cannot be read now: it is only mentioned.
func (t *turn) currentAccount() *account {
	c, _ := t.current()
	if c == nil {
		return nil
	}
	described := describe(c.Account, c.Nickname, c.Country)
	return &described
}

func (t *turn) redirect(address string) {
	h := t.w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer") // the provider must not see where the seller came from
	h.Set("Location", address)
	t.w.WriteHeader(http.StatusSeeOther)
}

// fields begin each of our log lines.
func (f *Flow) fields(seller string, more ...zap.Field) []zap.Field {
	fields := []zap.Field{zap.String("application", f.application)}
	if seller != "" {
		fields = append(fields, zap.String("seller", seller))
	}
	return append(fields, more...)
}

func isLoopback(host string) bool {
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || net.ParseIP(host).IsLoopback()
}

// normalHost writes a host as browsers do in an Origin.
func normalHost(host string, secure bool) string {
	port := ":80"
	if secure {
		port = ":443"
	}
	return strings.TrimSuffix(strings.ToLower(host), port)
}
