package tokensource

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// setting is what a model's world is like.
type setting struct {
	// worthless locks keep nobody away; stolen ones are taken from slow holders.
	worthless, stolen bool
	// lag is how many versions of an account a read may be behind.
	lag int
	// revoking providers revoke the whole account when a refresh token that was
	// used comes again.
	revoking bool
	// faulty stores fail, and write late and twice.
	faulty bool
	// renewing instances renew ahead of time, in the background, not only for requests.
	renewing bool
	// postgres has everything done on PostgreSQL too; nil is nowhere else.
	postgres *twins
}

// journal is what happened, and the first rule that was violated.
type journal struct {
	mu        sync.Mutex
	lines     []string
	violation string
}

func (j *journal) violated(format string, args ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.violation == "" {
		j.violation = fmt.Sprintf(format, args...)
	}
}

func (j *journal) failed() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.violation
}

// model is a world in which every step of every process waits until a script
// decides what becomes of it. Nothing else decides the order of steps: between
// two of them all goroutines stand still.
type model struct {
	setting
	w         *world
	store     *simStore
	processes []*process
	script    []byte
	epoch     time.Time
	callers   sync.WaitGroup

	mu        sync.Mutex
	free      bool // nothing waits any more
	seq, tick int
	waiting   []*waiting
	postponed []func()
	offsets   [5]time.Duration // how far each slot's clock has jumped
	starts    [5]int
	jumps     bool
	journal   journal

	// What the rules know.
	trails     map[string]*trail
	sent       map[string]*sent
	intents    map[string]time.Time
	announced  map[string]time.Time
	authorized map[string]uint64
	tombstones map[int64]voided
	arrived    map[tokenstore.PairID]time.Time
	reborn     map[string]bool // added again, by a late write, after it was deleted
	keptOnce   map[string]bool
	used       map[string]bool
	holders    map[string]*process
	placed     map[string]string
	placedAt   map[string]time.Time
	over       map[string]over
	tokens     map[string]*Token
}

var sellers = []string{"shop-1", "shop-2"}

func TestTheModelsClockJumpsAndItsMonotonicReadingDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel(t, setting{}, nil)
		before := m.clock(1)
		require.Equal(t, time.Now().UTC(), wall(before))
		time.Sleep(1500 * time.Millisecond)
		m.offsets[1] = -400 * 24 * time.Hour
		after := m.clock(1)
		require.Equal(t, time.Now().UTC().Add(m.offsets[1]), wall(after))
		require.Equal(t, 1500*time.Millisecond, after.Sub(before))
		require.Equal(t, m.offsets[1]+1500*time.Millisecond, wall(after).Sub(wall(before)))
	})
}

func newModel(t *testing.T, s setting, script []byte) *model {
	m := &model{
		setting: s, w: newWorld(t), store: newSimStore(), script: script, epoch: time.Now(), free: true,
		trails: map[string]*trail{}, sent: map[string]*sent{}, intents: map[string]time.Time{}, announced: map[string]time.Time{},
		authorized: map[string]uint64{}, tombstones: map[int64]voided{}, arrived: map[tokenstore.PairID]time.Time{}, reborn: map[string]bool{}, keptOnce: map[string]bool{}, used: map[string]bool{}, holders: map[string]*process{},
		placed: map[string]string{}, placedAt: map[string]time.Time{}, over: map[string]over{}, tokens: map[string]*Token{},
	}
	m.store.worthless = s.worthless
	m.store.watch = m.changed
	m.store.placed = func(c tokenstore.Connection) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.placed[c.ID], m.placedAt[c.ID] = c.Seller, time.Now()
		delete(m.over, c.ID) // replaced, and put back; what has ended is not placed again
	}
	return m
}

// next takes a number below n from the script; 0 once it has ended.
func (m *model) next(n int) int {
	if len(m.script) == 0 {
		return 0
	}
	b := m.script[0]
	m.script = m.script[1:]
	return int(b) % n
}

// play runs a script and returns what it violated, with what happened.
func play(t *testing.T, s setting, script []byte) (violation string) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel(t, s, script)
		m.begin()
		for len(m.script) > 0 && m.journal.failed() == "" {
			synctest.Wait()
			m.look()
			m.step()
		}
		m.end()
		if failed := m.journal.failed(); failed != "" {
			violation = fmt.Sprintf("%s\n%+v\n%s", failed, s, strings.Join(m.journal.lines, "\n"))
		}
	})
	return violation
}

// begin connects the sellers, and lets a part of their tokens' life pass.
func (m *model) begin() {
	lives := []time.Duration{10 * time.Minute, 6 * time.Hour, life}
	if m.renewing {
		// Renewed all day, the shortest would fill the journal; the renewer looks at its
		// queue once a minute, and half a year has many minutes.
		lives = []time.Duration{2 * time.Hour, 6 * time.Hour, 12 * time.Hour}
	}
	m.w.provider.life = lives[m.next(3)]
	for slot := range 2 + m.next(2) {
		m.processes = append(m.processes, m.start(slot))
	}
	for i, seller := range sellers {
		user := int64(100)
		if i == 1 && m.next(2) == 1 {
			user = 200
		}
		m.trails[seller] = &trail{known: true}
		m.connect(m.processes[0], seller, user)
	}
	time.Sleep([]time.Duration{m.w.provider.life + time.Minute, m.w.provider.life * 9 / 10, 0}[m.next(3)])
	m.mu.Lock()
	m.free = false
	m.mu.Unlock()
}

// end lets everything that waits be carried out, holds what is left against the
// rules, and ends the processes.
func (m *model) end() {
	m.open()
	for write := m.arrive(0); write != nil; write = m.arrive(0) {
		write()
	}
	if m.journal.failed() == "" {
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		m.settled()
	}
	m.callers.Wait()
	for _, p := range m.processes {
		m.crash(p)
	}
	synctest.Wait()
}

// mostLines is more than any script brings about.
const mostLines = 20_000

func (m *model) note(slot int, what string, f fate) {
	j := &m.journal
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf("%s slot %d: %s %s", time.Now().Format("02 15:04:05.000"), slot, what, fates[f]))
	if len(j.lines) == mostLines {
		panic("it goes on and on:\n" + strings.Join(j.lines[mostLines-100:], "\n"))
	}
}

func (m *model) postpone(write func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.postponed = append(m.postponed, write)
}

// arrive takes one of the late writes, or returns nil where there is none.
func (m *model) arrive(which int) (write func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.postponed) == 0 {
		return nil
	}
	i := which % len(m.postponed)
	write = m.postponed[i]
	m.postponed = slices.Delete(m.postponed, i, i+1)
	return write
}

func (m *model) moment(p *process) over {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tick++
	return over{at: time.Now(), tick: m.tick, slot: p.slot}
}

// clock is a slot's: like a real one it has a wall reading, which jumps, and a
// monotonic one, which does not. A bubble's own times have no monotonic reading.
func (m *model) clock(slot int) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	const hasMonotonic, seconds1885to1970, bitsOfNanoseconds = 1 << 63, 2_682_288_000, 30
	now := time.Now()
	wall := now.Add(m.offsets[slot])
	t := struct {
		wall uint64
		ext  int64
		loc  *time.Location
	}{hasMonotonic | uint64(wall.Unix()+seconds1885to1970)<<bitsOfNanoseconds | uint64(wall.Nanosecond()), int64(now.Sub(m.epoch)), time.UTC}
	return *(*time.Time)(unsafe.Pointer(&t))
}

// machine is the folder of a slot. A process that crashed loses it to the next
// one: what it still does reaches nobody.
func (m *model) machine(slot int) string {
	return filepath.Join(m.w.spillDir, fmt.Sprintf("%d-%d", slot, m.starts[slot]))
}

func (m *model) spills(slot int) string {
	return filepath.Join(m.machine(slot), "spilled")
}

// start runs a new process in a slot.
func (m *model) start(slot int) *process {
	p := &process{m: m, slot: slot}
	p.instance = m.w.instance(func(c *Config) {
		c.Open = func(context.Context) (tokenstore.Store, *secret.Keyring, error) {
			return m.sees(p), m.w.keyring, nil
		}
		c.Now = func() time.Time { return m.clock(slot) }
		c.SpillDir = m.spills(slot)
		c.Applications = []Application{{Client: &gatedClient{provider: m.w.provider, process: p}}}
		if m.renewing {
			c.Renewal = Renewal{Parallel: 2, WalkEvery: m.w.provider.life / 4}
		}
		p.config = *c
	})
	return p
}

// sees is the store as a process sees it.
func (m *model) sees(p *process) tokenstore.Store {
	v := view{simStore: m.store, process: p}
	if m.postgres == nil {
		return v
	}
	return twin{view: v, twins: m.postgres, store: m.postgres.stores[p.slot]}
}

// crash ends a process without any of the courtesies. What it was about to do
// is done or not.
func (m *model) crash(p *process) {
	old := m.machine(p.slot)
	m.starts[p.slot]++
	_ = os.Rename(old, m.machine(p.slot)) // there is none where nothing was spilled
	m.mu.Lock()
	p.dead = true
	m.waiting = slices.DeleteFunc(m.waiting, func(w *waiting) bool {
		if w.process != p {
			return false
		}
		f := []fate{crashed, vanished}[m.next(2)]
		m.note(p.slot, w.op, f)
		w.fate <- f
		return true
	})
	m.mu.Unlock()
	p.manager.cancel()
	m.unlock(p)
}

// unlock takes all locks from a process.
func (m *model) unlock(p *process) {
	m.store.mu.Lock()
	locks := maps.Clone(m.store.locks)
	m.store.mu.Unlock()
	if m.postgres != nil {
		m.postgres.sever(m, p.slot)
	}
	for id, held := range locks {
		if held.view.process == p {
			m.store.steal(id, held)
		}
	}
}

// gatedClient is the provider as one process reaches it.
type gatedClient struct {
	*provider
	process *process
}

func (c *gatedClient) Refresh(ctx context.Context, refresh secret.Secret) (oauth.Answer, error) {
	p, user := c.process, trailing(refresh)
	hash := tokenstore.HashPair(secret.Secret{}, refresh)
	s := p.m.posted(p, user, hash)
	lost := errors.New("the connection was cut")
	switch p.gate(ctx, fmt.Sprintf("POST %.8s", hash), posting, nil) {
	case refused:
		p.m.told(s)
		return oauth.Answer{}, &oauth.Error{Outcome: oauth.Refused, Code: "rate_limited"}
	case broken, crashed, timedOut:
		return oauth.Answer{}, lost
	default:
	}
	answer, err := c.provider.Refresh(ctx, refresh)
	p.m.rotated(s, user, refresh, answer, err)
	if f := p.gate(ctx, "answer", posting, nil); f != applied {
		return oauth.Answer{}, lost
	}
	if err != nil {
		p.m.told(s)
	} else {
		p.m.holds(p, answer)
	}
	return answer, err
}

func (c *gatedClient) Exchange(ctx context.Context, code string, verifier secret.Secret) (oauth.Answer, error) {
	p, lost := c.process, errors.New("the connection was cut")
	if f := p.gate(ctx, "POST code", posting, nil); f != applied && f != vanished {
		return oauth.Answer{}, lost
	}
	answer, err := c.provider.Exchange(ctx, code, verifier)
	if f := p.gate(ctx, "answer to code", posting, nil); f != applied {
		return oauth.Answer{}, lost
	}
	if err == nil {
		p.m.holds(p, answer)
	}
	return answer, err
}

// told notes that the outcome of a request is known, and is no new pair.
func (m *model) told(s *sent) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s.over = true
}

// holds notes who has an answer that is nowhere else yet.
func (m *model) holds(p *process, answer oauth.Answer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.holders[tokenstore.HashPair(answer.AccessToken, answer.RefreshToken)] = p
}

// rotated notes what the provider did with a refresh token, and lets it revoke
// the account of one that was used before.
func (m *model) rotated(s *sent, user int64, refresh secret.Secret, answer oauth.Answer, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil {
		s.successor = tokenstore.HashPair(answer.AccessToken, answer.RefreshToken)
		m.used[refresh.Reveal()] = true
	} else if m.revoking && m.used[refresh.Reveal()] {
		m.w.provider.script(func(p *provider) { delete(p.refresh, user) })
	}
}
