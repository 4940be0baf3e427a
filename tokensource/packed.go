package tokensource

import (
	"encoding/binary"
	"unique"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// What is packed begins with numbers that change: a seller with the places of those
// who became dormant just before it and just after it, an account with how many
// dormant sellers it has.
const (
	older      = 0
	newer      = 4
	sellerHead = 8

	count       = 0
	accountHead = 4
)

// packedSeller is what a snapshot is made of again.
type packedSeller struct {
	key                    key
	names                  string
	side                   int
	user                   int64
	validatedAt            moment
	validFor, recheckAfter span
}

func packSeller(s *snapshot) []byte {
	b := make([]byte, sellerHead, 256)
	b = binary.AppendUvarint(b, uint64(s.account.side.number))
	b = binary.AppendVarint(b, s.account.user)
	b = binary.AppendVarint(b, int64(s.validatedAt))
	b = binary.AppendUvarint(b, uint64(s.validFor))
	b = binary.AppendUvarint(b, uint64(s.recheckAfter.Load()&^rechecking))
	b = appendText(b, s.application.Value())
	b = binary.AppendUvarint(b, uint64(s.sellerEnds))
	return appendText(b, s.names)
}

func unpackSeller(packed []byte) (s packedSeller) {
	f := fields(packed[sellerHead:])
	s.side, s.user, s.validatedAt = int(f.number()), f.signed(), moment(f.signed())
	s.validFor, s.recheckAfter = span(f.number()), span(f.number())
	s.key.application = unique.Make(f.text())
	sellerEnds := f.number()
	s.names = f.text()
	s.key.seller = s.names[:sellerEnds]
	return s
}

// snapshot returns what was packed, without what its account knows. Its age counts
// from when the store was read: being dormant makes it valid for no longer.
func (p *packedSeller) snapshot(a *account) *snapshot {
	s := &snapshot{Token: Token{
		application: p.key.application, names: p.names, sellerEnds: uint16(len(p.key.seller)), account: a, known: nothingKnown,
	}, validatedAt: p.validatedAt, validFor: p.validFor}
	s.recheckAfter.Store(uint32(p.recheckAfter))
	return s
}

func packAccount(sellers uint32, a *account) []byte {
	k, m := a.known.Load(), marks{}
	if a.unrest != nil {
		m = a.unrest.marks
	}
	b := binary.LittleEndian.AppendUint32(make([]byte, 0, 512), sellers)
	b = binary.AppendUvarint(b, m.tombstone)
	b = appendID(appendID(b, m.rejected), m.forced)
	b = appendFlag(b, m.forcedAt.IsZero())
	b = binary.AppendVarint(b, int64(momentOf(m.forcedAt)))
	b = appendText(b, k.reason)
	b = appendFlag(b, k.unsaved)
	b = appendFlag(b, k.moved)
	b = appendPairs(b, k.but(nil))
	return appendPairs(b, k.condemned)
}

func unpackAccount(packed []byte, a *account) {
	f := fields(packed[accountHead:])
	m := marks{tombstone: f.number(), rejected: f.id(), forced: f.id()}
	if never, at := f.flag(), moment(f.signed()); !never {
		m.forcedAt = at.time()
	}
	if m != (marks{}) {
		a.unrest = &unrest{marks: m}
	}
	b := beside{reason: f.text(), unsaved: f.flag(), moved: f.flag()}
	living := f.pairs()
	b.condemned = f.pairs()
	a.known.Store(newKnown(living, b))
}

func appendFlag(b []byte, set bool) []byte {
	if set {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

func appendID(b []byte, id tokenstore.PairID) []byte {
	b = binary.AppendUvarint(b, id.Authorization)
	b = binary.AppendUvarint(b, id.Generation)
	return appendText(b, id.Hash)
}

func appendPairs(b []byte, pairs []pair) []byte {
	b = binary.AppendUvarint(b, uint64(len(pairs)))
	for _, p := range pairs {
		b = appendText(b, p.texts.Reveal()[len(bearer):])
		b = binary.AppendUvarint(b, uint64(p.accessEnds))
		b = binary.AppendUvarint(b, uint64(p.refreshEnds))
		b = binary.AppendUvarint(b, p.authorization)
		b = binary.AppendUvarint(b, p.generation)
		b = binary.AppendUvarint(b, uint64(p.obtainedAt))
		b = binary.AppendUvarint(b, uint64(p.expiresAt))
		b = appendText(b, p.scope.Value())
	}
	return b
}

// fields reads what was packed, one field after the other.
type fields []byte

func (f *fields) number() uint64 {
	n, length := binary.Uvarint(*f)
	*f = (*f)[length:]
	return n
}

func (f *fields) signed() int64 {
	n, length := binary.Varint(*f)
	*f = (*f)[length:]
	return n
}

func (f *fields) flag() bool { return f.number() == 1 }

func (f *fields) text() string {
	length := f.number()
	text := string((*f)[:length])
	*f = (*f)[length:]
	return text
}

func (f *fields) id() tokenstore.PairID {
	return tokenstore.PairID{Authorization: f.number(), Generation: f.number(), Hash: f.text()}
}

func (f *fields) pairs() []pair {
	pairs := make([]pair, f.number())
	for i := range pairs {
		pairs[i] = pair{
			texts:         secret.New(bearer + f.text()),
			accessEnds:    uint32(f.number()),
			refreshEnds:   uint32(f.number()),
			authorization: f.number(),
			generation:    f.number(),
			obtainedAt:    instant(f.number()),
			expiresAt:     instant(f.number()),
			scope:         unique.Make(f.text()),
		}
	}
	return pairs
}
