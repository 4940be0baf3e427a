package copying

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// difference is what the target lacks of an account.
type difference struct {
	from, to tokenstore.Account
	// at and there are the connections that point to the account in each.
	at, there []tokenstore.Connection

	// pairs bear the numbers that they get in the target.
	pairs     []tokenstore.Pair
	verdicts  []tokenstore.Verdict
	intents   []tokenstore.Intent
	marks     []tokenstore.Mark
	tombstone uint64
	// connections are made in the target, and ended are ended there.
	connections, ended []tokenstore.Connection
	// replaced are pairs in the target that the source had given it, and has
	// replaced since.
	replaced []tokenstore.PairID
	// kept counts connections of the source that are older than the target's.
	kept int
}

// empty reports whether nothing is to be written.
func (d *difference) empty() bool {
	return len(d.pairs)+len(d.verdicts)+len(d.intents)+len(d.marks)+len(d.connections)+len(d.ended)+len(d.replaced) == 0 && d.tombstone == 0
}

// handedOver reports whether the source says of all it has that the target has it.
func (d *difference) handedOver() bool {
	return d.from.Moved != nil && d.from.Moved.Done && len(d.late()) == 0
}

// settled reports whether there is nothing to do.
func (d *difference) settled() bool {
	unknown := d.from.Moved == nil && d.to.Moved == nil && blank(&d.from, d.at)
	return unknown || d.empty() && d.handedOver() && d.to.Moved == nil
}

// blank reports whether a store knows nothing of an account.
func blank(a *tokenstore.Account, connections []tokenstore.Connection) bool {
	return len(a.Pairs)+len(a.Intents)+len(a.Verdicts)+len(a.Marks)+len(connections) == 0 && a.Tombstone == 0
}

// late are the pairs of the source that it does not say to have handed over.
func (d *difference) late() []tokenstore.Pair {
	if d.from.Moved == nil {
		return d.from.Pairs
	}
	return slices.DeleteFunc(slices.Clone(d.from.Pairs), func(p tokenstore.Pair) bool {
		return slices.Contains(d.from.Moved.Pairs, p.PairID)
	})
}

// arriving is what the target is marked with while it is not in charge. What it had
// of its own when it was is to be copied, should it all go the other way again.
func (d *difference) arriving(source string) tokenstore.Moved {
	m := tokenstore.Moved{To: source, At: time.Now().UTC()}
	if old := d.to.Moved; old != nil {
		m = *old
	} else {
		m.Done = blank(&d.to, d.there)
	}
	m.Pairs = with(m.Pairs, d.from.Pairs)
	return m
}

// with adds the pairs that are not among those yet.
func with(ids []tokenstore.PairID, pairs []tokenstore.Pair) []tokenstore.PairID {
	ids = slices.Clone(ids)
	for _, p := range pairs {
		if !slices.Contains(ids, p.PairID) {
			ids = append(ids, p.PairID)
		}
	}
	return ids
}

// compare reads an account from both stores. What others change meanwhile is met at
// the next comparison: the one that finds nothing began after the last write.
func (r *run) compare(ctx context.Context, id tokenstore.AccountID) (*difference, error) {
	d := new(difference)
	for _, side := range []struct {
		place, other Place
		account      *tokenstore.Account
		connections  *[]tokenstore.Connection
	}{{r.From, r.To, &d.from, &d.at}, {r.To, r.From, &d.to, &d.there}} {
		var err error
		if *side.account, err = side.place.Store.Account(ctx, id); err != nil {
			return nil, fmt.Errorf("reading it from %s: %w", side.place.Name, err)
		}
		if m := side.account.Moved; m != nil && m.To != side.other.Name {
			return nil, fmt.Errorf("%s says that it was moved to %s, not to %s: copy it from there", side.place.Name, m.To, side.other.Name)
		}
		if *side.connections, err = side.place.Store.Connections(ctx, id); err != nil {
			return nil, fmt.Errorf("listing its connections in %s: %w", side.place.Name, err)
		}
	}
	d.from.ID = id
	d.findTombstone()
	d.findPairs()
	d.findRecords()
	if err := r.findConnections(ctx, d); err != nil {
		return nil, err
	}
	d.findReplaced()
	return d, nil
}

// done reports whether all that was under way when the account was moved has been
// copied: what can come after that are pairs and verdicts only.
func (d *difference) done() bool { return d.from.Moved != nil && d.from.Moved.Done }

// findTombstone brings the source's tombstone, unless it would void what the target
// has of its own.
func (d *difference) findTombstone() {
	n := d.from.Tombstone
	own := slices.ContainsFunc(d.to.Living(), func(p tokenstore.Pair) bool { return p.Authorization <= n })
	if n > d.to.Tombstone && !own {
		d.tombstone = n
	}
}

// findPairs brings what is not void, and was not handed over before: what became of
// that the target knows. A pair keeps its number where that puts it above all that
// the target has; else it gets the next, as a new consent does. Which of two
// consents is alive only the provider knows, and the tokens of both are kept.
func (d *difference) findPairs() {
	to := d.to
	to.Tombstone = max(to.Tombstone, d.tombstone)
	to.Pairs = slices.Clone(to.Pairs)
	numbers := make(map[uint64]uint64)
	for _, p := range d.late() {
		if p.Authorization <= d.from.Tombstone || has(&to, p) {
			continue
		}
		next := to.NextAuthorization()
		if number, ok := numbers[p.Authorization]; ok {
			p.Authorization = number
		} else if !above(&to, p.PairID, next) {
			numbers[p.Authorization] = next
			p.Authorization = next
		}
		d.pairs = append(d.pairs, p)
		to.Pairs = append(to.Pairs, p)
	}
}

// has reports whether a pair is in an account, and not void, whatever its number.
func has(a *tokenstore.Account, p tokenstore.Pair) bool {
	return slices.ContainsFunc(a.Pairs, func(there tokenstore.Pair) bool {
		return there.Authorization > a.Tombstone && there.Hash == p.Hash &&
			there.AccessToken.Equal(p.AccessToken) && there.RefreshToken.Equal(p.RefreshToken) &&
			there.PublicKey == p.PublicKey && there.Scope == p.Scope && there.ExpiresAt.Equal(p.ExpiresAt) && there.ObtainedAt.Equal(p.ObtainedAt)
	})
}

// above reports whether a pair's number is above all that the account has: at least
// its next authorization, or a later generation of its last.
func above(a *tokenstore.Account, id tokenstore.PairID, next uint64) bool {
	if id.Authorization >= next {
		return true
	}
	last := slices.MaxFunc(append([]tokenstore.Pair{{}}, a.Pairs...), func(x, y tokenstore.Pair) int {
		if x.Less(y.PairID) {
			return -1
		}
		return 1
	})
	return last.Authorization == id.Authorization && last.Generation < id.Generation && id.Authorization > a.Tombstone
}

// findRecords brings verdicts on pairs that the target has, or gets, and, while the
// account is being moved, the intents that name them and the marks.
func (d *difference) findRecords() {
	named := func(hash string) bool {
		return slices.ContainsFunc(slices.Concat(d.to.Pairs, d.pairs), func(p tokenstore.Pair) bool { return p.Hash == hash })
	}
	for _, v := range d.from.Verdicts {
		if named(v.Pair) && d.to.Verdict(v.Pair) == nil {
			d.verdicts = append(d.verdicts, v)
		}
	}
	if d.done() {
		return
	}
	for _, m := range d.from.Marks {
		if !slices.ContainsFunc(d.to.Marks, func(there tokenstore.Mark) bool { return there.Connection == m.Connection }) {
			d.marks = append(d.marks, m)
		}
	}
	if d.from.Moved == nil {
		return // a token request that is under way may still settle its own
	}
	for _, i := range d.from.Intents {
		if named(i.Pair) && !slices.ContainsFunc(d.to.Intents, func(there tokenstore.Intent) bool {
			return there.Pair == i.Pair && there.Instance == i.Instance && there.Nonce == i.Nonce && !there.At.Before(i.At.Truncate(time.Millisecond))
		}) {
			d.intents = append(d.intents, i)
		}
	}
}

// findReplaced deletes from the target what the source gave it, and has replaced or
// voided since: it is burnt, and must not be posted should its successor die.
func (d *difference) findReplaced() {
	// While pairs are still to be written, nothing is deleted: the successor must have
	// been read back first.
	if d.to.Moved == nil || len(d.pairs) > 0 {
		return
	}
	for _, p := range d.to.Pairs {
		given := slices.Contains(d.to.Moved.Pairs, p.PairID)
		there := slices.ContainsFunc(d.from.Pairs, func(q tokenstore.Pair) bool { return q.PairID == p.PairID })
		// Without a tombstone or a higher pair the source only lost it, and the target's
		// copy is the last one.
		over := p.Authorization <= d.from.Tombstone ||
			slices.ContainsFunc(d.from.Pairs, func(q tokenstore.Pair) bool { return p.Less(q.PairID) })
		if given && !there && over {
			d.replaced = append(d.replaced, p.PairID)
		}
	}
}

// findConnections brings what was ended in the source, and, while the account is
// being moved, what points to it. Connections are made in one store only, the one
// that is in charge: later the target knows better.
func (r *run) findConnections(ctx context.Context, d *difference) error {
	for _, c := range d.there {
		ended, err := r.From.Store.Ended(ctx, c)
		if err != nil {
			return fmt.Errorf("reading a connection from %s: %w", r.From.Name, err)
		}
		if ended && (d.from.Moved == nil || c.Authorization <= d.handedAuthorization()) {
			d.ended = append(d.ended, c)
		}
	}
	if d.done() {
		return nil
	}
	for _, c := range d.at {
		wanted, err := r.wanted(ctx, c)
		if err != nil {
			return fmt.Errorf("comparing a connection: %w", err)
		}
		switch wanted {
		case bring:
			d.connections = append(d.connections, c)
		case keep:
			d.kept++
		case same:
		}
	}
	return nil
}

// handedAuthorization is the last that the source knew when it handed over. A
// connection with a later one was made anew in the target.
func (d *difference) handedAuthorization() uint64 {
	last := d.from.Tombstone
	for _, p := range d.from.Moved.Pairs {
		last = max(last, p.Authorization)
	}
	return last
}

// what becomes of a connection of the source.
type becomes int

const (
	same  becomes = iota
	bring         // the target lacks it, or has an older one
	keep          // the target has a newer one, or has ended it
)

func (r *run) wanted(ctx context.Context, c tokenstore.Connection) (becomes, error) {
	there, err := r.To.Store.Connection(ctx, c.Application, c.Seller)
	if errors.Is(err, tokenstore.ErrNotFound) {
		ended, err := r.To.Store.Ended(ctx, c)
		if err != nil || ended {
			return keep, err
		}
		return bring, nil
	}
	if err != nil {
		return keep, err
	}
	if there.ID == c.ID {
		if c.Authorization > there.Authorization {
			return bring, nil
		}
		return same, nil
	}
	ended, err := r.From.Store.Ended(ctx, there)
	if err != nil {
		return keep, err
	}
	if ended || c.CreatedAt.After(there.CreatedAt) {
		return bring, nil
	}
	return keep, nil
}
