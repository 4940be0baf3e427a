package mercadopago

import (
	"errors"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Allow lets requests pass by method and path.
type Allow struct {
	// The methods, in capitals. Default: any.
	Methods []string `json:"methods,omitempty"`

	// The paths. A `*` stands for one segment, and at the end for everything
	// below. With or without a slash at its end a path is the same one.
	Paths []string `json:"paths,omitempty"`
}

// check refuses what could never match, or would match another path than the
// one that is written.
func (a *Allow) check() error {
	for _, method := range a.Methods {
		if !isToken(method) || strings.ToUpper(method) != method {
			return errors.New("write methods in capitals, such as GET or POST")
		}
	}
	if len(a.Paths) == 0 {
		return errors.New("write at least one path after the method")
	}
	for _, pattern := range a.Paths {
		canonical, ok := canonicalPath(&url.URL{Path: pattern})
		if !ok || canonical != pattern {
			return errors.New("write paths plainly: with a slash in front, no empty, dot or encoded parts, and no query")
		}
		for segment := range strings.SplitSeq(pattern, "/") {
			if segment != "*" && strings.Contains(segment, "*") {
				return errors.New("a * stands for a whole segment: write it between slashes")
			}
		}
	}
	return nil
}

// admits reports whether a request's method and its canonical path match.
func (a *Allow) admits(method, canonical string) bool {
	if len(a.Methods) > 0 && !slices.Contains(a.Methods, method) {
		return false
	}
	return slices.ContainsFunc(a.Paths, func(pattern string) bool { return matches(pattern, canonical) })
}

// matches reports whether a canonical path is one of a pattern's.
func matches(pattern, canonical string) bool {
	want := strings.Split(strings.TrimSuffix(pattern, "/"), "/")
	got := strings.Split(strings.TrimSuffix(canonical, "/"), "/")
	below := want[len(want)-1] == "*" && len(got) > len(want)
	if len(got) != len(want) && !below {
		return false
	}
	for i := range want {
		if want[i] != got[i] && want[i] != "*" {
			return false
		}
	}
	return true
}

// allowed makes the request's path canonical, if there is an allow list, and
// reports whether the list admits it. The path that was matched is the one that is
// forwarded, so that no server behind can read it differently.
func (e *Egress) allowed(r *http.Request) bool {
	if len(e.Allow) == 0 {
		return true
	}
	canonical, ok := canonicalPath(r.URL)
	if !ok || !slices.ContainsFunc(e.Allow, func(a Allow) bool { return a.admits(r.Method, canonical) }) {
		return false
	}
	r.URL.Path, r.URL.RawPath = canonical, ""
	return true
}

// canonicalPath returns the one plain form of a path: decoded, without dot
// segments and doubled slashes. It reports false for a path that servers read in
// different ways: one with an encoded slash, dot, backslash or percent sign, a
// semicolon, a control character, a character that folds to one of these, or
// invalid UTF-8.
func canonicalPath(u *url.URL) (string, bool) {
	decoded := u.Path
	if !strings.HasPrefix(decoded, "/") || !utf8.ValidString(decoded) || strings.ContainsAny(decoded, `\;%?#`) ||
		strings.ContainsFunc(decoded, ambiguous) {
		return "", false
	}
	escaped := strings.ToLower(u.EscapedPath())
	if strings.Contains(escaped, "%2f") || strings.Contains(escaped, "%2e") {
		return "", false
	}
	for segment := range strings.SplitSeq(decoded, "/") {
		// Some servers take "..." or a dot and a space for a dot segment.
		if strings.Trim(segment, ". ") == "" && segment != "" && segment != "." && segment != ".." {
			return "", false
		}
	}
	canonical := path.Clean(decoded)
	if canonical != "/" && strings.HasSuffix(decoded, "/") {
		canonical += "/"
	}
	return canonical, true
}

// ambiguous reports whether a character is invisible, or is outside ASCII and not a
// letter, mark or number. Among those are full-width slashes and dots, which some
// servers fold to ASCII.
func ambiguous(c rune) bool {
	if c < utf8.RuneSelf {
		return !unicode.IsPrint(c)
	}
	return !unicode.IsLetter(c) && !unicode.IsMark(c) && !unicode.IsNumber(c)
}
