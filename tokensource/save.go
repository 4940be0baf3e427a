package tokensource

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// landWait bounds one try to save a pair.
	landWait = 5 * time.Second
	// spillAfter is how long a store may take before a pair is spilled.
	spillAfter = 2 * time.Second
)

var (
	// errVoid: the account was disconnected while its pair was on its way.
	errVoid    = errors.New("the account was disconnected")
	errNotRead = errors.New("the pair that was written could not be read back")
)

// landing saves one pair, which the provider issued once and will not issue again.
// It retries until the pair has been read back.
type landing struct {
	source  *Source
	store   tokenstore.Store
	keyring *secret.Keyring
	app     *application
	account *account
	// pair is numbered by try while trouble may read it: mu guards it.
	mu   sync.Mutex
	pair tokenstore.Pair
	// consent says that the pair gets the next authorization, whichever that is
	// when the store can tell.
	consent bool
	// intent is renewed while the pair is on its way; nil for a consent.
	intent *tokenstore.Intent
	// written says that the store took the pair, by the number it has now.
	written bool
	// early is called once when the store does not take the pair at once.
	early func()

	once  sync.Once
	spill spill
}

// run returns the account as it was read back. It fails only with errVoid and,
// when the process ends, with ctx; the pair is spilled then.
func (l *landing) run(ctx context.Context) (tokenstore.Account, error) {
	m, hash := l.source.manager, l.pair.Hash
	m.landing.Store(hash, nil)
	defer m.landing.Delete(hash)
	// A store that hangs must not keep the pair in memory alone.
	hanging := time.AfterFunc(spillAfter, func() { l.trouble(context.DeadlineExceeded) })
	defer hanging.Stop()
	pauses := pausesBetween(100*time.Millisecond, landWait)
	for {
		state, err := l.try(ctx)
		if err == nil || errors.Is(err, errVoid) {
			hanging.Stop()
			l.once.Do(func() {}) // what is being spilled is removed too
			l.spill.remove()
			return state, err
		}
		l.trouble(err)
		l.renew(ctx)
		timer := time.NewTimer(pauses.NextBackOff())
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return state, err
		}
	}
}

func (l *landing) try(ctx context.Context) (tokenstore.Account, error) {
	ctx, cancel := context.WithTimeout(ctx, landWait)
	defer cancel()
	id := l.account.id()
	if l.written || l.consent && l.pair.Authorization == 0 {
		state, err := l.store.Account(ctx, id)
		switch {
		case err != nil:
			return state, fmt.Errorf("reading account %s: %w", id, err)
		case !l.written:
			l.number(state.NextAuthorization())
		case state.Tombstone >= l.pair.Authorization:
			// Other instances may have refreshed the pair before the disconnect deleted
			// it. If it were added again, its burnt refresh token would be posted.
			return state, errVoid
		case covers(&state, l.pair.PairID):
			return state, nil
		}
	}
	if err := l.store.AddPair(ctx, id, l.pair); err != nil {
		return tokenstore.Account{}, fmt.Errorf("saving pair %s of account %s: %w", l.pair.PairID, id, err)
	}
	l.written = true
	state, err := l.store.Account(ctx, id)
	if err != nil {
		return state, fmt.Errorf("reading back pair %s of account %s: %w", l.pair.PairID, id, err)
	}
	if state.Tombstone >= l.pair.Authorization {
		return state, l.voided(ctx)
	}
	if covers(&state, l.pair.PairID) {
		return state, nil
	}
	return state, errNotRead
}

// voided deletes the pair: it was added after a disconnect had looked for pairs to
// delete. A consent is newer than that disconnect, so it is added again, with a
// number above the tombstone.
func (l *landing) voided(ctx context.Context) error {
	if err := l.store.DeletePairs(ctx, l.account.id(), l.pair.PairID); err != nil {
		return fmt.Errorf("deleting void pair %s of account %s: %w", l.pair.PairID, l.account.id(), err)
	}
	if !l.consent {
		return errVoid
	}
	l.number(0)
	return errNotRead
}

func (l *landing) number(authorization uint64) {
	l.written = false
	l.mu.Lock()
	l.pair.Authorization = authorization
	l.mu.Unlock()
	_ = l.spill.renumber(l.pair) // the file that is there will do
}

// covers reports whether a pair, or a successor of it, is in the store: another
// instance may have read, refreshed and deleted it since. A pair of another consent
// proves nothing: only the provider knows which of the two is alive.
func covers(state *tokenstore.Account, id tokenstore.PairID) bool {
	return slices.ContainsFunc(state.Pairs, func(p tokenstore.Pair) bool {
		return p.PairID == id || p.Authorization == id.Authorization && p.Generation > id.Generation
	})
}

// trouble handles, once, a store that does not accept the pair: it writes the pair to
// a file, which survives the process, and raises an alarm.
func (l *landing) trouble(cause error) {
	l.once.Do(func() {
		l.mu.Lock()
		pair := l.pair
		l.mu.Unlock()
		err := l.spill.write(l.source.config.SpillDir, l.keyring, l.account.id(), pair)
		if err != nil {
			cause = errors.Join(cause, err)
		}
		l.source.observe(Event{
			Name: EventAlarm, Application: l.app.Name, Account: l.account.id(), Pair: pair.PairID, Reason: ReasonStore,
			Err: fmt.Errorf("the store does not take a new pair of tokens; it is tried again until it does: %w", cause),
		})
		if l.early != nil {
			l.early()
		}
	})
}

// renew keeps other instances from treating the outcome of the POST as unknown.
func (l *landing) renew(ctx context.Context) {
	if l.intent == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, landWait)
	defer cancel()
	next := *l.intent
	next.At = wall(l.source.now())
	if l.store.PutIntent(ctx, l.account.id(), next) == nil {
		*l.intent = next
	}
}
