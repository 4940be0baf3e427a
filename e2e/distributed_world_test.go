//go:build linux

package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

const (
	distributedShop   = "http://shop.localhost:8080"
	distributedEgress = "http://egress.localhost:8080"
	beside            = "127.0.0.1:3000" // the app beside an instance
)

// distributed is the configuration of every instance, but for its own addresses.
const distributed = `{
	admin $ADDRESS:2019
	storage file_system $STORAGE
	auto_https off
	default_bind $ADDRESS 127.0.0.1
	grace_period 2s
	mercadopago {
		client_id {env.MP_CLIENT_ID}
		client_secret {env.MP_CLIENT_SECRET}
		redirect_uri $SHOP/connect/callback
		encryption_key {env.MP_ENCRYPTION_KEY}
		endpoints {
			authorize $PROVIDER/authorization
			api $PROVIDER
		}
		store postgres {env.DATABASE_URL}
	}
}

$SHOP {
	header X-Release $RELEASE
	mercadopago {
		seller {http.request.header.X-Login}
	}
	reverse_proxy $APP
}

$EGRESS {
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
		clients $NETWORK
	}
	reverse_proxy $PROVIDER {
		header_up -X-Seller
		header_up -X-Forwarded-*
	}
}
`

// Instance is a place for one process of Caddy after the other, on a machine of its
// own.
type instance struct {
	*caddy
	*machine
	values          map[string]string
	outside, beside *http.Client // callers from the hub, and from the machine itself
}

// distributedWorld is three instances, one PostgreSQL and one provider.
type distributedWorld struct {
	t         *testing.T
	began     time.Time
	random    *random
	observed  *observed
	server    *postgrestest.Server
	store     tokenstore.Store
	deafener  *deafener
	instances []*instance
	shops     []*shop
	aside     sync.WaitGroup // what goes on beside the story

	mu          sync.Mutex
	said        strings.Builder
	wrong       int
	answers     map[string]map[string]int // by instance, by kind
	disconnects map[string][]time.Duration
	gone        map[*shop]bool // who was disconnected
}

func newDistributedWorld(t *testing.T, sellers int) *distributedWorld {
	t.Helper()
	w := &distributedWorld{
		t: t, began: time.Now(), random: newRandom(sample.Rand(t, distributedStream).Uint64()),
		answers: make(map[string]map[string]int), disconnects: make(map[string][]time.Duration), gone: make(map[*shop]bool),
	}
	w.observed = newObserved(w.random, w.fail)
	newHub(t)
	w.server = postgrestest.New(t, "listen_addresses=*", "fsync=off", "full_page_writes=off")
	require.NoError(t, w.server.Admit(hubNetwork))
	w.deafener = newDeafener(t, w.server.Address())
	w.fill(sellers)
	listener, err := net.Listen("tcp", hubAddress+":0")
	require.NoError(t, err)
	roots := newAuthority(t)
	provider := &httptest.Server{Listener: listener, Config: &http.Server{Handler: w.observed}, TLS: roots.server(t, hubAddress, time.Now().Add(day))}
	provider.StartTLS()
	t.Cleanup(provider.Close)
	for i := range 3 {
		w.place(fmt.Sprintf("caddy-%d", i+1), fmt.Sprintf("10.77.0.%d", 11+i), provider.URL, roots)
	}
	var all sync.WaitGroup
	for _, i := range w.instances {
		i.launch()
	}
	for _, i := range w.instances {
		all.Go(i.serves)
	}
	all.Wait()
	return w
}

// tell adds a line to the timeline.
func (w *distributedWorld) tell(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write(format, args...)
}

func (w *distributedWorld) write(format string, args ...any) {
	line := fmt.Sprintf("%+7.1fs  %s\n", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
	fmt.Print(line)
	w.said.WriteString(line)
}

// fail is for what may never be. It may be called by any goroutine.
func (w *distributedWorld) fail(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.wrong++; w.wrong <= mostTold {
		w.write("WRONG: "+format, args...)
		w.t.Errorf(format, args...)
	}
}

// place makes a machine for an instance, with an app beside it.
func (w *distributedWorld) place(name, address, provider string, roots *authority) {
	t, home := w.t, w.t.TempDir()
	m := newMachine(t, name, address)
	listener, err := m.listen(beside)
	require.NoError(t, err)
	app := &httptest.Server{Listener: listener, Config: &http.Server{Handler: w.observed.app(name)}}
	app.Start()
	t.Cleanup(app.Close)
	_, port, err := net.SplitHostPort(w.server.Address())
	require.NoError(t, err)
	database := net.JoinHostPort(hubAddress, port)
	if len(w.instances) == 0 {
		database = w.deafener.Addr().String()
	}
	i := &instance{
		machine: m,
		values: map[string]string{
			"ADDRESS": address, "STORAGE": filepath.Join(home, "storage"), "PROVIDER": provider, "APP": beside,
			"SHOP": distributedShop, "EGRESS": distributedEgress, "NETWORK": hubNetwork, "RELEASE": "first",
		},
		caddy: &caddy{
			t: t, home: home, config: filepath.Join(home, "Caddyfile"), admin: address + ":2019", log: new(transcript),
			env: append(environment(home), append((&platform{}).secrets(), "SSL_CERT_FILE="+roots.file,
				"DATABASE_URL="+strings.Replace(w.server.DSN(), w.server.Address(), database, 1))...),
		},
	}
	i.outside = callers(address+":8080", new(net.Dialer).DialContext)
	i.beside = callers("127.0.0.1:8080", m.dial)
	i.write(i.caddyfile())
	w.observed.names[address] = name
	w.instances = append(w.instances, i)
	t.Cleanup(i.clean)
}

// callers are clients that reach the instance at an address, whatever site they
// ask for.
func callers(address string, dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	return &http.Client{
		Timeout: 20 * time.Second,
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
			DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
				defer cancel()
				return dial(ctx, network, address)
			},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (i *instance) caddyfile() string {
	return os.Expand(distributed, func(name string) string { return i.values[name] })
}

// launch starts the process on its machine, and waits for nothing. The thread that
// starts it stays until it ends: a process of which nobody hears any more ends.
func (i *instance) launch() {
	i.t.Helper()
	process := exec.Command(binary(i.t), "run", "--config", i.config, "--adapter", "caddyfile")
	process.Env, process.Dir = i.env, i.home
	process.Stdout, process.Stderr = i.log, i.log
	process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		_ = i.in(func() error {
			err := process.Start()
			started <- err
			if err == nil {
				_ = process.Wait()
			}
			return err
		})
	}()
	require.NoError(i.t, <-started)
	i.process, i.ended = process, ended
}

// serves waits until the process serves.
func (i *instance) serves() {
	deadline := time.Now().Add(patience)
	for {
		response, err := i.outside.Get(distributedShop + "/")
		if err == nil {
			_ = response.Body.Close()
			return
		}
		select {
		case <-i.ended:
		case <-time.After(50 * time.Millisecond):
			if time.Now().Before(deadline) {
				continue
			}
		}
		i.t.Errorf("%s does not serve: %v", i.name, err)
		return
	}
}

// The roles of sellers. The first ones have a part of their own in the story, and
// nobody else calls for them.
const (
	inTheDark    = 0 // is answered while its instance is cut off
	neverTaken   = 1 // is not answered while its instance is cut off
	orphaned     = 2 // is not answered when its instance is killed
	listenerUp   = 10
	listenerDown = 20
	whileCut     = 30
	crowdFrom    = 100
	partings     = 8 // disconnects of each kind
)

const (
	longLife  = 180 * 24 * time.Hour
	shortLife = 10 * time.Minute
	// rush is how long it takes until all have come due that do so while the test
	// runs.
	rush = 45 * time.Second
)

// fill connects the sellers: at the provider, and in the store.
func (w *distributedWorld) fill(sellers int) {
	t := w.t
	t.Helper()
	key, err := secret.ParseKey(encryptionKey)
	require.NoError(t, err)
	keyring, err := secret.NewKeyring(key)
	require.NoError(t, err)
	database, err := postgres.Open(postgres.Config{DSN: secret.New(w.server.DSN()), MaxConnections: 20})
	require.NoError(t, err)
	t.Cleanup(database.Close)
	store, err := database.Store(t.Context(), keyring)
	require.NoError(t, err)
	w.store = store
	accounts := make([]sandbox.Account, sellers)
	for n := range sellers {
		accounts[n] = sandbox.Account{UserID: 5_411_000_001 + int64(n), Nickname: fmt.Sprint("VENDEDOR", n), Country: "AR"}
		w.shops = append(w.shops, &shop{name: fmt.Sprint("shop-", n), account: tokenstore.AccountID{ClientID: clientID, UserID: accounts[n].UserID, Live: true}})
	}
	w.observed.sandbox = sandbox.New(sandbox.Options{Accounts: accounts, Applications: []sandbox.Application{{
		ClientID: clientID, ClientSecret: clientSecret, RedirectURIs: []string{distributedShop + "/connect/callback"},
	}}})
	w.atOnce(w.shops, func(n int, s *shop) error {
		pair, err := w.consent(s)
		if err != nil {
			return err
		}
		due := w.age(n, &pair)
		if err := store.AddPair(t.Context(), s.account, pair); err != nil {
			return err
		}
		if !due.IsZero() {
			if err := store.Schedule(t.Context(), s.account, due); err != nil {
				return err
			}
		}
		return store.PutConnection(t.Context(), tokenstore.Connection{
			ID: "connection-" + s.name, Application: "default", Seller: s.name, Account: s.account, Authorization: 1,
			Nickname: accounts[n].Nickname, Country: "AR", CreatedAt: pair.ObtainedAt,
		})
	})
}

// age dates a pair, and tells when the account is due where the store is to know
// better than AddPair: an eighth comes due while the test runs, and one of twenty
// has ended and waits for whoever asks for it.
func (w *distributedWorld) age(n int, pair *tokenstore.Pair) (due time.Time) {
	now := time.Now().Truncate(time.Microsecond)
	switch {
	case n <= orphaned, n >= crowdFrom && n%20 == 1:
		pair.ObtainedAt, due = now.Add(-shortLife), now.Add(shortLife)
	case n >= crowdFrom && n%8 == 0:
		due = now.Add(5*time.Second + w.random.upTo(rush))
		pair.ObtainedAt = due.Add(-shortLife * 2 / 3)
	default:
		pair.ObtainedAt, pair.ExpiresAt = now, now.Add(longLife)
		return due
	}
	pair.ExpiresAt = pair.ObtainedAt.Add(shortLife)
	return due
}

// consent is what a seller does at the provider, and the exchange that follows.
func (w *distributedWorld) consent(s *shop) (pair tokenstore.Pair, err error) {
	asked := url.Values{"response_type": {"code"}, "client_id": {clientID}, "redirect_uri": {distributedShop + "/connect/callback"}, "state": {s.name}}
	callback, err := w.observed.sandbox.Approve("https://auth.example/authorization?"+asked.Encode(), s.account.UserID)
	if err != nil {
		return pair, err
	}
	back, err := url.Parse(callback)
	if err != nil {
		return pair, err
	}
	form := url.Values{
		"grant_type": {"authorization_code"}, "client_id": {clientID}, "client_secret": {clientSecret},
		"code": {back.Query().Get("code")}, "redirect_uri": asked["redirect_uri"],
	}
	request := httptest.NewRequest(http.MethodPost, "/oauth/token", strings.NewReader(form.Encode()))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	recorder := httptest.NewRecorder()
	w.observed.sandbox.ServeHTTP(recorder, request)
	if recorder.Code != http.StatusOK {
		return pair, fmt.Errorf("the sandbox answered a code with %s", recorder.Body)
	}
	w.observed.mu.Lock()
	access, refresh := w.observed.give(s, "", recorder.Body.Bytes())
	w.observed.mu.Unlock()
	pair = tokenstore.Pair{AccessToken: secret.New(access), RefreshToken: secret.New(refresh), Scope: "offline_access read write"}
	pair.PairID = tokenstore.PairID{Authorization: 1, Hash: tokenstore.HashPair(pair.AccessToken, pair.RefreshToken)}
	return pair, nil
}

// atOnce does something for every seller, some at a time.
func (w *distributedWorld) atOnce(shops []*shop, do func(n int, s *shop) error) {
	w.t.Helper()
	numbers := make(chan int)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for n := range numbers {
				if err := do(n, shops[n]); err != nil {
					w.fail("%s: %v", shops[n].name, err)
				}
			}
		})
	}
	for n := range shops {
		numbers <- n
	}
	close(numbers)
	all.Wait()
}

// sellersOrdered is how many sellers there are: SELLERS, or 1000.
func sellersOrdered(t *testing.T) int {
	t.Helper()
	text := os.Getenv("SELLERS")
	if text == "" {
		return 1_000
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, "SELLERS")
	require.GreaterOrEqual(t, n, 10*crowdFrom, "SELLERS")
	return n
}
