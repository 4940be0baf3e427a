package connect

import (
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"regexp"

	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// answer is what the provider sent along with the seller.
type answer struct {
	state string // as raw bytes
	code  string
	// err and description are the provider's own words, for the log only.
	err, description string
	iss              []string
}

var errCallback = errors.New("the callback's query is not what a provider sends")

// parseAnswer reads a callback's query. What else comes along is ignored.
func parseAnswer(query url.Values) (answer, error) {
	states, codes, errs := query["state"], query["code"], query["error"]
	if len(states) > 1 || len(codes)+len(errs) != 1 {
		return answer{}, errCallback
	}
	a := answer{description: legible(query.Get("error_description")), iss: query["iss"]}
	if len(codes) == 1 {
		a.code = codes[0]
	} else {
		a.err = legible(errs[0])
	}
	if a.code == "" && a.err == "" || !isCode(a.code) {
		return answer{}, errCallback
	}
	if len(states) == 0 {
		// A refusal without a state is tolerated: it changes nothing.
		if a.err == "" {
			return answer{}, errCallback
		}
		return a, nil
	}
	state, err := base64url.DecodeString(states[0])
	if err != nil || len(state) != stateSize {
		return answer{}, errCallback
	}
	a.state = string(state)
	return a, nil
}

func isCode(code string) bool {
	if len(code) > maxCode {
		return false
	}
	for i := range len(code) {
		if code[i] <= ' ' || code[i] >= 0x7f {
			return false
		}
	}
	return true
}

// callback takes the provider's answer. It asks nobody anything: the code goes
// into the attempt's cookie, and the browser to finish, from our own origin.
func (t *turn) callback() {
	got, err := parseAnswer(t.query)
	if err != nil {
		t.fail(CodeBadCallback, err)
		return
	}
	if issuer := t.f.client.Provider().Issuer; issuer != "" && len(got.iss) > 0 && (len(got.iss) > 1 || got.iss[0] != issuer) {
		t.fail(CodeWrongIssuer, nil, zap.String("issuer", issuer))
		return
	}
	if got.state == "" {
		t.denied(got)
		return
	}
	id := t.f.attemptID(got.state)
	a, ok := t.resume(id)
	if !ok {
		return
	}
	if subtle.ConstantTimeCompare([]byte(a.state), []byte(got.state)) != 1 {
		t.fail(CodeOtherBrowser, secret.ErrOpen)
		return
	}
	if got.err != "" {
		t.denied(got)
		return
	}
	if a.stage <= coded {
		// A second code for one state replaces the first: the seller went back
		// and agreed again. Only one of them is ever exchanged.
		a.stage, a.code = coded, got.code
		t.put(a)
	}
	t.moveOn(id)
}

// moveOn shows the page that goes on to finish by itself.
func (t *turn) moveOn(id string) {
	t.render(page{Name: "moving", Title: "moving.title", Next: t.f.attemptPath(PageFinish, id), Private: true})
}

func (f *Flow) attemptPath(p Page, id string) string {
	return f.pagePath(p) + "?" + attemptParam + "=" + id
}

// denied says that the provider sent the seller back without a code. The attempt
// stays as it is, so that a reload shows the same page, and who goes back and
// agrees after all is welcome.
func (t *turn) denied(got answer) {
	code := CodeProviderRefused
	if got.err == "access_denied" {
		code = CodeDenied
	}
	t.fail(code, nil, zap.String("provider_error", redact(got.err)), zap.String("provider_description", redact(got.description)))
}

// tokenLike matches the provider's tokens and codes.
var tokenLike = regexp.MustCompile(`(?i)\b(APP_USR|TEST|TG)-[\w-]+`)

func redact(text string) string { return tokenLike.ReplaceAllString(text, "***") }

// resume opens the attempt of an id, checks that it is alive, and answers itself
// when it cannot go on.
func (t *turn) resume(id string) (*attempt, bool) {
	a, err := t.open(id)
	var unknown *secret.UnknownKeyError
	switch {
	case errors.As(err, &unknown):
		t.f.log.Warn("an attempt to connect was sealed with a key that is not configured", zap.Error(err))
		t.fail(CodeOtherBrowser, err)
	case err != nil:
		t.fail(CodeOtherBrowser, err)
	case a.expired(t.now):
		t.attempt = a
		t.fail(CodeExpired, nil)
	default:
		t.attempt = a
		return a, true
	}
	return nil, false
}

// own resumes the attempt that one of our addresses names, for the seller who
// began it and nobody else.
func (t *turn) own() (*attempt, string, bool) {
	id := t.query.Get(attemptParam)
	a, ok := t.resume(id)
	if !ok {
		return nil, "", false
	}
	if !a.byLink() {
		if t.nobody() {
			return nil, "", false
		}
		if a.seller != t.seller {
			// The address to start again is the seller's of now, with nothing of
			// the other's walk.
			t.attempt = nil
			t.fail(CodeSellerChanged, nil, zap.String("began_as", a.seller))
			return nil, "", false
		}
	}
	return a, id, true
}

func (t *turn) head() bool { return t.r.Method == http.MethodHead }
