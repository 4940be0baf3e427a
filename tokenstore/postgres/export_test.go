package postgres

import (
	"context"
	"time"
)

// Shut closes the connections now, so that no test leaves one behind.
func (d *Database) Shut() { d.shut() }

// Run runs a statement as the store does.
func (d *Database) Run(ctx context.Context, sql string) error { return d.exec(ctx, "running", sql) }

// Contended reports whether another process is known to wait for a lock held here.
func (s *Store) Contended() bool {
	l := s.db.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, contended := range l.contended {
		if contended {
			return true
		}
	}
	return false
}

// Locked reports whether a lock is held here.
func (d *Database) Locked() bool {
	d.locks.mu.Lock()
	defer d.locks.mu.Unlock()
	return len(d.locks.contended) > 0
}

// NeverAskAgain has the store wait for the holder's word alone.
func (s *Store) NeverAskAgain() { s.db.locks.pause = time.Hour }
