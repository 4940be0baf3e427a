package oauth

import (
	"fmt"
	"strings"
	"time"
)

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

// String returns the outcome in lower case with underscores.
func (o Outcome) String() string {
	switch o {
	case Refused:
		return "refused"
	case GrantDead:
		return "grant_dead"
	case ApplicationFault:
		return "application_fault"
	default:
		return "unknown"
	}
}

// Error codes of our own. Beside them an [Error] has the provider's codes that
// are a verdict or a fault of the application (invalid_grant, expired_grant,
// unauthorized_client; invalid_client, unauthorized_application, invalid_scope,
// invalid_request, unsupported_grant_type). There are no others.
const (
	codeDNS         = "dns"          // the host has no address
	codeDial        = "dial"         // no connection
	codeTLS         = "tls"          // no secure connection
	codeTimeout     = "timeout"      // no answer in time
	codeCanceled    = "canceled"     // the caller left
	codeCut         = "cut"          // the connection broke
	codeNotSent     = "not_sent"     // nothing to send, or nowhere to send it
	codeUnreadable  = "unreadable"   // an answer that is none
	codeRedirect    = "redirect"     // 3xx
	codeUnexpected  = "unexpected"   // 4xx without a code that we know
	codeServerError = "server_error" // 5xx
	codeRateLimited = "rate_limited" // 429
	codeForbidden   = "forbidden"    // 403
	codeUnauth      = "unauthorized" // 401
)

// verdicts are the provider's codes that say what became of a request.
var verdicts = map[string]Outcome{
	"invalid_grant":       GrantDead,
	"expired_grant":       GrantDead,
	"unauthorized_client": GrantDead,

	invalidClient:              ApplicationFault,
	"unauthorized_application": ApplicationFault,
	"invalid_scope":            ApplicationFault,
	"invalid_request":          ApplicationFault,
	"unsupported_grant_type":   ApplicationFault,
}

const invalidClient = "invalid_client"

// Error is a request to the provider that gave no usable answer. Its text never
// holds a secret. It wraps nothing: what lies below may name addresses with a
// code or a token in them.
type Error struct {
	Outcome Outcome
	// Code is the provider's error code where it is one that decides, else a
	// word of our own (dial, tls, timeout, cut, unreadable, rate_limited,
	// server_error, …). It comes from a fixed list, so it may label a metric.
	Code string
	// Description is the provider's text, or what went wrong on the way there,
	// redacted and bounded; for the log.
	Description string
	// Status is the HTTP status, 0 where there was no response.
	Status int
	// RetryAfter is what the provider asked to wait, an hour at most; 0 where
	// it did not ask.
	RetryAfter time.Duration
}

// Error describes the failure for a log.
func (e *Error) Error() string {
	var text strings.Builder
	text.WriteString("provider: " + e.Code)
	if e.Status != 0 {
		fmt.Fprintf(&text, " (status %d)", e.Status)
	}
	if e.Description != "" {
		text.WriteString(": " + e.Description)
	}
	return text.String()
}
