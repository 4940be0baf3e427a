package oauth

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

const (
	// unsaidLife is how long a token is taken to live that does not tell. The
	// shortest that is documented live 6 hours.
	unsaidLife = time.Hour
	// maxLife is the longest that is documented. A token that claims more is
	// renewed as if it lived this long: too early costs one request, too late
	// costs the seller.
	maxLife = 180 * 24 * time.Hour
	// maxSkew is how far clocks may differ and still be called equal.
	maxSkew = 5 * time.Minute
	// maxText bounds each text of an answer but the tokens.
	maxText = 1024
	// maxRetryAfter bounds what a provider can ask to wait.
	maxRetryAfter = time.Hour
)

// object is a JSON object whose members are read one by one, each as what it
// turns out to be: a member of an odd type costs that member, never a token.
type object map[string]json.RawMessage

// object reads a body that is one JSON object and nothing else, whatever its
// content type says. A body that was cut is none: its last brace is missing.
func (r reply) object() object {
	var o object
	if json.Unmarshal(bytes.TrimPrefix(r.body, []byte("\xef\xbb\xbf")), &o) != nil {
		return nil
	}
	return o
}

// raw returns a member that is a string of any kind, else "".
func (o object) raw(name string) string {
	var text string
	_ = json.Unmarshal(o[name], &text) // anything but a string leaves it empty
	return text
}

// text returns a member that is a short string in one line, else "".
func (o object) text(name string) string {
	text := o.raw(name)
	if len(text) > maxText || clean(text) != text {
		return ""
	}
	return text
}

// number returns a member that is a number, or a string that holds one, as it
// is written; else "".
func (o object) number(name string) string {
	if text := o.raw(name); text != "" {
		return strings.TrimSpace(text)
	}
	return string(o[name])
}

// id returns a member that is a positive whole number, else 0.
func (o object) id(name string) int64 {
	text := o.number(name)
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return max(n, 0)
	}
	// 2.41983636e+08, as some encoders write it. Beyond 2^53 it would name
	// another account.
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || f != math.Trunc(f) || f < 0 || f > 1<<53 {
		return 0
	}
	return int64(f)
}

// life returns how long a token lives by expires_in.
func (o object) life() time.Duration {
	// With an error it is 0, or infinite if the number is out of range.
	seconds, _ := strconv.ParseFloat(o.number("expires_in"), 64)
	switch {
	case seconds > maxLife.Seconds():
		return maxLife
	case !(seconds >= 1): // also true for NaN
		return unsaidLife
	}
	return time.Duration(seconds * float64(time.Second))
}

// flag returns a member that is a truth value, or a string that holds one.
func (o object) flag(name string) *bool {
	value, err := strconv.ParseBool(o.number(name))
	if err != nil {
		return nil
	}
	return &value
}

// answer reads the answer to a token request; ok is false where it is none.
// Only the tokens decide: a pair that the provider has handed out is the only
// living one, and is not thrown away for what stands around it.
func (r reply) answer() (answer Answer, ok bool) {
	o := r.object()
	access, refresh := o.raw("access_token"), o.raw("refresh_token")
	if r.status/100 != 2 || !sendable(access) || refresh == "" && !o.bearer() {
		return Answer{}, false
	}
	return Answer{
		AccessToken:  secret.New(access),
		RefreshToken: secret.New(refresh),
		ExpiresIn:    r.reckon(o.life()),
		ReceivedAt:   r.at,
		Scope:        o.text("scope"),
		UserID:       o.id("user_id"),
		PublicKey:    o.text("public_key"),
		LiveMode:     o.flag("live_mode"),
	}, true
}

// bearer reports that no other type of token is named.
func (o object) bearer() bool {
	kind := o.raw("token_type")
	return kind == "" || strings.EqualFold(kind, "bearer")
}

// sendable reports whether a token can stand in a header.
func sendable(token string) bool {
	return token != "" && !strings.ContainsFunc(token, func(r rune) bool {
		return r <= ' ' || r >= 0x7f // invalid UTF-8 is read as U+FFFD
	})
}

// reckon shortens a life by what our clock is ahead of the provider's; see
// [Answer]. The hour that is left keeps a clock (or a Date) that is wrong by
// more than the token's life from causing a refresh with every request.
func (r reply) reckon(life time.Duration) time.Duration {
	date, err := http.ParseTime(r.header.Get("Date"))
	if err != nil {
		return life
	}
	ahead := r.at.Sub(date)
	if ahead <= maxSkew {
		return life
	}
	return max(life-ahead, min(life, unsaidLife))
}

// retryAfter reads Retry-After in both its forms. A date counts from the
// answer's own, because our clock may differ.
func (r reply) retryAfter() time.Duration {
	text := strings.TrimSpace(r.header.Get("Retry-After"))
	// Out of range it is the largest number, so bounded as any other.
	seconds, err := strconv.ParseUint(text, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(maxRetryAfter.Seconds()))) * time.Second
	}
	until, err := http.ParseTime(text)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(r.header.Get("Date"))
	if err != nil {
		now = r.at
	}
	return min(max(until.Sub(now), 0), maxRetryAfter)
}

// tokenError judges an answer to a token request that gave no token.
func (r reply) tokenError(words *redactor) *Error {
	failure := r.failure(words)
	o := r.object()
	said := o.raw("error")
	if said == "" {
		said = o.raw("errorKey")
	}
	if r.status/100 != 4 || r.status == http.StatusTooManyRequests || o == nil {
		// A gateway may put any text around an error of its own: with another
		// status than 4xx an OAuth error is no verdict.
		return failure
	}
	// Only a code that is documented, in exactly this spelling, is a verdict on a grant.
	outcome, known := verdicts[said]
	switch {
	case known:
		failure.Outcome, failure.Code = outcome, said
	case r.status == http.StatusUnauthorized && said != "", r.status == http.StatusForbidden:
		failure.Outcome = ApplicationFault
	}
	return failure
}

// failure describes an answer that is not what was asked for. It is no verdict:
// the outcome is Refused for 429, and Unknown else.
func (r reply) failure(words *redactor) *Error {
	failure := &Error{Status: r.status, RetryAfter: r.retryAfter(), Description: words.redact(r.said())}
	switch {
	case r.status == http.StatusTooManyRequests:
		failure.Outcome, failure.Code = Refused, codeRateLimited
	case r.status >= 500:
		failure.Code = codeServerError
	case r.status/100 == 3:
		failure.Code = codeRedirect
	case r.broken != "" && r.object() == nil:
		failure.Code = r.broken
	case r.status/100 == 2:
		failure.Code = codeUnreadable
	case r.status == http.StatusUnauthorized:
		failure.Code = codeUnauth
	case r.status == http.StatusForbidden:
		failure.Code = codeForbidden
	default:
		failure.Code = codeUnexpected
	}
	return failure
}

// said returns the provider's own words. Of an answer in another shape it tells
// the shape only: a page of a gateway may hold anything.
func (r reply) said() string {
	o := r.object()
	if o == nil {
		if kind := r.header.Get("Content-Type"); kind != "" && len(r.body) > 0 {
			return "answered with " + kind + " that is no JSON object"
		}
		return ""
	}
	var words []string
	for _, name := range []string{"error", "errorKey", "message", "error_description"} {
		if text := strings.TrimSpace(o.raw(name)); text != "" {
			words = append(words, text)
		}
	}
	return strings.Join(words, ": ")
}
