package tokenstore_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

var (
	account = tokenstore.AccountID{ClientID: "1234567890123456", UserID: 4_294_967_299, Live: true}
	moment  = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
)

func keyring(t testing.TB, letters ...string) *secret.Keyring {
	t.Helper()
	var keys []secret.Secret
	for _, letter := range letters {
		keys = append(keys, secret.New(strings.Repeat(letter, 32)))
	}
	ring, err := secret.NewKeyring(keys...)
	require.NoError(t, err)
	return ring
}

func newPair(access, refresh string) tokenstore.Pair {
	p := tokenstore.Pair{
		AccessToken:  secret.New(access),
		RefreshToken: secret.New(refresh),
		PublicKey:    "APP_USR-public",
		Scope:        "offline_access read write",
		ObtainedAt:   moment,
		ExpiresAt:    moment.Add(180 * 24 * time.Hour),
	}
	p.PairID = tokenstore.PairID{Authorization: 2, Generation: 7, Hash: tokenstore.HashPair(p.AccessToken, p.RefreshToken)}
	return p
}

func seal(t testing.TB, p secret.Purpose, pair tokenstore.Pair) []byte {
	t.Helper()
	record, err := tokenstore.SealPair(keyring(t, "a"), p, account, pair)
	require.NoError(t, err)
	return record
}

func TestASealedPairOpensAsItWas(t *testing.T) {
	for _, purpose := range []secret.Purpose{secret.Record, secret.Spill} {
		for name, want := range map[string]tokenstore.Pair{
			"with a refresh token":    newPair("APP_USR-access", "TG-refresh"),
			"without a refresh token": newPair("APP_USR-access", ""),
			"with odd tokens":         newPair("<a> \x00 ü", `"\`),
		} {
			id, got, err := tokenstore.OpenPair(keyring(t, "b", "a"), purpose, seal(t, purpose, want))
			require.NoError(t, err, name)
			require.Equal(t, account, id)
			require.True(t, want.AccessToken.Equal(got.AccessToken))
			require.True(t, want.RefreshToken.Equal(got.RefreshToken))
			got.AccessToken, got.RefreshToken = want.AccessToken, want.RefreshToken
			require.Equal(t, want, got)
		}
	}
}

func TestARecordTellsAnOperatorWhatItIsAndNoToken(t *testing.T) {
	record := string(seal(t, secret.Record, newPair("APP_USR-canary-access", "TG-canary-refresh")))
	require.NotContains(t, record, "canary")
	for _, told := range []string{`"client_id":"1234567890123456"`, `"user_id":4294967299`, `"live":true`, `"authorization":2`, `"generation":7`, `"expires_at":"2026-08-28T12:00:00Z"`, "APP_USR-public"} {
		require.Contains(t, record, told)
	}
}

func TestARecordThatWasMovedOrAlteredDoesNotOpen(t *testing.T) {
	record := seal(t, secret.Record, newPair("APP_USR-access", "TG-refresh"))
	for field, value := range map[string]any{
		"client_id":     "1234567890123457",
		"user_id":       4_294_967_300,
		"live":          false,
		"authorization": 3,
		"generation":    8,
		"hash":          strings.Repeat("0", 32),
	} {
		var fields map[string]any
		require.NoError(t, json.Unmarshal(record, &fields))
		fields["user_id"] = account.UserID
		fields[field] = value
		altered, err := json.Marshal(fields)
		require.NoError(t, err)
		_, _, err = tokenstore.OpenPair(keyring(t, "a"), secret.Record, altered)
		require.ErrorIs(t, err, secret.ErrOpen, field)
		require.ErrorContains(t, err, "restore the record from a back-up", field)
	}
	_, _, err := tokenstore.OpenPair(keyring(t, "a"), secret.Spill, record)
	require.ErrorIs(t, err, secret.ErrOpen, "another purpose")
}

func TestARecordOfAnUnknownKeyNamesTheKeyAndTheCure(t *testing.T) {
	_, _, err := tokenstore.OpenPair(keyring(t, "b"), secret.Record, seal(t, secret.Record, newPair("a", "r")))
	var unknown *secret.UnknownKeyError
	require.ErrorAs(t, err, &unknown)
	require.Equal(t, keyring(t, "a").KeyID(), unknown.ID)
	require.ErrorContains(t, err, "encryption_key")
}

func TestARecordThatCannotBeReadSaysWhatToDo(t *testing.T) {
	record := string(seal(t, secret.Record, newPair("a", "r")))
	const damaged = "the record of a pair is not readable: restore it from a back-up"
	for name, c := range map[string]struct{ record, says string }{
		"a future version":                   {strings.Replace(record, `"version":1`, `"version":2`, 1), "upgrade"},
		"a future version of another form":   {`{"version":9,"user_id":{"of":"another type"}}`, "upgrade"},
		"no version":                         {strings.Replace(record, `"version":1`, `"v":1`, 1), damaged},
		"version 0":                          {strings.Replace(record, `"version":1`, `"version":0`, 1), damaged},
		"a second version that is no number": {strings.Replace(record, `"version":1`, `"version":2,"version":"x"`, 1), damaged},
		"empty":                              {"", damaged},
		"cut":                                {record[:len(record)/2], damaged},
		"no object":                          {"[]", damaged},
		"a user id that is no number":        {strings.Replace(record, "4294967299", `"x"`, 1), damaged},
		"too long":                           {record + strings.Repeat(" ", 64<<10), "back-up"},
	} {
		_, _, err := tokenstore.OpenPair(keyring(t, "a"), secret.Record, []byte(c.record))
		require.ErrorContains(t, err, c.says, name)
	}
}

// A writer other than SealPair, with the right key, could still put tokens under
// another pair's name.
func TestTokensThatAreNotThoseOfTheHashDoNotOpen(t *testing.T) {
	for name, c := range map[string]struct{ tokens, says string }{
		"another refresh token": {`{"access_token":"a","refresh_token":"x"}`, "its hash is not that of its tokens: restore the record from a back-up"},
		"no access token":       {`{"refresh_token":"r"}`, "it has no access token: restore the record from a back-up"},
		"no JSON":               {`canary`, "are not readable: restore the record from a back-up"},
	} {
		pair := newPair("a", "r")
		var fields map[string]any
		require.NoError(t, json.Unmarshal(seal(t, secret.Record, pair), &fields))
		fields["user_id"] = account.UserID
		fields["tokens"] = keyring(t, "a").Seal(secret.Record, []byte(c.tokens), account.ClientID, "4294967299", "live", "2", "7", pair.Hash)
		record, err := json.Marshal(fields)
		require.NoError(t, err)
		_, _, err = tokenstore.OpenPair(keyring(t, "a"), secret.Record, record)
		require.ErrorContains(t, err, c.says, name)
		require.NotContains(t, err.Error(), "canary")
	}
}

func TestAPairThatCouldNotBeFoundAgainIsNotSealed(t *testing.T) {
	unnumbered, renamed := newPair("a", "r"), newPair("a", "r")
	unnumbered.Authorization = 0
	renamed.Hash = strings.Repeat("0", 32)
	endless := newPair("a", "r")
	endless.ExpiresAt = time.Date(10_000, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		pair tokenstore.Pair
		says string
	}{
		"no access token":            {newPair("", "r"), ": it has no access token"},
		"numbered 0":                 {unnumbered, ": authorizations are numbered from 1"},
		"another's hash":             {renamed, ": its hash is not that of its tokens"},
		"a time that JSON has not":   {endless, ": json: error"},
		"a token that JSON mangles":  {newPair("a", "\xff"), ": it would not open again: "},
		"a token too long to reopen": {newPair(strings.Repeat("a", 64<<10), "r"), ": it would not open again: "},
	} {
		_, err := tokenstore.SealPair(keyring(t, "a"), secret.Record, account, c.pair)
		require.ErrorContains(t, err, "sealing pair "+c.pair.PairID.String()+" of "+account.String()+c.says, name)
	}
}

func FuzzOpenPair(f *testing.F) {
	ring := keyring(f, "a")
	record := seal(f, secret.Record, newPair("APP_USR-access", "TG-refresh"))
	f.Add(record)
	f.Add(record[:len(record)-1])
	f.Add([]byte(strings.Replace(string(record), `"version":1`, `"version":2`, 1)))
	f.Add([]byte(strings.Replace(string(record), `"live":true`, `"live":false`, 1)))
	f.Add([]byte(`{"version":1}`))
	f.Add([]byte(`null`))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, record []byte) {
		id, pair, err := tokenstore.OpenPair(ring, secret.Record, record)
		if err != nil {
			require.Zero(t, id)
			require.Zero(t, pair)
			return
		}
		require.Equal(t, account, id, "only what was sealed opens")
		require.Equal(t, newPair("APP_USR-access", "TG-refresh").PairID, pair.PairID)
		require.Equal(t, "TG-refresh", pair.RefreshToken.Reveal())
	})
}
