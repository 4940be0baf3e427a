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
	setback setback
	failed  tokenstore.PairID
	marks
	// forcing is how many requests are about to have it refreshed because of a 401, or
	// wait for that.
	forcing   int
	sightings map[string]sighting
	// unsent are the nonces of intents that were not followed by a POST and
	// could not be withdrawn.
	unsent map[string]struct{}
}

// marks are what is remembered of an account while nothing goes on.
type marks struct {
	tombstone uint64
	// rejected is the pair whose access token got a 401 last, and forced and forcedAt
	// are the last pair refreshed because of one.
	rejected, forced tokenstore.PairID
	forcedAt         time.Time
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
	if a.unrest.over() && a.unrest.marks == (marks{}) {
		a.unrest = nil
	}
	a.side.sellers.update(a)
	a.mu.Unlock()
}

// over reports whether nothing is in progress or held back. unlock may then drop the
// unrest: dropped earlier, a second flight could begin beside the first, or a failure
// would be retried at once.
func (u *unrest) over() bool {
	return u == nil || u.flight == nil && u.setback.over() && u.forcing == 0 && len(u.sightings) == 0 && len(u.unsent) == 0
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

	// The rest is for dormant sellers, and under their lock.
	sellers *dormant
	// number is the side's own.
	number int
	// dormant is where the accounts are packed that have dormant sellers. restless holds
	// those of them with a flight or a failure to remember: accounts is weak, and nobody
	// else may hold them. It is nil where there are none.
	dormant  map[int64]place
	restless map[int64]*account
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
	return r.find(id)
}

// find is account for who holds the lock.
func (r *realm) find(id tokenstore.AccountID) *account {
	s := r.side(id.ClientID, id.Live)
	if a := s.accounts[id.UserID].Value(); a != nil {
		return a
	}
	a := &account{side: s, user: id.UserID}
	a.known.Store(nothingKnown)
	r.dormant.recall(a)
	if len(s.accounts) >= s.most {
		s.sweep()
	}
	s.accounts[id.UserID] = weak.Make(a)
	return a
}

// side returns the one side of a client id, for who holds the lock. It stays as long as
// the realm.
func (r *realm) side(clientID string, live bool) *side {
	s := r.sides[sideID{clientID, live}]
	if s == nil {
		own := sideID{strings.Clone(clientID), live}
		s = r.dormant.side(own)
		r.sides[own] = s
	}
	return s
}

// sweep forgets the accounts that nobody holds; the next time is when there are twice
// as many as it leaves. A map that once was large stays so: it is made anew.
func (s *side) sweep() {
	held := make(map[int64]weak.Pointer[account])
	for user, a := range s.accounts {
		if a.Value() != nil {
			held[user] = a
		}
	}
	s.accounts, s.most = held, max(fewAccounts, 2*len(held))
}

// knows reports whether memory has anything about an account.
func (r *realm) knows(id tokenstore.AccountID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.sides[sideID{id.ClientID, id.Live}]
	return s != nil && (s.accounts[id.UserID].Value() != nil || r.dormant.has(s, id.UserID))
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
		// A clock that was set back leaves sightings in the future. They would hold the
		// account back until then.
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
// microsecond only, so an unchanged intent that is read back may differ by less.
func sameIntent(a, b tokenstore.Intent) bool {
	return a.Pair == b.Pair && a.Instance == b.Instance && a.Nonce == b.Nonce && a.Attempt == b.Attempt && a.At.Sub(b.At).Abs() < time.Microsecond
}
