package connect

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// finish takes an attempt from wherever it stands to its end. It is one address
// for the whole way, so that a reload at any step shows where the seller is.
func (t *turn) finish() {
	a, id, ok := t.own()
	if !ok {
		return
	}
	switch a.stage {
	case started:
		t.fail(CodeUnfinished, nil)
	case coded:
		if !t.deliberate() {
			t.moveOn(id)
			return
		}
		if t.exchange(a) {
			t.settle(a, id)
		}
	case consented:
		t.settle(a, id)
	case connected:
		t.showConnected(a)
	case refused:
		t.showKept(a)
	}
}

// deliberate reports whether this request may spend the code: not a HEAD, not a
// prefetch, and not one that another site made, which comes without the site's
// SameSite=Strict cookies.
func (t *turn) deliberate() bool {
	site := t.r.Header.Get("Sec-Fetch-Site")
	return t.r.Method == http.MethodGet && t.r.Header.Get("Sec-Purpose") == "" &&
		(site == "" || site == "none" || site == "same-origin")
}

// detached is the context of what must not stop half-way when the browser
// leaves: a code is burnt by then.
func (t *turn) detached() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(t.r.Context()), t.f.client.Timeout()+exchangeOverhead)
}

// exchange uses the state up, for the whole fleet, and only then spends the
// code. What comes back is saved before anything about it is judged.
func (t *turn) exchange(a *attempt) bool {
	ctx, cancel := t.detached()
	defer cancel()
	err := t.f.source.Consume(ctx, a.stateName(), a.at.Add(attemptTTL+consumedSlack))
	if errors.Is(err, tokenstore.ErrConsumed) {
		t.fail(CodeUsed, nil)
		return false
	}
	if err != nil {
		t.fail(CodeUnavailable, err)
		return false
	}
	consent, err := t.f.source.Exchange(ctx, t.f.application, a.code, secret.New(a.verifier))
	if err != nil {
		t.failFor(err)
		return false
	}
	a.answered(consent, t.f.now())
	t.put(a)
	if !consent.Offline {
		t.f.log.Warn("the provider gave no refresh token: add offline_access to the application's scopes", t.f.fields(a.seller, zap.Int64("user_id", consent.Account.UserID))...)
	}
	return true
}

// standing is what a consent would change.
type standing struct {
	seller string
	// old is the connection in whose place the new one would come, by another
	// account; nil where there is none.
	old *tokenstore.Connection
	// seen names the connection that the seller has now.
	seen string
}

// standing reads what the seller has now, and answers itself when it may not or
// cannot be.
func (t *turn) standing(a *attempt) (standing, bool) {
	account := a.consent.Account
	if account.UserID <= 0 {
		t.fail(CodeNoAccount, nil)
		return standing{}, false
	}
	s := standing{seller: a.seller}
	if !t.f.sellerMode {
		s.seller = strconv.FormatInt(account.UserID, 10)
	}
	now, err := t.connection(s.seller)
	if now != nil {
		s.meets(now, now.Account != account)
	}
	if err == nil && s.old == nil && !t.f.sellerMode && !a.byLink() {
		// In session mode another account is another seller. Whom this browser
		// acts for would change all the same, so it counts as a switch.
		if now, err = t.sessionConnection(); now != nil {
			s.meets(now, now.Account != account)
		}
	}
	if err != nil {
		t.failFor(err)
		return standing{}, false
	}
	if a.byLink() && (s.old != nil || s.seller != a.seller) {
		t.fail(CodeLinkSwitch, nil)
		return standing{}, false
	}
	return s, true
}

func (s *standing) meets(c *tokenstore.Connection, switches bool) {
	s.seen = c.ID
	if switches {
		s.old = c
	}
}

// connection returns a seller's connection, or nil where there is none.
func (t *turn) connection(seller string) (*tokenstore.Connection, error) {
	c, err := t.f.source.Connection(t.r.Context(), t.f.application, seller)
	var none *tokensource.Error
	if errors.As(err, &none) && none.Reason == tokensource.ReasonNotConnected {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return &c, nil
}

// sessionConnection returns the connection that this browser's session names,
// or nil where it is gone.
func (t *turn) sessionConnection() (*tokenstore.Connection, error) {
	seller, id, err := t.f.Session(t.r)
	if seller == "" {
		return nil, err
	}
	c, err := t.connection(seller)
	if c == nil || c.ID != id {
		return nil, err
	}
	return c, nil
}

// settle asks, where there is something to ask, or connects.
func (t *turn) settle(a *attempt, id string) {
	s, ok := t.standing(a)
	switch {
	case !ok:
	case t.f.asks(a, s):
		t.redirect(t.f.attemptPath(PageConfirm, id))
	case t.head():
		t.moveOn(id)
	default:
		t.makeConnection(a, id, s)
	}
}

func (f *Flow) asks(a *attempt, s standing) bool {
	return f.confirm || a.byLink() || s.old != nil
}

// confirm asks before a connection is made. That is also what makes it harmless
// that somebody else logged this browser in at the provider.
func (t *turn) confirm() {
	a, id, ok := t.own()
	if !ok {
		return
	}
	if a.stage != consented {
		t.redirect(t.f.attemptPath(PageFinish, id))
		return
	}
	s, ok := t.standing(a)
	if !ok {
		return
	}
	if t.r.Method != http.MethodPost {
		t.ask(a, id, s)
		return
	}
	form, ok := t.form()
	if !ok {
		return
	}
	switch {
	case form.Get("decision") == "refuse":
		a.stage = refused
		t.put(a)
		t.f.log.Info("the seller kept things as they were", t.f.fields(s.seller, zap.Int64("user_id", a.consent.Account.UserID))...)
		t.redirect(t.f.attemptPath(PageFinish, id))
	case form.Get("decision") != "connect" || form.Get("seen") != s.seen:
		// The connection changed since the question was shown, so a new question is asked.
		t.redirect(t.f.attemptPath(PageConfirm, id))
	default:
		t.makeConnection(a, id, s)
	}
}

func (t *turn) ask(a *attempt, id string, s standing) {
	account := a.account()
	p := page{
		Name: "confirm", Title: "confirm.title", Action: t.f.attemptPath(PageConfirm, id),
		Seen: s.seen, Account: &account, Temporary: !a.consent.Offline,
		// The POST ends at return_to, and who knows where that leads on to.
		Onward: a.returnTo != "",
	}
	if t.f.sellerMode || a.byLink() {
		p.Seller = s.seller
	}
	if s.old != nil {
		old := describe(s.old.Account, s.old.Nickname, s.old.Country)
		p.Old, p.Title = &old, "switch.title"
	}
	t.render(p)
}

// makeConnection points the seller to the account.
func (t *turn) makeConnection(a *attempt, id string, s standing) {
	ctx, cancel := t.detached()
	defer cancel()
	if !t.useLink(ctx, a) {
		return
	}
	c, err := t.f.source.Connect(ctx, s.seller, a.consent)
	if err != nil {
		t.failFor(err)
		return
	}
	a.stage, a.at, a.connection = connected, t.f.now(), c.ID
	t.put(a)
	if !t.f.sellerMode && !a.byLink() {
		t.startSession(c)
	}
	if a.returnTo == "" || !a.consent.Offline {
		t.redirect(t.f.attemptPath(PageFinish, id))
		return
	}
	t.redirect(t.f.origin + a.returnTo)
}

// useLink uses a link up. The attempt remembers that it was the one, so that a
// store that fails right after does not cost the seller the link.
func (t *turn) useLink(ctx context.Context, a *attempt) bool {
	if !a.byLink() || a.linkUsed {
		return true
	}
	err := t.f.source.Consume(ctx, a.linkName(), a.linkEnds.Add(attemptTTL+consumedSlack+time.Hour))
	if errors.Is(err, tokenstore.ErrConsumed) {
		t.fail(CodeLinkUsed, nil)
		return false
	}
	if err != nil {
		t.fail(CodeUnavailable, err)
		return false
	}
	a.linkUsed = true
	t.put(a)
	return true
}

// showConnected says what is connected, as it stands now: the seller may have
// come back to this page long after.
func (t *turn) showConnected(a *attempt) {
	seller := a.seller
	if !t.f.sellerMode {
		seller = strconv.FormatInt(a.consent.Account.UserID, 10)
	}
	c, err := t.connection(seller)
	if err != nil {
		t.failFor(err)
		return
	}
	if c == nil || c.ID != a.connection {
		t.render(page{Name: "nothing", Title: "ended.title", Restart: t.restart(a), Seller: t.seller})
		return
	}
	account := describe(c.Account, c.Nickname, c.Country)
	p := page{
		Name: "connected", Title: "connected.title", Account: &account,
		Temporary: !a.consent.Offline, Next: t.back(a.returnTo),
	}
	if t.f.sellerMode || a.byLink() {
		p.Seller = seller
	}
	if !a.byLink() {
		p.Undo = t.f.pagePath(PageDisconnect)
	}
	t.render(p)
}

// showKept says that a refusal changed nothing.
func (t *turn) showKept(a *attempt) {
	t.render(page{Name: "kept", Title: "kept.title", Next: t.back(a.returnTo), Restart: t.restart(a)})
}

// back is where a page leads on to: return_to, or the site's front page unless
// the configuration names the paths.
func (t *turn) back(returnTo string) string {
	if returnTo == "" && t.f.returnTo == nil {
		return "/"
	}
	return returnTo
}
