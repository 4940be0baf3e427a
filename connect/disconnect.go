package connect

import (
	"net/http"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// disconnect asks, and on POST ends exactly the connection that was asked about.
func (t *turn) disconnect() {
	if t.nobody() {
		return
	}
	c, err := t.mine()
	if err != nil {
		t.failFor(err)
		return
	}
	if t.r.Method == http.MethodPost {
		t.endConnection(c)
		return
	}
	if c == nil {
		p := page{Name: "nothing", Title: "nothing.title", Seller: t.seller, Restart: t.f.ConnectURL("")}
		if t.query.Has("done") {
			p.Title, p.Done = "disconnected.title", true
		}
		t.render(p)
		return
	}
	account := describe(c.Account, c.Nickname, c.Country)
	t.render(page{
		Name: "disconnect", Title: "disconnect.title", Action: t.f.pagePath(PageDisconnect),
		Seller: t.seller, Account: &account, Seen: c.ID, Next: t.back(""),
	})
}

// current returns the connection of the seller who asks, or nil if there is none.
func (t *turn) current() (*tokenstore.Connection, error) {
	if t.f.sellerMode {
		return t.connection(t.seller)
	}
	return t.sessionConnection()
}

// mine is like current, and ends a session whose connection is gone.
func (t *turn) mine() (*tokenstore.Connection, error) {
	c, err := t.current()
	if !t.f.sellerMode && err == nil && c == nil && cookie(t.r, t.f.sessionCookie) != "" {
		t.f.EndSession(t.w)
	}
	return c, err
}

func (t *turn) endConnection(c *tokenstore.Connection) {
	form, ok := t.form()
	if !ok {
		return
	}
	done := t.f.pagePath(PageDisconnect) + "?done"
	if c == nil {
		t.redirect(done)
		return
	}
	if form.Get("seen") != c.ID {
		// Another account was connected since the page was shown, so that one is shown first.
		t.redirect(t.f.pagePath(PageDisconnect))
		return
	}
	ctx, cancel := t.detached()
	defer cancel()
	if err := t.f.source.Disconnect(ctx, *c); err != nil {
		t.failFor(err)
		return
	}
	if !t.f.sellerMode {
		t.f.EndSession(t.w)
	}
	t.redirect(done)
}
