// Package copying moves accounts, with all that is known of them, from one
// [tokenstore.Store] to another while instances serve from either.
//
// At any moment one store at the most is in charge of an account; the other says so
// itself ([tokenstore.Moved]), so that its instances go on serving what is valid,
// and neither refresh, connect nor disconnect. For each account:
//
//  1. the target says that the source is in charge,
//  2. what the target lacks is written to it, until reading both finds nothing more,
//  3. the source says that the target is in charge,
//  4. what was under way meanwhile is waited for, and copied too,
//  5. the target is in charge.
//
// A crash after any write leaves the source in charge, or everything in the target
// and nobody in charge; the next run goes on from there. That is also how what came
// late is brought over: a pair, say, whose consent was given while step 3 passed.
//
// Nothing that the target has of its own is written over or deleted. Consumed states
// are not copied: they live for minutes.
package copying

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// page is how many ids are taken from the store at once.
	page = 1000
	// accountWait bounds the work on one account.
	accountWait = 5 * time.Minute

	defaultParallel = 8
)

// Place is a store by a name that its accounts are marked with.
type Place struct {
	Name  string
	Store tokenstore.Store
}

// Options say what is moved where.
type Options struct {
	From, To Place
	// Settle is how long a token request that is under way may take until its answer
	// is saved. It must not be less than what the instances allow.
	Settle time.Duration
	// Parallel is how many accounts are worked on at once; 0 is 8.
	Parallel int
	// Progress is told after each account, and Failed of each that could not be moved;
	// nil tells nobody. They are called by one goroutine at a time.
	Progress func(Summary)
	Failed   func(id tokenstore.AccountID, err error)
}

// Summary counts what was done.
type Summary struct {
	// Accounts is how many there were to look at when the run began, Seen how many
	// were looked at.
	Accounts int `json:"accounts"`
	Seen     int `json:"seen"`
	// Moved accounts were the source's; Late ones were moved before, and had something
	// new in the source; Unchanged ones had nothing; Failed ones are to be tried again.
	Moved     int `json:"moved"`
	Late      int `json:"late"`
	Unchanged int `json:"unchanged"`
	Failed    int `json:"failed"`
	// Pairs and Connections were written to the target; Ended connections were ended in
	// the source and are now in the target too; Kept ones are newer in the target.
	Pairs       int `json:"pairs"`
	Connections int `json:"connections"`
	Ended       int `json:"ended"`
	Kept        int `json:"kept"`
}

func (s *Summary) add(other Summary) {
	s.Seen++
	s.Moved += other.Moved
	s.Late += other.Late
	s.Unchanged += other.Unchanged
	s.Failed += other.Failed
	s.Pairs += other.Pairs
	s.Connections += other.Connections
	s.Ended += other.Ended
	s.Kept += other.Kept
}

// Run moves every account. When ctx is done it finishes those it has begun. One
// that fails stops no other; that some did is the error. To run again is always
// safe, and costs little where nothing has changed.
func Run(ctx context.Context, o Options) (Summary, error) {
	if o.Parallel <= 0 {
		o.Parallel = defaultParallel
	}
	r := &run{Options: o}
	err := walk(ctx, o.From.Store, func(ids []tokenstore.AccountID) error {
		r.summary.Accounts += len(ids)
		return nil
	})
	if err != nil {
		return r.summary, fmt.Errorf("counting the accounts in %s: %w", o.From.Name, err)
	}
	var workers errgroup.Group
	workers.SetLimit(o.Parallel)
	err = walk(ctx, o.From.Store, func(ids []tokenstore.AccountID) error {
		for _, id := range ids {
			workers.Go(func() error {
				if ctx.Err() != nil {
					return nil
				}
				// What was begun is finished.
				actx, cancel := context.WithTimeout(context.WithoutCancel(ctx), accountWait)
				defer cancel()
				done, err := r.move(actx, id)
				r.tell(id, done, err)
				return nil
			})
		}
		return context.Cause(ctx)
	})
	_ = workers.Wait() // they tell their errors themselves
	switch {
	case err != nil:
		return r.summary, fmt.Errorf("walking through the accounts in %s: %w", o.From.Name, err)
	case r.summary.Failed > 0:
		return r.summary, fmt.Errorf("%d of %d accounts could not be moved; nothing is lost: run it again", r.summary.Failed, r.summary.Seen)
	}
	return r.summary, nil
}

// walk goes through all accounts of a store.
func walk(ctx context.Context, store tokenstore.Store, visit func([]tokenstore.AccountID) error) error {
	for after := ""; ; {
		ids, next, err := store.Accounts(ctx, after, page)
		if err != nil {
			return err
		}
		if err := visit(ids); err != nil || next == "" {
			return err
		}
		after = next
	}
}

// run is one run through the source.
type run struct {
	Options
	mu      sync.Mutex
	summary Summary
}

func (r *run) tell(id tokenstore.AccountID, done Summary, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		done.Failed, done.Moved, done.Late, done.Unchanged = 1, 0, 0, 0
		if r.Failed != nil {
			r.Failed(id, err)
		}
	}
	r.summary.add(done)
	r.summary.Accounts = max(r.summary.Accounts, r.summary.Seen)
	if r.Progress != nil {
		r.Progress(r.summary)
	}
}

var (
	errSettling = errors.New("a token request for it is under way, and has not ended: an instance may be unable to save what it was given")
	errNotSame  = errors.New("what was written could not be read back as it was")
)
