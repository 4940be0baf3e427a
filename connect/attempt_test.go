package connect

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// What is sealed under a cookie's name is another's attempt: only a fault of ours
// could have put it there.
func TestAnAttemptUnderAnothersNameIsNotItsOwn(t *testing.T) {
	f := shopFlow(t)
	keyring := f.source.(*memory).keyring
	a := &attempt{stage: started, at: time.Now(), state: strings.Repeat("a", stateSize)}
	id := f.attemptID(strings.Repeat("b", stateSize))
	name := f.attemptCookie(id)
	r := httptest.NewRequest(http.MethodGet, shop+"/connect", nil)
	r.AddCookie(&http.Cookie{Name: name, Value: base64url.EncodeToString(keyring.Seal(secret.Attempt, a.pack(), f.names(name)...))})
	_, err := (&turn{f: f, r: r, keyring: keyring}).open(id)
	require.ErrorIs(t, err, secret.ErrOpen)
}

func TestWhatIsNoIDOfAnAttemptIsNone(t *testing.T) {
	f := shopFlow(t)
	id := f.attemptID(strings.Repeat("a", stateSize))
	require.True(t, isAttemptID(id))
	for _, bad := range []string{"", "a", id[1:], id + "a", id[1:] + ";", id[1:] + "/", id[1:] + "="} {
		require.False(t, isAttemptID(bad), bad)
	}
}

func TestACodeThatWasSpentLeavesTheCookie(t *testing.T) {
	a := &attempt{stage: coded, state: strings.Repeat("a", stateSize), code: "TG-canary", verifier: "canary"}
	a.answered(tienda(), time.Now())
	require.NotContains(t, string(a.pack()), "canary")
}
