package mercadopago

import (
	"bytes"
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

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

const (
	webhookSecret      = "canary-webhook-secret-5be0c9"
	olderWebhookSecret = "canary-webhook-secret-older-77aa"
	webhookPath        = "/webhooks/mercadopago"
)

const webhookSite = `
SHOP {
	mercadopago {
		webhook /webhooks/mercadopago
	}
	reverse_proxy APP
}
`

// webhooks loads a site with a webhook and two webhook secrets.
func (r *rig) webhooks(sites string) {
	r.t.Helper()
	r.t.Setenv("MP_TEST_WEBHOOK", webhookSecret)
	r.t.Setenv("MP_TEST_WEBHOOK_OLD", olderWebhookSecret)
	require.NoError(r.t, r.tryLoad(withWebhookSecret(globalBlock)+sites))
}

func withWebhookSecret(global string) string {
	return strings.Replace(global, "encryption_key", "webhook_secret {env.MP_TEST_WEBHOOK} {env.MP_TEST_WEBHOOK_OLD}\n\t\tencryption_key", 1)
}

// notification is one that a test sends.
type notification struct {
	method, path string
	query        string
	requestID    string
	ts           string
	secret       string
	manifest     string // "" is the right one
	signature    string // "" is the right one
	body         string
	header       http.Header
}

func deauthorization(userID int64, change ...func(*notification)) *notification {
	n := &notification{
		method: http.MethodPost, path: webhookPath, query: "data.id=9001&type=mp-connect", requestID: "req-1",
		ts: strconv.FormatInt(time.Now().UnixMilli(), 10), secret: webhookSecret,
		body: connectBody("application.deauthorized", userID), header: http.Header{},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func connectBody(action string, userID int64) string {
	return fmt.Sprintf(`{"id":1,"live_mode":true,"type":"mp-connect","date_created":"2026-01-01T00:00:00Z","application_id":%s,"user_id":%d,"version":1,"api_version":"v1","action":%q,"data":{"id":"9001"}}`,
		sandbox.DefaultClientID, userID, action)
}

func hmacHex(key, text string) string {
	mac := hmac.New(sha256.New, []byte(key))
	mac.Write([]byte(text))
	return hex.EncodeToString(mac.Sum(nil))
}

func (n *notification) signed() string {
	if n.signature != "" {
		return n.signature
	}
	manifest := n.manifest
	if manifest == "" {
		query, _ := url.ParseQuery(n.query)
		if id := query.Get("data.id"); id != "" {
			manifest += "id:" + id + ";"
		}
		if n.requestID != "" {
			manifest += "request-id:" + n.requestID + ";"
		}
		manifest += "ts:" + n.ts + ";"
	}
	return "ts=" + n.ts + ",v1=" + hmacHex(n.secret, manifest)
}

func (r *rig) notify(n *notification) reply {
	r.t.Helper()
	header := n.header.Clone()
	if n.signature != "-" {
		header.Set("X-Signature", n.signed())
	}
	if n.requestID != "" {
		header.Set("X-Request-Id", n.requestID)
	}
	address := r.at("SHOP") + n.path
	if n.query != "" {
		address += "?" + n.query
	}
	return r.call(n.method, address, strings.NewReader(n.body), header)
}

func (r *rig) asked() (times int) {
	for _, request := range r.sandbox.Requests() {
		if request.Path == "/users/me" {
			times++
		}
	}
	return times
}

func TestASellerWhoUnlinksAtMercadoPagoIsAskedToReconnectByTheNextRequest(t *testing.T) {
	r := newRig(t)
	r.webhooks(webhookSite)
	b := r.connected(aurora)
	require.Equal(t, "app", b.get(r.at("SHOP")+"/orders").body)
	other := r.connected(almacen)
	r.sandbox.Revoke(aurora.UserID)
	require.Equal(t, "app", b.get(r.at("SHOP")+"/orders").body, "nobody has told yet")

	require.Equal(t, http.StatusOK, r.notify(deauthorization(aurora.UserID)).status)
	got := b.do(http.MethodGet, r.at("SHOP")+"/orders", nil, http.Header{"Sec-Fetch-Mode": {"cors"}, "Accept": {"application/json"}})
	require.Equal(t, http.StatusForbidden, got.status)
	problem := r.problem(got)
	require.Equal(t, "reconnect_required", problem["code"])
	require.Equal(t, "deauthorized", problem["reason"])
	require.Equal(t, "app", other.get(r.at("SHOP")+"/orders").body, "another seller works on")
	require.Contains(t, r.logged(), `"msg":"deauthorized"`)

	end := b.consent(r.at("SHOP")+"/connect?return_to=/", aurora.UserID)
	require.Equal(t, http.StatusSeeOther, end.status, end.body)
	require.Equal(t, "app", b.get(r.at("SHOP")+"/orders").body)
	require.NotContains(t, r.logged(), "canary-webhook-secret")
}

func TestANotificationThatMercadoPagoDoesNotConfirmEndsNothing(t *testing.T) {
	r := newRig(t)
	r.webhooks(webhookSite)
	b := r.connected(aurora)
	works := func() {
		t.Helper()
		require.Equal(t, "app", b.get(r.at("SHOP")+"/orders").body)
	}
	require.Equal(t, http.StatusOK, r.notify(deauthorization(aurora.UserID)).status, "the token works: there is nothing to do")
	works()
	for i, kind := range []sandbox.FaultKind{sandbox.ServerError, sandbox.Cut} {
		r.sandbox.Fault(sandbox.Fault{Kind: kind, Path: "/users/me"})
		n := deauthorization(aurora.UserID, func(n *notification) { n.requestID = fmt.Sprintf("req-f%d", i) })
		got := r.notify(n)
		require.Equal(t, http.StatusServiceUnavailable, got.status, kind)
		require.NotEmpty(t, got.header.Get("Retry-After"))
		works()
		asked := r.asked()
		require.Equal(t, http.StatusOK, r.notify(n).status, "when it comes again it is followed")
		require.Equal(t, asked+1, r.asked())
	}
}

func TestADuplicateIsAnsweredAndDoneOnce(t *testing.T) {
	r := newRig(t)
	r.webhooks(webhookSite)
	r.connected(aurora)
	asked := r.asked()
	r.sandbox.Revoke(aurora.UserID)
	n := deauthorization(aurora.UserID)
	for range 3 {
		require.Equal(t, http.StatusOK, r.notify(n).status)
	}
	require.Equal(t, asked+1, r.asked())
	again := deauthorization(aurora.UserID, func(n *notification) { n.requestID = "req-2" })
	require.Equal(t, http.StatusOK, r.notify(again).status, "sent anew, with a signature of its own")
	require.Equal(t, asked+1, r.asked(), "what is done is done")
	require.Equal(t, 1, strings.Count(r.logged(), `"msg":"reconnect_required"`))

	authorized := deauthorization(aurora.UserID, func(n *notification) {
		n.requestID, n.body = "req-3", connectBody("application.authorized", aurora.UserID)
	})
	for range 3 {
		require.Equal(t, http.StatusOK, r.notify(authorized).status)
	}
	require.Equal(t, 1, strings.Count(r.logged(), `"msg":"authorized"`))
	require.Equal(t, asked+1, r.asked())
}

func TestEveryRightSpellingOfASignatureIsTaken(t *testing.T) {
	r := newRig(t)
	r.webhooks(webhookSite)
	now := time.Now()
	for name, change := range map[string]func(*notification){
		"milliseconds":         func(*notification) {},
		"seconds":              func(n *notification) { n.ts = strconv.FormatInt(now.Unix(), 10) },
		"older secret":         func(n *notification) { n.secret = olderWebhookSecret },
		"without data.id":      func(n *notification) { n.query = "type=mp-connect" },
		"without any query":    func(n *notification) { n.query = "" },
		"without a request id": func(n *notification) { n.requestID = "" },
		"time alone":           func(n *notification) { n.requestID, n.query = "", "" },
		"id as received":       func(n *notification) { n.query = "data.id=ORD01ABC" },
		"id in small letters": func(n *notification) {
			n.query = "data.id=ORD01ABC"
			n.manifest = "id:ord01abc;request-id:" + n.requestID + ";ts:" + n.ts + ";"
		},
		"escaped id": func(n *notification) { n.query = "data%2Eid=a%20b" },
		"hash in capitals": func(n *notification) {
			ts, hash, _ := strings.Cut(n.signed(), ",v1=")
			n.signature = ts + ",v1=" + strings.ToUpper(hash)
		},
		"spaces": func(n *notification) {
			n.signature = strings.Replace(n.signed(), ",v1=", " , v1 = ", 1)
		},
		"other order": func(n *notification) {
			ts, hash, _ := strings.Cut(n.signed(), ",")
			n.signature = hash + "," + ts
		},
		"a version that is to come": func(n *notification) { n.signature = n.signed() + ",v2=abc" },
		"four minutes ago": func(n *notification) {
			n.ts = strconv.FormatInt(now.Add(-4*time.Minute).UnixMilli(), 10)
		},
		"four minutes ahead": func(n *notification) {
			n.ts = strconv.FormatInt(now.Add(4*time.Minute).Unix(), 10)
		},
		"numbers as texts": func(n *notification) {
			n.body = fmt.Sprintf(`{"type":"mp-connect","action":"application.deauthorized","application_id":%q,"user_id":"7","id":"x"}`, sandbox.DefaultClientID)
		},
		"action that is not known": func(n *notification) { n.body = connectBody("application.renamed", 7) },
		"another topic":            func(n *notification) { n.body = `{"type":"payment","data":{"id":"1"},"user_id":"seller"}` },
		"no topic":                 func(n *notification) { n.body = `{"resource":"/v1/payments/1","topic":"payment"}` },
	} {
		n := deauthorization(7, func(n *notification) { n.requestID = "req-" + strings.ReplaceAll(name, " ", "-") }, change)
		require.Equal(t, http.StatusOK, r.notify(n).status, name)
	}
	require.Nil(t, r.app.last(), "nothing goes on to the app")
}

func TestABadNotificationIsRefusedAndAsksNobody(t *testing.T) {
	r := newRig(t)
	r.webhooks(webhookSite)
	b := r.connected(aurora)
	r.sandbox.Revoke(aurora.UserID) // one that is believed would end the connection
	r.app.last()
	asked := r.asked()
	const unauthorized, bad = http.StatusUnauthorized, http.StatusBadRequest
	hour := func(d time.Duration) string { return strconv.FormatInt(time.Now().Add(d).UnixMilli(), 10) }
	body := func(text string) func(*notification) { return func(n *notification) { n.body = text } }
	object := func(fields string) func(*notification) {
		return body(`{"type":"mp-connect","action":"application.deauthorized",` + fields + `}`)
	}
	application := `"application_id":` + sandbox.DefaultClientID
	user := fmt.Sprintf(`"user_id":%d`, aurora.UserID)
	for i, test := range []struct {
		name   string
		status int
		change func(*notification)
	}{
		{"no signature", unauthorized, func(n *notification) { n.signature = "-" }},
		{"empty signature", unauthorized, func(n *notification) { n.signature = " " }},
		{"no time", unauthorized, func(n *notification) { n.signature = "v1=" + strings.Repeat("a", 64) }},
		{"no hash", unauthorized, func(n *notification) { n.signature = "ts=" + n.ts }},
		{"empty hash", unauthorized, func(n *notification) { n.signature = "ts=" + n.ts + ",v1=" }},
		{"short hash", unauthorized, func(n *notification) { n.signature = n.signed()[:40] }},
		{"long hash", unauthorized, func(n *notification) { n.signature = n.signed() + "00" }},
		{"hash that is none", unauthorized, func(n *notification) { n.signature = "ts=" + n.ts + ",v1=" + strings.Repeat("z", 64) }},
		{"another version", unauthorized, func(n *notification) { n.signature = strings.Replace(n.signed(), "v1=", "v2=", 1) }},
		{"two hashes", unauthorized, func(n *notification) { n.signature = n.signed() + ",v1=" + strings.Repeat("0", 64) }},
		{"two times", unauthorized, func(n *notification) { n.signature = "ts=1," + n.signed() }},
		{"wrong secret", unauthorized, func(n *notification) { n.secret = "another" }},
		{"no secret", unauthorized, func(n *notification) { n.secret = "" }},
		{"client secret", unauthorized, func(n *notification) { n.secret = sandbox.DefaultClientSecret }},
		{"one bit off", unauthorized, func(n *notification) {
			s := n.signed()
			last := map[bool]string{true: "1", false: "0"}[strings.HasSuffix(s, "0")]
			n.signature = s[:len(s)-1] + last
		}},
		{"other id", unauthorized, func(n *notification) { n.manifest = "id:1;request-id:" + n.requestID + ";ts:" + n.ts + ";" }},
		{"other request id", unauthorized, func(n *notification) { n.manifest = "id:9001;request-id:other;ts:" + n.ts + ";" }},
		{"other time", unauthorized, func(n *notification) { n.manifest = "id:9001;request-id:" + n.requestID + ";ts:1;" }},
		{"without the last semicolon", unauthorized, func(n *notification) { n.manifest = "id:9001;request-id:" + n.requestID + ";ts:" + n.ts }},
		{"absent pairs left empty", unauthorized, func(n *notification) {
			n.query, n.manifest = "", "id:;request-id:"+n.requestID+";ts:"+n.ts+";"
		}},
		{"signed body in place of the manifest", unauthorized, func(n *notification) { n.manifest = n.body }},
		{"an hour old", unauthorized, func(n *notification) { n.ts = hour(-time.Hour) }},
		{"six minutes old", unauthorized, func(n *notification) { n.ts = hour(-6 * time.Minute) }},
		{"six minutes ahead", unauthorized, func(n *notification) { n.ts = hour(6 * time.Minute) }},
		{"time zero", unauthorized, func(n *notification) { n.ts = "0" }},
		{"negative time", unauthorized, func(n *notification) { n.ts = "-1" }},
		{"time that is none", unauthorized, func(n *notification) { n.ts = "now" }},
		{"time without end", unauthorized, func(n *notification) { n.ts = strings.Repeat("9", 30) }},
		{"time in microseconds", unauthorized, func(n *notification) { n.ts += "000" }},
		{"two ids", unauthorized, func(n *notification) { n.query = "data.id=9001&data.id=9002" }},
		{"id with a semicolon", unauthorized, func(n *notification) { n.query = "data.id=1%3Brequest-id:x" }},
		{"query that is none", unauthorized, func(n *notification) { n.query, n.manifest = "data.id=%zz", "ts:"+n.ts+";" }},
		{"id without end", unauthorized, func(n *notification) { n.query = "data.id=" + strings.Repeat("a", 600) }},
		{"query without end", unauthorized, func(n *notification) { n.query += "&x=" + strings.Repeat("a", 5000) }},
		{"signature without end", unauthorized, func(n *notification) { n.signature = n.signed() + strings.Repeat(",a=b", 200) }},
		{"two request ids", unauthorized, func(n *notification) { n.header["X-Request-Id"], n.requestID = []string{"a", "b"}, "" }},
		{"two signatures", unauthorized, func(n *notification) {
			n.header["X-Signature"], n.signature = []string{n.signed(), "ts=1,v1=0"}, "-"
		}},

		{"no body", bad, body("")},
		{"no JSON", bad, body("hello")},
		{"a list", bad, body("[]")},
		{"null", bad, body("null")},
		{"a text", bad, body(`"mp-connect"`)},
		{"cut short", bad, func(n *notification) { n.body = n.body[:len(n.body)-1] }},
		{"more than one", bad, func(n *notification) { n.body += n.body }},
		{"topic that is no text", bad, body(`{"type":7}`)},
		{"form", bad, body("type=mp-connect&user_id=1")},
		{"nested without end", bad, body(`{"type":` + strings.Repeat("[", 20000))},
		{"no action", bad, body(`{"type":"mp-connect",` + application + `,` + user + `}`)},
		{"no account", bad, object(application)},
		{"account zero", bad, object(application + `,"user_id":0`)},
		{"negative account", bad, object(application + `,"user_id":-5`)},
		{"account that is no number", bad, object(application + `,"user_id":"seller"`)},
		{"account with a point", bad, object(application + `,"user_id":5411000101.5`)},
		{"account in scientific spelling", bad, object(application + `,"user_id":5.4e9`)},
		{"account beyond 64 bits", bad, object(application + `,"user_id":99999999999999999999`)},
		{"account that is a list", bad, object(application + `,"user_id":[1]`)},
		{"mode that is no truth", bad, object(application + `,"live_mode":"yes",` + user)},
		{"no application", bad, object(user)},
		{"another application", bad, object(`"application_id":1,` + user)},
		{"application null", bad, object(`"application_id":null,` + user)},

		{"too large", http.StatusRequestEntityTooLarge, func(n *notification) { n.body += strings.Repeat(" ", maxNotice) }},
		{"by GET", http.StatusMethodNotAllowed, func(n *notification) { n.method = http.MethodGet }},
		{"by PUT", http.StatusMethodNotAllowed, func(n *notification) { n.method = http.MethodPut }},
		{"by OPTIONS", http.StatusMethodNotAllowed, func(n *notification) { n.method = http.MethodOptions }},
	} {
		n := deauthorization(aurora.UserID, func(n *notification) { n.requestID = fmt.Sprintf("req-%d", i) }, test.change)
		got := r.notify(n)
		require.Equal(t, test.status, got.status, "%s: %s", test.name, got.body)
		require.NotContains(t, got.body, "canary", test.name)
		require.Equal(t, "no-store", got.header.Get("Cache-Control"))
	}
	require.Equal(t, asked, r.asked(), "Mercado Pago is asked nothing")
	require.Nil(t, r.app.last(), "the app sees none of them")
	require.Equal(t, "app", b.get(r.at("SHOP")+"/orders").body, "the seller is connected")
	require.NotContains(t, r.logged(), "canary-webhook-secret")
	require.LessOrEqual(t, strings.Count(r.logged(), `"level":"warn"`+`,"ts"`), 5, "strangers do not fill the log")
}

// What is signed is not the body: one notification that was overheard must not
// serve to make up others.
func TestASignatureServesForOneBodyOnly(t *testing.T) {
	r := newRig(t)
	r.webhooks(webhookSite)
	b := r.connected(aurora)
	r.sandbox.Revoke(aurora.UserID)
	n := deauthorization(7, func(n *notification) { n.body = `{"type":"payment","data":{"id":"9001"}}` })
	require.Equal(t, http.StatusOK, r.notify(n).status)
	n.body = connectBody("application.deauthorized", aurora.UserID)
	require.Equal(t, http.StatusUnauthorized, r.notify(n).status)
	require.Equal(t, "app", b.get(r.at("SHOP")+"/orders").body)
}

func TestAChunkedBodyIsBoundedToo(t *testing.T) {
	r := newRig(t)
	r.webhooks(webhookSite)
	n := deauthorization(7)
	endless := struct{ io.Reader }{strings.NewReader(n.body + strings.Repeat(" ", 2*maxNotice))}
	got := r.call(http.MethodPost, r.at("SHOP")+n.path+"?"+n.query, endless, http.Header{"X-Signature": {n.signed()}, "X-Request-Id": {n.requestID}})
	require.Equal(t, http.StatusRequestEntityTooLarge, got.status)
}

func TestOnlyTheVeryPathIsTheWebhook(t *testing.T) {
	r := newRig(t)
	r.webhooks(`
SHOP {
	mercadopago {
		unconnected reject
		webhook /webhooks/mercadopago
	}
	rewrite /elsewhere /webhooks/mercadopago
	reverse_proxy APP
}
`)
	for _, path := range []string{"/webhooks/mercadopago/", "/webhooks//mercadopago", "/webhooks/Mercadopago", "/webhooks/%6dercadopago", "/webhooks/./mercadopago", "/elsewhere"} {
		got := r.notify(deauthorization(7, func(n *notification) { n.path = path }))
		require.Equal(t, http.StatusForbidden, got.status, "%s is a request like any other", path)
	}
	require.Equal(t, http.StatusOK, r.notify(deauthorization(7)).status)
}

func TestOtherTopicsGoToTheAppWholeAndWithoutAnyToken(t *testing.T) {
	r := newRig(t)
	r.webhooks(strings.Replace(webhookSite, "webhook /webhooks/mercadopago", "webhook /webhooks/mercadopago pass", 1))
	b := r.connected(aurora)
	bodies := make(chan []byte, 1)
	r.app.handle = func(w http.ResponseWriter, request *http.Request) {
		body, _ := io.ReadAll(request.Body)
		bodies <- body
		w.WriteHeader(http.StatusAccepted)
	}
	r.app.last()
	n := deauthorization(0, func(n *notification) {
		n.body = ` {"type":"payment", "data":{"id":"9001"}}` + "\n"
		n.header = http.Header{"Authorization": {"Bearer forged"}, "Content-Type": {"application/json"}}
	})
	got := b.do(http.MethodPost, r.at("SHOP")+n.path+"?"+n.query, strings.NewReader(n.body), func() http.Header {
		header := n.header.Clone()
		header.Set("X-Signature", n.signed())
		header.Set("X-Request-Id", n.requestID)
		return header
	}())
	require.Equal(t, http.StatusAccepted, got.status, "the app's own answer")
	require.Equal(t, n.body, string(<-bodies))
	seen := r.app.last()
	require.Equal(t, n.query, seen.URL.RawQuery)
	require.Equal(t, n.signed(), seen.Header.Get("X-Signature"), "so that the app can check it too")
	require.Equal(t, n.requestID, seen.Header.Get("X-Request-Id"))
	require.Equal(t, int64(len(n.body)), seen.ContentLength)
	require.Empty(t, seen.Header.Values("Authorization"), "neither a token nor the sender's own")
	require.Empty(t, seen.Header.Get("Cookie"))

	require.Equal(t, http.StatusOK, r.notify(deauthorization(aurora.UserID, func(n *notification) { n.requestID = "req-2" })).status)
	require.Nil(t, r.app.last(), "mp-connect is ours")
	forged := deauthorization(0, func(n *notification) { n.body, n.secret = `{"type":"payment"}`, "another" })
	require.Equal(t, http.StatusUnauthorized, r.notify(forged).status)
	require.Nil(t, r.app.last(), "what is not signed reaches no app")
}

func TestTheSandboxTellsWhenASellerUnlinksThere(t *testing.T) {
	r := newRig(t)
	r.webhooks(webhookSite)
	r.sandbox.Change(func(s *sandbox.Settings) { s.NotificationRetry = sandbox.Duration(time.Millisecond) })
	require.True(t, r.sandbox.SetWebhook(sandbox.DefaultClientID, r.at("SHOP")+webhookPath, webhookSecret))
	b := r.connected(aurora)
	require.Equal(t, "app", b.get(r.at("SHOP")+"/").body)
	taken := func(n int) func() bool {
		return func() bool { return r.sandbox.Stats().Notifications["200"] == n }
	}
	require.Eventually(t, taken(1), 10*time.Second, time.Millisecond, "that it was authorized")
	// The first question is answered badly: the notification comes again.
	r.sandbox.Fault(sandbox.Fault{Kind: sandbox.ServerError, Path: "/users/me"})
	r.sandbox.Unlink(aurora.UserID)
	require.Eventually(t, taken(2), 20*time.Second, time.Millisecond)
	require.Equal(t, 1, r.sandbox.Stats().Notifications["503"])
	got := b.do(http.MethodGet, r.at("SHOP")+"/", nil, http.Header{"Sec-Fetch-Mode": {"cors"}, "Accept": {"application/json"}})
	require.Equal(t, "reconnect_required", r.problem(got)["code"])
	require.Contains(t, r.logged(), `"msg":"authorized"`)
}

func TestDeliveriesAreRememberedWithinABound(t *testing.T) {
	d := newDeliveries()
	var first, s signed
	for i := range 3 * deliveriesKept {
		s = signed{requestID: "x", mac: sha256.Sum256(fmt.Append(nil, i))}
		if i == 0 {
			first = s
		}
		require.True(t, d.bind(s, []byte("a")))
		require.True(t, d.done(s))
		require.False(t, d.done(s))
		require.True(t, d.isDone(s))
		require.False(t, d.bind(s, []byte("b")), "another body")
	}
	require.Len(t, d.known, deliveriesKept)
	require.False(t, d.isDone(first))
	s = signed{mac: sha256.Sum256([]byte("no request id"))}
	require.True(t, d.bind(s, []byte("a")))
	require.True(t, d.done(s))
	require.True(t, d.bind(s, []byte("b")))
	require.False(t, d.isDone(s), "without a request id another body is another notification")
}

func FuzzSignature(f *testing.F) {
	f.Add("ts=1704908010,v1="+strings.Repeat("ab", 32), "data.id=1&type=mp-connect", "req")
	f.Add("v1=,ts=;;", "data.id=%3b", "")
	f.Fuzz(func(t *testing.T, signature, query, requestID string) {
		s, err := parseSigned(query, http.Header{"X-Signature": {signature}, "X-Request-Id": {requestID}})
		if err != nil {
			require.NotEmpty(t, err.Error())
			return
		}
		require.LessOrEqual(t, len(s.manifest(s.dataID)), 4*maxSignedText)
		require.Equal(t, strings.Count(s.manifest(s.dataID), ";"), 1+min(1, len(s.dataID))+min(1, len(s.requestID)), "no value makes a part of its own")
		require.Error(t, s.verify([]secret.Secret{secret.New(webhookSecret)}, s.at), "nobody finds a signature")
		mac, err := hex.DecodeString(hmacHex(webhookSecret, s.manifest(s.dataID)))
		require.NoError(t, err)
		copy(s.mac[:], mac)
		require.NoError(t, s.verify([]secret.Secret{secret.New("other"), secret.New(webhookSecret)}, s.at))
		require.Error(t, s.verify([]secret.Secret{secret.New(webhookSecret)}, s.at.Add(6*time.Minute)))
	})
}

func FuzzNotification(f *testing.F) {
	f.Add([]byte(connectBody("application.deauthorized", 5411000101)))
	f.Add([]byte(`{"type":"mp-connect","action":"a","application_id":"1","user_id":"2"}`))
	f.Add([]byte(`{"type":"payment"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		topic, err := parseTopic(body)
		n, failed := parseNotice(body)
		if err != nil {
			require.Empty(t, topic)
			return
		}
		require.True(t, bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")))
		if failed == nil {
			require.Positive(t, n.userID)
			require.NotEmpty(t, n.action)
			require.Empty(t, strings.Trim(n.application, "0123456789"))
		}
	})
}

func TestANotificationThatWasAskedAboutIsNotAskedAboutAgain(t *testing.T) {
	r := newRig(t)
	r.webhooks(webhookSite)
	r.connected(aurora)
	asked, n := r.asked(), deauthorization(aurora.UserID)
	for range 3 {
		require.Equal(t, http.StatusOK, r.notify(n).status)
	}
	require.Equal(t, asked+1, r.asked())
}

func TestABodyIsNotReadBeforeItsSignatureHolds(t *testing.T) {
	body := &bytes.Buffer{}
	body.WriteString("{}")
	r := httptest.NewRequest(http.MethodPost, "/hook?data.id=1", body)
	r.Header.Set("X-Signature", "ts="+strconv.FormatInt(time.Now().Unix(), 10)+",v1="+strings.Repeat("ab", 32))
	w := &Webhook{secrets: []secret.Secret{secret.New(webhookSecret)}, seen: newDeliveries()}
	_, err := w.take(httptest.NewRecorder(), r)
	require.ErrorIs(t, err, errSignedForged)
	require.Equal(t, "{}", body.String())
}

func TestASignatureHasOneOfEachPart(t *testing.T) {
	good, other := strings.Repeat("ab", 32), strings.Repeat("cd", 32)
	for name, test := range map[string]struct {
		signature, query string
		want             error
	}{
		"as it is":                {"ts=1704908010,v1=" + good, "data.id=1", nil},
		"two times":               {"ts=1,ts=1704908010,v1=" + good, "data.id=1", errSignedOdd},
		"two hashes":              {"ts=1704908010,v1=" + other + ",v1=" + good, "data.id=1", errSignedOdd},
		"two ids":                 {"ts=1704908010,v1=" + good, "data.id=1&data.id=2", errSignedOdd},
		"an id that is two parts": {"ts=1704908010,v1=" + good, "data.id=1%3Bts:2", errSignedOdd},
	} {
		_, err := parseSigned(test.query, http.Header{"X-Signature": {test.signature}})
		require.Equal(t, test.want, err, name)
	}
}

func TestStrangersFillTheLogWithALineAMinute(t *testing.T) {
	var l rateLimit
	now := time.Now()
	require.True(t, l.allow(now))
	require.False(t, l.allow(now.Add(time.Second)))
	require.True(t, l.allow(now.Add(complaintPause)))
}
