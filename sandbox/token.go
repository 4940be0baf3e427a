package sandbox

import (
	"net/http"
	"strings"
	"time"
)

const (
	grantCode        = "authorization_code"
	grantRefresh     = "refresh_token"
	grantApplication = "client_credentials"
)

// tokenAnswer is the token endpoint's answer.
type tokenAnswer struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`
	ExpiresIn    int64  `json:"expires_in"`
	Scope        string `json:"scope"`
	UserID       int64  `json:"user_id,omitempty"`
	RefreshToken string `json:"refresh_token,omitempty"`
	PublicKey    string `json:"public_key,omitempty"`
	LiveMode     *bool  `json:"live_mode,omitempty"`
}

// tokenError is a token request refused. Its note is for the journal: the real
// service's words often leave the cause open.
type tokenError struct {
	code, message, note string
}

const deadGrant = "Error validating grant. Your authorization code or refresh token may be expired or it was already used."

// token is POST /oauth/token.
func (s *Sandbox) token(c *call, r *http.Request) {
	if r.Method != http.MethodPost {
		c.Header().Set("Allow", http.MethodPost)
		c.refuse(http.StatusMethodNotAllowed, "method_not_allowed", "method not allowed")
		return
	}
	answer, refused := s.grant(c)
	if refused == nil {
		c.entry.Outcome = "ok"
		c.answer(http.StatusOK, answer)
		return
	}
	c.entry.Outcome, c.entry.Note = refused.code, refused.note
	c.refuseToken(refused, s.Settings().ErrorShape)
}

// refuseToken tells an error in the shape that is asked for. invalid_client has
// one shape only.
func (c *call) refuseToken(e *tokenError, shape string) {
	body := map[string]any{"status": http.StatusBadRequest, "cause": []any{}}
	switch {
	case e.code == "invalid_client":
		body = map[string]any{"message": e.message, "error": e.code}
	case shape == shapeKey:
		body["message"], body["errorKey"] = e.message, e.code
		if e.code == "invalid_grant" {
			body["errorKey"] = "expired_grant"
		}
	case shape == shapeDescription:
		body["error_description"], body["error"] = e.message, e.code
	default:
		body["message"], body["error"] = e.message, e.code
	}
	c.answer(http.StatusBadRequest, body)
}

// grant carries a token request out. The lock is held throughout: of two
// requests with one refresh token, one wins.
func (s *Sandbox) grant(c *call) (*tokenAnswer, *tokenError) {
	if c.badForm != nil {
		return nil, &tokenError{"invalid_request", c.badForm.Error(), ""}
	}
	form := c.form
	if e := missing(form, "grant_type", "client_id", "client_secret"); e != nil {
		return nil, e
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	application := s.application(form["client_id"])
	if application == nil || !application.knows(form["client_secret"]) {
		return nil, &tokenError{"invalid_client", "invalid client_id or client_secret", ""}
	}
	switch form["grant_type"] {
	case grantCode:
		return s.exchange(c, application)
	case grantRefresh:
		return s.refresh(c, application)
	case grantApplication:
		return s.credentials(c, application), nil
	}
	return nil, &tokenError{"unsupported_grant_type", "unsupported grant_type", ""}
}

// application finds a registered one, or lets an unknown one in where that is
// wanted.
func (s *Sandbox) application(clientID string) *Application {
	known := s.ledger.applications[clientID]
	if known != nil || !s.options.AcceptAny || clientID == "" || len(clientID) > 64 ||
		len(s.ledger.applications) >= maxApplications {
		return known
	}
	for _, r := range clientID {
		if (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '_' && r != '-' {
			return nil
		}
	}
	return s.ledger.register(Application{ClientID: clientID})
}

// missing refuses a request that lacks a field.
func missing(form map[string]string, names ...string) *tokenError {
	var absent []string
	for _, name := range names {
		if form[name] == "" {
			absent = append(absent, name)
		}
	}
	if absent == nil {
		return nil
	}
	return &tokenError{code: "invalid_request", message: "the following parameters are required: " +
		strings.Join(names, ", ") + ". Missing parameters: " + strings.Join(absent, ", ")}
}

// exchange is grant authorization_code.
func (s *Sandbox) exchange(c *call, application *Application) (*tokenAnswer, *tokenError) {
	form := c.form
	if e := missing(form, "code", "redirect_uri"); e != nil {
		return nil, e
	}
	if application.PKCE && form["code_verifier"] == "" {
		return nil, &tokenError{"invalid_request", "code_verifier is a required parameter", ""}
	}
	now := s.now()
	given, known := s.ledger.codes.get(form["code"])
	if !known {
		return nil, &tokenError{"invalid_grant", deadGrant, "unknown code"}
	}
	c.entry.UserID = given.userID
	switch {
	case given.clientID != application.ClientID:
		return nil, &tokenError{"invalid_grant", "the client_id does not match the original", ""}
	case given.used:
		s.journal.stats.CodeReuse++
		return nil, &tokenError{"invalid_grant", deadGrant, "the code was used before, or its account was revoked"}
	case !now.Before(given.expires):
		return nil, &tokenError{"invalid_grant", deadGrant, "the code expired"}
	case given.challenge != "" && form["code_verifier"] == "":
		return nil, &tokenError{"invalid_request", "code_verifier is a required parameter", ""}
	}
	given.used = true // whatever comes of it: a code is for one try
	switch {
	case given.redirectURI != form["redirect_uri"]:
		return nil, &tokenError{"invalid_grant", "The redirect_uri does not match the original", ""}
	case !given.fits(form["code_verifier"]):
		return nil, &tokenError{"invalid_grant", deadGrant, "the code_verifier does not fit the code_challenge"}
	}
	key := lineKey{application.ClientID, given.userID, form["test_token"] != "true"}
	s.notify(key, actionAuthorized)
	return s.ledger.consented(key, application, s.settings, now).answer(), nil
}

// refresh is grant refresh_token.
func (s *Sandbox) refresh(c *call, application *Application) (*tokenAnswer, *tokenError) {
	if e := missing(c.form, "refresh_token"); e != nil {
		return nil, e
	}
	now := s.now()
	given := s.ledger.refreshes[c.form["refresh_token"]]
	if given == nil {
		return nil, &tokenError{"invalid_grant", deadGrant, "unknown, revoked, or made useless by a newer consent"}
	}
	c.entry.UserID = given.userID
	switch {
	case given.clientID != application.ClientID:
		return nil, &tokenError{"invalid_grant", "the client_id does not match the original", ""}
	case given.spent:
		s.journal.stats.RefreshReuse++
		if s.settings.ReuseRevokes {
			s.ledger.revoke(given.userID, given.clientID)
		}
		return nil, &tokenError{"invalid_grant", deadGrant, "the refresh token was used before"}
	case !now.Before(given.expires):
		return nil, &tokenError{"invalid_grant", deadGrant, "the refresh token expired"}
	}
	answer := s.ledger.refreshed(given.lineKey, s.settings, now).answer()
	if s.settings.ShortRefreshAnswers {
		answer.UserID, answer.PublicKey, answer.LiveMode = 0, "", nil
	}
	return answer, nil
}

// credentials is grant client_credentials: a token of the application's own
// account, without a refresh token.
func (s *Sandbox) credentials(c *call, application *Application) *tokenAnswer {
	key := lineKey{application.ClientID, application.OwnerID, c.form["test_token"] != "true"}
	c.entry.UserID = key.userID
	p := s.ledger.giveAccess(key, time.Duration(s.settings.ApplicationTokenLife), s.now())
	p.scope = "read write"
	return p.answer()
}

func (p pair) answer() *tokenAnswer {
	live := p.live
	return &tokenAnswer{
		AccessToken: p.access, TokenType: "bearer", ExpiresIn: wholeSeconds(p.life), Scope: p.scope,
		UserID: p.userID, RefreshToken: p.refresh, PublicKey: p.publicKey(), LiveMode: &live,
	}
}
