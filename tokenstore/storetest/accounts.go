package storetest

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

var accountPromises = []promise{
	{"AnUnknownAccountIsEmpty", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		for _, store := range []tokenstore.Store{a, b} {
			require.Equal(t, tokenstore.Account{ID: account}, load(t, store, account))
		}
	}},
	{"PairsAreReadBackInOrder", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		// No refresh token, and numbers whose text sorts otherwise.
		bare := pair(2, 0, "bare")
		bare.RefreshToken, bare.PublicKey, bare.Scope = secret.Secret{}, "", ""
		bare.Hash = tokenstore.HashPair(bare.AccessToken, bare.RefreshToken)
		for _, p := range []tokenstore.Pair{pair(10, 0, "z"), bare, pair(1, 10, "y"), pair(1, 9, "x")} {
			require.NoError(t, a.AddPair(t.Context(), account, p))
		}
		requirePairs(t, account, []tokenstore.Pair{pair(1, 9, "x"), pair(1, 10, "y"), bare, pair(10, 0, "z")}, a, b)
	}},
	{"ToAddTheSamePairAgainIsNoError", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		p := pair(1, 0, "x")
		require.NoError(t, a.AddPair(t.Context(), account, p))
		require.NoError(t, a.AddPair(t.Context(), account, p))
		require.NoError(t, b.AddPair(t.Context(), account, p))
		requirePairs(t, account, []tokenstore.Pair{p}, a, b)
	}},
	{"TwoPairsWithOneNumberBothStay", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		x, y := pair(1, 0, "x"), pair(1, 0, "y")
		require.NoError(t, a.AddPair(t.Context(), account, x))
		require.NoError(t, b.AddPair(t.Context(), account, y))
		want := []tokenstore.Pair{x, y}
		if y.Less(x.PairID) {
			want = []tokenstore.Pair{y, x}
		}
		requirePairs(t, account, want, a, b)
	}},
	{"APairThatCouldNotBeFoundAgainIsRefused", func(t *testing.T, _ *suite, a, b tokenstore.Store) {
		unnumbered, renamed, empty := pair(0, 0, "x"), pair(1, 0, "x"), pair(1, 0, "x")
		renamed.Hash = pair(1, 0, "y").Hash
		empty.AccessToken = secret.Secret{}
		for _, p := range []tokenstore.Pair{unnumbered, renamed, empty} {
			require.Error(t, a.AddPair(t.Context(), account, p))
		}
		requirePairs(t, account, nil, a, b)
	}},
	{"OnlyTheNamedPairsAreDeletedWithTheirVerdicts", onlyTheNamedPairsAreDeleted},
	{"TheLastVerdictOnAPairStandsAndIsVoidForAnyOther", theLastVerdictStands},
	{"AnIntentHasAKeyOfItsOwn", anIntentHasAKeyOfItsOwn},
	{"MarksLieUnderTheIDOfTheirConnection", marksLieUnderTheirConnection},
	{"ATombstoneVoidsAndIsNeverLowered", aTombstoneIsNeverLowered},
	{"AccountsDoNotMix", accountsDoNotMix},
	{"PairsThatManyAddAreAllKept", pairsThatManyAddAreAllKept},
	{"AReaderNeverSeesAnAccountBetweenTwoPairs", aReaderNeverSeesNothing},
}

func onlyTheNamedPairsAreDeleted(t *testing.T, _ *suite, a, b tokenstore.Store) {
	x, y, z := pair(1, 0, "x"), pair(1, 0, "y"), pair(1, 1, "z")
	// A provider that does not change the refresh token: another pair, one hash.
	successor := pair(2, 1, "z")
	successor.AccessToken = secret.New("APP_USR-successor")
	for _, p := range []tokenstore.Pair{x, y, z, successor} {
		require.NoError(t, a.AddPair(t.Context(), account, p))
	}
	for _, hash := range []string{x.Hash, y.Hash, z.Hash} {
		require.NoError(t, a.PutVerdict(t.Context(), account, tokenstore.Verdict{Pair: hash, Reason: "invalid_grant", At: moment}))
	}
	require.NoError(t, b.DeletePairs(t.Context(), account))
	require.Len(t, load(t, a, account).Pairs, 4, "to delete none deletes none")

	require.NoError(t, b.DeletePairs(t.Context(), account, x.PairID, z.PairID))
	require.NoError(t, a.DeletePairs(t.Context(), account, x.PairID), "what is gone is no error")
	requirePairs(t, account, []tokenstore.Pair{y, successor}, a, b)
	for _, store := range []tokenstore.Store{a, b} {
		got := load(t, store, account)
		require.Nil(t, got.Verdict(x.Hash), "a verdict goes with its pair")
		require.NotNil(t, got.Verdict(y.Hash))
		require.NotNil(t, got.Verdict(z.Hash), "a verdict stays while a pair with that hash is left")
		require.Empty(t, got.Living())
	}
}

func theLastVerdictStands(t *testing.T, _ *suite, a, b tokenstore.Store) {
	x, y := pair(1, 0, "x"), pair(1, 1, "y")
	require.NoError(t, a.AddPair(t.Context(), account, x))
	require.NoError(t, a.AddPair(t.Context(), account, y))
	last := tokenstore.Verdict{Pair: y.Hash, Reason: "unauthorized_client", At: moment.Add(time.Hour)}
	require.NoError(t, a.PutVerdict(t.Context(), account, tokenstore.Verdict{Pair: y.Hash, Reason: "invalid_grant", At: moment}))
	require.NoError(t, b.PutVerdict(t.Context(), account, last))
	for _, store := range []tokenstore.Store{a, b} {
		got := load(t, store, account)
		require.Equal(t, []tokenstore.Verdict{last}, got.Verdicts)
		living := got.Living()
		require.Len(t, living, 1)
		requireSamePair(t, x, living[0])
	}
}

func anIntentHasAKeyOfItsOwn(t *testing.T, _ *suite, a, b tokenstore.Store) {
	x, y := pair(1, 0, "x").Hash, pair(1, 1, "y").Hash
	intents := []tokenstore.Intent{
		{Pair: x, Instance: "one", Nonce: "n", Attempt: 1, At: moment},
		{Pair: y, Instance: "one", Nonce: "n", At: moment},
		{Pair: x, Instance: "two", Nonce: "n", At: moment},
		{Pair: x, Instance: "one", Nonce: "m", At: moment},
		{Pair: x, Instance: "on", Nonce: "en", At: moment},
		{Pair: x, Instance: "", Nonce: "", At: moment},
		{Pair: x, Instance: "../..", Nonce: "a/b", At: moment},
	}
	for _, intent := range intents {
		require.NoError(t, a.PutIntent(t.Context(), account, intent))
	}
	require.ElementsMatch(t, intents, load(t, b, account).Intents)

	intents[0].At = moment.Add(time.Minute)
	require.NoError(t, b.PutIntent(t.Context(), account, intents[0]), "to write it again renews it")
	require.ElementsMatch(t, intents, load(t, a, account).Intents)

	require.NoError(t, a.DeleteIntent(t.Context(), account, intents[0]))
	require.NoError(t, b.DeleteIntent(t.Context(), account, intents[0]), "what is gone is no error")
	require.ElementsMatch(t, intents[1:], load(t, b, account).Intents)
}

func marksLieUnderTheirConnection(t *testing.T, _ *suite, a, b tokenstore.Store) {
	var marks []tokenstore.Mark
	for i, name := range oddNames()[:20] {
		marks = append(marks, tokenstore.Mark{Connection: name, Authorization: uint64(i), At: moment})
		require.NoError(t, a.PutMark(t.Context(), account, marks[i]))
	}
	marks[0].Authorization = 41
	require.NoError(t, b.PutMark(t.Context(), account, marks[0]))
	got := load(t, a, account)
	require.ElementsMatch(t, marks, got.Marks)
	require.Equal(t, uint64(42), got.NextAuthorization())
	require.NoError(t, a.DeleteMark(t.Context(), account, marks[0]))
	require.NoError(t, b.DeleteMark(t.Context(), account, marks[0]), "what is gone is no error")
	require.ElementsMatch(t, marks[1:], load(t, b, account).Marks)
}

func aTombstoneIsNeverLowered(t *testing.T, s *suite, a, b tokenstore.Store) {
	x, y, z := pair(1, 5, "x"), pair(2, 0, "y"), pair(3, 0, "z")
	for _, p := range []tokenstore.Pair{x, y, z} {
		require.NoError(t, a.AddPair(t.Context(), account, p))
	}
	require.NoError(t, a.PutTombstone(t.Context(), account, 0))
	whole := load(t, b, account)
	require.Len(t, whole.Living(), 3, "0 voids nothing")
	require.NoError(t, a.PutTombstone(t.Context(), account, 2))
	require.NoError(t, b.PutTombstone(t.Context(), account, 1))
	for _, store := range []tokenstore.Store{a, b} {
		got := load(t, store, account)
		require.Equal(t, uint64(2), got.Tombstone)
		require.Len(t, got.Living(), 1)
		requireSamePair(t, z, got.Living()[0])
	}
	require.NoError(t, a.PutTombstone(t.Context(), account, 9))
	require.NoError(t, a.DeletePairs(t.Context(), account, x.PairID, y.PairID, z.PairID))
	got := load(t, b, account)
	require.Equal(t, uint64(10), got.NextAuthorization(), "the number outlives the pairs")

	// In every order at once: the highest stays.
	requireAllNil(t, atOnce(20, func(i int) error {
		return []tokenstore.Store{a, b}[i%2].PutTombstone(t.Context(), account, uint64(30-i))
	}))
	s.settle()
	require.Equal(t, uint64(30), load(t, a, account).Tombstone)
	require.Equal(t, uint64(30), load(t, b, account).Tombstone)
}

func accountsDoNotMix(t *testing.T, _ *suite, a, b tokenstore.Store) {
	ids := []tokenstore.AccountID{
		account,
		{ClientID: account.ClientID, UserID: account.UserID},
		{ClientID: account.ClientID, UserID: account.UserID + 1<<32, Live: true},
		{ClientID: account.ClientID + "0", UserID: account.UserID, Live: true},
		{ClientID: account.ClientID, UserID: 1, Live: true},
		{ClientID: account.ClientID + "/1", UserID: 1, Live: true},
	}
	for i, id := range ids {
		p := pair(1, uint64(i), fmt.Sprint(i))
		require.NoError(t, a.AddPair(t.Context(), id, p))
		require.NoError(t, a.PutIntent(t.Context(), id, tokenstore.Intent{Pair: p.Hash, Instance: "i", Nonce: "n", At: moment}))
		require.NoError(t, a.PutVerdict(t.Context(), id, tokenstore.Verdict{Pair: p.Hash, Reason: "invalid_grant", At: moment}))
	}
	require.NoError(t, b.PutTombstone(t.Context(), ids[1], 7))
	require.NoError(t, b.DeletePairs(t.Context(), ids[1], pair(1, 1, "1").PairID))
	for i, id := range ids {
		got := load(t, b, id)
		require.Len(t, got.Intents, 1)
		if i == 1 {
			require.Empty(t, got.Pairs)
			continue
		}
		require.Zero(t, got.Tombstone)
		require.Len(t, got.Verdicts, 1)
		requirePairs(t, id, []tokenstore.Pair{pair(1, uint64(i), fmt.Sprint(i))}, a)
	}
}

// pairsThatManyAddAreAllKept adds under the lock, where all must be seen at
// once, and without it, as one does who lost the lease and saves what it has.
func pairsThatManyAddAreAllKept(t *testing.T, s *suite, a, b tokenstore.Store) {
	stores := []tokenstore.Store{a, b}
	requireAllNil(t, atOnce(6, func(i int) error {
		return locked(t.Context(), stores[i%2], account, func() error {
			return stores[i%2].AddPair(t.Context(), account, pair(1, uint64(i), fmt.Sprint("locked", i)))
		})
	}))
	if !s.exclusive {
		s.settle()
	}
	require.Len(t, load(t, a, account).Pairs, 6)
	require.Len(t, load(t, b, account).Pairs, 6)

	requireAllNil(t, atOnce(20, func(i int) error {
		return stores[i%2].AddPair(t.Context(), account, pair(2, uint64(i), fmt.Sprint("free", i)))
	}))
	s.settle()
	require.Len(t, load(t, a, account).Pairs, 26)
	require.Len(t, load(t, b, account).Pairs, 26)
}

// aReaderNeverSeesNothing reads while another instance adds the next pair and
// deletes the last one. An account that seems to have no pair for a moment would
// send its seller to reconnect.
func aReaderNeverSeesNothing(t *testing.T, _ *suite, a, b tokenstore.Store) {
	const rounds = 60
	last := pair(1, 0, "0")
	require.NoError(t, a.AddPair(t.Context(), account, last))
	done := make(chan struct{})
	errs := atOnce(3, func(n int) error {
		if n == 0 {
			defer close(done)
			for i := uint64(1); i <= rounds; i++ {
				next := pair(1, i, fmt.Sprint(i))
				if err := a.AddPair(t.Context(), account, next); err != nil {
					return err
				}
				if err := a.DeletePairs(t.Context(), account, last.PairID); err != nil {
					return err
				}
				last = next
			}
			return nil
		}
		for seen := uint64(0); ; {
			got, err := b.Account(t.Context(), account)
			if err != nil {
				return err
			}
			if len(got.Living()) == 0 {
				return errors.New("an account without a living pair was seen")
			}
			if g := got.Living()[0].Generation; g < seen {
				return fmt.Errorf("generation %d was seen after %d", g, seen)
			}
			seen = got.Living()[0].Generation
			select {
			case <-done:
				return nil
			default:
			}
		}
	})
	requireAllNil(t, errs)
	require.True(t, slices.ContainsFunc(load(t, b, account).Pairs, func(p tokenstore.Pair) bool { return p.PairID == last.PairID }))
}
