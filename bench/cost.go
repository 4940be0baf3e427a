package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// costSites are one Caddy that stands in front of one app in all the ways that are
// compared. Of each two that are held against each other the request is the same,
// byte for byte, and so is what the app receives, but for the token.
const costSites = `{
	admin $ADMIN
	auto_https off
	storage file_system $STORAGE
	mercadopago {
		client_id {env.MP_CLIENT_ID}
		client_secret {env.MP_CLIENT_SECRET}
		redirect_uri $SESSION/connect/callback
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

$STATIC_1 {
	import app header_up Authorization "Bearer $TOKEN"
}

$STATIC_2 {
	import app header_up Authorization "Bearer $TOKEN"
}

$SELLER {
	mercadopago {
		seller {http.request.header.X-Seller}
	}
	import app
}

$SESSION {
	mercadopago
	import app
}

$APPLICATION {
	mercadopago {
		as_application
	}
	import app
}

$EGRESS {
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
	}
	import app
}
`

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

// costWorld is what stands while requests are measured.
type costWorld struct {
	*server
	app     *process
	values  map[string]string
	close   func()
	headers [2][]string // by a seller's name, and by a session
}

func (b *bench) costWorld(ctx context.Context) (*costWorld, error) {
	w := &costWorld{values: map[string]string{"STORAGE": b.dir + "/cost", "TOKEN": token}}
	for _, name := range []string{"ADMIN", "APP", "STATIC_1", "STATIC_2", "SELLER", "SESSION", "APPLICATION", "EGRESS"} {
		address, err := newAddress()
		if err != nil {
			return nil, err
		}
		w.values[name] = address
		if name != "ADMIN" && name != "APP" {
			w.values[name] = "http://" + address
		}
	}
	provider := sandbox.New(sandbox.Options{AcceptAny: true})
	mercadoPago := httptest.NewServer(provider)
	w.values["PROVIDER"] = mercadoPago.URL
	var err error
	if w.app, err = start(ctx, b.dir, w.values["APP"], b.self, []string{"upstream", "--listen", w.values["APP"]}); err == nil {
		w.server, err = b.startCaddy(ctx, []string{b.binary}, costSites, w.values, host(w.values["EGRESS"]))
	}
	w.close = func() {
		mercadoPago.Close()
		for _, p := range []*process{w.app, w.server.process} {
			p.stop()
		}
	}
	if err != nil {
		return nil, err
	}
	seller := sandbox.DefaultAccounts()[0].UserID
	visitor, err := newBrowser(w.values["SESSION"], provider, http.DefaultTransport)
	if err == nil {
		err = visitor.connect(seller)
	}
	if err != nil {
		return nil, err
	}
	home, _ := http.NewRequest(http.MethodGet, w.values["SESSION"], nil)
	cookie, err := visitor.session(home)
	if err != nil {
		return nil, err
	}
	common := []string{
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", "Accept: application/json",
		"Accept-Language: es-AR,es;q=0.8,en;q=0.5", "Accept-Encoding: gzip, br",
	}
	w.headers[0] = append(slices.Clone(common), "X-Seller: "+strconv.FormatInt(seller, 10))
	w.headers[1] = append(slices.Clone(common), "Cookie: theme=dark; "+cookie)
	return w, nil
}

func host(address string) string { return strings.TrimPrefix(address, "http://") }

func (w *costWorld) load(site string, cookie bool, connections int) load {
	headers := w.headers[0]
	if cookie {
		headers = w.headers[1]
	}
	return load{
		url: w.values[site] + "/orders?page=2", headers: headers, connections: connections, pid: w.Process.Pid, status: http.StatusOK,
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

// costRound measures a mode and two identical baselines right after each other, in
// any order: what disturbs the machine disturbs all three.
func (b *bench) costRound(ctx context.Context, w *costWorld, m *Mode, connections int) error {
	var round costRound
	three := []struct {
		site string
		into *loaded
	}{{"STATIC_1", &round.first}, {"STATIC_2", &round.second}, {m.site, &round.mode}}
	for _, i := range shuffled(3) {
		l := w.load(three[i].site, m.cookie, connections)
		l.warmUp, l.length = b.costLength/5, b.costLength
		got, err := b.send(ctx, l)
		if err != nil {
			return err
		}
		*three[i].into = got
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
		l := w.load(site, cookie, 1)
		l.pick, l.once = b.allocationRequests, true
		before, err := w.memory(false)
		if err != nil {
			return 0, err
		}
		got, err := b.send(ctx, l)
		if err != nil {
			return 0, err
		}
		after, err := w.memory(false)
		return float64(after.Mallocs-before.Mallocs) / float64(got.Requests), err
	}
	for _, m := range costModes() {
		static, err := count("STATIC_1", m.cookie)
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
