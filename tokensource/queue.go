package tokensource

import (
	"container/heap"
	"sync"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// failuresToPause in a row have a whole application's renewals pause: it is not
// one seller's doing.
const failuresToPause = 3

// Renewals is what can be told of renewals ahead of time.
type Renewals struct {
	// Due wait for their turn, Running are under way, Failing wait to be tried
	// again, and Scheduled come due within two walks.
	Due, Running, Failing, Scheduled int
	// Next is when the next one comes due, or is tried again; zero where none is
	// known.
	Next time.Time
	// Lag is how long the first of those due has been waiting.
	Lag time.Duration
	// Accounts is how many the last whole walk through the store met, WalkedAt
	// when it ended, and Walk how long it took.
	Accounts int
	WalkedAt time.Time
	Walk     time.Duration
}

// Renewals tells how renewals ahead of time are doing in the store of the
// configuration that serves.
func (m *Manager) Renewals() Renewals {
	s := m.newest.Load()
	if s == nil {
		return Renewals{}
	}
	return s.realm.queue.tell(s.now())
}

// queue has the accounts that are to be looked at soon, by time. It belongs to a
// store and outlives a configuration. What comes later than two walks from now is
// not in it: a walk will meet it again. So it holds a small part of all accounts.
type queue struct {
	// wake tells whoever runs the queue that something changed.
	wake chan struct{}
	// room tells whoever fills the queue from the store that some was worked off.
	room chan struct{}

	mu    sync.Mutex
	lanes map[string]*lane // by client id
	items map[tokenstore.AccountID]*item
	walk  walkState
	// changed is set when what is kept for the next process changed, restored
	// when what was kept has been read.
	changed, restored bool
}

// lane is one application's part of the queue.
type lane struct {
	waiting schedule
	running int
	// limit is how many may run: one at first, one more with each that works,
	// half with each that the provider does not answer well.
	limit    int
	failures int
	paused   setback
}

// plan is when to look at an account again, and why.
type plan struct {
	// at is zero where the next walk will do.
	at time.Time
	// renews tells a renewal from any other look.
	renews  bool
	failing bool
	// account is held, with what it remembers of intents, while that is of use.
	account *account
}

type item struct {
	plan
	id      tokenstore.AccountID
	lane    *lane
	known   time.Time // since when it is planned
	tries   int       // failures to read it
	index   int
	running bool
}

// schedule is a heap of items by time.
type schedule []*item

func (s schedule) Len() int           { return len(s) }
func (s schedule) Less(i, j int) bool { return s[i].at.Before(s[j].at) }
func (s schedule) Swap(i, j int) {
	s[i], s[j] = s[j], s[i]
	s[i].index, s[j].index = i, j
}

// Push implements heap.Interface.
func (s *schedule) Push(x any) {
	it := x.(*item) //nolint:forcetypeassert // nothing else is pushed
	it.index = len(*s)
	*s = append(*s, it)
}

// Pop implements heap.Interface.
func (s *schedule) Pop() any {
	last := len(*s) - 1
	it := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	return it
}

func newQueue() *queue {
	return &queue{
		wake:  make(chan struct{}, 1),
		room:  make(chan struct{}, 1),
		lanes: make(map[string]*lane),
		items: make(map[tokenstore.AccountID]*item),
	}
}

func (q *queue) stir() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *queue) lane(clientID string) *lane {
	l := q.lanes[clientID]
	if l == nil {
		l = &lane{limit: 1}
		q.lanes[clientID] = l
	}
	return l
}

// put plans to look at an account, unless it is being looked at.
func (q *queue) put(id tokenstore.AccountID, p plan, now time.Time, horizon time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if it := q.items[id]; it == nil || !it.running {
		q.plan(id, p, now, horizon)
	}
}

// meet is like put, called by the walk; an account that is backing off keeps its
// schedule.
func (q *queue) meet(id tokenstore.AccountID, p plan, now time.Time, horizon time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.walk.seen++
	if it := q.items[id]; it == nil || !it.running && !it.failing {
		q.plan(id, p, now, horizon)
	}
}

// pass counts an account that the walk came by and that the store plans for.
func (q *queue) pass() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.walk.seen++
}

func (q *queue) plan(id tokenstore.AccountID, p plan, now time.Time, horizon time.Duration) {
	it := q.items[id]
	if p.at.IsZero() || p.at.Sub(now) > horizon {
		if it != nil {
			heap.Remove(&it.lane.waiting, it.index)
			delete(q.items, id)
		}
		return
	}
	if it != nil {
		it.plan = p
		heap.Fix(&it.lane.waiting, it.index)
	} else {
		it = &item{id: id, plan: p, lane: q.lane(id.ClientID), known: now}
		q.items[id] = it
		heap.Push(&it.lane.waiting, it)
	}
	if it.index == 0 {
		q.stir()
	}
}

// take returns the next item of an application that may be looked at now, or how
// long to wait for one.
func (q *queue) take(clientID string, now time.Time, parallel int) (*item, time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.lanes[clientID]
	if l == nil || l.waiting.Len() == 0 || l.running >= min(l.limit, parallel) {
		return nil, tick // whoever ends, or is put, stirs
	}
	if err := l.paused.check(now); err != nil {
		return nil, asError(err).RetryAfter
	}
	if wait := l.waiting[0].at.Sub(now); wait > 0 {
		return nil, wait
	}
	it := heap.Pop(&l.waiting).(*item) //nolint:forcetypeassert // nothing else is in it
	it.running = true
	l.running++
	return it, 0
}

// done plans an item that was looked at anew.
func (q *queue) done(it *item, p plan, now time.Time, horizon time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	it.lane.running--
	it.running = false
	select {
	case q.room <- struct{}{}:
	default:
	}
	q.changed = q.changed || it.failing || p.failing
	delete(q.items, it.id)
	if !p.at.IsZero() && p.at.Sub(now) <= horizon {
		it.plan, it.known = p, now
		if !p.failing {
			it.tries = 0
		}
		q.items[it.id] = it
		heap.Push(&it.lane.waiting, it)
	}
	q.stir()
}

// worked notes that the provider answered a renewal.
func (q *queue) worked(l *lane, parallel int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.changed = q.changed || l.failures > 0
	l.limit = min(l.limit+1, parallel)
	l.failures = 0
	l.paused.clear()
}

// failed notes that it did not answer well. With asked it told how long to wait.
func (q *queue) failed(l *lane, now time.Time, err *Error, busy bool, asked time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	l.limit = max(1, l.limit/2)
	l.failures++
	if !busy && l.failures < failuresToPause {
		return
	}
	q.changed = true
	// Of many that fail at once the first makes the pause.
	if l.paused.check(now) == nil {
		_ = l.paused.set(now, err, asked)
	} else if l.paused.left(now) < asked {
		l.paused.hold(now, err, now.Add(asked))
	}
}

// left is how long trying again is of no use.
func (s *setback) left(now time.Time) time.Duration {
	if err := s.check(now); err != nil {
		return asError(err).RetryAfter
	}
	return 0
}

func (q *queue) tell(now time.Time) Renewals {
	q.mu.Lock()
	defer q.mu.Unlock()
	t := Renewals{Accounts: q.walk.last, WalkedAt: q.walk.ended, Walk: q.walk.took}
	for _, it := range q.items {
		switch {
		case it.running:
			t.Running++
			continue
		case it.failing:
			t.Failing++
		case !it.renews:
			continue
		case it.at.After(now):
			t.Scheduled++
		default:
			t.Due++
			t.Lag = max(t.Lag, now.Sub(later(it.at, it.known)))
		}
		if t.Next.IsZero() || it.at.Before(t.Next) {
			t.Next = it.at
		}
	}
	return t
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
