//go:build linux

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	gotServed  = "served"
	gotNothing = "no answer"

	// eachSecond is how many requests an instance gets.
	eachSecond = 10
	hands      = 3

	// storeAway is how long an instance waits for the store before it takes it to be
	// away, and lets memory last longer: on a machine that has much else to do, that
	// may be.
	storeAway = 2 * time.Second
)

// ask asks an instance for something that a seller's token is needed for, and
// tells what came: the app and the provider have seen to whose token it was.
func (w *distributedWorld) ask(client *http.Client, s *shop, egress bool) (kind string) {
	site, who := distributedShop, "X-Login"
	if egress {
		site, who = distributedEgress, "X-Seller"
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, site+"/v1/anything", nil)
	if err != nil {
		return err.Error()
	}
	request.Header.Set(who, s.name)
	request.Header.Set("X-Asked", s.name)
	request.Header.Set("Accept", "application/json")
	got, err := receive(client, request)
	if err != nil {
		return gotNothing
	}
	switch {
	case got.status == http.StatusOK && got.body == s.name:
		return gotServed
	case got.status == http.StatusOK:
		w.fail("a request for %s was answered for %q", s.name, got.body)
	}
	var problem struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal([]byte(got.body), &problem)
	return strings.TrimSpace(fmt.Sprintf("%d %s", got.status, problem.Code))
}

// count notes an answer to a caller of the crowd, who are all connected.
func (w *distributedWorld) count(by, kind string, s *shop) {
	w.mu.Lock()
	if w.answers[by] == nil {
		w.answers[by] = make(map[string]int)
	}
	w.answers[by][kind]++
	w.mu.Unlock()
	if strings.HasPrefix(kind, "403") {
		w.fail("%s told %s, who is connected: %s", by, s.name, kind)
	}
}

// load has callers ask every instance for any seller of the crowd, until it is
// stopped.
func (w *distributedWorld) load() (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	var all sync.WaitGroup
	for _, i := range w.instances {
		for range hands {
			all.Go(func() {
				for ctx.Err() == nil {
					s := w.shops[crowdFrom+w.random.n(len(w.shops)-crowdFrom)]
					w.count(i.name, w.ask(i.outside, s, w.random.n(2) == 0), s)
					pause(ctx, w.random.upTo(2*hands*time.Second/eachSecond))
				}
			})
		}
	}
	return func() {
		cancel()
		all.Wait()
	}
}

// disconnect is what a seller does in the browser, at an instance.
func (w *distributedWorld) disconnect(i *instance, s *shop) error {
	const page = distributedShop + "/connect/disconnect"
	send := func(method string, form url.Values) (answer, error) {
		request, err := http.NewRequestWithContext(context.Background(), method, page, strings.NewReader(form.Encode()))
		if err != nil {
			return answer{}, err
		}
		request.Header.Set("X-Login", s.name)
		request.Header.Set("Sec-Fetch-Site", "same-origin")
		if form != nil {
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			request.Header.Set("Origin", distributedShop)
		}
		return receive(i.outside, request)
	}
	got, err := send(http.MethodGet, nil)
	if err != nil {
		return err
	}
	seen := hiddenSeen.FindStringSubmatch(got.body)
	if seen == nil {
		return astrayError{"question", got}
	}
	got, err = send(http.MethodPost, url.Values{"seen": {html.UnescapeString(seen[1])}})
	if err == nil && !strings.HasSuffix(got.location(), "?done") {
		err = astrayError{"disconnect", got}
	}
	return err
}

// lateness says until when a disconnected seller was served.
func lateness(delay time.Duration, by string) string {
	if delay == 0 {
		return "from then on nobody serves it"
	}
	return fmt.Sprintf("%s serves it for %v more", by, delay.Round(time.Millisecond))
}

// parting is a disconnect that is being watched.
type parting struct {
	shop *shop
	// every is how often each instance is asked for the seller, and idle for how
	// long it is not asked at all once the seller is gone.
	every, idle time.Duration
	answered    time.Time

	mu      sync.Mutex
	last    map[string]time.Time // when a request was sent last that was served
	refused map[string]time.Time
	over    sync.WaitGroup
}

// acquaint has every instance serve sellers, so that it has them in memory.
func (w *distributedWorld) acquaint(shops []*shop) {
	for _, i := range w.instances {
		w.meets(i, shops)
	}
}

// meets has an instance serve sellers.
func (w *distributedWorld) meets(i *instance, shops []*shop) {
	w.atOnce(shops, func(_ int, s *shop) error {
		return w.comesTo(i, s, gotServed, patience)
	})
}

// comesTo asks an instance for a seller until it answers in one way. An answer that
// no time mends is an error at once.
func (w *distributedWorld) comesTo(i *instance, s *shop, want string, patience time.Duration) error {
	for patient := time.Now().Add(patience); ; {
		kind := w.ask(i.beside, s, false)
		switch {
		case kind == want:
			return nil
		case kind == gotServed, strings.HasPrefix(kind, "403"), time.Now().After(patient):
			return fmt.Errorf("%s answers %q, and should %q", i.name, kind, want)
		}
		pause(w.t.Context(), 200*time.Millisecond)
	}
}

// part has a seller, whom all instances know, disconnected by one of them, and
// watches them all.
func (w *distributedWorld) part(by *instance, s *shop, every, idle time.Duration) *parting {
	p := &parting{shop: s, every: every, idle: idle, last: make(map[string]time.Time), refused: make(map[string]time.Time)}
	w.mu.Lock()
	w.gone[s] = true
	w.mu.Unlock()
	gone := make(chan struct{})
	for _, i := range w.instances {
		p.over.Go(func() { w.watch(p, i, gone) })
	}
	if err := w.disconnect(by, s); err != nil {
		w.fail("%s cannot be disconnected: %v", s.name, err)
	}
	p.answered = time.Now()
	close(gone)
	return p
}

// partAll has one instance disconnect sellers, all at once. With resting, the second
// half of them is not asked for before memory has ended.
func (w *distributedWorld) partAll(by *instance, shops []*shop, resting bool) []*parting {
	all := make([]*parting, len(shops))
	var done sync.WaitGroup
	for n, s := range shops {
		idle := time.Duration(0)
		if resting && n >= len(shops)/2 {
			idle = memoryLasts + time.Second
		}
		done.Go(func() { all[n] = w.part(by, s, 200*time.Millisecond, idle) })
	}
	done.Wait()
	return all
}

// watch asks one instance for a seller until it refuses to serve.
func (w *distributedWorld) watch(p *parting, i *instance, gone <-chan struct{}) {
	if p.idle > 0 {
		<-gone
		pause(w.t.Context(), p.idle)
	}
	for w.t.Context().Err() == nil {
		sent := time.Now()
		switch kind := w.ask(i.beside, p.shop, false); kind {
		case gotServed:
			if time.Since(sent) >= storeAway {
				break // memory served it, because the store did not answer in time
			}
			p.mu.Lock()
			p.last[i.name] = sent
			p.mu.Unlock()
		case "403 not_connected":
			w.observed.refuses(i.name, p.shop)
			p.mu.Lock()
			p.refused[i.name] = time.Now()
			p.mu.Unlock()
			return
		}
		pause(w.t.Context(), p.every)
	}
}

// honoured waits until every instance has refused the seller, and returns how long
// after a moment a request was sent that was served still.
func (p *parting) honoured(since time.Time) (delay time.Duration, by string) {
	p.over.Wait()
	for name, at := range p.last {
		if late := at.Sub(since); late > delay {
			delay, by = late, name
		}
	}
	return delay, by
}

// note adds delays to the reckoning.
func (w *distributedWorld) note(kind string, partings []*parting, since func(*parting) time.Time) (delays []time.Duration) {
	for _, p := range partings {
		delay, _ := p.honoured(since(p))
		delays = append(delays, delay)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.disconnects[kind] = append(w.disconnects[kind], delays...)
	return delays
}
