// Package tokenstore says what a store of tokens must do: [Store]. It holds the
// records that a store keeps and their sealed form.
//
// Every rule here is about one thing: that no crash, no second instance and no
// lost answer can make a living pair of tokens disappear. Records are therefore
// added and later deleted, never overwritten, wherever two writers could meet.
// The storetest package has the suite that every Store passes.
package tokenstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

var (
	// ErrNotFound says that there is no such record. It is never returned for a
	// record that exists and cannot be read or opened.
	ErrNotFound = errors.New("not found")

	// ErrConsumed says that a state was consumed before.
	ErrConsumed = errors.New("consumed before")
)

// UnreadableError is of a store that works, and a record in it that is of no use as
// it is: damaged, lost, of a later version, or sealed with a key that is not
// configured. Its text is that of Err.
type UnreadableError struct{ Err error }

func (e *UnreadableError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnreadableError) Unwrap() error { return e.Err }

// AccountID names one Mercado Pago account that authorized an application.
type AccountID struct {
	// ClientID is the application's number at the provider.
	ClientID string `json:"client_id"`
	// UserID is the account's number at the provider. It exceeds 32 bits.
	UserID int64 `json:"user_id"`
	// Live tells a live account from a test one (live_mode).
	Live bool `json:"live"`
}

// String names the account for logs: client id, user id, live or test.
func (id AccountID) String() string {
	mode := "test"
	if id.Live {
		mode = "live"
	}
	return fmt.Sprintf("%s/%d/%s", id.ClientID, id.UserID, mode)
}

// Connection says which account a seller acts with.
type Connection struct {
	// ID is random, made new when a seller is connected to an account, and kept
	// when the same seller reconnects with the same account.
	ID string `json:"id"`
	// Application is the name of the application in the configuration.
	Application string `json:"application"`
	// Seller is the platform's own name for the seller.
	Seller string `json:"seller"`
	// Account is what the connection points to.
	Account AccountID `json:"account"`
	// Authorization numbers the consent that made the connection.
	Authorization uint64 `json:"authorization"`
	// Nickname and Country describe the account to people; empty where the
	// provider did not tell.
	Nickname string `json:"nickname,omitempty"`
	Country  string `json:"country,omitempty"`
	// CreatedAt is when the connection was made.
	CreatedAt time.Time `json:"created_at"`
}

// PairID names a pair within its account.
type PairID struct {
	// Authorization numbers the consents of an account, from 1.
	Authorization uint64 `json:"authorization"`
	// Generation numbers the refreshes within an authorization, from 0.
	Generation uint64 `json:"generation"`
	// Hash tells apart two pairs that got the same numbers; see [HashPair].
	Hash string `json:"hash"`
}

// String names the pair for logs: authorization, generation, and the start of
// its hash.
func (id PairID) String() string {
	return fmt.Sprintf("%d.%d-%.8s", id.Authorization, id.Generation, id.Hash)
}

// Less orders pairs: by authorization, then generation, then hash.
func (id PairID) Less(other PairID) bool {
	if id.Authorization != other.Authorization {
		return id.Authorization < other.Authorization
	}
	if id.Generation != other.Generation {
		return id.Generation < other.Generation
	}
	return id.Hash < other.Hash
}

// Pair is an access token with the refresh token that came with it.
type Pair struct {
	PairID
	AccessToken secret.Secret
	// RefreshToken is empty where the provider gave none (no offline_access).
	RefreshToken secret.Secret
	PublicKey    string
	Scope        string
	// ObtainedAt is when the answer was received, ExpiresAt when the access
	// token ends, both on the clock of the instance that received it.
	ObtainedAt time.Time
	ExpiresAt  time.Time
}

// HashPair returns the hash that names a pair: of its refresh token, or of its
// access token where there is no refresh token. Tokens are long and random, so
// the hash tells nothing about them.
func HashPair(access, refresh secret.Secret) string {
	of := refresh
	if of.IsZero() {
		of = access
	}
	sum := sha256.Sum256([]byte(of.Reveal()))
	return hex.EncodeToString(sum[:16])
}

// Intent says that an instance is about to post, or has posted, a pair's
// refresh token.
type Intent struct {
	// Pair is the hash of the pair whose refresh token is posted.
	Pair string `json:"pair"`
	// Instance is new at every start of a process.
	Instance string `json:"instance"`
	// Nonce is never used again; with it the intent's name is its own.
	Nonce string `json:"nonce"`
	// Attempt counts the posts of this pair with an unknown outcome before this one.
	Attempt int `json:"attempt,omitempty"`
	// At is when the intent was written or last renewed, on its writer's clock.
	At time.Time `json:"at"`
}

// Verdict says that a pair is dead. It is void for any other pair.
type Verdict struct {
	// Pair is the hash of the dead pair.
	Pair string `json:"pair"`
	// Reason is the provider's error code.
	Reason string `json:"reason"`
	// At is when the provider said so.
	At time.Time `json:"at"`
}

// Mark says that a disconnect is deciding whether an account's pairs, up to an
// authorization, may be deleted.
type Mark struct {
	// Connection is the id of the connection that is being disconnected.
	Connection string `json:"connection"`
	// Authorization is the highest authorization the disconnect may void.
	Authorization uint64    `json:"authorization"`
	At            time.Time `json:"at"`
}

// Moved says that another store is in charge of an account. What is here goes on
// serving while it is valid; nobody refreshes, connects or disconnects it here.
// The package copying writes it, and no other.
type Moved struct {
	// To names the store that is in charge.
	To string `json:"to"`
	// Pairs are those that the store in charge has, or had: it knows what became of
	// them. Another pair came late, and is to be copied still.
	Pairs []PairID `json:"pairs,omitempty"`
	// Done is set once what was under way when the account was moved is copied too.
	Done bool      `json:"done,omitempty"`
	At   time.Time `json:"at"`
}

// Account is all that a store knows of an account.
type Account struct {
	ID AccountID
	// Pairs are in ascending order of their PairID.
	Pairs []Pair
	// Intents, Verdicts and Marks come in no particular order.
	Intents  []Intent
	Verdicts []Verdict
	Marks    []Mark
	// Tombstone voids every pair of this authorization and of lower ones; 0
	// where nothing was disconnected.
	Tombstone uint64
	// Moved is nil where this store is in charge of the account.
	Moved *Moved
	// DueAt is when the account is due next; zero is never. Only a [Scheduler] tells.
	DueAt time.Time
}

// Living returns the pairs without a verdict and above the tombstone, the
// highest first. The first is the living pair; the others are only of use when
// the provider condemns it.
func (a *Account) Living() []Pair {
	var living []Pair
	for _, p := range slices.Backward(a.Pairs) {
		if p.Authorization > a.Tombstone && a.Verdict(p.Hash) == nil {
			living = append(living, p)
		}
	}
	return living
}

// Verdict returns the verdict on the pair with this hash, or nil.
func (a *Account) Verdict(hash string) *Verdict {
	for i := range a.Verdicts {
		if a.Verdicts[i].Pair == hash {
			return &a.Verdicts[i]
		}
	}
	return nil
}

// NextAuthorization returns the number for the pair of a new consent: above
// every pair, mark and tombstone of the account.
func (a *Account) NextAuthorization() uint64 {
	highest := a.Tombstone
	for _, p := range a.Pairs {
		highest = max(highest, p.Authorization)
	}
	for _, m := range a.Marks {
		highest = max(highest, m.Authorization)
	}
	return highest + 1
}

// Lock is a lock that is held. It saves work; safety does not rest on it, for
// some stores' locks are stolen from slow holders, and some do nothing.
type Lock interface {
	// Unlock releases the lock if it is still this holder's. It works with a
	// context that is done.
	Unlock(ctx context.Context) error
}

// Store keeps connections and accounts. Implementations are safe for use by
// many goroutines and by many processes at once. Secrets are sealed before they
// reach a disk or a wire.
//
// An error other than [ErrNotFound] and [ErrConsumed] means that the store does
// not know: callers treat nothing as absent because of it. A write that returns
// an error may have happened.
type Store interface {
	// Connection returns a seller's connection, or ErrNotFound when there is
	// none or the one there was is disconnected.
	Connection(ctx context.Context, application, seller string) (Connection, error)

	// PutConnection makes c the seller's connection, in place of any earlier
	// one. To make the same connection again is no error. One that was ended is
	// not made again: that is ErrNotFound, and what the seller has stays. It may
	// be, a day later, once CleanUp was there and the seller has another.
	PutConnection(ctx context.Context, c Connection) error

	// DeleteConnection ends the connection c for good: its tombstone, by c.ID, is
	// written first. A connection that the seller has by another id is left
	// alone. To end a connection that is gone is no error.
	DeleteConnection(ctx context.Context, c Connection) error

	// Ended reports whether the connection c was ended, for as long as its tombstone
	// is kept.
	Ended(ctx context.Context, c Connection) (bool, error)

	// Connections returns the connections, of any application and seller, that
	// point to an account; disconnected ones are not among them.
	Connections(ctx context.Context, id AccountID) ([]Connection, error)

	// Account returns all that is known of an account: an empty Account where
	// nothing is. A pair that cannot be opened is an error, not an absence.
	Account(ctx context.Context, id AccountID) (Account, error)

	// AddPair adds a pair, on disk when it returns. It never overwrites another;
	// to add the same pair again is no error.
	AddPair(ctx context.Context, id AccountID, pair Pair) error

	// DeletePairs deletes pairs with their verdicts. What is gone already is no
	// error.
	DeletePairs(ctx context.Context, id AccountID, pairs ...PairID) error

	// PutIntent writes an intent under a key of its own: pair, instance and
	// nonce. To write it again renews it.
	PutIntent(ctx context.Context, id AccountID, intent Intent) error

	// DeleteIntent withdraws an intent. What is gone already is no error.
	DeleteIntent(ctx context.Context, id AccountID, intent Intent) error

	// PutVerdict writes a verdict. A pair has one verdict at the most: the last.
	PutVerdict(ctx context.Context, id AccountID, verdict Verdict) error

	// PutMark and DeleteMark write and remove the mark of a disconnect, under
	// the id of its connection.
	PutMark(ctx context.Context, id AccountID, mark Mark) error
	DeleteMark(ctx context.Context, id AccountID, mark Mark) error

	// PutTombstone voids the account's pairs up to an authorization. A lower
	// number than the one there is changes nothing.
	PutTombstone(ctx context.Context, id AccountID, authorization uint64) error

	// PutMoved writes that another store is in charge of the account, in place of
	// what it said before, and DeleteMoved that this one is. What is gone already is
	// no error.
	PutMoved(ctx context.Context, id AccountID, moved Moved) error
	DeleteMoved(ctx context.Context, id AccountID) error

	// Lock waits for the account's lock until ctx is done. It is not
	// re-entrant.
	Lock(ctx context.Context, id AccountID) (Lock, error)

	// Consume notes that a state, named by any string, is used up, and keeps the
	// note until the given time at least. It returns nil once for the whole
	// fleet, and ErrConsumed after that.
	Consume(ctx context.Context, state string, until time.Time) error

	// Accounts returns the ids of at most n accounts, in an order of the store's,
	// and where to go on: "" begins, and is returned at the end. Every account
	// that has a pair all the while is met on the way; one that has none may be
	// too. It reads no account.
	Accounts(ctx context.Context, after string, n int) (ids []AccountID, next string, err error)

	// CleanUp deletes what has been of no use for a day: the notes of states
	// whose time is over, and tombstones of connections that nothing could bring
	// back without them. It looks at about n of them, and goes on as Accounts does.
	CleanUp(ctx context.Context, now time.Time, after string, n int) (next string, err error)
}

// Change is what an instance changed: the pairs of an account, or a seller's
// connection. The zero Change says that changes may have been missed.
type Change struct {
	Account             AccountID
	Application, Seller string
}

// Watcher is a [Store] that can tell what other instances change.
type Watcher interface {
	// Watch tells of each change that another instance makes, soon after it was
	// made, until ctx is done, which is no error, or it cannot any more. Its first
	// call, with the zero Change, says that it has begun. changed must not block.
	Watch(ctx context.Context, changed func(Change)) error
}

// Scheduler is a [Store] that keeps when accounts come due, for the whole fleet,
// and finds those that are at the same cost however many there are.
type Scheduler interface {
	// Due takes at most n accounts of an application whose time has come, the
	// longest due first, and puts them off until then: no other call returns them
	// before. Who took one and dies has so lost nothing but that time.
	Due(ctx context.Context, clientID string, now, until time.Time, n int) ([]AccountID, error)

	// Schedule says when an account is due next; never, at the zero time. To add a
	// pair has it come due soon, unless it is scheduled after that.
	Schedule(ctx context.Context, id AccountID, at time.Time) error
}
