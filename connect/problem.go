package connect

import (
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

// The codes of problems, as programs read them.
const (
	// In front of an app or of the API.
	CodeNotConnected      = "not_connected"
	CodeReconnectRequired = "reconnect_required"
	CodeUnavailable       = "unavailable"
	CodeNoSeller          = "no_seller"
	CodeBadSeller         = "bad_seller"
	CodeForbiddenPeer     = "forbidden_peer"
	CodeForbiddenPath     = "forbidden_path"

	// Of a request to the connect pages.
	CodeMethodNotAllowed = "method_not_allowed"
	CodeBadRequest       = "bad_request"
	CodeForeignForm      = "foreign_form"
	CodeBadReturnTo      = "bad_return_to"

	// On the way back from the provider.
	CodeDenied          = "denied"
	CodeProviderRefused = "provider_refused"
	CodeBadCallback     = "bad_callback"
	CodeWrongIssuer     = "wrong_issuer"
	CodeOtherBrowser    = "other_browser"
	CodeExpired         = "expired"
	CodeUsed            = "used"
	CodeUnfinished      = "unfinished"
	CodeSellerChanged   = "seller_changed"

	// Of the exchange and of what it gave.
	CodeCodeRefused      = "code_refused"
	CodeProviderBusy     = "provider_busy"
	CodeOutcomeUnknown   = "outcome_unknown"
	CodeApplicationFault = "application_fault"
	CodeNoAccount        = "no_account"
	CodeInterrupted      = "interrupted"

	// Of connect links.
	CodeLinkInvalid = "link_invalid"
	CodeLinkExpired = "link_expired"
	CodeLinkUsed    = "link_used"
	CodeLinkSwitch  = "link_switch"
)

// Who can mend a problem.
const (
	mendSeller   = "seller"   // by connecting, or by starting again
	mendTime     = "time"     // by asking again later
	mendOperator = "operator" // nobody who sees the page
)

type kind struct {
	status int
	mend   string
}

var kinds = map[string]kind{
	CodeNotConnected:      {http.StatusForbidden, mendSeller},
	CodeReconnectRequired: {http.StatusForbidden, mendSeller},
	CodeUnavailable:       {http.StatusServiceUnavailable, mendTime},
	CodeNoSeller:          {http.StatusForbidden, mendOperator},
	CodeBadSeller:         {http.StatusBadRequest, mendOperator},
	CodeForbiddenPeer:     {http.StatusForbidden, mendOperator},
	CodeForbiddenPath:     {http.StatusForbidden, mendOperator},
	CodeMethodNotAllowed:  {http.StatusMethodNotAllowed, mendSeller},
	CodeBadRequest:        {http.StatusBadRequest, mendSeller},
	CodeForeignForm:       {http.StatusForbidden, mendSeller},
	CodeBadReturnTo:       {http.StatusBadRequest, mendSeller},
	CodeDenied:            {http.StatusForbidden, mendSeller},
	CodeProviderRefused:   {http.StatusBadGateway, mendSeller},
	CodeBadCallback:       {http.StatusBadRequest, mendSeller},
	CodeWrongIssuer:       {http.StatusBadRequest, mendSeller},
	CodeOtherBrowser:      {http.StatusBadRequest, mendSeller},
	CodeExpired:           {http.StatusGone, mendSeller},
	CodeUsed:              {http.StatusConflict, mendSeller},
	CodeUnfinished:        {http.StatusConflict, mendSeller},
	CodeSellerChanged:     {http.StatusForbidden, mendSeller},
	CodeCodeRefused:       {http.StatusBadRequest, mendSeller},
	CodeProviderBusy:      {http.StatusServiceUnavailable, mendSeller},
	CodeOutcomeUnknown:    {http.StatusBadGateway, mendSeller},
	CodeApplicationFault:  {http.StatusInternalServerError, mendOperator},
	CodeNoAccount:         {http.StatusBadGateway, mendSeller},
	CodeInterrupted:       {http.StatusConflict, mendSeller},
	CodeLinkInvalid:       {http.StatusBadRequest, mendOperator},
	CodeLinkExpired:       {http.StatusGone, mendOperator},
	CodeLinkUsed:          {http.StatusGone, mendOperator},
	CodeLinkSwitch:        {http.StatusConflict, mendOperator},
}

const (
	problemType       = "urn:caddy-mercadopago:problem:"
	defaultRetryAfter = 10 * time.Second
)

// Problem says why a request gets no other answer.
type Problem struct {
	// Code is one of the Code constants; it decides the status, the words, and
	// who can mend it.
	Code string
	// Reason says more to a program than Code does, as the engine has it
	// (tokensource's Reason constants, the provider's error code); "" is no more.
	Reason string
	// RetryAfter is when to ask again. A 503 always says when: in 10 s where
	// this is 0.
	RetryAfter time.Duration
	// ConnectURL is where the seller connects, or starts again; "" is nowhere.
	ConnectURL string
	// Seller is whom it is about; "" is nobody.
	Seller string
}

// document is a Problem as RFC 9457 has it.
type document struct {
	Type       string `json:"type"`
	Title      string `json:"title"`
	Status     int    `json:"status"`
	Detail     string `json:"detail"`
	Code       string `json:"code"`
	Reason     string `json:"reason,omitempty"`
	Mend       string `json:"mend"`
	RetryAfter int    `json:"retry_after,omitempty"`
	ConnectURL string `json:"connect_url,omitempty"`
	Seller     string `json:"seller,omitempty"`
}

// Refuse answers with a problem: people get a page in their language, programs
// a problem document (RFC 9457) in English. It is the one place where an error
// becomes an answer.
func Refuse(w http.ResponseWriter, r *http.Request, p Problem) {
	k, ok := kinds[p.Code]
	if !ok {
		p.Code, k = CodeUnavailable, kinds[CodeUnavailable]
	}
	if k.status == http.StatusServiceUnavailable && p.RetryAfter <= 0 {
		p.RetryAfter = defaultRetryAfter
	}
	seconds := int((p.RetryAfter + time.Second - 1) / time.Second)
	h := w.Header()
	if seconds > 0 {
		h.Set("Retry-After", strconv.Itoa(seconds))
	}
	h.Set("Vary", "Accept, Accept-Language, Sec-Fetch-Mode")
	if forPeople(r) {
		render(w, r, k.status, page{
			Name: "problem", Title: "problem." + p.Code + ".title", Detail: "problem." + p.Code + ".detail",
			Code: p.Code, Mend: k.mend, Restart: p.ConnectURL, Seller: p.Seller, Private: true, Host: hostOf(p.ConnectURL),
		})
		return
	}
	body, err := json.Marshal(document{
		Type: problemType + p.Code, Title: english("problem." + p.Code + ".title"), Status: k.status,
		Detail: english("problem." + p.Code + ".detail"), Code: p.Code, Reason: p.Reason, Mend: k.mend,
		RetryAfter: seconds, ConnectURL: p.ConnectURL, Seller: p.Seller,
	})
	if err != nil {
		body = []byte(`{"type":"about:blank","status":500}`) // strings and numbers always marshal
	}
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(k.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body)
	}
}

// forPeople reports whether it is a person who waits for the answer: a browser
// that navigates, or whatever asks for HTML by name. Scripts in a page say so in
// Sec-Fetch-Mode, whatever they accept.
func forPeople(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	accept := strings.ToLower(strings.Join(r.Header["Accept"], ","))
	html := strings.Index(accept, "text/html")
	if html < 0 {
		return false
	}
	machine := strings.Index(accept, "json")
	return machine < 0 || html < machine
}

// fail answers with a problem and logs it, with what leads a seller back to the
// start. Mercado Pago's own words go into fields, never onto the page.
func (t *turn) fail(code string, err error, fields ...zap.Field) {
	t.refuse(Problem{Code: code}, err, fields...)
}

func (t *turn) refuse(p Problem, err error, fields ...zap.Field) {
	p.Seller = t.seller
	if t.attempt != nil && t.attempt.seller != "" {
		p.Seller = t.attempt.seller
	}
	if kinds[p.Code].mend != mendOperator {
		p.ConnectURL = t.restart(t.attempt)
	}
	fields = append(t.f.fields(p.Seller, zap.String("reason", p.Code), zap.String("page", t.f.pagePath(t.page))), fields...)
	if err != nil {
		fields = append(fields, zap.Error(err))
	}
	log := t.f.log.Info
	switch p.Code {
	case CodeUnavailable, CodeApplicationFault, CodeProviderBusy, CodeOutcomeUnknown, CodeProviderRefused, CodeNoAccount, CodeWrongIssuer:
		log = t.f.log.Warn
	}
	log("connect flow refused", fields...)
	Refuse(t.w, t.r, p)
}

// failFor answers for an error of the source or of the provider.
func (t *turn) failFor(err error) {
	if provider, ok := errors.AsType[*oauth.Error](err); ok {
		t.refuse(Problem{Code: providerCode(provider.Outcome), RetryAfter: provider.RetryAfter}, err,
			zap.String("provider_error", provider.Code), zap.String("provider_description", provider.Description), zap.Int("provider_status", provider.Status))
		return
	}
	var unknownKey *secret.UnknownKeyError
	var source *tokensource.Error
	p := Problem{Code: CodeUnavailable}
	switch {
	case errors.As(err, &unknownKey): // the log names the key
	case errors.As(err, &source):
		p.RetryAfter = source.RetryAfter
		switch source.Reason {
		case tokensource.ReasonDisconnected:
			p.Code = CodeInterrupted
		case tokensource.ReasonApplicationFault, tokensource.ReasonUnknownApplication:
			p.Code = CodeApplicationFault
		case tokensource.ReasonProvider:
			p.Code = CodeProviderBusy
		}
	}
	t.refuse(p, err)
}

func providerCode(o oauth.Outcome) string {
	switch o {
	case oauth.Refused:
		return CodeProviderBusy
	case oauth.GrantDead:
		return CodeCodeRefused
	case oauth.ApplicationFault:
		return CodeApplicationFault
	default:
		return CodeOutcomeUnknown
	}
}
