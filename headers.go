package mercadopago

import (
	"io"
	"net/http"
	"net/url"
	"strings"
)

// field is a header field as it was before we touched it.
type field struct {
	name   string
	values []string
}

// strip removes from a request every copy of a header that an application
// server could take for it, and its name from Connection, by which a client
// could have the injected one removed again. It returns what it changed.
func strip(r *http.Request, name string, changed []field) []field {
	if values, ok := r.Header[name]; ok {
		changed = append(changed, field{name, values})
		delete(r.Header, name)
	}
	if hasSpellings(name) {
		for key, values := range r.Header {
			if sameName(key, name) {
				changed = append(changed, field{key, values})
				delete(r.Header, key)
			}
		}
	}
	if values, ok := r.Header["Connection"]; ok && namedIn(values, name) {
		changed = append(changed, field{"Connection", values})
		setOrDelete(r.Header, "Connection", without(values, name))
	}
	stripTrailer(r, name)
	return changed
}

// hasSpellings reports whether a name has spellings that differ by more than case.
// Case needs no check: net/http reads every name in canonical form.
func hasSpellings(name string) bool {
	for i := range len(name) {
		if folded(name[i]) == '-' {
			return true
		}
	}
	return false
}

// stripTrailer removes the header from the trailers, those announced and those
// that arrive after the body: they go upstream too.
func stripTrailer(r *http.Request, name string) {
	deleteName(r.Trailer, name)
	if r.Body == nil || r.Body == http.NoBody || (r.ContentLength >= 0 && r.Trailer == nil) {
		return
	}
	r.Body = &trailerBody{ReadCloser: r.Body, request: r, name: name}
}

// trailerBody removes a header from a request's trailers once the server has
// read them, which is when it has read the body.
type trailerBody struct {
	io.ReadCloser
	request *http.Request
	name    string
}

func (b *trailerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		deleteName(b.request.Trailer, b.name)
	}
	return n, err
}

func deleteName(header http.Header, name string) {
	for key := range header {
		if sameName(key, name) {
			delete(header, key)
		}
	}
}

// restore puts back what a request's header was before strip.
func restore(header http.Header, changed []field) {
	for _, f := range changed {
		header[f.name] = f.values
	}
}

func setOrDelete(header http.Header, name string, values []string) {
	if len(values) == 0 {
		delete(header, name)
		return
	}
	header[name] = values
}

func namedIn(values []string, name string) bool {
	for _, value := range values {
		for token := range strings.SplitSeq(value, ",") {
			if sameName(strings.TrimSpace(token), name) {
				return true
			}
		}
	}
	return false
}

// without returns comma-separated values without a name.
func without(values []string, name string) []string {
	var kept []string
	for _, value := range values {
		var tokens []string
		for token := range strings.SplitSeq(value, ",") {
			token = strings.TrimSpace(token)
			if token != "" && !sameName(token, name) {
				tokens = append(tokens, token)
			}
		}
		if len(tokens) > 0 {
			kept = append(kept, strings.Join(tokens, ", "))
		}
	}
	return kept
}

// sameName reports whether an application server could take two names for one:
// CGI, and what descends from it, folds case and every character but letters
// and digits.
func sameName(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if folded(a[i]) != folded(b[i]) {
			return false
		}
	}
	return true
}

func folded(c byte) byte {
	switch {
	case 'A' <= c && c <= 'Z':
		return c + ('a' - 'A')
	case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		return c
	}
	return '-'
}

// isToken reports whether a text is a token as RFC 9110 §5.6.2 has it.
func isToken(text string) bool {
	for i := range len(text) {
		c := text[i]
		if folded(c) == '-' && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return text != ""
}

// stripAccessToken removes the old style access_token from a query, in every
// spelling that decodes or folds to it, and leaves every other byte alone.
func stripAccessToken(query string) string {
	if !strings.Contains(query, "%") && !mentions(query, "token") {
		return query // nearly all queries, at little cost
	}
	kept, removed := make([]byte, 0, len(query)), false
	for rest := query; rest != ""; {
		// Some servers split at ; too.
		end := strings.IndexAny(rest, "&;") + 1
		if end == 0 {
			end = len(rest)
		}
		key, _, _ := strings.Cut(strings.TrimRight(rest[:end], "&;"), "=")
		if isAccessToken(key) {
			removed = true
		} else {
			kept = append(kept, rest[:end]...)
		}
		rest = rest[end:]
	}
	if !removed {
		return query
	}
	return strings.TrimRight(string(kept), "&;")
}

func isAccessToken(key string) bool {
	// Twice, for an upstream that decodes what a proxy has decoded.
	for range 2 {
		if decoded, err := url.QueryUnescape(key); err == nil {
			key = decoded
		}
	}
	// PHP and others read access_token[] as a list of that name.
	key, _, _ = strings.Cut(key, "[")
	return sameName(strings.Trim(key, " \t\r\n\x00"), "access_token")
}
