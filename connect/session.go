package connect

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	sessionVersion = 1
	// maxSessionCookie bounds what is decoded of a session cookie.
	maxSessionCookie = 1024
)

// session says which seller a browser connected as. It is worth nothing without
// the store: a disconnect anywhere ends it, because the connection's id is gone.
type session struct {
	ends       time.Time
	connection string
	seller     string
}

func (s session) pack() []byte {
	p := make(packer, 0, 96)
	p.number(sessionVersion)
	p.number(uint64(s.ends.Unix()))
	p.text(s.connection)
	p.text(s.seller)
	return p
}

func unpackSession(text string) (session, error) {
	u := unpacker{rest: text}
	if u.number() != sessionVersion {
		return session{}, errMalformed
	}
	s := session{ends: time.Unix(int64(u.number()), 0), connection: u.text(), seller: u.text()}
	if err := u.done(); err != nil {
		return session{}, err
	}
	if s.seller == "" || s.connection == "" {
		return session{}, errMalformed
	}
	return s, nil
}

// Session returns the seller and the id of the connection that the request's
// session cookie names, or "" and "" where there is no cookie, or one that is
// not ours, over, or of another application. It reads no store, so whether the
// connection still stands is for the caller to ask.
//
// The error is for what says nothing about the browser: the encryption key
// cannot be had now. Answer it with [CodeUnavailable], never with "not
// connected".
func (f *Flow) Session(r *http.Request) (seller, connectionID string, err error) {
	value := cookie(r, f.sessionCookie)
	if value == "" || len(value) > maxSessionCookie {
		return "", "", nil
	}
	keyring, keyErr := f.source.Keyring(r.Context())
	var s session
	known := false
	if keyErr == nil {
		s, known = f.opened.find(keyring, value)
	}
	if !known {
		sealed, err := base64url.DecodeString(value)
		if err != nil {
			return "", "", nil
		}
		if keyErr != nil {
			return "", "", fmt.Errorf("opening a session: %w", keyErr)
		}
		text, err := keyring.Open(secret.Session, sealed, f.sessionNames...)
		if err != nil {
			f.log.Debug("a session cookie does not open", zap.Error(err))
			return "", "", nil
		}
		if s, err = unpackSession(string(text)); err != nil {
			return "", "", nil
		}
		f.opened.keep(keyring, value, s)
	}
	if !f.now().Before(s.ends) {
		return "", "", nil
	}
	return s.seller, s.connection, nil
}

// startSession makes the session cookie of a connection, new at every connect.
func (t *turn) startSession(c tokenstore.Connection) {
	s := session{ends: t.now.Add(t.f.sessionTTL), connection: c.ID, seller: c.Seller}
	sealed := t.keyring.Seal(secret.Session, s.pack(), t.f.sessionNames...)
	t.f.setCookie(t.w, t.f.sessionCookie, base64url.EncodeToString(sealed), t.f.sessionTTL)
}

// EndSession tells the browser to forget its session. Call it when the
// connection that the session names is gone.
func (f *Flow) EndSession(w http.ResponseWriter) { f.dropCookie(w, f.sessionCookie) }

// cookie returns the value of the first cookie of a name, or "". It is
// http.Request.Cookie without its copies, for it runs with every request.
func cookie(r *http.Request, name string) string {
	for _, line := range r.Header["Cookie"] {
		for line != "" {
			var part string
			part, line, _ = strings.Cut(line, ";")
			part = strings.TrimSpace(part)
			if len(part) > len(name) && part[len(name)] == '=' && part[:len(name)] == name {
				return part[len(name)+1:]
			}
		}
	}
	return ""
}

// setCookie sets a cookie of ours, in place of one of that name that the
// response sets already.
func (f *Flow) setCookie(w http.ResponseWriter, name, value string, ttl time.Duration) {
	f.writeCookie(w, &http.Cookie{Name: name, Value: value, MaxAge: int(ttl / time.Second)})
}

func (f *Flow) dropCookie(w http.ResponseWriter, name string) {
	f.writeCookie(w, &http.Cookie{Name: name, MaxAge: -1})
}

func (f *Flow) writeCookie(w http.ResponseWriter, c *http.Cookie) {
	c.Path, c.HttpOnly, c.Secure, c.SameSite = "/", true, f.secure, http.SameSiteLaxMode
	var kept []string
	for _, set := range w.Header()["Set-Cookie"] {
		if !strings.HasPrefix(set, c.Name+"=") {
			kept = append(kept, set)
		}
	}
	w.Header()["Set-Cookie"] = append(kept, c.String())
}

// StripCookies removes our cookies, of every application, from headers that go
// upstream. The slice that was there is left as it was, so who kept it can put
// it back. A nil Flow strips as well.
func (f *Flow) StripCookies(h http.Header) {
	lines := h["Cookie"]
	for _, line := range lines {
		if strings.Contains(line, "mp_") {
			stripCookies(h, lines, f != nil && f.secure)
			return
		}
	}
}

func stripCookies(h http.Header, lines []string, secure bool) {
	kept := make([]string, 0, len(lines))
	for _, line := range lines {
		var b strings.Builder
		b.Grow(len(line))
		for part := range strings.SplitSeq(line, ";") {
			part = strings.TrimSpace(part)
			name, _, _ := strings.Cut(part, "=")
			if part == "" || isOurCookie(strings.TrimSpace(name), secure) {
				continue
			}
			if b.Len() > 0 {
				b.WriteString("; ")
			}
			b.WriteString(part)
		}
		if b.Len() > 0 {
			kept = append(kept, b.String())
		}
	}
	if len(kept) == 0 {
		delete(h, "Cookie")
		return
	}
	h["Cookie"] = kept
}

// isOurCookie goes by the name's exact shape: without the prefix that browsers
// reserve, as on plain http, an app may well have an mp_something of its own. On
// a secure site that is always the app's.
func isOurCookie(name string, secure bool) bool {
	bare, prefixed := strings.CutPrefix(name, hostPrefix)
	rest, ok := strings.CutPrefix(bare, plainPrefix)
	if !ok || secure && !prefixed {
		return false
	}
	if suffix, ok := strings.CutPrefix(rest, "session"); ok {
		return suffix == "" || suffix[0] == '_' && len(suffix) == 1+sessionTagSize
	}
	return isAttemptID(rest)
}
