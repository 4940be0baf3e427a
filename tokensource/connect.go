package tokensource

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// consentLockWait is how long a person's page waits for an account's lock
	// before it goes on without.
	consentLockWait = 5 * time.Second
	// saveLockWait is how long a new consent waits for it.
	saveLockWait = 100 * time.Millisecond
	// connectWait bounds a Connect or a Disconnect.
	connectWait = 40 * time.Second
	// meWait bounds the question whose account it is, where the answer to it is
	// for people only.
	meWait = 5 * time.Second
	// saveWait is how long an exchange waits for its pair to be saved. The pair
	// goes on being saved after that.
	saveWait = 10 * time.Second
)

var (
	errNoAccount    = errors.New("the provider does not tell whose account this is")
	errOtherAccount = errors.New("the provider names two accounts for one token")
)

// Exchange exchanges a code, once, and saves the pair to its account at once, as
// the account's next authorization. It continues when the caller leaves: the code is
// burnt by then. The error is an [*oauth.Error] where the provider refused, else an
// [*Error].
func (s *Source) Exchange(ctx context.Context, application, code string, verifier secret.Secret) (Consent, error) {
	c, app, err := s.serving(application)
	if err != nil {
		return Consent{}, err
	}
	// A code can be sent once, so everything that may fail first is checked first.
	o, err := c.open(ctx)
	if err != nil {
		return Consent{}, storeError(err)
	}
	if err := app.mayExchange(c.now()); err != nil {
		return Consent{}, err
	}
	c.realm.begin()
	done := make(chan exchanged, 1)
	started := c.manager.spawn(0, func(ctx context.Context) {
		defer c.realm.end()
		c.exchange(ctx, o, app, code, verifier, done)
	})
	if !started {
		c.realm.end()
		return Consent{}, asError(errEnding)
	}
	select {
	case e := <-done:
		return e.consent, e.err
	case <-ctx.Done():
		return Consent{}, asError(context.Cause(ctx))
	}
}

type exchanged struct {
	consent Consent
	err     error
}

// mayExchange limits exchanges apart from renewals, which made-up codes must not slow.
func (a *application) mayExchange(now time.Time) error {
	if err := a.state.breaker.check(now); err != nil {
		return err
	}
	if err := a.state.exchangeBreaker.check(now); err != nil {
		return err
	}
	if !a.state.exchanges.AllowN(now, 1) {
		return &Error{Status: Connected, Reason: ReasonProvider, RetryAfter: providerRetry, Err: errors.New("too many exchanges at once")}
	}
	return nil
}

// exchange tells done what came of it as soon as it is known, and goes on until
// the pair is saved.
func (s *Source) exchange(ctx context.Context, o *opened, app *application, code string, verifier secret.Secret, done chan<- exchanged) {
	answer, err := s.exchangeCode(ctx, app, code, verifier)
	if err != nil {
		done <- exchanged{err: err}
		return
	}
	id, user, err := s.identify(ctx, app, answer)
	if err != nil {
		s.observe(Event{Name: EventAlarm, Application: app.Name, Reason: ReasonProvider, Err: err})
		done <- exchanged{err: &Error{Status: Connected, Reason: ReasonProvider, Err: err}}
		return
	}
	// A caller waits for the store only so long; the pair is saved all the same.
	late := time.AfterFunc(saveWait, func() {
		select {
		case done <- exchanged{err: storeError(errors.New("the pair is not in the store yet"))}:
		default:
		}
	})
	pair, err := s.saveConsent(ctx, o, app, id, answer)
	if !late.Stop() || err != nil {
		select {
		case done <- exchanged{err: storeError(err)}:
		default:
		}
		return
	}
	if user.ID == 0 {
		user = s.describe(ctx, app, answer.AccessToken)
	}
	if user.ID != 0 && user.ID != id.UserID {
		done <- exchanged{err: s.disown(ctx, o, app, id, pair)}
		return
	}
	done <- exchanged{consent: Consent{
		Application:   app.Name,
		Account:       id,
		Authorization: pair.Authorization,
		Nickname:      user.Nickname,
		Country:       user.Country,
		Offline:       !pair.RefreshToken.IsZero(),
	}}
}

// exchangeCode sends the code, once.
func (s *Source) exchangeCode(ctx context.Context, app *application, code string, verifier secret.Secret) (oauth.Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, app.Client.Timeout())
	defer cancel()
	answer, err := app.Client.Exchange(ctx, code, verifier)
	if err == nil {
		app.state.accepted()
		app.state.exchangeEnded(s.now(), nil)
		return answer, nil
	}
	refusal, ok := errors.AsType[*oauth.Error](err)
	if !ok {
		refusal = &oauth.Error{Outcome: oauth.Unknown, Code: "unreadable", Description: err.Error()}
	}
	if refusal.Code == "invalid_client" {
		// Of all faults only this one means that renewals fail too.
		_ = s.applicationFault(app, refusal)
	}
	app.state.exchangeEnded(s.now(), refusal)
	return answer, refusal
}

// exchangeEnded opens the breaker of exchanges when the provider asks for a pause or
// does not answer. A refused code does not count: strangers can make codes up.
func (a *applicationState) exchangeEnded(now time.Time, refusal *oauth.Error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if refusal == nil || refusal.Outcome == oauth.GrantDead || refusal.Outcome == oauth.ApplicationFault {
		a.exchangeFailed = 0
		a.exchangeBreaker.clear()
		return
	}
	a.exchangeFailed++
	asked := min(refusal.RetryAfter, time.Minute)
	if asked > 0 || a.exchangeFailed >= exchangeFailures {
		_, _ = a.exchangeBreaker.open(now, &Error{Status: Connected, Reason: ReasonProvider, Err: refusal}, asked)
	}
}

// identify finds out which account a pair belongs to: from the answer, else from
// /users/me, else from the user ID at the end of both tokens. A pair whose account
// stays unknown is not saved.
func (s *Source) identify(ctx context.Context, app *application, answer oauth.Answer) (tokenstore.AccountID, oauth.User, error) {
	id := tokenstore.AccountID{ClientID: app.clientID, UserID: answer.UserID, Live: answer.LiveMode == nil || *answer.LiveMode}
	if id.UserID > 0 {
		return id, oauth.User{}, nil
	}
	user := s.describe(ctx, app, answer.AccessToken)
	if user.ID > 0 {
		id.UserID = user.ID
		return id, user, nil
	}
	byAccess, byRefresh := trailing(answer.AccessToken), trailing(answer.RefreshToken)
	if byAccess <= 0 || !answer.RefreshToken.IsZero() && byRefresh != byAccess {
		return id, oauth.User{}, errNoAccount
	}
	id.UserID = byAccess
	return id, oauth.User{}, nil
}

// trailing is the account's number at the end of a token, or 0.
func trailing(token secret.Secret) int64 {
	text := token.Reveal()
	digits := text[strings.LastIndexByte(text, '-')+1:]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || strconv.FormatInt(n, 10) != digits {
		return 0 // a user ID has one spelling: not +7, not 007
	}
	return n
}

// describe asks the provider who a token belongs to; a zero User where it does
// not say.
func (s *Source) describe(ctx context.Context, app *application, access secret.Secret) oauth.User {
	ctx, cancel := context.WithTimeout(ctx, meWait)
	defer cancel()
	user, err := app.Client.Me(ctx, access)
	if err != nil {
		return oauth.User{}
	}
	return user
}

// saveConsent adds the pair as the account's next authorization, over no other.
// It does not wait for a lock that another holds: older pairs are dead, and this
// one is in memory alone, so that a kill would lose the account. The lock only
// tells apart the numbers of two consents at once; both stay in any case.
func (s *Source) saveConsent(ctx context.Context, o *opened, app *application, id tokenstore.AccountID, answer oauth.Answer) (tokenstore.Pair, error) {
	a := s.realm.account(id)
	unlock := lockAccount(ctx, s.manager, o.store, id, saveLockWait)
	defer unlock()
	pair := newPair(answer, s.now())
	pair.Hash = tokenstore.HashPair(pair.AccessToken, pair.RefreshToken)
	l := landing{source: s, store: o.store, keyring: o.keyring, app: app, account: a, pair: pair, consent: true}
	state, err := l.run(ctx)
	if err != nil {
		return pair, fmt.Errorf("saving the consent of account %s: %w", id, err)
	}
	// Sellers that point to this account already act with the newest pair.
	a.publish(&state)
	a.worked()
	s.expect(app, a, true)
	return l.pair, nil
}

// disown deletes a pair that belongs to another account than its answer named: the
// sellers of the account that it was saved to must not use it.
func (s *Source) disown(ctx context.Context, o *opened, app *application, id tokenstore.AccountID, pair tokenstore.Pair) error {
	a := s.realm.account(id)
	s.observe(Event{Name: EventAlarm, Application: app.Name, Account: id, Pair: pair.PairID, Reason: ReasonProvider, Err: errOtherAccount})
	a.drop(pair.PairID)
	err := persist(ctx, s.manager, func(ctx context.Context) error { return o.store.DeletePairs(ctx, id, pair.PairID) })
	// Another instance may have read the pair: without a verdict it would take it
	// for one that the store lost, and add it again.
	verdict := tokenstore.Verdict{Pair: pair.Hash, Reason: ReasonProvider, At: wall(s.now())}
	err = errors.Join(err, persist(ctx, s.manager, func(ctx context.Context) error { return o.store.PutVerdict(ctx, id, verdict) }))
	return &Error{Status: Connected, Reason: ReasonProvider, Err: errors.Join(errOtherAccount, err)}
}

// Connect makes the account of a consent the one that the seller acts with. The
// connection keeps its id where the account stays the same. The error is an
// [*Error].
func (s *Source) Connect(ctx context.Context, seller string, consent Consent) (tokenstore.Connection, error) {
	c, app, err := s.serving(consent.Application)
	if err != nil {
		return tokenstore.Connection{}, err
	}
	if isNobody(seller) {
		return tokenstore.Connection{}, notConnected()
	}
	if consent.Account.ClientID != app.clientID {
		return tokenstore.Connection{}, &Error{Status: ReconnectRequired, Reason: ReasonApplicationChanged}
	}
	connection, err := detached(ctx, c.manager, connectWait, func(ctx context.Context) (tokenstore.Connection, error) {
		return c.connect(ctx, app, seller, consent)
	})
	if err != nil {
		return tokenstore.Connection{}, storeError(err)
	}
	return connection, nil
}

func (s *Source) connect(ctx context.Context, app *application, seller string, consent Consent) (tokenstore.Connection, error) {
	o, err := s.open(ctx)
	if err != nil {
		return tokenstore.Connection{}, err
	}
	unlock := lockAccount(ctx, s.manager, o.store, consent.Account, consentLockWait)
	defer unlock()
	old, err := o.store.Connection(ctx, app.Name, seller)
	again := err == nil
	if err != nil && !errors.Is(err, tokenstore.ErrNotFound) {
		return old, fmt.Errorf("reading the connection: %w", err)
	}
	next := tokenstore.Connection{
		ID:            randomID(),
		Application:   app.Name,
		Seller:        seller,
		Account:       consent.Account,
		Authorization: consent.Authorization,
		Nickname:      consent.Nickname,
		Country:       consent.Country,
		CreatedAt:     wall(s.now()),
	}
	if again && old.Account != next.Account {
		// Instances that already use the other store would keep using the account that
		// the seller has there.
		state, err := o.store.Account(ctx, old.Account)
		if err != nil {
			return next, fmt.Errorf("reading account %s: %w", old.Account, err)
		}
		if state.Moved != nil {
			return next, hasMoved()
		}
	}
	if again && old.Account == next.Account {
		next.ID, next.CreatedAt = old.ID, old.CreatedAt
	}
	if err := s.point(ctx, o, app, next, old); err != nil {
		return next, err
	}
	event := Event{Name: EventConnected, Application: app.Name, Seller: seller, Account: next.Account}
	if again {
		event.Name = EventReconnected
	}
	s.observe(event)
	return next, nil
}

// point writes the pointer, and then checks whether a disconnect was deciding at the
// same time that nobody points to the account. The disconnect writes its mark before
// it looks for pointers, so at least one of the two sees the other.
func (s *Source) point(ctx context.Context, o *opened, app *application, next, old tokenstore.Connection) error {
	a, k := s.realm.account(next.Account), key{application: app.name, seller: next.Seller}
	if err := s.standing(ctx, o, app, a, next); err != nil {
		return err
	}
	err := o.store.PutConnection(ctx, next)
	epoch := s.realm.forget(k)
	if err != nil {
		return fmt.Errorf("writing the connection: %w", err)
	}
	now := s.now()
	err = s.standing(ctx, o, app, a, next)
	if err == nil {
		var back tokenstore.Connection
		back, err = o.store.Connection(ctx, app.Name, next.Seller)
		if err == nil && back.ID == next.ID {
			s.realm.remember(a.snapshot(k, next.ID, app, now), epoch)
			return nil
		}
		if err == nil || errors.Is(err, tokenstore.ErrNotFound) {
			// Disconnected, or connected anew, in between.
			return &Error{Status: NotConnected, Reason: ReasonDisconnected}
		}
	}
	s.undo(ctx, o, next, old)
	s.realm.forget(k)
	return err
}

// standing reads the account, and reports whether a disconnect voids the
// consent, or the account was moved to another store.
func (s *Source) standing(ctx context.Context, o *opened, app *application, a *account, c tokenstore.Connection) error {
	state, err := s.read(ctx, o.store, app.Name, a)
	if err != nil {
		return fmt.Errorf("reading account %s: %w", a.id(), err)
	}
	if state.Moved != nil {
		return hasMoved()
	}
	void := state.Tombstone >= c.Authorization
	for _, m := range state.Marks {
		void = void || m.Authorization >= c.Authorization
	}
	if void {
		return &Error{Status: NotConnected, Reason: ReasonDisconnected}
	}
	return nil
}

// undo restores the connection that the seller had before. If that was ended
// meanwhile it is not restored, and the seller has none.
func (s *Source) undo(ctx context.Context, o *opened, next, old tokenstore.Connection) {
	_ = persist(ctx, s.manager, func(ctx context.Context) error {
		if old.ID != "" {
			if err := o.store.PutConnection(ctx, old); !errors.Is(err, tokenstore.ErrNotFound) {
				return err
			}
		}
		return o.store.DeleteConnection(ctx, next)
	})
}
