package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/mercadopago/sdk-go/pkg/webhook"
	"github.com/stretchr/testify/require"
)

const webhookSecret = "canary-webhook-secret-91c3de07"

const webhookSite = `
$SHOP {
	mercadopago {
		webhook /webhooks/mercadopago
	}
	reverse_proxy $APP
}
`

func (p *platform) serveWebhook() {
	p.t.Helper()
	text := strings.Replace(p.caddyfile(webhookSite), "client_secret", "webhook_secret {env.MP_WEBHOOK_SECRET}\n\t\tclient_secret", 1)
	newCaddy(p.t, p.values["ADMIN"], text, append(p.secrets(), "MP_WEBHOOK_SECRET="+webhookSecret)...)
}

func TestASellerWhoUnlinksAtMercadoPagoIsAskedToReconnect(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	p.serveWebhook()
	require.True(t, p.provider.SetWebhook(clientID, p.url("SHOP")+"/webhooks/mercadopago", webhookSecret))
	unlinkEndsIt(t, p)
}

// unlinkEndsIt has a seller unlink, and shows what comes of it.
func unlinkEndsIt(t *testing.T, p *platform) {
	t.Helper()
	v, other := p.visitor(), p.visitor()
	v.connect(aurora)
	other.connect(porto)
	require.Equal(t, aurora.UserID, served(v))

	p.provider.Unlink(aurora.UserID)
	require.Eventually(t, func() bool {
		return p.provider.Stats().Notifications["200"] == 3 // two authorized, and one ended it
	}, 20*time.Second, 5*time.Millisecond)
	refused := v.get(p.url("SHOP")+"/", "Sec-Fetch-Mode", "cors", "Accept", "application/json")
	require.Equal(t, http.StatusForbidden, refused.status, refused.body)
	require.Contains(t, refused.body, `"code":"reconnect_required"`)
	require.Contains(t, refused.body, `"reason":"deauthorized"`)
	require.Equal(t, porto.UserID, served(other))

	v.connect(aurora)
	require.Equal(t, aurora.UserID, served(v))
}

// served tells which account a visitor's request acts for.
func served(v *visitor) int64 {
	v.t.Helper()
	v.p.app.received()
	got := v.get(v.p.url("SHOP") + "/")
	require.Equal(v.t, http.StatusOK, got.status, got.body)
	requests := v.p.app.received()
	require.Len(v.t, requests, 1)
	return v.p.actsFor(requests[0])
}

// The official SDK validates what the stand-in sends: neither of the two shares
// code with us, nor with the other.
func TestTheOfficialSDKTakesTheNotificationsThatTheStandInSends(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	arrived := make(chan error, 4)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		arrived <- webhook.ValidateSignature(r.Header.Get("X-Signature"), r.Header.Get("X-Request-Id"),
			r.URL.Query().Get("data.id"), webhookSecret, webhook.WithTolerance(5*time.Minute))
	}))
	t.Cleanup(receiver.Close)
	p.serve(sessionSite)
	require.True(t, p.provider.SetWebhook(clientID, receiver.URL, webhookSecret))
	p.visitor().connect(aurora)
	p.provider.Unlink(aurora.UserID)
	for range 2 {
		require.NoError(t, <-arrived)
	}
}

// What the SDK takes the plugin takes, and the other way round, over the
// spellings that differ. The SDK knows one unit of time, so it is not told to
// look at it; it takes ids as they were received, whatever its own comment says.
func TestThePluginTakesAndRefusesTheSignaturesThatTheOfficialSDKDoes(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	p.serveWebhook()
	now := time.Now()
	sign := func(secret, manifest string) string {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write([]byte(manifest))
		return hex.EncodeToString(mac.Sum(nil))
	}
	milliseconds, seconds := strconv.FormatInt(now.UnixMilli(), 10), strconv.FormatInt(now.Unix(), 10)
	taken := 0
	for _, ts := range []string{milliseconds, seconds} {
		for _, dataID := range []string{"", "123456", "ORD01JX", "a-b_c"} {
			for _, requestID := range []string{"", "bb56a2f1-6aae-46ac-982e-9dcd3581d08e"} {
				manifest := "ts:" + ts + ";"
				if requestID != "" {
					manifest = "request-id:" + requestID + ";" + manifest
				}
				if dataID != "" {
					manifest = "id:" + dataID + ";" + manifest
				}
				good := sign(webhookSecret, manifest)
				for name, signature := range map[string]string{
					"good": "ts=" + ts + ",v1=" + good, "spaces": " ts = " + ts + " , v1 = " + good, "order": "v1=" + good + ",ts=" + ts,
					"more": "ts=" + ts + ",v1=" + good + ",v2=x", "none": "", "no ts": "v1=" + good, "no v1": "ts=" + ts,
					"v2 only": "ts=" + ts + ",v2=" + good, "other secret": "ts=" + ts + ",v1=" + sign("another", manifest),
					"other text": "ts=" + ts + ",v1=" + sign(webhookSecret, manifest+" "), "cut": "ts=" + ts + ",v1=" + good[:60],
					"other ts": "ts=" + ts[:len(ts)-1] + ",v1=" + good, "odd ts": "ts=x" + ts + ",v1=" + good,
				} {
					sdk := webhook.ValidateSignature(signature, requestID, dataID, webhookSecret)
					status := p.sendNotification(signature, requestID, dataID)
					what := fmt.Sprintf("%s, ts %s, id %q, request id %q: the SDK says %v", name, ts, dataID, requestID, sdk)
					if sdk == nil {
						require.Equal(t, http.StatusOK, status, what)
						taken++
						continue
					}
					require.Equal(t, http.StatusUnauthorized, status, what)
				}
			}
		}
	}
	require.Equal(t, 2*4*2*4, taken)
	require.Zero(t, p.provider.Stats().APIRequests[http.StatusOK])
}

func (p *platform) sendNotification(signature, requestID, dataID string) (status int) {
	p.t.Helper()
	address := p.url("SHOP") + "/webhooks/mercadopago"
	if dataID != "" {
		address += "?" + url.Values{"data.id": {dataID}}.Encode()
	}
	request, err := http.NewRequestWithContext(p.t.Context(), http.MethodPost, address, strings.NewReader(
		`{"type":"mp-connect","action":"application.deauthorized","application_id":`+clientID+`,"user_id":7,"live_mode":true}`))
	require.NoError(p.t, err)
	for name, value := range map[string]string{"X-Signature": signature, "X-Request-Id": requestID} {
		if value != "" {
			request.Header.Set(name, value)
		}
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(p.t, err)
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, response.Body)
	return response.StatusCode
}
