package mercadopago

import (
	"context"
	"encoding/base64"
	"fmt"
	"html"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/connect"
	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// warmed is an app with a number of connections in memory, without a server.
type warmed struct {
	app     *App
	sandbox *sandbox.Sandbox
	sellers []string
}

func warm(tb testing.TB, sellers int) *warmed {
	tb.Helper()
	key, err := secret.ParseKey(base64.StdEncoding.EncodeToString(make([]byte, 32)))
	require.NoError(tb, err)
	keyring, err := secret.NewKeyring(key)
	require.NoError(tb, err)
	store := &crowd{Store: caddystorage.New(storetest.NewMemory(), keyring)}
	stand := sandbox.New(sandbox.Options{AcceptAny: true})
	server := httptest.NewServer(stand)
	tb.Cleanup(server.Close)
	client := oauth.NewClient(oauth.Config{
		ClientID: "1", ClientSecrets: []secret.Secret{secret.New("s")}, RedirectURI: "https://shop.example.com/connect/callback",
		Provider: oauth.Provider{AuthorizeURL: server.URL + "/authorization", API: server.URL},
	})
	app := &App{pages: &pages{flows: make(map[string]*connect.Flow)}, logger: zap.NewNop(), Applications: map[string]*Application{defaultApplication: {client: client}}}
	manager := tokensource.NewManager()
	tb.Cleanup(func() { require.NoError(tb, manager.Destruct()) })
	app.source = manager.Source(tokensource.Config{
		StoreID:      "memory",
		Open:         func(context.Context) (tokenstore.Store, *secret.Keyring, error) { return store, keyring, nil },
		Applications: []tokensource.Application{{Name: defaultApplication, Client: client, RenewBefore: time.Hour}},
		SpillDir:     tb.TempDir(),
	})
	w := &warmed{app: app, sandbox: stand}
	store.accounts = make(map[tokenstore.AccountID]tokenstore.Account, sellers)
	now := time.Now()
	for i := range sellers {
		id := tokenstore.AccountID{ClientID: "1", UserID: int64(i + 1), Live: true}
		access, refresh := secret.New(fmt.Sprintf("APP_USR-1-%032d-%d", i, i)), secret.New(fmt.Sprintf("TG-%024d-%d", i, i))
		store.accounts[id] = tokenstore.Account{ID: id, Pairs: []tokenstore.Pair{{
			PairID:      tokenstore.PairID{Authorization: 1, Hash: tokenstore.HashPair(access, refresh)},
			AccessToken: access, RefreshToken: refresh, PublicKey: "APP_USR-key",
			ObtainedAt: now, ExpiresAt: now.Add(180 * 24 * time.Hour),
		}}}
		seller := strconv.Itoa(i + 1)
		_, err := app.source.Token(context.Background(), defaultApplication, seller, time.Minute)
		require.NoError(tb, err)
		w.sellers = append(w.sellers, seller)
	}
	return w
}

// crowd is a store that has many accounts from the start: the seller is the user
// id. All else it leaves to a real store.
type crowd struct {
	tokenstore.Store
	accounts map[tokenstore.AccountID]tokenstore.Account
}

func (c *crowd) Connection(ctx context.Context, application, seller string) (tokenstore.Connection, error) {
	userID, err := strconv.ParseInt(seller, 10, 64)
	if err != nil {
		return tokenstore.Connection{}, err
	}
	id := tokenstore.AccountID{ClientID: "1", UserID: userID, Live: true}
	if _, ok := c.accounts[id]; !ok {
		return c.Store.Connection(ctx, application, seller)
	}
	return tokenstore.Connection{
		ID: fmt.Sprintf("%032d", userID), Application: application, Seller: seller, Account: id, Authorization: 1,
	}, nil
}

func (c *crowd) Account(ctx context.Context, id tokenstore.AccountID) (tokenstore.Account, error) {
	if account, ok := c.accounts[id]; ok {
		return account, nil
	}
	return c.Store.Account(ctx, id)
}

// handler returns a handler as Provision leaves it.
func (w *warmed) handler(tb testing.TB, h Handler) *Handler {
	tb.Helper()
	h.app, h.logger = w.app, zap.NewNop()
	h.setDefaults()
	require.NoError(tb, h.check())
	var err error
	h.seller, err = parseTemplate(h.Seller)
	require.NoError(tb, err)
	if h.Egress != nil {
		require.NoError(tb, h.Egress.provision())
		return &h
	}
	require.NoError(tb, h.provisionFlow(w.app.Applications[h.Application]))
	return &h
}

// request is what a browser sends, more or less.
func request(header string, value string) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://shop.example.com/orders?page=2", nil)
	r.RemoteAddr = "127.0.0.1:50000"
	for name, value := range map[string]string{
		"User-Agent": "Mozilla/5.0", "Accept": "text/html,application/xhtml+xml", "Accept-Language": "es-AR,es;q=0.9",
		"Accept-Encoding": "gzip, br", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "same-origin", "Sec-Fetch-Dest": "document", "Referer": "https://shop.example.com/",
		"Upgrade-Insecure-Requests": "1", "Priority": "u=0, i",
	} {
		r.Header.Set(name, value)
	}
	if header != "" {
		r.Header.Set(header, value)
	}
	return r
}

func prepare(r *http.Request, w http.ResponseWriter, server *caddyhttp.Server) *http.Request {
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, server)
}

var upstream = caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
	if r.Header["Authorization"] == nil {
		return fmt.Errorf("no token")
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
})

// discard is a response writer that costs nothing.
type discard struct{ header http.Header }

func (d discard) Header() http.Header       { return d.header }
func (discard) Write(p []byte) (int, error) { return len(p), nil }
func (discard) WriteHeader(int)             {}

// mode is one way to use the handler, and what it may cost.
type mode struct {
	name    string
	handler *Handler
	// request returns a request that has not been through the server yet.
	request func(i int) *http.Request
	serve   func(h *Handler, w http.ResponseWriter, r *http.Request) error
	allocs  float64
	ratio   float64 // the target of the time, as a part of PrepareRequest's
}

func modes(tb testing.TB, w *warmed) []mode {
	tb.Helper()
	bySeller := w.handler(tb, Handler{Seller: "{http.request.header.X-Seller}"})
	bySession := w.handler(tb, Handler{})
	egress := w.handler(tb, Handler{Seller: "{http.request.header.X-Seller}", Egress: &Egress{}})
	named := func(i int) *http.Request { return request("X-Seller", w.sellers[i%len(w.sellers)]) }
	whole := func(h *Handler, rw http.ResponseWriter, r *http.Request) error { return h.ServeHTTP(rw, r, upstream) }
	cookie := "theme=dark; " + w.session(tb, bySession)
	token, err := w.app.source.Token(context.Background(), defaultApplication, w.sellers[0], time.Minute)
	require.NoError(tb, err)
	return []mode{
		{"injection alone", bySeller, named, func(h *Handler, rw http.ResponseWriter, r *http.Request) error {
			return h.pass(rw, r, upstream, "", token)
		}, 2, 0.1},
		{"seller mode", bySeller, named, whole, 2, 0.35},
		{"session mode", bySession, func(int) *http.Request {
			return request("Cookie", cookie)
		}, whole, 4, 0.75},
		{"egress", egress, func(i int) *http.Request {
			r := named(i)
			r.Header.Del("Sec-Fetch-Site") // apps send none
			return r
		}, whole, 2, 1},
	}
}

// The bound holds whoever the seller is and however many are in memory.
func TestARequestWithAWarmTokenAllocatesNoMoreThanItMay(t *testing.T) {
	for _, mode := range modes(t, warm(t, 1000)) {
		t.Run(mode.name, func(t *testing.T) {
			server := new(caddyhttp.Server)
			requests, writers := make([]*http.Request, 0, 300), make([]http.ResponseWriter, 0, 300)
			for i := range 300 {
				writers = append(writers, discard{http.Header{"Server": {"Caddy"}}})
				requests = append(requests, prepare(mode.request(i), writers[i], server))
			}
			i := 0
			got := testing.AllocsPerRun(200, func() {
				if err := mode.serve(mode.handler, writers[i], requests[i]); err != nil {
					t.Error(err)
				}
				i++
			})
			t.Logf("%s: %.0f allocations, at most %.0f", mode.name, got, mode.allocs)
			require.LessOrEqual(t, got, mode.allocs)
		})
	}
}

// BenchmarkWarmToken prints what a request with a warm token costs as a part of
// what Caddy itself does to prepare any request. Rounds of both are timed in
// turn, so that what disturbs one disturbs the other; ours prepares a request and
// serves it, so the ratio is what serving adds. It prints the median ratio of the
// rounds with their tenth and ninetieth percentiles.
func BenchmarkWarmToken(b *testing.B) {
	for _, sellers := range []int{1, 1_000, 100_000} {
		w := warm(b, sellers)
		for _, mode := range modes(b, w) {
			b.Run(fmt.Sprintf("%s/%d", mode.name, sellers), func(b *testing.B) { mode.bench(b) })
		}
	}
}

func (m mode) bench(b *testing.B) {
	const perRound = 4000 // some collections of garbage in every round
	server, rw := new(caddyhttp.Server), discard{http.Header{}}
	requests := make([]*http.Request, 64)
	for i := range requests {
		requests[i] = m.request(i * 7919)
	}
	var ratios []float64
	var added time.Duration
	for b.Loop() {
		began := time.Now()
		for i := range perRound {
			prepare(requests[i%len(requests)], rw, server)
		}
		prepared := time.Since(began)
		began = time.Now()
		for i := range perRound {
			if err := m.serve(m.handler, rw, prepare(requests[i%len(requests)], rw, server)); err != nil {
				b.Fatal(err)
			}
		}
		both := time.Since(began)
		ratios = append(ratios, float64(both-prepared)/float64(prepared))
		added += both - prepared
	}
	slices.Sort(ratios)
	b.ReportMetric(ratios[len(ratios)/2], "×PrepareRequest")
	b.ReportMetric(ratios[len(ratios)/10], "×p10")
	b.ReportMetric(ratios[len(ratios)*9/10], "×p90")
	b.ReportMetric(m.ratio, "×target")
	b.ReportMetric(float64(added.Nanoseconds())/float64(len(ratios)*perRound), "ns/request")
	b.ReportMetric(0, "ns/op")
}

// session walks the connect flow once, with a sandbox, and returns the session
// cookie that a browser then has.
func (w *warmed) session(tb testing.TB, h *Handler) string {
	tb.Helper()
	authorize := w.turn(tb, h, http.MethodGet, "/connect?return_to=/", "")
	callback, err := w.sandbox.Approve(authorize.Header().Get("Location"), sandbox.DefaultAccounts()[0].UserID)
	require.NoError(tb, err)
	cookies := authorize.Result().Cookies()
	require.Len(tb, cookies, 1)
	u, err := url.Parse(callback)
	require.NoError(tb, err)
	back := w.turn(tb, h, http.MethodGet, u.RequestURI(), cookies[0].Name+"="+cookies[0].Value)
	cookies = back.Result().Cookies()
	require.Len(tb, cookies, 1, back.Body.String())
	finish := regexp.MustCompile(`/connect/finish[^"'\s]*`).FindString(back.Body.String())
	done := w.turn(tb, h, http.MethodGet, html.UnescapeString(finish), cookies[0].Name+"="+cookies[0].Value)
	require.Equal(tb, http.StatusSeeOther, done.Code, done.Body.String())
	for _, cookie := range done.Result().Cookies() {
		if strings.Contains(cookie.Name, "session") {
			return cookie.Name + "=" + cookie.Value
		}
	}
	tb.Fatal("no session")
	return ""
}

func (w *warmed) turn(tb testing.TB, h *Handler, method, target, cookie string) *httptest.ResponseRecorder {
	tb.Helper()
	r := httptest.NewRequest(method, "https://shop.example.com"+target, nil)
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if cookie != "" {
		r.Header.Set("Cookie", cookie)
	}
	recorder := httptest.NewRecorder()
	r = prepare(r, recorder, new(caddyhttp.Server))
	require.True(tb, h.serveConnect(recorder, r, ""))
	return recorder
}
