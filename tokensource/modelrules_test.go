package tokensource

import (
	"errors"
	"os"
	"slices"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// What must hold in the model, whatever happens. Each rule is held against the
// true state of the store and of the provider, which no instance sees.

// trail is what the model knows of one seller.
type trail struct {
	account int64
	// connection is the one that the seller is known to have; "" where it has
	// none. It is not known where operations overlapped or failed.
	connection tokenstore.Connection
	known      bool
	// busy counts the operations on the seller that are under way, begun all of
	// them.
	busy, begun int
	// rejected is set once a token of the seller was said to have got a 401.
	rejected bool
}

// sent is what the model knows of the last request that posted a refresh token.
type sent struct {
	announced time.Time // when its intent was there
	began     time.Time
	// over says that its outcome was told, and was no new pair.
	over bool
	// landed is when the pair that it brought was first seen in the store.
	landed    time.Time
	successor string
}

// over is since when, and at which instance, a connection has ended or was
// replaced.
type over struct {
	at   time.Time
	tick int
	slot int
}

// voided is an account's tombstone, and when it was seen first.
type voided struct {
	number uint64
	at     time.Time
}

// living returns the hash of the account's living refresh token.
func (m *model) living(user int64) string {
	m.w.provider.mu.Lock()
	defer m.w.provider.mu.Unlock()
	refresh, ok := m.w.provider.refresh[user]
	if !ok {
		return ""
	}
	return tokenstore.HashPair(secret.Secret{}, secret.New(refresh))
}

// stands reports whether a pair is in the account and not void.
func stands(a *tokenstore.Account, hash string) bool {
	return slices.ContainsFunc(a.Pairs, func(p tokenstore.Pair) bool { return p.Hash == hash && p.Authorization > a.Tombstone })
}

// changed holds every write to an account against the rules, at the moment it
// is carried out.
func (m *model) changed(before, after *tokenstore.Account) {
	living := m.living(after.ID.UserID)
	m.mu.Lock()
	defer m.mu.Unlock()
	if living != "" && stands(before, living) && !stands(after, living) && after.Tombstone == before.Tombstone {
		m.journal.violated("the living pair of account %d was deleted", after.ID.UserID)
	}
	if living != "" && after.Verdict(living) != nil {
		m.journal.violated("a verdict was written on the living pair of account %d", after.ID.UserID)
	}
	for _, p := range before.Pairs {
		gone := !slices.ContainsFunc(after.Pairs, func(there tokenstore.Pair) bool { return there.PairID == p.PairID })
		s, holder := m.sent[p.Hash], m.holders[living]
		if gone && p.Authorization > after.Tombstone && s != nil && s.successor == living && holder != nil && !holder.dead && m.authorized[living] == 0 {
			m.journal.violated("pair %s of account %d was deleted before its successor was saved", p.PairID, after.ID.UserID)
		}
	}
	for _, p := range after.Pairs {
		m.authorized[p.Hash] = max(m.authorized[p.Hash], p.Authorization)
		if !slices.ContainsFunc(before.Pairs, func(there tokenstore.Pair) bool { return there.PairID == p.PairID }) {
			_, m.reborn[p.Hash] = m.arrived[p.PairID]
			m.arrived[p.PairID] = time.Now()
		}
		for _, s := range m.sent {
			if s.successor == p.Hash && s.landed.IsZero() {
				s.landed = time.Now()
			}
		}
	}
	for _, i := range after.Intents {
		if _, ok := m.announced[i.Nonce]; !ok {
			m.announced[i.Nonce] = time.Now()
			m.intents[i.Pair+i.Instance] = time.Now()
		}
	}
}

// posted holds a token request against the rule for unknown outcomes.
func (m *model) posted(p *process, user int64, hash string) *sent {
	pair, succeeded := m.pairOf(hash)
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	last, next := m.sent[hash], &sent{began: now, announced: m.intents[hash+p.manager.instance]}
	m.sent[hash] = next
	if next.announced.IsZero() {
		m.journal.violated("slot %d posts a pair of account %d without an intent", p.slot, user)
	}
	delete(m.intents, hash+p.manager.instance)
	if m.lag > 0 {
		return next // no guard can do anything about what cannot be seen
	}
	if n, void := m.authorized[hash], m.tombstones[user]; n <= void.number && now.Sub(void.at) > timeout {
		m.journal.violated("slot %d posts a pair of account %d that was disconnected %s ago", p.slot, user, now.Sub(void.at))
	}
	if last == nil || last.over || m.faulty && m.reborn[hash] {
		return next
	}
	if succeeded && !last.landed.IsZero() && now.Sub(last.landed) > timeout {
		m.journal.violated("slot %d posts a pair of account %d again whose successor is in the store for %s", p.slot, user, now.Sub(last.landed))
	}
	if since := now.Sub(last.announced); since < timeout+slack {
		m.journal.violated("slot %d posts a pair of account %d again %s after it was announced", p.slot, user, since)
	}
	if pair != nil && !m.jumps && now.Before(pair.ExpiresAt) {
		if long, since := min(retryUnknown, m.w.provider.life/3), now.Sub(last.announced); since < long-timeout {
			m.journal.violated("slot %d posts a pair of account %d again after %s, while its access token lives", p.slot, user, since)
		}
	}
	return next
}

// pairOf finds a pair in the store, and whether one that came of it is there and
// may be alive.
func (m *model) pairOf(hash string) (pair *tokenstore.Pair, succeeded bool) {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	for id := range m.store.accounts {
		a := m.store.newest(id)
		i := slices.IndexFunc(a.Pairs, func(p tokenstore.Pair) bool { return p.Hash == hash })
		if i < 0 {
			continue
		}
		pair = &a.Pairs[i]
		for _, p := range a.Pairs {
			succeeded = succeeded || p.Authorization == pair.Authorization && p.Generation > pair.Generation && a.Verdict(p.Hash) == nil
		}
	}
	return pair, succeeded
}

// kept reports whether a copy of the account's living pair is where it outlives
// the processes.
func (m *model) kept(user int64) bool {
	living := m.living(user)
	m.store.mu.Lock()
	a := m.store.newest(accountID(user))
	m.store.mu.Unlock()
	if living == "" || stands(&a, living) {
		return living != ""
	}
	for slot := range m.processes {
		entries, _ := os.ReadDir(m.spills(slot))
		for _, e := range entries {
			record, err := os.ReadFile(m.spills(slot) + "/" + e.Name())
			if err != nil {
				continue
			}
			if _, p, err := tokenstore.OpenPair(m.w.keyring, secret.Spill, record); err == nil && p.Hash == living {
				return true
			}
		}
	}
	return false
}

// look holds the whole against the rule that what was kept once stays kept.
func (m *model) look() {
	for _, user := range []int64{100, 200} {
		living := m.living(user)
		kept := living != "" && m.kept(user)
		m.store.mu.Lock()
		void := m.store.newest(accountID(user)).Tombstone
		m.store.mu.Unlock()
		m.mu.Lock()
		if void > m.tombstones[user].number {
			m.tombstones[user] = voided{number: void, at: time.Now()}
		}
		if !kept && m.keptOnce[living] && m.authorized[living] > void {
			m.journal.violated("the last copy of the living pair of account %d is gone", user)
		}
		if kept {
			m.keptOnce[living] = true
		}
		m.mu.Unlock()
	}
}

// allowed is how long after a connection is over a process may still serve it.
func (m *model) allowed(p *process, o over) time.Duration {
	slow := slices.ContainsFunc(m.waiting, func(w *waiting) bool { return w.process == p && time.Since(w.since) >= time.Second })
	if slow || !p.unread.Before(o.at.Add(-validFor)) {
		return staleMax + validFor // it could not read the store
	}
	return validFor + time.Second
}

// served holds a token that was given against the rules.
func (m *model) served(p *process, seller string, began over, token *Token) {
	owner := m.w.provider.owner(token.AccessToken())
	m.mu.Lock()
	defer m.mu.Unlock()
	c := token.Connection()
	account := token.Account()
	if p.dead {
		return
	}
	if owner != account.UserID || token.Seller() != seller || m.placed[c] != seller {
		m.journal.violated("%s was given a token of account %d, connection %s of %s", seller, owner, account, m.placed[c])
	}
	o, ok := m.over[c]
	if ok && (p.slot == o.slot && began.tick > o.tick || p.slot != o.slot && began.at.Sub(o.at) > m.allowed(p, o)) {
		m.journal.violated("slot %d gave %s a token of a connection that is over for %s", p.slot, seller, began.at.Sub(o.at))
	}
}

// valid returns the connection that a seller has, if it has a valid access token
// by the clock of a process.
func (m *model) valid(p *process, seller string) string {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	c, ok := m.store.pointer([2]string{"", seller})
	// What came within the last half minute is not known everywhere.
	const half = validFor + time.Second
	if !ok || time.Since(m.placedAt[c.ID]) <= half {
		return ""
	}
	now, a := m.clock(p.slot), m.store.newest(c.Account)
	for _, pair := range a.Pairs {
		if pair.Authorization > a.Tombstone && now.Before(pair.ExpiresAt) && time.Since(m.arrived[pair.PairID]) > half {
			return c.ID
		}
	}
	return ""
}

// withheld holds an error against the rule that a valid token is never withheld.
func (m *model) withheld(p *process, seller, validBefore string, troubles int, err error) {
	validNow := m.valid(p, seller)
	m.mu.Lock()
	defer m.mu.Unlock()
	if validBefore == "" || validBefore != validNow || m.lag > 0 || p.dead || p.troubles != troubles || m.trails[seller].rejected {
		return
	}
	m.journal.violated("slot %d withheld a valid token from %s: %v", p.slot, seller, err)
}

// settled is what must hold once all faults are over: whoever has a connection,
// and an account with a living pair that is kept somewhere, has a token, and
// goes on having one; whoever was disconnected has none.
func (m *model) settled() {
	m.look()
	fresh := m.start(len(m.processes))
	m.processes = append(m.processes, fresh)
	recoverable := map[int64]bool{100: m.kept(100), 200: m.kept(200)}
	for _, user := range []int64{100, 200} {
		living, pointed := m.living(user), m.pointed(user)
		m.mu.Lock()
		if holder := m.holders[living]; holder != nil && !holder.dead && !recoverable[user] && m.authorized[living] == 0 && pointed {
			m.journal.violated("a pair of account %d was delivered to slot %d, which runs on, and is nowhere", user, holder.slot)
		}
		m.mu.Unlock()
	}
	for range 2 {
		for _, p := range []*process{fresh, m.processes[0]} {
			for _, seller := range sellers {
				if m.journal.failed() == "" {
					m.ends(p, fresh, seller, recoverable)
				}
			}
		}
		time.Sleep(m.w.provider.life + time.Minute)
	}
}

// pointed reports whether a seller acts with the account: with one that was
// disconnected, its pairs go too.
func (m *model) pointed(user int64) bool {
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	return slices.ContainsFunc(sellers, func(seller string) bool {
		c, ok := m.store.pointer([2]string{"", seller})
		return ok && c.Account.UserID == user
	})
}

// ends checks one seller at one process in the end.
func (m *model) ends(p, fresh *process, seller string, recoverable map[int64]bool) {
	m.mu.Lock()
	t := *m.trails[seller]
	void := m.tombstones[t.account].number
	m.mu.Unlock()
	if !t.known || t.busy > 0 {
		return
	}
	if t.connection.ID == "" {
		if token, err := p.token(seller); err == nil {
			m.journal.violated("slot %d serves %s, who was disconnected, a token of %s", p.slot, seller, token.Account())
		} else if asError(err).Status != NotConnected {
			m.journal.violated("slot %d tells %s, who was disconnected, %v", p.slot, seller, err)
		}
		return
	}
	if !recoverable[t.account] {
		if m.lag == 0 && void >= t.connection.Authorization {
			m.journal.violated("%s is connected to account %d, which another's disconnect has voided", seller, t.account)
		}
		return
	}
	var last error
	for range 300 {
		began := m.moment(p)
		token, err := p.token(seller)
		if err == nil {
			m.served(p, seller, began, token)
			return
		}
		problem, ok := errors.AsType[*Error](err)
		if !ok || problem.Status != Connected || problem.RetryAfter <= 0 {
			m.journal.violated("slot %d tells %s, whose pair is alive: %v", p.slot, seller, err)
			return
		}
		last = err
		time.Sleep(problem.RetryAfter)
	}
	if p == fresh {
		m.journal.violated("slot %d never gave %s a token: %v", p.slot, seller, last)
	}
}
