package sandbox

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Settings are what can be changed while a sandbox runs: lifetimes, and what is
// not known for certain about the real service.
type Settings struct {
	// AccessTokenLife is the life of access tokens given from now on. Default:
	// 180 days.
	AccessTokenLife Duration `json:"access_token_life"`
	// ApplicationTokenLife is the same for client_credentials. Default: 6 h.
	ApplicationTokenLife Duration `json:"application_token_life"`
	// RefreshTokenLife is how long a refresh token may lie unused. Default: 180
	// days.
	RefreshTokenLife Duration `json:"refresh_token_life"`
	// CodeLife is the life of an authorization code. Default: 10 min.
	CodeLife Duration `json:"code_life"`
	// ReuseRevokes makes a refresh token's second use revoke the account's
	// tokens for that application, as careful providers do.
	ReuseRevokes bool `json:"reuse_revokes"`
	// RefreshKillsAccess makes older access tokens die when their pair is
	// refreshed.
	RefreshKillsAccess bool `json:"refresh_kills_access"`
	// ShortRefreshAnswers leaves user_id, public_key and live_mode out of what a
	// refresh answers.
	ShortRefreshAnswers bool `json:"short_refresh_answers"`
	// KeepRefreshToken makes a refresh keep its refresh token, and leaves it out
	// of the answer.
	KeepRefreshToken bool `json:"keep_refresh_token"`
	// NotificationRetry is after how long a notification that was not taken
	// comes again. Default: 15 min.
	NotificationRetry Duration `json:"notification_retry"`
	// ErrorShape is how the token endpoint tells an error: "message" (default),
	// "error_description" or "error_key".
	ErrorShape string `json:"error_shape"`
}

// Duration is a time.Duration that people write as "90s", "6h" or "180d".
type Duration time.Duration

// String is the shortest of these spellings.
func (d Duration) String() string {
	const day = 24 * Duration(time.Hour)
	if d != 0 && d%day == 0 {
		return strconv.FormatInt(int64(d/day), 10) + "d"
	}
	text := time.Duration(d).String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

// MarshalText writes what String does.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads "90s", "6h" or "180d".
func (d *Duration) UnmarshalText(text []byte) error {
	parsed, err := time.ParseDuration(string(text))
	if days, ok := strings.CutSuffix(string(text), "d"); ok {
		var n int64
		n, err = strconv.ParseInt(days, 10, 16)
		parsed = time.Duration(n) * 24 * time.Hour
	}
	if err != nil {
		return fmt.Errorf(`not a duration: %q; write it like "90s", "6h" or "180d"`, clip(string(text)))
	}
	*d = Duration(parsed)
	return nil
}

// The three shapes in which Mercado Pago's token endpoint tells an error.
const (
	shapeMessage     = "message"
	shapeDescription = "error_description"
	shapeKey         = "error_key"
)

func (s Settings) orDefaults() Settings {
	life := func(d *Duration, real time.Duration) {
		if *d == 0 {
			*d = Duration(real)
		}
	}
	const day = 24 * time.Hour
	life(&s.AccessTokenLife, 180*day)
	life(&s.RefreshTokenLife, 180*day)
	life(&s.ApplicationTokenLife, 6*time.Hour)
	life(&s.CodeLife, 10*time.Minute)
	life(&s.NotificationRetry, 15*time.Minute)
	if s.ErrorShape == "" {
		s.ErrorShape = shapeMessage
	}
	return s
}

func (s Settings) check() error {
	for name, d := range map[string]Duration{
		"access_token_life": s.AccessTokenLife, "application_token_life": s.ApplicationTokenLife,
		"refresh_token_life": s.RefreshTokenLife, "code_life": s.CodeLife,
		"notification_retry": s.NotificationRetry,
	} {
		if d < 0 {
			return fmt.Errorf("%s cannot be negative", name)
		}
	}
	switch s.ErrorShape {
	case "", shapeMessage, shapeDescription, shapeKey:
		return nil
	}
	return fmt.Errorf("error_shape is %s, %s or %s", shapeMessage, shapeDescription, shapeKey)
}

// Settings tells the settings as they are.
func (s *Sandbox) Settings() Settings {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.settings
}

// Change changes settings, for what is given or asked from now on.
func (s *Sandbox) Change(change func(*Settings)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.settings)
	s.settings = s.settings.orDefaults()
}

// SetAccessTokenLife sets the life of access tokens given from now on. 0 means
// the real service's 180 days.
func (s *Sandbox) SetAccessTokenLife(d time.Duration) {
	s.Change(func(settings *Settings) { settings.AccessTokenLife = Duration(d) })
}

// SetCodeLife sets the life of codes given from now on. 0 means the real
// service's 10 minutes.
func (s *Sandbox) SetCodeLife(d time.Duration) {
	s.Change(func(settings *Settings) { settings.CodeLife = Duration(d) })
}

// SetPKCE switches PKCE on (mandatory) or off (optional) for an application, as
// its dashboard does. It tells whether the application is known.
func (s *Sandbox) SetPKCE(clientID string, on bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	application := s.ledger.applications[clientID]
	if application == nil {
		return false
	}
	application.PKCE = on
	return true
}

// SetClientSecret renews an application's secret: the old one is refused from
// here on. It tells whether the application is known.
func (s *Sandbox) SetClientSecret(clientID, secret string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	application := s.ledger.applications[clientID]
	if application == nil {
		return false
	}
	application.ClientSecret = secret
	return true
}
