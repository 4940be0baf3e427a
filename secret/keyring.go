package secret

import (
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

// Purpose says what a sealed value is for. Each purpose has a sub-key of its
// own, so that what was sealed for one never opens as another.
type Purpose string

// The purposes there are.
const (
	Record  Purpose = "record"  // tokens in a store
	Attempt Purpose = "attempt" // the cookie of an attempt to connect
	Session Purpose = "session" // the cookie of a session
	Link    Purpose = "link"    // a connect link
	Spill   Purpose = "spill"   // a pair that a store did not take yet
	Export  Purpose = "export"  // a sealed export
)

var purposes = []Purpose{Record, Attempt, Session, Link, Spill, Export}

const (
	keySize    = 32
	keyIDSize  = 4
	headerSize = keyIDSize + chacha20poly1305.NonceSizeX
	overhead   = headerSize + chacha20poly1305.Overhead
)

// ErrOpen says that a sealed value was altered, cut, moved from where it
// belongs, or sealed for another purpose.
var ErrOpen = errors.New("sealed value does not open: it was altered, or it belongs elsewhere")

// UnknownKeyError says that a value was sealed with a key that the keyring
// does not hold.
type UnknownKeyError struct {
	// ID is the missing key's id, in hex: 4 bytes derived from the key, which
	// tell nothing of it.
	ID string
}

// Error names the key and the cure.
func (e *UnknownKeyError) Error() string {
	return fmt.Sprintf("sealed with encryption key %s, which is not configured: add that key after the first one in encryption_key", e.ID)
}

// ParseKey reads an encryption key of 32 bytes, written as 64 hex digits or as
// base64 (either alphabet, with or without padding).
func ParseKey(text string) (Secret, error) {
	text = strings.TrimSpace(text)
	if text == "" {
		return Secret{}, errors.New("the encryption key is empty: make one with `openssl rand -base64 32`")
	}
	if len(text) == 2*keySize {
		if raw, err := hex.DecodeString(text); err == nil {
			return New(string(raw)), nil
		}
	}
	unpadded := strings.NewReplacer("+", "-", "/", "_").Replace(strings.TrimRight(text, "="))
	raw, err := base64.RawURLEncoding.DecodeString(unpadded)
	if err != nil {
		return Secret{}, errors.New("the encryption key is neither base64 nor 64 hex digits: make one with `openssl rand -base64 32`")
	}
	if len(raw) != keySize {
		return Secret{}, fmt.Errorf("the encryption key has %d bytes, it needs %d: make one with `openssl rand -base64 32`", len(raw), keySize)
	}
	return New(string(raw)), nil
}

// GenerateKey returns a new random key in base64, as [ParseKey] reads it.
func GenerateKey() Secret {
	raw := make([]byte, keySize)
	_, _ = rand.Read(raw) // never fails: the process ends first
	return New(base64.StdEncoding.EncodeToString(raw))
}

// Keyring seals with its first key and opens with any of its keys. The sealed
// form is the key's id, a random nonce, and XChaCha20-Poly1305 of the text.
// A Keyring is safe for concurrent use.
type Keyring struct {
	keys []key
}

type key struct {
	id [keyIDSize]byte
	// Derived once: a session cookie is opened with every request.
	aeads map[Purpose]cipher.AEAD
}

// NewKeyring returns a keyring of keys as [ParseKey] returns them. The first
// seals, all open.
func NewKeyring(keys ...Secret) (*Keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("a keyring needs at least one key")
	}
	ring := new(Keyring)
	for _, k := range keys {
		raw := k.Reveal()
		if len(raw) != keySize {
			return nil, fmt.Errorf("an encryption key has %d bytes, it needs %d", len(raw), keySize)
		}
		derived, err := derive([]byte(raw))
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(ring.keys, func(k key) bool { return k.id == derived.id }) {
			continue
		}
		ring.keys = append(ring.keys, derived)
	}
	return ring, nil
}

func derive(raw []byte) (key, error) {
	k := key{aeads: make(map[Purpose]cipher.AEAD, len(purposes))}
	id, err := hkdf.Key(sha256.New, raw, nil, "caddy-mercadopago key id", keyIDSize)
	if err != nil {
		return key{}, fmt.Errorf("deriving a key id: %w", err)
	}
	copy(k.id[:], id)
	for _, p := range purposes {
		subkey, err := hkdf.Key(sha256.New, raw, nil, "caddy-mercadopago "+string(p), keySize)
		if err != nil {
			return key{}, fmt.Errorf("deriving the %s key: %w", p, err)
		}
		if k.aeads[p], err = chacha20poly1305.NewX(subkey); err != nil {
			return key{}, fmt.Errorf("making the %s cipher: %w", p, err)
		}
	}
	return k, nil
}

// aead returns the cipher for a purpose. One that is not among the constants is
// a mistake in the program: going on would seal under a key nobody chose.
func (k *key) aead(p Purpose) cipher.AEAD {
	aead := k.aeads[p]
	if aead == nil {
		panic("secret: no such purpose: " + string(p))
	}
	return aead
}

// KeyID returns the id, in hex, of the key that seals.
func (r *Keyring) KeyID() string { return hex.EncodeToString(r.keys[0].id[:]) }

// SealedWith returns the id, in hex, of the key that sealed a value, or "" for
// what cannot be a sealed value.
func SealedWith(sealed []byte) string {
	if len(sealed) < overhead {
		return ""
	}
	return hex.EncodeToString(sealed[:keyIDSize])
}

// Seal encrypts text for a purpose. The names say what the text is and where it
// belongs; [Keyring.Open] must be given the same ones. It panics for a purpose
// that is not one of the constants.
func (r *Keyring) Seal(p Purpose, text []byte, names ...string) []byte {
	k := &r.keys[0]
	aead := k.aead(p)
	sealed := make([]byte, headerSize, overhead+len(text))
	copy(sealed, k.id[:])
	nonce := sealed[keyIDSize:]
	_, _ = rand.Read(nonce) // never fails: the process ends first
	ad := appendAdditionalData(make([]byte, 0, additionalDataBound(p, names)), p, names)
	return aead.Seal(sealed, nonce, text, ad)
}

// Open decrypts what [Keyring.Seal] made with the same purpose and names. It
// returns an [*UnknownKeyError] when no key of the keyring sealed it, and
// [ErrOpen] for everything else. It panics as Seal does.
func (r *Keyring) Open(p Purpose, sealed []byte, names ...string) ([]byte, error) {
	if len(sealed) < overhead {
		return nil, ErrOpen
	}
	i := slices.IndexFunc(r.keys, func(k key) bool { return string(k.id[:]) == string(sealed[:keyIDSize]) })
	if i < 0 {
		return nil, &UnknownKeyError{ID: hex.EncodeToString(sealed[:keyIDSize])}
	}
	// One buffer for the text and, behind it, the additional data: a session
	// costs one allocation here.
	size := len(sealed) - overhead
	buf := make([]byte, size, size+additionalDataBound(p, names))
	ad := appendAdditionalData(buf, p, names)[size:]
	text, err := r.keys[i].aead(p).Open(buf[:0:size], sealed[keyIDSize:headerSize], sealed[headerSize:], ad)
	if err != nil {
		return nil, ErrOpen
	}
	return text, nil
}

func additionalDataBound(p Purpose, names []string) int {
	n := binary.MaxVarintLen64 + len(p)
	for _, name := range names {
		n += binary.MaxVarintLen64 + len(name)
	}
	return n
}

// appendAdditionalData writes each part with its length in front, so that no
// two lists of names give the same bytes.
func appendAdditionalData(ad []byte, p Purpose, names []string) []byte {
	ad = appendPart(ad, string(p))
	for _, name := range names {
		ad = appendPart(ad, name)
	}
	return ad
}

func appendPart(ad []byte, part string) []byte {
	ad = binary.AppendUvarint(ad, uint64(len(part)))
	return append(ad, part...)
}
