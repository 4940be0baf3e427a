package main

import (
	"context"
	"net/http"
	"strconv"
	"time"
)

// growSites are one Caddy that has a crowd of sellers in memory.
const growSites = `{
	admin $ADMIN
	auto_https off
	storage file_system $STORAGE
	mercadopago {
		client_id {env.MP_CLIENT_ID}
		client_secret {env.MP_CLIENT_SECRET}
		redirect_uri http://127.0.0.1/connect/callback
		encryption_key {env.MP_ENCRYPTION_KEY}
		store crowd
		cache_size 2000000
	}
}

$SELLER {
	mercadopago {
		seller {http.request.header.X-Seller}
	}
	respond /warm ok
	reverse_proxy $APP {
		transport http {
			keepalive_idle_conns_per_host 256
		}
	}
}
`

// Growth is a process that has so many sellers in memory.
type Growth struct {
	Sellers int
	// Heap is what it uses after a garbage collection, and Resident what the system
	// has given it.
	Heap, Resident float64
	// PerSeller is what a seller more than none takes who was just asked for, and
	// PerDormant one whom nobody asked for in a while.
	PerSeller, PerDormant float64

	server *server
	empty  memory // of the process when it had one seller
	url    string
	rounds []growthRound
}

// growthRound is a process beside those with one seller.
type growthRound struct{ crowded, single loaded }

func (r growthRound) part() float64 { return r.crowded.cpuPerRequest() / r.single.cpuPerRequest() }

// CPU is the CPU time of a request, as a part of that with one seller: of all rounds
// together, for a collection of garbage falls into few of them when there are many
// sellers.
func (g *Growth) CPU() spread {
	s := spreadOf(each(g.rounds, growthRound.part))
	var all growthRound
	for _, r := range g.rounds {
		all.crowded.add(r.crowded)
		all.single.add(r.single)
	}
	s.Value = all.part()
	return s
}

// growth measures the same request with more and more sellers in memory. The first
// two processes have one seller each: the second is held against the first to see
// what is noise.
func (b *bench) growth(ctx context.Context, r *Report) error {
	app, err := newAddress()
	if err != nil {
		return err
	}
	upstream, err := start(ctx, b.dir, app, b.self, []string{"upstream", "--listen", app})
	if err != nil {
		return err
	}
	defer upstream.stop()
	var all []*Growth
	for _, n := range append([]int{1, 1}, b.sellers...) {
		b.say("%s in memory", plural(n, "seller"))
		g, err := b.grow(ctx, app, n)
		if err != nil {
			return err
		}
		defer g.server.stop()
		all = append(all, g)
	}
	if err := b.settle(ctx, all); err != nil {
		return err
	}
	for round := range b.growthRounds {
		b.say("sellers in memory: round %d of %d", round+1, b.growthRounds)
		for _, i := range shuffled(len(all) - 2) {
			if err := b.growRound(ctx, all[0], all[1], all[2+i]); err != nil {
				return err
			}
		}
	}
	r.Growth, r.Settling = append(all[:1], all[2:]...), b.settling
	return nil
}

// growRound measures a process beside the two with one seller, at the same time.
func (b *bench) growRound(ctx context.Context, first, second, crowded *Growth) error {
	three := []*Growth{first, second, crowded}
	loads := make([]load, len(three))
	for i, g := range three {
		loads[i] = g.load(b.growthLength)
	}
	got, err := b.together(ctx, loads)
	if err != nil {
		return err
	}
	single := got[0]
	first.rounds = append(first.rounds, growthRound{got[1], single})
	single.add(got[1])
	crowded.rounds = append(crowded.rounds, growthRound{got[2], single})
	return nil
}

// grow starts a Caddy and has each of the sellers ask once.
func (b *bench) grow(ctx context.Context, app string, n int) (*Growth, error) {
	admin, err := newAddress()
	if err != nil {
		return nil, err
	}
	site, err := newAddress()
	if err != nil {
		return nil, err
	}
	values := map[string]string{"ADMIN": admin, "SELLER": "http://" + site, "APP": app, "STORAGE": b.dir + "/grow-" + strconv.Itoa(n)}
	g := &Growth{Sellers: n, url: values["SELLER"]}
	if g.server, err = b.startCaddy(ctx, []string{b.self, "caddy"}, growSites, values, site); err != nil {
		return nil, err
	}
	// All that a process needs whoever asks is there before the first seller that
	// is counted.
	warm := load{url: g.url + "/warm", headers: []string{"X-Seller: shop-{n}"}, connections: 64, pick: 1, once: true, status: http.StatusOK}
	for range 2 {
		if _, err := b.send(ctx, warm); err != nil {
			return nil, err
		}
	}
	if g.empty, err = g.server.memory(true); err != nil {
		return nil, err
	}
	if warm.pick = n; n > 1 {
		if _, err := b.send(ctx, warm); err != nil {
			return nil, err
		}
	}
	g.PerSeller, err = g.measure()
	return g, err
}

// measure notes what memory is in use, and returns what a seller more than none takes.
func (g *Growth) measure() (float64, error) {
	m, err := g.server.memory(true)
	g.Heap, g.Resident = float64(m.HeapAlloc), float64(m.Resident)
	return (g.Heap - float64(g.empty.HeapAlloc)) / float64(max(g.Sellers-1, 1)), err
}

// settle waits until those sellers are dormant who are not among the thousand that go
// on asking.
func (b *bench) settle(ctx context.Context, all []*Growth) error {
	b.say("%s, in which at most a thousand go on asking", b.settling)
	for begun := time.Now(); time.Since(begun) < b.settling; {
		for _, g := range all {
			if _, err := b.send(ctx, g.load(100*time.Millisecond)); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(2 * time.Second):
		}
	}
	for _, g := range all {
		var err error
		if g.PerDormant, err = g.measure(); err != nil {
			return err
		}
	}
	return nil
}

// load is requests for at most a thousand of the sellers, who lie evenly among all.
func (g *Growth) load(length time.Duration) load {
	return load{
		url: g.url + "/orders?page=2", headers: []string{"User-Agent: bench", "Accept: application/json", "X-Seller: shop-{n}"},
		connections: 64, pick: min(g.Sellers, 1000), among: g.Sellers, pid: g.server.Process.Pid, status: http.StatusOK,
		warmUp: length / 8, length: length,
	}
}

// Label names the process in a plot.
func (g *Growth) Label() string {
	return plural(g.Sellers, "seller")
}
