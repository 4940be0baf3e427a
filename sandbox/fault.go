package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FaultKind is what goes wrong.
type FaultKind string

// What can go wrong.
const (
	// Latency is Fault.Delay alone.
	Latency FaultKind = "latency"
	// RateLimited is a 429, as JSON and with Retry-After.
	RateLimited FaultKind = "rate_limited"
	// RateLimitedText is a 429 as plain text, without Retry-After.
	RateLimitedText FaultKind = "rate_limited_text"
	// ServerError is a 500 with a JSON body.
	ServerError FaultKind = "server_error"
	// HTML is a 502 with a web page, as load balancers send it.
	HTML FaultKind = "html"
	// Empty is a 502 with nothing in it.
	Empty FaultKind = "empty"
	// Cut closes the connection without an answer.
	Cut FaultKind = "cut"
	// Truncated handles the request, and closes the connection half-way through
	// the answer.
	Truncated FaultKind = "truncated"
	// Redirected is a 307 back to the same address, which nobody should follow
	// with a token.
	Redirected FaultKind = "redirected"
	// InvalidClient is the token endpoint's answer to a wrong client secret.
	InvalidClient FaultKind = "invalid_client"
	// InvalidGrant is the token endpoint's answer to a dead code or refresh token.
	InvalidGrant FaultKind = "invalid_grant"
	// Unauthorized is the API's answer to a dead access token.
	Unauthorized FaultKind = "unauthorized"
	// LiveCredentials is a 401 that no refresh mends.
	LiveCredentials FaultKind = "live_credentials"
	// Policy is a 403 that says nothing about the token.
	Policy FaultKind = "policy"
)

func faultKinds() []FaultKind {
	return []FaultKind{
		Cut, Truncated, RateLimited, RateLimitedText, ServerError, HTML, Empty, Redirected,
		InvalidClient, InvalidGrant, Unauthorized, LiveCredentials, Policy, Latency,
	}
}

// Fault makes the next requests that match it go wrong.
type Fault struct {
	Kind FaultKind `json:"kind"`
	// Path the requests have, or begin with up to a slash. "" is any; with Grant
	// it is /oauth/token.
	Path string `json:"path,omitempty"`
	// Grant the token requests are for: authorization_code, refresh_token or
	// client_credentials. "" is any.
	Grant string `json:"grant,omitempty"`
	// UserID of the account that the request's code or token was given by. 0 is
	// any.
	UserID int64 `json:"user_id,omitempty"`
	// Times it happens. 0 is once, -1 until ClearFaults.
	Times int `json:"times,omitempty"`
	// After makes the fault happen once the request has been carried out: a
	// refresh token is rotated and the answer that says so is lost.
	After bool `json:"after,omitempty"`
	// Delay before the fault, or before the answer where the fault is Latency.
	Delay Duration `json:"delay,omitempty"`
	// RetryAfter of RateLimited. Default: 1 s.
	RetryAfter Duration `json:"retry_after,omitempty"`
	// Status in place of the one that the kind has.
	Status int `json:"status,omitempty"`
	// Wait is called in place of Delay, so that a test can hold a request up
	// exactly as long as it wants. It returns when ctx, the request's, ends.
	Wait func(ctx context.Context) `json:"-"`
}

func (f Fault) check() error {
	switch {
	case !slices.Contains(faultKinds(), f.Kind):
		return fmt.Errorf("unknown kind of fault %q: write one of %v", clip(string(f.Kind)), faultKinds())
	case f.Kind == Latency && f.Delay == 0 && f.Wait == nil:
		return errors.New(`latency needs a delay, like "3s"`)
	case f.Delay < 0 || f.RetryAfter < 0:
		return errors.New("a fault's delay and retry_after cannot be negative")
	case f.Status != 0 && (f.Status < 200 || f.Status > 599):
		return errors.New("a fault's status is a number from 200 to 599")
	case f.Grant != "" && knownGrant(f.Grant) == "other":
		return fmt.Errorf("a fault's grant is %s, %s or %s", grantCode, grantRefresh, grantApplication)
	}
	return nil
}

type pendingFault struct {
	Fault
	left int // times; negative: for ever
}

const maxFaults = 100

// Fault makes the next matching requests go wrong. Of several that match, the
// oldest happens first. It panics on a fault that makes no sense.
func (s *Sandbox) Fault(f Fault) {
	if err := f.check(); err != nil {
		panic("sandbox: " + err.Error())
	}
	s.addFault(f)
}

func (s *Sandbox) addFault(f Fault) {
	if f.Times == 0 {
		f.Times = 1
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &pendingFault{Fault: f, left: f.Times})
	if len(s.faults) > maxFaults {
		s.faults = s.faults[1:]
	}
}

// ClearFaults forgets the faults that have not happened yet.
func (s *Sandbox) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Faults lists the faults that are still to happen, each with the Times it has
// left.
func (s *Sandbox) Faults() []Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Fault, 0, len(s.faults))
	for _, f := range s.faults {
		left := f.Fault
		left.Times = f.left
		out = append(out, left)
	}
	return out
}

// takeFault finds the fault that this request is to suffer.
func (s *Sandbox) takeFault(c *call, r *http.Request) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.faults {
		if !f.matches(c, r) {
			continue
		}
		if f.left > 0 {
			if f.left--; f.left == 0 {
				s.faults = slices.Delete(s.faults, i, i+1)
			}
		}
		found := f.Fault
		return &found
	}
	return nil
}

func (f *pendingFault) matches(c *call, r *http.Request) bool {
	path := r.URL.Path
	switch {
	case f.Grant != "" && (path != tokenPath || c.form["grant_type"] != f.Grant):
		return false
	case f.Path != "" && path != f.Path && !strings.HasPrefix(path, strings.TrimSuffix(f.Path, "/")+"/"):
		return false
	case f.UserID != 0 && !strings.HasSuffix(namedToken(c, r), "-"+formatID(f.UserID)):
		return false
	}
	return true
}

// namedToken is the code or token that a request came with: each ends in the
// user id of its account.
func namedToken(c *call, r *http.Request) string {
	if c.form != nil {
		return c.form["code"] + c.form["refresh_token"]
	}
	token, _ := bearer(r)
	return token
}

// suffer answers a request that something happens to.
func (s *Sandbox) suffer(c *call, r *http.Request, f *Fault) {
	c.entry.Fault = f.Kind
	var handled *heldAnswer
	if f.After || f.Kind == Truncated {
		handled = s.hold(c, r)
	} else if c.form != nil && f.Kind != Latency {
		c.entry.Outcome = string(f.Kind)
	}
	if !f.wait(r.Context()) {
		panic(http.ErrAbortHandler) // the caller has left, or the sandbox stops
	}
	switch f.Kind {
	case Latency:
		if handled == nil {
			s.routes.ServeHTTP(c, r)
			return
		}
		handled.send(c, handled.body.Len())
	case Truncated:
		handled.send(c, handled.body.Len()/2)
		_ = http.NewResponseController(c).Flush()
		panic(http.ErrAbortHandler)
	case Cut:
		panic(http.ErrAbortHandler)
	default:
		f.answer(c, r)
	}
}

func (f *Fault) wait(ctx context.Context) bool {
	if f.Wait != nil {
		f.Wait(ctx)
		return ctx.Err() == nil
	}
	if f.Delay <= 0 {
		return true
	}
	timer := time.NewTimer(time.Duration(f.Delay))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// answer sends what a fault answers in place of the real thing.
func (f *Fault) answer(c *call, r *http.Request) {
	status := func(usual int) int {
		if f.Status != 0 {
			return f.Status
		}
		return usual
	}
	switch f.Kind {
	case RateLimited:
		c.Header().Set("Retry-After", strconv.FormatInt(max(1, wholeSeconds(time.Duration(f.RetryAfter))), 10))
		c.answer(status(http.StatusTooManyRequests), map[string]string{"errorKey": "local_rate_limited"})
	case RateLimitedText:
		c.text(status(http.StatusTooManyRequests), "text/plain; charset=utf-8", "local_rate_limited")
	case ServerError:
		c.answer(status(http.StatusInternalServerError),
			apiError{"internal_error", "internal_error", http.StatusInternalServerError, []cause{}})
	case HTML:
		c.text(status(http.StatusBadGateway), "text/html; charset=utf-8",
			"<!doctype html><html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\n")
	case Empty:
		c.WriteHeader(status(http.StatusBadGateway))
	case Redirected:
		c.Header().Set("Location", r.URL.RequestURI())
		c.WriteHeader(status(http.StatusTemporaryRedirect))
	case InvalidClient:
		c.answer(status(http.StatusBadRequest),
			map[string]string{"message": "invalid client_id or client_secret", "error": "invalid_client"})
	case InvalidGrant:
		c.answer(status(http.StatusBadRequest), apiError{deadGrant, "invalid_grant", http.StatusBadRequest, []cause{}})
	case Unauthorized:
		c.refuse(status(http.StatusUnauthorized), "unauthorized", "invalid access token")
	case LiveCredentials:
		const message = "Unauthorized use of live credentials"
		c.refuse(status(http.StatusUnauthorized), "unauthorized", message, cause{Code: 7, Description: message})
	case Policy:
		c.answer(status(http.StatusForbidden), map[string]any{
			"code": "PA_UNAUTHORIZED_RESULT_FROM_POLICIES", "blocked_by": "PolicyAgent", "status": http.StatusForbidden,
			"message": "At least one policy returned UNAUTHORIZED.",
		})
	case Latency, Cut, Truncated: // not an answer of their own
	}
}

func (c *call) text(status int, contentType, body string) {
	c.Header().Set("Content-Type", contentType)
	c.WriteHeader(status)
	_, _ = c.Write([]byte(body))
}

// heldAnswer is the answer to a request that was carried out, kept back.
type heldAnswer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

// hold carries the request out and keeps the answer.
func (s *Sandbox) hold(c *call, r *http.Request) *heldAnswer {
	held := &heldAnswer{header: http.Header{}, status: http.StatusOK}
	real := c.ResponseWriter
	c.ResponseWriter = held
	s.routes.ServeHTTP(c, r)
	c.ResponseWriter = real
	c.entry.Status = 0
	return held
}

func (h *heldAnswer) Header() http.Header         { return h.header }
func (h *heldAnswer) WriteHeader(status int)      { h.status = status }
func (h *heldAnswer) Write(b []byte) (int, error) { return h.body.Write(b) }

// send sends the first bytes of the answer, under a header that promises all.
func (h *heldAnswer) send(c *call, bytes int) {
	maps.Copy(c.Header(), h.header)
	c.Header().Set("Content-Length", strconv.Itoa(h.body.Len()))
	c.WriteHeader(h.status)
	_, _ = c.Write(h.body.Bytes()[:bytes])
}
