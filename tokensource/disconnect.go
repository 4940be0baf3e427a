package tokensource

import (
	"context"
	"errors"
	"fmt"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// Disconnect ends exactly this connection, and deletes the tokens of its account
// where no other connection points there. A connection that is gone is no error,
// and one that the seller has by another id is left alone. The error is an
// [*Error].
func (s *Source) Disconnect(ctx context.Context, connection tokenstore.Connection) error {
	c, app, err := s.serving(connection.Application)
	if err != nil {
		return err
	}
	_, err = detached(ctx, c.manager, connectWait, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, c.disconnect(ctx, app, connection)
	})
	if err != nil {
		return storeError(err)
	}
	return nil
}

func (s *Source) disconnect(ctx context.Context, app *application, c tokenstore.Connection) error {
	o, err := s.open(ctx)
	if err != nil {
		return err
	}
	a, k := s.realm.account(c.Account), key{application: app.name, seller: c.Seller}
	unlock := lockAccount(ctx, s.manager, o.store, a.id(), consentLockWait)
	defer unlock()
	state, err := o.store.Account(ctx, a.id())
	if err != nil {
		return fmt.Errorf("reading account %s: %w", a.id(), err)
	}
	// The connection would live on in the other store. This is checked before the
	// connection is read: the other store may have one that is unknown here.
	if state.Moved != nil {
		return hasMoved()
	}
	current, err := o.store.Connection(ctx, app.Name, c.Seller)
	if errors.Is(err, tokenstore.ErrNotFound) {
		s.realm.forget(k) // it may have ended at another instance just now
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading the connection: %w", err)
	}
	if current.ID != c.ID {
		// Another connect replaced it. If that one fails, it restores this connection,
		// unless it finds the tombstone that is written here.
		err := o.store.DeleteConnection(ctx, c)
		s.realm.forget(k)
		return err
	}
	if current.Account != c.Account || current.Seller != c.Seller {
		return errors.New("reading the connection: the store returned another one by its id")
	}
	mark := tokenstore.Mark{Connection: current.ID, Authorization: highest(&state, &current), At: wall(s.now())}
	// The connection's tombstone is written first: from here on the connection is
	// ended, whatever else fails.
	err = o.store.DeleteConnection(ctx, current)
	s.realm.forget(k)
	if err != nil {
		return fmt.Errorf("deleting the connection: %w", err)
	}
	s.observe(Event{Name: EventDisconnected, Application: app.Name, Seller: c.Seller, Account: a.id()})
	if _, err := s.release(ctx, o, app, a, mark); err != nil {
		// The seller is disconnected. What is left are tokens that nobody points
		// to, and the operator ought to know why.
		s.observe(Event{Name: EventAlarm, Application: app.Name, Account: a.id(), Reason: ReasonStore, Err: err})
	}
	return nil
}

// highest is the highest authorization that a disconnect may void: that of a
// consent which comes later is not among them.
func highest(state *tokenstore.Account, c *tokenstore.Connection) uint64 {
	top := max(state.Tombstone, c.Authorization)
	for _, p := range state.Pairs {
		top = max(top, p.Authorization)
	}
	return top
}

// release deletes the account's pairs unless another connection points to it. A
// connect that runs at the same time sees the mark; one that ran before is in the
// list. It reports whether the account is kept.
func (s *Source) release(ctx context.Context, o *opened, app *application, a *account, mark tokenstore.Mark) (kept bool, err error) {
	write := func(what string, w func(context.Context) error) error {
		if err := persist(ctx, s.manager, w); err != nil {
			return fmt.Errorf("disconnecting account %s: %s: %w", a.id(), what, err)
		}
		return nil
	}
	if err := write("marking it", func(ctx context.Context) error { return o.store.PutMark(ctx, a.id(), mark) }); err != nil {
		return true, err
	}
	var left []tokenstore.Connection
	err = write("listing its connections", func(ctx context.Context) (err error) {
		left, err = o.store.Connections(ctx, a.id())
		return err
	})
	if err != nil {
		// The mark stays: it is unknown whether the account is in use. The next consent
		// is numbered above the mark.
		return true, err
	}
	if len(left) == 0 {
		// The tombstone keeps the account's number: copies of the pairs that arrive late
		// are void, and the next consent is numbered above them.
		if err := write("writing its tombstone", func(ctx context.Context) error { return o.store.PutTombstone(ctx, a.id(), mark.Authorization) }); err != nil {
			return true, err
		}
		var state tokenstore.Account
		err := write("deleting its pairs", func(ctx context.Context) (err error) {
			state, err = s.deleteVoid(ctx, o, a, mark.Authorization)
			return err
		})
		a.void(mark.Authorization)
		if err != nil {
			return false, err
		}
		s.revoke(ctx, app, &state, mark.Authorization)
	}
	return len(left) > 0, write("removing the mark", func(ctx context.Context) error { return o.store.DeleteMark(ctx, a.id(), mark) })
}

// deleteVoid deletes what the tombstone voids, with the intents that name it. It
// returns the account as it was before.
func (s *Source) deleteVoid(ctx context.Context, o *opened, a *account, tombstone uint64) (tokenstore.Account, error) {
	state, err := o.store.Account(ctx, a.id())
	if err != nil {
		return state, err
	}
	state.ID = a.id()
	var void []tokenstore.PairID
	hashes := make(map[string]bool)
	for _, p := range state.Pairs {
		if p.Authorization <= tombstone {
			void = append(void, p.PairID)
			hashes[p.Hash] = true
		}
	}
	if err := o.store.DeletePairs(ctx, a.id(), void...); err != nil {
		return state, err
	}
	for _, i := range state.Intents {
		if hashes[i.Pair] {
			if err := o.store.DeleteIntent(ctx, a.id(), i); err != nil {
				return state, err
			}
		}
	}
	return state, nil
}

// revoke ends the authorization at the provider, if the provider supports that. It is
// called after the tokens are deleted here, and does nothing if there is a newer
// consent: the provider would end that too.
func (s *Source) revoke(ctx context.Context, app *application, state *tokenstore.Account, tombstone uint64) {
	if state.ID.ClientID != app.clientID {
		return // of an application that is not configured any more
	}
	var access *tokenstore.Pair
	for i := range state.Pairs {
		p := &state.Pairs[i]
		if p.Authorization > tombstone {
			return
		}
		if s.now().Before(p.ExpiresAt) {
			access = p
		}
	}
	if access == nil {
		return
	}
	if err := app.Client.Revoke(ctx, state.ID.UserID, access.AccessToken); err != nil {
		s.observe(Event{Name: EventRenewalFailed, Application: app.Name, Account: state.ID, Reason: ReasonProvider, Err: fmt.Errorf("revoking at the provider: %w", err)})
	}
}
