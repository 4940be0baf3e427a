// Package tokensource gives a live access token for a seller, and makes every
// write of an account or a connection.
//
// A request for a token walks one way: memory, then the store, then one refresh
// for all who wait. The refresh protocol is the heart of the first promise, no
// seller is ever lost; its steps and their reasons stand beside the code in
// refresh.go.
package tokensource

import (
	"context"
	"time"
	"unique"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// Token is a live access token of exactly one seller, or of an application. It
// is shared between callers and never changed.
type Token struct {
	application unique.Handle[string]
	// names are the seller's name and the connection's id, one after the other.
	names   string
	account *account
	known   *known
	// sellerEnds is where the seller's name ends in names.
	sellerEnds uint16
	// place is where the pair stands in known.
	place int16
	// dueAt is zero where the token cannot be renewed.
	dueAt second
}

func (t *Token) pair() *pair { return t.known.at(t.place) }

// lasts reports whether the token is valid for minValidity.
func (t *Token) lasts(now time.Time, minValidity time.Duration) bool {
	p := t.pair()
	return p != nil && p.lasts(now, minValidity)
}

// due reports whether the token is to be renewed.
func (t *Token) due(now time.Time) bool { return t.dueAt != 0 && t.dueAt <= instantOf(now).second() }

// Application is the name of the application.
func (t *Token) Application() string { return t.application.Value() }

// Seller is empty for an application's own token.
func (t *Token) Seller() string { return t.names[:t.sellerEnds] }

// Connection is the id of the seller's connection; empty for an application's own
// token.
func (t *Token) Connection() string { return t.names[t.sellerEnds:] }

func (t *Token) key() key { return key{application: t.application, seller: t.Seller()} }

// Account is what the connection points to; zero for an application's own token.
func (t *Token) Account() tokenstore.AccountID {
	if t.account == nil {
		return tokenstore.AccountID{}
	}
	return t.account.id()
}

// AccessToken is what goes after "Bearer ".
func (t *Token) AccessToken() secret.Secret { return t.pair().accessToken() }

// Credentials are the access token with "Bearer " before it, as an Authorization header
// carries it (RFC 6750 §2.1).
func (t *Token) Credentials() secret.Secret { return t.pair().credentials() }

// ExpiresAt is when the access token ends.
func (t *Token) ExpiresAt() time.Time { return t.pair().expiresAt.time() }

// PublicKey is the account's.
func (t *Token) PublicKey() string { return t.pair().publicKey() }

// Pair names the pair the token belongs to.
func (t *Token) Pair() tokenstore.PairID { return t.pair().id() }

// Status tells what a seller can do. The three are always told apart.
type Status int

const (
	// NotConnected: the seller has no connection.
	NotConnected Status = iota
	// Connected: the seller has a connection with a living pair.
	Connected
	// ReconnectRequired: the seller has a connection without a living pair.
	ReconnectRequired
)

// Reasons an [Error] gives, beside the provider's own error codes for a dead
// pair (invalid_grant, …).
const (
	ReasonNotConnected       = "not_connected"
	ReasonApplicationChanged = "application_changed"
	ReasonNoRefreshToken     = "no_refresh_token"
	ReasonDisconnected       = "disconnected"      // while it was connected, or elsewhere without its pointer
	ReasonProvider           = "provider"          // refused for now, or an unknown outcome
	ReasonApplicationFault   = "application_fault" // invalid_client and its like
	ReasonStore              = "store"             // cannot be read or written
	ReasonUnknownApplication = "unknown_application"
	ReasonMoved              = "moved"        // another store is in charge of the account
	ReasonDeauthorized       = "deauthorized" // the seller ended it at the provider, which says so of the access token

	// ReasonLate is of an alarm only: renewals wait for longer than they should.
	ReasonLate = "late"

	// ReasonRetried is of an event only: a pair whose last request had an unknown
	// outcome is tried again.
	ReasonRetried = "retried_unknown"
)

// Error says why there is no token. Its text never holds a secret.
type Error struct {
	// Status is NotConnected or ReconnectRequired where the seller can mend it,
	// and Connected where only time or the operator can.
	Status Status
	// Reason is one of the Reason constants or the provider's error code.
	Reason string
	// RetryAfter is when to ask again; 0 where asking again is of no use.
	RetryAfter time.Duration
	// Err is the cause, or nil.
	Err error
}

// Error describes the failure for a log.
func (e *Error) Error() string {
	text := "no token: " + e.Reason
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Consent is a completed exchange: its pair is saved to its account. Nobody
// acts with it until a connection points there.
type Consent struct {
	Application   string               `json:"application"`
	Account       tokenstore.AccountID `json:"account"`
	Authorization uint64               `json:"authorization"`
	// Nickname and Country are empty where the provider's /users/me did not
	// answer.
	Nickname string `json:"nickname,omitempty"`
	Country  string `json:"country,omitempty"`
	// Offline reports whether the pair has a refresh token.
	Offline bool `json:"offline"`
}

// Client speaks to the provider for one application; [*oauth.Client] is one.
// Its errors are [*oauth.Error]; anything else counts as an unknown outcome.
type Client interface {
	ClientID() string
	// Timeout is how long a token request may take at most. It is the same in
	// the whole fleet: others wait so long before they take an intent's outcome
	// for lost.
	Timeout() time.Duration
	Exchange(ctx context.Context, code string, verifier secret.Secret) (oauth.Answer, error)
	Refresh(ctx context.Context, refresh secret.Secret) (oauth.Answer, error)
	ClientCredentials(ctx context.Context) (oauth.Answer, error)
	Me(ctx context.Context, access secret.Secret) (oauth.User, error)
	Revoke(ctx context.Context, userID int64, access secret.Secret) error
}

var _ Client = (*oauth.Client)(nil)

// Settles is how long a token request may be under way until its answer is saved:
// an intent that has not changed for so long is of one whose outcome is unknown.
func Settles(c Client) time.Duration { return c.Timeout() + slack }

// Application is one Mercado Pago application as it is configured.
type Application struct {
	// Name is the application's name in the configuration; "" is the default one.
	Name   string
	Client Client
	// RenewBefore is how long before a token's end it is renewed; 0 is 30 days.
	// It is a third of the token's life for one that lives less than 90 days.
	RenewBefore time.Duration
}

// Config is one loaded configuration.
type Config struct {
	// StoreID names the store; configurations with the same one share memory.
	StoreID string
	// Open opens the store and the keyring. It is called when they are first
	// needed, until it succeeds once.
	Open         func(ctx context.Context) (tokenstore.Store, *secret.Keyring, error)
	Applications []Application
	// CacheSize is how many sellers are kept in memory at the most; 0 is
	// [DefaultCacheSize]. Who is not there is read from the store again. A refresh
	// that is under way is not forgotten with its seller.
	CacheSize int
	// Renewal says how tokens are renewed ahead of time; zero does not.
	Renewal Renewal
	// SpillDir is the folder for pairs that the store did not take, and for what
	// the next process should know of renewals that fail.
	SpillDir string
	// Observer is told what happens; nil tells nobody.
	Observer Observer
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

func (c *Config) cacheSize() int {
	if c.CacheSize <= 0 {
		return DefaultCacheSize
	}
	return c.CacheSize
}

// Observer is told what happened to whom. Its methods must not block.
type Observer interface {
	Observe(Event)
}

// Event is something that happened to a seller, an account or an application.
// It never holds a secret.
type Event struct {
	// Name is one of the Event constants.
	Name        string
	Application string
	// Seller is empty where the event is about an account or an application.
	Seller     string
	Account    tokenstore.AccountID
	Pair       tokenstore.PairID
	Reason     string
	RetryAfter time.Duration
	Err        error
	// Renewals is told with EventRenewals, and where renewals are late.
	Renewals *Renewals
}

// The events.
const (
	EventConnected         = "connected"
	EventReconnected       = "reconnected"
	EventRenewed           = "renewed"
	EventRenewalFailed     = "renewal_failed"
	EventReconnectRequired = "reconnect_required"
	EventDisconnected      = "disconnected"
	// The provider's notices. Authorized is only noted. Deauthorized was asked
	// about; Err says that the provider takes the token all the same.
	EventAuthorized   = "authorized"
	EventDeauthorized = "deauthorized"
	EventForgotten    = "forgotten" // an account that no connection pointed to for a day
	EventRenewals     = "renewals"  // after each walk through the store
	EventAlarm        = "alarm"
	// EventRecovered ends an alarm about the store: it can be used again.
	EventRecovered = "recovered"
	// The store does not tell what other instances change, and does again. It is
	// seen within 30 s all the same.
	EventNotListening = "not_listening"
	EventListening    = "listening"
)
