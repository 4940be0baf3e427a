package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// storeSites are one Caddy whose sellers lie in a store, and who is only read.
const storeSites = `{
	admin $ADMIN
	auto_https off
	$STORAGE
	mercadopago {
		client_id {env.MP_CLIENT_ID}
		client_secret {env.MP_CLIENT_SECRET}
		redirect_uri http://127.0.0.1/connect/callback
		encryption_key {env.MP_ENCRYPTION_KEY}
		endpoints {
			authorize $PROVIDER/authorization
			api $PROVIDER
		}
		$STORE
		renewal {
			walk_rate $WALK
		}
	}
}

$SITE {
	mercadopago {
		seller {http.request.header.X-Seller}
	}
	respond ok
}
`

// plainSites are the same Caddy without the plugin.
const plainSites = `{
	admin $ADMIN
	auto_https off
	$STORAGE
}

$SITE {
	respond ok
}
`

// Store is what was measured of one store.
type Store struct {
	Name    string
	Sellers int
	lines   [2]string // of the Caddyfile: storage, and store
	// provider is nobody where it is not set: nothing is due, and nobody asks.
	provider string
	rounds   []storeRound
	Storm    Storm
	Walk     Walk
}

// storeRound is one start of a process.
type storeRound struct {
	plain, started           time.Duration // until the first request is served
	plainMemory, startMemory float64       // resident then
	cold, warm               loaded
}

// Storm is very many callers at once.
type Storm struct {
	Callers    int
	Cold, Warm loaded
}

// Walk is what going through the store costs.
type Walk struct {
	PerAccount float64 // CPU microseconds
	Share      float64 // of a core, at the default pace
}

const (
	defaultWalkRate  = 600
	measuredWalkRate = 6000
)

// Started is how long it takes until the first seller is served, in milliseconds.
func (s *Store) Started() spread {
	return spreadOf(each(s.rounds, func(r storeRound) float64 { return float64(r.started) / 1e6 }))
}

// Plain is the same of a Caddy without the plugin.
func (s *Store) Plain() spread {
	return spreadOf(each(s.rounds, func(r storeRound) float64 { return float64(r.plain) / 1e6 }))
}

// Memory is what the process has in use then, and PlainMemory without the plugin.
func (s *Store) Memory() float64 {
	return spreadOf(each(s.rounds, func(r storeRound) float64 { return r.startMemory })).Value
}

// PlainMemory is that of a Caddy without the plugin.
func (s *Store) PlainMemory() float64 {
	return spreadOf(each(s.rounds, func(r storeRound) float64 { return r.plainMemory })).Value
}

// Latency is that of cold or warm sellers, p50 or p99, in milliseconds.
func (s *Store) Latency(cold bool, of string) spread {
	return spreadOf(each(s.rounds, func(r storeRound) float64 {
		l := r.warm
		if cold {
			l = r.cold
		}
		if of == "p99" {
			return float64(l.P99) / 1e6
		}
		return float64(l.P50) / 1e6
	}))
}

// stores measures a store with very many sellers.
func (b *bench) stores(ctx context.Context, r *Report) error {
	files := &Store{Name: "files", Sellers: b.onFiles}
	folder := filepath.Join(b.dir, "files")
	files.lines = [2]string{"storage file_system " + folder}
	b.say("filling a folder with %s sellers", count(files.Sellers))
	if err := fillFiles(ctx, folder, files.Sellers); err != nil {
		return err
	}
	var err error
	if r.FolderSize, err = folderSize(folder, files.Sellers); err != nil {
		return err
	}
	server, err := postgrestest.Launch("fsync=on", "max_connections=200", "max_wal_size=4GB")
	if err != nil {
		return err
	}
	defer server.Close()
	r.Machine.PostgreSQL = server.Version()
	database := &Store{Name: "PostgreSQL", Sellers: b.onPostgres}
	database.lines = [2]string{"storage file_system " + filepath.Join(b.dir, "beside"), "store postgres " + server.DSN()}
	b.say("filling PostgreSQL with %s sellers", count(database.Sellers))
	if err := fillPostgres(ctx, server.DSN(), database.Sellers, time.Now()); err != nil {
		return err
	}
	if r.Tables, err = tables(ctx, server.DSN(), database.Sellers); err != nil {
		return err
	}
	r.Stores = []*Store{files, database}
	for round := range b.storeRounds {
		b.say("stores: round %d of %d", round+1, b.storeRounds)
		for _, s := range r.Stores {
			if err := b.storeRound(ctx, s); err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
		}
	}
	for _, s := range r.Stores {
		b.say("%s: a storm of cold sellers, and the walk", s.Name)
		if err := b.storm(ctx, s); err != nil {
			return err
		}
		if err := b.walk(ctx, s); err != nil {
			return err
		}
	}
	return b.refreshes(ctx, r)
}

// storeServer is a Caddy on a store, from the moment it was started.
type storeServer struct {
	*server
	url     string
	started time.Duration // until it served the first request
}

func (b *bench) storeServer(ctx context.Context, s *Store, sites string, walk int) (*storeServer, error) {
	admin, err := newAddress()
	if err != nil {
		return nil, err
	}
	site, err := newAddress()
	if err != nil {
		return nil, err
	}
	values := map[string]string{
		"ADMIN": admin, "SITE": "http://" + site, "STORAGE": s.lines[0], "STORE": s.lines[1],
		"PROVIDER": cmp.Or(s.provider, "http://127.0.0.1:9"), "WALK": fmt.Sprint(walk),
	}
	begun := time.Now()
	c, err := b.startCaddy(ctx, []string{b.binary}, sites, values, site)
	if err != nil {
		return nil, err
	}
	first := load{url: values["SITE"], headers: []string{"X-Seller: " + sellerName(int64(s.Sellers))}, connections: 1, once: true, status: http.StatusOK}
	got, err := first.run()
	started := time.Since(begun)
	if err == nil && got.Wrong > 0 {
		err = fmt.Errorf("the first request was not served:\n%s", c.log)
	}
	if err != nil {
		c.stop()
		return nil, err
	}
	return &storeServer{c, values["SITE"], started}, nil
}

// asked is one request for each of some sellers, who lie evenly among all.
func (c *storeServer) asked(s *Store, sellers, connections int) load {
	return load{
		url: c.url, headers: []string{"X-Seller: shop-{n}"}, connections: connections, pick: sellers, among: s.Sellers,
		once: true, pid: c.Process.Pid, status: http.StatusOK,
	}
}

func (b *bench) storeRound(ctx context.Context, s *Store) error {
	var round storeRound
	plain, err := b.storeServer(ctx, s, plainSites, defaultWalkRate)
	if err != nil {
		return err
	}
	memory, err := resident(plain.Process.Pid)
	plain.stop()
	if err != nil {
		return err
	}
	round.plain, round.plainMemory = plain.started, float64(memory)
	c, err := b.storeServer(ctx, s, storeSites, defaultWalkRate)
	if err != nil {
		return err
	}
	defer c.stop()
	if memory, err = resident(c.Process.Pid); err != nil {
		return err
	}
	round.started, round.startMemory = c.started, float64(memory)
	for _, into := range []*loaded{&round.cold, &round.warm} {
		if *into, err = b.send(ctx, c.asked(s, b.coldSellers, 1)); err != nil {
			return err
		}
	}
	s.rounds = append(s.rounds, round)
	return nil
}

// storm has as many callers as sellers, all at once, each for another one.
func (b *bench) storm(ctx context.Context, s *Store) error {
	c, err := b.storeServer(ctx, s, storeSites, defaultWalkRate)
	if err != nil {
		return err
	}
	defer c.stop()
	s.Storm.Callers = b.callers
	for _, into := range []*loaded{&s.Storm.Cold, &s.Storm.Warm} {
		if *into, err = b.send(ctx, c.asked(s, b.callers, b.callers)); err != nil {
			return err
		}
	}
	return nil
}

// walk measures a process that nobody asks, and that goes through its store ten
// times as fast as it does by itself, beside one without the plugin.
func (b *bench) walk(ctx context.Context, s *Store) error {
	idle := func(sites string) (time.Duration, error) {
		c, err := b.storeServer(ctx, s, sites, measuredWalkRate)
		if err != nil {
			return 0, err
		}
		defer c.stop()
		select {
		case <-time.After(2 * time.Second): // what a process does once is done
		case <-ctx.Done():
			return 0, ctx.Err()
		}
		before := cpuTime(c.Process.Pid)
		select {
		case <-time.After(b.walkLength):
			return cpuTime(c.Process.Pid) - before, nil
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	plain, err := idle(plainSites)
	if err != nil {
		return err
	}
	walking, err := idle(storeSites)
	accounts := b.walkLength.Minutes() * measuredWalkRate
	s.Walk.PerAccount = float64(walking-plain) / 1e3 / accounts
	s.Walk.Share = s.Walk.PerAccount * defaultWalkRate / 60 / 1e6
	return err
}
