package postgres

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/internal/turns"
)

const (
	// mostHeld bounds the locks that a process holds at once: all of a server's
	// programs share a table of some thousands.
	mostHeld = 1000
	// lockTimeout bounds what is asked of the session. It is no caller's, whose
	// leaving would break the session, and with it everybody's locks.
	lockTimeout = 5 * time.Second

	// A lock that another process holds is asked for again after growing pauses,
	// should nobody tell that it is free: its holder may have died.
	firstPause = 10 * time.Millisecond
	mostPause  = 500 * time.Millisecond
)

// locks are the locks of accounts that this process holds: advisory locks of one
// session. PostgreSQL releases them when the session ends, be it by a crash, a cut
// cable or a restart of the server, so that there is no lease to outlive and no
// clock to trust. Who waits holds no connection: goroutines of this process wait
// for each other here, one of them asks for the lock, and where another process
// has it, waits for its word.
//
// Who holds a lock when the session breaks does not hear of it. The lock saves
// work; safety does not rest on it.
type locks struct {
	db    *Database
	space string
	pause time.Duration
	turns turns.Turns[int64]
	slots chan struct{}

	// session guards conn, which is nil while nobody needs it.
	session chan struct{}
	conn    *pgx.Conn
	held    int
	idle    *time.Timer

	mu sync.Mutex
	// contended has the locks held here, and whether another process waits for
	// them; waiting has those waited for here.
	contended map[int64]bool
	waiting   map[int64]chan struct{}
}

func newLocks(d *Database, space string) *locks {
	return &locks{
		db: d, space: space, pause: firstPause,
		slots: make(chan struct{}, mostHeld), session: make(chan struct{}, 1),
		contended: make(map[int64]bool), waiting: make(map[int64]chan struct{}),
	}
}

// Lock waits for the account's lock until ctx is done.
func (s *Store) Lock(ctx context.Context, id tokenstore.AccountID) (tokenstore.Lock, error) {
	account, err := accountKey(id)
	if err != nil {
		return nil, fmt.Errorf("locking an account: %w", err)
	}
	l := s.db.locks
	held, err := l.lock(ctx, number(digest("lock", l.space, account.String())))
	if err != nil {
		return nil, s.db.failure(ctx, "locking an account", err)
	}
	return held, nil
}

func (l *locks) lock(ctx context.Context, key int64) (*lock, error) {
	leave, err := l.turns.Enter(ctx, key)
	if err != nil {
		return nil, err
	}
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
	conn, err := l.acquire(ctx, key)
	if err != nil {
		<-l.slots
		leave()
		return nil, err
	}
	return &lock{locks: l, key: key, conn: conn, leave: leave}, nil
}

// acquire returns the session that has the lock now.
func (l *locks) acquire(ctx context.Context, key int64) (*pgx.Conn, error) {
	free := make(chan struct{}, 1)
	l.mu.Lock()
	l.waiting[key] = free
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.waiting, key)
		l.mu.Unlock()
	}()
	tell := true
	for pause := l.pause; ; pause = max(l.pause, min(2*pause, mostPause)) {
		conn, err := l.try(ctx, key, tell)
		tell = false
		if conn != nil || err != nil {
			return conn, err
		}
		timer := time.NewTimer(pause/2 + rand.N(pause/2))
		select {
		case <-free:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

// try asks for the lock once, and with tell has its holder know that it is waited
// for.
func (l *locks) try(ctx context.Context, key int64, tell bool) (has *pgx.Conn, err error) {
	err = l.ask(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		var got bool
		if err := conn.QueryRow(ctx, "select pg_try_advisory_lock($1)", key).Scan(&got); err != nil {
			return err
		}
		if got {
			has = conn
			l.held++
			l.mu.Lock()
			l.contended[key] = false
			l.mu.Unlock()
			return nil
		}
		if !tell {
			return nil
		}
		_, err := conn.Exec(ctx, "select pg_notify($1, $2)", l.db.channel, l.db.payload(notice{Wanted: key}))
		return err
	})
	return has, err
}

// ask uses the session, opening it where there is none. One that fails is closed,
// and all of its locks with it: what it would do next is not known.
func (l *locks) ask(ctx context.Context, what func(ctx context.Context, conn *pgx.Conn) error) error {
	select {
	case l.session <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-l.session }()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockTimeout)
	defer cancel()
	again := l.conn != nil
	for {
		err := l.connected(ctx)
		if err == nil {
			err = what(ctx, l.conn)
		}
		if err == nil {
			l.rest()
			return nil
		}
		l.drop()
		if !again || !broken(err) {
			return err
		}
		again = false // the server was restarted: a new session will do
	}
}

// connected opens the session. Its notifications are of no worth after a crash, so
// that it need not wait for the disk; and a server that does not hear from this
// machine any more is to let go of the locks soon.
func (l *locks) connected(ctx context.Context) error {
	if l.conn != nil {
		return nil
	}
	conn, err := l.db.connect(ctx)
	if err != nil {
		return err
	}
	err = simple(ctx, conn, "set synchronous_commit = off; set tcp_keepalives_idle = 10; set tcp_keepalives_interval = 5; set tcp_keepalives_count = 3")
	if err != nil {
		closeConn(conn)
		return err
	}
	l.conn, l.held = conn, 0
	return nil
}

func (l *locks) drop() {
	if l.conn != nil {
		closeConn(l.conn)
		l.conn, l.held = nil, 0
	}
}

// rest has the session closed that nobody needs for a while.
func (l *locks) rest() {
	if l.idle != nil {
		l.idle.Stop()
	}
	if l.held == 0 {
		l.idle = time.AfterFunc(idleTime, l.close)
	}
}

// close closes the session unless a lock is held.
func (l *locks) close() {
	l.session <- struct{}{}
	defer func() { <-l.session }()
	if l.held == 0 {
		l.drop()
	}
}

// wanted notes that another process waits for a lock, if it is held here.
func (l *locks) wanted(key int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, held := l.contended[key]; held {
		l.contended[key] = true
	}
}

// wake lets who waits for a lock ask again.
func (l *locks) wake(key int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if free := l.waiting[key]; free != nil {
		select {
		case free <- struct{}{}:
		default:
		}
	}
}

// lock is a held lock.
type lock struct {
	locks *locks
	key   int64
	conn  *pgx.Conn
	leave func()
	once  sync.Once
}

// Unlock releases the lock, once. If its session has ended meanwhile, so has the
// lock.
func (h *lock) Unlock(ctx context.Context) error {
	h.once.Do(func() {
		defer func() { <-h.locks.slots; h.leave() }()
		h.locks.release(context.WithoutCancel(ctx), h)
	})
	return nil
}

// release needs no answer: a session that does not give one is closed, and that
// releases the lock too.
func (l *locks) release(ctx context.Context, h *lock) {
	l.mu.Lock()
	contended := l.contended[h.key]
	delete(l.contended, h.key)
	l.mu.Unlock()
	l.session <- struct{}{}
	defer func() { <-l.session }()
	if l.conn != h.conn {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	var b pgx.Batch
	b.Queue("select pg_advisory_unlock($1)", h.key)
	if contended {
		b.Queue("select pg_notify($1, $2)", l.db.channel, l.db.payload(notice{Free: h.key}))
	}
	l.held--
	if l.conn.SendBatch(ctx, &b).Close() != nil {
		l.drop()
		return
	}
	l.rest()
}
