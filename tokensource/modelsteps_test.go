package tokensource

import (
	"cmp"
	"context"
	"runtime"
	"slices"
	"testing/synctest"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// step does the next thing that the script says.
func (m *model) step() {
	ready := m.ready()
	what := m.next(32)
	if what < 23 && len(ready) > 0 {
		m.release(ready[m.next(len(ready))], what >= 20)
		return
	}
	p, seller := m.processes[m.next(len(m.processes))], sellers[m.next(2)]
	switch {
	case what < 12 || what == 23:
		m.ask(p, seller)
	case what < 25:
		m.pass()
	case what == 25:
		m.note(p.slot, "process", crashed)
		m.crash(p)
		m.processes[p.slot] = m.start(p.slot)
	case what == 26:
		m.mu.Lock()
		account := m.trails[seller].account
		m.mu.Unlock()
		user := []int64{account, 100, 200}[m.next(3)]
		m.note(p.slot, "connect "+seller, applied)
		m.callers.Go(func() { m.connect(p, seller, max(user, 100)) })
	case what == 27:
		m.disconnect(p, seller)
	case what == 28:
		m.reload(p)
	case what == 29:
		m.jump(p)
	case what == 30:
		m.reject(p, seller)
	default:
		m.disturb()
	}
}

// ready returns the operations that may go on, in an order that does not depend
// on the scheduler.
func (m *model) ready() []*waiting {
	m.mu.Lock()
	all := slices.Clone(m.waiting)
	m.mu.Unlock()
	all = slices.DeleteFunc(all, func(w *waiting) bool { return w.ready != nil && !w.ready() })
	slices.SortFunc(all, func(a, b *waiting) int {
		return cmp.Or(cmp.Compare(a.process.slot, b.process.slot), cmp.Compare(a.op, b.op), cmp.Compare(a.seq, b.seq))
	})
	return all
}

// release lets an operation go on, as it should or with a fault.
func (m *model) release(w *waiting, faulty bool) {
	f := applied
	if faulty {
		f = m.fault(w.kind)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.note(w.process.slot, w.op, f)
	if f != applied && w.kind != posting {
		w.process.trouble()
	}
	m.waiting = slices.DeleteFunc(m.waiting, func(other *waiting) bool { return other == w })
	w.fate <- f
}

func (m *model) fault(k kind) fate {
	var possible []fate
	switch {
	case k == posting:
		possible = []fate{broken, refused}
	case k == reading && m.lag > 0:
		possible = []fate{outdated, outdated, refused}
	case !m.faulty:
		return applied
	case k == record:
		possible = []fate{refused, broken, late, twice}
	case k == adding:
		possible = []fate{refused, unwritten, broken, late, twice}
	default:
		possible = []fate{refused, broken}
	}
	return possible[m.next(len(possible))]
}

// pass lets time pass. Who waits for an operation meanwhile has reason to be
// late. No operation waits for long, though: it would only be tried again and
// again.
func (m *model) pass() {
	l := m.w.provider.life
	d := []time.Duration{
		100 * time.Millisecond, time.Second, 3 * time.Second, 6 * time.Second, 11 * time.Second, 21 * time.Second,
		31 * time.Second, l / 3, l + time.Minute, 25 * time.Hour,
	}[m.next(10)]
	m.note(-1, d.String()+" pass", applied)
	if d > time.Minute {
		m.open()
	}
	time.Sleep(d)
	synctest.Wait()
	m.doze(d > time.Minute)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = false
	for _, w := range m.waiting {
		if time.Since(w.since) >= time.Second {
			w.process.trouble()
		}
	}
}

// doze has all sellers be dormant about whom nothing goes on, sooner than is usual. What
// nobody holds then is known from its packed form alone once it was collected.
func (m *model) doze(collect bool) {
	for _, p := range m.processes {
		for s := range p.realm.awake.all() {
			p.realm.rest(s)
		}
	}
	if collect {
		runtime.GC()
	}
}

// open carries out what waits, and whatever comes.
func (m *model) open() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = true
	for _, w := range m.waiting {
		w.fate <- applied
	}
	m.waiting = nil
}

// ask asks for a token as a request does, with more or less patience.
func (m *model) ask(p *process, seller string) {
	minValidity := []time.Duration{5 * time.Minute, 0, life}[m.next(3)]
	patience := []time.Duration{time.Hour, 3 * time.Second}[m.next(2)]
	m.note(p.slot, "token for "+seller, applied)
	source, began, valid := p.Source, m.moment(p), m.valid(p, seller)
	m.mu.Lock()
	troubles := p.troubles
	m.mu.Unlock()
	m.callers.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		token, err := source.Token(ctx, "", seller, minValidity)
		switch {
		case err == nil:
			m.served(p, seller, began, token)
			m.mu.Lock()
			m.tokens[seller] = token
			m.mu.Unlock()
		case ctx.Err() == nil:
			m.withheld(p, seller, valid, troubles, err)
		}
	})
}

// reject tells a process that the last token of a seller got a 401.
func (m *model) reject(p *process, seller string) {
	m.mu.Lock()
	token := m.tokens[seller]
	for _, t := range m.trails {
		t.rejected = t.rejected || token != nil // one account's are not told apart
	}
	m.mu.Unlock()
	if token == nil {
		return
	}
	m.note(p.slot, "401 for "+seller, applied)
	source, began := p.Source, m.moment(p)
	m.callers.Go(func() {
		if token, err := source.Replace(context.Background(), token); err == nil {
			m.served(p, seller, began, token)
		}
	})
}

// enter begins an operation that changes what a seller is connected to.
func (m *model) enter(seller string) (t *trail, alone func() bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t = m.trails[seller]
	t.busy++
	t.begun++
	mine, first := t.begun, t.busy == 1
	t.known = false
	return t, func() bool { t.busy--; return first && t.begun == mine }
}

func (m *model) connect(p *process, seller string, user int64) {
	source := p.Source
	consent, err := source.Exchange(context.Background(), "", m.w.provider.code(user), secret.Secret{})
	if err != nil {
		return
	}
	m.store.mu.Lock()
	old, _ := m.store.pointer([2]string{"", seller})
	m.store.mu.Unlock()
	t, alone := m.enter(seller)
	c, err := source.Connect(context.Background(), seller, consent)
	now := m.moment(p)
	m.mu.Lock()
	defer m.mu.Unlock()
	if !alone() || err != nil {
		return
	}
	t.known, t.connection, t.account = true, c, user
	if old.ID != "" && old.ID != c.ID {
		m.over[old.ID] = now
	}
}

func (m *model) disconnect(p *process, seller string) {
	m.store.mu.Lock()
	old, ok := m.store.pointer([2]string{"", seller})
	m.store.mu.Unlock()
	if !ok {
		return
	}
	m.note(p.slot, "disconnect "+seller, applied)
	source := p.Source
	m.callers.Go(func() {
		t, alone := m.enter(seller)
		err := source.Disconnect(context.Background(), old)
		now := m.moment(p)
		m.store.mu.Lock()
		c, there := m.store.pointer([2]string{"", seller})
		m.store.mu.Unlock()
		m.mu.Lock()
		defer m.mu.Unlock()
		clean := alone()
		if err != nil {
			return
		}
		if there && c.ID == old.ID {
			m.journal.violated("%s was disconnected and is connected by the same id", seller)
		}
		m.over[old.ID] = now
		if clean && !there {
			t.known, t.connection = true, tokenstore.Connection{}
		}
	})
}

// reload replaces a configuration, the new one before or after the old.
func (m *model) reload(p *process) {
	m.note(p.slot, "reload", applied)
	old, next := p.Source, p.manager.Source(p.config)
	if m.next(2) == 0 {
		next.Start()
		old.Stop()
	} else {
		old.Stop()
		next.Start()
	}
	old.Release()
	p.Source = next
}

func (m *model) jump(p *process) {
	d := []time.Duration{time.Hour, -time.Hour, 400 * 24 * time.Hour, -400 * 24 * time.Hour}[m.next(4)]
	m.note(p.slot, "clock jumps by "+d.String(), applied)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.offsets[p.slot] += d
	m.jumps = true
	p.trouble()
}

// disturb lets a write arrive that was late, or steals a lock.
func (m *model) disturb() {
	if write := m.arrive(m.next(256)); write != nil {
		m.note(-1, "a late write arrives", applied)
		write()
		return
	}
	if !m.stolen {
		return
	}
	for _, user := range []int64{100, 200} {
		m.store.mu.Lock()
		held := m.store.locks[accountID(user)]
		m.store.mu.Unlock()
		if held != nil {
			m.note(held.view.process.slot, "lock is stolen", applied)
			if m.postgres == nil {
				m.store.steal(accountID(user), held)
			} else {
				m.unlock(held.view.process) // they are all one session's
			}
			return
		}
	}
}
