package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// random is a source of chance that can be had again by its seed.
type random struct {
	mu sync.Mutex
	r  *rand.Rand
}

func newRandom(seed uint64) *random { return &random{r: rand.New(rand.NewPCG(seed, 0))} }

func (r *random) n(n int) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.r.IntN(n)
}

func (r *random) upTo(d time.Duration) time.Duration { return time.Duration(r.n(int(d))) }

// The two applications of the platform under siege: sellers that the shop names,
// and sellers that their sessions name. Both addresses are those of a load
// balancer: which process answers is a matter of chance.
const (
	besiegedShop   = "http://shop.localhost"
	besiegedMarket = "http://market.localhost"
	marketClientID = "4934588586838433"
)

const besieged = `{
	admin $ADMIN
	$STORAGE
	auto_https off
	default_bind 127.0.0.1
	grace_period 1s
	mercadopago {
		client_id {env.MP_CLIENT_ID}
		client_secret {env.MP_CLIENT_SECRET}
		redirect_uri $SHOP/connect/callback
		encryption_key {env.MP_ENCRYPTION_KEY}
		$STORE
		endpoints {
			authorize $PROVIDER/authorization
			api $PROVIDER
		}
		application market {
			client_id $MARKET_CLIENT_ID
			client_secret {env.MP_CLIENT_SECRET}
			redirect_uri $MARKET/connect/callback
			endpoints {
				authorize $PROVIDER/authorization
				api $PROVIDER
			}
		}
	}
}

$SHOP:$PORT {
	mercadopago {
		seller {http.request.header.X-Login}
	}
	reverse_proxy $PROVIDER
}

$MARKET:$PORT {
	mercadopago {
		application market
	}
	reverse_proxy $PROVIDER
}

http://egress.localhost:$PORT {
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
	}
	reverse_proxy $PROVIDER {
		header_up -X-Seller
		header_up -X-Forwarded-*
	}
}

http://egress-market.localhost:$PORT {
	mercadopago {
		application market
		egress
		seller {http.request.header.X-Seller}
	}
	reverse_proxy $PROVIDER {
		header_up -X-Seller
		header_up -X-Forwarded-*
	}
}
`

// replica is a place for one process after the other: a home and an address.
type replica struct {
	*caddy

	name    string
	address string
	lives   int
	running atomic.Bool

	mu   sync.Mutex // held while a life begins, and while one is being reloaded
	life *life

	heard   int                // how much of its log was read
	retried map[eventOf]string // after an unknown outcome, and nothing came of it yet
}

// eventOf is the account that a line of a log is about.
type eventOf struct {
	Application string `json:"application"`
	UserID      int64  `json:"user_id"`
}

// fleet is processes on one store, in front of one provider.
type fleet struct {
	t      *testing.T
	book   *book
	random *random
	place  *place

	replicas []*replica
	closing  sync.WaitGroup // of the fronts of lives that are over

	unknown, alarms map[string]int // what the logs tell of unknown outcomes, and of alarms
}

func newFleet(t *testing.T, book *book, random *random, place *place, most int) *fleet {
	t.Helper()
	f := &fleet{t: t, book: book, random: random, place: place, unknown: make(map[string]int), alarms: make(map[string]int)}
	t.Cleanup(f.closing.Wait)
	for i := range most {
		home := t.TempDir()
		p := &platform{values: map[string]string{}}
		r := &replica{name: string(rune('A' + i)), address: newAddress(t), caddy: &caddy{
			t: t, home: home, config: filepath.Join(home, "Caddyfile"), admin: newAddress(t), log: new(transcript),
			env: slices.Concat(environment(home), p.secrets(), place.env),
		}}
		t.Cleanup(func() {
			if r.running.Load() {
				f.end(r)
			}
		})
		f.replicas = append(f.replicas, r)
	}
	return f
}

// caddyfile is the same for every process but for where it is reached, and for
// where it reaches the provider.
func (f *fleet) caddyfile(r *replica) string {
	_, port, err := net.SplitHostPort(r.address)
	require.NoError(f.t, err)
	values := map[string]string{
		"ADMIN": r.admin, "STORAGE": f.place.storage, "STORE": f.place.store, "PORT": port, "PROVIDER": r.life.front.URL,
		"SHOP": besiegedShop, "MARKET": besiegedMarket, "MARKET_CLIENT_ID": marketClientID,
	}
	return os.Expand(besieged, func(name string) string { return values[name] })
}

// begin starts a process, and waits for nothing.
func (f *fleet) begin(r *replica) {
	f.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lives++
	r.life = f.book.open(fmt.Sprintf("%s%d", r.name, r.lives))
	r.log, r.heard, r.retried = new(transcript), 0, make(map[eventOf]string)
	r.write(f.caddyfile(r))
	r.launch()
	r.running.Store(true)
}

// end kills a process, and reads what it had to say.
func (f *fleet) end(r *replica) {
	f.t.Helper()
	r.running.Store(false)
	killed := time.Now()
	select {
	case <-r.ended:
		f.t.Errorf("process %s ended by itself:\n%s", r.life.name, r.log.tail())
	default:
		r.kill()
	}
	r.life.end(killed)
	front := r.life.front
	f.closing.Go(func() {
		front.CloseClientConnections()
		front.Close()
	})
	f.read(r)
}

// running are the processes that were started and not killed.
func (f *fleet) running() []*replica {
	var up []*replica
	for _, r := range f.replicas {
		if r.running.Load() {
			up = append(up, r)
		}
	}
	return up
}

var errNobodyUp = errors.New("no process is running")

// any is a process that runs, by chance.
func (f *fleet) any() (*replica, error) {
	up := f.running()
	if len(up) == 0 {
		return nil, errNobodyUp
	}
	return up[f.random.n(len(up))], nil
}

// balance is the dialer of a client that comes through the load balancer.
func (f *fleet) balance(ctx context.Context, network, _ string) (net.Conn, error) {
	r, err := f.any()
	if err != nil {
		return nil, err
	}
	return new(net.Dialer).DialContext(ctx, network, r.address)
}

// reload loads the configuration of a running process anew. It tells whether the
// process lived to do it.
func (f *fleet) reload(r *replica) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	request, err := http.NewRequest(http.MethodPost, "http://"+r.admin+"/load", strings.NewReader(f.caddyfile(r)))
	if err != nil {
		return false, err
	}
	request.Header.Set("Content-Type", "text/caddyfile")
	request.Header.Set("Cache-Control", "must-revalidate") // also what has not changed
	response, err := (&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}).Do(request)
	if err != nil {
		return false, nil //nolint:nilerr // a kill was faster
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return false, fmt.Errorf("a reload was answered %s", response.Status)
	}
	return true, nil
}

// read looks through what is new in a log: what was tried again after an unknown
// outcome, and what came of it.
func (f *fleet) read(r *replica) {
	f.t.Helper()
	log := r.log.String()
	if strings.Contains(log, "WARNING: DATA RACE") || strings.Contains(log, "panic:") {
		f.t.Errorf("a data race or a panic in process %s:\n%s", r.life.name, log)
	}
	end := strings.LastIndexByte(log, '\n') + 1
	for line := range strings.Lines(log[r.heard:end]) {
		var event struct {
			eventOf
			Message string `json:"msg"`
			Reason  string `json:"reason"`
		}
		if json.Unmarshal([]byte(line), &event) != nil {
			continue // Go's own
		}
		switch {
		case event.Message == "alarm":
			f.alarms[event.Reason]++
		case event.Reason == "retried_unknown":
			f.unknown["tried again"]++
			r.retried[event.eventOf] = event.Reason
		case r.retried[event.eventOf] == "":
		case event.Message == "renewed":
			f.unknown["rescued"]++
			delete(r.retried, event.eventOf)
		case event.Message == "reconnect_required":
			f.unknown["burnt"]++
			delete(r.retried, event.eventOf)
		}
	}
	r.heard = end
}
