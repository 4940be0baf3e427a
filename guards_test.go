package mercadopago

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/connect"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// Each of these holds one guard of the handler that no other test of this package
// misses; tools/mutate takes them away one at a time.

// liveToken is a seller's token, and what it goes upstream as.
func liveToken(t *testing.T) (token *tokensource.Token, bearer string) {
	t.Helper()
	w := warm(t, 1)
	token, err := w.app.source.Token(t.Context(), defaultApplication, w.sellers[0], time.Minute)
	require.NoError(t, err)
	return token, "Bearer " + token.AccessToken().Reveal()
}

// getRequest is a request as a server of Caddy hands it on.
func getRequest() *http.Request {
	return prepare(httptest.NewRequest(http.MethodGet, "/", nil), nil, new(caddyhttp.Server))
}

func bearer() *Handler { return &Handler{Inject: &Inject{Header: "Authorization", Scheme: "Bearer"}} }

func TestTheHeadersOfARequestAreAsTheyWereBehindTheHandler(t *testing.T) {
	const cookies = "theme=dark; __Host-mp_session=x"
	token, value := liveToken(t)
	for name, sent := range map[string]http.Header{
		"with a copy of its own": {"Authorization": {"Bearer own"}, "Cookie": {cookies}, "Connection": {"authorization, close"}},
		"without":                {"Cookie": {cookies}, "Accept": {"*/*"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := getRequest()
			r.Header = sent.Clone()
			next := func(_ http.ResponseWriter, r *http.Request) error {
				assert.Equal(t, []string{value}, r.Header["Authorization"])
				assert.Equal(t, []string{"theme=dark"}, r.Header["Cookie"], "another handler's session is no app's business")
				return nil
			}
			require.NoError(t, bearer().pass(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(next), "", token))
			require.Equal(t, sent, r.Header)
			failing := func(http.ResponseWriter, *http.Request) error { return errors.New("no upstream") }
			require.Error(t, bearer().pass(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(failing), "", token))
			require.Empty(t, r.Header["Authorization"], "handle_errors comes next")
			require.Equal(t, []string{"theme=dark"}, r.Header["Cookie"])
		})
	}
}

func TestEachRequestHasTheTokenInASliceOfItsOwn(t *testing.T) {
	token, value := liveToken(t)
	for range 2 {
		next := func(_ http.ResponseWriter, r *http.Request) error {
			values := r.Header["Authorization"]
			assert.Equal(t, []string{value}, values)
			values[0] = "edited in place" // as header_up with a replacement does
			_ = append(values, "more")
			return nil
		}
		r := getRequest()
		require.NoError(t, bearer().pass(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(next), "", token))
	}
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

func TestAFailureThatTimeMendsIsNotPassedOn(t *testing.T) {
	h := bearer()
	h.Unconnected = unconnectedPass
	require.True(t, h.passes("shop-1", errNoSession))
	require.True(t, h.passes("", errNobody))
	require.True(t, h.passes("shop-1", &tokensource.Error{Status: tokensource.ReconnectRequired}))
	require.False(t, h.passes("shop-1", &tokensource.Error{Status: tokensource.Connected, Reason: tokensource.ReasonStore}))
	require.False(t, h.passes("shop-1", errors.New("odd")))
	h.Unconnected = unconnectedReject
	require.False(t, h.passes("shop-1", errNoSession))
}

func TestAStoreThatFailsEndsNoSession(t *testing.T) {
	r := newRig(t)
	r.load(sessionSite)
	b := r.connected(aurora)
	require.NoError(t, stopCaddy()) // memory would serve on
	damaged := 0
	require.NoError(t, filepath.WalkDir(filepath.Join(r.storage, "mercadopago", "connections"), func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			damaged++
			err = os.WriteFile(path, []byte("damaged"), 0o600)
		}
		return err
	}))
	require.Equal(t, 1, damaged)
	r.load(sessionSite)
	got := b.get(r.at("SHOP") + "/")
	require.Equal(t, http.StatusServiceUnavailable, got.status)
	require.Empty(t, got.header.Values("Set-Cookie"))
}

func TestADisconnectTakesTheSessionFromOtherBrowsers(t *testing.T) {
	r := newRig(t)
	r.load(sessionSite)
	one, two := r.connected(aurora), r.connected(aurora)
	one.confirm(r.at("SHOP"), one.get(r.at("SHOP")+"/connect/disconnect"))
	require.Contains(t, two.get(r.at("SHOP")+"/").header.Get("Set-Cookie"), "mp_session=;")
}

func TestStrangersMayNotCallEgress(t *testing.T) {
	var e Egress
	require.NoError(t, e.provision())
	r := &http.Request{RemoteAddr: "127.0.0.1:1", URL: &url.URL{Path: "/v1/payments"}, Header: http.Header{}}
	require.Empty(t, e.refuses(r))
	r.RemoteAddr = "192.0.2.1:1"
	r.Header.Set("X-Forwarded-For", "127.0.0.1")
	require.Equal(t, connect.CodeForbiddenPeer, e.refuses(r))
}

// egressTo is an egress site whose API is the rig's app.
func egressTo(options string) string {
	return sellerSite + strings.NewReplacer("egress\n", "egress\n\t\t"+options+"\n", "reverse_proxy API", "reverse_proxy APP").Replace(egressSite)
}

func TestAnOldStyleTokenInTheQueryDoesNotGoOn(t *testing.T) {
	r := newRig(t)
	r.load(egressTo(""))
	r.connectSeller("shop-1", aurora)
	r.call(http.MethodGet, r.at("EGRESS")+"/v1/payments?a=1&access_token=own&b=2", nil, http.Header{"X-Seller": {"shop-1"}})
	require.Equal(t, "a=1&b=2", r.app.last().URL.RawQuery)
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

func TestANotificationThatWasAskedAboutIsNotAskedAboutAgain(t *testing.T) {
	r := newRig(t)
	r.webhooks(webhookSite)
	r.connected(aurora)
	asked, n := r.asked(), deauthorization(aurora.UserID)
	for range 3 {
		require.Equal(t, http.StatusOK, r.notify(n).status)
	}
	require.Equal(t, asked+1, r.asked())
}

func TestABodyIsNotReadBeforeItsSignatureHolds(t *testing.T) {
	body := &bytes.Buffer{}
	body.WriteString("{}")
	r := httptest.NewRequest(http.MethodPost, "/hook?data.id=1", body)
	r.Header.Set("X-Signature", "ts="+strconv.FormatInt(time.Now().Unix(), 10)+",v1="+strings.Repeat("ab", 32))
	w := &Webhook{secrets: []secret.Secret{secret.New(webhookSecret)}, seen: newDeliveries()}
	_, err := w.take(httptest.NewRecorder(), r)
	require.ErrorIs(t, err, errSignedForged)
	require.Equal(t, "{}", body.String())
}

func TestASignatureHasOneOfEachPart(t *testing.T) {
	good, other := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	for name, test := range map[string]struct {
		signature, query string
		want             error
	}{
		"as it is":                {"ts=1704908010,v1=" + good, "data.id=1", nil},
		"two times":               {"ts=1,ts=1704908010,v1=" + good, "data.id=1", errSignedOdd},
		"two hashes":              {"ts=1704908010,v1=" + other + ",v1=" + good, "data.id=1", errSignedOdd},
		"two ids":                 {"ts=1704908010,v1=" + good, "data.id=1&data.id=2", errSignedOdd},
		"an id that is two parts": {"ts=1704908010,v1=" + good, "data.id=1%3Bts:2", errSignedOdd},
	} {
		_, err := parseSigned(test.query, http.Header{"X-Signature": {test.signature}})
		require.Equal(t, test.want, err, name)
	}
}

func TestStrangersFillTheLogWithALineAMinute(t *testing.T) {
	var l rateLimit
	now := time.Now()
	require.True(t, l.allow(now))
	require.False(t, l.allow(now.Add(time.Second)))
	require.True(t, l.allow(now.Add(complaintPause)))
}

func TestAHeaderThatIsWrittenInSmallLettersIsTheSameOne(t *testing.T) {
	h := &Handler{Inject: &Inject{Header: "x-mp-token"}}
	h.setDefaults()
	require.Equal(t, "X-Mp-Token", h.Inject.Header)
}

func TestOnAStorageThatIsNotTheFileSystemAKeyIsRequired(t *testing.T) {
	a := &App{logger: zap.NewNop(), storage: storetest.NewMemory()}
	require.ErrorContains(t, a.provisionKeys(), "encryption_key is missing")
}

func TestTheHandlerComesAfterThoseWhoTellTheSeller(t *testing.T) {
	adapted, err := adapt(t, newRig(t).expand(globalBlock+`
SHOP {
	reverse_proxy APP
	mercadopago {
		seller {http.auth.user.id}
	}
	basic_auth {
		shop-1 $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG
	}
}
`))
	require.NoError(t, err)
	at := func(handler string) int { return strings.Index(adapted, `"handler": "`+handler+`"`) }
	require.Positive(t, at("authentication"))
	require.Less(t, at("authentication"), at("mercadopago"))
	require.Less(t, at("mercadopago"), at("reverse_proxy"))
}
