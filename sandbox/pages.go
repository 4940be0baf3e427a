package sandbox

import (
	"bytes"
	"embed"
	"html/template"
	"net/http"
	"net/url"
	"strings"
	"time"
)

//go:embed pages
var pageFiles embed.FS

// stylePath is outside of controlPath: the consent page is for browsers on
// other machines too.
const stylePath = "/sandbox.css"

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"initials": initials,
	"sorted":   sortedCounts,
	"clock":    func(t time.Time) string { return t.Format("15:04:05") },
}).ParseFS(pageFiles, "pages/*.html"))

func serveStyle(w http.ResponseWriter, r *http.Request) {
	http.ServeFileFS(w, r, pageFiles, "pages/sandbox.css")
}

// show renders a page whole before any of it is sent. There is no form-action
// in its policy: browsers apply that to the redirect that follows a consent.
func show(w http.ResponseWriter, status int, name string, data any) {
	var page bytes.Buffer
	if err := pages.ExecuteTemplate(&page, name, data); err != nil {
		http.Error(w, "the page cannot be shown", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(page.Bytes())
}

// maxShown accounts are listed on a page; a load test may have many thousands.
const maxShown = 50

type consentPage struct {
	*texts
	Application Application
	Accounts    []Account
	LoggedIn    bool
	Offline     bool
	Action      string
	BackTo      string
}

func (s *Sandbox) showConsent(c *call, r *http.Request, asked *authorization, accounts []Account, loggedIn bool) {
	page := consentPage{
		texts: language(r), Application: asked.application, Accounts: accounts[:min(len(accounts), maxShown)],
		LoggedIn: loggedIn, Offline: !asked.application.WithoutOfflineAccess, Action: "/authorization?" + r.URL.RawQuery,
	}
	if target, err := url.Parse(asked.redirectURI); err == nil {
		page.BackTo = target.Host
	}
	show(c, http.StatusOK, "consent.html", page)
}

type refusedPage struct {
	*texts
	Reason string
}

// refuseConsent never redirects: an address that is not registered is not to be
// trusted with as much as an error.
func (s *Sandbox) refuseConsent(c *call, r *http.Request, reason error) {
	c.entry.Note = reason.Error()
	show(c, http.StatusBadRequest, "refused.html", refusedPage{language(r), reason.Error()})
}

// checkout is where a preference's init_point leads: it shows who would be paid.
func (s *Sandbox) checkout(c *call, r *http.Request) {
	s.mu.Lock()
	found, ok := s.ledger.preferences.get(r.URL.Query().Get("pref_id"))
	s.mu.Unlock()
	if !ok {
		c.refuse(http.StatusNotFound, "not_found", "preference not found")
		return
	}
	show(c, http.StatusOK, "checkout.html", map[string]any{
		"Lang": "en", "Sandbox": language(r).Sandbox, "Account": found.collector, "Title": found.title, "Amount": found.amount,
	})
}

// initials stand where a picture would.
func initials(name string) string {
	out := ""
	for _, word := range strings.FieldsFunc(name, func(r rune) bool { return r == '_' || r == ' ' || r == '-' }) {
		if len([]rune(out)) < 2 {
			out += strings.ToUpper(string([]rune(word)[:1]))
		}
	}
	return out
}
