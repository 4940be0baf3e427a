package mercadopago

import (
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

// observer writes what the engine tells to the log: one line per connect,
// renewal and failure.
type observer struct {
	logger *zap.Logger
	// cure is what to do where the store cannot be used.
	cure string
}

const (
	storageCure = "Caddy's storage cannot be read or written, or its encryption key is missing: see to its path, permissions, free space and encryption_key; valid tokens serve on meanwhile, and nothing is lost"
	storeCure   = "the store cannot be read or written, or its encryption key is missing: see to the server that it names, what it says, and encryption_key; valid tokens serve on meanwhile, and nothing is lost"
)

// Observe implements tokensource.Observer.
func (o observer) Observe(event tokensource.Event) {
	check := o.logger.Check(level(event.Name), event.Name)
	if check == nil {
		return
	}
	fields := []zap.Field{zap.String("application", event.Application)}
	if event.Seller != "" {
		fields = append(fields, zap.String("seller", event.Seller))
	}
	if event.Account.UserID != 0 {
		fields = append(fields, zap.Int64("user_id", event.Account.UserID), zap.Bool("live", event.Account.Live))
	}
	if event.Pair.Authorization != 0 {
		fields = append(fields, zap.Uint64("authorization", event.Pair.Authorization), zap.Uint64("generation", event.Pair.Generation))
	}
	if event.Reason != "" {
		fields = append(fields, zap.String("reason", event.Reason))
	}
	if event.RetryAfter > 0 {
		fields = append(fields, zap.Duration("retry_after", event.RetryAfter))
	}
	if event.Reason == tokensource.ReasonStore && event.Err != nil {
		fields = append(fields, zap.String("cure", o.cure))
	}
	if r := event.Renewals; r != nil {
		fields = append(fields, zap.Int("due", r.Due), zap.Int("running", r.Running), zap.Int("failing", r.Failing),
			zap.Int("scheduled", r.Scheduled), zap.Duration("lag", r.Lag), zap.Int("accounts", r.Accounts), zap.Duration("walk", r.Walk))
		if !r.Next.IsZero() {
			fields = append(fields, zap.Time("next", r.Next))
		}
	}
	if event.Err != nil {
		fields = append(fields, zap.Error(event.Err))
	}
	check.Write(fields...)
}

func level(name string) zapcore.Level {
	switch name {
	case tokensource.EventAlarm:
		return zapcore.ErrorLevel
	case tokensource.EventRenewalFailed, tokensource.EventReconnectRequired, tokensource.EventNotListening:
		return zapcore.WarnLevel
	}
	return zapcore.InfoLevel
}
