package tokenstore

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

const (
	// pairVersion is raised when an older reader would misread a record. New
	// fields that may be ignored do not raise it.
	pairVersion = 1

	// maxPairRecord bounds what is parsed. Real records have about 1 KiB.
	maxPairRecord = 64 << 10
)

// pairRecord is how a pair lies in a store: everything that is no secret in
// clear, so that an operator can tell what a record is, and the tokens sealed.
type pairRecord struct {
	Version int `json:"version"`
	AccountID
	PairID
	PublicKey  string    `json:"public_key,omitempty"`
	Scope      string    `json:"scope,omitempty"`
	ObtainedAt time.Time `json:"obtained_at"`
	ExpiresAt  time.Time `json:"expires_at"`
	// Tokens is a sealed pairTokens.
	Tokens []byte `json:"tokens"`
}

type pairTokens struct {
	Access  string `json:"access_token"`
	Refresh string `json:"refresh_token,omitempty"`
}

// SealPair returns a pair's record, for a store ([secret.Record]) or for a spill
// file ([secret.Spill]). The tokens are bound to the account and to the pair's
// numbers and hash: a record moved to another account does not open.
//
// A pair that could never be found again is refused: one without an access
// token, numbered 0, or with a hash that is not that of its tokens.
func SealPair(k *secret.Keyring, p secret.Purpose, id AccountID, pair Pair) ([]byte, error) {
	if err := checkPair(pair); err != nil {
		return nil, fmt.Errorf("sealing pair %s of %s: %w", pair.PairID, id, err)
	}
	tokens, _ := json.Marshal(pairTokens{ // strings always have a JSON form
		Access:  pair.AccessToken.Reveal(),
		Refresh: pair.RefreshToken.Reveal(),
	})
	record, err := json.Marshal(pairRecord{
		Version:    pairVersion,
		AccountID:  id,
		PairID:     pair.PairID,
		PublicKey:  pair.PublicKey,
		Scope:      pair.Scope,
		ObtainedAt: pair.ObtainedAt.UTC(),
		ExpiresAt:  pair.ExpiresAt.UTC(),
		Tokens:     k.Seal(p, tokens, pairNames(id, pair.PairID)...),
	})
	if err != nil {
		return nil, fmt.Errorf("sealing pair %s of %s: %w", pair.PairID, id, err)
	}
	// What could not be opened again must not be written: the caller still
	// holds the tokens and can say so now.
	if _, _, err := OpenPair(k, p, record); err != nil {
		return nil, fmt.Errorf("sealing pair %s of %s: it would not open again: %w", pair.PairID, id, err)
	}
	return record, nil
}

// OpenPair reads what [SealPair] made for the same purpose, and returns the
// account and the pair. The error says what to do; it wraps a
// [*secret.UnknownKeyError] where the record was sealed with a key that is not
// configured, and [secret.ErrOpen] where it was altered or moved. It is an
// [*UnreadableError] in any case.
func OpenPair(k *secret.Keyring, p secret.Purpose, record []byte) (AccountID, Pair, error) {
	id, pair, err := openPair(k, p, record)
	if err != nil {
		return AccountID{}, Pair{}, &UnreadableError{Err: err}
	}
	return id, pair, nil
}

func openPair(k *secret.Keyring, p secret.Purpose, record []byte) (AccountID, Pair, error) {
	r, err := parsePairRecord(record)
	if err != nil {
		return AccountID{}, Pair{}, err
	}
	text, err := k.Open(p, r.Tokens, pairNames(r.AccountID, r.PairID)...)
	if errors.Is(err, secret.ErrOpen) {
		err = fmt.Errorf("%w: restore the record from a back-up", err)
	}
	if err != nil {
		return AccountID{}, Pair{}, fmt.Errorf("the tokens of pair %s of %s: %w", r.PairID, r.AccountID, err)
	}
	var tokens pairTokens
	if err := json.Unmarshal(text, &tokens); err != nil {
		// Not wrapped: a parser's error may quote what it read.
		return AccountID{}, Pair{}, fmt.Errorf("the tokens of pair %s of %s are not readable: restore the record from a back-up", r.PairID, r.AccountID)
	}
	pair := Pair{
		PairID:       r.PairID,
		AccessToken:  secret.New(tokens.Access),
		RefreshToken: secret.New(tokens.Refresh),
		PublicKey:    r.PublicKey,
		Scope:        r.Scope,
		ObtainedAt:   r.ObtainedAt,
		ExpiresAt:    r.ExpiresAt,
	}
	if err := checkPair(pair); err != nil {
		return AccountID{}, Pair{}, fmt.Errorf("pair %s of %s: %w: restore the record from a back-up", r.PairID, r.AccountID, err)
	}
	return r.AccountID, pair, nil
}

func parsePairRecord(record []byte) (pairRecord, error) {
	if len(record) > maxPairRecord {
		return pairRecord{}, fmt.Errorf("the record of a pair has %d bytes, the most is %d: restore it from a back-up", len(record), maxPairRecord)
	}
	// The version is read alone first: the rest of a future record may have
	// other types.
	var v struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(record, &v); err != nil || v.Version < 1 {
		return pairRecord{}, errors.New("the record of a pair is not readable: restore it from a back-up")
	}
	if v.Version > pairVersion {
		return pairRecord{}, fmt.Errorf("the record of a pair has version %d, this program reads up to %d: upgrade caddy-mercadopago", v.Version, pairVersion)
	}
	var r pairRecord
	if err := json.Unmarshal(record, &r); err != nil {
		return pairRecord{}, errors.New("the record of a pair is not readable: restore it from a back-up")
	}
	return r, nil
}

// checkPair holds a pair against its own name.
func checkPair(pair Pair) error {
	switch {
	case pair.AccessToken.IsZero():
		return errors.New("it has no access token")
	case pair.Authorization == 0:
		// Account.Living would never return it.
		return errors.New("authorizations are numbered from 1")
	case pair.Hash != HashPair(pair.AccessToken, pair.RefreshToken):
		return errors.New("its hash is not that of its tokens")
	}
	return nil
}

// pairNames is the additional data of a pair's tokens: what they are, and where
// they belong.
func pairNames(id AccountID, pair PairID) []string {
	mode := "test"
	if id.Live {
		mode = "live"
	}
	return []string{
		id.ClientID,
		strconv.FormatInt(id.UserID, 10),
		mode,
		strconv.FormatUint(pair.Authorization, 10),
		strconv.FormatUint(pair.Generation, 10),
		pair.Hash,
	}
}
