package tokensource

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"sync"
	"weak"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// dormant is what memory has about sellers nobody asked for in a while, packed into
// bytes without pointers. The objects that a seller in use has are looked at in each
// collection of garbage: a hundred thousand sellers would cost every request a fifth
// of its CPU time. Nothing gets lost by it: what is asked for comes out as it went in.
// A seller is here or awake, and moves under the realm's lock.
type dormant struct {
	mu   sync.Mutex
	slab slab
	seed maphash.Seed
	// sellers are found by the hash of their keys.
	sellers map[uint64]place
	// oldest went in first, and gives way first.
	oldest, newest place
	sides          []*side
}

func newDormant() *dormant {
	return &dormant{seed: maphash.MakeSeed(), sellers: make(map[uint64]place)}
}

// side returns a new side, whose accounts' sellers may be dormant.
func (d *dormant) side(id sideID) *side {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &side{
		clientID: id.clientID, live: id.live, accounts: make(map[int64]weak.Pointer[account]),
		sellers: d, number: len(d.sides), dormant: make(map[int64]place),
	}
	d.sides = append(d.sides, s)
	return s
}

// put packs a seller; false where something goes on about its account.
func (d *dormant) put(s *snapshot) bool {
	a := s.account
	if !a.mu.TryLock() { // whoever has it may wait for the realm's lock
		return false
	}
	defer a.mu.Unlock()
	if !a.unrest.over() {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.hold(a) {
		return false
	}
	at, ok := d.slab.put(packSeller(s))
	if !ok {
		d.letGo(a.side, a.user)
		return false
	}
	h := d.hash(s.key())
	d.dropAt(h) // another one of the same hash
	d.sellers[h] = at
	d.link(at, older, d.newest)
	if d.newest == 0 {
		d.oldest = at
	} else {
		d.link(d.newest, newer, at)
	}
	d.newest = at
	return true
}

// find returns a dormant seller, and its account's id.
func (d *dormant) find(k key) (s packedSeller, id tokenstore.AccountID, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if s, _, ok = d.look(k); ok {
		side := d.sides[s.side]
		id = tokenstore.AccountID{ClientID: side.clientID, UserID: s.user, Live: side.live}
	}
	return s, id, ok
}

// drop forgets a seller.
func (d *dormant) drop(k key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, h, ok := d.look(k); ok {
		d.dropAt(h)
	}
}

// evict forgets so many sellers, those first that are dormant for longest.
func (d *dormant) evict(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for ; n > 0 && d.oldest != 0; n-- {
		d.dropAt(d.hash(d.seller(d.oldest).key))
	}
}

func (d *dormant) len() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.sellers)
}

// has reports whether an account has dormant sellers.
func (d *dormant) has(s *side, user int64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return s.dormant[user] != 0
}

// update packs an account with dormant sellers again, for it may have changed; its
// mutex is held. While something goes on about it, it is kept as it is.
func (d *dormant) update(a *account) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := a.side.dormant[a.user]
	if at == 0 {
		return
	}
	old := d.slab.at(at)
	packed := packAccount(d.number(at, count), a)
	kept := bytes.Equal(old, packed)
	if !kept {
		var next place
		if next, kept = d.slab.put(packed); kept {
			d.slab.drop(at)
			a.side.dormant[a.user] = next
		}
	}
	if kept && a.unrest.over() {
		a.side.settled(a.user)
		return
	}
	if a.side.restless == nil {
		a.side.restless = make(map[int64]*account)
	}
	a.side.restless[a.user] = a
}

// settled lets go of an account. A map that once was large stays so, and is looked
// through by collections of garbage: it goes with the last.
func (s *side) settled(user int64) {
	if delete(s.restless, user); len(s.restless) == 0 {
		s.restless = nil
	}
}

// recall fills a new account with what is packed about it.
func (d *dormant) recall(a *account) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if at := a.side.dormant[a.user]; at != 0 {
		unpackAccount(d.slab.at(at), a)
	}
}

// hold counts one more dormant seller of an account, packing it before the first.
func (d *dormant) hold(a *account) bool {
	at := a.side.dormant[a.user]
	if at == 0 {
		var ok bool
		if at, ok = d.slab.put(packAccount(0, a)); !ok {
			return false
		}
		a.side.dormant[a.user] = at
	}
	d.setNumber(at, count, d.number(at, count)+1)
	return true
}

// letGo counts one less, and forgets the account after the last.
func (d *dormant) letGo(s *side, user int64) {
	at := s.dormant[user]
	left := d.number(at, count) - 1
	d.setNumber(at, count, left)
	if left == 0 {
		d.slab.drop(at)
		delete(s.dormant, user)
		s.settled(user)
	}
}

func (d *dormant) look(k key) (s packedSeller, h uint64, ok bool) {
	if len(d.sellers) == 0 {
		return s, 0, false
	}
	h = d.hash(k)
	at := d.sellers[h]
	if at == 0 {
		return s, h, false
	}
	s = d.seller(at)
	return s, h, s.key == k
}

func (d *dormant) dropAt(h uint64) {
	at := d.sellers[h]
	if at == 0 {
		return
	}
	delete(d.sellers, h)
	before, after := place(d.number(at, older)), place(d.number(at, newer))
	if before == 0 {
		d.oldest = after
	} else {
		d.link(before, newer, after)
	}
	if after == 0 {
		d.newest = before
	} else {
		d.link(after, older, before)
	}
	s := d.seller(at)
	d.slab.drop(at)
	d.letGo(d.sides[s.side], s.user)
}

// number is one of those that stand before what is packed.
func (d *dormant) number(at place, which int) uint32 {
	return binary.LittleEndian.Uint32(d.slab.at(at)[which:])
}

func (d *dormant) setNumber(at place, which int, n uint32) {
	binary.LittleEndian.PutUint32(d.slab.at(at)[which:], n)
}

func (d *dormant) link(at place, to int, other place) { d.setNumber(at, to, uint32(other)) }

// hash hashes the names, not the handle: [unique.Make] returns another handle once
// nobody holds the first one.
func (d *dormant) hash(k key) uint64 {
	return maphash.Comparable(d.seed, [2]string{k.application.Value(), k.seller})
}

func (d *dormant) seller(at place) packedSeller { return unpackSeller(d.slab.at(at)) }
