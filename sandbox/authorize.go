package sandbox

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"
)

// accountCookie remembers, in a browser, which account is logged in. Its path
// keeps it from what else listens on this host.
const accountCookie = "mp_sandbox_account"

// authorization is what an authorization URL asks for.
type authorization struct {
	application       Application
	redirectURI       string
	state             string
	challenge, method string
}

// The note of an authorization that is refused. The real service tells nobody
// which it was; here it is in the journal and, small, on the page.
var (
	errAsked       = errors.New("a parameter is there twice, or too long")
	errResponse    = errors.New("response_type is not code")
	errApplication = errors.New("no application has this client_id")
	errRedirect    = errors.New("redirect_uri is not, byte for byte, one that the application has registered")
	errChallenge   = errors.New("code_challenge_method is S256 or plain, and a code_challenge has 43 to 128 characters")
	errConsent     = errors.New("the form came from elsewhere, or names no account and decision of this page")
)

// readAuthorization judges an authorization URL's query.
func (s *Sandbox) readAuthorization(query url.Values) (*authorization, error) {
	for _, values := range query {
		if len(values) != 1 || len(values[0]) > 4096 {
			return nil, errAsked
		}
	}
	if query.Get("response_type") != "code" {
		return nil, errResponse
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	application := s.application(query.Get("client_id"))
	if application == nil {
		return nil, errApplication
	}
	asked := &authorization{
		application: *application, redirectURI: query.Get("redirect_uri"), state: query.Get("state"),
		challenge: query.Get("code_challenge"), method: query.Get("code_challenge_method"),
	}
	if !s.redirects(application, asked.redirectURI) {
		return nil, errRedirect
	}
	return asked, asked.checkChallenge()
}

func (a *authorization) checkChallenge() error {
	if a.challenge == "" && a.method == "" {
		// Mercado Pago does not miss it here, even where PKCE is on: the token
		// request fails.
		return nil
	}
	switch a.method {
	case "S256":
	case "plain", "Plain", "":
		a.method = "plain"
	default:
		return errChallenge
	}
	if len(a.challenge) < 43 || len(a.challenge) > 128 {
		return errChallenge
	}
	return nil
}

// redirects tells whether a consent may go to this address.
func (s *Sandbox) redirects(application *Application, redirectURI string) bool {
	if slices.Contains(application.RedirectURIs, redirectURI) {
		return true
	}
	if !s.options.AcceptAny {
		return false
	}
	target, err := url.Parse(redirectURI)
	return err == nil && (target.Scheme == "http" || target.Scheme == "https") && target.Host != "" &&
		target.User == nil && target.Fragment == ""
}

// askConsent is GET /authorization: the page that asks.
func (s *Sandbox) askConsent(c *call, r *http.Request) {
	asked, err := s.readAuthorization(r.URL.Query())
	if err != nil {
		s.refuseConsent(c, r, err)
		return
	}
	c.entry.ClientID = clip(asked.application.ClientID)
	accounts := s.options.Accounts
	loggedIn, known := s.loggedIn(r)
	if known {
		accounts = []Account{loggedIn}
	}
	s.showConsent(c, r, asked, accounts, known)
}

// loggedIn is the account that this browser used last: as at the real service,
// it is not asked for again.
func (s *Sandbox) loggedIn(r *http.Request) (Account, bool) {
	cookie, err := r.Cookie(accountCookie)
	if err != nil {
		return Account{}, false
	}
	return s.account(cookie.Value)
}

// account finds one of those that can consent.
func (s *Sandbox) account(userID string) (Account, bool) {
	id, err := strconv.ParseInt(userID, 10, 64)
	if err != nil {
		return Account{}, false
	}
	for _, account := range s.options.Accounts {
		if account.UserID == id {
			return account, true
		}
	}
	return Account{}, false
}

// takeConsent is POST /authorization: the page's answer.
func (s *Sandbox) takeConsent(c *call, r *http.Request) {
	asked, err := s.readAuthorization(r.URL.Query())
	if err == nil {
		err = http.NewCrossOriginProtection().Check(r)
	}
	if err != nil {
		s.refuseConsent(c, r, err)
		return
	}
	c.entry.ClientID = clip(asked.application.ClientID)
	r.Body = http.MaxBytesReader(c, r.Body, maxFormBytes)
	account, known := s.account(r.PostFormValue("account"))
	switch decision := r.PostFormValue("decision"); {
	case decision == "switch":
		setAccount(c, "", -1)
		http.Redirect(c, r, "/authorization?"+r.URL.RawQuery, http.StatusSeeOther)
	case decision == "deny":
		http.Redirect(c, r, s.deny(asked), http.StatusSeeOther)
	case decision == "approve" && known:
		c.entry.UserID = account.UserID
		setAccount(c, formatID(account.UserID), 0)
		http.Redirect(c, r, s.approve(asked, account.UserID), http.StatusSeeOther)
	default:
		s.refuseConsent(c, r, errConsent)
	}
}

func setAccount(w http.ResponseWriter, value string, maxAge int) {
	http.SetCookie(w, &http.Cookie{
		Name: accountCookie, Value: value, Path: "/authorization", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

// approve gives a code, and the address that takes it to the application.
func (s *Sandbox) approve(asked *authorization, userID int64) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.journal.stats.Consents++
	given := s.ledger.giveCode(code{
		clientID: asked.application.ClientID, redirectURI: asked.redirectURI, userID: userID,
		challenge: asked.challenge, method: asked.method,
		expires: s.now().Add(time.Duration(s.settings.CodeLife)),
	})
	return asked.callback(url.Values{"code": {given}})
}

func (s *Sandbox) deny(asked *authorization) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.journal.stats.Denials++
	return asked.callback(url.Values{
		"error": {"access_denied"}, "error_description": {"The user denied the authorization"},
	})
}

// callback is the redirect URI with what the consent came to.
func (a *authorization) callback(result url.Values) string {
	if a.state != "" {
		result.Set("state", a.state)
	}
	target, err := url.Parse(a.redirectURI)
	if err != nil {
		return a.redirectURI // a registered address that is none goes nowhere useful either way
	}
	query := target.Query()
	maps.Copy(query, result)
	target.RawQuery = query.Encode()
	return target.String()
}

// Approve walks the consent page without a browser: it answers with the address
// that the account's browser would be sent to.
func (s *Sandbox) Approve(authorizationURL string, userID int64) (callbackURL string, err error) {
	asked, err := s.parseAuthorization(authorizationURL)
	if err != nil {
		return "", err
	}
	if _, known := s.account(formatID(userID)); !known {
		return "", fmt.Errorf("the sandbox has no account %d", userID)
	}
	return s.approve(asked, userID), nil
}

// Deny is what Approve is, for an account that says no.
func (s *Sandbox) Deny(authorizationURL string) (callbackURL string, err error) {
	asked, err := s.parseAuthorization(authorizationURL)
	if err != nil {
		return "", err
	}
	return s.deny(asked), nil
}

func (s *Sandbox) parseAuthorization(authorizationURL string) (*authorization, error) {
	parsed, err := url.Parse(authorizationURL)
	if err != nil {
		return nil, fmt.Errorf("not an authorization URL: %w", err)
	}
	asked, err := s.readAuthorization(parsed.Query())
	if err != nil {
		return nil, fmt.Errorf("the consent page refuses this authorization URL: %w", err)
	}
	return asked, nil
}
