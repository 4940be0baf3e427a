package oauth

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// long is a body of many bytes that counts how many were read.
type long struct{ read, length int }

func (l *long) Read(p []byte) (int, error) {
	if l.read >= l.length {
		return 0, io.EOF
	}
	l.read += len(p)
	return len(p), nil
}

func (*long) Close() error { return nil }

func TestNoMoreOfAnAnswerIsReadThanIsTaken(t *testing.T) {
	body := &long{length: 100 * maxBody}
	client := newTestClient(t, "http://127.0.0.1:1", func(c *Config) {
		c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			_, err := io.Copy(io.Discard, r.Body)
			return &http.Response{StatusCode: http.StatusOK, Header: make(http.Header), Body: body}, err
		})
	})
	require.Equal(t, Unknown, requireError(t, refreshOnce(t.Context(), client)).Outcome)
	require.Less(t, body.read, 2*maxBody)
}

func TestACallHasADeadlineForAllThatItDoes(t *testing.T) {
	var left time.Duration
	client := newTestClient(t, "http://127.0.0.1:1", func(c *Config) {
		c.Timeout = time.Minute
		c.Transport = roundTripper(func(r *http.Request) (*http.Response, error) {
			deadline, _ := r.Context().Deadline()
			left = time.Until(deadline)
			return nil, io.ErrUnexpectedEOF
		})
	})
	require.Error(t, refreshOnce(t.Context(), client))
	require.Positive(t, left)
	require.LessOrEqual(t, left, time.Minute)
}

func TestAUserIDThatAFloatCannotHoldIsNone(t *testing.T) {
	answer, ok := answered(200, `{"access_token":"APP_USR-1","refresh_token":"TG-1","user_id":1.8e16}`).answer()
	require.True(t, ok)
	require.Zero(t, answer.UserID, "it would name another account")
}

// Cut first, half of it would be left, and known for nothing.
func TestASecretThatTheCutWouldHalveIsMasked(t *testing.T) {
	word := strings.Repeat("wordy", 8)
	for spaces := range 30 {
		text := strings.Repeat("x ", 80) + strings.Repeat(" ", spaces) + word
		require.NotContains(t, newRedactor([]secret.Secret{secret.New(word)}).redact(text), "wordyw")
	}
}
