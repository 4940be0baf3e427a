package e2e

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

const day = 24 * time.Hour

// The sellers on a stage: one whose access token is valid, one who has nothing
// valid left.
var (
	valid = aurora
	ended = rio
)

// stage is a platform with a history: its sellers connected long ago, as their
// records tell. A caddy process of its own stands there, and things go wrong.
type stage struct {
	*platform
	front  *front
	caddy  *caddy
	caller *caller
	row    fault
	engine engine

	// What was seen while the fault lasted.
	sawValid, sawEnded sees
}

func newStage(t *testing.T, f fault, on string) *stage {
	t.Helper()
	s := &stage{platform: newPlatform(t), row: f}
	s.engine = folder{s}
	if on == onTables {
		server := postgrestest.Shared
		if f.server != nil {
			server = f.server
		}
		s.engine = newTables(s, server(t))
	}
	s.front = &front{sandbox: s.provider}
	server := httptest.NewServer(s.front)
	t.Cleanup(server.Close)
	// Sandbox and front each have a server: the sandbox's own stays for what comes
	// from a caller of egress.
	s.values["TOKENS"], s.values["KEY"] = server.URL, "{env.MP_ENCRYPTION_KEY}"
	if f.faulty {
		s.obeyed()
	}
	return s
}

// start starts a caddy on the stage.
func (s *stage) start(env ...string) {
	s.t.Helper()
	home := s.t.TempDir()
	s.caddy = &caddy{
		t: s.t, home: home, config: filepath.Join(home, "Caddyfile"), admin: s.url("ADMIN"), log: new(transcript),
		env: append(append(environment(home), s.secrets()...), "SSL_CERT_FILE="+s.url("ROOTS")),
	}
	s.caddy.env = append(s.caddy.env, s.engine.env()...)
	s.caddy.env = append(s.caddy.env, env...)
	s.caddy.write(s.config())
	s.t.Cleanup(s.caddy.clean)
	s.caddy.start()
	s.caller = s.platform.caller()
}

func (s *stage) config() string {
	config := s.caddyfile(sessionSite + egressSite)
	config = strings.Replace(config, "api "+s.values["PROVIDER"], "api "+s.values["TOKENS"], 1)
	config = strings.Replace(config, "encryption_key {env.MP_ENCRYPTION_KEY}\n", "encryption_key "+s.url("KEY")+"\n"+s.engine.option(), 1)
	if s.orders != "" {
		config = strings.Replace(config, "storage file_system", "storage faulty", 1)
	}
	return config
}

// consent lets an account consent, as it did long ago.
func (s *stage) consent(account sandbox.Account) oauth.Answer {
	s.t.Helper()
	client := oauth.NewClient(oauth.Config{
		ClientID: clientID, ClientSecrets: []secret.Secret{secret.New(clientSecret)}, RedirectURI: s.url("CALLBACK"),
		Provider: oauth.Provider{AuthorizeURL: s.url("PROVIDER") + "/authorization", API: s.url("PROVIDER")}, PKCE: true,
	})
	verifier := oauth.NewVerifier()
	callback, err := s.provider.Approve(client.AuthorizationURL("long-ago", verifier), account.UserID)
	require.NoError(s.t, err)
	back, err := url.Parse(callback)
	require.NoError(s.t, err)
	answer, err := client.Exchange(s.t.Context(), back.Query().Get("code"), verifier)
	require.NoError(s.t, err)
	return answer
}

// store opens the store from outside, as another instance would.
func (s *stage) store() tokenstore.Store {
	s.t.Helper()
	key, err := secret.ParseKey(encryptionKey)
	require.NoError(s.t, err)
	keyring, err := secret.NewKeyring(key)
	require.NoError(s.t, err)
	return s.engine.open(keyring)
}

func accountID(account sandbox.Account) tokenstore.AccountID {
	return tokenstore.AccountID{ClientID: clientID, UserID: account.UserID, Live: true}
}

// connected makes an account one that connected long ago: its access token has
// so much left of 180 days.
func (s *stage) connected(account sandbox.Account, left time.Duration) {
	s.t.Helper()
	s.keep(account, 1, s.consent(account), left)
}

// keep saves a consent of long ago.
func (s *stage) keep(account sandbox.Account, authorization uint64, answer oauth.Answer, left time.Duration) {
	s.t.Helper()
	store, expires := s.store(), time.Now().Add(left)
	// The connection first: an account without one is soon forgotten.
	require.NoError(s.t, store.PutConnection(s.t.Context(), tokenstore.Connection{
		ID: "connection-" + id(account), Application: "default", Seller: id(account), Account: accountID(account),
		Authorization: authorization, CreatedAt: expires.Add(-180 * day),
	}))
	require.NoError(s.t, store.AddPair(s.t.Context(), accountID(account), tokenstore.Pair{
		PairID: tokenstore.PairID{
			Authorization: authorization, Hash: tokenstore.HashPair(answer.AccessToken, answer.RefreshToken),
		},
		AccessToken: answer.AccessToken, RefreshToken: answer.RefreshToken, PublicKey: answer.PublicKey, Scope: answer.Scope,
		ObtainedAt: expires.Add(-180 * day), ExpiresAt: expires,
	}))
}

// generation tells how often the account's living pair was refreshed.
func (s *stage) generation(account sandbox.Account) uint64 {
	s.t.Helper()
	state, err := s.store().Account(s.t.Context(), accountID(account))
	require.NoError(s.t, err)
	living := state.Living()
	require.NotEmpty(s.t, living)
	return living[0].Generation
}

// call asks for a seller whose token it is.
func (s *stage) call(account sandbox.Account) sees {
	s.t.Helper()
	got := s.caller.me(id(account))
	if got.status == http.StatusOK {
		require.Contains(s.t, got.body, id(account), "the right seller, always")
		return ok
	}
	var problem struct {
		Code, Reason string
		Status       int
	}
	if got.header.Get("Content-Type") != "application/problem+json" {
		return sees{status: got.status, code: providersOwn}
	}
	require.NoError(s.t, json.Unmarshal([]byte(got.body), &problem))
	require.Equal(s.t, got.status, problem.Status)
	if got.status == http.StatusServiceUnavailable {
		seconds, err := strconv.Atoi(got.header.Get("Retry-After"))
		require.NoError(s.t, err, "who is told to come again is told when")
		require.Positive(s.t, seconds)
		require.LessOrEqual(s.t, seconds, 3600)
		s.told(told{"error", "no token for a request", problem.Reason, ""})
	}
	return sees{got.status, problem.Code, problem.Reason}
}

// look asks for both sellers while the fault lasts.
func (s *stage) look() {
	s.t.Helper()
	s.sawEnded = s.call(ended)
	s.sawValid = s.call(valid)
}

// served waits until an account is served, as often as it must ask.
func (s *stage) served(account sandbox.Account) {
	s.t.Helper()
	s.until(account, ok)
}

func (s *stage) until(account sandbox.Account, expected sees) {
	s.t.Helper()
	var last sees
	deadline := time.After(2 * patience)
	for wait := 200 * time.Millisecond; ; wait = min(wait*3/2, time.Second) {
		if last = s.call(account); last == expected {
			return
		}
		select {
		case <-time.After(wait):
		case <-deadline:
			s.t.Fatalf("%s sees %s, and never %s", account.Nickname, last, expected)
		}
	}
}

// told is a line of the log.
type told struct{ level, event, reason, text string }

func (e told) in(line string) bool {
	var said struct{ Level, Logger, Msg, Reason, Error string }
	if !strings.Contains(line, `"msg":"`+e.event+`"`) { // logs are searched often, and most lines are of other events
		return false
	}
	if json.Unmarshal([]byte(line), &said) != nil || !strings.Contains(said.Logger, "mercadopago") {
		return false
	}
	return said.Level == e.level && said.Msg == e.event && said.Reason == e.reason && strings.Contains(said.Error, e.text)
}

// told waits until the log tells it.
func (s *stage) told(e told) {
	s.t.Helper()
	await(s.t, "the log tells "+e.String(), func() bool {
		for line := range strings.Lines(s.caddy.log.String()) {
			if e.in(line) {
				return true
			}
		}
		return false
	})
}

// events are the lines of the log about an event.
func (s *stage) events(name string) (lines []string) {
	for line := range strings.Lines(s.caddy.log.String()) {
		if strings.Contains(line, `"msg":"`+name+`"`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// front stands before the sandbox and distorts what comes of refreshes.
type front struct {
	sandbox http.Handler

	mu      sync.Mutex
	distort distortion
	struck  int
}

// distortion answers a refresh; carryOut has the sandbox do it, and returns what
// it answered.
type distortion func(w http.ResponseWriter, r *http.Request, carryOut func() *httptest.ResponseRecorder)

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	f.mu.Lock()
	distort := f.distort
	if !strings.Contains(string(body), `"grant_type":"refresh_token"`) {
		distort = nil
	}
	if distort != nil {
		f.struck++
	}
	f.mu.Unlock()
	if distort == nil {
		f.sandbox.ServeHTTP(w, r)
		return
	}
	distort(w, r, func() *httptest.ResponseRecorder {
		recorder := httptest.NewRecorder()
		f.sandbox.ServeHTTP(recorder, r)
		return recorder
	})
}

func (f *front) set(d distortion) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.distort = d
}

// toldOnce requires that the operator was told once of a store that cannot be
// used, and once that it can again; and so of the listener.
func (s *stage) toldOnce() {
	s.t.Helper()
	of := func(name string) (n int) {
		log := s.caddy.log.String()
		started := max(0, strings.LastIndex(log, `"msg":"using config from file"`))
		for line := range strings.Lines(log[started:]) {
			if strings.Contains(line, `"msg":"`+name+`"`) && !strings.Contains(line, notTaken) && !strings.Contains(line, "the store lost a pair") && !strings.Contains(line, `"reason":"provider"`) {
				n++
			}
		}
		return n
	}
	await(s.t, "the listener listens", func() bool { return of("not_listening") == of("listening") })
	if s.row.ended == either {
		return // once for each time that it begins
	}
	require.LessOrEqual(s.t, of("not_listening"), 1)
	if slices.Contains(append(slices.Clone(s.row.told), s.row.may...), recovered) {
		await(s.t, "the store is told to work again", func() bool { return of("alarm") == of("recovered") })
		require.LessOrEqual(s.t, of("recovered"), 1)
	} else {
		require.Zero(s.t, of("recovered"))
	}
}
