package sandbox_test

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

const webhookSecret = "the webhook's secret"

// told is one notification as it arrived.
type told struct {
	header http.Header
	query  url.Values
	body   map[string]any
}

// receiver answers notifications with the statuses it is given, the last one
// again and again.
func receiver(t *testing.T, statuses ...int) (address string, arrived chan told) {
	arrived = make(chan told, 16)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body map[string]any
		text, _ := io.ReadAll(r.Body)
		_ = json.Unmarshal(text, &body)
		status := statuses[0]
		if len(statuses) > 1 {
			statuses = statuses[1:]
		}
		w.WriteHeader(status)
		arrived <- told{r.Header.Clone(), r.URL.Query(), body}
	}))
	t.Cleanup(server.Close)
	return server.URL + "/webhooks?a=b", arrived
}

func next(t *testing.T, arrived chan told) told {
	t.Helper()
	select {
	case n := <-arrived:
		return n
	case <-time.After(20 * time.Second):
		require.Fail(t, "no notification came")
		return told{}
	}
}

func TestUnlinkingEndsTheTokensAndTellsTheApplicationWithASignature(t *testing.T) {
	b := open(t)
	address, arrived := receiver(t, http.StatusOK)
	require.True(t, b.SetWebhook(clientID, address, webhookSecret))
	pair := b.connect(aurora)
	require.Equal(t, "application.authorized", next(t, arrived).body["action"])

	b.Unlink(aurora)
	n := next(t, arrived)
	require.Equal(t, "b", n.query.Get("a"))
	require.Equal(t, "mp-connect", n.query.Get("type"))
	dataID := n.query.Get("data.id")
	delete(n.body, "id")
	delete(n.body, "date_created")
	require.Equal(t, map[string]any{
		"live_mode": true, "type": "mp-connect", "application_id": 4934588586838432.0, "user_id": float64(aurora),
		"version": 1.0, "api_version": "v1", "action": "application.deauthorized", "data": map[string]any{"id": dataID},
	}, n.body)
	ts, hash, _ := strings.Cut(strings.TrimPrefix(n.header.Get("X-Signature"), "ts="), ",v1=")
	mac := hmac.New(sha256.New, []byte(webhookSecret))
	mac.Write([]byte("id:" + dataID + ";request-id:" + n.header.Get("X-Request-Id") + ";ts:" + ts + ";"))
	require.Equal(t, hex.EncodeToString(mac.Sum(nil)), hash)

	status, _ := b.refresh(pair.text("refresh_token"))
	require.Equal(t, http.StatusBadRequest, status)
	_, ok := b.AccessTokenOf(pair.text("access_token"))
	require.False(t, ok)
	b.Unlink(aurora)
	require.Empty(t, arrived, "who has nothing to unlink is not told of")
}

func TestANotificationThatIsNotTakenComesAgainAFewTimes(t *testing.T) {
	b := open(t, func(o *sandbox.Options) { o.Settings.NotificationRetry = sandbox.Duration(time.Millisecond) })
	address, arrived := receiver(t, http.StatusServiceUnavailable, http.StatusFound, http.StatusOK)
	b.connect(aurora)
	require.True(t, b.SetWebhook(clientID, address, webhookSecret))
	b.Unlink(aurora)
	first, second, third := next(t, arrived), next(t, arrived), next(t, arrived)
	require.Equal(t, first.body, third.body, "the same notification")
	require.NotEqual(t, first.header.Get("X-Request-Id"), second.header.Get("X-Request-Id"))
	require.NotEqual(t, first.header.Get("X-Signature"), second.header.Get("X-Signature"))
	require.Eventually(t, func() bool { return b.Stats().Notifications["200"] == 1 }, 10*time.Second, time.Millisecond)
	require.Equal(t, map[string]int{"503": 1, "302": 1, "200": 1}, b.Stats().Notifications)

	never, all := receiver(t, http.StatusInternalServerError)
	b.connect(porto)
	next(t, arrived) // that it was authorized
	require.True(t, b.SetWebhook(clientID, never, webhookSecret))
	b.Unlink(porto)
	for range 5 {
		next(t, all)
	}
	require.Eventually(t, func() bool { return b.Stats().Notifications["500"] == 5 }, 10*time.Second, time.Millisecond)
	require.Empty(t, all, "and no more than that")
}

func TestRevokingTellsNobodyAndAResetStopsWhatIsOnItsWay(t *testing.T) {
	b := open(t, func(o *sandbox.Options) {
		o.Settings.NotificationRetry = sandbox.Duration(time.Hour)
	})
	address, arrived := receiver(t, http.StatusInternalServerError)
	b.connect(aurora)
	require.True(t, b.SetWebhook(clientID, address, webhookSecret))
	b.Revoke(aurora)
	require.Empty(t, b.Stats().Notifications)
	b.connect(aurora)
	next(t, arrived)
	b.Reset()
	require.Empty(t, b.Stats().Notifications)
	require.False(t, b.SetWebhook("unknown", address, webhookSecret))
}

func TestTheControlPageAndItsAPISetWebhooksAndUnlink(t *testing.T) {
	b := open(t)
	address, arrived := receiver(t, http.StatusOK)
	body, err := json.Marshal(map[string]string{"webhook_url": address, "webhook_secret": webhookSecret})
	require.NoError(t, err)
	status, text := b.control("POST", "api/applications/"+clientID, string(body))
	require.Equal(t, http.StatusNoContent, status, text)
	b.connect(aurora)
	next(t, arrived)
	status, text = b.control("POST", "api/accounts/5411000101/unlink", "")
	require.Equal(t, http.StatusNoContent, status, text)
	require.Equal(t, "application.deauthorized", next(t, arrived).body["action"])

	form := []string{"Content-Type", "application/x-www-form-urlencoded", "Sec-Fetch-Site", "same-origin"}
	values := url.Values{"action": {"webhook"}, "client_id": {clientID}, "webhook_url": {address + "&page"}, "webhook_secret": {"another secret"}}
	status, text = b.control("POST", "", values.Encode(), form...)
	require.Equal(t, http.StatusSeeOther, status, text)
	b.connect(porto)
	next(t, arrived)
	status, text = b.control("POST", "", url.Values{"action": {"unlink"}, "account": {"5511000201"}}.Encode(), form...)
	require.Equal(t, http.StatusSeeOther, status, text)
	n := next(t, arrived)
	require.True(t, n.query.Has("page"))
	for _, path := range []string{"", "api/state"} {
		_, text = b.control("GET", path, "")
		require.Contains(t, text, "/webhooks?a=b")
		require.NotContains(t, text, "another secret")
	}
	for _, wrong := range []string{
		`{"webhook_url":"ftp://x","webhook_secret":"s"}`, `{"webhook_url":"/x","webhook_secret":"s"}`, `{"webhook_url":"http://x"}`,
	} {
		status, text = b.control("POST", "api/applications/"+clientID, wrong)
		require.Equal(t, http.StatusBadRequest, status)
		require.Contains(t, text, "webhook_")
	}
	status, _ = b.control("POST", "api/applications/unknown", `{"webhook_url":""}`)
	require.Equal(t, http.StatusBadRequest, status)
	status, _ = b.control("POST", "api/accounts/1/unlink", "")
	require.Equal(t, http.StatusBadRequest, status)
}
