package tokensource

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	life    = 180 * 24 * time.Hour
	timeout = 20 * time.Second
)

// world is a provider, one storage, and the instances that share them.
type world struct {
	t        *testing.T
	storage  certmagic.Storage
	keyring  *secret.Keyring
	provider *provider
	spillDir string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	key, err := secret.ParseKey(strings.Repeat("ab", 32))
	require.NoError(t, err)
	keyring, err := secret.NewKeyring(key)
	require.NoError(t, err)
	return &world{
		t: t, storage: storetest.NewMemory(), keyring: keyring, spillDir: filepath.Join(t.TempDir(), "one"),
		provider: &provider{clientID: "1234", life: life, refresh: map[int64]string{}, access: map[string]int64{}, codes: map[string]int64{}},
	}
}

// instance is one process.
type instance struct {
	*Source
	w       *world
	store   *hooked
	events  *events
	offset  time.Duration
	mu      sync.Mutex
	manager *Manager
}

func (i *instance) clock() time.Time {
	i.mu.Lock()
	defer i.mu.Unlock()
	return time.Now().Add(i.offset)
}

func (i *instance) jump(d time.Duration) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.offset += d
}

func (w *world) config(i *instance) Config {
	return Config{
		StoreID: "one",
		Open: func(context.Context) (tokenstore.Store, *secret.Keyring, error) {
			return i.store, w.keyring, nil
		},
		Applications: []Application{{Client: w.provider}},
		SpillDir:     w.spillDir,
		Observer:     i.events,
		Now:          i.clock,
	}
}

func (w *world) instance(change ...func(*Config)) *instance {
	i := &instance{w: w, store: &hooked{Store: caddystorage.New(w.storage, w.keyring)}, events: &events{}, manager: NewManager()}
	config := w.config(i)
	for _, c := range change {
		c(&config)
	}
	i.Source = i.manager.Source(config)
	i.Start()
	w.t.Cleanup(func() { i.end() })
	return i
}

func (i *instance) end() {
	i.store.set(nil)
	_ = i.manager.Destruct()
}

// crash ends a process without any of the courtesies: from now on its store and
// its provider are out of reach.
func (i *instance) crash() {
	i.store.set(func(string, bool) error { return errCrashed })
	i.manager.cancel()
}

var (
	errCrashed = errors.New("crashed")
	// errSkipped has an operation say that it was carried out though it was not.
	errSkipped = errors.New("skipped")
)

// seller connects a seller to an account.
func (i *instance) seller(name string, user int64) tokenstore.Connection {
	i.w.t.Helper()
	consent, err := i.Exchange(context.Background(), "", i.w.provider.code(user), secret.Secret{})
	require.NoError(i.w.t, err)
	c, err := i.Connect(context.Background(), name, consent)
	require.NoError(i.w.t, err)
	return c
}

func (i *instance) token(seller string) (*Token, error) {
	return i.Token(context.Background(), "", seller, 5*time.Minute)
}

// lives requires that the seller has a token that the provider takes for the
// account's.
func (i *instance) lives(seller string, user int64) *Token {
	i.w.t.Helper()
	token, err := i.token(seller)
	require.NoError(i.w.t, err)
	require.Equal(i.w.t, user, i.w.provider.owner(token.AccessToken()), "whose token it is")
	return token
}

// problem requires an error of Token.
func (i *instance) problem(seller string) *Error {
	i.w.t.Helper()
	token, err := i.token(seller)
	require.Nil(i.w.t, token)
	var problem *Error
	require.ErrorAs(i.w.t, err, &problem)
	return problem
}

// eventually asks as an app would, until the seller has a token again.
func (i *instance) eventually(seller string, user int64) {
	i.w.t.Helper()
	for range 1000 {
		token, err := i.token(seller)
		if err == nil {
			require.Equal(i.w.t, user, i.w.provider.owner(token.AccessToken()), "whose token it is")
			return
		}
		problem, ok := errors.AsType[*Error](err)
		require.True(i.w.t, ok)
		require.Equal(i.w.t, Connected, problem.Status, "the seller is lost: %v", err)
		require.Positive(i.w.t, problem.RetryAfter)
		time.Sleep(problem.RetryAfter)
	}
	i.w.t.Fatal("the seller never got a token again")
}

func (i *instance) account(user int64) tokenstore.Account {
	i.w.t.Helper()
	state, err := caddystorage.New(i.w.storage, i.w.keyring).Account(context.Background(), accountID(user))
	require.NoError(i.w.t, err)
	return state
}

func accountID(user int64) tokenstore.AccountID {
	return tokenstore.AccountID{ClientID: "1234", UserID: user, Live: true}
}

// events records what was observed.
type events struct {
	mu  sync.Mutex
	all []Event
}

func (e *events) Observe(event Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.all = append(e.all, event)
}

func (e *events) count(name string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, event := range e.all {
		if event.Name == name {
			n++
		}
	}
	return n
}

// provider is a scripted Mercado Pago: one living refresh token per account,
// rotated on every use.
type provider struct {
	clientID string
	life     time.Duration

	mu       sync.Mutex
	serial   int
	refresh  map[int64]string
	access   map[string]int64
	codes    map[string]int64
	posts    int
	reused   int
	lastUser int64
	// before may refuse a refresh; after may lose its answer or change it.
	before func(ctx context.Context, refresh string) error
	after  func(ctx context.Context, answer *oauth.Answer) error
	change func(answer *oauth.Answer)
	me     func() (oauth.User, error)
	// asks answers /users/me by the token; slow comes before it.
	asks   func(secret.Secret) (oauth.User, error)
	slow   func(context.Context)
	own    int
	ownErr error
	gone   []int64
}

func (p *provider) ClientID() string       { return p.clientID }
func (p *provider) Timeout() time.Duration { return timeout }

func (p *provider) code(user int64) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.serial++
	code := fmt.Sprintf("TG-code%d-%d", p.serial, user)
	p.codes[code] = user
	return code
}

func (p *provider) issue(user int64) oauth.Answer {
	p.serial++
	access := fmt.Sprintf("APP_USR-%s-%d-%d", p.clientID, p.serial, user)
	refresh := fmt.Sprintf("TG-%d-%d", p.serial, user)
	p.refresh[user], p.access[access] = refresh, user
	live := true
	return oauth.Answer{
		AccessToken: secret.New(access), RefreshToken: secret.New(refresh), ExpiresIn: p.life, ReceivedAt: time.Time{},
		Scope: "offline_access read write", UserID: user, PublicKey: "PK-" + strconv.FormatInt(user, 10), LiveMode: &live,
	}
}

func (p *provider) Exchange(_ context.Context, code string, _ secret.Secret) (oauth.Answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	user, ok := p.codes[code]
	if !ok {
		return oauth.Answer{}, &oauth.Error{Outcome: oauth.GrantDead, Code: "invalid_grant", Status: 400}
	}
	delete(p.codes, code)
	answer := p.issue(user)
	if p.change != nil {
		p.change(&answer)
	}
	return answer, nil
}

func (p *provider) Refresh(ctx context.Context, refresh secret.Secret) (oauth.Answer, error) {
	p.mu.Lock()
	p.posts++
	before, after := p.before, p.after
	p.mu.Unlock()
	if before != nil {
		if err := before(ctx, refresh.Reveal()); err != nil {
			return oauth.Answer{}, err
		}
	}
	answer, err := p.rotate(refresh.Reveal())
	if err == nil && after != nil {
		err = after(ctx, &answer)
	}
	if err != nil {
		return oauth.Answer{}, err
	}
	return answer, nil
}

func (p *provider) rotate(refresh string) (oauth.Answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for user, living := range p.refresh {
		if living == refresh {
			p.lastUser = user
			answer := p.issue(user)
			if p.change != nil {
				p.change(&answer)
			}
			return answer, nil
		}
	}
	p.reused++
	return oauth.Answer{}, &oauth.Error{Outcome: oauth.GrantDead, Code: "invalid_grant", Status: 400}
}

func (p *provider) ClientCredentials(context.Context) (oauth.Answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own++
	if p.ownErr != nil {
		return oauth.Answer{}, p.ownErr
	}
	return oauth.Answer{AccessToken: secret.New(fmt.Sprintf("APP_USR-own-%d", p.own)), ExpiresIn: 6 * time.Hour}, nil
}

func (p *provider) Me(ctx context.Context, access secret.Secret) (oauth.User, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.slow != nil {
		p.slow(ctx)
	}
	if p.asks != nil {
		return p.asks(access)
	}
	if p.me != nil {
		return p.me()
	}
	user := p.access[access.Reveal()]
	return oauth.User{ID: user, Nickname: fmt.Sprintf("SHOP%d", user), Country: "AR"}, nil
}

func (p *provider) Revoke(_ context.Context, user int64, _ secret.Secret) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.gone = append(p.gone, user)
	return nil
}

func (p *provider) owner(access secret.Secret) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.access[access.Reveal()]
}

func (p *provider) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.posts
}

func (p *provider) script(change func(*provider)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	change(p)
}

// hooked is a store with a hook before and after each operation. An error before
// is one of an operation that was not carried out, an error after is one of an
// operation that was.
type hooked struct {
	tokenstore.Store
	mu   sync.Mutex
	hook func(op string, after bool) error
}

func (h *hooked) set(hook func(op string, after bool) error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.hook = hook
}

func (h *hooked) call(op string, after bool) error {
	h.mu.Lock()
	hook := h.hook
	h.mu.Unlock()
	if hook == nil {
		return nil
	}
	return hook(op, after)
}

func (h *hooked) do(op string, work func() error) error {
	if err := h.call(op, false); errors.Is(err, errSkipped) {
		return nil
	} else if err != nil {
		return err
	}
	if err := work(); err != nil {
		return err
	}
	return h.call(op, true)
}

func (h *hooked) Connection(ctx context.Context, application, seller string) (c tokenstore.Connection, err error) {
	err = h.do("Connection", func() (err error) { c, err = h.Store.Connection(ctx, application, seller); return err })
	return c, err
}

func (h *hooked) PutConnection(ctx context.Context, c tokenstore.Connection) error {
	return h.do("PutConnection", func() error { return h.Store.PutConnection(ctx, c) })
}

func (h *hooked) DeleteConnection(ctx context.Context, c tokenstore.Connection) error {
	return h.do("DeleteConnection", func() error { return h.Store.DeleteConnection(ctx, c) })
}

func (h *hooked) Connections(ctx context.Context, id tokenstore.AccountID) (all []tokenstore.Connection, err error) {
	err = h.do("Connections", func() (err error) { all, err = h.Store.Connections(ctx, id); return err })
	return all, err
}

func (h *hooked) Account(ctx context.Context, id tokenstore.AccountID) (a tokenstore.Account, err error) {
	err = h.do("Account", func() (err error) { a, err = h.Store.Account(ctx, id); return err })
	return a, err
}

func (h *hooked) AddPair(ctx context.Context, id tokenstore.AccountID, p tokenstore.Pair) error {
	return h.do("AddPair", func() error { return h.Store.AddPair(ctx, id, p) })
}

func (h *hooked) DeletePairs(ctx context.Context, id tokenstore.AccountID, p ...tokenstore.PairID) error {
	return h.do("DeletePairs", func() error { return h.Store.DeletePairs(ctx, id, p...) })
}

func (h *hooked) PutIntent(ctx context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	return h.do("PutIntent", func() error { return h.Store.PutIntent(ctx, id, i) })
}

func (h *hooked) DeleteIntent(ctx context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	return h.do("DeleteIntent", func() error { return h.Store.DeleteIntent(ctx, id, i) })
}

func (h *hooked) PutVerdict(ctx context.Context, id tokenstore.AccountID, v tokenstore.Verdict) error {
	return h.do("PutVerdict", func() error { return h.Store.PutVerdict(ctx, id, v) })
}

func (h *hooked) PutMark(ctx context.Context, id tokenstore.AccountID, m tokenstore.Mark) error {
	return h.do("PutMark", func() error { return h.Store.PutMark(ctx, id, m) })
}

func (h *hooked) DeleteMark(ctx context.Context, id tokenstore.AccountID, m tokenstore.Mark) error {
	return h.do("DeleteMark", func() error { return h.Store.DeleteMark(ctx, id, m) })
}

func (h *hooked) PutTombstone(ctx context.Context, id tokenstore.AccountID, n uint64) error {
	return h.do("PutTombstone", func() error { return h.Store.PutTombstone(ctx, id, n) })
}

func (h *hooked) Lock(ctx context.Context, id tokenstore.AccountID) (l tokenstore.Lock, err error) {
	err = h.do("Lock", func() (err error) { l, err = h.Store.Lock(ctx, id); return err })
	return l, err
}

func (h *hooked) Accounts(ctx context.Context, after string, n int) (ids []tokenstore.AccountID, next string, err error) {
	err = h.do("Accounts", func() (err error) { ids, next, err = h.Store.Accounts(ctx, after, n); return err })
	return ids, next, err
}

func (h *hooked) CleanUp(ctx context.Context, now time.Time, after string, n int) (next string, err error) {
	err = h.do("CleanUp", func() (err error) { next, err = h.Store.CleanUp(ctx, now, after, n); return err })
	return next, err
}
