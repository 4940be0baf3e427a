package connect

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxReturnTo = 1024

var errReturnTo = errors.New("return_to must be a path of this site, such as /settings, that the configuration allows")

// parseReturnTo checks where a flow is asked to come back to, and returns it as
// a path with its query. "" is nowhere in particular.
//
// It refuses whatever two parsers might read differently, rather than guess
// what a browser, a proxy or an app will make of it: the address goes to a
// browser right after a seller has trusted us.
func (f *Flow) parseReturnTo(raw string) (string, error) {
	if raw == "" {
		return "", nil
	}
	raw = strings.TrimPrefix(raw, f.origin) // what is left must be a path all the same
	if len(raw) > maxReturnTo || !strings.HasPrefix(raw, "/") {
		return "", errReturnTo
	}
	for i := range len(raw) {
		// Browsers drop tabs and newlines, and read a backslash as a slash.
		if raw[i] <= ' ' || raw[i] >= 0x7f || strings.IndexByte("\\\"<>^`{|}", raw[i]) >= 0 {
			return "", errReturnTo
		}
	}
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.Opaque != "" {
		return "", errReturnTo
	}
	if !f.returnPathAllowed(u) {
		return "", errReturnTo
	}
	return raw, nil
}

func (f *Flow) returnPathAllowed(u *url.URL) bool {
	escaped := strings.ToLower(u.EscapedPath())
	// An encoded separator is one path to us and another to who decodes twice.
	if strings.Contains(escaped, "%2f") || strings.Contains(escaped, "%25") {
		return false
	}
	// Some make //host of /x/..//host, and a slash of a backslash.
	if strings.Contains(u.Path, "//") || strings.Contains(u.Path, "\\") {
		return false
	}
	if !utf8.ValidString(u.Path) || strings.ContainsFunc(u.Path, unicode.IsControl) {
		return false
	}
	for segment := range strings.SplitSeq(u.Path, "/") {
		if segment == "." || segment == ".." {
			return false
		}
	}
	// A flow that returns to its own start would loop forever.
	if _, ours := f.Match((&url.URL{Path: u.Path}).EscapedPath()); ours {
		return false
	}
	return f.returnTo == nil || f.matchesReturnTo(u.Path)
}

func (f *Flow) matchesReturnTo(path string) bool {
	for _, pattern := range f.returnTo {
		prefix, wild := strings.CutSuffix(pattern, "*")
		if path == pattern || wild && strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}

func checkReturnToPatterns(patterns []string) error {
	for _, p := range patterns {
		if !strings.HasPrefix(p, "/") || strings.Contains(strings.TrimSuffix(p, "*"), "*") {
			return fmt.Errorf("return_to %q: write a path such as /settings, or one that ends in * such as /orders/*", p)
		}
	}
	return nil
}
