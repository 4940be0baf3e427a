package mercadopago

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

const (
	// signatureTolerance is how far a signature's time may be from ours.
	signatureTolerance = 5 * time.Minute
	// maxSignedText bounds what a stranger can have hashed.
	maxSignedText = 512
	// firstMillisecond tells the two units of ts apart: as seconds it is in the
	// year 5138, as milliseconds in 1973.
	firstMillisecond = 100_000_000_000
	// deliveriesKept bounds the memory of notifications; within the tolerance
	// an application gets fewer.
	deliveriesKept = 4096
)

var (
	errUnsigned     = &refusal{http.StatusUnauthorized, "the notification has no signature: x-signature with ts and v1"}
	errSignedOdd    = &refusal{http.StatusUnauthorized, "the notification's signature cannot be read"}
	errSignedLate   = &refusal{http.StatusUnauthorized, "the notification's signature is more than 5 minutes off"}
	errSignedForged = &refusal{http.StatusUnauthorized, "the notification's signature does not hold: is webhook_secret the one in the dashboard?"}
)

// signed is what Mercado Pago signs of a notification, and its signature.
type signed struct {
	dataID, requestID, ts string
	at                    time.Time
	mac                   [sha256.Size]byte
}

// parseSigned reads it from a request's query and header.
func parseSigned(query string, header http.Header) (signed, error) {
	var s signed
	values := header.Values("X-Signature")
	if len(values) == 0 {
		return s, errUnsigned
	}
	if len(values) > 1 || len(values[0]) > maxSignedText || len(query) > maxQuery {
		return s, errSignedOdd
	}
	if err := s.parseSignature(values[0]); err != nil {
		return s, err
	}
	parameters, err := url.ParseQuery(query)
	if err != nil {
		return s, errSignedOdd
	}
	var ok bool
	if s.dataID, ok = only(parameters["data.id"]); !ok {
		return s, errSignedOdd
	}
	if s.requestID, ok = only(header.Values("X-Request-ID")); !ok {
		return s, errSignedOdd
	}
	return s, nil
}

// maxQuery bounds the query that is parsed.
const maxQuery = 4 << 10

// only returns the one value, "" where there is none. One with a semicolon could
// pass for two parts of what is signed.
func only(values []string) (string, bool) {
	if len(values) == 0 {
		return "", true
	}
	value := strings.TrimSpace(values[0])
	return value, len(values) == 1 && len(value) <= maxSignedText && !strings.Contains(value, ";")
}

// parseSignature reads ts=…,v1=…. Parts that are not known are left alone, so
// that a v2 may come beside.
func (s *signed) parseSignature(text string) error {
	var v1 string
	for part := range strings.SplitSeq(text, ",") {
		name, value, _ := strings.Cut(part, "=")
		value = strings.TrimSpace(value)
		switch strings.ToLower(strings.TrimSpace(name)) {
		case "ts":
			if s.ts != "" {
				return errSignedOdd
			}
			s.ts = value
		case "v1":
			if v1 != "" {
				return errSignedOdd
			}
			v1 = value
		}
	}
	if s.ts == "" || v1 == "" {
		return errUnsigned
	}
	if len(v1) != hex.EncodedLen(len(s.mac)) {
		return errSignedOdd
	}
	if _, err := hex.Decode(s.mac[:], []byte(v1)); err != nil {
		return errSignedOdd
	}
	ts, err := strconv.ParseUint(s.ts, 10, 63)
	if err != nil {
		return errSignedOdd
	}
	if s.at = time.Unix(int64(ts), 0); ts >= firstMillisecond {
		s.at = time.UnixMilli(int64(ts))
	}
	return nil
}

// verify reports whether one of the secrets made the signature, at about now.
func (s *signed) verify(secrets []secret.Secret, now time.Time) error {
	if off := now.Sub(s.at); off > signatureTolerance || off < -signatureTolerance {
		return errSignedLate
	}
	// Documentation and practice do not agree on the spelling of the id.
	manifests := []string{s.manifest(s.dataID)}
	if lower := strings.ToLower(s.dataID); lower != s.dataID {
		manifests = append(manifests, s.manifest(lower))
	}
	for _, key := range secrets {
		for _, manifest := range manifests {
			mac := hmac.New(sha256.New, []byte(key.Reveal()))
			mac.Write([]byte(manifest))
			if hmac.Equal(mac.Sum(nil), s.mac[:]) {
				return nil
			}
		}
	}
	return errSignedForged
}

// manifest is the text that is signed. What is absent is left out whole.
func (s *signed) manifest(dataID string) string {
	var text strings.Builder
	for _, pair := range [][2]string{{"id:", dataID}, {"request-id:", s.requestID}, {"ts:", s.ts}} {
		if pair[1] != "" {
			text.WriteString(pair[0] + pair[1] + ";")
		}
	}
	return text.String()
}

// deliveries remembers notifications for as long as their signatures hold, by
// the signature: it is 256 bits that nobody else can make.
type deliveries struct {
	mu    sync.Mutex
	known map[[sha256.Size]byte]*remembered
	order [deliveriesKept][sha256.Size]byte
	next  int
}

type remembered struct {
	body [sha256.Size]byte
	done bool
}

func newDeliveries() *deliveries {
	return &deliveries{known: make(map[[sha256.Size]byte]*remembered)}
}

// bind notes the body that came with a signature, which does not cover it. It
// reports false when another body came before: who overheard one notification
// must not be able to make up others. Without a request id two notifications of
// one moment have the same signature, and nothing is bound.
func (d *deliveries) bind(s signed, body []byte) bool {
	sum := sha256.Sum256(body)
	d.mu.Lock()
	defer d.mu.Unlock()
	if known := d.known[s.mac]; known != nil {
		if known.body == sum {
			return true
		}
		if s.requestID != "" {
			return false
		}
		*known = remembered{body: sum}
		return true
	}
	slot := &d.order[d.next%deliveriesKept]
	if d.next >= deliveriesKept {
		delete(d.known, *slot)
	}
	*slot = s.mac
	d.next++
	d.known[s.mac] = &remembered{body: sum}
	return true
}

// isDone reports whether a notification was done before.
func (d *deliveries) isDone(s signed) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.known[s.mac]
	return known != nil && known.done
}

// done notes that it is, and reports whether it was not yet.
func (d *deliveries) done(s signed) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	known := d.known[s.mac]
	if known == nil || known.done {
		return known == nil
	}
	known.done = true
	return true
}

// rateLimit lets through one in a while.
type rateLimit struct {
	mu   sync.Mutex
	last time.Time
}

func (l *rateLimit) allow(now time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if since := now.Sub(l.last); since >= 0 && since < complaintPause {
		return false
	}
	l.last = now
	return true
}
