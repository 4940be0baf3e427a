package tokensource

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"testing"
	"testing/synctest"
	"time"
	"unique"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// doze has all sellers nobody asked for in a while become dormant, and lets go of what
// nobody holds then.
func (i *instance) doze() {
	i.w.t.Helper()
	time.Sleep(validFor + idleAfter)
	i.realm.packIdle(i.w.t.Context(), momentOf(i.now()))
	require.Zero(i.w.t, i.awake(), "sellers that are not dormant")
	runtime.GC()
	runtime.GC()
}

// awake counts the sellers who are.
func (i *instance) awake() int {
	i.realm.mu.Lock()
	defer i.realm.mu.Unlock()
	return i.realm.awake.sellers
}

// dark has nobody reach the store any more.
func (i *instance) dark() {
	i.store.set(func(string, bool) error { return errors.New("the store is down") })
}

func TestADormantSellerIsServedWhileTheStoreIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		connection := i.seller("shop-1", 100)
		before := i.lives("shop-1", 100)
		at := time.Now()
		i.doze()
		i.dark()
		after := i.lives("shop-1", 100)
		require.True(t, before.AccessToken().Equal(after.AccessToken()))
		require.Equal(t, connection.ID, after.Connection())
		require.Equal(t, "shop-1", after.Seller())
		require.Equal(t, before.Pair(), after.Pair())
		require.Equal(t, before.ExpiresAt(), after.ExpiresAt())
		i.doze()
		i.lives("shop-1", 100)
		i.doze()
		time.Sleep(time.Until(at.Add(staleMax)))
		require.Equal(t, ReasonStore, i.problem("shop-1").Reason, "it was read a day ago")
	})
}

func TestASellerWhoGoesOnAskingIsNotDormant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		i.seller("shop-2", 200)
		for range 60 {
			i.lives("shop-1", 100)
			time.Sleep(5 * time.Second)
			synctest.Wait()
		}
		require.Equal(t, 1, i.awake())
		require.Equal(t, 1, i.realm.dormant.len())
		require.True(t, i.realm.has(key{unique.Make(""), "shop-1"}))
		require.True(t, i.realm.has(key{unique.Make(""), "shop-2"}))
		require.False(t, i.realm.has(key{unique.Make(""), "shop-3"}))
		i.dark()
		for range 60 {
			i.lives("shop-1", 100)
			time.Sleep(5 * time.Second)
			i.realm.packIdle(t.Context(), momentOf(i.now()))
		}
		require.Equal(t, 1, i.awake(), "it is asked for, though it cannot be read")
	})
}

func TestADormantSellerHasTheTokenThatWasRenewedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance(ahead)
		i.seller("shop-1", 100)
		i.seller("shop-2", 100)
		old := i.lives("shop-1", 100).Pair()
		i.doze()
		require.Equal(t, 2, i.realm.dormant.len())
		due := time.Duration(0)
		for w.provider.count() == 0 {
			due += time.Hour
			require.Less(t, due, life)
			time.Sleep(time.Hour)
		}
		synctest.Wait()
		runtime.GC()
		runtime.GC()
		require.Equal(t, 2, i.realm.dormant.len())
		for _, name := range []string{"shop-1", "shop-2"} {
			packed, id, ok := i.realm.dormant.find(key{unique.Make(""), name})
			require.True(t, ok)
			token := packed.snapshot(i.realm.account(id)).again(i.application(""), i.now()).token()
			require.NotNil(t, token)
			require.True(t, old.Less(token.Pair()))
			require.Equal(t, int64(100), w.provider.owner(token.AccessToken()))
		}
	})
}

// What holds an account back is kept, whoever else has no use for the account.
func TestADormantSellersFailedRefreshIsNotForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		i.doze()
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { return &oauth.Error{Outcome: oauth.Unknown, Code: "server_error"} }
		})
		time.Sleep(life)
		for range 3 {
			require.Error(t, i.refresh(t.Context(), i.application(""), i.realm.account(accountID(100)), renewal{}))
			synctest.Wait()
			runtime.GC()
			runtime.GC()
			require.Equal(t, 1, w.provider.count(), "its outcome is unknown")
		}
		require.Len(t, i.realm.account(accountID(100)).side.restless, 1)
	})
}

func TestADormantSellerWhoIsDisconnectedIsServedNoMore(t *testing.T) {
	for name, end := range map[string]func(*instance, tokenstore.Connection) error{
		"here": func(i *instance, c tokenstore.Connection) error { return i.Disconnect(context.Background(), c) },
		"by another seller of the account, and it is void": func(i *instance, c tokenstore.Connection) error {
			i.realm.account(c.Account).void(c.Authorization)
			return nil
		},
		"as another instance tells": func(i *instance, c tokenstore.Connection) error {
			i.changed(tokenstore.Change{Application: c.Application, Seller: c.Seller}, nil)
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newWorld(t).instance()
				c := i.seller("shop-1", 100)
				i.doze()
				require.NoError(t, end(i, c))
				runtime.GC()
				runtime.GC()
				i.dark()
				require.NotNil(t, i.problem("shop-1"))
			})
		})
	}
}

func TestASellerAboutWhomSomethingGoesOnIsNotDormant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		time.Sleep(life)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { return &oauth.Error{Outcome: oauth.Unknown, Code: "server_error"} }
		})
		i.problem("shop-1")
		i.realm.packIdle(t.Context(), momentOf(i.now().Add(time.Hour)))
		require.Zero(t, i.realm.dormant.len())
	})
}

func TestTwoDormantSellersOfOneAccountDoNotTakeItFromEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		i.seller("shop-2", 100)
		i.lives("shop-1", 100)
		i.doze()
		i.dark()
		i.lives("shop-1", 100)
		i.realm.forget(key{unique.Make(""), "shop-1"})
		runtime.GC()
		runtime.GC()
		i.lives("shop-2", 100)
		d := i.realm.dormant
		d.mu.Lock()
		defer d.mu.Unlock()
		require.Zero(t, d.slab.texts)
	})
}

func TestASellerWhoWasReadIsNotDormant(t *testing.T) {
	now := time.Now()
	r, s := remembered(t, now)
	r.rest(s)
	require.Equal(t, 1, r.dormant.len())
	require.True(t, r.remember(s.again(&application{}, now), 0))
	require.Zero(t, r.dormant.len())
}

func TestAnotherSellerOfTheSameHashIsNotTakenForIt(t *testing.T) {
	now := time.Now()
	r, s := remembered(t, now)
	r.rest(s)
	other := key{unique.Make(""), "shop-2"}
	r.dormant.sellers[r.dormant.hash(other)] = r.dormant.sellers[r.dormant.hash(s.key())]
	require.True(t, r.has(s.key()))
	require.False(t, r.has(other))
}

// It may become dormant again while it is read.
func TestADormantSellerWhomAStoreLostOrCannotReadIsServed(t *testing.T) {
	for name, failure := range map[string]error{"lost": nil, "unreachable": errors.New("the store is down")} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newWorld(t).instance()
				i.seller("shop-1", 100)
				i.doze()
				if failure == nil {
					i.store.Store = caddystorage.New(storetest.NewMemory(), i.w.keyring)
				}
				i.store.set(func(string, bool) error {
					i.realm.packIdle(t.Context(), momentOf(i.now()))
					return failure
				})
				i.lives("shop-1", 100)
			})
		})
	}
}

func TestAChangedAccountWithDormantSellersIsReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		i.doze()
		changed := &changedAccounts{wake: make(chan struct{}, 1), unread: make(map[tokenstore.AccountID]struct{})}
		i.changed(tokenstore.Change{Account: accountID(100)}, changed)
		i.changed(tokenstore.Change{Account: accountID(200)}, changed)
		id, ok := changed.take()
		require.True(t, ok)
		require.Equal(t, accountID(100), id)
		_, ok = changed.take()
		require.False(t, ok, "nobody here has that account")
	})
}

func TestWhoIsDormantForLongestGivesWayFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance(func(c *Config) { c.CacheSize = 4 })
		for n := range int64(4) {
			i.seller(fmt.Sprint("shop-", n), 100+n)
			i.lives(fmt.Sprint("shop-", n), 100+n)
			i.doze()
		}
		require.Equal(t, 4, i.realm.dormant.len())
		i.lives("shop-1", 101) // takes its place
		require.Equal(t, 3, i.realm.dormant.len())
		i.seller("shop-4", 104)
		i.lives("shop-4", 104)
		known := func() (known []int) {
			for n := range 5 {
				if i.realm.has(key{unique.Make(""), fmt.Sprint("shop-", n)}) {
					known = append(known, n)
				}
			}
			return known
		}
		require.Equal(t, []int{1, 2, 3, 4}, known())
		smaller := i.w.config(i)
		smaller.CacheSize = 3
		next := i.manager.Source(smaller)
		next.Start()
		require.Equal(t, []int{1, 3, 4}, known())
		next.Stop()
		next.Release()
	})
}

// What very many sellers cost is that Go looks, in each collection of garbage, at all
// the objects they consist of.
func TestADormantSellerTakesLessThanFourHundredBytesAndNoObjectOfItsOwn(t *testing.T) {
	const sellers = 10_000
	i := newWorld(t).withEveryone()
	i.serves(0, 1) // what is there whoever asks
	bytes, objects := liveHeap(), liveObjects()
	i.serves(1, sellers+1)
	i.jump(validFor + idleAfter)
	for range 2 { // the accounts of those who became dormant are not held the second time
		i.realm.packIdle(t.Context(), momentOf(i.now()))
		runtime.GC()
	}
	require.Equal(t, sellers+1, i.realm.dormant.len())
	require.Less(t, float64(liveHeap()-bytes)/sellers, 400.0, "bytes")
	require.Less(t, float64(liveObjects()-objects)/sellers, 0.1, "objects")
	runtime.KeepAlive(i)
}

func liveObjects() int64 {
	liveHeap()
	sample := []metrics.Sample{{Name: "/gc/heap/objects:objects"}}
	metrics.Read(sample)
	return int64(sample[0].Value.Uint64())
}

func TestWhatIsKnownOfAnAccountIsUnpackedAsItWasPacked(t *testing.T) {
	text := rapid.StringN(0, 20, 200)
	pairs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) pair {
		return pack(&tokenstore.Pair{
			PairID:       tokenstore.PairID{Authorization: rapid.Uint64().Draw(t, "authorization"), Generation: rapid.Uint64().Draw(t, "generation")},
			AccessToken:  secret.New("a" + text.Draw(t, "access")),
			RefreshToken: secret.New(text.Draw(t, "refresh")),
			PublicKey:    text.Draw(t, "key"), Scope: text.Draw(t, "scope"),
			ObtainedAt: time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "obtained"), 0), ExpiresAt: time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "expires"), 0),
		})
	}), 0, 5)
	rapid.Check(t, func(t *rapid.T) {
		b := beside{
			condemned: pairs.Draw(t, "condemned"), reason: text.Draw(t, "reason"),
			unsaved: rapid.Bool().Draw(t, "unsaved"), moved: rapid.Bool().Draw(t, "moved"),
		}
		in, out := new(account), new(account)
		in.known.Store(newKnown(pairs.Draw(t, "living"), b))
		id := func(name string) tokenstore.PairID {
			return tokenstore.PairID{Authorization: rapid.Uint64().Draw(t, name), Generation: rapid.Uint64().Draw(t, name), Hash: text.Draw(t, name)}
		}
		if rapid.Bool().Draw(t, "marked") {
			in.unrest = &unrest{marks: marks{tombstone: rapid.Uint64Min(1).Draw(t, "tombstone"), rejected: id("rejected"), forced: id("forced")}}
		}
		if in.unrest != nil && rapid.Bool().Draw(t, "forced before") {
			in.unrest.forcedAt = began.Add(time.Duration(rapid.Int64Range(-1<<50, 1<<50).Draw(t, "forced at")))
		}
		unpackAccount(packAccount(0, in), out)
		require.True(t, in.known.Load().same(out.known.Load()))
		require.Equal(t, in.unrest, out.unrest)
		if in.known.Load().beside == &nothingBeside {
			require.Same(t, &nothingBeside, out.known.Load().beside)
		}
	})
}

func TestASlabHasWhatWasPutThereAndNothingElse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s slab
		model := map[place]string{}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				text := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 0, 5000, -1).Draw(t, "text")
				p, ok := s.put([]byte(text))
				require.True(t, ok)
				require.NotZero(t, p)
				require.NotContains(t, model, p)
				model[p] = text
			},
			"drop": func(t *rapid.T) {
				for p := range model {
					room := p.in(&s)[:unitsOf(len(model[p]))*slabUnit]
					s.drop(p)
					require.Equal(t, make([]byte, len(room)), room, "it is overwritten")
					delete(model, p)
					return
				}
			},
			"": func(t *rapid.T) {
				for p, text := range model {
					require.Equal(t, text, string(s.at(p)))
				}
			},
		})
	})
}

func TestASellerWhoseTokenGotA401IsPackedWithWhatIsRememberedOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		_, err := i.Replace(t.Context(), i.lives("shop-1", 100))
		require.NoError(t, err)
		time.Sleep(recheckAfter)
		i.lives("shop-1", 100) // and read again
		synctest.Wait()
		i.realm.packIdle(t.Context(), momentOf(i.now().Add(time.Hour)))
		require.Equal(t, 1, i.realm.dormant.len())
		runtime.GC()
		runtime.GC()
		_, err = i.Replace(t.Context(), i.lives("shop-1", 100))
		require.ErrorContains(t, err, "less than a minute ago")
		require.Equal(t, 1, w.provider.count())
	})
}

// A configuration may be gone that named the application.
func TestADormantSellerIsFoundAfterItsApplicationWasForgotten(t *testing.T) {
	r := newRealm(NewManager(), 2)
	now := time.Now()
	named := func(n int64) key { return key{unique.Make(fmt.Sprint("application-", 1)), fmt.Sprint("shop-", n)} }
	put := func(n int64) {
		a := r.accountFor(accountID(n), tokenstore.Pair{AccessToken: secret.New("access"), ObtainedAt: now, ExpiresAt: now.Add(life)})
		s := a.snapshot(named(n), "c", &application{}, now)
		require.True(t, r.remember(s, r.epochNow()))
		r.rest(s)
	}
	for n := range int64(5) {
		put(n)
		runtime.GC()
		runtime.GC()
	}
	require.Equal(t, 2, r.dormant.len(), "the others gave way")
	require.True(t, r.has(named(4)))
	r.forget(named(4))
	require.False(t, r.has(named(4)))
	require.Equal(t, 1, r.dormant.len())
}

func TestASlabUsesItsRoomForTextsOfOtherLengths(t *testing.T) {
	var s slab
	var places []place
	for length := 100; length < 400; length += slabUnit {
		for range 2000 {
			p, ok := s.put(make([]byte, length))
			require.True(t, ok)
			places = append(places, p)
		}
		for _, p := range places[:len(places)-2000] {
			s.drop(p)
		}
		places = places[len(places)-2000:]
	}
	grown := len(s.chunks)
	for range 4000 {
		_, ok := s.put(make([]byte, 100))
		require.True(t, ok)
	}
	require.Len(t, s.chunks, grown)
}

func TestASlabUsesItsRoomAgain(t *testing.T) {
	var s slab
	keep, _ := s.put([]byte("keep"))
	for range 10 {
		var places []place
		for n := range 3000 {
			p, ok := s.put(make([]byte, n%300))
			require.True(t, ok)
			places = append(places, p)
		}
		for _, p := range places {
			s.drop(p)
		}
	}
	require.LessOrEqual(t, len(s.chunks), 3000*150/(slabUnit*slabUnits)+2)
	s.drop(keep)
	require.Empty(t, s.chunks)
	_, ok := s.put(make([]byte, slabUnit*slabUnits))
	require.False(t, ok, "it is longer than a chunk")
}
