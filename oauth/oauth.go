// Package oauth speaks Mercado Pago's OAuth on the wire: the authorization URL,
// the token endpoint with its three grants, and the outcomes of a request.
//
// It keeps nothing, retries nothing and follows no redirect: a token request
// may burn a single-use code or refresh token, so when to ask again is for the
// caller to decide, by the [Outcome].
package oauth

import (
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// Answer is what the token endpoint gave.
type Answer struct {
	AccessToken secret.Secret
	// RefreshToken is empty where the answer has none.
	RefreshToken secret.Secret
	// ExpiresIn is how long the access token lives from ReceivedAt. Where the
	// provider's clock (the answer's Date) and ours differ by more than
	// 5 minutes it is reckoned from that Date.
	ExpiresIn  time.Duration
	ReceivedAt time.Time
	Scope      string
	// UserID is 0, PublicKey empty and LiveMode nil where the answer has none
	// (Mercado Libre, some refreshes).
	UserID    int64
	PublicKey string
	LiveMode  *bool
}

// User is what /users/me tells of an account.
type User struct {
	ID       int64
	Nickname string
	Country  string
}

// Outcome says what a request that gave no answer may have done.
type Outcome int

const (
	// Unknown: it may have been carried out, and its pair or code may be burnt.
	Unknown Outcome = iota
	// Refused: it was not carried out, and may be sent again later (nothing was
	// sent, or 429).
	Refused
	// GrantDead: a verdict on the code or refresh token.
	GrantDead
	// ApplicationFault: the application is misconfigured, here or at the
	// provider; it says nothing about a seller.
	ApplicationFault
)

// Error is a request to the provider that gave no usable answer. Its text never
// holds a secret.
type Error struct {
	Outcome Outcome
	// Code is the OAuth error code, or a word of our own where there is none
	// (dial, tls, timeout, cut, unreadable, rate_limited, server_error, …).
	Code string
	// Description is the provider's text, redacted and bounded; for the log.
	Description string
	// Status is the HTTP status, 0 where there was no response.
	Status int
	// RetryAfter is what the provider asked to wait; 0 where it did not.
	RetryAfter time.Duration
}
