package postgres_test

import (
	"context"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

const tokenLife = 180 * 24 * time.Hour

// provider is a Mercado Pago with one living refresh token for each account, which
// ends with its use.
type provider struct {
	mu     sync.Mutex
	living map[int64]int
	posts  map[int64]int
	reused int
	// rotated is called once a refresh was carried out, before it is answered.
	rotated func()
}

func newProvider() *provider { return &provider{living: map[int64]int{}, posts: map[int64]int{}} }

func (p *provider) ClientID() string       { return "1234" }
func (p *provider) Timeout() time.Duration { return 20 * time.Second }

func (p *provider) answer(user int64) oauth.Answer {
	n, live := p.living[user], true
	return oauth.Answer{
		AccessToken: secret.New(fmt.Sprintf("A-%d-%d", n, user)), RefreshToken: secret.New(fmt.Sprintf("TG-%d-%d", n, user)),
		ExpiresIn: tokenLife, UserID: user, LiveMode: &live,
	}
}

// Exchange takes the user's number for a code.
func (p *provider) Exchange(_ context.Context, code string, _ secret.Secret) (oauth.Answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	user, err := strconv.ParseInt(code, 10, 64)
	if err != nil {
		return oauth.Answer{}, err
	}
	p.living[user]++
	return p.answer(user), nil
}

func (p *provider) Refresh(_ context.Context, refresh secret.Secret) (oauth.Answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var n int
	var user int64
	if _, err := fmt.Sscanf(refresh.Reveal(), "TG-%d-%d", &n, &user); err != nil {
		return oauth.Answer{}, err
	}
	p.posts[user]++
	if p.living[user] != n {
		p.reused++
		return oauth.Answer{}, &oauth.Error{Outcome: oauth.GrantDead, Code: "invalid_grant", Status: 400}
	}
	p.living[user]++
	if p.rotated != nil {
		p.rotated()
	}
	return p.answer(user), nil
}

func (p *provider) ClientCredentials(context.Context) (oauth.Answer, error) {
	return oauth.Answer{}, &oauth.Error{Outcome: oauth.Refused}
}

func (p *provider) Me(context.Context, secret.Secret) (oauth.User, error) {
	return oauth.User{}, &oauth.Error{Outcome: oauth.Refused}
}
func (p *provider) Revoke(context.Context, int64, secret.Secret) error { return nil }

// counted returns the token requests, of all accounts and of the one with the most.
func (p *provider) counted() (all, most, reused int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, n := range p.posts {
		all, most = all+n, max(most, n)
	}
	return all, most, p.reused
}

// events counts what is observed.
type events struct {
	mu     sync.Mutex
	counts map[string]int
	alarms []string
}

func (e *events) Observe(event tokensource.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.counts[event.Name]++
	if event.Name == tokensource.EventAlarm {
		e.alarms = append(e.alarms, event.Err.Error())
	}
}

func (e *events) alarmed(of string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.ContainsFunc(e.alarms, func(alarm string) bool { return strings.Contains(alarm, of) })
}

func (e *events) count(name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.counts[name]
}

// member is one instance of a fleet.
type member struct {
	*tokensource.Source
	events *events
	end    func()
}

// join adds an instance to the fleet on a database.
func join(t *testing.T, p *provider, d *postgres.Database, parallel int) *member {
	t.Helper()
	return joinWith(t, p, d, parallel, filepath.Join(t.TempDir(), "spill"))
}

// joinWith is join with a folder that another instance left behind.
func joinWith(t *testing.T, p *provider, d *postgres.Database, parallel int, spill string) *member {
	t.Helper()
	m := &member{events: &events{counts: map[string]int{}}}
	ring, manager := keyring(t, "k"), tokensource.NewManager()
	m.Source = manager.Source(tokensource.Config{
		StoreID: d.Place(),
		Open: func(ctx context.Context) (tokenstore.Store, *secret.Keyring, error) {
			s, err := d.Store(ctx, ring)
			if err != nil {
				return nil, nil, err
			}
			return s, ring, nil
		},
		Applications: []tokensource.Application{{Client: p}},
		Renewal:      tokensource.Renewal{Parallel: parallel},
		SpillDir:     spill,
		Observer:     m.events,
	})
	m.Start()
	m.end = sync.OnceFunc(func() {
		m.Stop()
		require.NoError(t, manager.Destruct())
	})
	t.Cleanup(m.end)
	return m
}

func (m *member) connect(t *testing.T, seller string, user int64) tokenstore.Connection {
	t.Helper()
	consent, err := m.Exchange(t.Context(), "", strconv.FormatInt(user, 10), secret.Secret{})
	require.NoError(t, err)
	c, err := m.Connect(t.Context(), seller, consent)
	require.NoError(t, err)
	return c
}

// holds requires that the seller's token is the account's, and returns it.
func (m *member) holds(t *testing.T, seller string, user int64) *tokensource.Token {
	t.Helper()
	token, err := m.Token(t.Context(), "", seller, 5*time.Minute)
	require.NoError(t, err)
	require.True(t, strings.HasSuffix(token.AccessToken().Reveal(), fmt.Sprintf("-%d", user)), "whose token it is")
	return token
}

func (m *member) status(t *testing.T, seller string) tokensource.Status {
	t.Helper()
	_, err := m.Token(t.Context(), "", seller, 5*time.Minute)
	if err == nil {
		return tokensource.Connected
	}
	var problem *tokensource.Error
	require.ErrorAs(t, err, &problem)
	return problem.Status
}

// soon is far below the 20 s after which memory is read again in any case.
const soon = 10 * time.Second

func TestEveryInstanceHonoursADisconnectAndAReconnectAtOnce(t *testing.T) {
	p, dsn := newProvider(), postgrestest.Shared(t).Database(t)
	a, b := join(t, p, database(t, dsn), 1), join(t, p, database(t, dsn), 1)
	c := a.connect(t, "shop-1", 1)
	b.holds(t, "shop-1", 1)
	require.NoError(t, a.Disconnect(t.Context(), c))
	require.Eventually(t, func() bool { return b.status(t, "shop-1") == tokensource.NotConnected }, soon, time.Millisecond)
	a.connect(t, "shop-1", 2)
	b.holds(t, "shop-1", 2)
	a.connect(t, "shop-1", 3)
	require.Eventually(t, func() bool {
		token, err := b.Token(t.Context(), "", "shop-1", time.Minute)
		return err == nil && strings.HasSuffix(token.AccessToken().Reveal(), "-3")
	}, soon, time.Millisecond)
}

func TestEveryInstanceServesTheTokenThatAnotherObtained(t *testing.T) {
	p, dsn := newProvider(), postgrestest.Shared(t).Database(t)
	a, b := join(t, p, database(t, dsn), 1), join(t, p, database(t, dsn), 1)
	a.connect(t, "shop-1", 1)
	old := b.holds(t, "shop-1", 1)
	newer, err := a.Replace(t.Context(), a.holds(t, "shop-1", 1))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return b.holds(t, "shop-1", 1).AccessToken().Equal(newer.AccessToken()) }, soon, time.Millisecond)
	require.False(t, old.AccessToken().Equal(newer.AccessToken()))
	all, _, reused := p.counted()
	require.Equal(t, 1, all)
	require.Zero(t, reused)
}

func TestAListenerThatIsCutOffIsToldOnceEachWayAndHearsAgain(t *testing.T) {
	t.Parallel()
	server := postgrestest.Shared(t)
	p, dsn := newProvider(), server.Database(t)
	through := newProxy(t, server)
	a, b := join(t, p, database(t, dsn), 1), join(t, p, database(t, through.through(t, dsn)), 1)
	c := a.connect(t, "shop-1", 1)
	b.holds(t, "shop-1", 1)
	through.set(true, nil)
	require.Eventually(t, func() bool { return b.events.count(tokensource.EventNotListening) == 1 }, time.Minute, time.Millisecond)
	b.holds(t, "shop-1", 1)
	require.NoError(t, a.Disconnect(t.Context(), c))
	through.set(false, nil)
	require.Eventually(t, func() bool { return b.events.count(tokensource.EventListening) == 1 }, time.Minute, time.Millisecond)
	require.Eventually(t, func() bool { return b.status(t, "shop-1") == tokensource.NotConnected }, soon, time.Millisecond, "what was missed is read")
	require.Equal(t, 1, b.events.count(tokensource.EventNotListening))
	require.Zero(t, a.events.count(tokensource.EventNotListening))
}

// seed puts connected sellers into the store whose tokens are due.
func seed(t *testing.T, p *provider, s *postgres.Store, sellers int) {
	t.Helper()
	obtained := time.Now().Add(-tokenLife + 10*24*time.Hour)
	var all errgroup.Group
	all.SetLimit(8)
	for i := range sellers {
		user := int64(i + 1)
		p.living[user] = 1
		answer := p.answer(user)
		all.Go(func() error {
			id := tokenstore.AccountID{ClientID: "1234", UserID: user, Live: true}
			pair := tokenstore.Pair{AccessToken: answer.AccessToken, RefreshToken: answer.RefreshToken, ObtainedAt: obtained, ExpiresAt: obtained.Add(tokenLife)}
			pair.PairID = tokenstore.PairID{Authorization: 1, Hash: tokenstore.HashPair(pair.AccessToken, pair.RefreshToken)}
			if err := s.AddPair(t.Context(), id, pair); err != nil {
				return err
			}
			return s.PutConnection(t.Context(), tokenstore.Connection{ID: fmt.Sprint("c", user), Seller: fmt.Sprint("shop-", user), Account: id, Authorization: 1, CreatedAt: obtained})
		})
	}
	require.NoError(t, all.Wait())
}

func TestAFleetRenewsEachAccountOnceAndNoWalkIsNeeded(t *testing.T) {
	t.Parallel()
	p, dsn := newProvider(), postgrestest.Shared(t).Database(t)
	s := instance(t, dsn)
	const sellers = 60
	seed(t, p, s, sellers)
	var fleet []*member
	for range 3 {
		fleet = append(fleet, join(t, p, database(t, dsn), 8))
	}
	require.Eventually(t, func() bool {
		all, _, _ := p.counted()
		return all >= sellers
	}, 2*time.Minute, 10*time.Millisecond)
	due := "select count(*) from mercadopago.accounts where due_at < now() + interval '100 days'"
	require.Eventually(t, func() bool { return ask[int](t, dsn, due) == 0 }, time.Minute, 10*time.Millisecond, "each is scheduled for its next time")
	all, most, reused := p.counted()
	require.Equal(t, sellers, all)
	require.Equal(t, 1, most)
	require.Zero(t, reused)
	for i := range sellers {
		fleet[i%3].holds(t, fmt.Sprint("shop-", i+1), int64(i+1))
	}
}

// An instance that takes accounts and dies gives them back; none is lost.
func TestWhatADeadInstanceTookIsRenewedByTheOthers(t *testing.T) {
	t.Parallel()
	p, dsn := newProvider(), postgrestest.Shared(t).Database(t)
	s := instance(t, dsn)
	seed(t, p, s, 10)
	ids, err := s.Due(t.Context(), "1234", time.Now(), time.Now().Add(2*time.Second), 10)
	require.NoError(t, err)
	require.Len(t, ids, 10)
	join(t, p, database(t, dsn), 8)
	require.Eventually(t, func() bool {
		all, most, _ := p.counted()
		return all == 10 && most == 1
	}, 2*time.Minute, 10*time.Millisecond)
}

func TestManyColdSellersAtOnceShareFewConnections(t *testing.T) {
	t.Parallel()
	p, dsn := newProvider(), postgrestest.Shared(t).Database(t)
	few := func(c *postgres.Config) { c.MaxConnections = 4 }
	d := database(t, dsn, few)
	a := join(t, p, d, 0)
	const sellers = 120
	s, err := d.Store(t.Context(), keyring(t, "k"))
	require.NoError(t, err)
	seed(t, p, s, sellers)
	var all errgroup.Group
	for i := range 4 * sellers {
		all.Go(func() error {
			token, err := a.Token(t.Context(), "", fmt.Sprint("shop-", i%sellers+1), time.Minute)
			if err == nil && !strings.HasSuffix(token.AccessToken().Reveal(), fmt.Sprintf("-%d", i%sellers+1)) {
				err = fmt.Errorf("seller %d was given another's token", i%sellers+1)
			}
			return err
		})
	}
	for range 10 {
		require.LessOrEqual(t, ask[int](t, dsn, connections), 4)
	}
	require.NoError(t, all.Wait())
	_, _, reused := p.counted()
	require.Zero(t, reused)
}

func TestWhatARefreshAndAColdSellerCost(t *testing.T) {
	server := postgrestest.Shared(t)
	p, dsn := newProvider(), server.Database(t)
	through := newProxy(t, server)
	one := database(t, through.through(t, dsn))
	a := join(t, p, one, 0)
	for user := range int64(4) {
		a.connect(t, fmt.Sprint("shop-", user+1), user+1)
	}
	// The least of several: on a connection that is new, statements are prepared.
	count := func(what func()) (statements, journeys int64) {
		statements, journeys = math.MaxInt64, math.MaxInt64
		for range 4 {
			s, j := through.statements.Load(), through.journeys.Load()
			what()
			statements, journeys = min(statements, through.statements.Load()-s), min(journeys, through.journeys.Load()-j)
		}
		return statements, journeys
	}
	cold := int64(0)
	b := join(t, p, one, 0)
	statements, journeys := count(func() {
		cold++
		b.holds(t, fmt.Sprint("shop-", cold), cold)
	})
	require.Equal(t, [2]int64{2, 2}, [2]int64{statements, journeys}, "statements and journeys of a cold seller")

	refreshed := int64(0)
	statements, journeys = count(func() {
		refreshed++
		all, _, _ := p.counted()
		_, err := a.Replace(t.Context(), a.holds(t, fmt.Sprint("shop-", refreshed), refreshed))
		require.NoError(t, err)
		require.Eventually(t, func() bool { return ask[int](t, dsn, "select count(*) from mercadopago.intents") == 0 && !one.Locked() }, time.Minute, time.Millisecond)
		now, _, _ := p.counted()
		require.Equal(t, all+1, now)
	})
	t.Logf("a refresh: %d statements, %d journeys", statements, journeys)
	require.LessOrEqual(t, statements, int64(15))
	require.LessOrEqual(t, journeys, int64(11))
}
