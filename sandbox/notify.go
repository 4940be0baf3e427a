package sandbox

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"go.uber.org/zap"
)

const (
	// notifyTimeout is how long the real service waits for an answer.
	notifyTimeout = 22 * time.Second
	// notifyTries is how often a notification is sent until it is taken.
	notifyTries = 5
	// maxNotifications bounds those that wait to be taken.
	maxNotifications = 1_000
)

// The actions of the topic mp-connect.
const (
	actionAuthorized   = "application.authorized"
	actionDeauthorized = "application.deauthorized"
)

// notification is one of the topic mp-connect, with where it goes.
type notification struct {
	lineKey
	id          int64
	action      string
	created     time.Time
	url, secret string
	tries       int
}

// outgoing are the notifications on their way. Its callers hold the sandbox's
// lock.
type outgoing struct {
	ctx     context.Context //nolint:containedctx // ends with the sandbox's state, not with a request
	cancel  context.CancelFunc
	waiting map[*notification]*time.Timer // nil while it is being sent
}

func newOutgoing() *outgoing {
	o := &outgoing{waiting: map[*notification]*time.Timer{}}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	return o
}

func (o *outgoing) stop() {
	o.cancel()
	for n, timer := range o.waiting {
		if timer != nil {
			timer.Stop()
		}
		delete(o.waiting, n)
	}
}

// notifyTransport keeps no connection: whoever is told may be gone the next time.
var notifyTransport = &http.Transport{DisableKeepAlives: true, Proxy: nil}

// notify sends a notification in the background where the application has a
// webhook. The lock is held.
func (s *Sandbox) notify(key lineKey, action string) {
	application := s.ledger.applications[key.clientID]
	if application == nil || application.WebhookURL == "" {
		return
	}
	if len(s.outgoing.waiting) >= maxNotifications {
		s.journal.stats.Notifications["dropped"]++
		return
	}
	s.ledger.sequence++
	n := &notification{
		lineKey: key, id: s.ledger.sequence, action: action, created: s.now(),
		url: application.WebhookURL, secret: application.WebhookSecret,
	}
	s.outgoing.waiting[n] = nil
	go s.deliver(s.outgoing, n)
}

// deliver sends a notification, and again later where it was not taken.
func (s *Sandbox) deliver(o *outgoing, n *notification) {
	status, err := n.send(o.ctx, s.now())
	outcome := strconv.Itoa(status)
	if err != nil {
		outcome = "failed"
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.ctx.Err() != nil {
		return // the sandbox was reset
	}
	s.journal.stats.Notifications[outcome]++
	if check := s.logger.Check(logLevel, "notification"); check != nil {
		check.Write(zap.String("action", n.action), zap.String("client_id", n.clientID), zap.Int64("user_id", n.userID), zap.String("outcome", outcome))
	}
	n.tries++
	if status == http.StatusOK || status == http.StatusCreated || n.tries == notifyTries {
		delete(o.waiting, n)
		return
	}
	o.waiting[n] = time.AfterFunc(time.Duration(s.settings.NotificationRetry), func() {
		s.mu.Lock()
		stopped := o.ctx.Err() != nil
		s.mu.Unlock()
		if !stopped {
			s.deliver(o, n)
		}
	})
}

// send posts a notification as the real service does: each try has a request id
// and a signature of its own.
func (n *notification) send(ctx context.Context, now time.Time) (status int, err error) {
	ctx, cancel := context.WithTimeout(ctx, notifyTimeout)
	defer cancel()
	target, err := url.Parse(n.url)
	if err != nil {
		return 0, err
	}
	dataID, requestID, ts := strconv.FormatInt(n.id, 10), randomHex(16), strconv.FormatInt(now.UnixMilli(), 10)
	query := target.Query()
	query.Set("data.id", dataID)
	query.Set("type", "mp-connect")
	target.RawQuery = query.Encode()
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, target.String(), bytes.NewReader(n.body(dataID)))
	if err != nil {
		return 0, err
	}
	mac := hmac.New(sha256.New, []byte(n.secret))
	mac.Write([]byte("id:" + dataID + ";request-id:" + requestID + ";ts:" + ts + ";"))
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", "restclient-node/4.15.3")
	request.Header.Set("X-Request-ID", requestID)
	request.Header.Set("X-Signature", "ts="+ts+",v1="+hex.EncodeToString(mac.Sum(nil)))
	client := http.Client{
		Transport:     notifyTransport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxFormBytes))
	return response.StatusCode, nil
}

func (n *notification) body(dataID string) []byte {
	body := map[string]any{
		"id": n.id, "live_mode": n.live, "type": "mp-connect", "date_created": n.created.UTC().Format(timeFormat),
		"user_id": n.userID, "version": 1, "api_version": "v1", "action": n.action, "data": map[string]any{"id": dataID},
	}
	// The real one writes a number; of an application that is named with letters
	// there is none.
	body["application_id"] = n.clientID
	if number, err := strconv.ParseInt(n.clientID, 10, 64); err == nil {
		body["application_id"] = number
	}
	text, _ := json.Marshal(body) // numbers and texts: it cannot fail
	return text
}

// Unlink is what happens when an account's owner unlinks every application in
// the account's settings: all its tokens and codes are dead, and applications
// with a webhook are told, by a signed notification that comes again until it is
// taken.
func (s *Sandbox) Unlink(userID int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, own := range s.ledger.lines {
		if key.userID == userID && (own.living != "" || len(own.accesses) > 0) {
			s.notify(key, actionDeauthorized)
		}
	}
	s.ledger.revoke(userID, "")
}

var errWebhook = errors.New("webhook_url is an address such as http://localhost:8080/webhooks/mercadopago, or empty")

// SetWebhook sets where an application's notifications go ("" is nowhere) and
// with what they are signed, as its dashboard does. It tells whether the
// application is known.
func (s *Sandbox) SetWebhook(clientID, address, secret string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	application := s.ledger.applications[clientID]
	if application == nil {
		return false
	}
	application.WebhookURL, application.WebhookSecret = address, secret
	return true
}

func checkWebhook(address string) error {
	u, err := url.Parse(address)
	if address != "" && (err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		return errWebhook
	}
	return nil
}
