package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// The provider takes up to slowest to begin with a token request, and an
	// answer is up to farthest on its way: kills must find requests in both.
	slowest  = 120 * time.Millisecond
	farthest = 20 * time.Millisecond
	// deadline is how long a token request may take: the product's own.
	deadline = 20 * time.Second
	// historyKept is how much of what happened to an account is told.
	historyKept = 60
)

// life is one process, from its start to its kill. It reaches the provider by an
// address of its own: so one knows to whom an answer went.
type life struct {
	name   string
	front  *httptest.Server
	book   *book
	killed time.Time

	over bool // by the book's lock: nothing is answered any more
}

// given is a pair that the provider gave.
type given struct {
	account tokenstore.AccountID
	hash    string
	refresh string
	to      *life
	at      time.Time // just before the answer was sent
	consent bool
	used    bool // a request came with its access token, or its refresh token was posted
}

// book is what the provider answered, and to whom. Its lock is held while a
// token request is carried out: what it calls the last is the living one.
type book struct {
	provider *sandbox.Sandbox
	random   *random

	mu        sync.Mutex
	last      map[tokenstore.AccountID]*given
	byAccess  map[string]*given
	byRefresh map[string]*given
	cut       map[string]bool // refresh tokens whose POST never reached the provider
	history   map[tokenstore.AccountID][]string
	lost      map[tokenstore.AccountID]*given    // whose living pair no process has
	pardoned  map[tokenstore.AccountID]time.Time // until when it may be called dead though it lives
	posted    map[string]time.Time               // when a refresh token came last
	hasty     []string                           // what came again too soon

	refreshes, consents, cuts, again, refused int

	asked atomic.Int64 // number of token requests
}

func newBook(provider *sandbox.Sandbox, random *random) *book {
	b := &book{
		provider: provider, random: random,
		last: make(map[tokenstore.AccountID]*given), history: make(map[tokenstore.AccountID][]string),
		lost: make(map[tokenstore.AccountID]*given), pardoned: make(map[tokenstore.AccountID]time.Time),
	}
	b.forget()
	return b
}

// forget keeps of every account the living pair alone.
func (b *book) forget() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.byAccess, b.byRefresh = make(map[string]*given), make(map[string]*given)
	b.cut, b.posted = make(map[string]bool), make(map[string]time.Time)
	for _, g := range b.last {
		b.byRefresh[g.refresh] = g
	}
}

// open starts a life.
func (b *book) open(name string) *life {
	l := &life{name: name, book: b}
	l.front = httptest.NewServer(l)
	return l
}

// end is told once the process is gone. Nothing that it may still have asked is
// done.
func (l *life) end(killed time.Time) {
	l.book.mu.Lock()
	defer l.book.mu.Unlock()
	l.over, l.killed = true, killed
}

func (l *life) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/oauth/token" {
		l.book.uses(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		l.book.provider.ServeHTTP(w, r)
		return
	}
	content, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<16))
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	l.book.asked.Add(1)
	var asked struct {
		RefreshToken string `json:"refresh_token"`
	}
	if err := json.Unmarshal(content, &asked); err != nil {
		panic(http.ErrAbortHandler)
	}
	pause(r.Context(), l.book.random.upTo(slowest))
	r.Body = io.NopCloser(bytes.NewReader(content))
	answer := l.carryOut(r, asked.RefreshToken)
	if answer == nil {
		panic(http.ErrAbortHandler)
	}
	pause(r.Context(), l.book.random.upTo(farthest))
	w.Header().Set("Content-Type", answer.Header().Get("Content-Type"))
	w.WriteHeader(answer.Code)
	_, _ = w.Write(answer.Body.Bytes())
}

func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// carryOut lets the provider answer a token request, and writes down what it
// answers. It returns nil where nobody is left to ask.
func (l *life) carryOut(r *http.Request, posted string) *httptest.ResponseRecorder {
	b := l.book
	b.mu.Lock()
	defer b.mu.Unlock()
	before := b.byRefresh[posted]
	if before != nil {
		before.used = true
		b.watch(before)
	}
	if l.over || r.Context().Err() != nil {
		if before != nil {
			b.cuts++
			b.cut[posted] = true
			b.tell(before.account, "%s posted %.8s; cut before the provider took it", l.name, before.hash)
		}
		return nil
	}
	recorder := httptest.NewRecorder()
	b.provider.ServeHTTP(recorder, r)
	b.write(l, before, recorder)
	return recorder
}

// watch notes that a refresh token was posted. Where it was posted before, its
// outcome was unknown, and it may not come again while another process could
// still be saving what it was given.
func (b *book) watch(g *given) {
	now := time.Now()
	if last, again := b.posted[g.refresh]; again && now.Sub(last) < deadline {
		b.hasty = append(b.hasty, fmt.Sprintf("%.8s of %s was posted again after %v", g.hash, g.account, now.Sub(last)))
	}
	b.posted[g.refresh] = now
}

// write notes an answer of the provider.
func (b *book) write(l *life, before *given, recorder *httptest.ResponseRecorder) {
	if recorder.Code != http.StatusOK {
		b.refused++
		if before != nil {
			b.pardoned[before.account] = time.Now().Add(memory)
			b.tell(before.account, "%s posted %.8s; refused: %d %s", l.name, before.hash, recorder.Code, strings.TrimSpace(recorder.Body.String()))
		}
		return
	}
	var answer struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		UserID  int64  `json:"user_id"`
		Live    bool   `json:"live_mode"`
	}
	if err := json.Unmarshal(recorder.Body.Bytes(), &answer); err != nil {
		panic(err)
	}
	// An access token tells its application: APP_USR-<client id>-…
	id := tokenstore.AccountID{ClientID: strings.Split(answer.Access, "-")[1], UserID: answer.UserID, Live: answer.Live}
	next := &given{
		account: id, refresh: answer.Refresh, to: l, at: time.Now(),
		hash: tokenstore.HashPair(secret.New(answer.Access), secret.New(answer.Refresh)),
	}
	if g := b.last[id]; g != nil && b.lost[id] == g {
		b.pardoned[id] = next.at.Add(memory)
	}
	b.last[id], b.byAccess[answer.Access], b.byRefresh[answer.Refresh] = next, next, next
	if before == nil {
		next.consent = true
		b.consents++
		b.tell(id, "%s was given %.8s by a consent", l.name, next.hash)
		return
	}
	b.refreshes++
	if b.cut[before.refresh] {
		b.again++
		delete(b.cut, before.refresh)
	}
	b.tell(id, "%s posted %.8s and was given %.8s", l.name, before.hash, next.hash)
}

// uses notes that an access token reached the provider.
func (b *book) uses(access string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g := b.byAccess[access]; g != nil {
		g.used = true
	}
}

// tell adds to an account's history. The lock is held.
func (b *book) tell(id tokenstore.AccountID, format string, args ...any) {
	lines := append(b.history[id], time.Now().Format("15:04:05.000 ")+fmt.Sprintf(format, args...))
	b.history[id] = lines[max(0, len(lines)-historyKept):]
}

// note adds to an account's history.
func (b *book) note(id tokenstore.AccountID, format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.tell(id, format, args...)
}

// story is what happened to an account last.
func (b *book) story(id tokenstore.AccountID) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return "\n\t" + strings.Join(b.history[id], "\n\t")
}

// lastOf is the pair that the provider gave last: the living one. nil is none.
func (b *book) lastOf(id tokenstore.AccountID) *given {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.last[id]
}

// givenTo are the accounts whose living pair a life was given.
func (b *book) givenTo(l *life) []*given {
	b.mu.Lock()
	defer b.mu.Unlock()
	var theirs []*given
	for _, g := range b.last {
		if g.to == l {
			theirs = append(theirs, g)
		}
	}
	return theirs
}

// lose notes that nobody has an account's living pair any more, unless it is not
// the living one by now.
func (b *book) lose(g *given) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.last[g.account] != g {
		return false
	}
	b.lost[g.account] = g
	b.tell(g.account, "lost: %s died with %.8s", g.to.name, g.hash)
	return true
}

// excused tells whether an account may be called dead: its living pair is lost,
// or was, or the provider has just refused an older pair of it.
func (b *book) excused(id tokenstore.AccountID, at time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.last[id]
	return g != nil && b.lost[id] == g || at.Before(b.pardoned[id])
}

// hurried are the refresh tokens that came again too soon.
func (b *book) hurried() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	hasty := b.hasty
	b.hasty = nil
	return hasty
}
