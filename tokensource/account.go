package tokensource

import (
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// account is what memory has about an account. Every seller that points to it
// shares it, and so does its flight: forgetting a seller never loses a flight.
type account struct {
	side  *side
	user  int64
	known atomic.Pointer[known]
	// tryAt is before when a renewal in the background is of no use, as Unix
	// nanoseconds: a hit must not take a lock to find out.
	tryAt atomic.Int64

	mu sync.Mutex
	// unrest is nil where nothing is going on, which is nearly always.
	unrest *unrest
}

func (a *account) id() tokenstore.AccountID {
	return tokenstore.AccountID{ClientID: a.side.clientID, UserID: a.user, Live: a.side.live}
}

// unrest is what goes on about an account, and what is to be remembered of it.
type unrest struct {
	flight *flight
	// setback holds the account's refreshes back; it counts for one pair only,
	// failed.
	setback   setback
	failed    tokenstore.PairID
	tombstone uint64
	// rejected is the pair whose access token got a 401 last, forced and
	// forcedAt the last pair refreshed because of one, and forcing how many
	// requests are about to have it refreshed, or wait for that.
	rejected, forced tokenstore.PairID
	forcedAt         time.Time
	forcing          int
	sightings        map[string]sighting
	// unsent are the nonces of intents that were not followed by a POST and
	// could not be withdrawn.
	unsent map[string]struct{}
}

// sighting is when an intent was last seen to change, on our own clock.
type sighting struct {
	intent tokenstore.Intent
	at     time.Time
}

// lock locks the account, for what goes on about it to be read and changed until
// unlock.
func (a *account) lock() *unrest {
	a.mu.Lock()
	if a.unrest == nil {
		a.unrest = new(unrest)
	}
	return a.unrest
}

// unlock drops what is of no use any more: there are very many accounts.
func (a *account) unlock() {
	if a.unrest.over() {
		a.unrest = nil
	}
	a.mu.Unlock()
}

func (u *unrest) over() bool {
	none := tokenstore.PairID{}
	return u.flight == nil && u.setback.over() && u.tombstone == 0 && u.rejected == none && u.forced == none &&
		u.forcedAt.IsZero() && u.forcing == 0 && len(u.sightings) == 0 && len(u.unsent) == 0
}

// worked lets go of what held the account back.
func (a *account) worked() {
	a.lock().setback.clear()
	a.unlock()
}

// rejected is the pair whose access token got a 401 last.
func (a *account) rejected() tokenstore.PairID {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.unrest == nil {
		return tokenstore.PairID{}
	}
	return a.unrest.rejected
}

// side is an application's live accounts in memory, or its test ones.
type side struct {
	clientID string
	live     bool
	// accounts are kept as long as a snapshot or a flight holds them.
	accounts map[int64]weak.Pointer[account]
	// most is how many there are before those that nobody holds are swept out.
	most int
}

const fewAccounts = 1024

type sideID struct {
	clientID string
	live     bool
}

// account returns the one account object of an id. It lives as long as someone
// holds it.
func (r *realm) account(id tokenstore.AccountID) *account {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sides[sideID{id.ClientID, id.Live}]
	if s == nil {
		s = &side{clientID: strings.Clone(id.ClientID), live: id.Live, accounts: make(map[int64]weak.Pointer[account])}
		r.sides[sideID{s.clientID, s.live}] = s
	}
	if a := s.accounts[id.UserID].Value(); a != nil {
		return a
	}
	a := &account{side: s, user: id.UserID}
	a.known.Store(nothingKnown)
	s.sweep()
	s.accounts[id.UserID] = weak.Make(a)
	return a
}

// sweep forgets the accounts that nobody holds, once there are twice as many as it
// left the last time.
func (s *side) sweep() {
	if len(s.accounts) < s.most {
		return
	}
	maps.DeleteFunc(s.accounts, func(_ int64, a weak.Pointer[account]) bool { return a.Value() == nil })
	s.most = max(fewAccounts, 2*len(s.accounts))
}

// held returns the account object of an id, or nil where nobody holds it.
func (r *realm) held(id tokenstore.AccountID) *account {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := r.sides[sideID{id.ClientID, id.Live}]; s != nil {
		return s.accounts[id.UserID].Value()
	}
	return nil
}

// publish makes what was read what memory knows, unless memory knows a higher
// pair that nothing in the store has ended: then what was read is older.
func (a *account) publish(state *tokenstore.Account) *known {
	u := a.lock()
	defer a.unlock()
	u.tombstone = max(u.tombstone, state.Tombstone)
	current, read := a.known.Load(), knownOf(state, u.tombstone)
	if missing(current, state, u.tombstone) || current.same(read) {
		return current
	}
	a.known.Store(read)
	return read
}

// publishUnsaved lets the access token of a pair serve that is not in the store
// yet.
func (a *account) publishUnsaved(p tokenstore.Pair) {
	u := a.lock()
	defer a.unlock()
	current := a.known.Load()
	if p.Authorization <= u.tombstone || p.Less(current.top()) {
		return
	}
	a.known.Store(current.withUnsaved(&p))
}

// void drops the pairs up to an authorization at once.
func (a *account) void(authorization uint64) {
	u := a.lock()
	defer a.unlock()
	u.tombstone = max(u.tombstone, authorization)
	a.known.Store(a.known.Load().above(u.tombstone))
}

// drop forgets one pair at once.
func (a *account) drop(id tokenstore.PairID) {
	a.lock()
	defer a.unlock()
	a.known.Store(a.known.Load().without(id))
}

// sight notes which intents are there and when each was seen to change.
func (a *account) sight(state *tokenstore.Account, now time.Time) {
	u := a.lock()
	defer a.unlock()
	if len(state.Intents) == 0 {
		u.sightings, u.unsent = nil, nil // nearly all accounts, nearly always
		return
	}
	seen := make(map[string]sighting, len(state.Intents))
	for _, i := range state.Intents {
		s, ok := u.sightings[i.Nonce]
		if !ok || !sameIntent(s.intent, i) || s.at.After(now) {
			s = sighting{intent: i, at: now}
		}
		seen[i.Nonce] = s
	}
	u.sightings = seen
	maps.DeleteFunc(u.unsent, func(nonce string, _ struct{}) bool { _, there := seen[nonce]; return !there })
}

// note notes that an intent is there, though nobody read it.
func (u *unrest) note(i tokenstore.Intent, now time.Time) {
	if u.sightings == nil {
		u.sightings = make(map[string]sighting)
	}
	u.sightings[i.Nonce] = sighting{intent: i, at: now}
}

// sameIntent reports whether an intent has not changed. Some stores keep times to the
// microsecond only: one's own intent, read back, is not another for it.
func sameIntent(a, b tokenstore.Intent) bool {
	return a.Pair == b.Pair && a.Instance == b.Instance && a.Nonce == b.Nonce && a.Attempt == b.Attempt && a.At.Sub(b.At).Abs() < time.Microsecond
}
