package oauth

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// maxBody bounds what is read of an answer.
const maxBody = 64 << 10

// newTransport returns the transport of a client that was given none.
func newTransport(timeout time.Duration) http.RoundTripper {
	step := min(timeout, 10*time.Second)
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Transport{
		Proxy:                  httpsProxy,
		DialContext:            (&net.Dialer{Timeout: step}).DialContext,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    step,
		ResponseHeaderTimeout:  timeout,
		MaxResponseHeaderBytes: maxBody,
		DisableCompression:     true,
		// On a connection of its own a request cannot meet one that the other
		// side has just closed, which would leave its outcome unknown, and
		// neither HTTP/1 nor HTTP/2 has a reason to send it twice. Token
		// requests are rare enough to pay for a handshake each.
		DisableKeepAlives: true,
		Protocols:         protocols,
	}
}

// httpsProxy is the proxy that HTTPS_PROXY names. It sees a tunnel, no request;
// a request in clear would show it the client secret, so that goes directly.
func httpsProxy(r *http.Request) (*url.URL, error) {
	if r.URL.Scheme != "https" {
		return nil, nil
	}
	return http.ProxyFromEnvironment(r)
}

// onceBody is a request's body that is sent once or not at all, and knows
// which. A request without its body cannot have been carried out, so an error
// before the first byte was taken proves that nothing was done.
type onceBody struct {
	content *bytes.Reader
	// late reports that the deadline has passed on the wall clock. Timers
	// stand still while a machine sleeps; a request that wakes up to be sent
	// after everybody else has taken its outcome for unknown would be the
	// second one.
	late func() bool

	mu       sync.Mutex
	taken    bool
	withheld bool
}

var errWithheld = errors.New("the request was given up before it was sent")

// Read gives the content to the transport.
func (b *onceBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.taken && b.late() {
		b.withheld = true
	}
	if b.withheld {
		return 0, errWithheld
	}
	b.taken = true
	return b.content.Read(p)
}

// Close does nothing: there is nothing to free.
func (b *onceBody) Close() error { return nil }

// withhold reports whether no byte of the body was read, and makes sure that none is
// read later: a transport may still be sending after it returned its error.
func (b *onceBody) withhold() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.withheld = !b.taken
	return b.withheld
}

// newBody returns a body that may be sent until ctx ends, on its timer and on
// the wall clock.
func (c *Client) newBody(ctx context.Context, content []byte) *onceBody {
	body := &onceBody{content: bytes.NewReader(content), late: func() bool { return false }}
	if deadline, ok := ctx.Deadline(); ok {
		until := c.config.Now().Round(0).Add(time.Until(deadline)) // rounded, it is compared by the wall clock
		body.late = func() bool { return c.config.Now().After(until) }
	}
	return body
}

// reply is an HTTP answer of any kind, read as far as it came.
type reply struct {
	status int
	header http.Header
	body   []byte
	// broken is the error code for a body that did not come to its end; it may
	// be whole all the same.
	broken string
	at     time.Time
}

// roundTrip sends a request once. A redirect is an answer like any other.
//
// The request's GetBody must be nil: with it a transport may send the body a
// second time on another connection.
func (c *Client) roundTrip(r *http.Request, words *redactor) (reply, *Error) {
	r.Header.Set("Accept", "application/json")
	r.Header.Set("User-Agent", "caddy-mercadopago")
	response, err := c.config.Transport.RoundTrip(r)
	if err != nil {
		failure := &Error{Code: failureCode(r.Context(), err), Description: words.redact(err.Error())}
		if body, ok := r.Body.(*onceBody); ok && body.withhold() {
			failure.Outcome = Refused
			if failure.Code == codeCut {
				failure.Code = codeDial
			}
		}
		return reply{}, failure
	}
	defer func() { _ = response.Body.Close() }()
	got := reply{status: response.StatusCode, header: response.Header, at: c.config.Now()}
	got.body, err = io.ReadAll(io.LimitReader(response.Body, maxBody+1))
	switch {
	case len(got.body) > maxBody:
		got.body, got.broken = nil, codeUnreadable
	case err != nil:
		got.broken = failureCode(r.Context(), err)
	}
	return got, nil
}

// failureCode gives a transport's error a word.
func failureCode(ctx context.Context, err error) string {
	var (
		dnsErr  *net.DNSError
		opErr   *net.OpError
		timeout net.Error
	)
	switch {
	case errors.Is(ctx.Err(), context.Canceled):
		return codeCanceled
	case ctx.Err() != nil, errors.Is(err, errWithheld):
		return codeTimeout
	case errors.As(err, &dnsErr):
		return codeDNS
	case strings.Contains(err.Error(), "tls: "): // most of them have no type that is exported
		return codeTLS
	case errors.As(err, &timeout) && timeout.Timeout():
		return codeTimeout
	case errors.As(err, &opErr) && (opErr.Op == "dial" || opErr.Op == "proxyconnect"):
		return codeDial
	}
	return codeCut
}
