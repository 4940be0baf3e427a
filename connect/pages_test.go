package connect

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"
)

// samples has each page in each of its forms.
func samples() map[string]page {
	azul := &account{Name: "TIENDA_AZUL", ID: "241983636", Country: "AR", Live: true}
	unnamed := &account{ID: "998877665544", Country: "ZZ"}
	pages := map[string]page{
		"start":      {Name: "start", Title: "start.title", Seller: "shop-42", Account: azul, ReturnTo: "/x", Action: "/connect", Onward: true},
		"link":       {Name: "start", Title: "start.title", Seller: "shop-42", Link: "sealed", Until: time.Unix(1e9, 0), Action: "/connect/link", Onward: true},
		"moving":     {Name: "moving", Title: "moving.title", Next: "/connect/finish?attempt=x", Private: true},
		"confirm":    {Name: "confirm", Title: "confirm.title", Seller: "shop-42", Account: azul, Action: "/connect/confirm"},
		"switch":     {Name: "confirm", Title: "switch.title", Account: unnamed, Old: azul, Temporary: true, Action: "/connect/confirm"},
		"connected":  {Name: "connected", Title: "connected.title", Account: azul, Next: "/", Undo: "/connect/disconnect"},
		"kept":       {Name: "kept", Title: "kept.title", Next: "/", Restart: "/connect"},
		"disconnect": {Name: "disconnect", Title: "disconnect.title", Account: azul, Next: "/", Action: "/connect/disconnect"},
		"nothing":    {Name: "nothing", Title: "nothing.title", Restart: "/connect"},
		"ended":      {Name: "nothing", Title: "ended.title", Restart: "/connect"},
		"done":       {Name: "nothing", Title: "disconnected.title", Done: true, Restart: "/connect"},
	}
	for code, k := range kinds {
		pages["problem "+code] = page{Name: "problem", Title: "problem." + code + ".title", Detail: "problem." + code + ".detail", Code: code, Mend: k.mend, Restart: "/connect", Private: true}
	}
	for name, p := range pages {
		p.Host = "shop.example.com"
		pages[name] = p
	}
	return pages
}

func show(p page, acceptLanguage string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Accept-Language", acceptLanguage)
	w := httptest.NewRecorder()
	render(w, r, 200, p)
	return w
}

func TestEachPageIsWholeInEachLanguage(t *testing.T) {
	for name, p := range samples() {
		titles := map[string]bool{}
		for _, lang := range languages {
			w := show(p, lang)
			body := w.Body.String()
			doc, err := html.Parse(strings.NewReader(body))
			require.NoError(t, err)
			count := map[string]int{}
			for n := range doc.Descendants() {
				if n.Type == html.ElementNode {
					count[n.Data]++
				}
			}
			require.Contains(t, body, `<html lang="`+lang+`">`)
			require.Equal(t, lang, w.Header().Get("Content-Language"))
			for _, once := range []string{"h1", "main", "header", "title"} {
				require.Equal(t, 1, count[once], "%s: %s", name, once)
			}
			for _, never := range []string{"script", "img", "iframe", "link", "object"} {
				require.Zero(t, count[never], "%s: %s", name, never)
			}
			require.NotContains(t, body, "%!", "%s: a text wants other arguments", name)
			require.NotContains(t, body, " style=", "the policy allows the sheet alone")
			require.NotRegexp(t, `(href|src|action)="?https?://`, body)
			titles[heading(body)] = true
			require.NotContains(t, heading(body), ".", "%s: a key instead of its text", name)
		}
		require.GreaterOrEqual(t, len(titles), 2, name)
	}
}

func TestPagesCarryTheirHeaders(t *testing.T) {
	for name, p := range samples() {
		w := show(p, "en")
		h := w.Header()
		body := w.Body.String()
		_, rest, _ := strings.Cut(body, "<style>")
		sheet, _, _ := strings.Cut(rest, "</style>")
		sum := sha256.Sum256([]byte(sheet))
		want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; frame-ancestors 'none'"
		if !p.Onward {
			want += "; form-action 'self'"
		}
		require.Equal(t, want, h.Get("Content-Security-Policy"), name)
		require.Equal(t, "no-store", h.Get("Cache-Control"))
		require.Equal(t, "nosniff", h.Get("X-Content-Type-Options"))
		require.Equal(t, "Accept-Language", h.Get("Vary"))
		require.Equal(t, fmt.Sprint(len(body)), h.Get("Content-Length"))
		if strings.Contains(body, "<form") {
			require.Equal(t, "same-origin", h.Get("Referrer-Policy"), "%s: with no-referrer a form says Origin: null", name)
		}
		if p.Private {
			require.Equal(t, "no-referrer", h.Get("Referrer-Policy"), name)
			require.NotContains(t, body, "<form")
		}
	}
}

func TestEveryTextIsThereInEveryLanguage(t *testing.T) {
	var raw map[string][]string
	require.NoError(t, json.Unmarshal(textsFile, &raw))
	verbs := regexp.MustCompile(`%.`)
	for key, words := range raw {
		require.Len(t, words, len(languages), key)
		for i, text := range words {
			require.NotEmpty(t, strings.TrimSpace(text), "%s in %s", key, languages[i])
			require.Equal(t, verbs.FindAllString(words[0], -1), verbs.FindAllString(text, -1), "%s in %s", key, languages[i])
		}
	}
}

func TestEveryTextThatIsNamedExistsAndIsUsed(t *testing.T) {
	var named strings.Builder
	files, err := filepath.Glob("templates/*.html")
	require.NoError(t, err)
	sources, err := filepath.Glob("*.go")
	require.NoError(t, err)
	for _, file := range append(files, sources...) {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		text, err := os.ReadFile(file)
		require.NoError(t, err)
		named.Write(text)
	}
	for _, m := range regexp.MustCompile(`T\(?\s?"([a-z_.]+)"`).FindAllStringSubmatch(named.String(), -1) {
		require.Contains(t, texts, m[1])
	}
	for key := range texts {
		if strings.HasPrefix(key, "country.") || strings.HasPrefix(key, "problem.") {
			continue
		}
		require.Contains(t, named.String(), `"`+key+`"`, "nobody uses %s", key)
	}
}

func TestTheLanguageIsTheOneThatIsAskedFor(t *testing.T) {
	for accept, want := range map[string]string{
		"": "es-419", "es": "es-419", "es-AR,es;q=0.9": "es-419", "es-ES": "es-419", "pt-BR": "pt-BR", "pt": "pt-BR", "pt-PT": "pt-BR",
		"en-US,en;q=0.5": "en", "de-DE": "en", "de,pt;q=0.5": "pt-BR", "fr;q=0.9, es;q=0.8": "es-419", "*": "es-419",
		",": "es-419", "en;q=0": "es-419",
		"nonsense;;;": "es-419", strings.Repeat("en,", 500): "es-419",
	} {
		r := httptest.NewRequest("GET", "/", nil)
		if accept != "" {
			r.Header.Set("Accept-Language", accept)
		}
		require.Equal(t, want, languages[languageOf(r)], accept)
	}
}

func TestNamesFromOutsideCannotDisguiseAQuestion(t *testing.T) {
	require.Equal(t, "TIENDAluza", legible("TIENDA\u202e\u200bluza\n\x00"))
	require.Equal(t, "Panadería «Ñ» 🥖", legible("  Panadería «Ñ» 🥖 "))
	require.Len(t, []rune(legible(strings.Repeat("x", 5000))), maxLegible+1)
	require.Empty(t, legible("\u00a0\u200b"))
	require.Equal(t, "TIENDA", legible("TIE\xffN\ufffdDA"), "bytes that are not UTF-8")
	w := show(page{Name: "confirm", Title: "confirm.title", Seller: "<b>x</b>", Account: &account{Name: `"><script>alert(1)</script>`, ID: "1"}, Action: "/"}, "en")
	require.NotContains(t, w.Body.String(), "<script")
	require.NotContains(t, w.Body.String(), "<b>")
}

// contrasts lists what stands on what, with the least ratio that WCAG AA asks
// for: 4.5 for text, 3 for what is not text.
var contrasts = []struct {
	front, back string
	least       float64
}{
	{"text", "page", 4.5},
	{"soft", "page", 4.5},
	{"text", "card", 4.5},
	{"soft", "card", 4.5},
	{"accent", "card", 4.5},
	{"on-accent", "accent", 4.5},
	{"on-danger", "danger", 4.5},
	{"on-note", "note", 4.5},
	{"on-warn", "warn", 4.5},
	{"on-tag", "tag", 4.5},
	{"edge", "card", 3},
	{"accent", "page", 3},
	{"danger", "card", 3},
	{"good", "card", 3},
	{"warn-edge", "card", 3},
	{"warn-edge", "warn", 3},
}

func TestColoursHaveTheContrastOfWCAGAA(t *testing.T) {
	blocks := regexp.MustCompile(`:root\{([^}]*)\}`).FindAllStringSubmatch(styleSheet, -1)
	require.Len(t, blocks, 2, "light and dark")
	for i, name := range []string{"light", "dark"} {
		colours := map[string]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+):#([0-9a-f]{6})`).FindAllStringSubmatch(blocks[i][1], -1) {
			colours[m[1]] = luminance(t, m[2])
		}
		for _, c := range contrasts {
			require.Contains(t, colours, c.front, name)
			require.Contains(t, colours, c.back, name)
			high, low := max(colours[c.front], colours[c.back]), min(colours[c.front], colours[c.back])
			require.GreaterOrEqual(t, (high+0.05)/(low+0.05), c.least, "%s: %s on %s", name, c.front, c.back)
		}
	}
	plain := regexp.MustCompile(`:root\{[^}]*\}`).ReplaceAllString(styleSheet, "")
	require.NotRegexp(t, `#[0-9a-f]{3,6}\b`, plain, "a colour outside the table is one that nobody measures")
}

func luminance(t *testing.T, hex string) float64 {
	var l float64
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		v, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		require.NoError(t, err)
		c := float64(v) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		l += weight * c
	}
	return l
}

func TestAPageThatCannotBeRenderedIsNotShownInPart(t *testing.T) {
	w := show(page{Name: "confirm", Title: "confirm.title"}, "en") // without an account
	require.Equal(t, http.StatusInternalServerError, w.Code)
	require.Equal(t, "Internal Server Error\n", w.Body.String())
}

func TestATextThatIsMissingShowsItsKey(t *testing.T) {
	require.Equal(t, "no.such.text", page{}.T("no.such.text"))
}
