package connect

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"slices"
	"strings"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

const (
	// attemptTTL is the life of an attempt, as long as the provider's codes
	// live. Its answer in good time gives the seller as long again to read the
	// question.
	attemptTTL = 10 * time.Minute
	// consumedSlack is for how much longer a consumed state is remembered, for
	// instances whose clocks differ.
	consumedSlack = 5 * time.Minute
	// maxAttempts bounds what the attempts of one browser add to each request.
	maxAttempts = 5

	maxSeller = 256
	maxCode   = 512
	stateSize = 32
	tagSize   = 4
	idSize    = tagSize + 12
)

// stage is how far an attempt has come.
type stage byte

const (
	started   stage = iota + 1 // the seller was sent to the provider
	coded                      // the provider sent a code back
	consented                  // the code was exchanged, the pair is saved to its account
	connected                  // a connection points to the account
	refused                    // the seller was asked, and said no
)

const attemptVersion = 1

// attempt is one walk through the connect flow. All of it lives in a sealed
// cookie of its own, so that a stranger who asks for /connect fills nobody's
// store, and a restart or another replica loses nothing.
type attempt struct {
	stage    stage
	at       time.Time // of the start, and anew when the provider has answered
	state    string    // 32 random bytes
	verifier string
	seller   string // "" in session mode
	returnTo string

	// link is what makes an attempt by link; linkUsed says that this attempt is
	// the one that used the link up.
	link     string
	linkEnds time.Time
	linkUsed bool

	code string // stage coded

	consent    tokensource.Consent // from stage consented
	connection string              // its id, stage connected
}

func (t *turn) newAttempt(seller, returnTo string) *attempt {
	state := make([]byte, stateSize)
	_, _ = rand.Read(state) // never fails: the process ends first
	a := &attempt{stage: started, at: t.now, state: string(state), seller: seller, returnTo: returnTo}
	if t.f.client.PKCE() {
		a.verifier = oauth.NewVerifier().Reveal()
	}
	return a
}

const (
	flagLinkUsed = 1 << iota
	flagLive
	flagOffline
)

func (a *attempt) pack() []byte {
	var flags uint64
	for flag, set := range map[uint64]bool{flagLinkUsed: a.linkUsed, flagLive: a.consent.Account.Live, flagOffline: a.consent.Offline} {
		if set {
			flags |= flag
		}
	}
	p := make(packer, 0, 256)
	p.number(attemptVersion)
	p.number(uint64(a.stage))
	p.number(flags)
	p.number(uint64(a.at.Unix()))
	p.number(uint64(max(a.linkEnds.Unix(), 0)))
	p.number(uint64(a.consent.Account.UserID))
	p.number(a.consent.Authorization)
	for _, s := range []string{a.state, a.verifier, a.seller, a.returnTo, a.link, a.code, a.consent.Nickname, a.consent.Country, a.connection} {
		p.text(s)
	}
	return p
}

// unpackAttempt reads what pack wrote. What names the application is not in
// there: the seal binds it.
func unpackAttempt(text string) (*attempt, error) {
	u := unpacker{rest: text}
	if u.number() != attemptVersion {
		return nil, errMalformed
	}
	a := new(attempt)
	a.stage = stage(u.number())
	flags := u.number()
	a.at = time.Unix(int64(u.number()), 0)
	a.linkEnds = time.Unix(int64(u.number()), 0)
	a.consent.Account.UserID = int64(u.number())
	a.consent.Authorization = u.number()
	for _, s := range []*string{&a.state, &a.verifier, &a.seller, &a.returnTo, &a.link, &a.code, &a.consent.Nickname, &a.consent.Country, &a.connection} {
		*s = u.text()
	}
	if err := u.done(); err != nil {
		return nil, err
	}
	if a.stage < started || a.stage > refused || len(a.state) != stateSize {
		return nil, errMalformed
	}
	a.linkUsed = flags&flagLinkUsed != 0
	a.consent.Account.Live = flags&flagLive != 0
	a.consent.Offline = flags&flagOffline != 0
	return a, nil
}

func (a *attempt) expired(now time.Time) bool { return now.After(a.at.Add(attemptTTL)) }

func (a *attempt) byLink() bool { return a.link != "" }

// stateName is how a state is named in the store: by a hash, so that who reads
// the store learns no state.
func (a *attempt) stateName() string {
	sum := sha256.Sum256([]byte(a.state))
	return "state-" + hex.EncodeToString(sum[:])
}

// linkName is how a link is named in the store.
func (a *attempt) linkName() string {
	sum := sha256.Sum256([]byte(a.link))
	return "link-" + hex.EncodeToString(sum[:])
}

// answered keeps what an exchange gave, and drops what only the exchange needed.
func (a *attempt) answered(consent tokensource.Consent, now time.Time) {
	a.stage, a.at = consented, now
	a.consent = consent
	a.consent.Nickname, a.consent.Country = legible(consent.Nickname), legible(consent.Country)
	a.code, a.verifier = "", ""
}

// attemptID names an attempt in a cookie's name and in our own addresses. It is
// a hash of the state: who knows it knows nothing.
func (f *Flow) attemptID(state string) string {
	sum := sha256.Sum256([]byte(state))
	return f.tag + base64url.EncodeToString(sum[:])[:idSize-tagSize]
}

func (f *Flow) attemptCookie(id string) string { return f.cookiePrefix + id }

// put seals an attempt into its cookie, in place of one that this response sets
// already.
func (t *turn) put(a *attempt) {
	name := t.f.attemptCookie(t.f.attemptID(a.state))
	sealed := t.keyring.Seal(secret.Attempt, a.pack(), t.f.names(name)...)
	t.f.setCookie(t.w, name, base64url.EncodeToString(sealed), attemptTTL)
}

// open opens the attempt in a cookie, and says whether it is this browser's own
// and whole. Whether it is late is for the caller to ask.
func (t *turn) open(id string) (*attempt, error) {
	name := t.f.attemptCookie(id)
	sealed, err := base64url.DecodeString(cookie(t.r, name))
	if err != nil {
		return nil, secret.ErrOpen
	}
	text, err := t.keyring.Open(secret.Attempt, sealed, t.f.names(name)...)
	if err != nil {
		return nil, err
	}
	a, err := unpackAttempt(string(text))
	if err != nil {
		return nil, err
	}
	if subtle.ConstantTimeCompare([]byte(t.f.attemptID(a.state)), []byte(id)) != 1 {
		return nil, secret.ErrOpen
	}
	a.consent.Application = t.f.application
	a.consent.Account.ClientID = t.f.client.ClientID()
	return a, nil
}

// makeRoom drops the attempts that are over or do not open, and then the oldest,
// until there is room for one more.
func (t *turn) makeRoom() {
	type held struct {
		id string
		at time.Time
	}
	var alive []held
	for _, id := range t.heldAttempts() {
		a, err := t.open(id)
		if err != nil || a.expired(t.now) {
			t.f.dropCookie(t.w, t.f.attemptCookie(id))
			continue
		}
		alive = append(alive, held{id, a.at})
	}
	slices.SortFunc(alive, func(x, y held) int { return x.at.Compare(y.at) })
	for len(alive) >= maxAttempts {
		t.f.dropCookie(t.w, t.f.attemptCookie(alive[0].id))
		alive = alive[1:]
	}
}

// heldAttempts lists the ids of this application's attempts that the browser
// sent, each once.
func (t *turn) heldAttempts() []string {
	var ids []string
	for _, line := range t.r.Header["Cookie"] {
		for part := range strings.SplitSeq(line, ";") {
			name, _, _ := strings.Cut(strings.TrimSpace(part), "=")
			id, ours := strings.CutPrefix(name, t.f.cookiePrefix)
			if ours && isAttemptID(id) && strings.HasPrefix(id, t.f.tag) && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

func isAttemptID(id string) bool {
	if len(id) != idSize {
		return false
	}
	for i := range len(id) {
		c := id[i]
		if c != '-' && c != '_' && (c < '0' || c > '9') && (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') {
			return false
		}
	}
	return true
}

// account is the account of an attempt's consent, for people.
func (a *attempt) account() account {
	return describe(a.consent.Account, a.consent.Nickname, a.consent.Country)
}
