package connect

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

const (
	linkVersion = 1
	linkIDSize  = 16
	maxLinkTTL  = 90 * 24 * time.Hour
	linkParam   = "link"
)

// link is what a connect link holds.
type link struct {
	id       string // 16 random bytes
	ends     time.Time
	seller   string
	returnTo string
}

func (l link) pack() []byte {
	p := make(packer, 0, 96)
	p.number(linkVersion)
	p.number(uint64(l.ends.Unix()))
	p.text(l.id)
	p.text(l.seller)
	p.text(l.returnTo)
	return p
}

func unpackLink(text string) (link, error) {
	u := unpacker{rest: text}
	if u.number() != linkVersion {
		return link{}, errMalformed
	}
	l := link{ends: time.Unix(int64(u.number()), 0), id: u.text(), seller: u.text(), returnTo: u.text()}
	if err := u.done(); err != nil {
		return link{}, err
	}
	if len(l.id) != linkIDSize || l.seller == "" {
		return link{}, errMalformed
	}
	return l, nil
}

// NewLink returns a connect link: an address to send to one seller, with which
// that seller connects an account once, without being signed in to the site. It
// ends after ttl. It never makes a session, and never switches or ends a
// connection.
func (f *Flow) NewLink(ctx context.Context, seller, returnTo string, ttl time.Duration) (string, error) {
	if seller == "" || len(seller) > maxSeller {
		return "", fmt.Errorf("a connect link needs the name of a seller, of %d bytes at most", maxSeller)
	}
	if ttl < time.Minute || ttl > maxLinkTTL {
		return "", fmt.Errorf("a connect link lives between a minute and %d days, not %s", maxLinkTTL/(24*time.Hour), ttl)
	}
	returnTo, err := f.parseReturnTo(returnTo)
	if err != nil {
		return "", err
	}
	keyring, err := f.source.Keyring(ctx)
	if err != nil {
		return "", fmt.Errorf("sealing a connect link: %w", err)
	}
	id := make([]byte, linkIDSize)
	_, _ = rand.Read(id) // never fails: the process ends first
	return f.linkURL(keyring, link{id: string(id), ends: f.now().Add(ttl), seller: seller, returnTo: returnTo}), nil
}

func (f *Flow) linkURL(keyring *secret.Keyring, l link) string {
	return f.origin + f.pagePath(PageLink) + "?" + linkParam + "=" + f.sealLink(keyring, l)
}

func (f *Flow) sealLink(keyring *secret.Keyring, l link) string {
	return base64url.EncodeToString(keyring.Seal(secret.Link, l.pack(), f.names("link")...))
}

func (f *Flow) openLink(keyring *secret.Keyring, token string) (link, error) {
	sealed, err := base64url.DecodeString(token)
	if err != nil {
		return link{}, secret.ErrOpen
	}
	text, err := keyring.Open(secret.Link, sealed, f.names("link")...)
	if err != nil {
		return link{}, err
	}
	return unpackLink(string(text))
}

// link serves the page of a connect link. Reading it uses nothing up: mail
// scanners and previews open links too.
func (t *turn) link() {
	token := t.query.Get(linkParam)
	if t.r.Method == http.MethodPost {
		form, ok := t.form()
		if !ok {
			return
		}
		token = form.Get(linkParam)
	}
	l, err := t.f.openLink(t.keyring, token)
	var unknown *secret.UnknownKeyError
	switch {
	case errors.As(err, &unknown):
		t.f.log.Warn("a connect link was sealed with a key that is not configured", zap.Error(err))
		t.fail(CodeLinkInvalid, err)
	case err != nil:
		t.fail(CodeLinkInvalid, err)
	case !t.now.Before(l.ends):
		t.fail(CodeLinkExpired, nil, zap.String("seller", l.seller))
	case t.r.Method == http.MethodPost:
		a := t.newAttempt(l.seller, l.returnTo)
		a.link, a.linkEnds = l.id, l.ends
		t.start(a)
	default:
		t.render(page{
			Name: "start", Action: t.f.pagePath(PageLink), Title: "start.title",
			Seller: l.seller, Link: token, Until: l.ends, Onward: true,
		})
	}
}

// restart is where the walk of an attempt can begin again: its link, if it came
// by one.
func (t *turn) restart(a *attempt) string {
	if a == nil || !a.byLink() {
		returnTo := ""
		if a != nil {
			returnTo = a.returnTo
		}
		return t.f.ConnectURL(returnTo)
	}
	return t.f.linkURL(t.keyring, link{id: a.link, ends: a.linkEnds, seller: a.seller, returnTo: a.returnTo})
}
