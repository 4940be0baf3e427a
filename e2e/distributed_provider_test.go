//go:build linux

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// shop is one of the sellers.
type shop struct {
	name    string
	account tokenstore.AccountID
}

// obtained is a pair that the provider gave, and what became of its refresh token.
type obtained struct {
	shop  *shop
	hash  string
	to    string // the instance; "" is what the world began with
	at    time.Time
	posts []*post
}

// post is one time that a refresh token came to the provider.
type post struct {
	by      string
	at      time.Time
	outcome string
}

// What can come of a post.
const (
	underWay = "under way"
	carried  = "answered"
	dropped  = "never carried out"
)

// observed is the provider, the app behind every instance, and whoever writes down
// what they see.
type observed struct {
	sandbox *sandbox.Sandbox
	random  *random
	names   map[string]string // of instances, by address
	fail    func(format string, args ...any)

	mu        sync.Mutex
	barriers  map[string]*barrier
	byAccess  map[string]*shop
	byRefresh map[string]*obtained
	living    map[*shop]*obtained
	injected  map[string]int
	astray    int             // requests with another seller's token
	refused   map[string]bool // instance and seller: a token may not be injected any more
}

// barrier holds token requests of one instance back before they are carried out. One
// that was held is carried out when it is let, or never.
type barrier struct {
	held map[string]chan struct{} // by refresh token; closed when it may pass
}

func newObserved(random *random, fail func(format string, args ...any)) *observed {
	return &observed{
		random: random, names: make(map[string]string), fail: fail,
		barriers: make(map[string]*barrier), byAccess: make(map[string]*shop), byRefresh: make(map[string]*obtained),
		living: make(map[*shop]*obtained), injected: make(map[string]int), refused: make(map[string]bool),
	}
}

// ServeHTTP is the provider.
func (o *observed) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	by := o.names[host]
	if r.URL.Path != "/oauth/token" {
		o.act(by, w, r)
		return
	}
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<16))
	var asked struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err != nil || json.Unmarshal(content, &asked) != nil || asked.RefreshToken == "" {
		o.fail("%s made a token request that is no refresh", by)
		panic(http.ErrAbortHandler)
	}
	pause(r.Context(), 20*time.Millisecond+o.random.upTo(40*time.Millisecond))
	r.Body = io.NopCloser(bytes.NewReader(content))
	answer := o.carryOut(by, r, asked.RefreshToken)
	if answer == nil {
		panic(http.ErrAbortHandler)
	}
	w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

// carryOut lets the sandbox answer a refresh, and writes down that it did. It
// returns nil where nobody waits for the answer any more.
func (o *observed) carryOut(by string, r *http.Request, refresh string) *httptest.ResponseRecorder {
	p := &post{by: by, at: time.Now(), outcome: underWay}
	o.mu.Lock()
	defer o.mu.Unlock()
	before := o.byRefresh[refresh]
	if before == nil {
		o.fail("%s posted a refresh token that nobody was given", by)
		return nil
	}
	before.posts = append(before.posts, p)
	if g := o.barriers[by]; g != nil {
		let := make(chan struct{})
		g.held[refresh] = let
		o.mu.Unlock()
		select {
		case <-let:
		case <-r.Context().Done():
		}
		o.mu.Lock()
	}
	if r.Context().Err() != nil {
		p.outcome = dropped
		return nil
	}
	recorder := httptest.NewRecorder()
	o.sandbox.ServeHTTP(recorder, r)
	if recorder.Code != http.StatusOK {
		p.outcome = strings.TrimSpace(recorder.Body.String())
		o.fail("%s posted the refresh token of %s, and was told %s", by, before.shop.name, p.outcome)
		return recorder
	}
	p.outcome = carried
	o.give(before.shop, by, recorder.Body.Bytes())
	return recorder
}

// give writes down a pair that the sandbox answered. The lock is held.
func (o *observed) give(s *shop, to string, answer []byte) (access, refresh string) {
	var told struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		UserID  int64  `json:"user_id"`
	}
	if err := json.Unmarshal(answer, &told); err != nil || told.UserID != s.account.UserID {
		o.fail("the sandbox answered %q to %s", answer, s.name)
	}
	next := &obtained{shop: s, to: to, at: time.Now(), hash: tokenstore.HashPair(secret.New(told.Access), secret.New(told.Refresh))}
	o.byAccess[told.Access], o.byRefresh[told.Refresh], o.living[s] = s, next, next
	return told.Access, told.Refresh
}

// act is any request that an instance passed on: it must come with the token of
// the seller that was asked for.
func (o *observed) act(by string, w http.ResponseWriter, r *http.Request) {
	asked := r.Header.Get("X-Asked")
	o.mu.Lock()
	owner := o.byAccess[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
	gone := o.refused[by+asked]
	o.injected[by]++
	if owner != nil && owner.name != asked {
		o.astray++
	}
	o.mu.Unlock()
	switch {
	case owner == nil:
		o.fail("%s passed a request for %s on without a token that the provider gave", by, asked)
	case owner.name != asked:
		o.fail("%s passed a request for %s on with the token of %s", by, asked, owner.name)
	case gone:
		o.fail("%s injected the token of %s after it had refused to", by, asked)
	default:
		fmt.Fprint(w, owner.name)
		return
	}
	w.WriteHeader(http.StatusTeapot)
}

// app is the app beside an instance.
func (o *observed) app(by string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { o.act(by, w, r) })
}

// hold closes the barrier for an instance, and open opens it for what comes from then
// on.
func (o *observed) hold(by string) *barrier {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.barriers[by] = &barrier{held: make(map[string]chan struct{})}
	return o.barriers[by]
}

func (o *observed) open(by string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.barriers, by)
}

// holds tells whether the refresh of a seller waits at a barrier.
func (o *observed) holds(g *barrier, s *shop) bool { return o.waiting(g, s) != nil }

func (o *observed) waiting(g *barrier, s *shop) chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	for refresh, let := range g.held {
		if o.byRefresh[refresh].shop == s {
			return let
		}
	}
	return nil
}

// heldAt are the sellers whose refreshes wait at a barrier.
func (o *observed) heldAt(g *barrier) (shops []*shop) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for refresh := range g.held {
		shops = append(shops, o.byRefresh[refresh].shop)
	}
	return shops
}

// let lets the refresh of a seller pass a barrier.
func (o *observed) let(g *barrier, s *shop) { close(o.waiting(g, s)) }

// givenTo are the sellers whose living pair an instance was given.
func (o *observed) givenTo(by string) (shops []*shop) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for s, p := range o.living {
		if p.to == by {
			shops = append(shops, s)
		}
	}
	return shops
}

// refuses notes that an instance has refused a seller who was disconnected.
func (o *observed) refuses(by string, s *shop) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused[by+s.name] = true
}

// livingOf is the pair that the provider gave a seller last.
func (o *observed) livingOf(s *shop) *obtained {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.living[s]
}
