package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// memory is for how long a process may go on with what it knew before another
// process changed it: 30 seconds, and what a request takes.
const memory = 40 * time.Second

// nobody stands for no account.
const nobody int64 = 0

// othersToken is the answer that may never be.
const othersToken = "another seller's token"

// besiegedSeller is a seller with a browser, in whose way kills come.
type besiegedSeller struct {
	application, clientID, name string
	site, egress                string
	accounts                    []int64 // the one it has most of the time, and those it goes over to
	browser                     *http.Client
	provider                    *sandbox.Sandbox

	acting sync.Mutex // one thing is done at a time

	mu sync.Mutex
	// may are the accounts that a request may act for, and until when: the zero
	// time is for as long as nothing else is known.
	may map[int64]time.Time
}

func newBesiegedSeller(t *testing.T, f *fleet, provider *sandbox.Sandbox) *besiegedSeller {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	return &besiegedSeller{
		provider: provider, may: map[int64]time.Time{nobody: {}},
		browser: &http.Client{
			Jar: jar, Timeout: 2 * patience,
			Transport:     &http.Transport{DisableKeepAlives: true, DialContext: f.balance},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

func (s *besiegedSeller) String() string { return s.application + "/" + s.name }

func (s *besiegedSeller) id(account int64) tokenstore.AccountID {
	return tokenstore.AccountID{ClientID: s.clientID, UserID: account, Live: true}
}

// maybe notes that from here on a request may act for an account.
func (s *besiegedSeller) maybe(account int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.may[account] = time.Time{}
}

// surely notes that from here on requests act for an account and, once that has
// got about, for no other.
func (s *besiegedSeller) surely(account int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, until := range s.may {
		if until.IsZero() {
			s.may[other] = time.Now().Add(memory)
		}
	}
	s.may[account] = time.Time{}
}

// settled forgets the past: every process acts for the account that the seller
// has now.
func (s *besiegedSeller) settled(account int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.may = map[int64]time.Time{account: {}}
}

// mayAct tells whether a request that was sent at a time may act for an account.
func (s *besiegedSeller) mayAct(account int64, sent time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	until, known := s.may[account]
	return known && (until.IsZero() || sent.Before(until))
}

// now are the accounts that the seller may be connected to, as far as is known.
func (s *besiegedSeller) now() []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	var accounts []int64
	for account, until := range s.may {
		if until.IsZero() {
			accounts = append(accounts, account)
		}
	}
	return accounts
}

func (s *besiegedSeller) send(method, address string, form url.Values, header ...string) (answer, error) {
	r, err := http.NewRequestWithContext(context.Background(), method, address, strings.NewReader(form.Encode()))
	if err != nil {
		return answer{}, err
	}
	r.Header.Set("Accept", "application/json") // a problem is told in short then
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	if form != nil {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		r.Header.Set("Origin", s.site)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	if s.site == besiegedShop {
		r.Header.Set("X-Login", s.name)
	}
	return receive(s.browser, r)
}

func receive(client *http.Client, r *http.Request) (answer, error) {
	response, err := client.Do(r)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return answer{}, err
	}
	return answer{response.StatusCode, response.Header, string(body)}, nil
}

// get asks again where a kill came in between, as people do.
func (s *besiegedSeller) get(address string, header ...string) (got answer, err error) {
	if strings.HasPrefix(address, "/") {
		address = s.site + address
	}
	for range 4 {
		if got, err = s.send(http.MethodGet, address, nil, header...); err == nil {
			return got, nil
		}
		pause(context.Background(), 150*time.Millisecond)
	}
	return got, err
}

// astrayError is a way that did not lead where it should.
type astrayError struct {
	step string
	got  answer
}

func (e astrayError) Error() string {
	var said struct {
		Code string `json:"code"`
	}
	_ = json.Unmarshal([]byte(e.got.body), &said)
	return strings.Join(strings.Fields(fmt.Sprintf("%s: %d %s %s", e.step, e.got.status, said.Code, e.got.location())), " ")
}

// connect walks the whole way for an account, and agrees to what is asked.
func (s *besiegedSeller) connect(account int64) error {
	s.maybe(account)
	got, err := s.get("/connect?return_to=/")
	if err != nil {
		return err
	}
	if got.status != http.StatusSeeOther || !strings.Contains(got.location(), "/authorization?") {
		return astrayError{"connect", got}
	}
	callback, err := s.provider.Approve(got.location(), account)
	if err != nil {
		return err
	}
	if got, err = s.get(callback, "Sec-Fetch-Site", "cross-site"); err != nil {
		return err
	}
	found := onward.FindStringSubmatch(got.body)
	if found == nil {
		return astrayError{"callback", got}
	}
	if got, err = s.get(html.UnescapeString(found[1])); err != nil {
		return err
	}
	if strings.Contains(got.location(), "/confirm?") {
		if got, err = s.agree(got.location(), url.Values{"decision": {"connect"}}); err != nil {
			return err
		}
	}
	if got.status != http.StatusSeeOther || got.location() != s.site+"/" {
		return astrayError{"finish", got}
	}
	s.surely(account)
	return nil
}

func (s *besiegedSeller) disconnect() error {
	s.maybe(nobody)
	got, err := s.agree("/connect/disconnect", url.Values{})
	if err != nil {
		return err
	}
	if got.status != http.StatusSeeOther || !strings.HasSuffix(got.location(), "?done") {
		return astrayError{"disconnect", got}
	}
	s.surely(nobody)
	return nil
}

// agree posts the form of a page.
func (s *besiegedSeller) agree(address string, form url.Values) (answer, error) {
	got, err := s.get(address)
	if err != nil {
		return got, err
	}
	seen := hiddenSeen.FindStringSubmatch(got.body)
	if seen == nil {
		return got, astrayError{"question", got}
	}
	form.Set("seen", html.UnescapeString(seen[1]))
	if strings.HasPrefix(address, "/") {
		address = s.site + address
	}
	return s.send(http.MethodPost, address, form)
}

// ask is a request of an app that calls egress, to one process.
func (s *besiegedSeller) ask(client *http.Client, r *replica) (answer, error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+r.address+"/users/me", nil)
	if err != nil {
		return answer{}, err
	}
	request.Host = s.egress
	request.Header.Set("X-Seller", s.name)
	return receive(client, request)
}

// visit is a request of the seller's browser, through ingress.
func (s *besiegedSeller) visit() (answer, error) {
	return s.send(http.MethodGet, s.site+"/users/me", nil)
}

// judge tells what an answer to a request is, and whether it may be.
func (s *besiegedSeller) judge(b *book, sent time.Time, got answer) (kind string, err error) {
	var said struct {
		ID   int64  `json:"id"`
		Code string `json:"code"`
	}
	_ = json.Unmarshal([]byte(got.body), &said)
	switch {
	case got.status == http.StatusOK && said.ID == nobody:
		return "strange", fmt.Errorf("%s was answered %q", s, got.body)
	case got.status == http.StatusOK && !s.mayAct(said.ID, sent):
		return othersToken, fmt.Errorf("a request for %s acted for %d, and may for %v", s, said.ID, s.all())
	case got.status == http.StatusOK:
		return "served", nil
	case got.status != http.StatusForbidden:
		return "answered " + strconv.Itoa(got.status), nil
	case s.mayAct(nobody, sent):
		return said.Code, nil
	case said.Code == "reconnect_required" && slices.ContainsFunc(s.accountsAt(sent), func(account int64) bool { return b.excused(s.id(account), sent) }):
		return said.Code, nil
	}
	return said.Code, fmt.Errorf("%s is told %s, and may act for %v: %s", s, said.Code, s.all(), got.body)
}

func (s *besiegedSeller) accountsAt(sent time.Time) []int64 {
	var accounts []int64
	for account := range s.all() {
		if s.mayAct(account, sent) {
			accounts = append(accounts, account)
		}
	}
	return accounts
}

func (s *besiegedSeller) all() map[int64]time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.may)
}
