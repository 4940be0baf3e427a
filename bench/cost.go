package main

import (
	"context"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// costGlobal begins the configuration of a Caddy that stands in front of one app in
// all the ways that are compared. Of each two that are held against each other the
// request is the same, byte for byte, and so is what the app receives, but for the
// token.
const costGlobal = `{
	admin $ADMIN
	auto_https off
	storage file_system $STORAGE
	mercadopago {
		client_id {env.MP_CLIENT_ID}
		client_secret {env.MP_CLIENT_SECRET}
		redirect_uri $SHOP/connect/callback
		encryption_key {env.MP_ENCRYPTION_KEY}
		endpoints {
			authorize $PROVIDER/authorization
			api $PROVIDER
		}
	}
}

(app) {
	reverse_proxy $APP {
		{args[:]}
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}
}
`

// costWays are the ways: a static header, which is what the others are held against,
// and each mode.
var costWays = []string{
	`$STATIC {
	import app header_up Authorization "Bearer $TOKEN"
}`,
	`$SELLER {
	mercadopago {
		seller {http.request.header.X-Seller}
	}
	import app
}`,
	`$SESSION {
	mercadopago
	import app
}`,
	`$APPLICATION {
	mercadopago {
		as_application
	}
	import app
}`,
	`$EGRESS {
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
	}
	import app
}`,
}

// token is as long as those that are injected.
var token = "APP_USR-" + clientID + "-112210-" + strings.Repeat("0123456789abcdef", 2) + "-5411000101"

// Mode is one way to use the plugin, and what was measured of it.
type Mode struct {
	Name   string
	Target float64 // 0 is none
	site   string
	cookie bool // the request carries a session instead of a seller's name

	rounds []costRound
}

// costRound is a mode beside the two identical baselines of its round.
type costRound struct{ first, second, mode loaded }

// cost is what a request costs, on so many connections.
type Cost struct {
	Connections int
	Rounds      int
	Modes       []*Mode
	Floor       [2]spread // CPU microseconds and requests a second of the baseline
}

// Label says how many connections there were.
func (c *Cost) Label() string {
	return plural(c.Connections, "connection")
}

func costModes() []*Mode {
	return []*Mode{
		{Name: "seller mode", Target: 1.02, site: "SELLER"},
		{Name: "session mode", Target: 1.05, site: "SESSION", cookie: true},
		{Name: "application token", site: "APPLICATION"},
		{Name: "egress, 401 recovery armed", Target: 1.02, site: "EGRESS"},
	}
}

// costWorld is what stands while requests are measured: three Caddys with one
// configuration, which take turns at being the baselines and the mode. What one of
// them has by chance, a heap of another size say, favours none.
type costWorld struct {
	servers  [3]*costServer
	app      *process
	provider *httptest.Server
	headers  [2][]string // by a seller's name, and by a session
}

// costServer is one of them, with the address of each of its sites.
type costServer struct {
	*server
	sites map[string]string
}

func (b *bench) costWorld(ctx context.Context) (w *costWorld, err error) {
	provider := sandbox.New(sandbox.Options{AcceptAny: true})
	w = &costWorld{provider: httptest.NewServer(provider)}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	app, err := newAddress()
	if err != nil {
		return w, err
	}
	if w.app, err = start(ctx, b.dir, app, b.self, []string{"upstream", "--listen", app}); err != nil {
		return w, err
	}
	values := map[string]string{"STORAGE": b.dir + "/cost", "TOKEN": token, "APP": app, "PROVIDER": w.provider.URL}
	for i := range w.servers {
		if w.servers[i], err = b.costServer(ctx, values); err != nil {
			return w, err
		}
	}
	seller := sandbox.DefaultAccounts()[0].UserID
	cookie, err := sessionOf(values["SHOP"], provider, seller)
	if err != nil {
		return w, err
	}
	common := []string{
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Accept: application/json",
		"Accept-Language: es-AR,es;q=0.8,en;q=0.5", "Accept-Encoding: gzip, br",
	}
	w.headers[0] = append(slices.Clone(common), "X-Seller: "+strconv.FormatInt(seller, 10))
	w.headers[1] = append(slices.Clone(common), "Cookie: theme=dark; "+cookie)
	return w, nil
}

// costServer starts one more Caddy of a world, with its sites in an order of its own:
// which comes first is no merit. Sellers come back from the provider to the first.
func (b *bench) costServer(ctx context.Context, world map[string]string) (*costServer, error) {
	values := make(map[string]string)
	for _, name := range []string{"ADMIN", "STATIC", "SELLER", "SESSION", "APPLICATION", "EGRESS"} {
		address, err := newAddress()
		if err != nil {
			return nil, err
		}
		values[name] = address
		if name != "ADMIN" {
			values[name] = "http://" + address
		}
	}
	if world["SHOP"] == "" {
		world["SHOP"] = values["SESSION"]
	}
	maps.Copy(values, world)
	sites := []string{costGlobal}
	for _, i := range shuffled(len(costWays)) {
		sites = append(sites, costWays[i])
	}
	s, err := b.startCaddy(ctx, []string{b.binary}, strings.Join(sites, "\n"), values, host(values["EGRESS"]))
	return &costServer{s, values}, err
}

// sessionOf connects a seller as a browser does, and returns the browser's cookie.
func sessionOf(shop string, provider *sandbox.Sandbox, seller int64) (string, error) {
	visitor, err := newBrowser(shop, provider, http.DefaultTransport)
	if err != nil {
		return "", err
	}
	if err := visitor.connect(seller); err != nil {
		return "", err
	}
	home, err := http.NewRequest(http.MethodGet, shop, nil)
	if err != nil {
		return "", err
	}
	return visitor.session(home)
}

func (w *costWorld) close() {
	w.provider.Close()
	if w.app != nil {
		w.app.stop()
	}
	for _, s := range w.servers {
		if s != nil && s.server != nil {
			s.stop()
		}
	}
}

func host(address string) string { return strings.TrimPrefix(address, "http://") }

// load is requests for a site of one of the three.
func (w *costWorld) load(server *costServer, site string, cookie bool, connections int) load {
	headers := w.headers[0]
	if cookie {
		headers = w.headers[1]
	}
	return load{
		url: server.sites[site] + "/orders?page=2", headers: headers, connections: connections, pid: server.Process.Pid, status: http.StatusOK,
	}
}

// cost measures what a request costs.
func (b *bench) cost(ctx context.Context, r *Report) error {
	w, err := b.costWorld(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	for _, connections := range []int{64, 1} {
		c := &Cost{Connections: connections, Rounds: b.costRounds, Modes: costModes()}
		for round := range b.costRounds {
			b.say("cost of a request, %s: round %d of %d", c.Label(), round+1, b.costRounds)
			for _, i := range shuffled(len(c.Modes)) {
				if err := b.costRound(ctx, w, c.Modes[i], connections); err != nil {
					return err
				}
			}
		}
		c.Floor = [2]spread{
			spreadOf(each(c.Modes[0].rounds, func(r costRound) float64 { return r.first.cpuPerRequest() / 1e3 })),
			spreadOf(each(c.Modes[0].rounds, func(r costRound) float64 { return r.first.perSecond() })),
		}
		r.Costs = append(r.Costs, c)
	}
	r.Allocations, err = b.allocations(ctx, w)
	return err
}

// costRound measures a mode and two identical baselines at the same time: what
// disturbs the machine disturbs all three. It does so three times, so that each of
// the three processes is each of them once, and none favours one.
func (b *bench) costRound(ctx context.Context, w *costWorld, m *Mode, connections int) error {
	var round costRound
	who := shuffled(len(w.servers))
	for range w.servers {
		var loads [len(w.servers)]load
		turn := shuffled(len(w.servers)) // who is started first ends first
		for i, site := range []string{"STATIC", "STATIC", m.site} {
			l := w.load(w.servers[who[i]], site, m.cookie, connections)
			l.warmUp, l.length = b.costLength/4, b.costLength
			loads[turn[i]] = l
		}
		got, err := b.together(ctx, loads[:])
		if err != nil {
			return err
		}
		round.first.add(got[turn[0]])
		round.second.add(got[turn[1]])
		round.mode.add(got[turn[2]])
		who = append(who[1:], who[0])
	}
	m.rounds = append(m.rounds, round)
	return nil
}

// CPU is the CPU time of a request, as a part of the baseline's.
func (m *Mode) CPU() spread {
	return spreadOf(each(m.rounds, func(r costRound) float64 {
		return r.mode.cpuPerRequest() / middle(r.first.cpuPerRequest(), r.second.cpuPerRequest())
	}))
}

// AA is that of one baseline, as a part of the other's.
func (m *Mode) AA() spread {
	return spreadOf(each(m.rounds, func(r costRound) float64 { return r.second.cpuPerRequest() / r.first.cpuPerRequest() }))
}

// Rate, P50 and P99 are as parts of the baseline's too.
func (m *Mode) Rate() spread { return m.part(loaded.perSecond) }

// P50 is the median latency.
func (m *Mode) P50() spread { return m.part(func(l loaded) float64 { return float64(l.P50) }) }

// P99 is the latency of the slowest hundredth.
func (m *Mode) P99() spread { return m.part(func(l loaded) float64 { return float64(l.P99) }) }

func (m *Mode) part(of func(loaded) float64) spread {
	return spreadOf(each(m.rounds, func(r costRound) float64 { return of(r.mode) / middle(of(r.first), of(r.second)) }))
}

func middle(a, b float64) float64 { return (a + b) / 2 }

// Allocations is what requests allocate.
type Allocations struct {
	Name            string
	Static, Request float64
}

// allocations counts them by the runtime's own count, before and after.
func (b *bench) allocations(ctx context.Context, w *costWorld) ([]Allocations, error) {
	var all []Allocations
	count := func(site string, cookie bool) (float64, error) {
		server := w.servers[0]
		l := w.load(server, site, cookie, 1)
		l.pick, l.once = b.allocationRequests, true
		before, err := server.memory(false)
		if err != nil {
			return 0, err
		}
		got, err := b.send(ctx, l)
		if err != nil {
			return 0, err
		}
		after, err := server.memory(false)
		return float64(after.Mallocs-before.Mallocs) / float64(got.Requests), err
	}
	for _, m := range costModes() {
		static, err := count("STATIC", m.cookie)
		if err != nil {
			return nil, err
		}
		request, err := count(m.site, m.cookie)
		if err != nil {
			return nil, err
		}
		all = append(all, Allocations{m.Name, static, request})
	}
	return all, nil
}

// More is what the plugin adds.
func (a Allocations) More() float64 { return a.Request - a.Static }
