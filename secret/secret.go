// Package secret keeps what must not be seen: [Secret] holds a value that no
// formatter, encoder or logger prints, and [Keyring] seals values for storage
// and cookies, each under a key of its own purpose.
//
// It imports the standard library and golang.org/x/crypto only.
package secret

import (
	"crypto/subtle"
	"fmt"
)

// masked is what every way of printing a Secret gives.
const masked = "***"

// Secret is a string that prints as ***, whichever way it is printed: by fmt
// with any verb, as JSON or text, by slog and by zap. Only [Secret.Reveal]
// returns the value.
//
// The zero Secret is empty. Secrets are compared with [Secret.Equal]; == only
// compares identities.
type Secret struct {
	// A pointer, because fmt prints unexported fields of an enclosing struct
	// by reflection without asking their methods: it then shows an address.
	value *string
}

// New returns a Secret that holds value.
func New(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{value: &value}
}

// Reveal returns the value. Call it where the value is put on the wire or
// sealed, nowhere else.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

// IsZero reports whether the Secret is empty.
func (s Secret) IsZero() bool { return s.value == nil }

// Equal reports whether both hold the same value, in constant time for values
// of one length.
func (s Secret) Equal(other Secret) bool {
	return subtle.ConstantTimeCompare([]byte(s.Reveal()), []byte(other.Reveal())) == 1
}

// Format prints *** for every verb and flag.
func (Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(masked)) }

// String returns ***.
func (Secret) String() string { return masked }

// GoString returns ***.
func (Secret) GoString() string { return masked }

// MarshalText returns ***; JSON, XML, slog and zap use it.
func (Secret) MarshalText() ([]byte, error) { return []byte(masked), nil }
