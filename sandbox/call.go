package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"sort"
	"strings"
	"time"
)

const (
	tokenPath    = "/oauth/token"
	maxFormBytes = 64 << 10
	maxBodyBytes = 1 << 20
)

// call is one request to the stand-in: its answer goes through it, and what the
// journal tells of it is gathered in it.
type call struct {
	http.ResponseWriter

	entry   Request
	form    map[string]string // of a token request
	badForm error
	api     bool // it needs an access token
}

func newCall(w http.ResponseWriter, r *http.Request) *call {
	return &call{ResponseWriter: w, entry: Request{Method: clip(r.Method), Path: clip(r.URL.Path)}}
}

// WriteHeader notes the status on its way.
func (c *call) WriteHeader(status int) {
	if c.entry.Status == 0 {
		c.entry.Status = status
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write notes that a status was sent.
func (c *call) Write(b []byte) (int, error) {
	if c.entry.Status == 0 {
		c.entry.Status = http.StatusOK
	}
	return c.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController through.
func (c *call) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// answer sends JSON.
func (c *call) answer(status int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // a number that JSON has no word for, out of a client's body
		status, text = http.StatusInternalServerError, []byte(`{"message":"internal_error","status":500}`)
	}
	c.Header().Set("Content-Type", "application/json; charset=utf-8")
	c.Header().Set("Cache-Control", "no-store")
	c.WriteHeader(status)
	_, _ = c.Write(text)
}

// apiError is how Mercado Pago's API tells an error.
type apiError struct {
	Message string  `json:"message"`
	Error   string  `json:"error"`
	Status  int     `json:"status"`
	Cause   []cause `json:"cause"`
}

type cause struct {
	Code        int     `json:"code"`
	Description string  `json:"description"`
	Data        *string `json:"data"`
}

func (c *call) refuse(status int, code, message string, causes ...cause) {
	if causes == nil {
		causes = []cause{}
	}
	c.answer(status, apiError{message, code, status, causes})
}

// readForm reads a token request's fields, so that a fault can be aimed at its
// grant before it is handled.
func (c *call) readForm(r *http.Request) {
	if r.Method != http.MethodPost {
		return
	}
	c.form, c.badForm = readForm(r)
	c.entry.Grant = clip(c.form["grant_type"])
	c.entry.ClientID = clip(c.form["client_id"])
	for name := range c.form {
		c.entry.Fields = append(c.entry.Fields, clip(name))
	}
	sort.Strings(c.entry.Fields)
}

var errForm = errors.New("the body is neither a JSON object of texts nor a form")

func readForm(r *http.Request) (map[string]string, error) {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxFormBytes+1))
	if err != nil || len(body) > maxFormBytes {
		return nil, errForm
	}
	return parseForm(r.Header.Get("Content-Type"), body)
}

// parseForm reads the body of a token request: JSON or a form, both of which
// Mercado Pago documents.
func parseForm(contentType string, body []byte) (map[string]string, error) {
	kind, _, _ := mime.ParseMediaType(contentType)
	if kind == "application/x-www-form-urlencoded" {
		return parseURLEncoded(string(body))
	}
	return parseJSON(body)
}

const maxFields = 32

func parseURLEncoded(body string) (map[string]string, error) {
	values, err := url.ParseQuery(body)
	if err != nil || len(values) > maxFields {
		return nil, errForm
	}
	form := make(map[string]string, len(values))
	for name, all := range values {
		form[name] = all[0]
	}
	return form, nil
}

func parseJSON(body []byte) (map[string]string, error) {
	var values map[string]any
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	if err := decoder.Decode(&values); err != nil || values == nil || len(values) > maxFields {
		return nil, errForm
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errForm
	}
	form := make(map[string]string, len(values))
	for name, value := range values {
		switch v := value.(type) {
		case string:
			form[name] = v
		case json.Number: // a client id is a number to many clients
			form[name] = v.String()
		case bool, nil:
			if v == true {
				form[name] = "true"
			}
		default:
			return nil, errForm
		}
	}
	return form, nil
}

// note writes a call into the journal, also when a fault cut it.
func (s *Sandbox) note(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.entry.Time = s.now()
	s.journal.add(c)
	if check := s.logger.Check(logLevel, "request"); check != nil {
		check.Write(c.entry.fields()...)
	}
}

// clip bounds what a request can put into the journal, and keeps control
// characters out of it.
func clip(text string) string {
	const longest = 120
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, text)
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return text
}

func wholeSeconds(d time.Duration) int64 { return int64((d + time.Second - 1) / time.Second) }
