package tokensource

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
	"unique"
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
	// A seller whose memory was not believed any more for idleAfter is dormant from
	// then on; that is seen every tidyEvery.
	idleAfter = 30 * time.Second
	tidyEvery = 10 * time.Second
	// skew is the difference of clocks within a fleet that is not remarkable.
	skew = 5 * time.Minute

	defaultRenewBefore = 30 * 24 * time.Hour
	longLife           = 90 * 24 * time.Hour
)

var errEnded = errors.New("the token that another instance obtained has ended")

// key names a seller of an application.
type key struct {
	application unique.Handle[string]
	seller      string
}

// snapshot is what memory has about a seller: a connection with the best token of
// its account. But for recheckAfter it never changes: what is newer is a new
// snapshot. There are very many.
type snapshot struct {
	// Token is without a pair where no access token is valid.
	Token
	// validatedAt is when the store was read, and validFor for how long from then on
	// that is believed.
	validatedAt moment
	validFor    span
	// recheckAfter is the [span] after which the seller is read again. Its highest bit
	// is set while that is done.
	recheckAfter atomic.Uint32
}

const rechecking = 1 << 31

// token returns the snapshot's token, or nil if none is valid.
func (s *snapshot) token() *Token {
	if s == nil || s.pair() == nil {
		return nil
	}
	return &s.Token
}

// is reports whether the snapshot is of a seller.
func (s *snapshot) is(k key) bool {
	return int(s.sellerEnds) == len(k.seller) && s.application == k.application && s.Seller() == k.seller
}

// of reports whether the snapshot is of the application's client id: its name may
// have had another.
func (s *snapshot) of(app *application) bool {
	return s.account.side == app.live || s.account.side == app.test
}

// believed reports whether the connection need not be read again. A clock that was
// set back ends that.
func (s *snapshot) believed(now time.Time) bool {
	m := momentOf(now)
	return s.validatedAt <= m && m < s.validatedAt.after(s.validFor)
}

// fresh reports whether the snapshot may serve without asking the store.
func (s *snapshot) fresh(now time.Time) bool {
	return s.believed(now) && s.known == s.account.known.Load()
}

// recheck reports whether the seller must be read again. The one caller that gets
// true must do it, and then call rechecked.
func (s *snapshot) recheck(now time.Time) bool {
	after := s.recheckAfter.Load()
	return after&rechecking == 0 && momentOf(now) >= s.validatedAt.after(span(after)) &&
		s.recheckAfter.CompareAndSwap(after, after|rechecking)
}

// idle reports whether nobody asked for the seller for a while: a request would have
// had it read again or, while the store cannot be read, would have extended validFor.
func (s *snapshot) idle(m moment) bool { return m >= s.validatedAt.after(s.validFor).add(idleAfter) }

func (s *snapshot) rechecked() { s.recheckAfter.And(^uint32(rechecking)) }

// believe notes until when a new snapshot may serve.
func (s *snapshot) believe(validatedAt, recheckAt, serveUntil moment) {
	s.validatedAt, s.validFor = validatedAt, serveUntil.since(validatedAt)
	s.recheckAfter.Store(uint32(recheckAt.since(validatedAt)))
}

// snapshot builds a snapshot of a connection, by its id, from what memory knows.
func (a *account) snapshot(k key, connection string, app *application, now time.Time) *snapshot {
	s := &snapshot{Token: Token{
		application: k.application, names: k.seller + connection, sellerEnds: uint16(len(k.seller)), account: a,
	}}
	m := momentOf(now)
	s.believe(m, m.add(recheckAfter), m.add(validFor))
	s.look(app, now)
	return s
}

// again is the snapshot with what its account knows now, read no later.
func (s *snapshot) again(app *application, now time.Time) *snapshot {
	next := &snapshot{Token: s.Token, validatedAt: s.validatedAt, validFor: s.validFor}
	// rechecked clears the flag of the old snapshot only: copied, it would stay set.
	next.recheckAfter.Store(s.recheckAfter.Load() &^ rechecking)
	next.look(app, now)
	return next
}

// look fills a new snapshot with what its account knows.
func (s *snapshot) look(app *application, now time.Time) {
	s.known = s.account.known.Load()
	serving := s.known.serve(now, s.account.rejected())
	s.place = s.known.place(serving)
	s.dueAt = 0
	switch {
	case serving == nil:
	case s.known.needed(now, app.RenewBefore, 0, serving):
		s.dueAt = 1
	case s.known.renewable() != nil:
		s.dueAt = serving.dueAt(now, app.RenewBefore).second()
	}
}

// stale is the snapshot for a while in which the store cannot be read; nil where
// nothing is valid or the store was read too long ago.
func (s *snapshot) stale(app *application, now time.Time) *snapshot {
	next, m := s.again(app, now), momentOf(now)
	end := s.validatedAt.add(staleMax)
	if next.pair() == nil || !s.of(app) || m >= end {
		return nil
	}
	validatedAt := min(s.validatedAt, m) // the clock may have been set back
	next.believe(validatedAt, m.add(storeRetry/2), min(m.add(storeRetry), end))
	return next
}

// remember puts a snapshot into memory, unless a connection was changed here
// since epoch was read.
func (r *realm) remember(s *snapshot, epoch uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.epoch != epoch {
		return false
	}
	r.awake.put(s)
	r.dormant.drop(s.key())
	r.trim()
	return true
}

// trim has sellers give way where there are more than there may be: those who are
// dormant for longest, and then others.
func (r *realm) trim() {
	r.dormant.evict(r.awake.sellers + r.dormant.len() - r.most)
	r.awake.evict(r.awake.sellers - r.most)
}

// resize bounds the sellers in memory anew.
func (r *realm) resize(most int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.most = most
	r.trim()
}

// entry is what memory has about a seller, who is not dormant from then on. One who
// was has yet to be told what its account knows: it is no longer believed anyway.
func (r *realm) entry(k key) (*snapshot, bool) {
	if s, ok := r.awake.get(k); ok {
		return s, true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	packed, id, ok := r.dormant.find(k)
	if !ok {
		return r.awake.get(k) // it may have come out just now
	}
	s := packed.snapshot(r.find(id))
	r.dormant.drop(k)
	r.awake.put(s)
	return s, true
}

// has reports whether memory has anything about a seller.
func (r *realm) has(k key) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, awake := r.awake.get(k)
	_, _, dormant := r.dormant.find(k)
	return awake || dormant
}

// tidy packs, now and then and in the background, the sellers nobody asked for in a
// while.
func (r *realm) tidy(now time.Time) {
	m, last := momentOf(now), r.tidied.Load()
	if since := m - moment(last); since >= 0 && since < moment(tidyEvery) || !r.tidied.CompareAndSwap(last, int64(m)) {
		return
	}
	r.manager.spawn(0, func(ctx context.Context) { r.packIdle(ctx, m) })
}

func (r *realm) packIdle(ctx context.Context, m moment) {
	r.sweep()
	for s := range r.awake.all() {
		if ctx.Err() != nil {
			return
		}
		if s.idle(m) {
			r.rest(s)
		}
	}
}

// sweep forgets the accounts of those who became dormant, whom nobody holds any more
// once garbage was collected.
func (r *realm) sweep() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.packed == 0 {
		return
	}
	for _, s := range r.sides {
		if before := len(s.accounts); before > fewAccounts+2*r.awake.sellers {
			s.sweep()
			r.packed -= before - len(s.accounts)
		}
	}
	r.packed = max(r.packed, 0)
}

// rest makes a seller dormant, unless something goes on about it.
func (r *realm) rest(s *snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if current, _ := r.awake.get(s.key()); current == s && r.dormant.put(s) {
		r.awake.remove(s.key())
		r.packed++
	}
}

// swap puts a snapshot in the place of an old one, unless that is in memory no more.
func (r *realm) swap(old, next *snapshot) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if current, _ := r.awake.get(old.key()); current == old {
		r.awake.put(next)
	}
}

// forget drops a seller from memory, and makes every load that is under way read
// again. It returns the new epoch.
func (r *realm) forget(k key) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.epoch++
	r.remove(k)
	return r.epoch
}

// drop drops a seller from memory that the store does not have.
func (r *realm) drop(k key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.remove(k)
}

func (r *realm) remove(k key) {
	r.awake.remove(k)
	r.dormant.drop(k)
}

func (r *realm) epochNow() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.epoch
}
