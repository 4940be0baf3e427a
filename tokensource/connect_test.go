package tokensource

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

func TestReconnectingWithTheSameAccountKeepsTheConnectionsID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		first := i.seller("shop-1", 100)
		again := i.seller("shop-1", 100)
		require.Equal(t, first.ID, again.ID)
		require.Equal(t, uint64(2), again.Authorization)
		other := i.seller("shop-1", 200)
		require.NotEqual(t, first.ID, other.ID)
		i.lives("shop-1", 200)
		require.Equal(t, 1, i.events.count(EventConnected))
		require.Equal(t, 2, i.events.count(EventReconnected))
		require.Equal(t, "SHOP200", other.Nickname)
		require.Equal(t, "AR", other.Country)
	})
}

func TestTheOldConnectionStaysWholeUntilTheNewOneIsMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		_, err := i.Exchange(t.Context(), "", i.w.provider.code(200), secret.Secret{})
		require.NoError(t, err)
		i.lives("shop-1", 100)
	})
}

func TestDisconnectDeletesTheTokensUnlessAnotherSellerPointsThere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		one, two := i.seller("shop-1", 100), i.seller("shop-2", 100)
		another := one
		another.ID = "another id"
		require.NoError(t, i.Disconnect(t.Context(), another))
		i.lives("shop-1", 100)
		require.NoError(t, i.Disconnect(t.Context(), one))
		require.Equal(t, NotConnected, i.problem("shop-1").Status)
		i.lives("shop-2", 100)
		require.Empty(t, w.provider.gone)
		require.NoError(t, i.Disconnect(t.Context(), one), "what is gone is no error")
		require.NoError(t, i.Disconnect(t.Context(), two))
		require.Equal(t, NotConnected, i.problem("shop-2").Status)
		state := i.account(100)
		require.Empty(t, state.Pairs)
		require.Empty(t, state.Marks)
		require.Equal(t, uint64(2), state.Tombstone)
		require.Equal(t, []int64{100}, w.provider.gone)
		require.Equal(t, 2, i.events.count(EventDisconnected))
		// The next consent is above the tombstone.
		require.Equal(t, uint64(3), i.seller("shop-1", 100).Authorization)
		i.lives("shop-1", 100)
	})
}

// order drives two pieces of work through one store, step by step: at each
// operation of the first the other runs as a whole.
func interleave(t *testing.T, storage func(*world), prepare func(*instance), first func(*instance), second func(*instance), check func(t *testing.T, i *instance)) {
	t.Helper()
	for n := 1; n <= 40; n++ {
		reached := false
		t.Run(fmt.Sprintf("at call %d", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				storage(w)
				a, b := w.instance(), w.instance()
				prepare(a)
				done := make(chan struct{})
				var began atomic.Bool
				a.store.set(atCall(n, func() error {
					began.Store(true)
					go func() { defer close(done); second(b) }()
					// Where a lock is held the second waits for it: the first
					// goes on after a while.
					select {
					case <-done:
					case <-time.After(time.Second):
					}
					return nil
				}))
				first(a)
				a.store.set(nil)
				synctest.Wait()
				if reached = began.Load(); !reached {
					return
				}
				<-done
				time.Sleep(2 * time.Minute)
				check(t, w.instance())
			})
		})
		if !reached {
			return
		}
	}
	t.Fatal("the first never ended")
}

var storages = map[string]func(*world){
	"with a lock":    func(*world) {},
	"without a lock": func(w *world) { w.storage = storetest.NoLock(w.storage) },
}

func refresh(i *instance) { _, _ = i.Token(context.Background(), "", "shop-1", life) }

func TestARefreshAgainstADisconnectBringsNothingBack(t *testing.T) {
	for name, storage := range storages {
		t.Run(name, func(t *testing.T) {
			prepare := func(i *instance) {
				i.seller("shop-1", 100)
				time.Sleep(life + time.Minute)
			}
			disconnect := func(i *instance) {
				if c, err := i.Connection(context.Background(), "", "shop-1"); err == nil {
					_ = i.Disconnect(context.Background(), c)
				}
			}
			check := func(t *testing.T, i *instance) {
				require.Equal(t, NotConnected, i.problem("shop-1").Status)
				state := i.account(100)
				require.Empty(t, state.Pairs, "no token is left")
				require.NotZero(t, state.Tombstone)
				i.seller("shop-1", 100)
				i.lives("shop-1", 100)
			}
			t.Run("disconnect within refresh", func(t *testing.T) { interleave(t, storage, prepare, refresh, disconnect, check) })
			t.Run("refresh within disconnect", func(t *testing.T) { interleave(t, storage, prepare, disconnect, refresh, check) })
		})
	}
}

func TestAConsentAgainstARefreshKeepsTheSeller(t *testing.T) {
	for name, storage := range storages {
		t.Run(name, func(t *testing.T) {
			prepare := func(i *instance) {
				i.seller("shop-1", 100)
				time.Sleep(life + time.Minute)
			}
			consent := func(i *instance) {
				consent, err := i.Exchange(context.Background(), "", i.w.provider.code(100), secret.Secret{})
				if err == nil {
					_, err = i.Connect(context.Background(), "shop-1", consent)
				}
				require.NoError(i.w.t, err)
			}
			check := func(t *testing.T, i *instance) {
				i.eventually("shop-1", 100)
				time.Sleep(life + time.Minute)
				i.eventually("shop-1", 100)
			}
			t.Run("consent within refresh", func(t *testing.T) { interleave(t, storage, prepare, refresh, consent, check) })
			t.Run("refresh within consent", func(t *testing.T) { interleave(t, storage, prepare, consent, refresh, check) })
			t.Run("consent within consent", func(t *testing.T) { interleave(t, storage, prepare, consent, consent, check) })
		})
	}
}

func TestAConnectAgainstADisconnectEndsWholeOrIsToldToStartAgain(t *testing.T) {
	for name, storage := range storages {
		t.Run(name, func(t *testing.T) {
			var connected error
			prepare := func(i *instance) { i.seller("shop-2", 100) }
			connect := func(i *instance) {
				consent, err := i.Exchange(context.Background(), "", i.w.provider.code(100), secret.Secret{})
				if err == nil {
					_, err = i.Connect(context.Background(), "shop-1", consent)
				}
				connected = err
			}
			disconnect := func(i *instance) {
				if c, err := i.Connection(context.Background(), "", "shop-2"); err == nil {
					require.NoError(i.w.t, i.Disconnect(context.Background(), c))
				}
			}
			check := func(t *testing.T, i *instance) {
				require.Equal(t, NotConnected, i.problem("shop-2").Status)
				if connected == nil {
					i.eventually("shop-1", 100)
					return
				}
				var problem *Error
				require.ErrorAs(t, connected, &problem)
				require.Equal(t, ReasonDisconnected, problem.Reason)
				require.Equal(t, NotConnected, i.problem("shop-1").Status)
				i.seller("shop-1", 100)
				i.lives("shop-1", 100)
			}
			t.Run("disconnect within connect", func(t *testing.T) { interleave(t, storage, prepare, connect, disconnect, check) })
			t.Run("connect within disconnect", func(t *testing.T) { interleave(t, storage, prepare, disconnect, connect, check) })
		})
	}
}

func TestACrashAtAnyPointOfADisconnectIsMendedByTheNextConsent(t *testing.T) {
	for n := 1; n <= 40; n++ {
		t.Run(fmt.Sprintf("call %d", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				first := w.instance()
				c := first.seller("shop-1", 100)
				first.store.set(atCall(n, func() error { first.crash(); return errCrashed }))
				_ = first.Disconnect(t.Context(), c)
				first.crash()
				synctest.Wait()
				second := w.instance()
				// Connected as before, or not connected; nothing in between.
				if token, err := second.token("shop-1"); err == nil {
					require.Equal(t, int64(100), w.provider.owner(token.AccessToken()))
				} else {
					require.Equal(t, NotConnected, second.problem("shop-1").Status)
				}
				second.seller("shop-1", 100)
				second.lives("shop-1", 100)
			})
		})
	}
}

func TestACrashAtAnyPointOfAConnectLeavesTheOldOrTheNewConnection(t *testing.T) {
	for n := 1; n <= 40; n++ {
		t.Run(fmt.Sprintf("call %d", n), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				first := w.instance()
				first.seller("shop-1", 100)
				consent, err := first.Exchange(t.Context(), "", w.provider.code(200), secret.Secret{})
				require.NoError(t, err)
				first.store.set(atCall(n, func() error { first.crash(); return errCrashed }))
				_, err = first.Connect(t.Context(), "shop-1", consent)
				first.crash()
				synctest.Wait()
				second := w.instance()
				token, tokenErr := second.token("shop-1")
				require.NoError(t, tokenErr)
				owner := w.provider.owner(token.AccessToken())
				require.Contains(t, []int64{100, 200}, owner)
				if err == nil {
					require.Equal(t, int64(200), owner)
				}
			})
		})
	}
}

func TestAnExchangeGoesOnWhenItsCallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		ctx, leave := context.WithCancel(t.Context())
		i.store.set(func(op string, after bool) error {
			if op == "AddPair" && !after {
				leave()
				time.Sleep(time.Second)
			}
			return nil
		})
		_, err := i.Exchange(ctx, "", w.provider.code(100), secret.Secret{})
		require.ErrorIs(t, err, context.Canceled)
		time.Sleep(2 * time.Second)
		state := i.account(100)
		require.Equal(t, uint64(2), state.Living()[0].Authorization)
	})
}

func TestWhoseAccountItIs(t *testing.T) {
	for name, test := range map[string]struct {
		change  func(*oauth.Answer)
		me      func() (oauth.User, error)
		user    int64
		saved   bool
		problem bool
	}{
		"the answer says":                {user: 100, saved: true},
		"only /users/me says":            {change: func(a *oauth.Answer) { a.UserID = 0 }, user: 100, saved: true},
		"only the tokens say":            {change: func(a *oauth.Answer) { a.UserID = 0 }, me: silent, user: 100, saved: true},
		"the answer says, /users/me not": {me: silent, user: 100, saved: true},
		"nobody says": {
			change:  func(a *oauth.Answer) { a.UserID, a.AccessToken = 0, secret.New("opaque") },
			me:      silent,
			problem: true,
		},
		"the tokens disagree": {
			change:  func(a *oauth.Answer) { a.UserID, a.RefreshToken = 0, secret.New("TG-1-999") },
			me:      silent,
			problem: true,
		},
		"/users/me names another": {
			me:      func() (oauth.User, error) { return oauth.User{ID: 999}, nil },
			problem: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.provider.change, w.provider.me = test.change, test.me
				i := w.instance()
				consent, err := i.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{})
				if test.problem {
					var problem *Error
					require.ErrorAs(t, err, &problem)
					require.Equal(t, ReasonProvider, problem.Reason)
					require.Empty(t, i.account(100).Pairs, "nobody acts with it")
					require.Equal(t, 1, i.events.count(EventAlarm))
					return
				}
				require.NoError(t, err)
				require.Equal(t, accountID(test.user), consent.Account)
				require.True(t, consent.Offline)
				require.Len(t, i.account(test.user).Pairs, 1)
			})
		})
	}
}

func silent() (oauth.User, error) { return oauth.User{}, &oauth.Error{Code: "server_error"} }

func TestALiveAndATestAccountOfOneUserAreTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		test := false
		w.provider.script(func(p *provider) { p.change = func(a *oauth.Answer) { a.LiveMode = &test } })
		consent, err := i.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{})
		require.NoError(t, err)
		require.False(t, consent.Account.Live)
		require.Equal(t, uint64(1), consent.Authorization)
	})
}

func TestATestAccountIsServedFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		test := false
		w.provider.script(func(p *provider) { p.change = func(a *oauth.Answer) { a.LiveMode = &test } })
		i.seller("shop-1", 100)
		require.False(t, i.lives("shop-1", 100).Account().Live)
		i.store.set(func(op string, _ bool) error { return fmt.Errorf("%s: memory has it", op) })
		i.lives("shop-1", 100)
		time.Sleep(validFor - time.Second)
		i.lives("shop-1", 100)
	})
}

func TestMadeUpCodesDoNotSlowRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		limited := false
		for range 200 {
			_, err := i.Exchange(t.Context(), "", "made up", secret.Secret{})
			if refusal, ok := errors.AsType[*oauth.Error](err); ok {
				require.Equal(t, oauth.GrantDead, refusal.Outcome)
				continue
			}
			var problem *Error
			require.ErrorAs(t, err, &problem)
			require.Positive(t, problem.RetryAfter)
			limited = true
		}
		require.True(t, limited)
		i.lives("shop-1", 100)
		time.Sleep(time.Minute)
		i.seller("shop-1", 100)
	})
}

func TestAStateIsConsumedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a, b := w.instance(), w.instance()
		until := time.Now().Add(time.Hour)
		require.NoError(t, a.Consume(t.Context(), "state", until))
		require.ErrorIs(t, b.Consume(t.Context(), "state", until), tokenstore.ErrConsumed)
		require.NoError(t, b.Consume(t.Context(), "other", until))
	})
}

func TestAMarkOfADisconnectStopsOlderConsentsAndNoNewerOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		before := i.seller("shop-1", 200)
		i.seller("shop-2", 100)
		consent, err := i.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{})
		require.NoError(t, err)
		// A disconnect crashed in the middle.
		require.NoError(t, i.store.PutMark(t.Context(), accountID(100), tokenstore.Mark{Connection: "x", Authorization: 2, At: time.Now()}))
		_, err = i.Connect(t.Context(), "shop-1", consent)
		var problem *Error
		require.ErrorAs(t, err, &problem)
		require.Equal(t, ReasonDisconnected, problem.Reason)
		c, err := i.Connection(t.Context(), "", "shop-1")
		require.NoError(t, err)
		require.Equal(t, before.ID, c.ID, "what the seller had stays")
		i.lives("shop-1", 200)
		i.lives("shop-2", 100)
		require.Equal(t, uint64(3), i.seller("shop-1", 100).Authorization)
		i.lives("shop-1", 100)
	})
}

func TestAMarkWrittenWhileThePointerIsMadeUndoesIt(t *testing.T) {
	for name, connected := range map[string]bool{"a new seller": false, "a seller of another account": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				i := w.instance()
				if connected {
					i.seller("shop-1", 200)
				}
				consent, err := i.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{})
				require.NoError(t, err)
				var once sync.Once
				i.store.set(func(op string, after bool) error {
					if op == "PutConnection" && after {
						once.Do(func() {
							_ = i.store.Store.PutMark(context.Background(), accountID(100), tokenstore.Mark{Connection: "x", Authorization: 1, At: time.Now()})
						})
					}
					return nil
				})
				_, err = i.Connect(t.Context(), "shop-1", consent)
				var problem *Error
				require.ErrorAs(t, err, &problem)
				require.Equal(t, ReasonDisconnected, problem.Reason)
				if connected {
					i.lives("shop-1", 200)
					return
				}
				require.Equal(t, NotConnected, i.problem("shop-1").Status)
			})
		})
	}
}

func TestALoadThatIsUnderWayDoesNotBringADisconnectedSellerBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-0", 100)
		c := i.seller("shop-1", 100)
		time.Sleep(time.Minute)
		var done atomic.Bool
		i.store.set(func(op string, after bool) error {
			if op == "Connection" && after && done.CompareAndSwap(false, true) {
				require.NoError(t, i.Disconnect(context.Background(), c))
			}
			return nil
		})
		_, _ = i.token("shop-1")
		require.Equal(t, NotConnected, i.problem("shop-1").Status)
	})
}

func TestAConnectionThatIsEndedWhileItIsMadeAgainIsNotSaidToStand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.storage = storetest.NoLock(w.storage)
		i, other := w.instance(), w.instance()
		c := i.seller("shop-1", 100)
		i.seller("shop-2", 100) // keeps the account, so that no tombstone tells
		consent, err := i.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{})
		require.NoError(t, err)
		i.store.set(func(op string, after bool) error {
			if op == "PutConnection" && after {
				return other.Disconnect(context.Background(), c)
			}
			return nil
		})
		_, err = i.Connect(t.Context(), "shop-1", consent)
		var problem *Error
		require.ErrorAs(t, err, &problem)
		require.Equal(t, ReasonDisconnected, problem.Reason)
		require.Equal(t, NotConnected, i.problem("shop-1").Status)
		i.lives("shop-2", 100)
	})
}

func FuzzTheNumberAtTheEndOfAToken(f *testing.F) {
	for _, seed := range []string{"", "-", "APP_USR-4934588586838432-XXXXXXXX-241983636", "TG-x-99999999999999999999", "5", "a--5", "a-+5", "a-05"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		n := trailing(secret.New(token))
		require.GreaterOrEqual(t, n, int64(0))
		if n > 0 {
			require.Regexp(t, fmt.Sprintf(`(^|-)%d$`, n), token, "exactly the digits that are there")
		}
	})
}
