package tokenstore_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

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
