package tokensource

import (
	"hash/maphash"
	"iter"
	"math/rand/v2"
	"sync/atomic"
)

// awake has the sellers who are asked for. Each request looks here, without a lock and
// on a short way: a cache of more parts costs it microseconds when nothing of that is
// in the processor's own. Whoever writes holds the realm's lock.
type awake struct {
	seed maphash.Seed
	// table is where each seller is at the place that its hash names, or at the next
	// one that was free. A place that was left is never nil again: others may be
	// behind it.
	table atomic.Pointer[[]atomic.Pointer[snapshot]]
	// used counts the places that are not nil, and sellers those with a seller.
	used, sellers int
}

const (
	fewPlaces = 64
	// sampleSize is among how many sellers the one is found who is to give way.
	sampleSize = 16
)

// left is at a place that a seller has left.
var left = new(snapshot)

// begin makes a table, once.
func (w *awake) begin() {
	w.seed = maphash.MakeSeed()
	w.renew()
}

func (w *awake) get(k key) (*snapshot, bool) {
	table := *w.table.Load()
	_, s := w.find(k, table)
	return s, s != nil
}

// find returns where a seller is, or where it would be and nil.
func (w *awake) find(k key, table []atomic.Pointer[snapshot]) (at int, s *snapshot) {
	for at = w.hash(k, table); ; at = w.next(at, table) {
		if s = table[at].Load(); s == nil || s.is(k) {
			return at, s
		}
	}
}

// put puts a snapshot in the place of the seller's former one, if there is one.
func (w *awake) put(s *snapshot) {
	table := *w.table.Load()
	at, old := w.find(s.key(), table)
	table[at].Store(s)
	if old != nil {
		return
	}
	w.sellers++
	if w.used++; w.used > len(table)/4*3 {
		w.renew()
	}
}

func (w *awake) remove(k key) {
	table := *w.table.Load()
	if at, s := w.find(k, table); s != nil {
		w.leave(table, at)
	}
}

func (w *awake) leave(table []atomic.Pointer[snapshot], at int) {
	table[at].Store(left)
	if w.sellers--; w.sellers < len(table)/16 && len(table) > fewPlaces {
		w.renew()
	}
}

// renew makes a table of the size that the sellers need, without the places that were
// left. Whoever still reads the former one began before.
func (w *awake) renew() {
	size := fewPlaces
	for size < 2*w.sellers {
		size *= 2
	}
	table := make([]atomic.Pointer[snapshot], size)
	for s := range w.all() {
		at, _ := w.find(s.key(), table)
		table[at].Store(s)
	}
	w.used = w.sellers
	w.table.Store(&table)
}

// all yields the sellers, with those or without them who come and go meanwhile.
func (w *awake) all() iter.Seq[*snapshot] {
	return func(yield func(*snapshot) bool) {
		table := w.table.Load()
		if table == nil {
			return
		}
		for at := range *table {
			if s := (*table)[at].Load(); s != nil && s != left && !yield(s) {
				return
			}
		}
	}
}

// evict removes n sellers, each the least recently read of a small random sample.
func (w *awake) evict(n int) {
	for ; n > 0 && w.sellers > 0; n-- {
		table := *w.table.Load()
		at, oldest, seen := rand.IntN(len(table)), -1, 0
		for ; seen < min(sampleSize, w.sellers); at = w.next(at, table) {
			s := table[at].Load()
			if s == nil || s == left {
				continue
			}
			if seen++; oldest < 0 || s.validatedAt < table[oldest].Load().validatedAt {
				oldest = at
			}
		}
		w.leave(table, oldest)
	}
}

// hash is of the name alone: few sellers have it in more than one application. A
// table's length is a power of two.
func (w *awake) hash(k key, table []atomic.Pointer[snapshot]) int {
	return int(maphash.String(w.seed, k.seller) & uint64(len(table)-1))
}

func (*awake) next(at int, table []atomic.Pointer[snapshot]) int { return (at + 1) & (len(table) - 1) }
