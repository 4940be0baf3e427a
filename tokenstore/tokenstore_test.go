package tokenstore_test

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

func TestALogNamesWhetherAnAccountIsLive(t *testing.T) {
	id := tokenstore.AccountID{ClientID: "1234567890123456", UserID: 4_294_967_299}
	require.Equal(t, "1234567890123456/4294967299/test", id.String())
	id.Live = true
	require.Equal(t, "1234567890123456/4294967299/live", id.String())
}

func TestPairsAreOrderedByAuthorizationThenGenerationThenHash(t *testing.T) {
	ascending := []tokenstore.PairID{
		{Authorization: 1, Generation: 1, Hash: "c"},
		{Authorization: 1, Generation: 2, Hash: "a"},
		{Authorization: 1, Generation: 2, Hash: "b"},
		{Authorization: 2, Generation: 0, Hash: "a"},
		{Authorization: 2, Generation: 1, Hash: "a"},
	}
	for i, a := range ascending {
		for j, b := range ascending {
			require.Equal(t, i < j, a.Less(b), "%s before %s", a, b)
		}
	}
}

func TestAPairIsNamedAfterItsRefreshTokenOrElseItsAccessToken(t *testing.T) {
	hash := func(access, refresh string) string {
		return tokenstore.HashPair(secret.New(access), secret.New(refresh))
	}
	hashes := []string{hash("a", "1"), hash("a", "2"), hash("a", ""), hash("b", "")}
	slices.Sort(hashes)
	require.Len(t, slices.Compact(hashes), 4, "different pairs must not share a name")
	require.Equal(t, hash("a", "1"), hash("b", "1"))
	require.Regexp(t, `^[0-9a-f]{32}$`, hash("a", ""))
}

func TestAConsentIsNumberedAboveAllThatCouldVoidIt(t *testing.T) {
	pair := newPair("a", "r")
	pair.Authorization = 3
	for name, account := range map[string]tokenstore.Account{
		"a pair":      {Pairs: []tokenstore.Pair{pair}, Tombstone: 1},
		"a tombstone": {Tombstone: 3},
		"a mark":      {Marks: []tokenstore.Mark{{Authorization: 3}}, Tombstone: 1},
	} {
		require.Equal(t, uint64(4), account.NextAuthorization(), name)
	}
}

func TestOnlyAPairAboveTheTombstoneWithoutAVerdictLives(t *testing.T) {
	lower, higher := newPair("a", "1"), newPair("a", "2")
	lower.Authorization, higher.Authorization = 1, 2
	account := tokenstore.Account{Pairs: []tokenstore.Pair{lower, higher}}
	require.Equal(t, []tokenstore.Pair{higher, lower}, account.Living())
	account.Tombstone = 1
	require.Equal(t, []tokenstore.Pair{higher}, account.Living())
	account.Verdicts = []tokenstore.Verdict{{Pair: higher.Hash}}
	require.Empty(t, account.Living())
}
