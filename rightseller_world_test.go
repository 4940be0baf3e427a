package mercadopago

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// market is Caddy in this process with several applications, each with many
// sellers, the sandbox behind, and a note of which account each seller may be
// connected to at which moment.
type market struct {
	t         *testing.T
	sandbox   *sandbox.Sandbox
	transport *http.Transport
	port      string
	vars      *strings.Replacer
	good, bad string // configurations
	shops     []*shop
	parties   []*party
	accounts  []int64

	// clock numbers the moments at which requests and changes begin and end.
	clock   atomic.Int64
	changes tally
}

// shop is one application. Its sellers connect by a name that the layer in front
// gives them, or with a session.
type shop struct {
	name, clientID string
	sessions       bool
	owner          int64
	// platform is a living token of the platform itself, as a client might have it.
	platform string
	parties  []*party
	// consents is when somebody is connecting an account.
	consents map[int64]*book
}

// party is one seller of one application.
type party struct {
	book     // of the accounts it may be connected to; 0 is none
	shop     *shop
	name     string
	sessions []session
	changing sync.Mutex // one change at a time; requests go on
}

// session is a cookie, and the connection that it was given for.
type session struct {
	cookie string
	of     *span
}

// book notes what may be so of accounts, and from when to when.
type book struct {
	mu    sync.Mutex
	spans []*span
}

type span struct{ account, from, to int64 }

const open = math.MaxInt64

// at lists the accounts of which it may be so at some moment from one to the
// other.
func (b *book) at(from, to int64) (accounts []int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.spans {
		if s.from <= to && s.to >= from {
			accounts = append(accounts, s.account)
		}
	}
	return accounts
}

func (b *book) holds(account, from, to int64) bool { return slices.Contains(b.at(from, to), account) }

// during reports whether one span was not over at a moment.
func (b *book) during(s *span, at int64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return s.to >= at
}

// begin notes that from here on it may be so of the account, too: of a change
// that is cut short nobody knows.
func (b *book) begin(account int64, clock *atomic.Int64) *span {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.spans {
		if s.account == account && s.to == open {
			return s
		}
	}
	return b.add(account, clock)
}

// another is begin for what may be so twice at once.
func (b *book) another(account int64, clock *atomic.Int64) *span {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.add(account, clock)
}

func (b *book) add(account int64, clock *atomic.Int64) *span {
	s := &span{account: account, from: clock.Add(1), to: open}
	b.spans = append(b.spans, s)
	return s
}

// end notes that one span is over.
func (b *book) end(s *span, clock *atomic.Int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	s.to = clock.Add(1)
}

// settle notes that from here on it is so as s says, and no other way.
func (b *book) settle(s *span, clock *atomic.Int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := clock.Add(1)
	for _, other := range b.spans {
		if other != s && other.to == open {
			other.to = now
		}
	}
	// No request lasts as long as very many others.
	b.spans = slices.DeleteFunc(b.spans, func(s *span) bool { return s.to < now-1_000_000 })
}

// settled is the account that it is so of, while nothing changes.
func (b *book) settled() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.spans {
		if s.to == open {
			return s.account
		}
	}
	return 0
}

// owed reports whether the seller was connected all the time, to an account that
// nobody was connecting anew. While somebody is, its refresh token is dead and
// the new one not here yet.
func (p *party) owed(from, to int64) bool {
	return !slices.ContainsFunc(p.at(from, to), func(account int64) bool {
		return account == 0 || p.shop.consents[account].at(from, to) != nil
	})
}

func (p *party) aSession(random *rand.Rand) (session, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.sessions) == 0 {
		return session{}, false
	}
	return p.sessions[random.IntN(len(p.sessions))], true
}

const (
	sellersPerShop = 60
	// Fewer accounts than sellers: some sellers of an application share one.
	accountsInAll    = 40
	accountsAtFirst  = 30
	connectedAtFirst = 35 // fewer than the exchanges that may be made at once
	marketSecret     = "market-secret"
)

func newMarket(t *testing.T) *market {
	t.Helper()
	m := &market{t: t, transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	address := freeAddress(t)
	_, m.port, _ = net.SplitHostPort(address)
	m.transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	var options sandbox.Options
	for i := range accountsInAll {
		id := 5411000000 + int64(i)
		m.accounts = append(m.accounts, id)
		options.Accounts = append(options.Accounts, sandbox.Account{UserID: id, Nickname: fmt.Sprintf("SHOP_%d", i), Country: "AR"})
	}
	for i, name := range []string{"norte", "sur", "este", "oeste"} {
		s := &shop{name: name, clientID: fmt.Sprintf("12345678901234%02d", i), sessions: i >= 2, owner: 9900000001 + int64(i), consents: map[int64]*book{}}
		for _, account := range m.accounts {
			s.consents[account] = new(book)
		}
		m.shops = append(m.shops, s)
		options.Applications = append(options.Applications, sandbox.Application{
			ClientID: s.clientID, ClientSecret: marketSecret, RedirectURIs: []string{m.site("pages", s) + "/callback"}, PKCE: true, OwnerID: s.owner,
		})
	}
	m.sandbox = sandbox.New(options)
	api := httptest.NewServer(m.sandbox)
	t.Cleanup(api.Close)
	app := httptest.NewServer(http.HandlerFunc(echo))
	t.Cleanup(app.Close)
	t.Setenv("MP_TEST_SECRET", marketSecret)
	t.Setenv("MP_TEST_KEY", testKey)
	m.vars = strings.NewReplacer("STORAGE", t.TempDir(), "LOGFILE", t.TempDir()+"/caddy.log", "API", api.URL, "APP", app.URL)
	for _, s := range m.shops {
		s.platform = m.platformToken(api.URL, s)
	}
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	t.Cleanup(m.transport.CloseIdleConnections)
	m.sandbox.Change(func(s *sandbox.Settings) {
		s.AccessTokenLife, s.ApplicationTokenLife = sandbox.Duration(10*time.Second), sandbox.Duration(4*time.Second)
	})
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { taken.Close() })
	m.good, m.bad = m.adapted(taken.Addr().String())
	require.NoError(t, caddy.Load([]byte(m.good), true))
	m.fill()
	return m
}

// echo tells which request arrived, with which tokens, and what it was told.
func echo(w http.ResponseWriter, r *http.Request) {
	for _, text := range []string{
		r.Header.Get("X-Request"), strings.Join(r.Header["Authorization"], " and "),
		r.Header.Get("X-Told-Application"), r.Header.Get("X-Told-Seller"), r.Header.Get("X-Told-User"),
	} {
		_, _ = io.WriteString(w, text+"\n")
	}
}

// site is the address of one of a shop's sites, by what it is for.
func (m *market) site(purpose string, s *shop) string {
	return "http://" + purpose + "-" + s.name + ".localhost:" + m.port
}

const marketGlobals = `{
	admin off
	persist_config off
	auto_https off
	default_bind 127.0.0.1
	grace_period 10s
	storage file_system STORAGE
	log {
		output file LOGFILE
		level WARN
	}
	mercadopago {
		encryption_key {env.MP_TEST_KEY}
		%s
	}
}
`

const marketApplication = `
		application %s {
			client_id %s
			client_secret {env.MP_TEST_SECRET}
			redirect_uri %s/callback
			endpoints {
				authorize API/authorization
				api API
			}
		}
`

// The app is told whom it is for, to compare it with the token.
const marketApp = `
	reverse_proxy APP {
		header_up X-Told-Application {http.mercadopago.application}
		header_up X-Told-Seller {http.mercadopago.seller}
		header_up X-Told-User {http.mercadopago.user_id}
	}
`

// Most requests end in Caddy itself, which costs less than an app behind.
const marketPages = `
	reverse_proxy /orders APP {
		header_up X-Told-Application {http.mercadopago.application}
		header_up X-Told-Seller {http.mercadopago.seller}
		header_up X-Told-User {http.mercadopago.user_id}
	}
	respond <<LINES
		{http.request.header.X-Request}
		{http.request.header.Authorization}
		{http.mercadopago.application}
		{http.mercadopago.seller}
		{http.mercadopago.user_id}

		LINES
`

// caddyfile is the market's configuration.
func (m *market) caddyfile() string {
	var applications, sites strings.Builder
	for _, s := range m.shops {
		fmt.Fprintf(&applications, marketApplication, s.name, s.clientID, m.site("pages", s))
		add := func(purpose, options, next string) {
			fmt.Fprintf(&sites, "%s {\n\theader X-Turn first\n\tmercadopago {\n\t\tapplication %s\n\t\t%s\n\t}\n\t%s\n}\n", m.site(purpose, s), s.name, options, next)
		}
		const named = "seller {http.request.header.X-User}\n\t\t"
		if s.sessions {
			add("pages", "", marketPages)
			add("named", named+"connect off", marketApp)
		} else {
			add("pages", named, marketPages)
		}
		add("pass", named+"connect off\n\t\tunconnected pass", marketApp)
		add("own", "as_application", marketApp)
		add("egress", named+"egress", "reverse_proxy API {\n\t\theader_up -X-User\n\t}")
	}
	return m.vars.Replace(fmt.Sprintf(marketGlobals, applications.String()) + sites.String())
}

// adapted makes what Caddy loads: the configuration, and one that fails when
// its servers start, for then its applications may have started.
func (m *market) adapted(taken string) (good, bad string) {
	adapt := func(text string) string {
		adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), nil)
		require.NoError(m.t, err)
		return string(adapted)
	}
	return adapt(m.caddyfile()), adapt(m.caddyfile() + "http://" + taken + " {\n\trespond taken\n}\n")
}

// platformToken gets a token of the platform's own, past Caddy.
func (m *market) platformToken(api string, s *shop) string {
	m.t.Helper()
	response, err := http.PostForm(api+"/oauth/token", url.Values{
		"grant_type": {"client_credentials"}, "client_id": {s.clientID}, "client_secret": {marketSecret},
	})
	require.NoError(m.t, err)
	defer response.Body.Close()
	var answer struct {
		AccessToken string `json:"access_token"`
	}
	require.NoError(m.t, json.NewDecoder(response.Body).Decode(&answer))
	require.NotEmpty(m.t, answer.AccessToken)
	return answer.AccessToken
}

// fill makes the sellers, and connects the first of every shop.
func (m *market) fill() {
	var connecting sync.WaitGroup
	for n, s := range m.shops {
		count := sellersPerShop
		if s.sessions {
			count = accountsInAll
		}
		accounts := make([]int64, count)
		for i := range count {
			accounts[i] = m.accounts[(i%accountsAtFirst+7*n)%accountsInAll]
			p := &party{shop: s, name: fmt.Sprintf("shop-%d", i), book: book{spans: []*span{{to: open}}}}
			if s.sessions {
				accounts[i] = m.accounts[i]
				p.name = strconv.FormatInt(accounts[i], 10)
			}
			s.parties, m.parties = append(s.parties, p), append(m.parties, p)
		}
		connecting.Go(func() {
			for i, p := range s.parties[:connectedAtFirst] {
				if err := m.connect(p, accounts[i]); err != nil {
					m.t.Errorf("connecting %s: %v", p.name, err)
				}
			}
		})
	}
	connecting.Wait()
	require.False(m.t, m.t.Failed())
}

// reload loads the configuration again and again, every fifth time one that
// fails.
func (m *market) reload(turns <-chan struct{}) {
	turn := 0
	for range turns {
		turn++
		if turn%5 == 0 {
			err := caddy.Load([]byte(m.bad), true)
			if err == nil || !strings.Contains(err.Error(), "address already in use") {
				m.t.Errorf("loading a configuration whose port is taken: %v", err)
			}
			m.changes.add("reloads that failed")
			continue
		}
		text := strings.ReplaceAll(m.good, `"first"`, `"number `+strconv.Itoa(turn)+`"`)
		if err := caddy.Load([]byte(text), true); err != nil {
			m.t.Errorf("reloading: %v", err)
		}
		m.changes.add("reloads")
	}
}

// trade connects sellers anew, to the same and to other accounts, and
// disconnects them, one at each turn.
func (m *market) trade(random *rand.Rand, turns <-chan struct{}) {
	for range turns {
		p := m.parties[random.IntN(len(m.parties))]
		if !p.changing.TryLock() {
			continue
		}
		what, change := m.plan(random, p)
		// What failed did so for a passing reason. Until it is done nobody knows.
		for err := change(); err != nil; err = change() {
			m.changes.add("changes that failed")
			if _, more := <-turns; !more {
				p.changing.Unlock()
				return
			}
		}
		m.changes.add(what)
		p.changing.Unlock()
	}
}

func (m *market) plan(random *rand.Rand, p *party) (what string, change func() error) {
	now := p.settled()
	to := now
	what = "reconnects to the same account"
	switch dice := random.IntN(4); {
	case now == 0 && p.shop.sessions:
		what = "connects"
		to, _ = strconv.ParseInt(p.name, 10, 64)
	case now == 0:
		what, to = "connects", m.accounts[random.IntN(len(m.accounts))]
	case dice == 0:
		return "disconnects", func() error { return m.disconnect(p) }
	case dice < 3 && !p.shop.sessions:
		for to == now {
			to = m.accounts[random.IntN(len(m.accounts))]
		}
		what = "reconnects to another account"
	}
	return what, func() error { return m.connect(p, to) }
}

// connect walks through the pages, as the seller's browser does.
func (m *market) connect(p *party, account int64) error {
	anew := p.shop.consents[account]
	consent := anew.another(account, &m.clock)
	s := p.begin(account, &m.clock)
	v := m.visitor(p)
	cookie, err := v.connect(m.site("pages", p.shop), m.sandbox, account)
	if err != nil {
		p.begin(0, &m.clock) // what it had may be undone
		return err
	}
	p.settle(s, &m.clock)
	anew.end(consent, &m.clock)
	if p.shop.sessions {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.sessions = append(p.sessions, session{cookie, s})
		if len(p.sessions) > 4 {
			p.sessions = p.sessions[1:]
		}
	}
	return nil
}

func (m *market) disconnect(p *party) error {
	s := p.begin(0, &m.clock)
	v := m.visitor(p)
	err := v.disconnect(m.site("pages", p.shop))
	if err == nil {
		p.settle(s, &m.clock)
	}
	return err
}

// visitor is a seller in a browser that follows no redirect by itself.
type visitor struct {
	client http.Client
	header http.Header
}

func (m *market) visitor(p *party) *visitor {
	v := &visitor{header: http.Header{"Sec-Fetch-Site": {"same-origin"}, "Accept": {"text/html"}}}
	v.client.Jar, _ = cookiejar.New(nil)
	v.client.Transport = m.transport
	v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if !p.shop.sessions {
		v.header.Set("X-User", p.name)
	} else if n := len(p.sessions); n > 0 { // the newest: only trade changes them, under changing
		v.header.Set("Cookie", p.sessions[n-1].cookie)
	}
	return v
}

func (v *visitor) do(method, address string, form url.Values) (reply, error) {
	request, err := http.NewRequest(method, address, strings.NewReader(form.Encode()))
	if err != nil {
		return reply{}, err
	}
	for name, values := range v.header {
		request.Header[name] = append([]string(nil), values...)
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Origin", request.URL.Scheme+"://"+request.URL.Host)
	}
	response, err := v.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(body)}, err
}

// expect is do for a step whose answer must have this status.
func (v *visitor) expect(status int, method, address string, form url.Values) (reply, error) {
	got, err := v.do(method, address, form)
	if err == nil && got.status != status {
		err = fmt.Errorf("%s %s: %d %.300s", method, address, got.status, got.body)
	}
	return got, err
}

// connect returns the session's cookie, where there is one.
func (v *visitor) connect(site string, provider *sandbox.Sandbox, account int64) (string, error) {
	began, err := v.expect(http.StatusSeeOther, http.MethodGet, site+"/connect?return_to=/", nil)
	if err != nil {
		return "", err
	}
	callback, err := provider.Approve(began.header.Get("Location"), account)
	if err != nil {
		return "", err
	}
	back, err := v.expect(http.StatusOK, http.MethodGet, callback, nil)
	if err != nil {
		return "", err
	}
	end, err := v.do(http.MethodGet, site+strings.ReplaceAll(finishPattern.FindString(back.body), "&amp;", "&"), nil)
	if err != nil {
		return "", err
	}
	if to := end.header.Get("Location"); strings.Contains(to, "/confirm") {
		if end, err = v.do(http.MethodGet, site+to, nil); err != nil {
			return "", err
		}
	}
	if end.status == http.StatusOK {
		if end, err = v.press(site, end); err != nil {
			return "", err
		}
	}
	if to := end.header.Get("Location"); end.status != http.StatusSeeOther || to != site+"/" && to != "/" {
		return "", fmt.Errorf("the end of a connect flow: %d to %s %.300s", end.status, to, end.body)
	}
	u, err := url.Parse(site)
	for _, c := range v.client.Jar.Cookies(u) {
		if strings.Contains(c.Name, "session") {
			return c.Name + "=" + c.Value, err
		}
	}
	return "", err
}

// press presses the button of a page that asks: of several the one that connects.
func (v *visitor) press(site string, page reply) (reply, error) {
	form := formPattern.FindStringSubmatch(page.body)
	if form == nil {
		return reply{}, fmt.Errorf("a page without a form: %d %.300s", page.status, page.body)
	}
	values := url.Values{}
	for _, field := range fieldPattern.FindAllStringSubmatch(form[0], -1) {
		if !values.Has(field[1]) || field[2] == "connect" {
			values.Set(field[1], field[2])
		}
	}
	return v.expect(http.StatusSeeOther, http.MethodPost, site+strings.ReplaceAll(form[1], "&amp;", "&"), values)
}

func (v *visitor) disconnect(site string) error {
	page, err := v.expect(http.StatusOK, http.MethodGet, site+"/connect/disconnect", nil)
	if err != nil || formPattern.FindString(page.body) == "" {
		return err // there is nothing to end
	}
	done, err := v.press(site, page)
	if err == nil && !strings.HasSuffix(done.header.Get("Location"), "?done") {
		err = fmt.Errorf("a disconnect that leads to %s", done.header.Get("Location"))
	}
	return err
}
