package sandbox

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// controlView is what the control page shows.
type controlView struct {
	state
	Base     string
	Default  *Application
	Secret   string
	Any      bool
	Kinds    []FaultKind
	Targets  []target
	Problem  string
	Shown    []accountState
	Lives    []life
	Switches []toggle
	Shapes   []string
}

// target is what a fault can be aimed at: a value of the form, and its words.
type target struct{ Value, Words string }

type life struct {
	Name, Words string
	Life        Duration
}

type toggle struct {
	Name, Words string
	On          bool
}

var targets = []target{
	{"grant " + grantRefresh, "token requests: refresh"},
	{"grant " + grantCode, "token requests: code"},
	{"grant " + grantApplication, "token requests: client credentials"},
	{"path " + tokenPath, "all token requests"},
	{"path /users/me", "GET /users/me"},
	{"path /v1/payments", "/v1/payments"},
	{"path /checkout/preferences", "/checkout/preferences"},
	{"path /authorization", "the consent page"},
	{"path ", "every request"},
}

func (s *Sandbox) showControl(w http.ResponseWriter, r *http.Request) {
	s.renderControl(w, r, http.StatusOK, "")
}

func (s *Sandbox) renderControl(w http.ResponseWriter, r *http.Request, status int, problem string) {
	now := s.state()
	view := controlView{
		state: now, Base: scheme(r) + "://" + r.Host, Any: s.options.AcceptAny,
		Kinds: faultKinds(), Targets: targets, Problem: problem,
		Shown: now.Accounts[:min(len(now.Accounts), maxShown)],
		Lives: lives(&now.Settings), Switches: toggles(&now.Settings),
		Shapes: []string{shapeMessage, shapeDescription, shapeKey},
	}
	view.Requests = now.Requests[:min(len(now.Requests), maxShown)]
	for _, application := range now.Applications {
		if application.ClientID == DefaultClientID {
			view.Default = &application
			if application.ClientSecret == DefaultClientSecret { // any other is somebody's
				view.Secret = application.ClientSecret
			}
		}
	}
	show(w, status, "control.html", view)
}

func lives(s *Settings) []life {
	return []life{
		{"access_token_life", "Access token", s.AccessTokenLife},
		{"application_token_life", "Application’s own token", s.ApplicationTokenLife},
		{"refresh_token_life", "Refresh token, unused", s.RefreshTokenLife},
		{"code_life", "Code", s.CodeLife},
		{"notification_retry", "Notification comes again after", s.NotificationRetry},
	}
}

func toggles(s *Settings) []toggle {
	return []toggle{
		{"reuse_revokes", "A spent refresh token that comes again revokes the account", s.ReuseRevokes},
		{"refresh_kills_access", "A refresh kills older access tokens", s.RefreshKillsAccess},
		{"short_refresh_answers", "Refresh answers leave out user_id, public_key and live_mode", s.ShortRefreshAnswers},
		{"keep_refresh_token", "A refresh keeps its refresh token, and leaves it out of the answer", s.KeepRefreshToken},
	}
}

// submitControl takes one of the page's forms and shows the page again, by a
// redirect, so that reloading it does nothing twice.
func (s *Sandbox) submitControl(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxFormBytes)
	if err := s.submit(r); err != nil {
		s.renderControl(w, r, http.StatusBadRequest, err.Error())
		return
	}
	http.Redirect(w, r, controlPath, http.StatusSeeOther)
}

func (s *Sandbox) submit(r *http.Request) error {
	switch action := r.PostFormValue("action"); action {
	case "settings":
		return s.submitSettings(r)
	case "fault":
		return s.submitFault(r)
	case "clear":
		s.ClearFaults()
		return nil
	case "revoke":
		return s.actOn(r.PostFormValue("account"), s.Revoke)
	case "unlink":
		return s.actOn(r.PostFormValue("account"), s.Unlink)
	case "kill":
		return s.actOn(r.PostFormValue("account"), s.KillAccessTokens)
	case "pkce":
		return s.switchPKCE(r.PostFormValue("client_id"), r.PostFormValue("on") == "true")
	case "webhook":
		return s.changeWebhook(r.PostFormValue("client_id"), strings.TrimSpace(r.PostFormValue("webhook_url")), r.PostFormValue("webhook_secret"))
	case "reset":
		s.Reset()
		return nil
	default:
		return fmt.Errorf("this page has no action %q", clip(action))
	}
}

func (s *Sandbox) submitSettings(r *http.Request) error {
	var settings Settings
	for name, field := range map[string]*Duration{
		"access_token_life": &settings.AccessTokenLife, "application_token_life": &settings.ApplicationTokenLife,
		"refresh_token_life": &settings.RefreshTokenLife, "code_life": &settings.CodeLife,
		"notification_retry": &settings.NotificationRetry,
	} {
		if err := readDuration(r, name, field); err != nil {
			return err
		}
	}
	settings.ReuseRevokes = r.PostFormValue("reuse_revokes") != ""
	settings.RefreshKillsAccess = r.PostFormValue("refresh_kills_access") != ""
	settings.ShortRefreshAnswers = r.PostFormValue("short_refresh_answers") != ""
	settings.KeepRefreshToken = r.PostFormValue("keep_refresh_token") != ""
	settings.ErrorShape = r.PostFormValue("error_shape")
	return s.setSettings(settings)
}

func (s *Sandbox) submitFault(r *http.Request) error {
	fault := Fault{Kind: FaultKind(r.PostFormValue("kind")), After: r.PostFormValue("after") != ""}
	if grant, aimed := strings.CutPrefix(r.PostFormValue("target"), "grant "); aimed {
		fault.Grant = grant
	} else {
		fault.Path = strings.TrimPrefix(r.PostFormValue("target"), "path ")
	}
	if account := r.PostFormValue("account"); account != "" {
		id, err := strconv.ParseInt(account, 10, 64)
		if err != nil {
			return fmt.Errorf("the account is a number: %q", clip(account))
		}
		fault.UserID = id
	}
	times, err := strconv.Atoi(r.PostFormValue("times"))
	if err != nil || times < -1 || times > 1_000_000 {
		return fmt.Errorf("how many times is a number, or -1 for every time")
	}
	fault.Times = times
	if err := readDuration(r, "delay", &fault.Delay); err != nil {
		return err
	}
	return s.takeOn(fault)
}

func readDuration(r *http.Request, name string, into *Duration) error {
	text := strings.TrimSpace(r.PostFormValue(name))
	if text == "" {
		return nil
	}
	if err := into.UnmarshalText([]byte(text)); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}
