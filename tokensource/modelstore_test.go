package tokensource

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// The simulated store of the model: strict where [tokenstore.Store] promises
// something, and everything else decided from outside, one operation at a time.

// fate is what becomes of one operation of an instance.
type fate int

const (
	applied   fate = iota
	refused        // not carried out, and an error
	broken         // carried out, and an error
	late           // an error, and carried out some time later
	twice          // carried out, and once more some time later
	unwritten      // said to be carried out, and carried out some time later
	outdated       // a read that answers with what there was before
	crashed        // the process is gone before it
	vanished       // the process is gone right after it
	timedOut       // nothing, until the caller gave up
)

var fates = [...]string{"", "refused", "broken", "late", "twice", "unwritten", "outdated", "crashed", "vanished", "timed out"}

var errFault = errors.New("the disk is full")

// kind is what may happen to an operation beside applied, refused and broken.
type kind int

const (
	plain   kind = iota // nothing else
	record              // it may be late and twice: a write to an account
	adding              // and unwritten: a pair is read back
	reading             // it may be outdated
	posting             // a token request
)

// waiting is an operation that waits for its fate.
type waiting struct {
	process *process
	op      string
	kind    kind
	seq     int
	since   time.Time
	ready   func() bool
	fate    chan fate
}

// process is one run of an instance: from its start to its end or crash.
type process struct {
	*instance
	m      *model
	slot   int
	config Config
	dead   bool
	// troubles counts what may excuse this process.
	troubles int
	// unread is when an operation of it failed or took long last.
	unread time.Time
}

// trouble notes that the process could not do something in time. m.mu is held.
func (p *process) trouble() {
	p.troubles++
	p.unread = time.Now()
}

// gate waits for the fate of an operation.
func (p *process) gate(ctx context.Context, op string, k kind, ready func() bool) fate {
	m := p.m
	m.mu.Lock()
	if p.dead {
		m.mu.Unlock()
		return crashed
	}
	if m.free {
		m.note(p.slot, op, applied)
		m.mu.Unlock()
		return applied
	}
	m.seq++
	w := &waiting{process: p, op: op, kind: k, seq: m.seq, since: time.Now(), ready: ready, fate: make(chan fate, 1)}
	m.waiting = append(m.waiting, w)
	m.mu.Unlock()
	select {
	case f := <-w.fate:
		return f
	case <-ctx.Done():
		m.mu.Lock()
		defer m.mu.Unlock()
		m.waiting = slices.DeleteFunc(m.waiting, func(other *waiting) bool { return other == w })
		m.note(p.slot, op, timedOut)
		p.trouble()
		return timedOut
	}
}

// view is one instance's view of the store.
type view struct {
	*simStore
	process *process // nil where nothing is decided from outside
	// also is done in the moment in which an operation is carried out; it is told
	// what came of it, and has the last word.
	also func(err error) error
}

// carriedOut ends an operation. mu is held.
func (v view) carriedOut(err error) error {
	if v.also == nil {
		return err
	}
	return v.also(err)
}

func (v view) do(ctx context.Context, op string, k kind, apply func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f := applied
	if v.process != nil {
		f = v.process.gate(ctx, op, k, nil)
	}
	atomic := func() error {
		v.mu.Lock()
		defer v.mu.Unlock()
		return v.carriedOut(apply())
	}
	switch f {
	case refused:
		return errFault
	case crashed:
		return errCrashed
	case timedOut:
		return ctx.Err()
	case late, unwritten, twice:
		v.process.m.postpone(func() { _ = atomic() })
		switch f {
		case late:
			return errFault
		case unwritten:
			return nil
		default:
			return atomic()
		}
	default:
	}
	if err := atomic(); err != nil {
		return err
	}
	switch f {
	case broken:
		return errFault
	case vanished:
		return errCrashed
	default:
		return nil
	}
}

// mostLag is how many versions of an account a read can be behind.
const mostLag = 8

// simStore is what all instances share. An account's versions are never changed:
// a write makes the next.
type simStore struct {
	mu          sync.Mutex
	accounts    map[tokenstore.AccountID][]tokenstore.Account
	connections map[[2]string]tokenstore.Connection
	ended       map[string]bool
	consumed    map[string]time.Time
	locks       map[tokenstore.AccountID]*simLock
	// watch is told of a change to an account before others see it.
	watch func(before, after *tokenstore.Account)
	// placed is told of a new pointer.
	placed func(tokenstore.Connection)
	// worthless locks keep nobody away.
	worthless bool
}

func newSimStore() *simStore {
	return &simStore{
		accounts:    make(map[tokenstore.AccountID][]tokenstore.Account),
		connections: make(map[[2]string]tokenstore.Connection),
		ended:       make(map[string]bool),
		consumed:    make(map[string]time.Time),
		locks:       make(map[tokenstore.AccountID]*simLock),
		watch:       func(_, _ *tokenstore.Account) {},
		placed:      func(tokenstore.Connection) {},
	}
}

// newest returns what is known of an account. mu is held.
func (s *simStore) newest(id tokenstore.AccountID) tokenstore.Account {
	versions := s.accounts[id]
	if len(versions) == 0 {
		return tokenstore.Account{ID: id}
	}
	return versions[len(versions)-1]
}

// change makes the next version of an account. mu is held.
func (s *simStore) change(id tokenstore.AccountID, with func(a *tokenstore.Account)) {
	before := s.newest(id)
	next := before
	next.Pairs, next.Intents = slices.Clone(before.Pairs), slices.Clone(before.Intents)
	next.Verdicts, next.Marks = slices.Clone(before.Verdicts), slices.Clone(before.Marks)
	with(&next)
	s.watch(&before, &next)
	versions := append(s.accounts[id], next)
	s.accounts[id] = versions[max(0, len(versions)-mostLag):]
}

var errNobody = errors.New("this names nobody")

func nobody(id tokenstore.AccountID) bool { return id.ClientID == "" || id.UserID <= 0 }

// put replaces the element that has the same name, or adds one.
func put[T any](all []T, one T, same func(T) bool) []T {
	return append(slices.DeleteFunc(all, same), one)
}

func (v view) write(ctx context.Context, op string, k kind, id tokenstore.AccountID, with func(a *tokenstore.Account)) error {
	if nobody(id) {
		return errNobody
	}
	return v.do(ctx, op, k, func() error { v.change(id, with); return nil })
}

func (v view) Account(ctx context.Context, id tokenstore.AccountID) (a tokenstore.Account, err error) {
	if err := ctx.Err(); err != nil || nobody(id) {
		return a, cmp.Or(err, errNobody)
	}
	f := applied
	if v.process != nil {
		f = v.process.gate(ctx, "Account", reading, nil)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch f {
	case refused, broken:
		return a, errFault
	case crashed, vanished:
		return a, errCrashed
	case timedOut:
		return a, ctx.Err()
	default:
	}
	a = v.newest(id)
	if versions := v.accounts[id]; f == outdated && len(versions) > 0 {
		// As old as the reads of one replica can be while those of others are
		// newer.
		a = versions[max(0, len(versions)-v.process.m.lag)]
	}
	a.Pairs, a.Intents = slices.Clone(a.Pairs), slices.Clone(a.Intents)
	a.Verdicts, a.Marks = slices.Clone(a.Verdicts), slices.Clone(a.Marks)
	return a, v.carriedOut(nil)
}

func (v view) AddPair(ctx context.Context, id tokenstore.AccountID, p tokenstore.Pair) error {
	if p.Authorization == 0 || p.AccessToken.IsZero() || p.Hash != tokenstore.HashPair(p.AccessToken, p.RefreshToken) {
		return errNobody
	}
	return v.write(ctx, "AddPair "+p.String(), adding, id, func(a *tokenstore.Account) {
		if slices.ContainsFunc(a.Pairs, func(there tokenstore.Pair) bool { return there.PairID == p.PairID }) {
			return
		}
		at, _ := slices.BinarySearchFunc(a.Pairs, p.PairID, func(there tokenstore.Pair, id tokenstore.PairID) int {
			if there.Less(id) {
				return -1
			}
			return 1
		})
		a.Pairs = slices.Insert(a.Pairs, at, p)
	})
}

func (v view) DeletePairs(ctx context.Context, id tokenstore.AccountID, ids ...tokenstore.PairID) error {
	return v.write(ctx, fmt.Sprint("DeletePairs ", ids), record, id, func(a *tokenstore.Account) {
		a.Pairs = slices.DeleteFunc(a.Pairs, func(p tokenstore.Pair) bool { return slices.Contains(ids, p.PairID) })
		a.Verdicts = slices.DeleteFunc(a.Verdicts, func(v tokenstore.Verdict) bool {
			return slices.ContainsFunc(ids, func(id tokenstore.PairID) bool { return id.Hash == v.Pair }) && !hasHash(a, v.Pair)
		})
	})
}

func named(i tokenstore.Intent) func(tokenstore.Intent) bool {
	return func(there tokenstore.Intent) bool {
		return there.Pair == i.Pair && there.Instance == i.Instance && there.Nonce == i.Nonce
	}
}

func (v view) PutIntent(ctx context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	return v.write(ctx, fmt.Sprintf("PutIntent %.8s %.4s", i.Pair, i.Nonce), record, id, func(a *tokenstore.Account) {
		a.Intents = put(a.Intents, i, named(i))
	})
}

func (v view) DeleteIntent(ctx context.Context, id tokenstore.AccountID, i tokenstore.Intent) error {
	return v.write(ctx, fmt.Sprintf("DeleteIntent %.8s %.4s", i.Pair, i.Nonce), record, id, func(a *tokenstore.Account) {
		a.Intents = slices.DeleteFunc(a.Intents, named(i))
	})
}

func (v view) PutVerdict(ctx context.Context, id tokenstore.AccountID, verdict tokenstore.Verdict) error {
	return v.write(ctx, fmt.Sprintf("PutVerdict %.8s", verdict.Pair), record, id, func(a *tokenstore.Account) {
		a.Verdicts = put(a.Verdicts, verdict, func(there tokenstore.Verdict) bool { return there.Pair == verdict.Pair })
	})
}

func (v view) PutMark(ctx context.Context, id tokenstore.AccountID, m tokenstore.Mark) error {
	return v.write(ctx, fmt.Sprint("PutMark ", m.Authorization), record, id, func(a *tokenstore.Account) {
		a.Marks = put(a.Marks, m, func(there tokenstore.Mark) bool { return there.Connection == m.Connection })
	})
}

func (v view) DeleteMark(ctx context.Context, id tokenstore.AccountID, m tokenstore.Mark) error {
	return v.write(ctx, "DeleteMark", record, id, func(a *tokenstore.Account) {
		a.Marks = slices.DeleteFunc(a.Marks, func(there tokenstore.Mark) bool { return there.Connection == m.Connection })
	})
}

func (v view) PutTombstone(ctx context.Context, id tokenstore.AccountID, n uint64) error {
	return v.write(ctx, fmt.Sprint("PutTombstone ", n), record, id, func(a *tokenstore.Account) { a.Tombstone = max(a.Tombstone, n) })
}

func (v view) PutMoved(ctx context.Context, id tokenstore.AccountID, m tokenstore.Moved) error {
	return v.write(ctx, "PutMoved "+m.To, record, id, func(a *tokenstore.Account) { a.Moved = &m })
}

func (v view) DeleteMoved(ctx context.Context, id tokenstore.AccountID) error {
	return v.write(ctx, "DeleteMoved", record, id, func(a *tokenstore.Account) { a.Moved = nil })
}

// pointer returns a seller's connection unless it ended. mu is held.
func (s *simStore) pointer(key [2]string) (tokenstore.Connection, bool) {
	c, ok := s.connections[key]
	return c, ok && !s.ended[c.ID]
}

func (v view) Connection(ctx context.Context, application, seller string) (c tokenstore.Connection, err error) {
	if seller == "" {
		return c, errNobody
	}
	err = v.do(ctx, "Connection "+seller, plain, func() error {
		there, ok := v.pointer([2]string{application, seller})
		if !ok {
			return tokenstore.ErrNotFound
		}
		c = there
		return nil
	})
	return c, err
}

func (v view) PutConnection(ctx context.Context, c tokenstore.Connection) error {
	if c.Seller == "" || c.ID == "" || nobody(c.Account) {
		return errNobody
	}
	return v.do(ctx, fmt.Sprintf("PutConnection %s %.4s %d.%d", c.Seller, c.ID, c.Account.UserID, c.Authorization), plain, func() error {
		if v.ended[c.ID] {
			return tokenstore.ErrNotFound
		}
		v.connections[[2]string{c.Application, c.Seller}] = c
		v.placed(c)
		return nil
	})
}

func (v view) DeleteConnection(ctx context.Context, c tokenstore.Connection) error {
	if c.Seller == "" || c.ID == "" || nobody(c.Account) {
		return errNobody
	}
	return v.do(ctx, fmt.Sprintf("DeleteConnection %s %.4s", c.Seller, c.ID), plain, func() error { v.ended[c.ID] = true; return nil })
}

func (v view) Ended(ctx context.Context, c tokenstore.Connection) (ended bool, err error) {
	if c.Seller == "" || c.ID == "" || nobody(c.Account) {
		return false, errNobody
	}
	err = v.do(ctx, "Ended", plain, func() error { ended = v.ended[c.ID]; return nil })
	return ended, err
}

func (v view) Connections(ctx context.Context, id tokenstore.AccountID) (all []tokenstore.Connection, err error) {
	if nobody(id) {
		return nil, errNobody
	}
	err = v.do(ctx, "Connections", plain, func() error {
		for key := range v.connections {
			if c, ok := v.pointer(key); ok && c.Account == id {
				all = append(all, c)
			}
		}
		return nil
	})
	return all, err
}

func (v view) Consume(ctx context.Context, state string, until time.Time) error {
	if state == "" {
		return errNobody
	}
	return v.do(ctx, "Consume", plain, func() error {
		if !v.consumed[state].IsZero() {
			return tokenstore.ErrConsumed
		}
		v.consumed[state] = until
		return nil
	})
}
