package connect

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed templates/style.css
var styleSheet string

var pageNames = []string{"start", "moving", "confirm", "connected", "kept", "disconnect", "nothing", "problem"}

var templates = parseTemplates()

func parseTemplates() map[string]*template.Template {
	base := template.Must(template.ParseFS(templateFiles, "templates/base.html"))
	parsed := make(map[string]*template.Template, len(pageNames))
	for _, name := range pageNames {
		parsed[name] = template.Must(template.Must(base.Clone()).ParseFS(templateFiles, "templates/"+name+".html"))
	}
	return parsed
}

// policy lets a page show its own style sheet and nothing else.
var policy = func() string {
	sum := sha256.Sum256([]byte(styleSheet))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; base-uri 'none'; frame-ancestors 'none'"
}()

// page is what a template shows. Names of texts are keys of the table in
// texts.json.
type page struct {
	Name   string // the template's
	Title  string
	Host   string
	Seller string

	Account, Old *account
	// Temporary says that the connection ends by itself: there is no refresh
	// token.
	Temporary bool

	// Action is where the form is sent, with what follows in it.
	Action, ReturnTo, Link, Seen string
	Until                        time.Time
	// Onward says that the POST ends at another site, or may: browsers hold
	// form-action against every redirect that follows.
	Onward bool
	// Private says that the page's address holds what no Referer may carry.
	Private bool

	Next, Undo, Restart string
	Done                bool

	Detail, Code, Mend string // of a problem

	words int // the language
}

// T returns a text in the page's language.
func (p page) T(key string, args ...any) string { return translate(p.words, key, args...) }

// Lang returns the page's language, as HTML names it.
func (p page) Lang() string { return languages[p.words] }

// CSS returns the style sheet.
func (page) CSS() template.CSS { return template.CSS(styleSheet) }

// Ends returns when a link ends.
func (p page) Ends() string { return p.Until.UTC().Format("2006-01-02 15:04 UTC") }

// Label names an account in a sentence.
func (p page) Label(a *account) string {
	if a.Name != "" {
		return a.Name
	}
	return p.T("account.unnamed", a.ID)
}

// CountryName returns the name of an account's country, or its code where we do
// not know it, or "".
func (p page) CountryName(a *account) string {
	key := "country." + a.Country
	if _, ok := texts[key]; ok {
		return p.T(key)
	}
	return a.Country
}

// row is one account in a list of facts.
type row struct {
	Page page
	Key  string // of its label
	Of   *account
}

// Row makes a row.
func (p page) Row(key string, a *account) row { return row{Page: p, Key: key, Of: a} }

// Facts tells what the label does not: the country, and the account's number.
func (p page) Facts(a *account) string {
	facts := make([]string, 0, 2)
	if country := p.CountryName(a); country != "" {
		facts = append(facts, country)
	}
	if a.Name != "" {
		facts = append(facts, p.T("label.id")+" "+a.ID)
	}
	return strings.Join(facts, " · ")
}

// account describes an account to people.
type account struct {
	Name    string // the nickname; "" where the provider did not tell
	ID      string
	Country string
	Live    bool
}

func describe(id tokenstore.AccountID, nickname, country string) account {
	return account{Name: legible(nickname), ID: strconv.FormatInt(id.UserID, 10), Country: legible(country), Live: id.Live}
}

// maxLegible bounds a name on a page, in runes.
const maxLegible = 100

// legible makes a text from outside fit to stand on a page or in a log: a name
// with invisible or direction-changing runes could make a question read
// differently from what it asks.
func legible(text string) string {
	var b strings.Builder
	n := 0
	for _, r := range text {
		if n++; n > maxLegible {
			b.WriteString("…")
			break
		}
		if unicode.IsPrint(r) && r != unicode.ReplacementChar {
			b.WriteRune(r)
		}
	}
	return strings.TrimSpace(b.String())
}

func (t *turn) render(p page) {
	p.Host = t.f.host
	render(t.w, t.r, http.StatusOK, p)
}

func render(w http.ResponseWriter, r *http.Request, status int, p page) {
	p.words = languageOf(r)
	p.Seller = legible(p.Seller)
	var body bytes.Buffer
	if err := templates[p.Name].ExecuteTemplate(&body, "base.html", p); err != nil {
		// Only a template that is wrong comes here, and the tests show each one.
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Language", p.Lang())
	h.Set("Content-Length", strconv.Itoa(body.Len()))
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	// Not no-referrer: browsers would then send Origin: null with a form, which foreign refuses.
	h.Set("Referrer-Policy", "same-origin")
	if p.Private {
		h.Set("Referrer-Policy", "no-referrer")
	}
	csp := policy
	if !p.Onward {
		csp += "; form-action 'self'"
	}
	h.Set("Content-Security-Policy", csp)
	if h.Get("Vary") == "" {
		h.Set("Vary", "Accept-Language")
	}
	w.WriteHeader(status)
	if r.Method != http.MethodHead {
		_, _ = body.WriteTo(w)
	}
}

func hostOf(address string) string {
	u, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return u.Host
}
