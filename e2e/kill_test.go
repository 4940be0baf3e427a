package e2e

import (
	"cmp"
	"fmt"
	"math"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

const (
	// killsOnFiles and killsOnPostgres are how often a run kills without KILLS. A third
	// of the kills each are with one, two and three processes.
	killsOnFiles    = 9
	killsOnPostgres = 6
	// killsAtOnce is after how many kills all sellers must serve again.
	killsAtOnce = 60
	// killsAlike is after how many kills the number of processes changes, at the
	// latest.
	killsAlike = 7
	// rarely is the longest time between two kills.
	rarely = 2 * time.Second
	// inFlight is the longest that an answer may be in memory alone, on a machine
	// that has much else to do. No request is served with it before it is saved.
	inFlight = 10 * time.Second
	// recovery is for how long a process may leave a seller alone once nothing
	// goes wrong any more: twice over, the pauses after an unknown outcome.
	recovery = 6 * time.Minute
	// mostTold is how many failures are told in full.
	mostTold = 10
)

// siege is a fleet that is being killed, and the sellers that live on it.
type siege struct {
	t       *testing.T
	random  *random
	place   *place
	book    *book
	fleet   *fleet
	sellers []*besiegedSeller
	store   *auditor

	kills  [4]int // by how many processes there were
	crises int    // crashes of the server that the store is on
	losses []loss

	mu       sync.Mutex
	wrong    int
	answers  map[string]int
	done     map[string]int // of what people did
	slowest  time.Duration  // to serve again
	reloaded int
}

// TestNoSellerIsLostToKills kills processes at random while everything goes on, and
// where there is one, the server that their tokens are on. KILLS says how often
// (without end where only KILL_FOR is given), KILL_FOR for how long at the most, and
// KILL_SEED replaces the seed that TEST_SEED selects: all three for each store.
func TestNoSellerIsLostToKills(t *testing.T) {
	t.Parallel()
	t.Run("files", func(t *testing.T) {
		t.Parallel()
		besiege(t, onFiles(t), killsOnFiles, killStreamOnFiles)
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		besiege(t, onPostgres(t), killsOnPostgres, killStreamOnPostgres)
	})
}

// besiege kills until it has killed often enough. It takes long because of the pauses
// after unknown outcomes, in which nobody has anything to do.
func besiege(t *testing.T, place *place, byDefault int, stream uint64) {
	t.Helper()
	kills, until, seed := ordered(t, byDefault, stream)
	t.Logf("KILL_SEED=%d", seed)
	s := newSiege(t, place, seed)
	began, done := time.Now(), 0
	for done < kills && (until == 0 || time.Since(began) < until) && !t.Failed() {
		n := min(killsAtOnce, kills-done)
		done += n
		s.storm(n, until == 0 && done == kills)
		if kills > byDefault {
			s.report(seed, time.Since(began))
		}
	}
	sample.Searched(t, int64(done), "kills")
	t.Log("\n" + s.report(seed, time.Since(began)))
}

// ordered is what the environment asks for.
func ordered(t *testing.T, byDefault int, stream uint64) (kills int, until time.Duration, seed uint64) {
	t.Helper()
	var err error
	kills, seed = byDefault, sample.Rand(t, stream).Uint64()
	if text := os.Getenv("KILL_FOR"); text != "" {
		until, err = time.ParseDuration(text)
		require.NoError(t, err, "KILL_FOR")
		kills = math.MaxInt
	}
	if text := os.Getenv("KILLS"); text != "" {
		kills, err = strconv.Atoi(text)
		require.NoError(t, err, "KILLS")
	}
	if text := os.Getenv("KILL_SEED"); text != "" {
		seed, err = strconv.ParseUint(text, 10, 64)
		require.NoError(t, err, "KILL_SEED")
	}
	return kills, until, seed
}

// newSiege connects all sellers, in peace.
func newSiege(t *testing.T, place *place, seed uint64) *siege {
	t.Helper()
	s := &siege{t: t, random: newRandom(seed), place: place, answers: make(map[string]int), done: make(map[string]int)}
	provider := newBesiegedProvider()
	s.book = newBook(provider, s.random)
	s.fleet = newFleet(t, s.book, s.random, place, 3)
	s.store = newAuditor(t, place)
	// Five accounts have two sellers each, and all go over to another at times.
	for i := range 10 {
		own, other := besiegedAccount(i/2), besiegedAccount(5+i%4)
		s.add(provider, "default", clientID, "shop-"+strconv.Itoa(i), besiegedShop, "egress.localhost", own, other)
	}
	for i := range 3 {
		own := besiegedAccount(9 + i)
		s.add(provider, "market", marketClientID, strconv.FormatInt(own, 10), besiegedMarket, "egress-market.localhost", own)
	}
	s.fleet.begin(s.fleet.replicas[0])
	s.inParallel(func(seller *besiegedSeller) {
		s.until(seller.String()+" is connected", func() error { return seller.connect(seller.accounts[0]) })
		seller.settled(seller.accounts[0])
	})
	return s
}

func besiegedAccount(i int) int64 { return 5411000900 + int64(i) }

func newBesiegedProvider() *sandbox.Sandbox {
	var accounts []sandbox.Account
	for i := range 12 {
		accounts = append(accounts, sandbox.Account{UserID: besiegedAccount(i), Nickname: fmt.Sprintf("CUENTA_%d", i), Country: "AR"})
	}
	application := func(id, site string) sandbox.Application {
		return sandbox.Application{ClientID: id, ClientSecret: clientSecret, PKCE: true, RedirectURIs: []string{site + "/connect/callback"}}
	}
	provider := sandbox.New(sandbox.Options{Accounts: accounts, Applications: []sandbox.Application{
		application(clientID, besiegedShop), application(marketClientID, besiegedMarket),
	}})
	provider.SetAccessTokenLife(short)
	return provider
}

func (s *siege) add(provider *sandbox.Sandbox, application, clientID, name, site, egress string, accounts ...int64) {
	seller := newBesiegedSeller(s.t, s.fleet, provider)
	seller.application, seller.clientID, seller.name = application, clientID, name
	seller.site, seller.egress, seller.accounts = site, egress, accounts
	s.sellers = append(s.sellers, seller)
}

// inParallel does something for every seller at once.
func (s *siege) inParallel(do func(*besiegedSeller)) {
	var all sync.WaitGroup
	for _, seller := range s.sellers {
		all.Go(func() { do(seller) })
	}
	all.Wait()
}

// until tries something until it succeeds.
func (s *siege) until(what string, try func() error) {
	began := time.Now()
	for wait := 200 * time.Millisecond; ; wait = min(wait*3/2, 2*time.Second) {
		err := try()
		if err == nil {
			return
		}
		if time.Since(began) > recovery {
			s.fail("it never came to be that %s: %v", what, err)
			return
		}
		pause(s.t.Context(), wait)
	}
}

func (s *siege) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.wrong++; s.wrong <= mostTold {
		s.t.Errorf(format, args...)
	}
}

// storm kills processes a number of times, then waits until all sellers are served
// again. After the last storm, new access tokens live long, which saves refreshes.
func (s *siege) storm(kills int, last bool) {
	// Whether a refresh ends older access tokens is not written down anywhere.
	killing := s.random.n(2) == 0
	s.book.provider.Change(func(settings *sandbox.Settings) { settings.RefreshKillsAccess = killing })
	calm, load := make(chan struct{}), make(chan struct{})
	var people, callers sync.WaitGroup
	people.Go(func() { s.live(calm) })
	people.Go(func() { s.reloads(calm) })
	people.Go(func() { s.crashes(calm) })
	for _, seller := range s.sellers {
		callers.Go(func() { s.call(seller, calm, load) })
	}
	sizes := []int{1, 2, 3}
	alike := min(killsAlike, (kills+len(sizes)-1)/len(sizes))
	for i := range kills {
		if i%alike == 0 {
			s.resize(sizes[i/alike%len(sizes)])
		}
		s.strike()
		s.kill()
	}
	close(calm)
	people.Wait()
	if last {
		s.book.provider.SetAccessTokenLife(0)
	}
	s.inParallel(s.comesBack)
	close(load)
	callers.Wait()
	s.count()
	for _, hasty := range s.book.hurried() {
		s.fail("%s", hasty)
	}
	for _, r := range s.fleet.running() {
		s.fleet.read(r)
	}
	s.book.forget()
}

// resize starts processes, or kills those that are too many, which is no
// different from what happens to the others.
func (s *siege) resize(n int) {
	for len(s.fleet.running()) > n {
		up := s.fleet.running()
		r := up[s.random.n(len(up))]
		s.fleet.end(r)
		s.mourn(r)
	}
	for _, r := range s.fleet.replicas {
		if len(s.fleet.running()) < n && !r.running.Load() {
			s.fleet.begin(r)
		}
	}
}

// strike waits until the next kill. Every third kill is at a random time, even while
// processes start. The other kills follow token requests, so that on a slow machine
// too they interrupt some.
func (s *siege) strike() {
	if s.random.n(3) == 0 {
		pause(s.t.Context(), 50*time.Millisecond+s.random.upTo(rarely))
		return
	}
	enough := s.book.asked.Load() + 1 + int64(s.random.n(len(s.sellers)))
	for began := time.Now(); s.book.asked.Load() < enough && time.Since(began) < recovery; {
		pause(s.t.Context(), 5*time.Millisecond)
	}
	pause(s.t.Context(), s.random.upTo(slowest+farthest))
}

// kill kills one process and starts it again. Whether it served yet is not asked.
func (s *siege) kill() {
	up := s.fleet.running()
	r := up[s.random.n(len(up))]
	s.kills[len(up)]++
	s.fleet.end(r)
	s.mourn(r)
	s.fleet.begin(r)
}

// call is an app that serves one seller: through egress, or as the one that the
// seller's browser visits. It makes few requests once calm is closed.
func (s *siege) call(seller *besiegedSeller, calm, over <-chan struct{}) {
	transport := &http.Transport{MaxIdleConnsPerHost: 2}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: patience}
	for rarely := 500 * time.Millisecond; ; {
		select {
		case <-over:
			return
		case <-calm:
			calm, rarely = nil, 4*time.Second
		case <-time.After(s.random.upTo(rarely)):
		}
		sent := time.Now()
		var got answer
		r, err := s.fleet.any()
		switch {
		case err != nil:
		case s.random.n(3) == 0:
			got, err = seller.visit()
		default:
			got, err = seller.ask(client, r)
		}
		s.judge(seller, sent, got, err)
	}
}

// judge counts an answer, and tells whether the seller was served.
func (s *siege) judge(seller *besiegedSeller, sent time.Time, got answer, err error) bool {
	kind, failure := "no answer", error(nil)
	if err == nil {
		kind, failure = seller.judge(s.book, sent, got)
	}
	if failure != nil {
		s.fail("%v%s", failure, s.stories(seller))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answers[kind]++
	return kind == "served"
}

// stories are what happened to the accounts of a seller.
func (s *siege) stories(seller *besiegedSeller) string {
	var text strings.Builder
	for _, account := range seller.accounts {
		fmt.Fprintf(&text, "\n%s:%s", seller.id(account), s.book.story(seller.id(account)))
	}
	return text.String()
}

// live is people: they connect again, go over to another account, disconnect, and
// come back.
func (s *siege) live(over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case <-time.After(200*time.Millisecond + s.random.upTo(2*time.Second)):
		}
		seller := s.sellers[s.random.n(len(s.sellers))]
		what, account := "connected", seller.accounts[0]
		switch chance := s.random.n(10); {
		case chance == 0:
			what, account = "disconnected", nobody
		case chance < 4:
			account = seller.accounts[len(seller.accounts)-1]
		}
		err := s.act(seller, account)
		if err != nil {
			what = "given up"
		}
		s.mu.Lock()
		s.done[what]++
		s.mu.Unlock()
	}
}

// act connects a seller to an account, or to none.
func (s *siege) act(seller *besiegedSeller, account int64) (err error) {
	seller.acting.Lock()
	defer seller.acting.Unlock()
	if account == nobody {
		err = seller.disconnect()
	} else {
		err = seller.connect(account)
	}
	for _, known := range seller.accounts {
		s.book.note(seller.id(known), "%s was to be connected to %d: %v", seller, account, err)
	}
	return err
}

func (s *siege) reloads(over <-chan struct{}) {
	for {
		select {
		case <-over:
			return
		case <-time.After(300*time.Millisecond + s.random.upTo(2*time.Second)):
		}
		r, err := s.fleet.any()
		if err != nil {
			continue
		}
		loaded, err := s.fleet.reload(r)
		if err != nil {
			s.fail("%v", err)
		}
		if loaded {
			s.mu.Lock()
			s.reloaded++
			s.mu.Unlock()
		}
	}
}

// comesBack waits until every process serves a seller. Who is told to connect
// does so.
func (s *siege) comesBack(seller *besiegedSeller) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	began := time.Now()
	for _, r := range s.fleet.running() {
		s.until(fmt.Sprintf("process %s serves %s", r.name, seller), func() error {
			sent := time.Now()
			got, err := seller.ask(client, r)
			if s.judge(seller, sent, got, err) {
				return nil
			}
			if err == nil && got.status == http.StatusForbidden {
				err = s.act(seller, seller.accounts[0])
			}
			return cmp.Or(err, error(astrayError{"calling egress", got}))
		})
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slowest = max(s.slowest, time.Since(began))
}

// agesOf lists how long before a kill the answers were sent that it lost.
func agesOf(losses []loss) string {
	ages := make([]time.Duration, len(losses))
	for i, l := range losses {
		ages[i] = l.age.Round(time.Millisecond)
	}
	slices.Sort(ages)
	if len(ages) > 20 {
		return fmt.Sprintf("half within %v, nine of ten within %v, all within %v", ages[len(ages)/2], ages[len(ages)*9/10], ages[len(ages)-1])
	}
	return fmt.Sprint(ages)
}
