package mercadopago

import (
	"errors"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

const (
	defaultRenewalParallel  = 8
	defaultRenewalWalkEvery = 12 * time.Hour
	defaultRenewalWalkRate  = 600

	// mostRenewalWalkRate is one account in a millisecond.
	mostRenewalWalkRate = 60_000
	mostRenewalParallel = 1000
)

// Renewal says how tokens are renewed ahead of time. A queue holds the accounts
// that come due soon, each a little earlier than `renew_before` says and at a time
// of its own. It is filled by walks through the store, which also forget accounts
// that no seller points to, and delete records that have served their time.
type Renewal struct {
	// How many token requests are under way at once, for each application.
	// Fewer are while the provider refuses or fails. Default: 8.
	Parallel int `json:"parallel,omitempty"`

	// How often all accounts of the store are looked at. Default: 12h.
	WalkEvery caddy.Duration `json:"walk_every,omitempty"`

	// How many accounts a minute such a walk reads at most. Default: 600.
	WalkRate int `json:"walk_rate,omitempty"`
}

func (r *Renewal) settings() (tokensource.Renewal, error) {
	settings := tokensource.Renewal{
		Parallel: defaultRenewalParallel, WalkEvery: defaultRenewalWalkEvery, WalkRate: defaultRenewalWalkRate,
	}
	if r == nil {
		return settings, nil
	}
	if r.Parallel < 0 || r.Parallel > mostRenewalParallel {
		return settings, errors.New("renewal.parallel: write a number from 1 to 1000, such as 8")
	}
	if r.WalkRate < 0 || r.WalkRate > mostRenewalWalkRate {
		return settings, errors.New("renewal.walk_rate: write the accounts a minute, from 1 to 60000, such as 600")
	}
	if r.WalkEvery < 0 {
		return settings, errors.New("renewal.walk_every is negative: write a duration such as 12h")
	}
	if r.Parallel > 0 {
		settings.Parallel = r.Parallel
	}
	if r.WalkEvery > 0 {
		settings.WalkEvery = time.Duration(r.WalkEvery)
	}
	if r.WalkRate > 0 {
		settings.WalkRate = r.WalkRate
	}
	return settings, nil
}
