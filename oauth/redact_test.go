package oauth

import (
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// canary has marks that every encoding writes in another way, and no digit, so
// that nothing but the list of secrets can mask it.
const canary = `Ca/na+ry&<"se cret">`

// echoes are the ways in which a text can hold a secret.
var echoes = map[string]func(string) string{
	"plain":            func(s string) string { return s },
	"in capitals":      strings.ToUpper,
	"in small letters": strings.ToLower,
	"for a path":       url.PathEscape,
	"encoded twice":    func(s string) string { return url.PathEscape(url.PathEscape(s)) },
	"encoded thrice":   func(s string) string { return url.PathEscape(url.PathEscape(url.PathEscape(s))) },
	"in small hex":     func(s string) string { return strings.ToLower(everyByte(s)) },
	"every byte":       everyByte,
	"for a page":       html.EscapeString,
	"page in a path":   func(s string) string { return url.PathEscape(html.EscapeString(s)) },
	"split by control": func(s string) string { return s[:4] + "\u200b" + s[4:] },
	"doubled":          func(s string) string { return s + s },
	"at the cut":       func(s string) string { return strings.Repeat("x ", maxDescription/2-3) + s },
}

func everyByte(s string) string {
	var out strings.Builder
	for _, b := range []byte(s) {
		fmt.Fprintf(&out, "%%%02X", b)
	}
	return out.String()
}

// requireNoSecret looks for a secret in all of its forms.
func requireNoSecret(t *testing.T, text, value string) {
	t.Helper()
	decoded := text
	for range 5 {
		require.NotContains(t, strings.ToLower(decoded), strings.ToLower(value))
		require.NotContains(t, strings.ToLower(decoded), strings.ToLower(value[:8]))
		decoded = clean(decode(decoded))
	}
}

func TestNoEchoOfASecretIsKept(t *testing.T) {
	words := newRedactor([]secret.Secret{secret.New("other"), secret.New(canary), {}})
	for name, echo := range echoes {
		for _, around := range []string{"%s", "the value %s is wrong", "100%% of %s, 50%%", "client_secret=%s&x=1"} {
			text := words.redact(fmt.Sprintf(around, echo(canary)))
			requireNoSecret(t, text, canary)
			require.LessOrEqual(t, len([]rune(text)), maxDescription, name)
		}
	}
}

func TestWhatLooksLikeATokenIsMaskedThoughNobodyKnowsIt(t *testing.T) {
	words := newRedactor(nil)
	for text, want := range map[string]string{
		"token APP_USR-4934588586838432-112233-241983636 is expired": "token *** is expired",
		"code TG-5f6b8c9d0e1f2a3b4c5d6e7f-241983636, used":           "code ***, used",
		"unsupported_grant_type: authorization_code only":            "unsupported_grant_type: authorization_code only",
		"user 241983636 unknown":                                     "user 241983636 unknown",
		"dial tcp 127.0.0.1:54321: connect: connection refused":      "dial tcp 127.0.0.1:54321: connect: connection refused",
		"100% wrong":                           "100% wrong",
		"a\nforged=line\x1b[31m\u202e\u2028 b": "a forged=line [31m  b",
		strings.Repeat("ñ", 300):               strings.Repeat("ñ", 199) + "…",
		"\xff\xfe":                             "\ufffd\ufffd",
	} {
		require.Equal(t, want, words.redact(text))
	}
}

// If the text were cut first, half of the secret would remain and match nothing.
func TestASecretThatTheCutWouldHalveIsMasked(t *testing.T) {
	word := strings.Repeat("wordy", 8)
	for spaces := range 30 {
		text := strings.Repeat("x ", 80) + strings.Repeat(" ", spaces) + word
		require.NotContains(t, newRedactor([]secret.Secret{secret.New(word)}).redact(text), "wordyw")
	}
}

func TestAnEmptySecretMasksNothing(t *testing.T) {
	words := newRedactor([]secret.Secret{{}, secret.New("\u200b"), secret.New("known")})
	require.Equal(t, "*** is wrong", words.redact("known is wrong"))
}

// TestNoSecretShowsInAnyError lets the provider echo everything it was sent, in
// every member, shape and status.
func TestNoSecretShowsInAnyError(t *testing.T) {
	secrets := map[string]string{
		"client secret": "canary-clientsecret", "older secret": "canary-oldersecret", "code": "canary-code",
		"verifier": "canary-verifier", "refresh": "canary-refresh", "access": "canary-access",
	}
	var answer atomic.Pointer[http.HandlerFunc]
	client := newTestClient(t, serve(t, func(w http.ResponseWriter, r *http.Request) { (*answer.Load())(w, r) }), func(c *Config) {
		c.ClientSecrets = []secret.Secret{secret.New(secrets["client secret"]), secret.New(secrets["older secret"])}
	})
	for _, status := range []int{200, 302, 400, 401, 403, 404, 429, 500} {
		for _, member := range []string{"error", "message", "error_description", "errorKey"} {
			for name, echo := range echoes {
				handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					body, _ := io.ReadAll(r.Body)
					said := echo(string(body) + r.Header.Get("Authorization"))
					content, _ := json.Marshal(map[string]any{member: said, "access_token": 7})
					w.Header().Set("Content-Type", "application/json; was="+url.PathEscape(said))
					w.Header().Set("Location", "/?"+url.QueryEscape(said))
					w.WriteHeader(status)
					_, _ = w.Write(content)
				})
				answer.Store(&handler)
				var all []error
				_, err := client.Exchange(t.Context(), secrets["code"], secret.New(secrets["verifier"]))
				all = append(all, err)
				_, err = client.Refresh(t.Context(), secret.New(secrets["refresh"]))
				all = append(all, err)
				_, err = client.ClientCredentials(t.Context())
				all = append(all, err)
				_, err = client.Me(t.Context(), secret.New(secrets["access"]))
				all = append(all, err)
				for _, err := range all {
					failure := requireError(t, err)
					for _, printed := range []string{err.Error(), fmt.Sprintf("%+v", *failure), failure.Description, failure.Code} {
						for _, value := range secrets {
							require.NotContains(t, strings.ToLower(printed), value, name)
						}
						require.NotContains(t, printed, "canary-", name)
					}
				}
			}
		}
	}
}

func TestNoSecretShowsInATransportsError(t *testing.T) {
	client := newTestClient(t, "http://127.0.0.1:1", func(c *Config) {
		c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			body, _ := io.ReadAll(r.Body)
			return nil, &url.Error{Op: "Post", URL: "http://x/?" + url.QueryEscape(string(body)), Err: errors.New(string(body))}
		})
	})
	_, err := client.Exchange(t.Context(), "canary-code", secret.New("canary-verifier"))
	requireError(t, err)
	require.NotContains(t, err.Error(), "canary")
	require.NotContains(t, err.Error(), "client-secret")
}

func FuzzRedact(f *testing.F) {
	f.Add(canary, "the value ", " is wrong")
	f.Add("%41", "%25", "%2541")
	f.Add("\xff\x00a", "&#x41;", "+")
	f.Add("***", "*", "*")
	f.Fuzz(func(t *testing.T, value, before, after string) {
		text := newRedactor([]secret.Secret{secret.New(value)}).redact(before + value + after)
		require.LessOrEqual(t, len([]rune(text)), maxDescription)
		require.Equal(t, clean(text), text)
		// Words shorter than this turn up by chance, in *** itself too.
		if value := clean(value); len(value) >= 8 && strings.Trim(value, "* …") != "" {
			require.NotContains(t, strings.ReplaceAll(text, masked, "\n"), value)
		}
	})
}
