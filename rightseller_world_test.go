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
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/memdir"
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
	// sellersPerShop is how many sellers each application has.
	sellersPerShop int

	// clock numbers the moments at which requests and changes begin and end.
	clock   atomic.Int64
	changes tally
	// trouble is made before each reload.
	trouble func()
	// turn numbers the reloads, and trades the changes of sellers.
	turn   int
	trades atomic.Int64
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
	marketSecret = "market-secret"
	tokensLive   = 4 // turns of reload
)

// newMarket starts a market of so many sellers per application, 60 at the most.
func newMarket(t *testing.T, sellers int) *market {
	t.Helper()
	m := &market{t: t, sellersPerShop: sellers, transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	address := freeAddress(t)
	_, m.port, _ = net.SplitHostPort(address)
	m.transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	var options sandbox.Options
	// Fewer accounts than sellers: some sellers of an application share one.
	for i := range sellers * 2 / 3 {
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
	m.vars = strings.NewReplacer("STORAGE", memdir.New(t), "TRANSPORT", marketTransport, "API", api.URL, "APP", app.URL)
	for _, s := range m.shops {
		s.platform = m.platformToken(api.URL, s)
	}
	t.Cleanup(func() { require.NoError(t, caddy.Stop()) })
	t.Cleanup(m.transport.CloseIdleConnections)
	m.live(3 * time.Second)
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
	// Fewer are connected than the exchanges that may be made at once.
	accountsAtFirst, connectedAtFirst := m.sellersPerShop/2, m.sellersPerShop*7/12
	for n, s := range m.shops {
		count := m.sellersPerShop
		if s.sessions {
			count = len(m.accounts)
		}
		accounts := make([]int64, count)
		for i := range count {
			accounts[i] = m.accounts[(i%accountsAtFirst+7*n)%len(m.accounts)]
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
	last := time.Now()
	for range turns {
		m.turn++
		m.live(tokensLive * time.Since(last))
		last = time.Now()
		if m.trouble != nil {
			m.trouble()
		}
		if m.turn%5 == 0 {
			err := caddy.Load([]byte(m.bad), true)
			if err == nil || !strings.Contains(err.Error(), "address already in use") {
				m.t.Errorf("loading a configuration whose port is taken: %v", err)
			}
			m.changes.add("reloads that failed")
			continue
		}
		text := strings.ReplaceAll(m.good, `"first"`, `"number `+strconv.Itoa(m.turn)+`"`)
		if err := caddy.Load([]byte(text), true); err != nil {
			m.t.Errorf("reloading: %v", err)
		}
		m.changes.add("reloads")
	}
}

// live has the tokens live so long, from now on. How long that is goes by the
// requests: on a machine that is busy elsewhere they would else do nothing but
// rotate.
func (m *market) live(life time.Duration) {
	m.sandbox.Change(func(s *sandbox.Settings) {
		s.AccessTokenLife = sandbox.Duration(min(max(life, 2*time.Second), 10*time.Minute))
		s.ApplicationTokenLife = s.AccessTokenLife
	})
}

// trade connects sellers anew, to the same and to other accounts, and
// disconnects them, one at each turn.
func (m *market) trade(random *rand.Rand, turns <-chan struct{}) {
	for range turns {
		what := changes[m.trades.Add(1)%int64(len(changes))]
		p := m.pick(random, what)
		change := m.plan(random, p, what)
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

// changes are what sellers do, one after the other: each is made as often.
var changes = []string{"connects", "disconnects", "reconnects to the same account", "reconnects to another account"}

// pick returns a seller whose turn for a change it is, with changing locked.
func (m *market) pick(random *rand.Rand, what string) *party {
	for {
		p := m.parties[random.IntN(len(m.parties))]
		if !p.changing.TryLock() {
			continue
		}
		isConnected := p.settled() != 0
		if isConnected != (what == "connects") && (!p.shop.sessions || what != "reconnects to another account") {
			return p
		}
		p.changing.Unlock()
	}
}

func (m *market) plan(random *rand.Rand, p *party, what string) (change func() error) {
	now := p.settled()
	to := now
	switch {
	case what == "disconnects":
		return func() error { return m.disconnect(p) }
	case now == 0 && p.shop.sessions:
		to, _ = strconv.ParseInt(p.name, 10, 64)
	case what != "reconnects to the same account":
		for to == now {
			to = m.accounts[random.IntN(len(m.accounts))]
		}
	}
	return func() error { return m.connect(p, to) }
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
