package tokensource

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

func TestAPairIsDueWhenItsRenewalIsNeitherTooLateNorAlwaysDue(t *testing.T) {
	const day = 24 * time.Hour
	obtained := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		life, renewBefore, now, want time.Duration
	}{
		"by default a month before its end":             {180 * day, 0, day, 150 * day},
		"as configured":                                 {180 * day, 45 * day, day, 135 * day},
		"not before a sixth of its life":                {180 * day, 200 * day, day, 30 * day},
		"up to a sixth of its life":                     {180 * day, 150 * day, day, 30 * day},
		"a short life has a third left":                 {6 * time.Hour, 30 * day, time.Hour, 4 * time.Hour},
		"obtained in the future it is due now":          {180 * day, 30 * day, -day, -day},
		"a little in the future is a clock that is off": {180 * day, 30 * day, -time.Minute, 150 * day},
	} {
		t.Run(name, func(t *testing.T) {
			p := pack(&tokenstore.Pair{ObtainedAt: obtained, ExpiresAt: obtained.Add(test.life)})
			got := p.dueAt(obtained.Add(test.now), test.renewBefore).time()
			require.Equal(t, obtained.Add(test.want), got)
		})
	}
}
