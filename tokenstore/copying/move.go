package copying

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// lockWait is how long an account's lock is waited for.
	lockWait = time.Minute
	// settleWait is how long an account is waited for that is being refreshed.
	settleWait = 3 * time.Minute
	// settlePoll is how often it is looked at meanwhile.
	settlePoll = 500 * time.Millisecond
	// mostRounds bounds how often an account is compared that goes on changing.
	mostRounds = 10
	// skew is the difference of clocks within a fleet that is not remarkable.
	skew = 5 * time.Minute
)

// move moves one account.
func (r *run) move(ctx context.Context, id tokenstore.AccountID) (done Summary, err error) {
	// Most of what a second run meets was moved by the first, and needs no lock.
	d, err := r.compare(ctx, id)
	if err != nil {
		return done, err
	}
	if d.settled() {
		done.Unchanged++
		done.Kept = d.kept
		return done, nil
	}
	unlock, err := r.lock(ctx, id)
	if err != nil {
		return done, err
	}
	defer unlock()
	if d, err = r.compare(ctx, id); err != nil {
		return done, err
	}
	if d.from.Moved == nil {
		done.Moved++
	} else {
		done.Late++
	}
	return done, r.moveLocked(ctx, d, &done)
}

// moveLocked is steps 1 to 5.
func (r *run) moveLocked(ctx context.Context, d *difference, done *Summary) error {
	id := d.from.ID
	if err := r.To.Store.PutMoved(ctx, id, d.arriving(r.From.Name)); err != nil {
		return fmt.Errorf("marking it in %s: %w", r.To.Name, err)
	}
	d, err := r.bring(ctx, id, done)
	if err != nil {
		return err
	}
	if d.from.Moved == nil {
		if err := r.mark(ctx, d, false); err != nil {
			return err
		}
	}
	// An instance that wrote without the lock may have missed the mark. settle waits for
	// its token request, and the second bring copies what it saved.
	if err := r.settle(ctx, id); err != nil {
		return err
	}
	if d, err = r.bring(ctx, id, done); err != nil {
		return err
	}
	if !d.handedOver() {
		if err := r.mark(ctx, d, true); err != nil {
			return err
		}
	}
	done.Kept = d.kept
	if err := r.To.Store.DeleteMoved(ctx, id); err != nil {
		return fmt.Errorf("handing it over to %s: %w", r.To.Name, err)
	}
	return nil
}

// mark writes to the source that the target is in charge, and what it has.
func (r *run) mark(ctx context.Context, d *difference, done bool) error {
	moved := tokenstore.Moved{To: r.To.Name, Done: done, At: time.Now().UTC()}
	if d.from.Moved != nil {
		moved.Pairs, moved.At = d.from.Moved.Pairs, d.from.Moved.At
	}
	moved.Pairs = with(moved.Pairs, d.from.Pairs)
	if err := r.From.Store.PutMoved(ctx, d.from.ID, moved); err != nil {
		return fmt.Errorf("marking it in %s: %w", r.From.Name, err)
	}
	return nil
}

// bring writes what the target lacks, until both have been read and nothing is
// missing.
func (r *run) bring(ctx context.Context, id tokenstore.AccountID, done *Summary) (*difference, error) {
	for range mostRounds {
		d, err := r.compare(ctx, id)
		if err != nil || d.empty() {
			return d, err
		}
		if err := r.write(ctx, d, done); err != nil {
			return d, fmt.Errorf("writing it to %s: %w", r.To.Name, err)
		}
	}
	return nil, errNotSame
}

// write adds the pairs before the connections that are to act with them, and before
// the marks, above which a pair would be numbered; it deletes last.
func (r *run) write(ctx context.Context, d *difference, done *Summary) error {
	to, id := r.To.Store, d.from.ID
	if d.tombstone > 0 {
		if err := to.PutTombstone(ctx, id, d.tombstone); err != nil {
			return err
		}
	}
	for _, v := range d.verdicts {
		if err := to.PutVerdict(ctx, id, v); err != nil {
			return err
		}
	}
	for _, i := range d.intents {
		if err := to.PutIntent(ctx, id, i); err != nil {
			return err
		}
	}
	for _, p := range d.pairs {
		if err := to.AddPair(ctx, id, p); err != nil {
			return err
		}
		done.Pairs++
	}
	for _, m := range d.marks {
		if err := to.PutMark(ctx, id, m); err != nil {
			return err
		}
	}
	for _, c := range d.ended {
		if err := to.DeleteConnection(ctx, c); err != nil {
			return err
		}
		done.Ended++
	}
	for _, c := range d.connections {
		// One that was ended in the target meanwhile stays ended.
		if err := to.PutConnection(ctx, c); err != nil && !errors.Is(err, tokenstore.ErrNotFound) {
			return err
		}
		done.Connections++
	}
	return to.DeletePairs(ctx, id, d.replaced...)
}

// settle waits until no token request can be under way that was begun before the
// source was marked. The lock keeps them away; this is for locks that are stolen, or
// worth nothing. An intent that nobody renews any more is one whose outcome is
// unknown, and is copied.
func (r *run) settle(ctx context.Context, id tokenstore.AccountID) error {
	ctx, cancel := context.WithTimeoutCause(ctx, max(settleWait, 2*r.Settle), errSettling)
	defer cancel()
	seen := make(map[tokenstore.Intent]time.Time)
	for {
		account, err := r.From.Store.Account(ctx, id)
		if err != nil {
			return fmt.Errorf("reading it from %s: %w", r.From.Name, cmp.Or(context.Cause(ctx), err))
		}
		now, quiet := time.Now(), true
		for _, i := range account.Intents {
			named := slices.ContainsFunc(account.Pairs, func(p tokenstore.Pair) bool { return p.Hash == i.Pair })
			if !named || now.Sub(i.At) > r.Settle+skew {
				continue
			}
			i.At = i.At.UTC() // to be a key, whatever the store makes of it
			if _, ok := seen[i]; !ok {
				seen[i] = now
			}
			quiet = quiet && now.Sub(seen[i]) >= r.Settle
		}
		if quiet {
			return nil
		}
		timer := time.NewTimer(settlePoll)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// lock takes the account's lock in both stores, in an order that does not depend on
// the direction: two runs that would move it both ways take turns.
func (r *run) lock(ctx context.Context, id tokenstore.AccountID) (unlock func(), err error) {
	places := []Place{r.From, r.To}
	slices.SortFunc(places, func(a, b Place) int { return cmp.Compare(a.Name, b.Name) })
	var held []tokenstore.Lock
	unlock = func() {
		for _, lock := range slices.Backward(held) {
			_ = lock.Unlock(ctx) // what cannot be unlocked runs out by itself
		}
	}
	lctx, cancel := context.WithTimeout(ctx, lockWait)
	defer cancel()
	for _, place := range places {
		lock, err := place.Store.Lock(lctx, id)
		if err != nil {
			unlock()
			return nil, fmt.Errorf("waiting for its lock in %s: %w", place.Name, err)
		}
		held = append(held, lock)
	}
	return unlock, nil
}
