package tokensource

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

// What the model found, and what was found beside it, each as a story of its
// own.

func (i *instance) consent(user int64) Consent {
	i.w.t.Helper()
	c, err := i.Exchange(context.Background(), "", i.w.provider.code(user), secret.Secret{})
	require.NoError(i.w.t, err)
	return c
}

func (i *instance) top(user int64) tokenstore.Pair {
	state := i.account(user)
	require.NotEmpty(i.w.t, state.Living())
	return state.Living()[0]
}

// outdo has the newest consent's refresh token die, as when the provider saw it
// before the one that it numbers above.
func (w *world) outdo(user int64, refresh string) {
	w.provider.script(func(p *provider) { p.refresh[user] = refresh })
}

func TestASpilledPairIsKeptThoughACondemnedOneIsAboveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.instance()
		first.seller("shop-1", 100)
		older := w.provider.refresh[100]
		first.consent(100)
		w.outdo(100, older)
		time.Sleep(life + time.Minute)
		first.store.set(failingOp("AddPair"))
		first.lives("shop-1", 100)
		first.crash()
		synctest.Wait()
		require.Len(t, spilledFiles(t, w), 1)
		second := w.instance()
		synctest.Wait()
		require.Equal(t, w.provider.refresh[100], second.top(100).RefreshToken.Reveal())
		time.Sleep(life)
		second.lives("shop-1", 100)
	})
}

func TestAPairThatWasNotWrittenIsNotTakenForSavedBecauseACondemnedOneIsAboveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		older := w.provider.refresh[100]
		i.consent(100)
		w.outdo(100, older)
		time.Sleep(life + time.Minute)
		skipped := false
		i.store.set(func(op string, after bool) error {
			if op == "AddPair" && !after && !skipped {
				skipped = true
				return errSkipped
			}
			return nil
		})
		i.lives("shop-1", 100)
		time.Sleep(time.Minute)
		require.Equal(t, w.provider.refresh[100], i.top(100).RefreshToken.Reveal())
	})
}

func TestMemoryAddsAPairAgainThoughACondemnedOneIsAboveIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		older := w.provider.refresh[100]
		i.consent(100)
		w.outdo(100, older)
		time.Sleep(life + time.Minute)
		i.lives("shop-1", 100)
		lost := i.top(100)
		require.NoError(t, i.store.DeletePairs(t.Context(), accountID(100), lost.PairID)) // a back-up was restored
		time.Sleep(time.Minute)
		i.lives("shop-1", 100)
		require.Equal(t, lost.PairID, i.top(100).PairID)
	})
}

func TestAReplayedConsentNeverComesAboveItsOwnSuccessor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first, other := w.instance(), w.instance(func(c *Config) { c.SpillDir = t.TempDir() + "/other" })
		first.seller("shop-1", 100)
		first.store.set(failingOp("Account"))
		_, err := first.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{})
		require.Error(t, err)
		require.Len(t, spilledFiles(t, w), 1)
		first.crash()
		synctest.Wait()
		// The next process adds the pair, and crashes before it can know.
		second := w.instance(func(c *Config) {
			open := c.Open
			c.Open = func(ctx context.Context) (tokenstore.Store, *secret.Keyring, error) {
				store, keyring, err := open(ctx)
				store.(*hooked).set(func(op string, after bool) error {
					if op == "AddPair" && after {
						return errCrashed
					}
					return nil
				})
				return store, keyring, err
			}
		})
		synctest.Wait()
		second.crash()
		synctest.Wait()
		time.Sleep(life + time.Minute)
		other.lives("shop-1", 100)
		living := other.top(100).PairID
		third := w.instance()
		synctest.Wait()
		require.Equal(t, living, third.top(100).PairID)
		time.Sleep(life + time.Minute)
		third.lives("shop-1", 100)
		require.Zero(t, w.provider.reused, "no burnt token was posted")
	})
}

func TestAReloadWhileAConsentIsSavedDoesNotNumberItTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		i.store.set(failingOp("Account"))
		_, err := i.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{})
		require.Error(t, err)
		require.Len(t, spilledFiles(t, w), 1)
		var reads atomic.Int64
		i.store.set(func(op string, after bool) error {
			if op == "Account" && !after {
				reads.Add(1)
			}
			return nil
		})
		next := i.manager.Source(i.w.config(i))
		next.Start()
		synctest.Wait()
		require.Zero(t, reads.Load(), "what is being saved is left to who saves it")
		time.Sleep(time.Minute)
		require.Len(t, i.account(100).Pairs, 2)
		require.Empty(t, spilledFiles(t, w))
	})
}

func TestAJumpOfTheClockDoesNotShortenTheWaitForAnotherInstancesRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newModel(t, setting{}, nil)
		m.w.provider.life = 6 * time.Hour
		p := m.start(1)
		p.seller("shop-1", 100)
		state := view{simStore: m.store}
		a, err := state.Account(t.Context(), accountID(100))
		require.NoError(t, err)
		require.NoError(t, state.PutIntent(t.Context(), accountID(100), tokenstore.Intent{Pair: a.Pairs[0].Hash, Instance: "another", Nonce: "1", At: time.Now()}))
		time.Sleep(time.Minute)
		p.lives("shop-1", 100) // reads the intent
		m.offsets[1] = m.w.provider.life * 3 / 4
		began := time.Now()
		for m.w.provider.count() == 0 {
			_, _ = p.Token(t.Context(), "", "shop-1", 5*time.Minute)
			time.Sleep(time.Second)
		}
		require.GreaterOrEqual(t, time.Since(began), timeout+slack)
		m.crash(p)
	})
}

func TestAPairThatCouldNotBeDeletedKeepsTheIntentThatSaysItMayBeBurnt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		i.store.set(failingOp("DeletePairs"))
		token := i.lives("shop-1", 100)
		synctest.Wait()
		i.store.set(nil)
		state := i.account(100)
		require.Len(t, state.Pairs, 2)
		require.Len(t, state.Intents, 1)
		// The seller consents in this moment: the old token must not be posted
		// into it.
		w.outdo(100, "TG-another")
		_, err := i.Replace(t.Context(), token)
		require.Equal(t, Connected, asError(err).Status)
		require.Equal(t, 2, w.provider.count())
		// The next refresh that works cleans up behind both.
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		i.eventually("shop-1", 100)
		synctest.Wait()
		state = i.account(100)
		require.Len(t, state.Pairs, 1)
		require.Empty(t, state.Intents)
	})
}

func TestADisconnectThatFindsTheConnectionGoneForgetsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first, second := w.instance(), w.instance()
		c := first.seller("shop-1", 100)
		second.lives("shop-1", 100)
		require.NoError(t, first.Disconnect(t.Context(), c))
		second.lives("shop-1", 100) // for half a minute it cannot know
		require.NoError(t, second.Disconnect(t.Context(), c))
		require.Equal(t, NotConnected, second.problem("shop-1").Status)
	})
}

func TestAConnectThatIsUndoneLeavesNothingWhereTheOldConnectionHasEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.storage = storetest.NoLock(w.storage)
		i, other := w.instance(), w.instance()
		old := i.seller("shop-1", 100)
		consent := i.consent(200)
		put := false
		i.store.set(func(op string, after bool) error {
			if op == "PutConnection" && after && !put {
				put = true
				return other.Disconnect(context.Background(), old)
			}
			if put && op == "Account" && !after {
				put = false
				// Ended before it was replaced, by whom does not matter.
				return errors.Join(other.store.DeleteConnection(context.Background(), old), errors.New("the disk is full"))
			}
			return nil
		})
		_, err := i.Connect(t.Context(), "shop-1", consent)
		require.Error(t, err)
		i.store.set(nil)
		require.Equal(t, NotConnected, w.instance().problem("shop-1").Status)
	})
}

func TestAPairOfAnotherAccountIsNotAddedAgainByWhoHasReadIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first, second := w.instance(), w.instance()
		first.seller("shop-1", 100)
		second.lives("shop-1", 100)
		time.Sleep(time.Minute)
		first.store.set(func(op string, after bool) error {
			if op == "DeletePairs" && !after {
				_, _ = second.token("shop-1") // reads it
			}
			return nil
		})
		w.provider.script(func(p *provider) {
			p.me = func() (oauth.User, error) { return oauth.User{ID: 200}, nil }
			p.change = func(a *oauth.Answer) { a.UserID = 100 }
		})
		_, err := first.Exchange(t.Context(), "", w.provider.code(200), secret.Secret{})
		require.Error(t, err)
		w.provider.script(func(p *provider) { p.me, p.change = nil, nil })
		for range 3 {
			time.Sleep(time.Minute)
			second.lives("shop-1", 100)
		}
		require.Len(t, second.account(100).Pairs, 1)
	})
}

// The model brought this about by a second instance with another clock, between
// the end of a refresh and the look at what came of it.
func TestAPairThatHasEndedButCanBeRefreshedIsNoReasonToReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		a := i.realm.account(accountID(100))
		_, err := i.read(t.Context(), i.store, "", a)
		require.NoError(t, err)
		problem := a.known.Load().problem()
		require.Equal(t, Connected, problem.Status)
		require.Positive(t, problem.RetryAfter)
	})
}

func TestAStoreThatNobodyAsksForAnyMoreIsForgottenWithItsSellers(t *testing.T) {
	w := newWorld(t)
	i := w.instance(func(c *Config) { c.StoreID = "old" })
	i.seller("shop-1", 100)
	old := weak.Make(i.realm)
	next := i.manager.Source(w.config(i))
	next.Start()
	i.Stop()
	i.Release()
	i.Source = next
	for range 100 {
		if runtime.GC(); old.Value() == nil {
			return
		}
	}
	t.Fatal("it is still there")
}

func TestAConsentIsNotRefreshedWhileItIsBeingSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		i.store.set(func(op string, after bool) error {
			if op == "AddPair" && after {
				return errors.New("the disk is full") // it was written all the same
			}
			return nil
		})
		_, err := i.Exchange(context.Background(), "", w.provider.code(100), secret.Secret{})
		require.Error(t, err, "nobody knows yet that it is saved")
		require.Len(t, i.account(100).Pairs, 2)
		i.jump(life + time.Minute)
		i.problem("shop-1")
		time.Sleep(2 * time.Minute) // nobody waits for ever for the lock that the consent has
		require.Zero(t, w.provider.count())
		i.store.set(nil)
		i.eventually("shop-1", 100)
		require.Zero(t, w.provider.reused)
	})
}

func TestAConsentThatOthersRefreshedIsNotBroughtBackAfterADisconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.storage = storetest.NoLock(w.storage)
		i, other := w.instance(), w.instance()
		c := i.seller("shop-1", 100)
		i.failReadBack(1000)
		failed := make(chan error, 1)
		go func() {
			_, err := i.Exchange(context.Background(), "", w.provider.code(100), secret.Secret{})
			failed <- err
		}()
		synctest.Wait()
		other.jump(life + time.Minute)
		other.eventually("shop-1", 100)
		require.Equal(t, 1, w.provider.count())
		require.NoError(t, other.Disconnect(context.Background(), c))
		i.store.set(nil)
		require.Error(t, <-failed)
		require.Empty(t, i.account(100).Pairs)
		require.Zero(t, w.provider.reused)
	})
}

// failReadBack has the store fail n reads of an account after a pair was added.
func (i *instance) failReadBack(n int) {
	added := false
	i.store.set(func(op string, after bool) error {
		added = added || op == "AddPair" && after
		if op == "Account" && !after && added && n > 0 {
			n--
			return errors.New("the disk is gone")
		}
		return nil
	})
}

func TestADisconnectIsNotUndoneByASwitchThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, other := w.instance(), w.instance()
		old := i.seller("shop-1", 100)
		consent := i.consent(200)
		placed, failed := make(chan struct{}), make(chan struct{})
		i.store.set(func(op string, after bool) error {
			if op == "PutConnection" && after {
				i.store.set(failOnce("Account"))
				close(placed)
				<-failed
			}
			return nil
		})
		done := make(chan error, 1)
		go func() {
			_, err := i.Connect(context.Background(), "shop-1", consent)
			done <- err
		}()
		<-placed
		require.NoError(t, other.Disconnect(t.Context(), old))
		close(failed)
		require.Error(t, <-done)
		require.Equal(t, NotConnected, i.problem("shop-1").Status)
		require.Equal(t, NotConnected, other.problem("shop-1").Status)
	})
}

// failOnce has one operation fail, once.
func failOnce(name string) func(string, bool) error {
	failed := false
	return func(op string, after bool) error {
		if op == name && !after && !failed {
			failed = true
			return errors.New("the disk is gone")
		}
		return nil
	}
}

func TestAStoreThatIsEmptyAllOfASuddenDisconnectsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		full := i.store.Store
		i.store.Store = caddystorage.New(storetest.NewMemory(), w.keyring) // a volume that is not mounted
		time.Sleep(time.Hour)
		i.lives("shop-1", 100)
		require.Positive(t, i.events.count(EventAlarm))
		time.Sleep(staleMax)
		require.Equal(t, ReasonStore, i.problem("shop-1").Reason)
		i.store.Store = full
		i.eventually("shop-1", 100)
	})
}

func TestNothingIsRefreshedIntoAStoreThatIsEmptyAllOfASudden(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.life = 20 * time.Second
		i := w.instance()
		i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		full, empty := i.store.Store, caddystorage.New(storetest.NewMemory(), w.keyring)
		i.store.Store = empty
		time.Sleep(25 * time.Second) // memory is believed, and its token has ended
		require.Equal(t, ReasonStore, i.problem("shop-1").Reason)
		require.Zero(t, w.provider.count())
		state, err := empty.Account(t.Context(), accountID(100))
		require.NoError(t, err)
		require.Empty(t, state.Pairs)
		i.store.Store = full
		i.eventually("shop-1", 100)
	})
}
