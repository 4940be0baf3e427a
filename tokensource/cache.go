package tokensource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unique"
	"weak"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// What memory knows is believed for validFor, and read again from
	// recheckAfter on in the background, so that a busy seller never waits.
	validFor     = 30 * time.Second
	recheckAfter = 20 * time.Second
	// staleMax is how long valid tokens serve while the store cannot be read.
	staleMax = 24 * time.Hour
	// staleWait is how long a request waits for a store that does not answer
	// before memory serves it.
	staleWait = 2 * time.Second
	// skew is the difference of clocks within a fleet that is not remarkable.
	skew = 5 * time.Minute

	defaultRenewBefore = 30 * 24 * time.Hour
	longLife           = 90 * 24 * time.Hour
)

var errEnded = errors.New("the token that another instance obtained has ended")

type key struct{ application, seller string }

// entry is what memory has about a seller. A hit loads one pointer.
type entry struct {
	snapshot   atomic.Pointer[snapshot]
	rechecking atomic.Bool
}

// snapshot is a connection with the best token of its account. It never
// changes: what is newer is a new snapshot.
type snapshot struct {
	connection *tokenstore.Connection // the token's own: there are very many
	account    *account
	// known is what token was made from.
	known *known
	// token is nil where no access token is valid.
	token *Token
	// obtainedAt and dueAt are those of the token's pair; dueAt is zero where
	// the token cannot be renewed.
	obtainedAt, dueAt time.Time

	validatedAt, recheckAt, serveUntil time.Time
}

// fresh reports whether the snapshot may serve without asking the store. A clock
// that was set back ends that.
func (s *snapshot) fresh(now time.Time) bool {
	return !now.Before(s.validatedAt) && now.Before(s.serveUntil) && s.known == s.account.known.Load()
}

// lasts reports whether the token is valid for minValidity. Of a token that
// lives so short that it never would be for long, a third of its life is
// enough: it would otherwise be refreshed in a circle.
func (s *snapshot) lasts(now time.Time, minValidity time.Duration) bool {
	return s.token != nil && lasts(s.obtainedAt, s.token.ExpiresAt, now, minValidity)
}

func lasts(obtained, expires, now time.Time, minValidity time.Duration) bool {
	left := expires.Sub(now)
	return left > 0 && left >= min(minValidity, expires.Sub(obtained)/3)
}

// dueAt is from when on a pair is renewed.
func dueAt(obtained, expires, now time.Time, renewBefore time.Duration) time.Time {
	if obtained.After(now.Add(skew)) {
		// The clock was set back, here or where the pair was obtained: its end
		// may be nearer than it looks.
		return now
	}
	life := expires.Sub(obtained)
	if life < longLife {
		return expires.Add(-life / 3)
	}
	if renewBefore <= 0 {
		renewBefore = defaultRenewBefore
	}
	// Not before a sixth of its life, or a renew_before of about a token's life
	// would have it refreshed all the time.
	return expires.Add(-min(renewBefore, life-life/6))
}

// known is what is known of an account's pairs. It never changes.
type known struct {
	// living and condemned are the pairs above the tombstone, highest first. One
	// whose access token is known to be dead is in neither.
	living, condemned []tokenstore.Pair
	// reason is why the highest dead pair is dead.
	reason string
	// unsaved is set while the highest pair is not in the store yet.
	unsaved bool
	// moved is set where another store is in charge of the account.
	moved bool
}

// serve returns the pair whose access token is used, or nil: the highest living
// one that is valid, else the highest valid one whose refresh token is dead. The
// provider's verdict is on the refresh token, and no failure to renew shows
// while an access token is valid; but one that was seen to fail is done with.
func (k *known) serve(now time.Time, rejected tokenstore.PairID) *tokenstore.Pair {
	for i := range k.living {
		if p := &k.living[i]; now.Before(p.ExpiresAt) {
			return p
		}
	}
	for i := range k.condemned {
		if p := &k.condemned[i]; now.Before(p.ExpiresAt) && p.PairID != rejected {
			return p
		}
	}
	return nil
}

// renewable returns the pair whose refresh token is used next, or nil.
func (k *known) renewable() *tokenstore.Pair {
	if k.moved {
		return nil
	}
	for i := range k.living {
		if p := &k.living[i]; !p.RefreshToken.IsZero() {
			return p
		}
	}
	return nil
}

// problem says why nothing serves and nothing can be renewed. Where something
// can be, it came from an instance whose clock is another, and has ended here.
func (k *known) problem() *Error {
	if k.moved {
		return hasMoved()
	}
	if k.renewable() != nil {
		return &Error{Status: Connected, Reason: ReasonProvider, RetryAfter: providerRetry, Err: errEnded}
	}
	err := &Error{Status: ReconnectRequired, Reason: k.reason}
	switch {
	case len(k.living) > 0:
		err.Reason = ReasonNoRefreshToken
	case k.reason == "":
		err.Reason = ReasonDisconnected
	}
	return err
}

func (k *known) top() tokenstore.PairID {
	if len(k.living) == 0 {
		return tokenstore.PairID{}
	}
	return k.living[0].PairID
}

func newKnown(state *tokenstore.Account, tombstone uint64) *known {
	k := &known{moved: state.Moved != nil}
	for _, p := range slices.Backward(state.Pairs) {
		if p.Authorization <= max(tombstone, state.Tombstone) {
			continue
		}
		if v := state.Verdict(p.Hash); v != nil {
			if k.reason == "" {
				k.reason = v.Reason
			}
			if v.Reason == ReasonDeauthorized {
				continue // the verdict is on the access token too: it serves nobody
			}
			k.condemned = append(k.condemned, p)
			continue
		}
		// One text for all who have the same, instead of one for each.
		p.Scope = unique.Make(p.Scope).Value()
		k.living = append(k.living, p)
	}
	return k
}

func (k *known) same(other *known) bool {
	equal := func(a, b tokenstore.Pair) bool { return a.PairID == b.PairID && a.ExpiresAt.Equal(b.ExpiresAt) }
	return k.reason == other.reason && k.unsaved == other.unsaved && k.moved == other.moved &&
		slices.EqualFunc(k.living, other.living, equal) &&
		slices.EqualFunc(k.condemned, other.condemned, equal)
}

// account is what memory has about an account. Every seller that points to it
// shares it, and so does its flight: forgetting a seller never loses a flight.
type account struct {
	id    tokenstore.AccountID
	known atomic.Pointer[known]
	// setback holds the account's refreshes back; it counts for one pair only.
	setback setback
	// tryAt is before when a renewal in the background is of no use, as Unix
	// nanoseconds: a hit must not take a lock to find out.
	tryAt atomic.Int64

	mu        sync.Mutex
	flight    *flight
	tombstone uint64
	failed    tokenstore.PairID
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

type accounts map[tokenstore.AccountID]weak.Pointer[account]

// account returns the one account object of an id. It lives as long as someone
// holds it.
func (r *realm) account(id tokenstore.AccountID) *account {
	r.mu.Lock()
	defer r.mu.Unlock()
	if a := r.accounts[id].Value(); a != nil {
		return a
	}
	a := &account{id: id}
	a.known.Store(new(known))
	pointer := weak.Make(a)
	r.accounts[id] = pointer
	// The clean-up must not hold the realm: that holds the account.
	runtime.AddCleanup(a, forgetAccount, collected{weak.Make(r), id, pointer})
	return a
}

type collected struct {
	realm   weak.Pointer[realm]
	id      tokenstore.AccountID
	pointer weak.Pointer[account]
}

func forgetAccount(c collected) {
	r := c.realm.Value()
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.accounts[c.id] == c.pointer {
		delete(r.accounts, c.id)
	}
}

// publish makes what was read what memory knows, unless memory knows a higher
// pair that nothing in the store has ended: then what was read is older.
func (a *account) publish(state *tokenstore.Account) *known {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tombstone = max(a.tombstone, state.Tombstone)
	current, read := a.known.Load(), newKnown(state, a.tombstone)
	if missing(current, state, a.tombstone) || current.same(read) {
		return current
	}
	a.known.Store(read)
	return read
}

// publishUnsaved lets the access token of a pair serve that is not in the store
// yet.
func (a *account) publishUnsaved(p tokenstore.Pair) {
	a.mu.Lock()
	defer a.mu.Unlock()
	current := a.known.Load()
	if p.Authorization <= a.tombstone || p.Less(current.top()) {
		return
	}
	next := *current
	next.living = append([]tokenstore.Pair{p}, current.living...)
	next.unsaved = true
	a.known.Store(&next)
}

// void drops the pairs up to an authorization at once.
func (a *account) void(authorization uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.tombstone = max(a.tombstone, authorization)
	above := func(pairs []tokenstore.Pair) (kept []tokenstore.Pair) {
		for _, p := range pairs {
			if p.Authorization > a.tombstone {
				kept = append(kept, p)
			}
		}
		return kept
	}
	next := *a.known.Load()
	next.living, next.condemned = above(next.living), above(next.condemned)
	if len(next.condemned) == 0 {
		next.reason = ""
	}
	next.unsaved = next.unsaved && len(next.living) > 0
	a.known.Store(&next)
}

// drop forgets one pair at once.
func (a *account) drop(id tokenstore.PairID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := *a.known.Load()
	next.living = slices.DeleteFunc(slices.Clone(next.living), func(p tokenstore.Pair) bool { return p.PairID == id })
	a.known.Store(&next)
}

// missing reports whether k has a living pair above all living ones that state
// has, though nothing in state ended it or came of it.
func missing(k *known, state *tokenstore.Account, tombstone uint64) bool {
	if len(k.living) == 0 {
		return false
	}
	top := k.top()
	if top.Authorization <= max(tombstone, state.Tombstone) || state.Verdict(top.Hash) != nil {
		return false
	}
	return !covers(state, top) && !slices.ContainsFunc(state.Pairs, func(p tokenstore.Pair) bool {
		return top.Less(p.PairID) && state.Verdict(p.Hash) == nil
	})
}

// read loads an account and makes it what memory knows. Where memory knew,
// before the store was asked, a pair above all that the store has, the store
// lags or was restored from a back-up: the pair is added again, nothing is
// overwritten.
func (s *Source) read(ctx context.Context, store tokenstore.Store, app string, a *account) (tokenstore.Account, error) {
	before := a.known.Load()
	state, err := store.Account(ctx, a.id)
	if err == nil && !before.unsaved && missing(before, &state, 0) {
		// Once more: a list that was read while another instance replaced a pair
		// can show neither.
		state, err = store.Account(ctx, a.id)
		if err == nil {
			err = wiped(ctx, store, &state)
		}
		if err == nil && missing(before, &state, 0) {
			err = s.addAgain(ctx, store, app, a, &state, before)
		}
	}
	if err != nil {
		return state, err
	}
	a.sight(&state, s.now())
	a.publish(&state)
	return state, nil
}

// wiped returns an error where a store has nothing at all of an account that
// memory knows: a disconnect leaves a tombstone, or the pairs. It is a folder
// whose volume is not mounted, say, and what would be saved there would be gone
// when it is.
func wiped(ctx context.Context, store tokenstore.Store, state *tokenstore.Account) error {
	if len(state.Pairs) > 0 || state.Tombstone > 0 {
		return nil
	}
	connections, err := store.Connections(ctx, state.ID)
	if err != nil {
		return fmt.Errorf("listing the connections of account %s: %w", state.ID, err)
	}
	if len(connections) == 0 {
		return &tokenstore.UnreadableError{Err: fmt.Errorf("the store has lost account %s, which memory knows: is its volume mounted, is it the right database?", state.ID)}
	}
	return nil
}

func (s *Source) addAgain(ctx context.Context, store tokenstore.Store, app string, a *account, state *tokenstore.Account, before *known) error {
	pair := before.living[0]
	cause := errors.New("the store lost a pair that memory knows; it was added again: is it a replica that lags, or was it restored from a back-up?")
	s.observe(Event{Name: EventAlarm, Application: app, Account: a.id, Pair: pair.PairID, Reason: ReasonStore, Err: cause})
	if err := store.AddPair(ctx, a.id, pair); err != nil {
		return err
	}
	state.Pairs = append(state.Pairs, pair)
	slices.SortFunc(state.Pairs, func(x, y tokenstore.Pair) int {
		if x.Less(y.PairID) {
			return -1
		}
		return 1
	})
	return nil
}

// sight notes which intents are there and when each was seen to change.
func (a *account) sight(state *tokenstore.Account, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(state.Intents) == 0 {
		a.sightings, a.unsent = nil, nil // nearly all accounts, nearly always
		return
	}
	seen := make(map[string]sighting, len(state.Intents))
	for _, i := range state.Intents {
		s, ok := a.sightings[i.Nonce]
		if !ok || !sameIntent(s.intent, i) || s.at.After(now) {
			s = sighting{intent: i, at: now}
		}
		seen[i.Nonce] = s
	}
	a.sightings = seen
	maps.DeleteFunc(a.unsent, func(nonce string, _ struct{}) bool { _, there := seen[nonce]; return !there })
}

// note notes that an intent is there, though nobody read it. The account must be
// locked.
func (a *account) note(i tokenstore.Intent, now time.Time) {
	if a.sightings == nil {
		a.sightings = make(map[string]sighting)
	}
	a.sightings[i.Nonce] = sighting{intent: i, at: now}
}

// sameIntent reports whether an intent has not changed. Some stores keep times to the
// microsecond only: one's own intent, read back, is not another for it.
func sameIntent(a, b tokenstore.Intent) bool {
	return a.Pair == b.Pair && a.Instance == b.Instance && a.Nonce == b.Nonce && a.Attempt == b.Attempt && a.At.Sub(b.At).Abs() < time.Microsecond
}

// snapshot builds a snapshot of a connection from what memory knows.
func (a *account) snapshot(c tokenstore.Connection, app *application, now time.Time) *snapshot {
	a.mu.Lock()
	rejected := a.rejected
	a.mu.Unlock()
	k := a.known.Load()
	t := &Token{Application: app.Name, Seller: c.Seller, Connection: c}
	s := &snapshot{
		connection:  &t.Connection,
		account:     a,
		known:       k,
		validatedAt: now,
		recheckAt:   now.Add(recheckAfter),
		serveUntil:  now.Add(validFor),
	}
	p := k.serve(now, rejected)
	if p == nil {
		return s
	}
	t.AccessToken, t.ExpiresAt, t.PublicKey, t.Pair = p.AccessToken, p.ExpiresAt, p.PublicKey, p.PairID
	s.token = t
	s.obtainedAt = p.ObtainedAt
	if k.needed(now, app.RenewBefore, 0, p) {
		s.dueAt = now
	} else if r := k.renewable(); r != nil {
		s.dueAt = dueAt(p.ObtainedAt, p.ExpiresAt, now, app.RenewBefore)
	}
	return s
}

// needed reports whether the account's renewable pair, if any, ought to be
// refreshed now, seen from the pair that serves.
func (k *known) needed(now time.Time, renewBefore, minValidity time.Duration, serving *tokenstore.Pair) bool {
	r := k.renewable()
	switch {
	case r == nil || k.unsaved:
		return false
	case serving == nil || serving.Less(r.PairID):
		return true // the renewable pair is above, and its access token has ended
	case !lasts(serving.ObtainedAt, serving.ExpiresAt, now, minValidity):
		return true
	case serving.PairID != r.PairID:
		return false // a newer consent without a refresh token still serves
	}
	return !now.Before(dueAt(r.ObtainedAt, r.ExpiresAt, now, renewBefore))
}

// remember puts a snapshot into memory, unless a connection was changed here
// since epoch was read.
func (r *realm) remember(k key, s *snapshot, epoch uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epoch != epoch {
		return false
	}
	e := new(entry)
	e.snapshot.Store(s)
	if there, added := r.entries.SetIfAbsent(k, e); !added {
		there.snapshot.Store(s)
	}
	return true
}

// forget drops a seller from memory, and makes every load that is under way read
// again. It returns the new epoch.
func (r *realm) forget(k key) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	r.entries.Invalidate(k)
	return r.epoch
}

func (r *realm) epochNow() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch
}
