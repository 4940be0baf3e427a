package copying_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

const (
	tokenLife = 20 * time.Minute
	// allDue is when everybody who connected at one time is about to be renewed.
	allDue = 12*time.Minute + 40*time.Second
)

// provider is a Mercado Pago with one living refresh token for each account, which
// ends with its use.
type provider struct {
	*chance
	mu     sync.Mutex
	living map[int64]int
	used   map[string]bool
	posts  int
	reused int
}

func (p *provider) ClientID() string       { return "1234" }
func (p *provider) Timeout() time.Duration { return 20 * time.Second }

func (p *provider) answer(user int64) oauth.Answer {
	p.living[user]++
	n, live := p.living[user], true
	return oauth.Answer{
		AccessToken: secret.New(fmt.Sprintf("A-%d-%d", n, user)), RefreshToken: secret.New(fmt.Sprintf("TG-%d-%d", n, user)),
		ExpiresIn: tokenLife, UserID: user, LiveMode: &live,
	}
}

// Exchange takes the user's number for a code.
func (p *provider) Exchange(_ context.Context, code string, _ secret.Secret) (oauth.Answer, error) {
	user, err := strconv.ParseInt(code, 10, 64)
	if err != nil {
		return oauth.Answer{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.answer(user), nil
}

func (p *provider) Refresh(ctx context.Context, refresh secret.Secret) (oauth.Answer, error) {
	p.pause(ctx, 10*time.Second)
	p.mu.Lock()
	defer p.mu.Unlock()
	var n int
	var user int64
	if _, err := fmt.Sscanf(refresh.Reveal(), "TG-%d-%d", &n, &user); err != nil {
		return oauth.Answer{}, err
	}
	p.posts++
	if p.used[refresh.Reveal()] {
		p.reused++
	}
	if p.living[user] != n {
		return oauth.Answer{}, &oauth.Error{Outcome: oauth.GrantDead, Code: "invalid_grant", Status: 400}
	}
	p.used[refresh.Reveal()] = true
	return p.answer(user), nil
}

func (p *provider) ClientCredentials(context.Context) (oauth.Answer, error) {
	return oauth.Answer{}, &oauth.Error{Outcome: oauth.Refused}
}

func (p *provider) Me(context.Context, secret.Secret) (oauth.User, error) {
	return oauth.User{}, &oauth.Error{Outcome: oauth.Refused}
}
func (p *provider) Revoke(context.Context, int64, secret.Secret) error { return nil }

// reuse counts the refresh tokens that were posted again after they were used. One
// that a consent made useless is another matter.
func (p *provider) reuse() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reused
}

// chance is a source of random numbers for many goroutines.
type chance struct{ random *rand.Rand }

func (c *chance) below(n int64) int64 { return c.random.Int64N(n) }

// pause waits for a random time.
func (c *chance) pause(ctx context.Context, most time.Duration) {
	timer := time.NewTimer(time.Duration(c.below(int64(most))))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// slowly returns storage that takes its time, so that everything meets everything.
func (c *chance) slowly(storage certmagic.Storage) certmagic.Storage {
	return storetest.Hook(storage, func(string, string) error {
		c.pause(context.Background(), 10*time.Millisecond)
		return nil
	})
}

// instance is one that serves from a store.
func instance(t *testing.T, p *provider, name string, store tokenstore.Store) *tokensource.Source {
	t.Helper()
	manager := tokensource.NewManager()
	s := manager.Source(tokensource.Config{
		StoreID:      name,
		Open:         func(context.Context) (tokenstore.Store, *secret.Keyring, error) { return store, keyring(t), nil },
		Applications: []tokensource.Application{{Client: p}},
		Renewal:      tokensource.Renewal{Parallel: 4},
		SpillDir:     filepath.Join(t.TempDir(), "spill"),
	})
	s.Start()
	t.Cleanup(func() {
		s.Stop()
		require.NoError(t, manager.Destruct())
	})
	return s
}

// seller is who uses instances while everything is moved: a request comes every few
// seconds, now and then the seller disconnects, or connects again.
type seller struct {
	name string
	user int64
	// connected is what the seller was told last, and at whom of.
	connected  bool
	connection tokenstore.Connection
	at         *tokensource.Source
	refused    int
}

// fleet is who serves: of which the old ones do not know who connected at the others.
type fleet struct {
	*chance
	mu           sync.Mutex
	old, current []*tokensource.Source
	// hurry is set while things are moved. Only a few consent in that time: more dead
	// tokens at once would be taken for the provider's trouble.
	hurry    bool
	consents int
	// late are the accounts whose consent was saved to the old store after they were
	// moved: what the current one has is dead until that is moved too.
	late map[int64]bool
}

func (f *fleet) serve(old, current []*tokensource.Source) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.old, f.current, f.hurry = old, current, len(old) > 0
}

// moved tells that what was late has been moved.
func (f *fleet) moved() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.late)
}

func (f *fleet) refused(user int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.late[user] = true
}

func (f *fleet) isLate(user int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.late[user]
}

func (f *fleet) mayConsent() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hurry {
		f.consents++
	}
	return f.consents <= 4
}

func (f *fleet) pace() time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.hurry {
		return 3 * time.Second
	}
	return time.Minute
}

func (f *fleet) one(s *seller) *tokensource.Source {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := slices.Concat(f.old, f.current)
	if slices.Contains(f.current, s.at) {
		all = f.current
	}
	return all[f.below(int64(len(all)))]
}

// use goes on until ctx is done.
func (s *seller) use(ctx context.Context, t *testing.T, f *fleet) {
	for ctx.Err() == nil {
		f.pause(ctx, f.pace())
		i := f.one(s)
		switch n := f.below(400); {
		case n < 2 && f.mayConsent():
			s.connect(t, f, i)
		case n == 2:
			s.disconnect(t, i)
		default:
			s.request(t, f, i)
		}
	}
}

func (s *seller) connect(t *testing.T, f *fleet, i *tokensource.Source) {
	consent, err := i.Exchange(context.Background(), "", strconv.FormatInt(s.user, 10), secret.Secret{})
	if err != nil {
		t.Errorf("%s: exchange: %v", s.name, err)
		return
	}
	c, err := i.Connect(context.Background(), s.name, consent)
	if err == nil {
		s.connected, s.connection, s.at = true, c, i
		return
	}
	f.refused(s.user)
	s.passing(t, err)
}

func (s *seller) disconnect(t *testing.T, i *tokensource.Source) {
	if !s.connected {
		return
	}
	if err := i.Disconnect(context.Background(), s.connection); err != nil {
		s.passing(t, err)
		return
	}
	s.connected, s.at = false, i
}

func (s *seller) request(t *testing.T, f *fleet, i *tokensource.Source) {
	token, err := i.Token(context.Background(), "", s.name, 0)
	if err != nil {
		problem, ok := errors.AsType[*tokensource.Error](err)
		late := ok && problem.Status == tokensource.ReconnectRequired && f.isLate(s.user)
		if s.connected && !late && (!ok || problem.Status != tokensource.Connected) {
			t.Errorf("%s is lost: %v", s.name, err)
		}
		return
	}
	var n, user int64
	if _, err := fmt.Sscanf(token.AccessToken().Reveal(), "A-%d-%d", &n, &user); err != nil || user != s.user {
		t.Errorf("%s was given the token of %d", s.name, user)
	}
}

// passing requires that the seller was told to try again, and nothing worse.
func (s *seller) passing(t *testing.T, err error) {
	problem, ok := errors.AsType[*tokensource.Error](err)
	if !ok || problem.Reason != tokensource.ReasonMoved {
		t.Errorf("%s: %v", s.name, err)
		return
	}
	s.refused++
}

// A fleet refreshes, connects and disconnects on the old store; everything is moved;
// the fleet changes over, with a while in which some of it serves from either; what
// came late is moved. Nobody is lost, nobody who disconnected comes back, and no
// refresh token is posted twice.
//
// MOVES is how many times it is played with each kind of lock: once, unless it is set.
func TestMovingWhileAFleetServesLosesNobody(t *testing.T) {
	moves := 1
	if text := os.Getenv("MOVES"); text != "" {
		var err error
		moves, err = strconv.Atoi(text)
		require.NoError(t, err)
	}
	for name, lock := range map[string]func(certmagic.Storage) certmagic.Storage{
		"locks that work": func(s certmagic.Storage) certmagic.Storage { return s },
		"no locks":        storetest.NoLock,
	} {
		t.Run(name, func(t *testing.T) {
			for n := range moves {
				c := &chance{random: sample.Rand(t, uint64(n))}
				synctest.Test(t, func(t *testing.T) { moveUnderLoad(t, c, lock) })
			}
			sample.Searched(t, int64(moves), "moves under load")
		})
	}
}

func moveUnderLoad(t *testing.T, random *chance, lock func(certmagic.Storage) certmagic.Storage) {
	const sellers = 32
	oldStorage, newStorage := lock(random.slowly(storetest.NewMemory())), lock(random.slowly(storetest.NewMemory()))
	open := func(s certmagic.Storage) tokenstore.Store { return caddystorage.New(s, keyring(t)) }
	p := &provider{chance: random, living: make(map[int64]int), used: make(map[string]bool)}
	old := []*tokensource.Source{instance(t, p, "old", open(oldStorage)), instance(t, p, "old", open(oldStorage))}
	current := []*tokensource.Source{instance(t, p, "new", open(newStorage)), instance(t, p, "new", open(newStorage))}

	f := &fleet{chance: random, old: old, late: make(map[int64]bool)}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var all []*seller
	var group sync.WaitGroup
	for n := range sellers {
		s := &seller{name: fmt.Sprint("shop-", n), user: int64(1000 + n/2)}
		if n%2 == 0 {
			s.connect(t, f, old[0])
		} else { // two to an account
			twin := all[n-1]
			c, err := old[0].Connect(t.Context(), s.name, tokensource.Consent{Account: twin.connection.Account, Authorization: 1})
			require.NoError(t, err)
			s.connected, s.connection = true, c
		}
		all = append(all, s)
	}
	<-time.After(allDue)
	f.serve(old, nil)
	for _, s := range all {
		group.Go(func() { s.use(ctx, t, f) })
	}
	w := &world{t: t, from: open(oldStorage), to: open(newStorage)}
	<-time.After(10 * time.Second)
	first := w.copy()
	require.GreaterOrEqual(t, first.Moved, sellers/2)
	<-time.After(10 * time.Second)
	f.serve(old, current)
	<-time.After(time.Minute)
	f.serve(nil, current)
	second := w.copy()
	f.moved()
	<-time.After(time.Hour)
	stop()
	group.Wait()

	refused := 0
	for _, s := range all {
		refused += s.refused
		connection, err := current[0].Connection(context.Background(), "", s.name)
		if !s.connected {
			require.Error(t, err, "%s disconnected", s.name)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, s.connection.ID, connection.ID)
		s.request(t, f, current[1])
		_, err = current[1].Token(context.Background(), "", s.name, 0)
		require.NoError(t, err, s.name)
	}
	t.Logf("%d token requests, %d reused, %d refused because of the move, %+v, %+v", p.posts, p.reuse(), refused, first, second)
	require.Zero(t, p.reuse())
}
