package mercadopago

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

const (
	// The sender waits 22 seconds for an answer, and comes again after 15 minutes
	// where it is none of success: reading and following must end before.
	noticeReadWait   = 3 * time.Second
	noticeFollowWait = 17 * time.Second
	// maxNotice bounds a notification's body; real ones have a few hundred bytes.
	maxNotice = 64 << 10
	// complaintPause keeps strangers from filling the log.
	complaintPause = time.Minute
)

// Webhook is where Mercado Pago's notifications arrive.
//
// The topic `mp-connect` tells that a seller ended the authorization in the
// Mercado Pago account. It is believed only after Mercado Pago refused the
// seller's own token; from then on the seller's requests are answered with
// reconnect_required. Notifications of other topics are answered 200.
//
// A notification needs a signature of the application's webhook_secrets that is
// not older than 5 minutes; anything else is answered 401 before its body is
// read.
type Webhook struct {
	// The path, compared with what was sent, character for character. The address
	// in the dashboard is this one on your public host. Required.
	Path string `json:"path,omitempty"`

	// Whether notifications of other topics go on to the next handler, signed
	// and whole, without any token.
	Pass bool `json:"pass,omitempty"`

	secrets   []secret.Secret
	seen      *deliveries
	complains rateLimit
}

// provision checks the path and takes the application's secrets.
func (w *Webhook) provision(name string, application *Application) error {
	u, err := url.Parse(w.Path)
	if err != nil || !strings.HasPrefix(w.Path, "/") || u.Host != "" || u.EscapedPath() != w.Path {
		return fmt.Errorf("webhook %q: write a path that begins with a slash, such as /webhooks/mercadopago, and nothing behind it", w.Path)
	}
	if application.Provider == "mercadolibre" {
		return fmt.Errorf("webhook is for Mercado Pago, and application %q is Mercado Libre's, which signs no notifications: remove webhook", name)
	}
	if len(application.webhookSecrets) == 0 {
		return fmt.Errorf("webhook needs the secret by which notifications are known to be Mercado Pago's: write webhook_secret {env.MP_WEBHOOK_SECRET} for application %q in the global block", name)
	}
	w.secrets = application.webhookSecrets
	w.seen = newDeliveries()
	return nil
}

// isFor reports whether a request is for the webhook.
func (w *Webhook) isFor(r *http.Request) bool {
	return w != nil && requestedURL(r).EscapedPath() == w.Path
}

// refusal is a notification that is not taken, with the answer's status. Its
// text holds nothing that came with the request.
type refusal struct {
	status int
	text   string
}

func (r *refusal) Error() string { return r.text }

var (
	errNoticeMethod    = &refusal{http.StatusMethodNotAllowed, "notifications come by POST"}
	errNoticeTooLarge  = &refusal{http.StatusRequestEntityTooLarge, "the notification is too large"}
	errNoticeUnread    = &refusal{http.StatusBadRequest, "the notification did not arrive whole"}
	errNoticeMalformed = &refusal{http.StatusBadRequest, "the notification is not what mp-connect sends"}
	errNoticeForeign   = &refusal{http.StatusBadRequest, "the notification is for another application"}
	errNoticeReused    = &refusal{http.StatusUnauthorized, "the signature came before, with another notification"}
)

// serveWebhook answers a notification, or hands it on where that is wanted.
func (h *Handler) serveWebhook(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	d, err := h.Webhook.take(w, r)
	if err == nil && d.topic != topicConnect && h.Webhook.Pass {
		r.Body = io.NopCloser(bytes.NewReader(d.body))
		return h.pass(w, r, next, "", nil) // a notification has no seller, so no token either
	}
	if err == nil && d.topic == topicConnect {
		err = h.follow(r.Context(), d)
	}
	w.Header().Set("Cache-Control", "no-store")
	if err == nil {
		w.WriteHeader(http.StatusOK)
		return nil
	}
	refused, ok := errors.AsType[*refusal](err)
	if !ok {
		// Ours to mend or the provider's: it comes again.
		h.logger.Warn("a notification could not be followed; it will come again",
			zap.String("application", h.Application), zap.Error(err))
		w.Header().Set("Retry-After", strconv.Itoa(int((15 * time.Minute).Seconds())))
		http.Error(w, "not yet: send it again", http.StatusServiceUnavailable)
		return nil
	}
	h.complain(refused)
	if refused.status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	http.Error(w, refused.text, refused.status)
	return nil
}

// complain logs a refusal. A wrong secret must show; a stranger must not fill
// the log.
func (h *Handler) complain(refused *refusal) {
	level := zap.DebugLevel
	if h.Webhook.complains.allow(time.Now()) {
		level = zap.WarnLevel
	}
	if check := h.logger.Check(level, "a notification was refused"); check != nil {
		check.Write(zap.String("application", h.Application), zap.Int("status", refused.status), zap.String("reason", refused.text))
	}
}

// delivery is one notification whose signature holds.
type delivery struct {
	// signed is what was signed: the body is not part of it.
	signed signed
	body   []byte
	topic  string
}

const topicConnect = "mp-connect"

// take reads a notification. Before the signature holds nothing is done but what
// it takes to check it.
func (w *Webhook) take(rw http.ResponseWriter, r *http.Request) (*delivery, error) {
	if r.Method != http.MethodPost {
		return nil, errNoticeMethod
	}
	s, err := parseSigned(requestedURL(r).RawQuery, r.Header)
	if err != nil {
		return nil, err
	}
	if err := s.verify(w.secrets, time.Now()); err != nil {
		return nil, err
	}
	body, err := readNotice(rw, r)
	if err != nil {
		return nil, err
	}
	if !w.seen.bind(s, body) {
		return nil, errNoticeReused
	}
	topic, err := parseTopic(body)
	if err != nil {
		return nil, err
	}
	return &delivery{signed: s, body: body, topic: topic}, nil
}

func readNotice(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if r.ContentLength > maxNotice {
		return nil, errNoticeTooLarge
	}
	// A body that drips would hold the answer past its budget. Where there is no
	// deadline to set, the server's own counts.
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(noticeReadWait))
	defer func() { _ = control.SetReadDeadline(time.Time{}) }()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxNotice))
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return nil, errNoticeTooLarge
	}
	if err != nil {
		return nil, errNoticeUnread
	}
	return body, nil
}

// follow does what an mp-connect notification asks for.
func (h *Handler) follow(ctx context.Context, d *delivery) error {
	n, err := parseNotice(d.body)
	if err != nil {
		return err
	}
	if n.application != h.app.Applications[h.Application].client.ClientID() {
		return errNoticeForeign
	}
	if h.Webhook.seen.isDone(d.signed) {
		return nil
	}
	switch n.action {
	case "application.deauthorized":
		ctx, cancel := context.WithTimeout(ctx, noticeFollowWait)
		defer cancel()
		if err := h.app.source.Deauthorized(ctx, h.Application, n.userID, n.live); err != nil {
			return err
		}
		// Only now: a notification that failed must be processed when it is sent again.
		h.Webhook.seen.done(d.signed)
	case "application.authorized":
		// The tokens come by the connect flow; this is for the operator.
		if h.Webhook.seen.done(d.signed) {
			h.app.noteAuthorized(h.Application, n.userID, n.live)
		}
	}
	return nil
}

func (a *App) noteAuthorized(application string, userID int64, live bool) {
	event := tokensource.Event{Name: tokensource.EventAuthorized, Application: application}
	event.Account.ClientID = a.Applications[application].client.ClientID()
	event.Account.UserID, event.Account.Live = userID, live
	a.observer.Observe(event)
}

// notice is what an mp-connect notification says.
type notice struct {
	action, application string
	userID              int64
	live                bool
}

// parseTopic returns the topic that a notification's body tells, "" where it
// tells none.
func parseTopic(body []byte) (string, error) {
	var n struct {
		Type string `json:"type"`
	}
	if !isObject(body) || json.Unmarshal(body, &n) != nil {
		return "", errNoticeMalformed
	}
	return n.Type, nil
}

func isObject(body []byte) bool {
	return bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{"))
}

func parseNotice(body []byte) (notice, error) {
	var n struct {
		Action      string     `json:"action"`
		Application identifier `json:"application_id"`
		UserID      identifier `json:"user_id"`
		LiveMode    *bool      `json:"live_mode"`
	}
	if !isObject(body) || json.Unmarshal(body, &n) != nil || n.Action == "" || n.Application == "" {
		return notice{}, errNoticeMalformed
	}
	userID, err := strconv.ParseInt(string(n.UserID), 10, 64)
	if err != nil || userID <= 0 {
		return notice{}, errNoticeMalformed
	}
	return notice{
		action: n.Action, application: string(n.Application), userID: userID,
		live: n.LiveMode == nil || *n.LiveMode,
	}, nil
}

// identifier is a number that JSON writes as one, or as a string.
type identifier string

// UnmarshalJSON implements json.Unmarshaler.
func (i *identifier) UnmarshalJSON(text []byte) error {
	digits := strings.TrimSuffix(strings.TrimPrefix(string(text), `"`), `"`)
	if digits == "" || len(digits) > 19 || strings.Trim(digits, "0123456789") != "" {
		return errors.New("not a number")
	}
	*i = identifier(digits)
	return nil
}
