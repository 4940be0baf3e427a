package sandbox

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"time"
)

// What a sandbox remembers is bounded, so that a load test does not eat the
// machine: the oldest goes first.
const (
	maxCodes        = 10_000
	maxLineTokens   = 1_024 // access tokens, and spent refresh tokens, of one account at one application
	maxIssued       = 200_000
	maxPayments     = 10_000
	maxPreferences  = 1_000
	maxApplications = 1_000
)

// ledger holds what was given out. Its callers hold the sandbox's lock.
type ledger struct {
	applications map[string]*Application
	accounts     map[int64]Account
	codes        fifo[*code]
	accesses     map[string]*access
	refreshes    map[string]*refresh
	lines        map[lineKey]*line
	payments     fifo[*payment]
	paymentKeys  map[string]string // collector and idempotency key → payment id
	preferences  fifo[*preference]
	issued       fifo[struct{}]
	sequence     int64
}

// lineKey names what has one living refresh token: an account, live or test, at
// an application.
type lineKey struct {
	clientID string
	userID   int64
	live     bool
}

type line struct {
	living   string // the refresh token that works, or ""
	spent    []string
	accesses []string
}

// code is an authorization code, and what the consent was asked for.
type code struct {
	clientID, redirectURI string
	challenge, method     string
	userID                int64
	expires               time.Time
	used                  bool
}

type access struct {
	lineKey
	expires time.Time
}

type refresh struct {
	lineKey
	expires time.Time
	spent   bool // by a refresh, not by a newer consent
}

// pair is what a token request is answered with.
type pair struct {
	lineKey
	access, refresh, scope string
	life                   time.Duration
}

func newLedger(options Options) *ledger {
	l := &ledger{
		applications: map[string]*Application{},
		accounts:     map[int64]Account{},
		accesses:     map[string]*access{},
		refreshes:    map[string]*refresh{},
		lines:        map[lineKey]*line{},
		paymentKeys:  map[string]string{},
		sequence:     1_300_000_000,
	}
	l.codes.max, l.issued.max = maxCodes, maxIssued
	l.payments.max, l.preferences.max = maxPayments, maxPreferences
	for _, account := range options.Accounts {
		l.accounts[account.UserID] = account
	}
	for _, application := range options.Applications {
		l.register(application)
	}
	return l
}

// register adds an application and the account that owns it.
func (l *ledger) register(application Application) *Application {
	if application.Name == "" {
		application.Name = "Application " + application.ClientID
	}
	if application.OwnerID == 0 {
		application.OwnerID = 9_000_000_001 + int64(len(l.applications))
	}
	if _, known := l.accounts[application.OwnerID]; !known {
		id := formatID(application.OwnerID)
		l.accounts[application.OwnerID] = Account{
			UserID: application.OwnerID, Nickname: "PLATFORM_" + id, Name: application.Name, Email: "platform-" + id + "@example.com", Country: "AR",
		}
	}
	l.applications[application.ClientID] = &application
	return &application
}

// knows tells whether the secret is the application's. Of one that was let in
// unregistered none is known, and any will do.
func (a *Application) knows(secret string) bool {
	if a.ClientSecret == "" {
		return secret != ""
	}
	given, own := sha256.Sum256([]byte(secret)), sha256.Sum256([]byte(a.ClientSecret))
	return subtle.ConstantTimeCompare(given[:], own[:]) == 1
}

// giveCode makes a code for a consent.
func (l *ledger) giveCode(c code) string {
	text := "TG-" + randomHex(12) + "-" + formatID(c.userID)
	l.codes.add(text, &c)
	l.issued.add(text, struct{}{})
	return text
}

// consented answers a code: older refresh tokens of the line are useless from
// here on, whoever holds them.
func (l *ledger) consented(key lineKey, application *Application, settings Settings, now time.Time) pair {
	own := l.line(key)
	delete(l.refreshes, own.living)
	own.living = ""
	p := l.giveAccess(key, time.Duration(settings.AccessTokenLife), now)
	p.scope = "read write"
	if !application.WithoutOfflineAccess {
		p.scope = "read write offline_access"
		p.refresh = l.giveRefresh(key, settings, now)
	}
	return p
}

// refreshed rotates a line's refresh token.
func (l *ledger) refreshed(key lineKey, settings Settings, now time.Time) pair {
	own := l.line(key)
	if settings.RefreshKillsAccess {
		l.killAccesses(own)
	}
	p := l.giveAccess(key, time.Duration(settings.AccessTokenLife), now)
	p.scope = "offline_access read write" // the order is not to be relied on
	if settings.KeepRefreshToken {
		l.refreshes[own.living].expires = now.Add(time.Duration(settings.RefreshTokenLife))
		return p
	}
	l.refreshes[own.living].spent = true
	own.spent = append(own.spent, own.living)
	if len(own.spent) > maxLineTokens {
		delete(l.refreshes, own.spent[0])
		own.spent = own.spent[1:]
	}
	p.refresh = l.giveRefresh(key, settings, now)
	return p
}

func (l *ledger) giveAccess(key lineKey, life time.Duration, now time.Time) pair {
	text := fmt.Sprintf("APP_USR-%s-%s-%s-%d", key.clientID, now.UTC().Format("010215"), randomHex(16), key.userID)
	own := l.line(key)
	own.accesses = append(own.accesses, text)
	if len(own.accesses) > maxLineTokens {
		delete(l.accesses, own.accesses[0])
		own.accesses = own.accesses[1:]
	}
	l.accesses[text] = &access{lineKey: key, expires: now.Add(life)}
	l.issued.add(text, struct{}{})
	return pair{lineKey: key, access: text, life: life}
}

func (l *ledger) giveRefresh(key lineKey, settings Settings, now time.Time) string {
	text := "TG-" + randomHex(12) + "-" + formatID(key.userID)
	l.refreshes[text] = &refresh{lineKey: key, expires: now.Add(time.Duration(settings.RefreshTokenLife))}
	l.line(key).living = text
	l.issued.add(text, struct{}{})
	return text
}

func (l *ledger) line(key lineKey) *line {
	own := l.lines[key]
	if own == nil {
		own = &line{}
		l.lines[key] = own
	}
	return own
}

func (l *ledger) killAccesses(own *line) {
	for _, text := range own.accesses {
		delete(l.accesses, text)
	}
	own.accesses = nil
}

// revoke ends everything an account gave, to one application or ("") to all.
func (l *ledger) revoke(userID int64, clientID string) {
	for key, own := range l.lines {
		if key.userID != userID || clientID != "" && key.clientID != clientID {
			continue
		}
		l.killAccesses(own)
		delete(l.refreshes, own.living)
		own.living = ""
	}
	for _, c := range l.codes.all() {
		if c.userID == userID && (clientID == "" || c.clientID == clientID) {
			c.used = true
		}
	}
}

// Revoke is what happens when an account's owner unlinks every application, or
// changes the password: all its tokens and codes are dead, silently.
func (s *Sandbox) Revoke(userID int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger.revoke(userID, "")
}

// KillAccessTokens ends an account's access tokens and leaves its refresh token
// alive: what a session clean-up at the provider looks like.
func (s *Sandbox) KillAccessTokens(userID int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, own := range s.ledger.lines {
		if key.userID == userID {
			s.ledger.killAccesses(own)
		}
	}
}

// Issued lists every code and token that was given out (the newest 200,000), so
// that a test can search its outputs for them.
func (s *Sandbox) Issued() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.ledger.issued.order...)
}

// AccessTokenOf tells whose a living access token is, so that a test can tell
// which seller a proxied request acts for.
func (s *Sandbox) AccessTokenOf(token string) (userID int64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.ledger.accesses[token]
	if a == nil || !s.now().Before(a.expires) {
		return 0, false
	}
	return a.userID, true
}

// publicKey is the same for every token of a line, as the real one is.
func (key lineKey) publicKey() string {
	sum := sha256.Sum256([]byte("public " + key.clientID + " " + formatID(key.userID) + " " + strconv.FormatBool(key.live)))
	h := hex.EncodeToString(sum[:])
	return "APP_USR-" + h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:32]
}

// fits tells whether the verifier is the challenge's. A verifier where no
// challenge was sent fits nothing: someone took the challenge out.
func (c *code) fits(verifier string) bool {
	given := verifier
	if c.method == "S256" {
		sum := sha256.Sum256([]byte(verifier))
		given = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	return subtle.ConstantTimeCompare([]byte(given), []byte(c.challenge)) == 1
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails: it ends the process instead
	return hex.EncodeToString(b)
}

// fifo is a map that forgets its oldest entries.
type fifo[V any] struct {
	max    int
	order  []string
	values map[string]V
}

func (f *fifo[V]) add(key string, value V) (forgotten V) {
	if f.values == nil {
		f.values = map[string]V{}
	}
	if f.max > 0 && len(f.order) >= f.max {
		forgotten = f.values[f.order[0]]
		delete(f.values, f.order[0])
		f.order = f.order[1:]
	}
	f.order = append(f.order, key)
	f.values[key] = value
	return forgotten
}

func (f *fifo[V]) get(key string) (V, bool) {
	v, ok := f.values[key]
	return v, ok
}

func (f *fifo[V]) all() []V {
	out := make([]V, 0, len(f.order))
	for _, key := range f.order {
		out = append(out, f.values[key])
	}
	return out
}
