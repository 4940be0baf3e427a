package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
)

const controlPath = "/_sandbox/"

// state is what the control page and GET /_sandbox/api/state show. It holds no
// code and no token.
type state struct {
	Applications []Application  `json:"applications"`
	Accounts     []accountState `json:"accounts"`
	Settings     Settings       `json:"settings"`
	Faults       []Fault        `json:"faults"`
	Stats        Stats          `json:"stats"`
	Requests     []Request      `json:"requests"`
}

type accountState struct {
	Account
	Connections []connectionState `json:"connections"`
}

// connectionState is what an account gave to an application.
type connectionState struct {
	ClientID     string `json:"client_id"`
	LiveMode     bool   `json:"live_mode"`
	RefreshToken bool   `json:"refresh_token"` // one is living
	AccessTokens int    `json:"access_tokens"` // that are living
}

func (s *Sandbox) state() state {
	out := state{
		Settings: s.Settings(), Faults: s.Faults(), Stats: s.Stats(), Requests: s.Requests(),
		Accounts: make([]accountState, 0, len(s.options.Accounts)),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, application := range s.ledger.applications {
		out.Applications = append(out.Applications, *application)
	}
	slices.SortFunc(out.Applications, func(a, b Application) int { return strings.Compare(a.ClientID, b.ClientID) })
	given := s.connections()
	for _, account := range s.options.Accounts {
		out.Accounts = append(out.Accounts, accountState{account, given[account.UserID]})
	}
	return out
}

// connections tells what is alive, by account. The lock is held.
func (s *Sandbox) connections() map[int64][]connectionState {
	out, now := map[int64][]connectionState{}, s.now()
	for key, own := range s.ledger.lines {
		c := connectionState{ClientID: key.clientID, LiveMode: key.live}
		if r := s.ledger.refreshes[own.living]; r != nil && now.Before(r.expires) {
			c.RefreshToken = true
		}
		for _, text := range own.accesses {
			if a := s.ledger.accesses[text]; a != nil && now.Before(a.expires) {
				c.AccessTokens++
			}
		}
		out[key.userID] = append(out[key.userID], c)
	}
	for _, all := range out {
		slices.SortFunc(all, func(a, b connectionState) int { return strings.Compare(a.ClientID, b.ClientID) })
	}
	return out
}

// controlling serves the control page and its API, to this machine alone: a web
// page elsewhere can send a browser here, but not under a loopback name and not
// from this origin.
func (s *Sandbox) controlling() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+controlPath+"{$}", s.showControl)
	mux.HandleFunc("POST "+controlPath+"{$}", s.submitControl)
	mux.HandleFunc("GET "+controlPath+"api/state", func(w http.ResponseWriter, _ *http.Request) {
		reply(w, http.StatusOK, s.state())
	})
	do := func(pattern string, action func(*http.Request) error) {
		method, path, _ := strings.Cut(pattern, " ")
		mux.HandleFunc(method+" "+controlPath+"api/"+path, func(w http.ResponseWriter, r *http.Request) {
			if err := action(r); err != nil {
				reply(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
				return
			}
			w.WriteHeader(http.StatusNoContent)
		})
	}
	do("POST settings", s.postSettings)
	do("POST faults", s.postFault)
	do("DELETE faults", func(*http.Request) error { s.ClearFaults(); return nil })
	do("POST accounts/{id}/revoke", s.forAccount(s.Revoke))
	do("POST accounts/{id}/unlink", s.forAccount(s.Unlink))
	do("POST accounts/{id}/kill-access-tokens", s.forAccount(s.KillAccessTokens))
	do("POST applications/{id}", s.postApplication)
	do("POST reset", func(*http.Request) error { s.Reset(); return nil })
	guarded := http.NewCrossOriginProtection().Handler(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !loopback(r.Host) {
			http.Error(w, "the control page is for this machine: open it as http://localhost or http://127.0.0.1", http.StatusForbidden)
			return
		}
		guarded.ServeHTTP(w, r)
	})
}

// loopback tells whether a Host header names this machine. A name that only
// resolves to it does not.
func loopback(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = strings.Trim(host, "[]")
	}
	name = strings.ToLower(strings.TrimSuffix(name, "."))
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	address, err := netip.ParseAddr(name)
	return err == nil && address.IsLoopback()
}

func reply(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	_ = encoder.Encode(body)
}

// decode reads one strict JSON object.
func decode(r *http.Request, into any) error {
	decoder := json.NewDecoder(io.LimitReader(r.Body, maxFormBytes))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("the body is not what is expected here: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return errors.New("the body holds more than one JSON object")
	}
	return nil
}

// postSettings changes the settings that the body names.
func (s *Sandbox) postSettings(r *http.Request) error {
	settings := s.Settings()
	if err := decode(r, &settings); err != nil {
		return err
	}
	return s.setSettings(settings)
}

func (s *Sandbox) setSettings(settings Settings) error {
	if err := settings.check(); err != nil {
		return err
	}
	s.Change(func(current *Settings) { *current = settings })
	return nil
}

func (s *Sandbox) postFault(r *http.Request) error {
	var fault Fault
	if err := decode(r, &fault); err != nil {
		return err
	}
	return s.takeOn(fault)
}

func (s *Sandbox) takeOn(fault Fault) error {
	if err := fault.check(); err != nil {
		return err
	}
	s.addFault(fault)
	return nil
}

func (s *Sandbox) forAccount(action func(int64)) func(*http.Request) error {
	return func(r *http.Request) error { return s.actOn(r.PathValue("id"), action) }
}

// actOn does something to an account, an application's own among them.
func (s *Sandbox) actOn(userID string, action func(int64)) error {
	id, err := strconv.ParseInt(userID, 10, 64)
	s.mu.Lock()
	_, known := s.ledger.accounts[id]
	s.mu.Unlock()
	if err != nil || !known {
		return fmt.Errorf("the sandbox has no account %q", clip(userID))
	}
	action(id)
	return nil
}

func (s *Sandbox) postApplication(r *http.Request) error {
	var change struct {
		PKCE          *bool   `json:"pkce"`
		WebhookURL    *string `json:"webhook_url"`
		WebhookSecret string  `json:"webhook_secret"`
	}
	if err := decode(r, &change); err != nil {
		return err
	}
	if change.PKCE == nil && change.WebhookURL == nil {
		return errors.New(`say what is to change: {"pkce": true}, {"pkce": false} or {"webhook_url": "http://…", "webhook_secret": "…"}`)
	}
	if change.WebhookURL != nil {
		if err := s.changeWebhook(r.PathValue("id"), *change.WebhookURL, change.WebhookSecret); err != nil {
			return err
		}
	}
	if change.PKCE == nil {
		return nil
	}
	return s.switchPKCE(r.PathValue("id"), *change.PKCE)
}

func (s *Sandbox) changeWebhook(clientID, address, secret string) error {
	if err := checkWebhook(address); err != nil {
		return err
	}
	if address != "" && secret == "" {
		return errors.New("a webhook needs a webhook_secret: notifications are signed with it")
	}
	if !s.SetWebhook(clientID, address, secret) {
		return fmt.Errorf("the sandbox has no application %q", clip(clientID))
	}
	return nil
}

func (s *Sandbox) switchPKCE(clientID string, on bool) error {
	if !s.SetPKCE(clientID, on) {
		return fmt.Errorf("the sandbox has no application %q", clip(clientID))
	}
	return nil
}

// count is one line of a table of counts.
type count struct {
	Grant, Outcome string
	Count          int
}

func sortedCounts(stats Stats) []count {
	var out []count
	for grant, outcomes := range stats.TokenRequests {
		for outcome, n := range outcomes {
			out = append(out, count{grant, outcome, n})
		}
	}
	sort.Slice(out, func(i, j int) bool {
		if out[i].Grant != out[j].Grant {
			return out[i].Grant < out[j].Grant
		}
		return out[i].Outcome < out[j].Outcome
	})
	return out
}
