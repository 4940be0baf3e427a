package caddystorage

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// safePart is what every file system and storage keeps as it is, under the
// length that the strictest allow.
var safePart = regexp.MustCompile(`^[nh]-[a-z0-9]{0,80}$`)

func FuzzEveryNameHasAKeyOfItsOwn(f *testing.F) {
	for _, name := range []string{"", ".", "..", "a/b", "A", "a", "ä", "a\u0308", "\x00", "\xff", "n-", "shop-42", strings.Repeat("x", 50), strings.Repeat("x", 51), strings.Repeat("x", 10_000)} {
		f.Add(name, name+"x")
		f.Add(name, strings.ToUpper(name))
		f.Add(name, part(name))
	}
	f.Fuzz(func(t *testing.T, name, other string) {
		p := part(name)
		require.Regexp(t, safePart, p)
		require.Equal(t, name == other, p == part(other), "one to one")
		if text, ok := strings.CutPrefix(p, "n-"); ok {
			decoded, err := base32Lower.DecodeString(text)
			require.NoError(t, err)
			require.Equal(t, name, string(decoded))
		}
		require.NotEqual(t, "h-", p)
		key, err := connectionKey("", name)
		if err != nil {
			return
		}
		require.True(t, strings.HasPrefix(key, "mercadopago/connections/n-/"), key)
		require.Equal(t, 3, strings.Count(key, "/"))
	})
}

func FuzzOnlyOurRecordsAreTakenForRecords(f *testing.F) {
	pair, _ := pairName(tokenstore.PairID{Authorization: 1, Generation: 2, Hash: strings.Repeat("a", 32)})
	f.Add(pair)
	f.Add("index")
	f.Add("tombstone")
	f.Add("tombstone-18446744073709551615")
	f.Add("2837461923")
	f.Add("connection-n-a/pair")
	f.Fuzz(func(t *testing.T, name string) {
		if !recordName.MatchString(name) {
			return
		}
		require.NotContains(t, name, "/")
		require.NotContains(t, name, ".")
		require.Less(t, len(name), 143)
		require.Contains(t, []string{"pair", "verdict", "intent", "mark", "connection", "tombstone"}, kind(name))
	})
}

func TestRecordsHaveTheShapeThatListingsAreSearchedFor(t *testing.T) {
	hash := strings.Repeat("0f", 16)
	pair, err := pairName(tokenstore.PairID{Authorization: 1<<64 - 1, Generation: 1<<64 - 1, Hash: hash})
	require.NoError(t, err)
	verdict, err := verdictName(hash)
	require.NoError(t, err)
	intent, err := intentName(tokenstore.Intent{Pair: hash})
	require.NoError(t, err)
	names := []string{pair, verdict, intent, "tombstone-" + strconv.FormatUint(1<<64-1, 10)}
	for _, id := range []string{"a", "..", strings.Repeat("x", 50), strings.Repeat("x", 51)} {
		mark, err := markName(tokenstore.Mark{Connection: id})
		require.NoError(t, err)
		_, _, connection, err := connectionPlaces(tokenstore.Connection{ID: id, Seller: "s", Account: tokenstore.AccountID{ClientID: "1", UserID: 1}})
		require.NoError(t, err)
		names = append(names, mark, connection)
	}
	for _, name := range names {
		require.Regexp(t, recordName, name)
	}
	longest := 0
	for _, name := range names {
		longest = max(longest, len(name)+len(`"",`))
	}
	require.Less(t, longest*longestIndex, maxRecord*7/8, "a full index can be read back")
}

func TestAHashThatHashPairDidNotMakeIsNoKey(t *testing.T) {
	for _, hash := range []string{"", "..", "../../../x", strings.Repeat("A", 32), strings.Repeat("a", 33), strings.Repeat("a", 31) + "\n"} {
		_, err := pairName(tokenstore.PairID{Authorization: 1, Hash: hash})
		require.Error(t, err)
		_, err = verdictName(hash)
		require.Error(t, err)
		_, err = intentName(tokenstore.Intent{Pair: hash})
		require.Error(t, err)
	}
}

// Caddy's files fold what they are given for a lock's name.
func TestLockNamesSurviveFolding(t *testing.T) {
	a, err := accountFolder(tokenstore.AccountID{ClientID: "A", UserID: 1})
	require.NoError(t, err)
	name := lockName("account", a)
	require.Equal(t, name, certmagic.StorageKeys.Safe(name))
	require.Regexp(t, `^[a-z0-9]+$`, name)
	require.NotEqual(t, lockName("ab", "c"), lockName("a", "bc"))
}
