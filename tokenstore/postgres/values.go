package postgres

import (
	"crypto/sha256"
	"database/sql/driver"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// digest is what a row is found by: a hash of several names, each with its length
// in front, so that no two lists of names give the same bytes.
func digest(names ...string) pgtype.UUID {
	var text []byte
	for _, name := range names {
		text = binary.AppendUvarint(text, uint64(len(name)))
		text = append(text, name...)
	}
	sum := sha256.Sum256(text)
	return pgtype.UUID{Bytes: [16]byte(sum[:16]), Valid: true}
}

// number is a digest as the number of an advisory lock.
func number(d pgtype.UUID) int64 { return int64(binary.BigEndian.Uint64(d.Bytes[:8])) }

func accountKey(id tokenstore.AccountID) (pgtype.UUID, error) {
	if err := checkName("client id", id.ClientID); err != nil {
		return pgtype.UUID{}, err
	}
	if id.UserID <= 0 {
		return pgtype.UUID{}, fmt.Errorf("the account's user id is %d: it must be above 0", id.UserID)
	}
	return digest("account", id.String()), nil
}

func placeKey(application, seller string) (pgtype.UUID, error) {
	if err := checkName("seller", seller); err != nil {
		return pgtype.UUID{}, err
	}
	return digest("place", application, seller), nil
}

// checkName refuses what names nobody.
func checkName(what, name string) error {
	if name == "" {
		return fmt.Errorf("the %s is empty", what)
	}
	return nil
}

// pairHash turns a pair's hash into the 16 bytes that it spells.
func pairHash(hash string) (pgtype.UUID, error) {
	raw, err := hex.DecodeString(hash)
	if err != nil || len(raw) != 16 || hash != strings.ToLower(hash) {
		return pgtype.UUID{}, errors.New("the pair's hash is not 32 hexadecimal digits, as HashPair makes them")
	}
	return pgtype.UUID{Bytes: [16]byte(raw), Valid: true}, nil
}

// counted turns a number of ours into one of PostgreSQL's, which have a sign.
func counted(what string, n uint64) (int64, error) {
	if n > math.MaxInt64 {
		return 0, fmt.Errorf("the %s %d is too high", what, n)
	}
	return int64(n), nil
}

// text is text of any characters, NUL too, which PostgreSQL does not take.
type text string

var escaper = strings.NewReplacer(`\`, `\\`, "\x00", `\0`)

// Value implements driver.Valuer.
func (t text) Value() (driver.Value, error) {
	if !utf8.ValidString(string(t)) {
		return nil, errors.New("a name is not valid UTF-8")
	}
	return escaper.Replace(string(t)), nil
}

// Scan implements sql.Scanner.
func (t *text) Scan(src any) error {
	s, ok := src.(string)
	if !ok {
		return fmt.Errorf("text is stored as %T", src)
	}
	return t.UnmarshalText([]byte(s))
}

// UnmarshalText reads what Value wrote.
func (t *text) UnmarshalText(escaped []byte) error {
	plain := make([]byte, 0, len(escaped))
	for i := 0; i < len(escaped); i++ {
		b := escaped[i]
		if b == '\\' && i+1 < len(escaped) {
			i++
			if b = escaped[i]; b == '0' {
				b = 0
			}
		}
		plain = append(plain, b)
	}
	*t = text(plain)
	return nil
}
