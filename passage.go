package mercadopago

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

// pass hands a request to the next handler, with the token if there is one, and
// never with the client's own. When the next handler returns, the request's header
// is restored, so that log_append and outer handlers do not see the token. After an
// error the stripped headers stay removed: handle_errors runs next, and may have an
// upstream of its own.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, seller string, token *tokensource.Token) (err error) {
	p := &passage{handler: h, next: next, request: r, token: token, told: placeholders{h.Application, seller, token}}
	p.ResponseWriter = w
	p.told.tell(r)
	var room [3]field
	changed := room[:0]
	if h.injects() {
		changed = strip(r, h.Inject.Header, changed)
	}
	if cookies, ok := r.Header["Cookie"]; ok {
		changed = append(changed, field{"Cookie", cookies})
		h.flow.StripCookies(r.Header) // also without a flow: an app must not see another handler's session
	}
	defer func() {
		if err == nil {
			restore(r.Header, changed)
		}
	}()
	if token == nil || !h.injects() {
		return next.ServeHTTP(w, r)
	}
	defer delete(r.Header, h.Inject.Header)
	if h.Egress != nil {
		return p.egress()
	}
	return p.attempt()
}

// passage is one request on its way to the next handler, with a token, and its
// response on the way back. It is the only response writer that we put between:
// it keeps responses out of shared caches, and on egress holds a 401 back until
// it is known whether a new token mends it.
type passage struct {
	caddyhttp.ResponseWriterWrapper
	handler *Handler
	next    caddyhttp.Handler
	request *http.Request
	token   *tokensource.Token

	// told holds the placeholders' values. An inner mercadopago handler may overwrite
	// them with another seller's, so no decision may be based on them.
	told placeholders

	// hold is set while a 401 is to be held back.
	hold        bool
	held        *bytes.Buffer // the body of the 401 that is held back, or nil
	denied      bool          // a 401 was seen
	wroteHeader bool

	// Room for what every request needs, so that it takes no allocation of its
	// own: the token's header and the Cache-Control.
	header       [1]string
	cacheControl [1]string
}

// attempt injects the token and calls the next handler.
func (p *passage) attempt() error {
	p.header[0] = p.handler.Inject.value(p.token)
	// Never a slice that something else holds: later handlers edit in place.
	p.request.Header[p.handler.Inject.Header] = p.header[:1:1]
	err := p.next.ServeHTTP(p, p.request)
	// net/http writes the header itself when the handlers did not.
	if err == nil && !p.wroteHeader && p.held == nil {
		p.keepPrivate()
	}
	return err
}

// Inject names the header that carries the token.
type Inject struct {
	// The header, or `off` to inject nothing. `Authorization` is the one that
	// Caddy masks in its logs; another one is printed there in clear at level
	// DEBUG. Default: `Authorization`.
	Header string `json:"header,omitempty"`

	// What stands before the token, with a space between. Default: `Bearer` for
	// `Authorization`, nothing for another header.
	Scheme string `json:"scheme,omitempty"`
}

func (i *Inject) value(token *tokensource.Token) string {
	switch i.Scheme {
	case "":
		return token.AccessToken().Reveal()
	case "Bearer":
		return token.Credentials().Reveal()
	}
	return i.Scheme + " " + token.AccessToken().Reveal()
}

// egress is an attempt, and after a 401 another one with a new token if the
// request may be sent twice.
func (p *passage) egress() error {
	query := p.request.URL.RawQuery
	p.request.URL.RawQuery = stripAccessToken(query)
	defer func() { p.request.URL.RawQuery = query }()
	again, kept, err := keep(p)
	if err != nil {
		return caddyhttp.Error(http.StatusBadRequest, fmt.Errorf("reading the request's body: %w", err))
	}
	// On the stack, for every request pays for the copy, and few need it: what is in
	// here must not be assigned to anything that lives on.
	var room headerRoom
	var headers keptHeaders
	if p.hold = kept; kept {
		headers = room.keep(p)
	}
	if err := p.attempt(); err != nil || !p.denied {
		return err
	}
	// Also where the request cannot be sent again: the caller's next one has use
	// for the new token.
	fresh, err := p.handler.app.source.Replace(p.request.Context(), p.token)
	if p.held == nil {
		return nil
	}
	if err != nil || fresh == nil || fresh.Pair() == p.token.Pair() {
		return p.release()
	}
	again.restore(p)
	headers.restore(p)
	p.hold, p.held, p.denied = false, nil, false
	p.token = fresh
	// It may be of another account, if the seller has switched meanwhile.
	p.told = placeholders{p.handler.Application, fresh.Seller(), fresh}
	p.told.tell(p.request)
	return p.attempt()
}

// maxHeld bounds the body of a 401 that is held back; a longer one is passed through.
const maxHeld = 64 << 10

// Header implements http.ResponseWriter.
func (p *passage) Header() http.Header { return p.ResponseWriter.Header() }

// WriteHeader implements http.ResponseWriter.
func (p *passage) WriteHeader(status int) {
	switch {
	case p.wroteHeader || p.held != nil:
		return
	case status == http.StatusSwitchingProtocols:
		p.wroteHeader = true
	case status < 200: // informational: the response is still to come
	case status == http.StatusUnauthorized && p.hold:
		p.denied = true
		p.held = new(bytes.Buffer)
		return
	default:
		p.denied = status == http.StatusUnauthorized
		p.wroteHeader = true
		p.keepPrivate()
	}
	p.ResponseWriter.WriteHeader(status)
}

// keepPrivate keeps a response out of shared caches in front: the next caller
// at this address may act for another seller.
func (p *passage) keepPrivate() {
	header := p.Header()
	if _, ok := header["Cache-Control"]; !ok {
		p.cacheControl[0] = "private"
		header["Cache-Control"] = p.cacheControl[:1:1]
	}
}

// Write implements http.ResponseWriter.
func (p *passage) Write(data []byte) (int, error) {
	p.WriteHeader(http.StatusOK)
	if p.held == nil {
		return p.ResponseWriter.Write(data)
	}
	if p.held.Len()+len(data) <= maxHeld {
		return p.held.Write(data)
	}
	if err := p.release(); err != nil {
		return 0, err
	}
	return p.ResponseWriter.Write(data)
}

// ReadFrom implements io.ReaderFrom.
func (p *passage) ReadFrom(r io.Reader) (int64, error) {
	p.WriteHeader(http.StatusOK)
	if p.held == nil {
		return p.ResponseWriterWrapper.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{p}, r)
}

// FlushError flushes, for http.ResponseController.
func (p *passage) FlushError() error {
	if p.held != nil {
		return nil
	}
	p.WriteHeader(http.StatusOK)
	return http.NewResponseController(p.ResponseWriter).Flush()
}

// release lets the 401 that was held back go on.
func (p *passage) release() error {
	body := p.held
	p.hold, p.held = false, nil
	p.WriteHeader(http.StatusUnauthorized)
	_, err := p.ResponseWriter.Write(body.Bytes())
	return err
}

// replay is a request as it was before the first attempt, but for its headers.
type replay struct {
	method, host, requestURI string
	url                      url.URL
	body                     []byte // nil where there is none
	contentLength            int64
	transferEncoding         []string
}

// keep keeps what is needed to send a request again, with its body, which is
// read here. It reports false for a request that may not be sent again.
func keep(p *passage) (again replay, ok bool, err error) {
	r, limit := p.request, p.handler.Egress.maxReplayBody
	if limit == 0 || !repeatable(r) || len(r.Trailer) > 0 || r.ContentLength < 0 || r.ContentLength > limit {
		return again, false, nil
	}
	again = replay{
		method: r.Method, host: r.Host, requestURI: r.RequestURI, url: *r.URL,
		contentLength: r.ContentLength, transferEncoding: r.TransferEncoding,
	}
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return again, true, nil
	}
	again.body = make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, again.body); err != nil {
		return again, false, err
	}
	r.Body = io.NopCloser(bytes.NewReader(again.body))
	return again, true, nil
}

// repeatable reports whether a request may be sent twice: by its method (RFC
// 9110 §9.2.2), or because the API knows a repetition by its key.
func repeatable(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodPut, http.MethodDelete:
		return true
	}
	return r.Header.Get("X-Idempotency-Key") != ""
}

// restore makes a passage's request what it was before the first attempt.
func (again *replay) restore(p *passage) {
	r := p.request
	r.Method, r.Host, r.RequestURI = again.method, again.host, again.requestURI
	*r.URL = again.url
	r.ContentLength, r.TransferEncoding = again.contentLength, again.transferEncoding
	if again.body != nil {
		// A reader of its own: a transport may still read from the first one.
		r.Body = io.NopCloser(bytes.NewReader(again.body))
	}
	ownVars(r)
}

// ownVars gives a request its own copy of Caddy's variables. The first attempt may
// still be dialling in the background, if another connection became free first. It
// will read the old variables, while the proxy writes them for the second attempt.
func ownVars(r *http.Request) {
	vars := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any)
	// In place: Caddy's replacer reads {vars.*} from this very request.
	*r = *r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, maps.Clone(vars)))
}

// keptHeaders are the headers of a request, and of its response, before the first
// attempt, with what Caddy had noted of the request's way.
type keptHeaders struct {
	request, response keptHeader
	groups            []string
}

// headerRoom is room for what most requests have.
type headerRoom struct {
	fields [16]keptField
	values [16]string
	groups [4]string
}

func (room *headerRoom) keep(p *passage) keptHeaders {
	request := keepHeader(room.fields[:0], room.values[:0], p.request.Header)
	kept := keptHeaders{
		request: request,
		// In the room that is left.
		response: keepHeader(request.fields[len(request.fields):], request.values[len(request.values):], p.Header()),
		groups:   room.groups[:0],
	}
	for group := range routeGroups(p.request) {
		kept.groups = append(kept.groups, group)
	}
	return kept
}

// restore makes the headers what they were.
func (k *keptHeaders) restore(p *passage) {
	k.request.restore(p.request.Header)
	k.response.restore(p.Header())
	if groups := routeGroups(p.request); groups != nil {
		clear(groups)
		for _, group := range k.groups {
			groups[group] = struct{}{}
		}
	}
}

// keptHeader is a copy of a header, and of its values, which later handlers may
// edit in place.
type keptHeader struct {
	fields []keptField
	values []string // of all fields, one after the other
}

// keptField is a field, and where its values begin and end.
type keptField struct {
	name     string
	from, to uint32
	absent   bool // its values are nil, which keeps a proxy from adding its own
}

// keepHeader copies into the room that it is given, as far as that goes.
func keepHeader(fields []keptField, values []string, header http.Header) keptHeader {
	for name, v := range header {
		from := uint32(len(values))
		values = append(values, v...)
		fields = append(fields, keptField{name, from, uint32(len(values)), v == nil})
	}
	return keptHeader{fields, values}
}

// restore makes a header what it was, in place: others hold the same map. Its
// values are copied once more, for the room is not theirs.
func (k *keptHeader) restore(header http.Header) {
	clear(header)
	for _, f := range k.fields {
		header[f.name] = nil
		if !f.absent {
			header[f.name] = append(make([]string, 0, f.to-f.from), k.values[f.from:f.to]...)
		}
	}
}

// routeGroups returns Caddy's record of the `handle` groups that a request has been
// through. If it were not restored, a second attempt would skip those groups.
func routeGroups(r *http.Request) map[string]struct{} {
	groups, _ := r.Context().Value(caddy.CtxKey("route_group")).(map[string]struct{})
	return groups
}
