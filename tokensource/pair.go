package tokensource

import (
	"time"
	"unique"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// pair is a [tokenstore.Pair] as memory keeps it: there are very many, so that
// nothing is in it that can be had of the rest. It never changes.
type pair struct {
	// texts are the access token as a request carries it, the refresh token and the
	// public key, one after the other.
	texts                     secret.Secret
	accessEnds, refreshEnds   uint32
	authorization, generation uint64
	obtainedAt, expiresAt     instant
	// scope is one text for all who have the same.
	scope unique.Handle[string]
}

// bearer stands before the access token (RFC 6750 §2.1), so that no request has to put
// the two together.
const bearer = "Bearer "

func pack(p *tokenstore.Pair) pair {
	access, refresh := bearer+p.AccessToken.Reveal(), p.RefreshToken.Reveal()
	return pair{
		texts:         secret.New(access + refresh + p.PublicKey),
		accessEnds:    uint32(len(access)),
		refreshEnds:   uint32(len(access) + len(refresh)),
		authorization: p.Authorization,
		generation:    p.Generation,
		obtainedAt:    instantOf(p.ObtainedAt),
		expiresAt:     instantOf(p.ExpiresAt),
		scope:         unique.Make(p.Scope),
	}
}

// unpack returns the pair as a store gave it.
func (p *pair) unpack() *tokenstore.Pair {
	return &tokenstore.Pair{
		PairID:       p.id(),
		AccessToken:  p.accessToken(),
		RefreshToken: p.refreshToken(),
		PublicKey:    p.publicKey(),
		Scope:        p.scope.Value(),
		ObtainedAt:   p.obtainedAt.time(),
		ExpiresAt:    p.expiresAt.time(),
	}
}

func (p *pair) accessToken() secret.Secret {
	return secret.New(p.texts.Reveal()[len(bearer):p.accessEnds])
}

func (p *pair) credentials() secret.Secret { return secret.New(p.texts.Reveal()[:p.accessEnds]) }

func (p *pair) refreshToken() secret.Secret {
	return secret.New(p.texts.Reveal()[p.accessEnds:p.refreshEnds])
}

func (p *pair) publicKey() string { return p.texts.Reveal()[p.refreshEnds:] }

// renewable reports whether there is a refresh token.
func (p *pair) renewable() bool { return p.accessEnds < p.refreshEnds }

func (p *pair) id() tokenstore.PairID {
	return tokenstore.PairID{
		Authorization: p.authorization,
		Generation:    p.generation,
		Hash:          tokenstore.HashPair(p.accessToken(), p.refreshToken()),
	}
}

func (p *pair) below(other *pair) bool { return p != other && p.id().Less(other.id()) }

func (p *pair) same(other *pair) bool {
	return p.authorization == other.authorization && p.generation == other.generation &&
		p.expiresAt == other.expiresAt && p.texts.Equal(other.texts)
}

func (p *pair) life() time.Duration { return p.expiresAt.sub(p.obtainedAt) }

// valid reports whether the access token has not ended yet.
func (p *pair) valid(now time.Time) bool { return instantOf(now) < p.expiresAt }

// lasts reports whether the access token is valid for minValidity. For a token that
// lives too short for that, a third of its life is enough: it would otherwise be
// refreshed again and again.
func (p *pair) lasts(now time.Time, minValidity time.Duration) bool {
	left := p.expiresAt.sub(instantOf(now))
	return left > 0 && left >= min(minValidity, p.life()/3)
}

// dueAt is from when on the pair is renewed.
func (p *pair) dueAt(now time.Time, renewBefore time.Duration) instant {
	if p.obtainedAt > instantOf(now.Add(skew)) {
		// The clock was set back, here or where the pair was obtained: its end
		// may be nearer than it looks.
		return instantOf(now)
	}
	life := p.life()
	if life < longLife {
		return p.expiresAt.add(-life / 3)
	}
	if renewBefore <= 0 {
		renewBefore = defaultRenewBefore
	}
	// Not before a sixth of its life, or a renew_before of about a token's life
	// would have it refreshed all the time.
	return p.expiresAt.add(-min(renewBefore, life-life/6))
}
