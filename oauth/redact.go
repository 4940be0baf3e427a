package oauth

import (
	"html"
	"net/url"
	"regexp"
	"strings"
	"unicode"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

const (
	masked         = "***"
	maxDescription = 200
)

// redactor makes text from outside fit for a log.
type redactor struct{ secrets []*regexp.Regexp }

// newRedactor returns a redactor of the given secrets.
func newRedactor(secrets []secret.Secret) *redactor {
	r := new(redactor)
	for _, s := range secrets {
		// Cleaned as the text is, or what cleaning changed would not match.
		value := clean(s.Reveal())
		if value == "" {
			continue
		}
		// Whatever the case: some services fold what they echo.
		r.secrets = append(r.secrets, regexp.MustCompile("(?i)"+regexp.QuoteMeta(value)))
	}
	return r
}

// tokenLike finds what looks like a token: a long run without spaces. It masks
// what no list of secrets can know: a part of one, one that is encoded in yet
// another way, or one that the provider has just made.
var tokenLike = regexp.MustCompile(`[\w%+/=~-]{16,}`)

// redact returns text in one line of at most 200 characters, with every secret
// in it masked, plain or encoded.
func (r *redactor) redact(text string) string {
	text = clean(text)
	// Decoded, but only where that shows a secret: the rest stays as it was
	// said. Four times, because each hop may have encoded once more.
	decoded := text
	for range 4 {
		decoded = clean(decode(decoded))
		if shown := r.mask(decoded); shown != decoded {
			text, decoded = shown, shown
		}
	}
	text = r.mask(text)
	text = tokenLike.ReplaceAllStringFunc(text, func(run string) string {
		if !strings.ContainsAny(run, "0123456789") {
			return run // a word, such as unsupported_grant_type
		}
		return masked
	})
	// Cut last: half a secret would not be recognized.
	return truncate(strings.TrimSpace(text), maxDescription)
}

func (r *redactor) mask(text string) string {
	for _, s := range r.secrets {
		text = s.ReplaceAllLiteralString(text, masked)
	}
	return text
}

// percentEncoded finds runs of it; escapes that are none stay as they are.
var percentEncoded = regexp.MustCompile(`(?:%[0-9A-Fa-f]{2})+`)

func decode(text string) string {
	text = percentEncoded.ReplaceAllStringFunc(text, func(run string) string {
		plain, _ := url.PathUnescape(run) // the pattern matches whole escapes only
		return plain
	})
	return html.UnescapeString(text)
}

// clean makes valid UTF-8 without control and invisible characters: they forge
// lines in a log, turn text around, and split a secret so that it is not found.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case unicode.Is(unicode.Cf, r):
			return -1
		case unicode.IsControl(r), unicode.IsSpace(r):
			return ' '
		}
		return r
	}, text)
}

// truncate cuts text to at most limit characters.
func truncate(text string, limit int) string {
	runes := []rune(text)
	if len(runes) <= limit {
		return text
	}
	return string(runes[:limit-1]) + "…"
}
