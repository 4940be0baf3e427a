package tokensource

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unique"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// everyone is a store that has every seller there could be, with names and tokens
// as long as real ones, and holds none of them.
type everyone struct {
	tokenstore.Store
	obtained time.Time
}

func (e everyone) Connection(_ context.Context, application, name string) (tokenstore.Connection, error) {
	var n int64
	if _, err := fmt.Sscanf(name, "shop-%d", &n); err != nil {
		return tokenstore.Connection{}, err
	}
	return tokenstore.Connection{
		ID: digest(n), Application: strings.Clone(application), Seller: strings.Clone(name), Account: accountID(5_411_000_000 + n), Authorization: 1,
		Nickname: fmt.Sprintf("VENDEDOR%d", n), Country: strings.Clone("AR"), CreatedAt: e.obtained,
	}, nil
}

func (e everyone) Account(_ context.Context, id tokenstore.AccountID) (tokenstore.Account, error) {
	random := digest(id.UserID)
	pair := tokenstore.Pair{
		AccessToken:  secret.New(fmt.Sprintf("APP_USR-4934588586838432-112210-%s-%d", random, id.UserID)),
		RefreshToken: secret.New(fmt.Sprintf("TG-%s-%d", random[:24], id.UserID)),
		PublicKey:    fmt.Sprintf("APP_USR-%s-%s-%s-%s-%s", random[:8], random[8:12], random[12:16], random[16:20], random[20:]),
		Scope:        strings.Clone("offline_access read write"), ObtainedAt: e.obtained, ExpiresAt: e.obtained.Add(180 * day),
	}
	pair.PairID = tokenstore.PairID{Authorization: 1, Hash: tokenstore.HashPair(pair.AccessToken, pair.RefreshToken)}
	return tokenstore.Account{ID: id, Pairs: []tokenstore.Pair{pair}}, nil
}

func (w *world) withEveryone() *instance {
	return w.instance(func(c *Config) {
		c.Open = func(context.Context) (tokenstore.Store, *secret.Keyring, error) {
			return everyone{obtained: time.Now()}, w.keyring, nil
		}
	})
}

// serves requires a token for each of some of everyone's sellers.
func (i *instance) serves(from, to int) {
	i.w.t.Helper()
	for n := from; n < to; n++ {
		_, err := i.Token(context.Background(), "", fmt.Sprintf("shop-%d", 100_000+n), time.Minute)
		require.NoError(i.w.t, err)
	}
}

// digest looks like a [randomID], and is the same each time.
func digest(n int64) string {
	sum := sha256.Sum256(fmt.Append(nil, n))
	return hex.EncodeToString(sum[:16])
}

// What it takes to keep one more seller's token ready does not grow unseen.
func TestASellerInMemoryTakesLessThanFiveHundredBytes(t *testing.T) {
	const sellers = 10_000
	i := newWorld(t).withEveryone()
	i.serves(0, 1) // what is there whoever asks
	before := liveHeap()
	i.serves(1, sellers+1)
	require.Less(t, float64(liveHeap()-before)/sellers, 500.0)
	i.jump(validFor)
	i.serves(0, sellers+1)
	require.Less(t, float64(liveHeap()-before)/sellers, 500.0, "read again")
	runtime.KeepAlive(i)
}

// Its length, in the 16 bits that memory has for it, is that of another name.
func TestASellerWhoseNameIsTooLongForMemoryIsNobodyAndNobodyElse(t *testing.T) {
	i := newWorld(t).withEveryone()
	longest := "shop-1" + strings.Repeat("x", math.MaxUint16-len("shop-1"))
	token, err := i.token(longest)
	require.NoError(t, err)
	require.Equal(t, longest, token.Seller())
	require.Equal(t, digest(1), token.Connection())

	tooLong := "shop-1" + strings.Repeat("x", 1<<16)
	require.Equal(t, NotConnected, i.problem(tooLong).Status)
	_, err = i.Connect(t.Context(), tooLong, Consent{Account: accountID(1)})
	require.Equal(t, NotConnected, asError(err).Status)
}

func liveHeap() int64 {
	for range 2 { // some of what the first lets go of goes with the second
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

func TestNothingIsKeptOfARefreshThatWorked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		c := i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		i.lives("shop-1", 100)
		time.Sleep(time.Minute)
		i.lives("shop-1", 100) // and read again
		synctest.Wait()
		a := i.realm.account(c.Account)
		a.mu.Lock()
		defer a.mu.Unlock()
		require.Nil(t, a.unrest)
	})
}

func TestAPairComesOutOfMemoryAsItWentIn(t *testing.T) {
	obtained := time.Date(2026, 3, 4, 5, 6, 7, 891011, time.UTC)
	whole := tokenstore.Pair{
		PairID:      tokenstore.PairID{Authorization: 1 << 40, Generation: 1<<64 - 1},
		AccessToken: secret.New("APP_USR-access"), RefreshToken: secret.New("TG-refresh"), PublicKey: "APP_USR-key", Scope: "read write",
		ObtainedAt: obtained, ExpiresAt: obtained.Add(life),
	}
	for name, change := range map[string]func(*tokenstore.Pair){
		"whole":                   func(*tokenstore.Pair) {},
		"without a refresh token": func(p *tokenstore.Pair) { p.RefreshToken = secret.Secret{} },
		"without a public key":    func(p *tokenstore.Pair) { p.PublicKey, p.Scope = "", "" },
		"without times":           func(p *tokenstore.Pair) { p.ObtainedAt, p.ExpiresAt = time.Time{}, time.Time{} },
	} {
		t.Run(name, func(t *testing.T) {
			in := whole
			change(&in)
			in.Hash = tokenstore.HashPair(in.AccessToken, in.RefreshToken)
			p := pack(&in)
			require.Equal(t, &in, p.unpack())
			require.Equal(t, !in.RefreshToken.IsZero(), p.renewable())
		})
	}
}

func TestAPairIsFoundAgainWhereItStands(t *testing.T) {
	k := newKnown(make([]pair, 3), beside{condemned: make([]pair, 2)})
	k.highest.texts = secret.New("it lives")
	all := []*pair{&k.condemned[0], &k.condemned[1]}
	for p := range k.living {
		all = append(all, p)
	}
	require.Len(t, all, 5)
	for _, p := range all {
		require.Same(t, p, k.at(k.place(p)))
	}
	require.Nil(t, k.at(k.place(nil)))
}

// A time that is too far off for an instant stays the past, or the future.
func TestATokenThatLivesForEverIsNotOneThatHasEnded(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for name, test := range map[string]struct {
		obtained, expires time.Time
		lasts             bool
	}{
		"for ever":         {now, time.Date(9999, 12, 31, 0, 0, 0, 0, time.UTC), true},
		"since ever":       {time.Date(1, 2, 3, 0, 0, 0, 0, time.UTC), now.Add(life), true},
		"ended in old age": {time.Date(1, 2, 3, 0, 0, 0, 0, time.UTC), time.Date(1500, 1, 1, 0, 0, 0, 0, time.UTC), false},
	} {
		t.Run(name, func(t *testing.T) {
			p := pack(&tokenstore.Pair{ObtainedAt: test.obtained, ExpiresAt: test.expires})
			require.Equal(t, test.lasts, p.lasts(now, time.Minute))
			require.Equal(t, !test.lasts, p.dueAt(now, 0) <= instantOf(now))
			token := Token{dueAt: p.dueAt(now, 0).second()}
			require.Equal(t, !test.lasts, token.due(now))
		})
	}
}

func TestATokenIsDueASecondEarlyAtTheMost(t *testing.T) {
	due := time.Date(2026, 3, 4, 5, 6, 7, 999, time.UTC)
	token := Token{dueAt: instantOf(due).second()}
	require.True(t, token.due(due))
	require.False(t, token.due(due.Add(-time.Second)))
	require.False(t, new(Token).due(due), "it cannot be renewed")
}

func TestWhatMemoryHasPrintsNoToken(t *testing.T) {
	p := tokenstore.Pair{AccessToken: secret.New("APP_USR-canary"), RefreshToken: secret.New("TG-canary"), PublicKey: "canary", ExpiresAt: time.Now().Add(life)}
	packed := pack(&p)
	m := NewManager()
	r := newRealm(m, 1)
	a := r.accountFor(accountID(1), p)
	snap := a.snapshot(key{application: unique.Make(""), seller: "shop-1"}, "c", &application{}, time.Now())
	require.NotNil(t, snap.token())
	require.True(t, r.dormant.put(snap))
	for _, v := range []any{packed, &packed, a, a.known.Load(), *a.known.Load(), snap, snap.token(), *snap.token(), []pair{packed}, r.dormant, &r.dormant.slab} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
			require.NotContains(t, fmt.Sprintf(verb, v), "canary")
			require.NotContains(t, fmt.Sprintf(verb, v), hex.EncodeToString([]byte("canary")))
		}
		text, err := json.Marshal(v)
		require.NoError(t, err)
		require.NotContains(t, string(text), "canary")
	}
	require.NoError(t, m.Destruct())
}
