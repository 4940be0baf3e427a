package mercadopago

import (
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/caddy-mercadopago/caddy-mercadopago/connect"
)

// defaultMaxReplayBody is what of a body is kept for one more attempt.
const defaultMaxReplayBody = 64 << 10

// maxReplayBodyLimit bounds what can be set: it is kept in memory per request.
const maxReplayBodyLimit = 16 << 20

// Egress is set on a handler whose next handlers are Mercado Pago's API, so that
// apps call it with no token of their own.
//
// It refuses callers from elsewhere, and pages in a browser; removes `access_token` from the query;
// refuses `/oauth/*`, where tokens are made; and when the API answers 401 it gets
// a new token and sends the request once more, if its method is idempotent or it
// carries X-Idempotency-Key, and its body is known to fit max_replay_body.
type Egress struct {
	// The addresses that may call, as IP addresses or CIDR ranges. The address of
	// the connection counts, never a header. Default: loopback.
	Clients []string `json:"clients,omitempty"`

	// The methods and paths that may pass. Everything else is answered 403, and
	// never gets a token. Default: everything but `/oauth/*`, which never passes.
	Allow []Allow `json:"allow,omitempty"`

	// The largest body, in bytes, that is kept to be sent once more after a 401;
	// 0 sends nothing again. Default: 65536; at most 16777216.
	MaxReplayBody *int64 `json:"max_replay_body,omitempty"`

	clients       []netip.Prefix
	loopback      bool // thisMachine is among the clients
	maxReplayBody int64
}

// thisMachine is the address of most who call.
const thisMachine = "127.0.0.1"

func (e *Egress) provision() error {
	for _, text := range e.Clients {
		prefix, err := parsePrefix(text)
		if err != nil {
			return fmt.Errorf("clients %q: write an IP address or a range such as 10.0.0.0/8", text)
		}
		e.clients = append(e.clients, prefix)
	}
	if len(e.clients) == 0 {
		e.clients = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	}
	e.loopback = e.contains(netip.MustParseAddr(thisMachine))
	for i := range e.Allow {
		if err := e.Allow[i].check(); err != nil {
			return fmt.Errorf("allow %s: %w", strings.Join(e.Allow[i].Paths, " "), err)
		}
	}
	e.maxReplayBody = defaultMaxReplayBody
	if e.MaxReplayBody != nil {
		e.maxReplayBody = *e.MaxReplayBody
	}
	if e.maxReplayBody < 0 || e.maxReplayBody > maxReplayBodyLimit {
		return fmt.Errorf("max_replay_body %d: write a size from 0 to 16MiB", e.maxReplayBody)
	}
	return nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		return prefix.Masked(), nil
	}
	addr, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

// refuses returns the code of the problem for a request that must not pass, or
// "".
func (e *Egress) refuses(r *http.Request) string {
	if !e.admits(r.RemoteAddr) || fromPage(r) {
		return connect.CodeForbiddenPeer
	}
	if reachesOAuth(r.URL) || !e.allowed(r) {
		return connect.CodeForbiddenPath
	}
	return ""
}

// fromPage reports whether a page in a browser makes the request. Browsers run
// on this machine too, and any site's page can have one post to a loopback
// address; apps that call an API do not send this header.
func fromPage(r *http.Request) bool {
	for _, site := range r.Header["Sec-Fetch-Site"] {
		if site != "" && site != "none" {
			return true
		}
	}
	return false
}

// admits reports whether a peer may call. A peer without an IP address came by
// a Unix socket, whose file's permissions say who may.
func (e *Egress) admits(remote string) bool {
	if remote == "" || remote[0] == '@' || remote[0] == '/' {
		return true
	}
	if e.loopback && strings.HasPrefix(remote, thisMachine+":") {
		return true // nearly always, and there is nothing to parse
	}
	peer, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	// A dual-stack listener reports IPv4 peers as ::ffff:a.b.c.d, and netip prefixes contain no
	// address that has a zone.
	return e.contains(peer.Addr().Unmap().WithZone(""))
}

func (e *Egress) contains(addr netip.Addr) bool {
	return slices.ContainsFunc(e.clients, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// reachesOAuth reports whether a path could be /oauth or below it for some
// server behind: after any number of decodings, with backslashes, dots,
// parameters and doubled slashes, and below a prefix that a later rewrite takes
// away.
func reachesOAuth(u *url.URL) bool {
	if u.RawPath == "" && !strings.Contains(u.Path, "%") {
		return hasOAuthSegment(u.Path) // nearly all paths; there is nothing to decode
	}
	path := u.EscapedPath()
	for range maxDecodings {
		if hasOAuthSegment(path) {
			return true
		}
		decoded := percentDecoded(path)
		if decoded == path {
			return false
		}
		path = decoded
	}
	return true // still encoded after so many rounds: no client does that by accident
}

// maxDecodings is how often a path may be percent-encoded over.
const maxDecodings = 5

var percentEncoded = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)

// percentDecoded decodes a path as the most lenient server would: what is no
// encoding stays.
func percentDecoded(path string) string {
	if !strings.Contains(path, "%") {
		return path
	}
	return percentEncoded.ReplaceAllStringFunc(path, func(encoded string) string {
		decoded, _ := url.PathUnescape(encoded)
		return decoded
	})
}

func hasOAuthSegment(path string) bool {
	if !mentions(path, "oauth") {
		return false // nearly all paths, at little cost
	}
	for segment := range strings.FieldsFuncSeq(path, func(c rune) bool { return c == '/' || c == '\\' }) {
		name := segment
		if end := strings.IndexAny(segment, ";?#"); end >= 0 {
			name = segment[:end]
		}
		if strings.EqualFold(strings.TrimRight(strings.TrimSpace(name), ". \x00"), "oauth") {
			return true
		}
	}
	return false
}

// mentions reports whether a word of small ASCII letters is somewhere in a text,
// in letters of any case.
func mentions(text, word string) bool {
	for i := range len(text) - len(word) + 1 {
		if text[i]|0x20 == word[0] && strings.EqualFold(text[i:i+len(word)], word) {
			return true
		}
	}
	return false
}
