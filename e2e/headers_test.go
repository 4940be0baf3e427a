package e2e

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// canary is what a client writes as a token of its own.
const canary = "canary-of-a-client-3e9b17"

// spelling is one way to slip a header past a proxy.
type spelling struct {
	name     string
	fields   [][2]string
	trailers [][2]string
	// broken spellings are no HTTP: whoever refuses them is right.
	broken bool
}

// spellings of a header that some application server takes for it.
func spellings(header string) []spelling {
	value := "Bearer " + canary
	all := []spelling{
		{name: "none"},
		{name: "itself", fields: [][2]string{{header, value}}},
		{name: "lower case", fields: [][2]string{{strings.ToLower(header), value}}},
		{name: "upper case", fields: [][2]string{{strings.ToUpper(header), value}}},
		{name: "mixed case", fields: [][2]string{{mixed(header), value}}},
		{name: "doubled", fields: [][2]string{{header, value}, {header, value}}},
		{name: "doubled in two cases", fields: [][2]string{{header, "x"}, {strings.ToUpper(header), value}, {mixed(header), value}}},
		{name: "empty and again", fields: [][2]string{{header, ""}, {header, value}}},
		{name: "two in one", fields: [][2]string{{header, "Bearer x, " + value}}},
		{name: "folded over two lines", fields: [][2]string{{header, "\r\n " + value}}, broken: true},
		{name: "a space before the colon", fields: [][2]string{{header + " ", value}}, broken: true},
		{name: "named in Connection", fields: [][2]string{{"Connection", header}, {header, value}}},
		{name: "named in Connection among others", fields: [][2]string{{"Connection", "foo, " + strings.ToLower(header) + " ,bar"}}},
		{name: "named in two Connections", fields: [][2]string{{"connection", "foo"}, {"Connection", mixed(header)}, {header, value}}},
		{name: "in an announced trailer", fields: [][2]string{{"Trailer", header}}, trailers: [][2]string{{header, value}}},
		{name: "in an unannounced trailer", trailers: [][2]string{{header, value}}},
		{name: "in a trailer announced as another", fields: [][2]string{{"Trailer", "X-Checksum"}}, trailers: [][2]string{{"X-Checksum", "1"}, {mixed(header), value}}},
		{name: "in header and trailer", fields: [][2]string{{"Trailer", strings.ToLower(header)}, {header, value}}, trailers: [][2]string{{header, value}, {header, value}}},
	}
	for _, mark := range []string{"_", ".", "!", "~", "+", "'", "|"} {
		spelled := strings.ReplaceAll(header, "-", mark)
		if spelled == header {
			continue
		}
		all = append(all,
			spelling{name: "with " + mark, fields: [][2]string{{spelled, value}}},
			spelling{name: "with one " + mark, fields: [][2]string{{strings.Replace(header, "-", mark, 1), value}}},
			spelling{name: "with " + mark + " beside itself", fields: [][2]string{{spelled, value}, {header, value}, {strings.ToUpper(spelled), value}}},
			spelling{name: "with " + mark + " in Connection", fields: [][2]string{{"Connection", spelled}, {spelled, value}}},
			spelling{name: "with " + mark + " in an announced trailer", fields: [][2]string{{"Trailer", spelled}}, trailers: [][2]string{{spelled, value}}},
			spelling{name: "with " + mark + " in an unannounced trailer", trailers: [][2]string{{spelled, value}}},
		)
	}
	return all
}

// mixed is aUtHoRiZaTiOn.
func mixed(name string) string {
	letters := []byte(strings.ToLower(name))
	for i := 1; i < len(letters); i += 2 {
		letters[i] = bytes.ToUpper(letters[i : i+1])[0]
	}
	return string(letters)
}

// sameToSomeone tells whether some application server takes a name for another.
func sameToSomeone(a, b string) bool {
	fold := func(name string) string {
		return strings.Map(func(r rune) rune {
			if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
				return r
			}
			return '-'
		}, strings.ToLower(strings.TrimSpace(name)))
	}
	return fold(a) == fold(b)
}

// wiretap is an upstream that also keeps every byte it was sent.
type wiretap struct {
	*upstream

	mu   sync.Mutex
	wire bytes.Buffer
}

func newWiretap(t *testing.T) *wiretap {
	t.Helper()
	w := &wiretap{upstream: new(upstream)}
	w.Server = httptest.NewUnstartedServer(w)
	w.Listener = tapped{w.Listener, w}
	w.Start()
	t.Cleanup(w.Close)
	return w
}

// ServeHTTP reads the request to its end: trailers come last.
func (w *wiretap) ServeHTTP(to http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.upstream.ServeHTTP(to, r)
}

// heard returns the bytes that came since it was last asked.
func (w *wiretap) heard() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	text := w.wire.String()
	w.wire.Reset()
	return text
}

type tapped struct {
	net.Listener
	tap *wiretap
}

func (l tapped) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return tappedConn{conn, l.tap}, err
}

type tappedConn struct {
	net.Conn
	tap *wiretap
}

func (c tappedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.tap.mu.Lock()
	defer c.tap.mu.Unlock()
	c.tap.wire.Write(p[:n])
	return n, err
}

// speaker sends a request in its very own spelling, and returns the status, or 0
// where the server broke off.
type speaker func(t *testing.T, address, path string, fields, trailers [][2]string) int

// speakHTTP1 writes an HTTP/1.1 request by hand.
func speakHTTP1(t *testing.T, address, path string, fields, trailers [][2]string) int {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	var text strings.Builder
	fmt.Fprintf(&text, "POST %s HTTP/1.1\r\nHost: %s\r\n", path, address)
	for _, field := range fields {
		fmt.Fprintf(&text, "%s: %s\r\n", field[0], field[1])
	}
	if trailers == nil {
		text.WriteString("Content-Length: 2\r\n\r\n{}")
	} else {
		text.WriteString("Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n")
		for _, field := range trailers {
			fmt.Fprintf(&text, "%s: %s\r\n", field[0], field[1])
		}
		text.WriteString("\r\n")
	}
	_, err = io.WriteString(conn, text.String())
	require.NoError(t, err)
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return 0
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}

// speakHTTP2 writes an HTTP/2 request by hand, with prior knowledge.
func speakHTTP2(t *testing.T, address, path string, fields, trailers [][2]string) int {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	require.NoError(t, err)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	require.NoError(t, framer.WriteSettings())
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encode := func(fields [][2]string) []byte {
		block.Reset()
		for _, field := range fields {
			_ = encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
		}
		return bytes.Clone(block.Bytes())
	}
	pseudo := [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", address}}
	require.NoError(t, framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, EndHeaders: true, BlockFragment: encode(append(pseudo, fields...)),
	}))
	// The server may break off at any time: what it says then is read below.
	_ = framer.WriteData(1, trailers == nil, []byte("{}"))
	if trailers != nil {
		_ = framer.WriteHeaders(http2.HeadersFrameParam{
			StreamID: 1, EndHeaders: true, EndStream: true, BlockFragment: encode(trailers),
		})
	}
	return readHTTP2Status(t, framer)
}

func readHTTP2Status(t *testing.T, framer *http2.Framer) int {
	t.Helper()
	status := 0
	for {
		frame, err := framer.ReadFrame()
		var broken http2.StreamError
		if errors.As(err, &broken) || err != nil {
			return 0
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			_, err := fmt.Sscan(frame.PseudoValue("status"), &status)
			require.NoError(t, err)
			if frame.StreamEnded() {
				return status
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				return status
			}
		case *http2.RSTStreamFrame:
			if status == 0 || frame.ErrCode != http2.ErrCodeNo {
				return 0
			}
			return status
		case *http2.GoAwayFrame:
			return 0
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				_ = framer.WriteSettingsAck()
			}
		}
	}
}

// scene is a site, and a client of it.
type scene struct {
	name, site string
	header     string // that carries the token
	fields     [][2]string
	connected  bool
}

// headerSites are the ways in which a token is injected, each under
// Authorization and under a name of the platform's own.
const headerSites = `
$SHOP {
	mercadopago {
		unconnected pass
	}
	reverse_proxy $APP
}

$SHOP_OWN {
	mercadopago {
		connect off
		inject X-Seller-Token
		unconnected pass
	}
	reverse_proxy $APP
}

$SELLER {
	mercadopago {
		connect off
		seller {http.request.header.X-Login}
		unconnected pass
	}
	reverse_proxy $APP
}

$SELLER_OWN {
	mercadopago {
		connect off
		seller {http.request.header.X-Login}
		inject X-Seller-Token Token
		unconnected pass
	}
	reverse_proxy $APP
}

$EGRESS {
	mercadopago {
		egress
		seller {http.request.header.X-Login}
	}
	reverse_proxy $APP
}

$EGRESS_OWN {
	mercadopago {
		egress
		seller {http.request.header.X-Login}
		inject X-Seller-Token
	}
	reverse_proxy $APP
}
`

// headerScenes serves the sites with one seller connected.
func headerScenes(t *testing.T) (*platform, *wiretap, []scene) {
	t.Helper()
	p := newPlatform(t)
	tap := newWiretap(t)
	p.values["APP"] = tap.URL
	for _, name := range []string{"SHOP_OWN", "SELLER", "SELLER_OWN", "EGRESS_OWN"} {
		p.values[name] = "http://" + newAddress(t)
	}
	p.values["OPTIONS"] = "\tservers {\n\t\tprotocols h1 h2c\n\t}\n"
	p.serve(headerSites)
	v := p.visitor()
	v.connect(aurora)
	at, err := url.Parse(p.url("SHOP"))
	require.NoError(t, err)
	var cookies []string
	for _, cookie := range v.client.Jar.Cookies(at) {
		cookies = append(cookies, cookie.String())
	}
	session := [][2]string{{"Cookie", strings.Join(append(cookies, "shop_login=1"), "; ")}}
	login := [][2]string{{"X-Login", id(aurora)}}
	const own = "X-Seller-Token"
	return p, tap, []scene{
		{"session, connected", "SHOP", "Authorization", session, true},
		{"session, not connected", "SHOP", "Authorization", nil, false},
		{"session, connected, own header", "SHOP_OWN", own, session, true},
		{"session, not connected, own header", "SHOP_OWN", own, nil, false},
		{"seller, connected", "SELLER", "Authorization", login, true},
		{"seller, not connected", "SELLER", "Authorization", [][2]string{{"X-Login", "nobody-we-know"}}, false},
		{"seller, nobody", "SELLER", "Authorization", nil, false},
		{"seller, connected, own header", "SELLER_OWN", own, login, true},
		{"seller, not connected, own header", "SELLER_OWN", own, [][2]string{{"X-Login", "nobody-we-know"}}, false},
		{"egress", "EGRESS", "Authorization", login, true},
		{"egress, own header", "EGRESS_OWN", own, login, true},
	}
}

//nolint:tparallel // what the wiretap hears must be of one request
func TestNoSpellingOfAClientsOwnTokenReachesUpstream(t *testing.T) {
	parallel(t)
	p, tap, scenes := headerScenes(t)
	speakers := map[string]speaker{"HTTP/1.1": speakHTTP1, "HTTP/2": speakHTTP2}
	for _, version := range slices.Sorted(maps.Keys(speakers)) {
		for _, scene := range scenes {
			t.Run(version+"/"+scene.name, func(t *testing.T) {
				for _, s := range spellings(scene.header) {
					trySpelling(t, p, tap, version, speakers[version], scene, s)
				}
			})
		}
	}
}

func trySpelling(t *testing.T, p *platform, tap *wiretap, version string, speak speaker, scene scene, s spelling) {
	t.Helper()
	fields, trailers := append(append([][2]string{}, scene.fields...), s.fields...), s.trailers
	broken := s.broken
	if version == "HTTP/2" {
		fields, trailers = inHTTP2(fields), inHTTP2(trailers)
		// HTTP/2 has no Connection, and Go refuses Authorization in its trailers.
		broken = broken || strings.Contains(s.name, "Connection") ||
			trailers != nil && scene.header == "Authorization"
	}
	path := "/" + rand.Text()
	status := speak(t, strings.TrimPrefix(p.url(scene.site), "http://"), path, fields, trailers)
	require.NotContains(t, tap.heard(), canary, s.name)
	requests := slices.DeleteFunc(tap.received(), func(r *http.Request) bool { return r.URL.Path != path })
	if broken && status != http.StatusOK {
		return
	}
	require.Equal(t, http.StatusOK, status, s.name)
	require.Len(t, requests, 1, s.name)
	r := requests[0]
	require.Empty(t, copies(r.Trailer, scene.header), s.name)
	require.NotContains(t, r.Header.Get("Cookie"), "mp_", s.name)
	got := copies(r.Header, scene.header)
	if !scene.connected {
		require.Empty(t, got, s.name)
		return
	}
	require.Len(t, got, 1, "%s: %v", s.name, got)
	token := got[0][strings.LastIndexByte(got[0], ' ')+1:]
	account, _ := p.provider.AccessTokenOf(token)
	require.Equal(t, aurora.UserID, account, s.name)
}

// inHTTP2 writes names as HTTP/2 wants them, for the test is not whether Go
// refuses capitals.
func inHTTP2(fields [][2]string) [][2]string {
	var lower [][2]string
	for _, field := range fields {
		lower = append(lower, [2]string{strings.ToLower(field[0]), field[1]})
	}
	return lower
}

// copies are the values of a header in all its spellings.
func copies(header http.Header, name string) []string {
	var values []string
	for key := range header {
		if sameToSomeone(key, name) {
			values = append(values, header[key]...)
		}
	}
	return values
}

// An egress caller's own access_token in the query is a token as well.
func TestNoAccessTokenInTheQueryReachesTheAPI(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	tap := newWiretap(t)
	p.values["APP"] = tap.URL
	p.serve(sessionSite + strings.Replace(egressSite, "$PROVIDER", "$APP", 1))
	p.visitor().connect(aurora)
	caller := p.caller()
	for _, query := range []string{
		"access_token=" + canary, "a=1&access_token=" + canary + "&b=2", "access_token=x&access_token=" + canary,
		"Access_Token=" + canary, "%61ccess_token=" + canary, "access%5Ftoken=" + canary, "access-token=" + canary,
		"access_token[]=" + canary, "a=1;access_token=" + canary, "%2561ccess_token=" + canary,
	} {
		tap.heard()
		got := caller.send(caller.request(http.MethodGet, "/users/me?"+query, id(aurora), ""))
		require.Equal(t, http.StatusOK, got.status, query)
		require.NotContains(t, tap.heard(), canary, query)
		require.Equal(t, aurora.UserID, p.actsFor(tap.received()[0]), query)
	}
}

// Where tokens are made, nobody gets through with a token of ours.
func TestTheTokenEndpointIsOutOfReachThroughEgress(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	tap := newWiretap(t)
	p.values["APP"] = tap.URL
	p.serve(sessionSite + strings.Replace(egressSite, "$PROVIDER", "$APP", 1))
	p.visitor().connect(aurora)
	tap.received()
	for _, path := range []string{
		"/oauth/token", "/oauth", "/OAuth/token", "//oauth/token", "/./oauth/token", "/v1/../oauth/token",
		"/%6fauth/token", "/%256fauth/token", "/oauth%2ftoken", "/oauth%5ctoken", "/oauth;x=1/token", "/oauth./token",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(p.url("EGRESS"), "http://"))
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: %s\r\nX-Seller: %s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
			path, strings.TrimPrefix(p.url("EGRESS"), "http://"), id(aurora))
		require.NoError(t, err)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err, path)
		require.Equal(t, http.StatusForbidden, response.StatusCode, path)
		require.NoError(t, response.Body.Close())
		require.NoError(t, conn.Close())
		require.Empty(t, tap.received(), path)
	}
}
