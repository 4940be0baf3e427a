package tokensource

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// read loads an account and makes it what memory knows. Where memory knew,
// before the store was asked, a pair above all that the store has, the store
// lags or was restored from a back-up: the pair is added again, nothing is
// overwritten.
func (s *Source) read(ctx context.Context, store tokenstore.Store, app string, a *account) (tokenstore.Account, error) {
	before := a.known.Load()
	state, err := store.Account(ctx, a.id())
	if err == nil && !before.unsaved && missing(before, &state, 0) {
		// Once more: a list that was read while another instance replaced a pair
		// can show neither.
		state, err = store.Account(ctx, a.id())
		if err == nil {
			err = wiped(ctx, store, &state)
		}
		if err == nil && missing(before, &state, 0) {
			err = s.addAgain(ctx, store, app, a, &state, before)
		}
	}
	if err != nil {
		return state, err
	}
	a.sight(&state, s.now())
	a.publish(&state)
	return state, nil
}

// wiped returns an error where a store has nothing at all of an account that
// memory knows: a disconnect leaves a tombstone, or the pairs. It is a folder
// whose volume is not mounted, say, and what would be saved there would be gone
// when it is.
func wiped(ctx context.Context, store tokenstore.Store, state *tokenstore.Account) error {
	if len(state.Pairs) > 0 || state.Tombstone > 0 {
		return nil
	}
	connections, err := store.Connections(ctx, state.ID)
	if err != nil {
		return fmt.Errorf("listing the connections of account %s: %w", state.ID, err)
	}
	if len(connections) == 0 {
		return &tokenstore.UnreadableError{Err: fmt.Errorf("the store has lost account %s, which memory knows: is its volume mounted, is it the right database?", state.ID)}
	}
	return nil
}

func (s *Source) addAgain(ctx context.Context, store tokenstore.Store, app string, a *account, state *tokenstore.Account, before *known) error {
	pair := before.highest.unpack()
	cause := errors.New("the store lost a pair that memory knows; it was added again: is it a replica that lags, or was it restored from a back-up?")
	s.observe(Event{Name: EventAlarm, Application: app, Account: a.id(), Pair: pair.PairID, Reason: ReasonStore, Err: cause})
	if err := store.AddPair(ctx, a.id(), *pair); err != nil {
		return err
	}
	state.Pairs = append(state.Pairs, *pair)
	slices.SortFunc(state.Pairs, func(x, y tokenstore.Pair) int {
		if x.Less(y.PairID) {
			return -1
		}
		return 1
	})
	return nil
}

// missing reports whether k has a living pair above all living ones that state
// has, though nothing in state ended it or came of it.
func missing(k *known, state *tokenstore.Account, tombstone uint64) bool {
	if !k.alive() {
		return false
	}
	top := k.top()
	if top.Authorization <= max(tombstone, state.Tombstone) || state.Verdict(top.Hash) != nil {
		return false
	}
	return !covers(state, top) && !slices.ContainsFunc(state.Pairs, func(p tokenstore.Pair) bool {
		return top.Less(p.PairID) && state.Verdict(p.Hash) == nil
	})
}
