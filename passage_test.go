package mercadopago

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// Handlers may edit a header's values in place: what one attempt made of them is
// not what the next begins with.
func TestTheSecondAttemptBeginsWithTheResponseHeaderOfTheFirst(t *testing.T) {
	r := newRig(t)
	denied := false
	r.app.handle = func(w http.ResponseWriter, _ *http.Request) {
		if !denied {
			denied = true
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	r.load(sellerSite + strings.NewReplacer("mercadopago {", "header X-Stage a\n\tmercadopago {", "reverse_proxy API {\n\t\theader_up -X-Seller\n\t}",
		"handle {\n\t\theader X-Stage a ab\n\t\treverse_proxy APP\n\t}").Replace(egressSite))
	r.connectSeller("shop-1", aurora)
	got := r.call(http.MethodGet, r.at("EGRESS")+"/users/me", nil, http.Header{"X-Seller": {"shop-1"}})
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, []string{"ab"}, got.header["X-Stage"])
}

// Many servers answer TRACE with the request's header.
func TestTraceGetsNoToken(t *testing.T) {
	r := newRig(t)
	r.app.handle = func(w http.ResponseWriter, request *http.Request) { fmt.Fprint(w, request.Header) }
	r.load(sellerSite)
	r.connectSeller("shop-1", aurora)
	got := r.call(http.MethodTrace, r.at("SHOP")+"/", nil, http.Header{"X-User": {"shop-1"}})
	require.Equal(t, http.StatusMethodNotAllowed, got.status)
	require.Equal(t, "method_not_allowed", r.problem(got)["code"])
	require.Nil(t, r.app.last())
}

func TestTheAccessLogKeepsNoCodeAndNoLink(t *testing.T) {
	r := newRig(t)
	r.load(strings.Replace(sellerSite, "mercadopago {", "log\n\tmercadopago {", 1))
	for _, path := range []string{"/connect/callback?code=canary-code&state=canary-state", "/connect/link?link=canary-link", "/connect/disconnect?seen=yes"} {
		r.call(http.MethodGet, r.at("SHOP")+path, nil, nil)
	}
	require.NoError(t, stopCaddy()) // so that the log is written
	require.Contains(t, r.logged(), "seen=yes")
	require.NotContains(t, r.logged(), "canary")
}

func TestPlaceholdersTellOfTheTokenThatIsSent(t *testing.T) {
	r := newRig(t)
	r.load(sellerSite + strings.Replace(egressSite, "reverse_proxy API {", "reverse_proxy APP {\n\t\theader_up X-User-Id {http.mercadopago.user_id}", 1))
	r.connectSeller("shop-1", aurora)
	seller := http.Header{"X-Seller": {"shop-1"}}
	r.call(http.MethodGet, r.at("EGRESS")+"/", nil, seller) // now it is in memory

	// Another instance lets the seller switch.
	other, client, verifier := r.otherInstance(), r.oauthClient(), oauth.NewVerifier()
	callback, err := r.sandbox.Approve(client.AuthorizationURL("state", verifier), almacen.UserID)
	require.NoError(t, err)
	back, err := url.Parse(callback)
	require.NoError(t, err)
	consent, err := other.Exchange(t.Context(), "default", back.Query().Get("code"), verifier)
	require.NoError(t, err)
	_, err = other.Connect(t.Context(), "shop-1", consent)
	require.NoError(t, err)

	r.app.handle = func(w http.ResponseWriter, request *http.Request) {
		token, id := request.Header.Get("Authorization"), request.Header.Get("X-User-Id")
		if !strings.HasSuffix(token, "-"+id) {
			t.Errorf("a token of another account than %s", id)
		}
		if !strings.HasSuffix(token, "-"+strconv.FormatInt(almacen.UserID, 10)) {
			w.WriteHeader(http.StatusUnauthorized)
		}
	}
	require.Equal(t, http.StatusOK, r.call(http.MethodGet, r.at("EGRESS")+"/", nil, seller).status)
}

// Another handler further in acts for another seller, and it is what the placeholders
// tell; a 401 is still mended for the seller of the one that saw it.
func TestA401IsMendedForTheSellerWhoseTokenItWas(t *testing.T) {
	r := newRig(t)
	r.load(strings.Replace(egressTo(""), "reverse_proxy APP {\n\t\theader_up -X-Seller\n\t}", `route {
		mercadopago {
			seller {http.request.header.X-Other}
			inject X-Mp-Token
			connect off
		}
		reverse_proxy APP {
			header_up X-Told {http.mercadopago.seller}
		}
	}`, 1))
	r.connectSeller("shop-1", aurora)
	r.connectSeller("shop-2", almacen)
	a := &api{refuses: 1}
	r.app.handle = a.handle
	got := r.call(http.MethodGet, r.at("EGRESS")+"/", nil, http.Header{"X-Seller": {"shop-1"}, "X-Other": {"shop-2"}})
	require.Equal(t, http.StatusOK, got.status)
	require.Len(t, a.seen, 2)
	for _, seen := range a.seen {
		require.True(t, strings.HasSuffix(seen.Header.Get("Authorization"), "-"+strconv.FormatInt(aurora.UserID, 10)))
		require.True(t, strings.HasSuffix(seen.Header.Get("X-Mp-Token"), "-"+strconv.FormatInt(almacen.UserID, 10)))
		require.Equal(t, "shop-2", seen.Header.Get("X-Told"))
	}
	require.NotEqual(t, a.seen[0].Header.Get("Authorization"), a.seen[1].Header.Get("Authorization"))
	require.Equal(t, a.seen[0].Header.Get("X-Mp-Token"), a.seen[1].Header.Get("X-Mp-Token"))
}

// attempts counts attempts in a variable, and keeps what an attempt's dial may hold on to.
type attempts struct{ vars []map[string]any }

var counted = new(attempts)

func init() {
	caddy.RegisterModule(counted)
	httpcaddyfile.RegisterHandlerDirective("attempts", func(httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
		return counted, nil
	})
}

func (*attempts) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.attempts", New: func() caddy.Module { return counted }}
}

func (a *attempts) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	a.vars = append(a.vars, r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any))
	caddyhttp.SetVar(r.Context(), "attempt", len(a.vars))
	return next.ServeHTTP(w, r)
}

// A transport's dial that lost the race against another connection outlives its
// attempt, and reads Caddy's variables; a second attempt sets them.
func TestASecondAttemptWritesNothingThatTheFirstMayStillRead(t *testing.T) {
	r := newRig(t)
	r.load(strings.Replace(egressTo(""), "reverse_proxy APP {\n\t\theader_up -X-Seller\n\t}", `route {
		attempts
		reverse_proxy APP {
			header_up X-Attempt {vars.attempt}
		}
	}
	log
	log_append last {vars.attempt}`, 1))
	r.connectSeller("shop-1", aurora)
	a := &api{refuses: 1}
	r.app.handle = a.handle
	counted.vars = nil
	require.Equal(t, http.StatusOK, r.call(http.MethodGet, r.at("EGRESS")+"/", nil, http.Header{"X-Seller": {"shop-1"}}).status)
	require.Len(t, a.seen, 2)
	require.Equal(t, "1", a.seen[0].Header.Get("X-Attempt"))
	require.Equal(t, "2", a.seen[1].Header.Get("X-Attempt"), "a placeholder tells what was set last")
	require.Len(t, counted.vars, 2)
	require.Equal(t, 1, counted.vars[0]["attempt"])
	require.NoError(t, stopCaddy()) // so that the log is written
	require.Contains(t, r.logged(), `"last":2`)
}

func TestPlaceholdersAreEmptyWhereThereIsNothingToTell(t *testing.T) {
	r := newRig(t)
	r.load(strings.Replace(sellerSite, "mercadopago {", "log\n\tlog_append told {http.mercadopago.user_id}\n\tmercadopago {", 1))
	r.call(http.MethodGet, r.at("SHOP")+"/connect/disconnect", nil, http.Header{"X-User": {"shop-1"}})
	r.call(http.MethodTrace, r.at("SHOP")+"/", nil, nil)
	require.NoError(t, stopCaddy()) // so that the log is written
	require.Equal(t, 2, strings.Count(r.logged(), `"told":""`), "empty, and never unset")
}

func TestAHeaderThatWasKeptIsWhatItWasWhateverBecameOfIt(t *testing.T) {
	header := http.Header{"A": {"1", "2"}, "B": {"3"}, "X-Forwarded-For": nil, "Empty": {}}
	was := header.Clone()
	kept := keepHeader(nil, nil, header)
	header["A"][1] = "edited in place"
	header["B"] = append(header["B"][:0], "over it")
	delete(header, "Empty")
	header["New"] = []string{"x"}
	kept.restore(header)
	require.Equal(t, was, header)
	require.Nil(t, header["X-Forwarded-For"])
	require.Contains(t, header, "X-Forwarded-For")
}

func TestAnAnswerToATokenIsPrivateUnlessItSaysOtherwise(t *testing.T) {
	token, _ := liveToken(t)
	for name, test := range map[string]struct {
		next func(http.ResponseWriter)
		want string
	}{
		"written":           {func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) }, "private"},
		"written by nobody": {func(http.ResponseWriter) {}, "private"},
		"says otherwise": {func(w http.ResponseWriter) {
			w.Header().Set("Cache-Control", "public")
			w.WriteHeader(http.StatusOK)
		}, "public"},
	} {
		t.Run(name, func(t *testing.T) {
			w := httptest.NewRecorder()
			next := func(w http.ResponseWriter, _ *http.Request) error { test.next(w); return nil }
			r := getRequest()
			require.NoError(t, bearer().pass(w, r, caddyhttp.HandlerFunc(next), "", token))
			require.Equal(t, test.want, w.Header().Get("Cache-Control"))
		})
	}
}

// api answers 401 so many times, and notes what was sent.
type api struct {
	mu      sync.Mutex
	refuses int
	body    string // of the 401
	bodies  []string
	seen    []*http.Request
}

func (a *api) handle(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bodies, a.seen = append(a.bodies, string(body)), append(a.seen, r.Clone(r.Context()))
	if len(a.seen) <= a.refuses {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, a.body)
	}
}

func TestWhichRequestsAreSentOnceMoreAfterA401(t *testing.T) {
	const limit = 1024
	body := func(n int) io.Reader { return strings.NewReader(strings.Repeat("x", n)) }
	for name, test := range map[string]struct {
		options, method string
		body            io.Reader
		key             bool
		refuses         int
		fault           bool
		status, sent    int
	}{
		"GET":                           {method: http.MethodGet, refuses: 1, status: 200, sent: 2},
		"POST":                          {method: http.MethodPost, body: body(9), refuses: 1, status: 401, sent: 1},
		"POST with a key":               {method: http.MethodPost, body: body(9), key: true, refuses: 1, status: 200, sent: 2},
		"a body at the bound":           {method: http.MethodPut, body: body(limit), refuses: 1, status: 200, sent: 2},
		"a body above the bound":        {method: http.MethodPut, body: body(limit + 1), refuses: 1, status: 401, sent: 1},
		"a body of unknown length":      {method: http.MethodPut, body: struct{ io.Reader }{body(9)}, refuses: 1, status: 401, sent: 1},
		"switched off":                  {options: "max_replay_body 0", method: http.MethodGet, refuses: 1, status: 401, sent: 1},
		"a token that is refused again": {method: http.MethodGet, refuses: 9, status: 401, sent: 2},
		"no other token":                {method: http.MethodGet, refuses: 1, fault: true, status: 401, sent: 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			if test.options == "" {
				test.options = "max_replay_body " + strconv.Itoa(limit)
			}
			r.load(egressTo(test.options))
			r.connectSeller("shop-1", aurora)
			a := &api{refuses: test.refuses, body: "refused"}
			r.app.handle = a.handle
			if test.fault {
				r.sandbox.Fault(sandbox.Fault{Kind: sandbox.ServerError, Path: "/oauth/token"})
			}
			header := http.Header{"X-Seller": {"shop-1"}}
			if test.key {
				header.Set("X-Idempotency-Key", "1")
			}
			got := r.call(test.method, r.at("EGRESS")+"/v1/payments", test.body, header)
			require.Equal(t, test.status, got.status)
			require.Len(t, a.seen, test.sent)
			if test.status == http.StatusUnauthorized {
				require.Equal(t, "refused", got.body)
			}
			if test.sent == 2 {
				require.Equal(t, a.bodies[0], a.bodies[1])
				require.NotEqual(t, a.seen[0].Header.Get("Authorization"), a.seen[1].Header.Get("Authorization"))
			}
		})
	}
}

func TestASecondAttemptIsTheFirstRequestAgain(t *testing.T) {
	r := newRig(t)
	r.load(strings.Replace(egressTo(""), "reverse_proxy APP {\n\t\theader_up -X-Seller\n\t}", `handle /api/* {
		route {
			@get method GET
			request_header @get X-Was GET
			method PUT
			request_header +X-Stage one
			uri strip_prefix /api
			reverse_proxy APP
		}
	}
	handle {
		respond elsewhere 404
	}`, 1))
	r.connectSeller("shop-1", aurora)
	a := &api{refuses: 1}
	r.app.handle = a.handle
	got := r.call(http.MethodGet, r.at("EGRESS")+"/api/api/x?q=1", nil, http.Header{"X-Seller": {"shop-1"}})
	require.Equal(t, http.StatusOK, got.status)
	require.Len(t, a.seen, 2)
	for _, seen := range a.seen {
		require.Equal(t, "PUT /api/x?q=1", seen.Method+" "+seen.URL.RequestURI())
		require.Equal(t, []string{"one"}, seen.Header["X-Stage"])
		require.Equal(t, []string{"GET"}, seen.Header["X-Was"])
	}
}

func TestALong401GoesOn(t *testing.T) {
	r := newRig(t)
	r.load(egressTo(""))
	r.connectSeller("shop-1", aurora)
	a := &api{refuses: 1, body: strings.Repeat("x", 2*maxHeld)}
	r.app.handle = a.handle
	got := r.call(http.MethodGet, r.at("EGRESS")+"/", nil, http.Header{"X-Seller": {"shop-1"}})
	require.Equal(t, http.StatusUnauthorized, got.status)
	require.Equal(t, a.body, got.body)
	require.Len(t, a.seen, 1)
}

func TestA401OfTheAppIsItsOwn(t *testing.T) {
	r := newRig(t)
	r.load(sellerSite)
	r.connectSeller("shop-1", aurora)
	a := &api{refuses: 1, body: "log in"}
	r.app.handle = a.handle
	got := r.call(http.MethodGet, r.at("SHOP")+"/", nil, http.Header{"X-User": {"shop-1"}})
	require.Equal(t, http.StatusUnauthorized, got.status)
	require.Equal(t, "log in", got.body)
	require.Len(t, a.seen, 1)
	require.Zero(t, r.sandbox.Stats().Tokens("refresh_token"))
}
