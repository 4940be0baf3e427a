package tokensource

import (
	"math"
	"slices"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// known is what is known of an account's pairs. It never changes.
type known struct {
	// highest is the highest living pair, above the tombstone and without a
	// verdict. It is zero where none lives.
	highest pair
	// Nearly always there is nothing else, and all who have nothing share it.
	*beside
}

// beside is what is known beside the highest living pair.
type beside struct {
	// lower are the other living pairs, and condemned those with a verdict, above
	// the tombstone too, highest first. One whose access token is known to be dead
	// is in neither.
	lower, condemned []pair
	// reason is why the highest dead pair is dead.
	reason string
	// unsaved is set while the highest pair is not in the store yet.
	unsaved bool
	// moved is set where another store is in charge of the account.
	moved bool
}

var (
	nothingBeside beside
	nothingKnown  = newKnown(nil, nothingBeside)
)

// newKnown takes the living pairs, highest first; b.lower is made of them.
func newKnown(living []pair, b beside) *known {
	k := &known{beside: &nothingBeside}
	b.lower = nil
	if len(living) > 0 {
		k.highest, b.lower = living[0], slices.Clone(living[1:])
	}
	if len(b.lower) > 0 || len(b.condemned) > 0 || b.reason != "" || b.unsaved || b.moved {
		k.beside = &b
	}
	return k
}

// knownOf is what a store that was just read tells.
func knownOf(state *tokenstore.Account, tombstone uint64) *known {
	b := beside{moved: state.Moved != nil}
	var living []pair
	for _, p := range slices.Backward(state.Pairs) {
		if p.Authorization <= max(tombstone, state.Tombstone) {
			continue
		}
		if v := state.Verdict(p.Hash); v != nil {
			if b.reason == "" {
				b.reason = v.Reason
			}
			if v.Reason == ReasonDeauthorized {
				continue // the verdict covers the access token too, so it is not used either
			}
			b.condemned = append(b.condemned, pack(&p))
			continue
		}
		living = append(living, pack(&p))
	}
	return newKnown(living, b)
}

// alive reports whether a pair lives.
func (k *known) alive() bool { return !k.highest.texts.IsZero() }

// living yields the living pairs, highest first.
func (k *known) living(yield func(*pair) bool) {
	if !k.alive() || !yield(&k.highest) {
		return
	}
	for i := range k.lower {
		if !yield(&k.lower[i]) {
			return
		}
	}
}

// at returns the pair at a place: the highest pair stands at 1, the lower ones from 2
// on, the condemned ones at -1, -2 and so on. At 0 there is none. It is so short
// because what is not inlined has [Token.AccessToken] allocate.
func (k *known) at(place int16) *pair {
	switch {
	case place == 1:
		return &k.highest
	case place > 1:
		return &k.lower[place-2]
	case place < 0:
		return &k.condemned[^place]
	}
	return nil
}

// place is where a pair stands, or 0. No account has more of them than can be
// counted here; one behind those would not serve.
func (k *known) place(p *pair) int16 {
	const most = math.MaxInt16 - 1
	if p == &k.highest {
		return 1
	}
	for i := range min(len(k.lower), most) {
		if p == &k.lower[i] {
			return int16(i + 2)
		}
	}
	for i := range min(len(k.condemned), most) {
		if p == &k.condemned[i] {
			return int16(^i)
		}
	}
	return 0
}

func (k *known) same(other *known) bool {
	equal := func(a, b []pair) bool {
		return slices.EqualFunc(a, b, func(x, y pair) bool { return x.same(&y) })
	}
	return k.reason == other.reason && k.unsaved == other.unsaved && k.moved == other.moved &&
		k.highest.same(&other.highest) && equal(k.lower, other.lower) && equal(k.condemned, other.condemned)
}

// withUnsaved is what is known once there is a pair above all others that is not
// in the store yet.
func (k *known) withUnsaved(p *tokenstore.Pair) *known {
	b := *k.beside
	b.unsaved = true
	return newKnown(append([]pair{pack(p)}, k.but(nil)...), b)
}

// above is what is known once the pairs up to an authorization are void.
func (k *known) above(tombstone uint64) *known {
	void := func(p *pair) bool { return p.authorization <= tombstone }
	b, living := *k.beside, k.but(void)
	b.condemned = nil
	for _, p := range k.condemned {
		if !void(&p) {
			b.condemned = append(b.condemned, p)
		}
	}
	if len(b.condemned) == 0 {
		b.reason = ""
	}
	b.unsaved = b.unsaved && len(living) > 0
	return newKnown(living, b)
}

// without is what is known once a pair is to be forgotten.
func (k *known) without(id tokenstore.PairID) *known {
	return newKnown(k.but(func(p *pair) bool { return p.id() == id }), *k.beside)
}

// but returns the living pairs but those that are gone, all where gone is nil.
func (k *known) but(gone func(*pair) bool) (living []pair) {
	for p := range k.living {
		if gone == nil || !gone(p) {
			living = append(living, *p)
		}
	}
	return living
}

// top names the highest living pair.
func (k *known) top() tokenstore.PairID {
	if !k.alive() {
		return tokenstore.PairID{}
	}
	return k.highest.id()
}

// serve returns the pair whose access token is used, or nil: the highest living
// one that is valid, else the highest valid one whose refresh token is dead. The
// provider's verdict is on the refresh token, and a failure to renew must not show
// while an access token is valid. If that access token got a 401, it is not used.
func (k *known) serve(now time.Time, rejected tokenstore.PairID) *pair {
	for p := range k.living {
		if p.valid(now) {
			return p
		}
	}
	for i := range k.condemned {
		if p := &k.condemned[i]; p.valid(now) && p.id() != rejected {
			return p
		}
	}
	return nil
}

// renewable returns the pair whose refresh token is used next, or nil.
func (k *known) renewable() *pair {
	if k.moved {
		return nil
	}
	for p := range k.living {
		if p.renewable() {
			return p
		}
	}
	return nil
}

// needed reports whether the account's renewable pair, if any, ought to be
// refreshed now, seen from the pair that serves.
func (k *known) needed(now time.Time, renewBefore, minValidity time.Duration, serving *pair) bool {
	r := k.renewable()
	switch {
	case r == nil || k.unsaved:
		return false
	case serving == nil || serving.below(r):
		return true // the renewable pair is above, and its access token has ended
	case !serving.lasts(now, minValidity):
		return true
	case serving != r:
		return false // a newer consent without a refresh token still serves
	}
	return instantOf(now) >= r.dueAt(now, renewBefore)
}

// problem returns why no token can be served. If a pair can be renewed, it came from
// an instance with another clock and has only expired by this one: that is no reason
// to reconnect.
func (k *known) problem() *Error {
	if k.moved {
		return hasMoved()
	}
	if k.renewable() != nil {
		return &Error{Status: Connected, Reason: ReasonProvider, RetryAfter: providerRetry, Err: errEnded}
	}
	err := &Error{Status: ReconnectRequired, Reason: k.reason}
	switch {
	case k.alive():
		err.Reason = ReasonNoRefreshToken
	case k.reason == "":
		err.Reason = ReasonDisconnected
	}
	return err
}
