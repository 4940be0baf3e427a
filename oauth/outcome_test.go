package oauth

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// errorShapes are the answers that the provider is documented or was seen to
// give, and those of what may stand in front of it.
var errorShapes = []struct {
	status  int
	body    string
	outcome Outcome
	code    string
}{
	{400, `{"message":"Error validating grant. Your authorization code or refresh token may be expired or it was already used.","error":"invalid_grant","status":400,"cause":[]}`, GrantDead, "invalid_grant"},
	{400, `{"error_description":"Error validating grant. Your authorization code or refresh token may be expired","error":"invalid_grant","status":400,"cause":[]}`, GrantDead, "invalid_grant"},
	{400, `{"message":"expired","status":400,"errorKey":"expired_grant","cause":[]}`, GrantDead, "expired_grant"},
	{400, `{"error":null,"errorKey":"expired_grant"}`, GrantDead, "expired_grant"},
	{400, `{"message":"the client_id does not match the original","error":"invalid_grant","status":400,"cause":[]}`, GrantDead, "invalid_grant"},
	{400, `{"message":"The redirect_uri does not match the original","error":"invalid_grant","status":400,"cause":[]}`, GrantDead, "invalid_grant"},
	{401, `{"error":"invalid_grant"}`, GrantDead, "invalid_grant"},
	{400, `{"error":"unauthorized_client"}`, GrantDead, "unauthorized_client"},

	{400, `{"message":"invalid client_id or client_secret","error":"invalid_client"}`, ApplicationFault, "invalid_client"},
	{401, `{"error":"invalid_client"}`, ApplicationFault, "invalid_client"},
	{401, `{"error":"unauthorized_application"}`, ApplicationFault, "unauthorized_application"},
	{401, `{"error":"some_day_invented"}`, ApplicationFault, "unauthorized"},
	{400, `{"message":"the following parameters are required: grant_type, client_id, client_secret. Missing parameters: client_id","error":"invalid_request","status":400,"cause":[]}`, ApplicationFault, "invalid_request"},
	{400, `{"message":"code_verifier is a required parameter","error":"invalid_request","status":400,"cause":[]}`, ApplicationFault, "invalid_request"},
	{400, `{"error":"invalid_scope"}`, ApplicationFault, "invalid_scope"},
	{400, `{"error":"unsupported_grant_type"}`, ApplicationFault, "unsupported_grant_type"},
	{403, `{"message":"forbidden","error":"forbidden","status":403,"cause":[]}`, ApplicationFault, "forbidden"},
	{403, `{"code":"PA_UNAUTHORIZED_RESULT_FROM_POLICIES","blocked_by":"PolicyAgent"}`, ApplicationFault, "forbidden"},

	{429, `{"errorKey":"local_rate_limited"}`, Refused, "rate_limited"},
	{429, `local_rate_limited`, Refused, "rate_limited"},
	{429, ``, Refused, "rate_limited"},
	{429, `{"error":"invalid_grant"}`, Refused, "rate_limited"},

	{500, `{"message":"internal","error":"internal_server_error","status":500,"cause":[]}`, Unknown, "server_error"},
	{500, `{"error":"invalid_grant","status":400}`, Unknown, "server_error"},
	{502, `<html><body>Bad Gateway</body></html>`, Unknown, "server_error"},
	{503, ``, Unknown, "server_error"},
	{504, `upstream request timeout`, Unknown, "server_error"},
	{302, ``, Unknown, "redirect"},
	{307, `{"error":"invalid_grant"}`, Unknown, "redirect"},
	{400, ``, Unknown, "unexpected"},
	{400, `<html>invalid_grant</html>`, Unknown, "unexpected"},
	{400, `{"message":"invalid_grant"}`, Unknown, "unexpected"},
	{400, `{"error":"temporarily_unavailable"}`, Unknown, "unexpected"},
	{400, `{"error":"INVALID_GRANT"}`, Unknown, "unexpected"},
	{400, `{"error":{"code":"invalid_grant"}}`, Unknown, "unexpected"},
	{400, `{"error":"invalid_grant"`, Unknown, "unexpected"},
	{400, `["invalid_grant"]`, Unknown, "unexpected"},
	{401, `{"message":"who are you"}`, Unknown, "unauthorized"},
	{401, `<html>`, Unknown, "unauthorized"},
	{403, `<html>blocked</html>`, Unknown, "forbidden"},
	{404, `{"message":"resource not found","error":"not_found","status":404,"cause":[]}`, Unknown, "unexpected"},
	{408, ``, Unknown, "unexpected"},
	{204, ``, Unknown, "unreadable"},
	{200, ``, Unknown, "unreadable"},
	{200, `<html>maintenance</html>`, Unknown, "unreadable"},
	{200, `{"access_token":7}`, Unknown, "unreadable"},
	{200, strings.Repeat(" ", maxBody) + fullAnswer, Unknown, "unreadable"},
	{400, `{"error":"invalid_grant"}` + strings.Repeat(" ", maxBody), Unknown, "unreadable"},
}

func TestEveryShapeOfErrorHasItsOutcome(t *testing.T) {
	for _, shape := range errorShapes {
		address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(shape.status)
			_, _ = io.WriteString(w, shape.body)
		})
		_, err := newTestClient(t, address).Refresh(t.Context(), secret.New("TG-r"))
		failure := requireError(t, err)
		said := shape.body[:min(len(shape.body), 80)]
		require.Equal(t, shape.outcome, failure.Outcome, said)
		require.Equal(t, shape.code, failure.Code, said)
		require.Equal(t, shape.status, failure.Status, said)
	}
}

func TestTheProvidersWordsReachTheLog(t *testing.T) {
	for body, says := range map[string]string{
		``:                  "provider: unexpected (status 400)",
		errorShapes[0].body: "provider: invalid_grant (status 400): invalid_grant: Error validating grant. Your authorization code or refresh token may be expired or it was already used.",
		errorShapes[2].body: "provider: expired_grant (status 400): expired_grant: expired",
		`{"error":"temporarily_unavailable","error_description":"come\r\nback"}`: "provider: unexpected (status 400): temporarily_unavailable: come  back",
		`<html><b>page</b></html>`: "provider: unexpected (status 400): answered with text/html that is no JSON object",
	} {
		got := answered(400, body)
		got.header.Set("Content-Type", "text/html")
		require.EqualError(t, got.tokenError(newRedactor(nil)), says)
	}
	require.EqualError(t, answered(400, `<html>`).tokenError(newRedactor(nil)), "provider: unexpected (status 400)", "no content type to name")
}

func TestOutcomesHaveNames(t *testing.T) {
	for outcome, name := range map[Outcome]string{
		Unknown: "unknown", Refused: "refused", GrantDead: "grant_dead", ApplicationFault: "application_fault",
	} {
		require.Equal(t, name, outcome.String())
	}
}

func refreshOnce(ctx context.Context, c *Client) error {
	_, err := c.Refresh(ctx, secret.New("TG-r"))
	return err
}

// listen accepts connections one after the other for the length of a test.
func listen(t *testing.T, accept func(net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accept(conn)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
	})
	return listener.Addr().String()
}

// closedAddress returns an address where nobody listens.
func closedAddress(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	return listener.Addr().String()
}

func TestWhatFailsBeforeTheRequestIsSentIsRefused(t *testing.T) {
	hangUp := listen(t, func(c net.Conn) { _ = c.Close() })
	plain := listen(t, func(c net.Conn) {
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		_ = c.Close()
	})
	never := make(chan struct{})
	mute := listen(t, func(c net.Conn) {
		<-never
		_ = c.Close()
	})
	t.Cleanup(func() { close(never) })

	secure := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a request was sent") }))
	secure.Config.ErrorLog = quiet
	secure.StartTLS()
	t.Cleanup(secure.Close)
	old := httptest.NewUnstartedServer(secure.Config.Handler)
	old.Config.ErrorLog = quiet
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	old.StartTLS()
	t.Cleanup(old.Close)

	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	for name, row := range map[string]struct {
		address string
		ctx     context.Context
		change  func(*Config)
		code    string
	}{
		"nobody listens":           {address: "https://" + closedAddress(t), code: "dial"},
		"hung up in the handshake": {address: "https://" + hangUp, code: "dial"},
		"no TLS there":             {address: "https://" + plain, code: "tls"},
		"a strange certificate":    {address: secure.URL, code: "tls"},
		"TLS 1.1": {address: old.URL, code: "tls", change: func(c *Config) {
			c.Transport = trusting(old)
		}},
		"mute in the handshake": {address: "https://" + mute, code: "timeout", change: func(c *Config) { c.Timeout = 50 * time.Millisecond }},
		"no such host": {address: "https://api.invalid", code: "dns", change: func(c *Config) {
			c.Transport = &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
				return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", IsNotFound: true}}
			}}
		}},
		"a connection takes too long": {code: "timeout", change: func(c *Config) {
			c.Transport = roundTripper(func(*http.Request) (*http.Response, error) {
				return nil, &net.OpError{Op: "dial", Err: os.ErrDeadlineExceeded}
			})
		}},
		"no time left to find the host": {code: "timeout", change: func(c *Config) {
			c.Timeout = time.Millisecond
			c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
				<-r.Context().Done()
				return nil, &net.DNSError{Err: "operation was canceled"}
			})
		}},
		"the caller has left": {address: secure.URL, ctx: canceled, code: "canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := row.ctx
			if ctx == nil {
				ctx = t.Context()
			}
			client := newTestClient(t, row.address, func(c *Config) {
				if row.change != nil {
					row.change(c)
				}
			})
			failure := requireError(t, refreshOnce(ctx, client))
			require.Equal(t, Refused, failure.Outcome, failure.Error())
			require.Equal(t, row.code, failure.Code, failure.Error())
			require.Zero(t, failure.Status)
		})
	}
}

var quiet = log.New(io.Discard, "", 0)

// trusting is the client's own transport with a test server's certificate.
func trusting(server *httptest.Server) *http.Transport {
	transport := newTransport(10 * time.Second).(*http.Transport)
	transport.TLSClientConfig.RootCAs = x509.NewCertPool()
	transport.TLSClientConfig.RootCAs.AddCert(server.Certificate())
	return transport
}

func TestTokensAreAskedForOverTLS(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, fullAnswer) }))
	t.Cleanup(server.Close)
	client := newTestClient(t, server.URL, func(c *Config) { c.Transport = trusting(server) })
	require.NoError(t, refreshOnce(t.Context(), client))
}

func TestWhatBreaksAfterTheRequestWasSentIsUnknownAndNotRepeated(t *testing.T) {
	cut := func(written string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			conn, _, _ := w.(http.Hijacker).Hijack()
			_, _ = io.WriteString(conn, written)
			_ = conn.Close()
		}
	}
	stall := func(written string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			if written != "" {
				_, _ = io.WriteString(w, written)
				w.(http.Flusher).Flush()
			}
			<-r.Context().Done()
		}
	}
	for name, row := range map[string]struct {
		handler http.HandlerFunc
		code    string
		status  int
	}{
		"cut without an answer":       {handler: cut(""), code: "cut"},
		"cut in the status line":      {handler: cut("HTTP/1.1 2"), code: "cut"},
		"cut in the headers":          {handler: cut("HTTP/1.1 200 OK\r\nContent-Le"), code: "cut"},
		"no HTTP":                     {handler: cut("SSH-2.0-OpenSSH\r\n"), code: "cut"},
		"cut in the body":             {handler: cut("HTTP/1.1 200 OK\r\nContent-Length: 400\r\n\r\n" + fullAnswer[:100]), code: "cut", status: 200},
		"a verdict cut in the body":   {handler: cut("HTTP/1.1 400 Bad Request\r\nContent-Length: 400\r\n\r\n" + `{"error":"invalid_grant",`), code: "cut", status: 400},
		"a whole error, cut after it": {handler: cut("HTTP/1.1 404 Not Found\r\nContent-Length: 400\r\n\r\n" + `{"error":"not_found"}`), code: "unexpected", status: 404},
		"headers of 128 KiB":          {handler: cut("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 2*maxBody) + "\r\n\r\n" + fullAnswer), code: "cut"},
		"no answer in time":           {handler: stall(""), code: "timeout"},
		"a body that does not finish": {handler: stall(fullAnswer[:100]), code: "timeout", status: 200},
	} {
		t.Run(name, func(t *testing.T) {
			var requests atomic.Int32
			address := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				row.handler(w, r)
			})
			client := newTestClient(t, address, func(c *Config) {
				if row.code == "timeout" {
					c.Timeout = time.Second // long enough to be sent on a busy machine
				}
			})
			failure := requireError(t, refreshOnce(t.Context(), client))
			require.Equal(t, Unknown, failure.Outcome, failure.Error())
			require.Equal(t, row.code, failure.Code, failure.Error())
			require.Equal(t, row.status, failure.Status)
			require.Equal(t, int32(1), requests.Load())
		})
	}
}

func TestAPairThatCameWholeIsTakenThoughTheConnectionBrokeBehindIt(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		conn, _, _ := w.(http.Hijacker).Hijack()
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"+fullAnswer)
		_ = conn.Close()
	})
	require.NoError(t, refreshOnce(t.Context(), newTestClient(t, address)))
}

func TestACallerThatLeavesAfterTheRequestWasSentLeavesItUnknown(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		cancel()
		<-r.Context().Done()
	})
	failure := requireError(t, refreshOnce(ctx, newTestClient(t, address)))
	require.Equal(t, Unknown, failure.Outcome)
	require.Equal(t, "canceled", failure.Code)
}

func TestRedirectsAreNotFollowed(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		var paths []string
		address := serve(t, func(w http.ResponseWriter, r *http.Request) {
			paths = append(paths, r.URL.Path)
			http.Redirect(w, r, "/elsewhere", status)
		})
		client := newTestClient(t, address)
		failure := requireError(t, refreshOnce(t.Context(), client))
		require.Equal(t, Unknown, failure.Outcome)
		require.Equal(t, "redirect", failure.Code)
		_, err := client.Me(t.Context(), secret.New("APP_USR-1"))
		require.Equal(t, "redirect", requireError(t, err).Code)
		require.Equal(t, []string{"/oauth/token", "/users/me"}, paths)
	}
}

// A kept connection that the other side closes is where transports send a
// request again.
func TestNoTransportSendsATokenRequestTwice(t *testing.T) {
	var posts atomic.Int32
	address := listen(t, func(conn net.Conn) {
		defer func() { _ = conn.Close() }()
		reader := bufio.NewReader(conn)
		for {
			request, err := http.ReadRequest(reader)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, request.Body)
			if request.Method == http.MethodPost {
				posts.Add(1)
				return // cut, the request read
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"id\":7}")
		}
	})
	keeping := &http.Transport{}
	t.Cleanup(keeping.CloseIdleConnections)
	for name, transport := range map[string]http.RoundTripper{"its own": nil, "one that keeps connections": keeping} {
		posts.Store(0)
		client := newTestClient(t, "http://"+address, func(c *Config) { c.Transport = transport })
		_, err := client.Me(t.Context(), secret.New("APP_USR-1"))
		require.NoError(t, err, name)
		require.Equal(t, Unknown, requireError(t, refreshOnce(t.Context(), client)).Outcome, name)
		require.Equal(t, int32(1), posts.Load(), name)
	}
}

func TestEachRequestOfTheOwnTransportHasAConnectionOfItsOwn(t *testing.T) {
	var remotes []string
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		remotes = append(remotes, r.RemoteAddr)
		_, _ = io.WriteString(w, fullAnswer)
	})
	client := newTestClient(t, address)
	for range 2 {
		require.NoError(t, refreshOnce(t.Context(), client))
	}
	require.NotEqual(t, remotes[0], remotes[1])
}

func TestNoTransportIsGivenTheMeansToSendABodyAgain(t *testing.T) {
	client := newTestClient(t, "http://127.0.0.1:1", func(c *Config) {
		c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			require.Nil(t, r.GetBody)
			require.Positive(t, r.ContentLength)
			return nil, errors.New("refused")
		})
	})
	require.Error(t, refreshOnce(t.Context(), client))
}

func TestAnHTTP2TransportSendsATokenRequestOnce(t *testing.T) {
	var posts atomic.Int32
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		posts.Add(1)
		panic(http.ErrAbortHandler)
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	client := newTestClient(t, server.URL, func(c *Config) { c.Transport = server.Client().Transport })
	require.Equal(t, Unknown, requireError(t, refreshOnce(t.Context(), client)).Outcome)
	require.Equal(t, int32(1), posts.Load())
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestARequestJudgedUnsentCannotBeSentAfterwards(t *testing.T) {
	judged, late := make(chan struct{}), make(chan error)
	client := newTestClient(t, "http://127.0.0.1:1", func(c *Config) {
		c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			go func() {
				<-judged
				_, err := r.Body.Read(make([]byte, 1))
				late <- err
			}()
			return nil, errors.New("given up")
		})
	})
	failure := requireError(t, refreshOnce(t.Context(), client))
	require.Equal(t, Refused, failure.Outcome)
	close(judged)
	require.ErrorIs(t, <-late, errWithheld)
}

func TestARequestWithItsFirstByteTakenIsUnknown(t *testing.T) {
	client := newTestClient(t, "http://127.0.0.1:1", func(c *Config) {
		c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			_, _ = r.Body.Read(make([]byte, 1))
			return nil, &net.OpError{Op: "dial", Err: errors.New("says it was dialing")}
		})
	})
	require.Equal(t, Unknown, requireError(t, refreshOnce(t.Context(), client)).Outcome)
}

func TestARequestThatIsBeingSentWhenItsTimeEndsIsSentWholeAndUnknown(t *testing.T) {
	now := noon
	var sent string
	client := newTestClient(t, "http://127.0.0.1:1", func(c *Config) {
		c.Now = func() time.Time { return now }
		c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			first := make([]byte, 1)
			_, err := r.Body.Read(first)
			require.NoError(t, err)
			now = now.Add(time.Hour)
			rest, err := io.ReadAll(r.Body)
			require.NoError(t, err)
			sent = string(first) + string(rest)
			return nil, io.ErrUnexpectedEOF
		})
	})
	require.Equal(t, Unknown, requireError(t, refreshOnce(t.Context(), client)).Outcome)
	require.Equal(t, "TG-r", fieldsOf(t, "application/json", sent)["refresh_token"])
}

func TestAMachineThatSleptPastTheDeadlineDoesNotSend(t *testing.T) {
	var requests, slept atomic.Int32
	address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		if n, _ := io.Copy(io.Discard, r.Body); n > 0 {
			requests.Add(1)
		}
	})
	client := newTestClient(t, address, func(c *Config) {
		c.Now = func() time.Time { return noon.Add(time.Duration(slept.Load()) * time.Hour) }
		transport := newTransport(c.Timeout).(*http.Transport)
		dial := transport.DialContext
		transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			slept.Add(1) // timers stand still meanwhile
			return dial(ctx, network, address)
		}
		c.Transport = transport
	})
	failure := requireError(t, refreshOnce(t.Context(), client))
	require.Equal(t, Refused, failure.Outcome, failure.Error())
	require.Equal(t, "timeout", failure.Code, failure.Error())
	require.Zero(t, requests.Load())
}

// long is a body of many bytes that counts how many were read.
type long struct{ read, length int }

func (l *long) Read(p []byte) (int, error) {
	if l.read >= l.length {
		return 0, io.EOF
	}
	l.read += len(p)
	return len(p), nil
}

func (*long) Close() error { return nil }

func TestNoMoreOfAnAnswerIsReadThanIsTaken(t *testing.T) {
	body := &long{length: 100 * maxBody}
	client := newTestClient(t, "http://127.0.0.1:1", func(c *Config) {
		c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			_, err := io.Copy(io.Discard, r.Body)
			return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: body}, err
		})
	})
	require.Equal(t, Unknown, requireError(t, refreshOnce(t.Context(), client)).Outcome)
	require.Less(t, body.read, 2*maxBody)
}

func TestACallHasADeadlineForAllThatItDoes(t *testing.T) {
	var left time.Duration
	client := newTestClient(t, "http://127.0.0.1:1", func(c *Config) {
		c.Timeout = time.Minute
		c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			deadline, _ := r.Context().Deadline()
			left = time.Until(deadline)
			return nil, io.ErrUnexpectedEOF
		})
	})
	require.Error(t, refreshOnce(t.Context(), client))
	require.Positive(t, left)
	require.LessOrEqual(t, left, time.Minute)
}

func TestOnlyHTTPSGoesThroughAProxy(t *testing.T) {
	proxy, err := httpsProxy(httptest.NewRequest(http.MethodPost, "http://api.example.com/oauth/token", nil))
	require.NoError(t, err)
	require.Nil(t, proxy, "it would read the client secret")

	proxy, err = httpsProxy(httptest.NewRequest(http.MethodPost, "https://api.example.com/oauth/token", nil))
	require.NoError(t, err)
	require.Equal(t, proxyAddress, proxy.String())
}
