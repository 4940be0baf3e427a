package mercadopago

import (
	"errors"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

// maxSeller bounds the name of a seller, in bytes, as the connect pages do.
const maxSeller = 256

// template is a text with placeholders, parsed once. It exists because Caddy's
// own replacing turns an unknown placeholder into nothing: `shop-{user}` without
// a user would be the seller `shop-`, and whose money is that? It also never
// expands a value again: a header that says {env.SECRET} stays that text.
type template []part

type part struct {
	text        string
	placeholder bool
	// header is the field that the placeholder names, if it names one. Most do, and
	// the way through Caddy's replacer is a long one.
	header string
}

const headerPlaceholder = "http.request.header."

// parseTemplate parses a text as Caddy writes placeholders: {name}, with \{ and
// \} for literal braces.
func parseTemplate(text string) (template, error) {
	var parts template
	var literal strings.Builder
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\\' && i+1 < len(text) && (text[i+1] == '{' || text[i+1] == '}'):
			i++
			literal.WriteByte(text[i])
		case c == '{':
			end := strings.IndexByte(text[i:], '}')
			if end < 2 || strings.Contains(text[i+1:i+end], "{") {
				return nil, errors.New("a placeholder is not closed or has no name; write {name}, or \\{ for a brace")
			}
			if literal.Len() > 0 {
				parts = append(parts, part{text: literal.String()})
				literal.Reset()
			}
			parts = append(parts, placeholderPart(text[i+1:i+end]))
			i += end
		default:
			literal.WriteByte(c)
		}
	}
	if literal.Len() > 0 {
		parts = append(parts, part{text: literal.String()})
	}
	return parts, nil
}

func placeholderPart(name string) part {
	p := part{text: name, placeholder: true}
	if header, ok := strings.CutPrefix(name, headerPlaceholder); ok {
		p.header = textproto.CanonicalMIMEHeaderKey(header)
	}
	return p
}

// fill returns the text with its placeholders replaced, or "" if one of them is
// empty or unknown, or the whole is too long to be a name.
func (t template) fill(r *http.Request) string {
	if len(t) == 1 {
		return bounded(t[0].value(r))
	}
	var whole strings.Builder
	for _, p := range t {
		value := p.value(r)
		if value == "" {
			return ""
		}
		whole.WriteString(value)
	}
	return bounded(whole.String())
}

func (p part) value(r *http.Request) string {
	switch {
	case !p.placeholder:
		return p.text
	case p.header != "":
		return strings.Join(r.Header[p.header], ",")
	}
	value, _ := replacer(r).GetString(p.text)
	return value
}

func replacer(r *http.Request) *caddy.Replacer {
	return r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
}

func bounded(name string) string {
	if len(name) > maxSeller {
		return ""
	}
	return name
}

// placeholders are the values of {http.mercadopago.*} for one request.
type placeholders struct {
	application, seller string
	token               *tokensource.Token
}

const placeholderPrefix = "http." + appName

// tell sets a request's placeholders to these values. Of several mercadopago handlers
// the innermost, which runs last, wins: the placeholders describe the token that is
// sent. A variable of the request holds them: to look them up in the replacer is slow.
func (p *placeholders) tell(r *http.Request) {
	vars := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	if told, ok := vars[placeholderPrefix].(*placeholders); ok {
		*told = *p
		return
	}
	vars[placeholderPrefix] = p
	replacer(r).Map(p.value)
}

// value answers Caddy's replacer.
func (p *placeholders) value(key string) (any, bool) {
	name, ok := strings.CutPrefix(key, placeholderPrefix)
	if !ok {
		return nil, false
	}
	switch name {
	case ".application":
		return p.application, true
	case ".seller":
		return p.seller, true
	}
	if p.token == nil {
		return "", name == ".user_id" || name == ".public_key" || name == ".live_mode"
	}
	account := p.token.Account()
	switch {
	case name == ".public_key":
		return p.token.PublicKey(), true
	case name == ".user_id" && account.UserID != 0:
		return strconv.FormatInt(account.UserID, 10), true
	case name == ".live_mode" && account.UserID != 0:
		return strconv.FormatBool(account.Live), true
	}
	return "", name == ".user_id" || name == ".live_mode"
}

// String keeps the variable empty, which is only there for us.
func (*placeholders) String() string { return "" }
