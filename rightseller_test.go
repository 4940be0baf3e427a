package mercadopago

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// TestEveryAnswerIsTheRightSellersOrAnError has many callers ask for many sellers
// of several applications in every way there is, while tokens rotate, sellers
// connect to the same and to other accounts and disconnect, and configurations
// come, go and fail. Whoever's token reaches an upstream must be whom the seller
// that was asked for was connected to at some moment of the request. A client's
// own token, the platform's and a disconnected seller's never do.
//
// REQUESTS is how many requests are made: 10000, unless it is set. TEST_SEED decides
// who asks for whom, and what changes.
func TestEveryAnswerIsTheRightSellersOrAnError(t *testing.T) {
	requests := int64(10_000)
	if text := os.Getenv("REQUESTS"); text != "" {
		var err error
		requests, err = strconv.ParseInt(text, 10, 64)
		require.NoError(t, err)
	}
	r := &run{market: newMarket(t, 60), random: sample.Rand(t, 0), requests: requests, reloadEvery: min(2000, max(requests/10, 1))}
	before := r.sandbox.Stats()
	began := time.Now()
	r.all()
	// What makes this hard must have been there. When that takes more requests
	// depends on how long each of them lasts.
	for more := 0; len(r.missing(before)) > 0 && more < 20; more++ {
		r.requests = max(requests/4, r.reloadEvery)
		r.all()
	}
	sample.Searched(t, r.asked, "requests")
	t.Logf("%d requests in %s\n%s\n%s", r.asked, time.Since(began).Round(time.Second), &r.changes, &r.outcomes)
	require.Empty(t, r.missing(before), "this never happened")
	r.mostWereRight()
}

// run is many requests, and what became of them.
type run struct {
	*market
	random      *rand.Rand
	requests    int64
	reloadEvery int64
	// faulty says that the provider fails: then nobody is owed an answer.
	faulty   bool
	asked    int64 // requests of all rounds
	wrongs   atomic.Int64
	outcomes tally
}

const (
	callers    = 32
	traders    = 4
	tradeEvery = 250
)

// all makes one round of requests.
func (r *run) all() {
	// Changes keep pace with the requests, however fast the machine is: a caller whose
	// request makes one due waits until it can be made.
	trades, reloads := make(chan struct{}, traders), make(chan struct{}, 1)
	var changing, calling sync.WaitGroup
	for range traders {
		random := r.another()
		changing.Go(func() { r.trade(random, trades) })
	}
	changing.Go(func() { r.reload(reloads) })
	var made atomic.Int64
	for range callers {
		c := &caller{run: r, random: r.another(), client: http.Client{
			Transport:     r.transport,
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}}
		calling.Go(func() {
			for n := made.Add(1); n <= r.requests && r.wrongs.Load() < 20; n = made.Add(1) {
				c.call(r.asked + n)
				if n%tradeEvery == 0 {
					trades <- struct{}{}
				}
				if n%r.reloadEvery == 0 {
					reloads <- struct{}{}
				}
			}
		})
	}
	calling.Wait()
	close(trades)
	close(reloads)
	changing.Wait()
	r.asked += r.requests
}

// another returns a source of random numbers of its own.
func (r *run) another() *rand.Rand {
	return rand.New(rand.NewPCG(r.random.Uint64(), r.random.Uint64()))
}

// caller makes requests one after the other.
type caller struct {
	*run
	random *rand.Rand
	client http.Client
}

// question is a request, and whose token may come of it.
type question struct {
	way, id string
	request *http.Request
	shop    *shop
	seller  string // as the app is to be told
	// right reports whether an account may be whose the answer is.
	right func(account, from, to int64) bool
	// owed reports whether there was a connection all the time. It is nil where
	// there never is one.
	owed func(from, to int64) bool
	// api says that the sandbox answers in the place of an app; passes, that an
	// app may be called without a token.
	api, passes bool
}

func (c *caller) call(n int64) {
	q := c.ask(n)
	from := c.clock.Add(1)
	response, err := c.client.Do(q.request)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(response.Body)
		response.Body.Close()
	}
	to := c.clock.Add(1)
	if err != nil {
		c.outcomes.add(q.way + ": cut off")
		return
	}
	owed := !c.faulty && q.owed != nil && q.owed(from, to)
	if owed {
		c.outcomes.add(q.way + ": asked while connected")
	}
	switch response.StatusCode {
	case http.StatusOK, http.StatusCreated:
		c.answered(q, string(body), from, to, owed)
	case http.StatusForbidden:
		if owed {
			c.wrong(q, "refused, though connected: %.500s", body)
		}
		c.outcomes.add(q.way + ": refused")
	case http.StatusUnauthorized:
		c.outcomes.add(q.way + ": denied by the API")
	case http.StatusServiceUnavailable, http.StatusBadGateway:
		c.outcomes.add(q.way + ": unavailable")
	default:
		c.wrong(q, "status %d: %.300s", response.StatusCode, body)
	}
}

func (c *caller) wrong(q *question, format string, args ...any) {
	c.wrongs.Add(1)
	c.t.Errorf("%s for %q of %s: %s", q.way, q.seller, q.shop.name, fmt.Sprintf(format, args...))
}

// answered judges an answer that was not refused.
func (c *caller) answered(q *question, body string, from, to int64, owed bool) {
	read := c.byApp
	if q.api {
		read = c.byAPI
	}
	account, err := read(q, body)
	switch {
	case err != nil:
		c.wrong(q, "%v: %.500s", err, body)
	case account == 0 && (!q.passes || owed):
		c.wrong(q, "no token reached the upstream: %.500s", body)
	case account == 0:
		c.outcomes.add(q.way + ": without a token")
	case q.owed == nil || !q.right(account, from, to):
		c.wrong(q, "the token of %d reached the upstream: %.500s", account, body)
	case owed:
		c.outcomes.add(q.way + ": right, asked while connected")
	default:
		c.outcomes.add(q.way + ": right")
	}
}

// byApp reads whose token the app got.
func (c *caller) byApp(q *question, body string) (account int64, err error) {
	lines := strings.Split(body, "\n")
	if len(lines) != 6 || lines[0] != q.id {
		return 0, fmt.Errorf("the answer to another request")
	}
	token, isBearer := strings.CutPrefix(lines[1], "Bearer ")
	if isBearer {
		if account, err = c.owner(q.shop, token); err != nil {
			return 0, err
		}
	} else if lines[1] != "" {
		return 0, fmt.Errorf("an Authorization that is not ours")
	}
	user := ""
	if account != 0 && account != q.shop.owner {
		user = strconv.FormatInt(account, 10)
	}
	if lines[2] != q.shop.name || lines[3] != q.seller || lines[4] != user {
		return 0, fmt.Errorf("the app was told of another")
	}
	return account, nil
}

// owner tells whose a token is that the sandbox gave to an application.
func (c *caller) owner(s *shop, token string) (int64, error) {
	account, living := c.sandbox.AccessTokenOf(token)
	if !living {
		c.outcomes.add("tokens that ended on their way")
		account, _ = strconv.ParseInt(token[strings.LastIndexByte(token, '-')+1:], 10, 64)
	}
	if strings.Contains(token, "forged") || token == s.platform {
		return 0, fmt.Errorf("the client's own token")
	}
	if !strings.HasPrefix(token, "APP_USR-"+s.clientID+"-") {
		return 0, fmt.Errorf("a token of another application")
	}
	return account, nil
}

// byAPI reads whom the API took the request for.
func (c *caller) byAPI(q *question, body string) (account int64, err error) {
	var answer struct {
		ID        any    `json:"id"`
		Collector int64  `json:"collector_id"`
		ClientID  string `json:"client_id"`
		Items     []struct {
			Title string `json:"title"`
		} `json:"items"`
		Reference string `json:"external_reference"`
	}
	if err := json.Unmarshal([]byte(body), &answer); err != nil {
		return 0, err
	}
	switch q.request.URL.Path {
	case "/users/me":
		number, _ := answer.ID.(float64)
		return int64(number), nil
	case "/v1/payments":
		if answer.Reference != q.id {
			err = fmt.Errorf("another payment")
		}
	default:
		if answer.ClientID != q.shop.clientID || len(answer.Items) != 1 || answer.Items[0].Title != q.id {
			err = fmt.Errorf("another preference")
		}
	}
	return answer.Collector, err
}

// ways are the ways to ask, each as often as its number says.
var ways = []struct {
	name  string
	often int
	ask   func(*caller, *question)
}{
	{"seller", 36, (*caller).askSeller},
	{"session", 30, (*caller).askSession},
	{"egress", 13, (*caller).askEgress},
	{"pass", 8, (*caller).askPass},
	{"as application", 6, (*caller).askApplication},
	{"nobody", 4, (*caller).askNobody},
	{"foreign session", 3, (*caller).askForeign},
}

func (c *caller) ask(n int64) *question {
	dice, i := c.random.IntN(100), 0
	for ; dice >= ways[i].often; i++ {
		dice -= ways[i].often
	}
	q := &question{way: ways[i].name, id: strconv.FormatInt(n, 10)}
	ways[i].ask(c, q)
	header := q.request.Header
	header.Set("X-Request", q.id)
	// A client's own Authorization: of the platform, which the API would take, or
	// of nobody.
	switch c.random.IntN(3) {
	case 0:
		header["Authorization"] = []string{"Bearer " + q.shop.platform}
	case 1:
		header["Authorization"] = []string{"Bearer forged", "Bearer APP_USR-" + q.shop.clientID + "-forged-1"}
	}
	return q
}

func (c *caller) get(q *question, purpose, path string) {
	q.request, _ = http.NewRequest(http.MethodGet, c.site(purpose, q.shop)+path, nil)
}

// of makes a seller of any application the one that is asked for.
func (c *caller) of(q *question) *party {
	p := c.parties[c.random.IntN(len(c.parties))]
	q.shop, q.seller, q.right, q.owed = p.shop, p.name, p.holds, p.owed
	return p
}

func (c *caller) askSeller(q *question) {
	purpose := "pages"
	if p := c.of(q); p.shop.sessions {
		purpose = "named"
	}
	c.get(q, purpose, c.path())
	q.request.Header.Set("X-User", q.seller)
}

func (c *caller) askPass(q *question) {
	c.of(q)
	q.passes = true
	c.get(q, "pass", "/")
	q.request.Header.Set("X-User", q.seller)
}

func (c *caller) askEgress(q *question) {
	c.of(q)
	q.api = true
	switch c.random.IntN(3) {
	case 0:
		c.get(q, "egress", "/users/me?access_token="+q.shop.platform)
	case 1:
		c.post(q, "/v1/payments", `{"transaction_amount":10,"payment_method_id":"visa","external_reference":"`+q.id+`"}`)
	case 2:
		c.post(q, "/checkout/preferences", `{"items":[{"title":"`+q.id+`","unit_price":10,"quantity":1}]}`)
	}
	q.request.Header.Set("X-User", q.seller)
}

func (c *caller) post(q *question, path, body string) {
	q.request, _ = http.NewRequest(http.MethodPost, c.site("egress", q.shop)+path, strings.NewReader(body))
	q.request.Header.Set("Content-Type", "application/json")
	if c.random.IntN(2) == 0 {
		q.request.Header.Set("X-Idempotency-Key", q.id)
	}
}

// askSession asks with a session: of the connection that stands, or of one that
// ended.
func (c *caller) askSession(q *question) {
	p, s := c.session()
	q.shop, q.seller = p.shop, p.name
	q.right = func(account, from, to int64) bool {
		return account == s.of.account && p.during(s.of, from)
	}
	q.owed = func(from, to int64) bool { return p.owed(from, to) && p.during(s.of, to) }
	c.get(q, "pages", c.path())
	q.request.Header.Set("Cookie", s.cookie)
}

// path is one that goes on to the app, or ends in Caddy.
func (c *caller) path() string {
	if c.random.IntN(5) == 0 {
		return "/orders"
	}
	return "/"
}

func (c *caller) session() (*party, session) {
	for {
		p := c.parties[c.random.IntN(len(c.parties))]
		if s, ok := p.aSession(c.random); ok {
			return p, s
		}
	}
}

// askForeign asks with a session of another application.
func (c *caller) askForeign(q *question) {
	p, s := c.session()
	for q.shop == nil || q.shop == p.shop {
		q.shop = c.shops[c.random.IntN(len(c.shops))]
	}
	c.get(q, "pages", "/orders")
	q.request.Header.Set("Cookie", s.cookie)
}

func (c *caller) askNobody(q *question) {
	q.shop = c.shops[c.random.IntN(len(c.shops))]
	purpose := []string{"pages", "pass", "egress"}[c.random.IntN(3)]
	q.passes = purpose == "pass"
	c.get(q, purpose, "/users/me")
}

func (c *caller) askApplication(q *question) {
	q.shop = c.shops[c.random.IntN(len(c.shops))]
	q.right = func(account, _, _ int64) bool { return account == q.shop.owner }
	q.owed = func(_, _ int64) bool { return true }
	c.get(q, "own", "/")
}

// missing returns what makes this hard and did not happen, or not often enough.
func (r *run) missing(before sandbox.Stats) (names []string) {
	after := r.sandbox.Stats()
	tokens := func(grant string) int64 {
		return int64(after.TokenRequests[grant]["ok"] - before.TokenRequests[grant]["ok"])
	}
	for name, count := range map[string][2]int64{
		"reloads":                                {r.changes.of("reloads"), 3},
		"reloads that failed":                    {r.changes.of("reloads that failed"), 1},
		"connects":                               {r.changes.of("connects"), 5},
		"disconnects":                            {r.changes.of("disconnects"), 5},
		"reconnects to the same account":         {r.changes.of("reconnects to the same account"), 5},
		"reconnects to another account":          {r.changes.of("reconnects to another account"), 5},
		"token requests with refresh_token":      {tokens("refresh_token"), 100},
		"token requests with client_credentials": {tokens("client_credentials"), 4},
	} {
		if count[0] < count[1] {
			names = append(names, name)
		}
	}
	for _, name := range []string{
		"seller: asked while connected", "session: asked while connected", "egress: asked while connected",
		"pass: asked while connected", "as application: asked while connected",
		"seller: refused", "session: refused", "egress: refused", "pass: without a token",
		"nobody: refused", "nobody: without a token", "foreign session: refused", "seller: right",
	} {
		if r.outcomes.of(name) == 0 {
			names = append(names, name)
		}
	}
	return names
}

// mostWereRight requires that most sellers who were connected got what they asked
// for.
func (r *run) mostWereRight() {
	for _, way := range []string{"seller", "session", "egress", "pass", "as application"} {
		asked := r.outcomes.of(way + ": asked while connected")
		require.GreaterOrEqual(r.t, r.outcomes.of(way+": right, asked while connected"), asked*9/10, way)
	}
}

// tally counts by name.
type tally struct {
	mu     sync.Mutex
	counts map[string]int64
}

func (t *tally) add(name string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.counts == nil {
		t.counts = make(map[string]int64)
	}
	t.counts[name]++
}

func (t *tally) of(name string) int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.counts[name]
}

// String is a line for each name.
func (t *tally) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines strings.Builder
	for _, name := range slices.Sorted(maps.Keys(t.counts)) {
		fmt.Fprintf(&lines, "%9d %s\n", t.counts[name], name)
	}
	return lines.String()
}
