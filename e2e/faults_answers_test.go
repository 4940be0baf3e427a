package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// While both sellers are to be renewed: the one with time to spare, the other
// because nothing valid is left.
const eachRefresh = "at each refresh"

// atRefresh plays a fault of the token endpoint.
func atRefresh(d distortion) func(*stage) {
	return func(s *stage) {
		s.connected(valid, 25*day)
		s.connected(ended, -day)
		s.front.set(d)
		s.start()
		s.look()
		await(s.t, "the fault strikes", func() bool {
			s.front.mu.Lock()
			defer s.front.mu.Unlock()
			return s.front.struck > 0
		})
		s.front.set(nil)
	}
}

// sandboxed plays a fault that the sandbox knows.
func sandboxed(f sandbox.Fault) func(*stage) {
	f.Grant, f.Times = "refresh_token", -1
	return func(s *stage) {
		s.connected(valid, 25*day)
		s.connected(ended, -day)
		s.provider.Fault(f)
		s.start()
		s.look()
		s.provider.ClearFaults()
	}
}

// answered is an answer in place of the token endpoint's: nothing is carried
// out.
func answered(status int, contentType, body string, header ...string) distortion {
	return func(w http.ResponseWriter, _ *http.Request, _ func() *httptest.ResponseRecorder) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
}

const jsonType = "application/json"

func oauthError(status int, code string) distortion {
	return answered(status, jsonType, fmt.Sprintf(`{"message":"no","error":%q,"status":%d,"cause":[]}`, code, status))
}

// edited is the token endpoint's own answer, with fields changed; a field that is
// nil is left out.
func edited(fields map[string]any) distortion {
	return rewritten(func(w http.ResponseWriter, recorder *httptest.ResponseRecorder) {
		var answer map[string]any
		if json.Unmarshal(recorder.Body.Bytes(), &answer) != nil || recorder.Code != http.StatusOK {
			w.WriteHeader(recorder.Code)
			_, _ = w.Write(recorder.Body.Bytes())
			return
		}
		maps.Copy(answer, fields)
		maps.DeleteFunc(answer, func(_ string, value any) bool { return value == nil })
		w.Header().Set("Content-Type", jsonType)
		_ = json.NewEncoder(w).Encode(answer)
	})
}

// rewritten lets a refresh be carried out, and writes another answer.
func rewritten(write func(http.ResponseWriter, *httptest.ResponseRecorder)) distortion {
	return func(w http.ResponseWriter, _ *http.Request, carryOut func() *httptest.ResponseRecorder) {
		write(w, carryOut())
	}
}

// failing is what the operator is told of a refresh that came to nothing.
func failing(text string) []told { return []told{{"warn", "renewal_failed", "provider", text}} }

// retried is added where a refresh token is sent again after an unknown outcome.
func retried(text string) []told {
	return append(failing(text), told{"warn", "renewal_failed", "retried_unknown", ""})
}

func misfits(text string) []told {
	return []told{{"error", "alarm", "application_fault", text}, {"warn", "renewal_failed", "application_fault", text}}
}

// How it ends.
const (
	sentAgain = "refreshed when the pause was over"
	asked     = "refreshed when asked again"
	unharmed  = "with the pair that came"
)

// answerFaults are answers of the token endpoint that carry nothing out, or that
// are odd and yet hold a pair.
func answerFaults() []fault {
	var all []fault
	refused := func(name string, play func(*stage), log []told) {
		all = append(all, fault{
			area: "Token endpoint: answers", name: name, when: eachRefresh, play: play,
			valid: ok, ended: busy, told: log, after: ok, how: asked,
		})
	}
	unknown := func(name string, play func(*stage), text string) {
		all = append(all, fault{
			area: "Token endpoint: answers", name: name, when: eachRefresh, play: play,
			valid: ok, ended: busy, told: retried(text), after: ok, how: sentAgain,
		})
	}
	fit := func(name string, play func(*stage), text string) {
		all = append(all, fault{
			area: "Token endpoint: answers", name: name, when: eachRefresh, play: play,
			valid: ok, ended: misfit, told: misfits(text), after: ok, how: asked,
		})
	}
	odd := func(name string, fields map[string]any) {
		all = append(all, fault{
			area: "Token endpoint: odd pairs", name: name, when: eachRefresh, play: atRefresh(edited(fields)),
			valid: ok, ended: ok, after: ok, how: unharmed,
		})
	}

	all = append(all, fault{
		area: "Token endpoint: answers", name: "400 `invalid_grant`", when: eachRefresh,
		play:  sandboxed(sandbox.Fault{Kind: sandbox.InvalidGrant}),
		valid: ok, ended: rejected, told: []told{{"warn", "reconnect_required", "invalid_grant", "invalid_grant (status 400)"}},
		after: rejected, how: "200 once the seller has reconnected",
	}, fault{
		area: "Token endpoint: answers", name: "400 `invalid_grant` for the newer of two consents", when: "at the next refresh",
		play: twoConsents, valid: ok, ended: ok, after: ok, how: "with the older consent, which lives",
	}, fault{
		area: "Token endpoint: answers", name: "400 `invalid_grant` for every seller", when: "after a fifth of them",
		faulty: true, play: condemnAll, valid: ok, ended: busy,
		told: []told{
			{"warn", "reconnect_required", "invalid_grant", ""},
			{"error", "alarm", "provider", "calls many sellers' refresh tokens dead at once"},
		},
		after: ok, how: "never condemned: refreshed when all was quiet for 10 minutes",
	})
	fit("400 `invalid_client`", sandboxed(sandbox.Fault{Kind: sandbox.InvalidClient}), "invalid_client (status 400)")
	fit("401 `invalid_client`", sandboxed(sandbox.Fault{Kind: sandbox.InvalidClient, Status: 401}), "invalid_client (status 401)")
	fit("400 `invalid_request`", atRefresh(oauthError(400, "invalid_request")), "invalid_request (status 400)")
	fit("403 of a policy", sandboxed(sandbox.Fault{Kind: sandbox.Policy}), "forbidden (status 403)")
	unknown("400 with a code that nobody knows", atRefresh(oauthError(400, "out_of_luck")), "unexpected (status 400)")
	unknown("400 as a web page", sandboxed(sandbox.Fault{Kind: sandbox.HTML, Status: 400}), "unexpected (status 400)")
	unknown("401 without a code", atRefresh(answered(401, jsonType, `{"message":"no"}`)), "unauthorized (status 401)")
	unknown("404", atRefresh(answered(404, jsonType, `{"message":"not found"}`)), "unexpected (status 404)")
	unknown("408", atRefresh(answered(408, "text/plain", "")), "unexpected (status 408)")
	refused("429 with Retry-After", sandboxed(sandbox.Fault{Kind: sandbox.RateLimited, RetryAfter: sandbox.Duration(2 * time.Second)}), failing("rate_limited (status 429)"))
	refused("429 without Retry-After", sandboxed(sandbox.Fault{Kind: sandbox.RateLimitedText}), failing("rate_limited (status 429)"))
	unknown("500", sandboxed(sandbox.Fault{Kind: sandbox.ServerError}), "server_error (status 500)")
	unknown("500 that says `invalid_grant`", atRefresh(oauthError(500, "invalid_grant")), "server_error (status 500)")
	unknown("502 as a web page", sandboxed(sandbox.Fault{Kind: sandbox.HTML}), "server_error (status 502)")
	unknown("503 with Retry-After", atRefresh(answered(503, jsonType, `{}`, "Retry-After", "1")), "server_error (status 503)")
	unknown("504 with nothing in it", sandboxed(sandbox.Fault{Kind: sandbox.Empty, Status: 504}), "server_error (status 504)")
	for _, status := range []int{301, 302, 307} {
		unknown(fmt.Sprintf("%d to another host", status), redirected(status), fmt.Sprintf("redirect (status %d)", status))
	}
	unknown("200 as a web page", sandboxed(sandbox.Fault{Kind: sandbox.HTML, Status: 200}), "unreadable (status 200)")
	unknown("200 with nothing in it", sandboxed(sandbox.Fault{Kind: sandbox.Empty, Status: 200}), "unreadable (status 200)")
	unknown("200 that says `invalid_grant`", atRefresh(oauthError(200, "invalid_grant")), "unreadable (status 200)")
	unknown("200 without `access_token`", atRefresh(answered(200, jsonType, `{"refresh_token":"TG-1","expires_in":15552000}`)), "unreadable (status 200)")
	unknown("200 with an empty `access_token`", atRefresh(answered(200, jsonType, `{"access_token":"","refresh_token":"TG-1"}`)), "unreadable (status 200)")
	unknown("200 with a number as `access_token`", atRefresh(answered(200, jsonType, `{"access_token":17,"refresh_token":"TG-1"}`)), "unreadable (status 200)")
	unknown("200 with 1 MiB", atRefresh(answered(200, jsonType, `{"x":"`+strings.Repeat("x", 1<<20)+`"}`)), "unreadable (status 200)")

	odd("a pair as `text/html`", nil)
	all[len(all)-1].play = atRefresh(rewritten(func(w http.ResponseWriter, recorder *httptest.ResponseRecorder) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes())
	}))
	odd("`expires_in` and `user_id` as other types", map[string]any{"expires_in": "15552000", "user_id": "", "live_mode": "true"})
	odd("`expires_in` 0", map[string]any{"expires_in": 0})
	odd("`expires_in` negative", map[string]any{"expires_in": -3600})
	odd("`expires_in` of a thousand years", map[string]any{"expires_in": 31536000000})
	odd("no `expires_in`, `user_id`, `scope`, `public_key`", map[string]any{"expires_in": nil, "user_id": nil, "scope": nil, "public_key": nil})
	all = append(all, fault{
		area: "Token endpoint: odd pairs", name: "no `refresh_token`", when: eachRefresh, play: keptRefreshToken,
		valid: ok, ended: ok, after: ok, how: "the refresh token stays",
	})
	return all
}

// dated is the token endpoint of a provider whose clock is wrong.
func dated(by time.Duration) distortion {
	return rewritten(func(w http.ResponseWriter, recorder *httptest.ResponseRecorder) {
		w.Header().Set("Date", time.Now().Add(by).UTC().Format(http.TimeFormat))
		w.WriteHeader(recorder.Code)
		_, _ = w.Write(recorder.Body.Bytes())
	})
}

// keptRefreshToken is a provider that does not rotate.
func keptRefreshToken(s *stage) {
	s.provider.Change(func(settings *sandbox.Settings) { settings.KeepRefreshToken = true })
	atRefresh(edited(map[string]any{"refresh_token": nil}))(s)
}

// redirected sends whoever follows a redirect to a host that must never see a
// refresh token.
func redirected(status int) func(*stage) {
	return func(s *stage) {
		atRefresh(answered(status, "text/html", "", "Location", s.app.URL+"/oauth/token"))(s)
		require.Empty(s.t, s.app.received(), "nobody follows a redirect with a token")
	}
}

// twoConsents are two that came at once: which of them lives only the provider
// knows.
func twoConsents(s *stage) {
	s.connected(valid, 25*day)
	dead := s.consent(ended)
	s.keep(ended, 1, s.consent(ended), -day)
	s.keep(ended, 2, dead, -day)
	s.start()
	s.look()
}

// condemnAll lets the provider call dead what lives, one seller after the other,
// until it is not believed any more.
func condemnAll(s *stage) {
	s.connected(valid, 100*day)
	s.start()
	require.Equal(s.t, ok, s.call(valid))
	for n := range int64(6) {
		// The provider knows nothing of their tokens.
		account := sandbox.Account{UserID: 7_000_000_000 + n}
		s.keep(account, 1, oauth.Answer{
			AccessToken: secret.New(fmt.Sprintf("APP_USR-gone-%d", n)), RefreshToken: secret.New(fmt.Sprintf("TG-gone-%d", n)),
		}, -day)
		s.call(account)
	}
	s.provider.Fault(sandbox.Fault{Kind: sandbox.InvalidGrant, Grant: "refresh_token", Times: -1})
	s.told(told{"warn", "reconnect_required", "invalid_grant", ""})
	s.connected(ended, -day)
	s.look()
	s.provider.ClearFaults()
	s.order("later 11m")
}
