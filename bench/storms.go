package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// flowSites are a Caddy on whose first site sellers connect, and on the other two
// a browser is sent away without the plugin.
const flowSites = `{
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
		$STORE
	}
}

$SESSION {
	mercadopago
	respond ok
}

$STATIC_1 {
	redir /connect $PROVIDER/authorization?client_id={env.MP_CLIENT_ID}&response_type=code 303
}

$STATIC_2 {
	redir /connect $PROVIDER/authorization?client_id={env.MP_CLIENT_ID}&response_type=code 303
}
`

// flowWorld is what stands while sellers connect.
type flowWorld struct {
	*server
	provider *sandbox.Sandbox
	values   map[string]string
	close    func()
}

func (b *bench) flowWorld(ctx context.Context, store string) (*flowWorld, error) {
	folder, err := os.MkdirTemp(b.dir, "flow-")
	if err != nil {
		return nil, err
	}
	w := &flowWorld{values: map[string]string{"STORAGE": folder, "STORE": store}}
	for _, name := range []string{"ADMIN", "SESSION", "STATIC_1", "STATIC_2"} {
		address, err := newAddress()
		if err != nil {
			return nil, err
		}
		w.values[name] = address
		if name != "ADMIN" {
			w.values[name] = "http://" + address
		}
	}
	accounts := make([]sandbox.Account, flowsAtOnce)
	for i := range accounts {
		accounts[i] = sandbox.Account{UserID: 5_411_000_001 + int64(i), Nickname: fmt.Sprint("VENDEDOR", i), Country: "AR"}
	}
	w.provider = sandbox.New(sandbox.Options{AcceptAny: true, Accounts: accounts})
	mercadoPago := httptest.NewServer(w.provider)
	w.values["PROVIDER"] = mercadoPago.URL
	if w.server, err = b.startCaddy(ctx, []string{b.binary}, flowSites, w.values, host(w.values["SESSION"])); err != nil {
		mercadoPago.Close()
		return nil, err
	}
	w.close = func() {
		w.stop()
		mercadoPago.Close()
	}
	return w, nil
}

// load is browsers that a site sends away to connect.
func (w *flowWorld) load(site string) load {
	return load{
		url: w.values[site] + "/connect", headers: []string{"Sec-Fetch-Site: same-origin", "Accept: text/html"},
		connections: 64, pid: w.Process.Pid, status: http.StatusSeeOther,
	}
}

// flowsAtOnce is what exchanges grant before they take turns: codes of strangers
// must not use up what the provider grants to renewals.
const flowsAtOnce = 50

// Flow is what connecting costs.
type Flow struct {
	rounds []costRound
	// Stores has how many whole flows were done in a second, in each round.
	Files, Postgres []float64
	// Expired is a thousand callers for one seller whose token has ended.
	Callers, TokenRequests int
	Expired, Again         loaded
}

// Rate is how many browsers are sent away in a second, as a part of the baseline's.
func (f *Flow) Rate() spread {
	m := Mode{rounds: f.rounds}
	return m.Rate()
}

// CPU is the CPU time of that.
func (f *Flow) CPU() spread {
	m := Mode{rounds: f.rounds}
	return m.CPU()
}

// AA is the baseline's rate as a part of the other one's.
func (f *Flow) AA() spread {
	return spreadOf(each(f.rounds, func(r costRound) float64 { return r.second.perSecond() / r.first.perSecond() }))
}

// Floor is how many browsers the baseline sends away in a second.
func (f *Flow) Floor() spread {
	return spreadOf(each(f.rounds, func(r costRound) float64 { return r.first.perSecond() }))
}

// FilesRate and PostgresRate are whole flows in a second.
func (f *Flow) FilesRate() spread { return spreadOf(f.Files) }

// PostgresRate is that with sellers in PostgreSQL.
func (f *Flow) PostgresRate() spread { return spreadOf(f.Postgres) }

// flow measures how sellers connect.
func (b *bench) flow(ctx context.Context, r *Report) error {
	f := new(Flow)
	r.Flow = f
	w, err := b.flowWorld(ctx, "")
	if err != nil {
		return err
	}
	defer w.close()
	for round := range b.flowRounds {
		b.say("/connect: round %d of %d", round+1, b.flowRounds)
		var got costRound
		three := []struct {
			site string
			into *loaded
		}{{"STATIC_1", &got.first}, {"STATIC_2", &got.second}, {"SESSION", &got.mode}}
		for _, i := range shuffled(3) {
			l := w.load(three[i].site)
			l.warmUp, l.length = b.costLength/5, b.costLength
			if *three[i].into, err = b.send(ctx, l); err != nil {
				return err
			}
		}
		f.rounds = append(f.rounds, got)
	}
	return b.wholeFlows(ctx, f)
}

func (b *bench) wholeFlows(ctx context.Context, f *Flow) error {
	server, err := postgrestest.Launch("max_connections=200")
	if err != nil {
		return err
	}
	defer server.Close()
	stores := []struct {
		store string
		into  *[]float64
	}{{"", &f.Files}, {"store postgres " + server.DSN(), &f.Postgres}}
	for round := range b.wholeRounds {
		b.say("whole flows: round %d of %d", round+1, b.wholeRounds)
		for _, i := range shuffled(len(stores)) {
			w, err := b.flowWorld(ctx, stores[i].store)
			if err != nil {
				return err
			}
			rate, err := w.connectAll()
			w.close()
			if err != nil {
				return err
			}
			*stores[i].into = append(*stores[i].into, rate)
		}
	}
	return nil
}

// connectAll has all sellers connect, eight at a time, and returns how many did in
// a second.
func (w *flowWorld) connectAll() (perSecond float64, err error) {
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	defer transport.CloseIdleConnections()
	all := make(chan sandbox.Account, flowsAtOnce)
	for _, account := range w.provider.Accounts() {
		all <- account
	}
	close(all)
	errs := make([]error, 8)
	begun := time.Now()
	var done sync.WaitGroup
	for i := range errs {
		done.Go(func() {
			for account := range all {
				visitor, err := newBrowser(w.values["SESSION"], w.provider, transport)
				if err == nil {
					err = visitor.connect(account.UserID)
				}
				if errs[i] = err; err != nil {
					return
				}
			}
		})
	}
	done.Wait()
	return flowsAtOnce / time.Since(begun).Seconds(), errors.Join(errs...)
}

// expired has very many callers ask at once for a seller whose token has ended.
func (b *bench) expired(ctx context.Context, r *Report) error {
	const short = 2 * time.Second
	if r.Flow == nil {
		r.Flow = new(Flow)
	}
	w, err := b.flowWorld(ctx, "")
	if err != nil {
		return err
	}
	defer w.close()
	w.provider.SetAccessTokenLife(short)
	cookie, err := sessionOf(w.values["SESSION"], w.provider, w.provider.Accounts()[0].UserID)
	if err != nil {
		return err
	}
	<-time.After(short)
	w.provider.SetAccessTokenLife(0)
	w.provider.Fault(sandbox.Fault{Kind: sandbox.Latency, Grant: "refresh_token", Delay: sandbox.Duration(providerLatency)})
	r.Flow.Callers = min(b.callers, 1000)
	callers := load{
		url: w.values["SESSION"], headers: []string{"Cookie: " + cookie}, connections: r.Flow.Callers, pick: r.Flow.Callers, once: true,
		pid: w.Process.Pid, status: http.StatusOK,
	}
	b.say("%s callers for one seller whose token has ended", count(r.Flow.Callers))
	for _, into := range []*loaded{&r.Flow.Expired, &r.Flow.Again} {
		if *into, err = b.send(ctx, callers); err != nil {
			return err
		}
	}
	r.Flow.TokenRequests = w.provider.Stats().Tokens("refresh_token")
	return nil
}

// providerLatency is what the stand-in takes for a token request here.
const providerLatency = 100 * time.Millisecond

// Simulated is a storm that was played in a simulated world, with a clock of its
// own: what it took is not the machine's doing.
type Simulated struct{ What, Came string }

var printed = regexp.MustCompile(`_test\.go:\d+: (.+): (.+)$`)

// simulated runs the storms that are tests, and takes what they print.
func (b *bench) simulated(ctx context.Context, r *Report) error {
	b.say("storms of renewals, in simulated time")
	command := exec.CommandContext(ctx, "go", "test", "-count", "1", "-v", "-run", "^(TestTenThousandDueRenewalsTakeHardlyLongerThanTheyMust|TestAnHourWithoutTheProviderLosesNobody)$", "./tokensource")
	command.Dir = b.root
	out, err := command.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		if found := printed.FindStringSubmatch(lines.Text()); found != nil {
			r.Simulated = append(r.Simulated, Simulated{found[1], found[2]})
		}
	}
	if len(r.Simulated) == 0 {
		return errors.New("the tests printed nothing")
	}
	return nil
}
