package connect

import (
	"hash/maphash"
	"strings"
	"sync/atomic"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// openedSessions keeps some sessions that were opened, by their cookie: to open one
// is most of what session mode costs a request. Each has one place it can be at, and
// gives way to whoever comes there next; nobody waits, and nothing grows. What is
// kept is what the cookie says, and no more: whether the session is over, and the
// connection stands, is asked with every request.
type openedSessions struct {
	seed   maphash.Seed
	places [4096]atomic.Pointer[openedSession]
}

type openedSession struct {
	hash   uint64
	cookie string
	// keyring opened it: with another one it may not open.
	keyring *secret.Keyring
	session session
}

func (o *openedSessions) find(keyring *secret.Keyring, cookie string) (session, bool) {
	hash := maphash.String(o.seed, cookie)
	there := o.places[hash%uint64(len(o.places))].Load()
	// The hash first, whose seed nobody knows: how long the comparison takes tells
	// nothing about somebody else's cookie.
	if there == nil || there.hash != hash || there.keyring != keyring || there.cookie != cookie {
		return session{}, false
	}
	return there.session, true
}

func (o *openedSessions) keep(keyring *secret.Keyring, cookie string, s session) {
	hash := maphash.String(o.seed, cookie)
	// The cookie is a part of a header that may be long.
	o.places[hash%uint64(len(o.places))].Store(&openedSession{hash, strings.Clone(cookie), keyring, s})
}
