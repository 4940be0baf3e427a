// Package sandbox stands in for Mercado Pago on one's own machine: the consent
// page, the token endpoint, and as much of the API as it takes to see which
// account is paid. No real money, no network, nothing kept on disk.
//
//	s := sandbox.New(sandbox.Options{})
//	server := httptest.NewServer(s)
//
// It behaves as the real service does where that is documented or was observed:
// codes and refresh tokens are single-use, a refresh rotates its token, a new
// consent makes the account's older refresh tokens useless, and every error has
// the real one's body. What nobody has written down about the service is a
// switch in [Settings]. What goes wrong in production can be made to go wrong
// here, by [Sandbox.Fault] or under /_sandbox/.
//
// One [Sandbox] serves both of Mercado Pago's hosts: GET /authorization of the
// authorization host, everything else of the API host. It is safe for
// concurrent use.
package sandbox

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

// The application that a sandbox knows when it is told of none. The secret
// protects nothing.
const (
	DefaultClientID     = "1234567890123456"
	DefaultClientSecret = "sandbox-secret-do-not-use-in-production"
)

// Application is a Mercado Pago application as its dashboard holds it.
type Application struct {
	// Name is shown on the consent page. Default: "Application" and the client id.
	Name string `json:"name"`
	// ClientID is the application's number.
	ClientID string `json:"client_id"`
	// ClientSecret opens the token endpoint.
	ClientSecret string `json:"-"`
	// RedirectURIs are compared byte for byte, as the real service does.
	RedirectURIs []string `json:"redirect_uris"`
	// PKCE makes a code_verifier mandatory. It is optional otherwise, and
	// checked where a code_challenge was sent.
	PKCE bool `json:"pkce"`
	// WithoutOfflineAccess leaves offline_access out of the scope: consents then
	// give no refresh token.
	WithoutOfflineAccess bool `json:"without_offline_access,omitempty"`
	// OwnerID is the account that client_credentials tokens belong to. Default:
	// an account made for the application.
	OwnerID int64 `json:"owner_id"`
	// WebhookURL is where notifications of the topic mp-connect go; none are sent
	// without it.
	WebhookURL string `json:"webhook_url,omitempty"`
	// WebhookSecret signs them.
	WebhookSecret string `json:"-"`
}

// Account is a fictional Mercado Pago account.
type Account struct {
	UserID int64 `json:"user_id"`
	// Nickname is what /users/me tells.
	Nickname string `json:"nickname"`
	// Name is shown on pages. Default: the nickname.
	Name  string `json:"name"`
	Email string `json:"email"`
	// Country is AR, BR, CL, CO, MX, PE or UY.
	Country string `json:"country"`
}

// DefaultAccounts are the accounts of a sandbox that is told of none. Their
// numbers are larger than 32 bits, as real ones may be, and begin with the
// country's calling code.
func DefaultAccounts() []Account {
	return []Account{
		{5411000101, "LIBRERIA_AURORA", "Librería Aurora", "aurora@example.com", "AR"},
		{5411000102, "ALMACEN_RIO", "Almacén Río", "almacen@example.com", "AR"},
		{5511000201, "CAFE_DO_PORTO", "Café do Porto", "porto@example.com", "BR"},
		{5255000301, "TALLER_NOPAL", "Taller Nopal", "nopal@example.com", "MX"},
	}
}

// Options are what a sandbox starts from. The zero value is a useful one.
type Options struct {
	// Applications that are known. Default: one with DefaultClientID and
	// DefaultClientSecret, and no redirect URI but those AcceptAny lets in.
	Applications []Application
	// AcceptAny lets in any client id that is not registered, with any secret,
	// and any redirect URI, so that one can start before anything is registered.
	AcceptAny bool
	// Accounts that can consent. Default: DefaultAccounts.
	Accounts []Account
	// Settings to start with. A zero lifetime means the real service's.
	Settings Settings
	// Now is the clock. Default: time.Now.
	Now func() time.Time
	// Logger gets one line per request, without secrets. Default: none.
	Logger *zap.Logger
}

// Sandbox is the stand-in. Make one with [New].
type Sandbox struct {
	options Options
	now     func() time.Time
	logger  *zap.Logger
	routes  *http.ServeMux
	control http.Handler

	mu       sync.Mutex
	settings Settings
	ledger   *ledger
	faults   []*pendingFault
	journal  *journal
	outgoing *outgoing
}

// New makes a sandbox. It starts nothing.
func New(options Options) *Sandbox {
	if options.Now == nil {
		options.Now = time.Now
	}
	if options.Logger == nil {
		options.Logger = zap.NewNop()
	}
	if len(options.Accounts) == 0 {
		options.Accounts = DefaultAccounts()
	}
	if len(options.Applications) == 0 {
		options.Applications = []Application{{
			Name: "Demo shop", ClientID: DefaultClientID, ClientSecret: DefaultClientSecret,
		}}
	}
	options.Accounts = named(options.Accounts)
	s := &Sandbox{options: options, now: options.Now, logger: options.Logger}
	s.Reset()
	s.routes = s.routing()
	s.control = s.controlling()
	return s
}

// Reset forgets every token, payment, fault, count, changed setting, and the
// notifications that are on their way: the sandbox is as New made it.
func (s *Sandbox) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.outgoing != nil {
		s.outgoing.stop()
	}
	s.outgoing = newOutgoing()
	s.settings = s.options.Settings.orDefaults()
	s.ledger = newLedger(s.options)
	s.faults = nil
	s.journal = newJournal()
}

// named copies accounts, each with a name.
func named(accounts []Account) []Account {
	out := append([]Account(nil), accounts...)
	for i := range out {
		if out[i].Name == "" {
			out[i].Name = out[i].Nickname
		}
	}
	return out
}

// Accounts lists the accounts that can consent.
func (s *Sandbox) Accounts() []Account {
	return append([]Account(nil), s.options.Accounts...)
}

func (s *Sandbox) routing() *http.ServeMux {
	mux := http.NewServeMux()
	handle := func(pattern string, handler func(*call, *http.Request)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { handler(w.(*call), r) })
	}
	handle("GET /authorization", s.askConsent)
	handle("POST /authorization", s.takeConsent)
	handle("/oauth/token", s.token)
	handle("GET /users/me", s.authorized(s.me))
	handle("DELETE /users/{user}/applications/{application}", s.authorized(s.unlink))
	handle("POST /v1/payments", s.authorized(s.createPayment))
	handle("GET /v1/payments/{id}", s.authorized(s.getPayment))
	handle("POST /checkout/preferences", s.authorized(s.createPreference))
	handle("POST /checkout/preferences/{$}", s.authorized(s.createPreference)) // the npm SDK's spelling
	handle("GET /checkout/v1/redirect", s.checkout)
	handle("/", func(c *call, _ *http.Request) {
		c.refuse(http.StatusNotFound, "not_found", "resource not found")
	})
	return mux
}

// ServeHTTP serves Mercado Pago's two hosts, and the control page under
// /_sandbox/.
func (s *Sandbox) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/" && r.Method == http.MethodGet:
		http.Redirect(w, r, controlPath, http.StatusFound)
	case r.URL.Path == stylePath:
		serveStyle(w, r)
	case strings.HasPrefix(r.URL.Path+"/", controlPath):
		s.control.ServeHTTP(w, r)
	default:
		s.serve(newCall(w, r), r)
	}
}

func (s *Sandbox) serve(c *call, r *http.Request) {
	defer s.note(c)
	if r.URL.Path == tokenPath {
		c.readForm(r)
	}
	if fault := s.takeFault(c, r); fault != nil {
		s.suffer(c, r, fault)
		return
	}
	s.routes.ServeHTTP(c, r)
}

// Serve answers on the listener until ctx ends, then lets requests under way
// finish for a moment and returns nil. Requests that a fault holds up end at
// once, and notifications that were not taken are sent no more.
func (s *Sandbox) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          zap.NewStdLog(s.logger),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(listener)
	defer s.sendNoMore()
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (s *Sandbox) sendNoMore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outgoing.stop()
	s.outgoing = newOutgoing()
}

func formatID(id int64) string { return strconv.FormatInt(id, 10) }
