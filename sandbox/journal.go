package sandbox

import (
	"maps"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	maxJournal = 500
	logLevel   = zapcore.DebugLevel
)

// Request is what the journal tells of one request. It holds no secret: names
// of fields, never their values, and no query.
type Request struct {
	Time     time.Time `json:"time"`
	Method   string    `json:"method"`
	Path     string    `json:"path"`
	Status   int       `json:"status"` // 0 when the connection was cut before an answer
	Grant    string    `json:"grant,omitempty"`
	ClientID string    `json:"client_id,omitempty"`
	UserID   int64     `json:"user_id,omitempty"`
	// Outcome of a token request: "ok", an OAuth error code, or the fault.
	Outcome string `json:"outcome,omitempty"`
	// Fault that was caused, "" for none.
	Fault FaultKind `json:"fault,omitempty"`
	// Note says what an error body leaves open, for the one who looks for the cause.
	Note string `json:"note,omitempty"`
	// Fields of a token request, by name.
	Fields []string `json:"fields,omitempty"`
	// TokenInQuery: the access token came as ?access_token=, which the real
	// service takes too.
	TokenInQuery bool `json:"token_in_query,omitempty"`
}

func (r Request) fields() []zap.Field {
	fields := []zap.Field{
		zap.String("method", r.Method), zap.String("path", r.Path), zap.Int("status", r.Status),
	}
	add := func(name, value string) {
		if value != "" {
			fields = append(fields, zap.String(name, value))
		}
	}
	add("grant", r.Grant)
	add("client_id", r.ClientID)
	add("outcome", r.Outcome)
	add("fault", string(r.Fault))
	add("note", r.Note)
	if r.UserID != 0 {
		fields = append(fields, zap.Int64("user_id", r.UserID))
	}
	return fields
}

// Stats counts what was asked of a sandbox since it was made or reset.
type Stats struct {
	// TokenRequests by grant and outcome: "ok", an OAuth error code, or the fault
	// that kept the request from being handled.
	TokenRequests map[string]map[string]int `json:"token_requests"`
	// RefreshReuse counts refresh tokens that came again after they were spent.
	RefreshReuse int `json:"refresh_reuse"`
	// CodeReuse counts codes that came again.
	CodeReuse int `json:"code_reuse"`
	// Consents and Denials on the consent page.
	Consents int `json:"consents"`
	Denials  int `json:"denials"`
	// APIRequests by status, of everything that needs an access token.
	APIRequests map[int]int `json:"api_requests"`
	// QueryTokens counts API requests with ?access_token=.
	QueryTokens int `json:"query_tokens"`
	// Payments that were made.
	Payments int `json:"payments"`
	// Faults that were caused, by kind.
	Faults map[FaultKind]int `json:"faults"`
	// Notifications that were sent, by the status of the answer, or "failed"
	// where there was none.
	Notifications map[string]int `json:"notifications"`
}

// Tokens counts the token requests of a grant, whatever came of them.
func (s Stats) Tokens(grant string) int {
	total := 0
	for _, n := range s.TokenRequests[grant] {
		total += n
	}
	return total
}

func newStats() Stats {
	return Stats{
		TokenRequests: map[string]map[string]int{}, APIRequests: map[int]int{}, Faults: map[FaultKind]int{}, Notifications: map[string]int{},
	}
}

// journal is what happened: counts of everything, and the newest requests. Its
// callers hold the sandbox's lock.
type journal struct {
	stats    Stats
	requests [maxJournal]Request
	next     int
}

func newJournal() *journal { return &journal{stats: newStats()} }

func (j *journal) add(c *call) {
	entry := c.entry
	j.requests[j.next%maxJournal] = entry
	j.next++
	if entry.Fault != "" {
		j.stats.Faults[entry.Fault]++
	}
	if entry.Path == tokenPath && entry.Outcome != "" {
		grant := knownGrant(entry.Grant)
		if j.stats.TokenRequests[grant] == nil {
			j.stats.TokenRequests[grant] = map[string]int{}
		}
		j.stats.TokenRequests[grant][entry.Outcome]++
	}
	if c.api {
		j.stats.APIRequests[entry.Status]++
		if entry.TokenInQuery {
			j.stats.QueryTokens++
		}
	}
}

// knownGrant keeps made-up grants from filling the counts.
func knownGrant(grant string) string {
	switch grant {
	case grantCode, grantRefresh, grantApplication:
		return grant
	}
	return "other"
}

// newest lists requests, newest first.
func (j *journal) newest() []Request {
	count := min(j.next, maxJournal)
	out := make([]Request, 0, count)
	for i := 1; i <= count; i++ {
		out = append(out, j.requests[(j.next-i)%maxJournal])
	}
	return out
}

// Stats tells the counts.
func (s *Sandbox) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	stats := s.journal.stats
	out := stats
	out.TokenRequests = map[string]map[string]int{}
	for grant, outcomes := range stats.TokenRequests {
		out.TokenRequests[grant] = copied(outcomes)
	}
	out.APIRequests, out.Faults = copied(stats.APIRequests), copied(stats.Faults)
	out.Notifications = copied(stats.Notifications)
	return out
}

func copied[K comparable](counts map[K]int) map[K]int {
	out := make(map[K]int, len(counts))
	maps.Copy(out, counts)
	return out
}

// Requests lists the newest 500 requests, newest first.
func (s *Sandbox) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.journal.newest()
}
