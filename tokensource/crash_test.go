package tokensource

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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

// script runs on one store operation, by its number, before or after it is
// carried out.
func atCall(n int, then func() error) func(string, bool) error {
	var mu sync.Mutex
	calls := 0
	return func(string, bool) error {
		mu.Lock()
		calls++
		hit := calls == n
		mu.Unlock()
		if hit {
			return then()
		}
		return nil
	}
}

// refreshCalls is more than the number of hook calls of one refresh.
const refreshCalls = 30

func TestACrashAtAnyStoreOperationOfARefreshLosesNoSeller(t *testing.T) {
	for _, locks := range []bool{true, false} {
		for n := 1; n <= refreshCalls; n++ {
			t.Run(fmt.Sprintf("locks %v call %d", locks, n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					if !locks {
						w.storage = storetest.NoLock(w.storage)
					}
					first := w.instance()
					first.seller("shop-1", 100)
					time.Sleep(life + time.Minute)
					first.store.set(atCall(n, func() error { first.crash(); return errCrashed }))
					_, _ = first.token("shop-1")
					synctest.Wait()
					first.crash()
					w.instance().eventually("shop-1", 100)
					require.Zero(t, w.provider.reused, "no burnt token was posted")
				})
			})
		}
	}
}

func TestACrashBeforeTheRequestIsSentLosesNoSeller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.instance()
		first.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { first.crash(); return errCrashed }
		})
		_, _ = first.token("shop-1")
		synctest.Wait()
		w.provider.script(func(p *provider) { p.before = nil })
		w.instance().eventually("shop-1", 100)
	})
}

func TestACrashRightAfterTheAnswerLosesNoSeller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.instance()
		first.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		w.provider.script(func(p *provider) {
			p.after = func(context.Context, *oauth.Answer) error { first.crash(); return nil }
		})
		_, _ = first.token("shop-1")
		synctest.Wait()
		w.provider.script(func(p *provider) { p.after = nil })
		w.instance().eventually("shop-1", 100)
		require.Zero(t, w.provider.reused)
		require.Empty(t, spilledFiles(t, w), "it was read back")
	})
}

func TestAStoreThatFailsAtAnyStepOfARefreshLosesNoSeller(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := 1; n <= refreshCalls; n++ {
			t.Run(fmt.Sprintf("after %v call %d", after, n), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					i := w.instance()
					i.seller("shop-1", 100)
					time.Sleep(life + time.Minute)
					// From the nth operation on it fails for ten minutes.
					until := time.Time{}
					var mu sync.Mutex
					calls := 0
					i.store.set(func(_ string, isAfter bool) error {
						mu.Lock()
						defer mu.Unlock()
						if calls++; calls == n {
							until = time.Now().Add(10 * time.Minute)
						}
						if time.Now().Before(until) && isAfter == after {
							return errors.New("the disk is full")
						}
						return nil
					})
					_, _ = i.token("shop-1")
					i.eventually("shop-1", 100)
					time.Sleep(20 * time.Minute)
					i.eventually("shop-1", 100)
					require.Zero(t, w.provider.reused)
					state := i.account(100)
					require.NotEmpty(t, state.Living())
					require.Empty(t, spilledFiles(t, w))
				})
			})
		}
	}
}

// A store that does not take a pair is often cured by another path, address or
// password: the same accounts are then behind another name.
func TestAPairThatWasSpilledBeforeTheStoreWasConfiguredAnewIsReplayed(t *testing.T) {
	for _, known := range []bool{true, false} {
		t.Run(fmt.Sprintf("its account is in the store: %v", known), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				root := w.spillDir
				w.spillDir = filepath.Join(root, "before")
				first := w.instance()
				first.seller("shop-1", 100)
				time.Sleep(life + time.Minute)
				first.store.set(func(op string, _ bool) error {
					if op == "AddPair" {
						return errors.New("the password was changed")
					}
					return nil
				})
				first.lives("shop-1", 100)
				first.crash()
				synctest.Wait()
				require.Len(t, spilledFiles(t, w), 1)
				w.spillDir = filepath.Join(root, "after")
				if !known {
					w.storage = storetest.NewMemory()
				}
				second := w.instance()
				synctest.Wait()
				left, err := filepath.Glob(filepath.Join(root, "before", "*"))
				require.NoError(t, err)
				if !known {
					require.Len(t, left, 1, "another store's pair is left for that store")
					require.Empty(t, second.account(100).Pairs)
					return
				}
				require.Empty(t, left)
				second.lives("shop-1", 100)
				require.Equal(t, 1, w.provider.count())
			})
		})
	}
}

func spilledFiles(t *testing.T, w *world) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(w.spillDir, "*"))
	require.NoError(t, err)
	return files
}

func TestAPairThatTheStoreDoesNotTakeServesIsSpilledAndIsNotPosted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.life = 6 * time.Hour
		first, second := w.instance(), w.instance(func(c *Config) { c.SpillDir = filepath.Join(t.TempDir(), "one") }) // another machine
		first.seller("shop-1", 100)
		time.Sleep(w.provider.life + time.Minute)
		first.store.set(func(op string, after bool) error {
			if op == "AddPair" && !after {
				return errors.New("the disk is full")
			}
			return nil
		})
		first.lives("shop-1", 100)
		require.Equal(t, 1, first.events.count(EventAlarm))
		files := spilledFiles(t, w)
		require.Len(t, files, 1)
		content, err := os.ReadFile(files[0])
		require.NoError(t, err)
		require.NotContains(t, string(content), w.provider.refresh[100])
		info, err := os.Stat(files[0])
		require.NoError(t, err)
		require.Equal(t, os.FileMode(0o600), info.Mode().Perm())

		// Another instance sees the intent, and that it is renewed: it posts
		// nothing for as long as it lasts.
		for range 20 {
			require.Equal(t, Connected, second.problem("shop-1").Status)
			time.Sleep(time.Minute)
		}
		require.Equal(t, 1, w.provider.count())
		// Nor does this one post the unsaved pair, though it is due.
		time.Sleep(5 * time.Hour)
		first.lives("shop-1", 100)
		synctest.Wait()
		require.Equal(t, 1, w.provider.count())

		first.store.set(nil)
		time.Sleep(time.Minute)
		second.eventually("shop-1", 100)
		require.Zero(t, w.provider.reused)
		require.Empty(t, spilledFiles(t, w))
	})
}

func TestAStoreThatHangsLetsThePairServeAndSpillsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		hang := make(chan struct{})
		i.store.set(func(op string, after bool) error {
			if op == "AddPair" && !after {
				<-hang
			}
			return nil
		})
		began := time.Now()
		i.lives("shop-1", 100)
		require.LessOrEqual(t, time.Since(began), 2*spillAfter)
		require.Len(t, spilledFiles(t, w), 1)
		close(hang)
		time.Sleep(time.Second)
		require.Empty(t, spilledFiles(t, w))
		require.Len(t, i.account(100).Pairs, 1)
	})
}

func TestASpilledPairIsReplayedAtStartAndWhenTheStoreOpens(t *testing.T) {
	for _, start := range []bool{true, false} {
		t.Run(fmt.Sprintf("start %v", start), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				first := w.instance()
				first.seller("shop-1", 100)
				time.Sleep(life + time.Minute)
				first.store.set(func(op string, _ bool) error {
					if op == "AddPair" {
						return errors.New("the disk is full")
					}
					return nil
				})
				first.lives("shop-1", 100)
				first.crash()
				synctest.Wait()
				require.Len(t, spilledFiles(t, w), 1)
				second := w.instance()
				if start {
					synctest.Wait()
					require.Empty(t, spilledFiles(t, w))
				}
				second.lives("shop-1", 100)
				require.Equal(t, 1, w.provider.count())
				require.Empty(t, spilledFiles(t, w))
			})
		})
	}
}

func TestASpillThatDoesNotOpenIsToldAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		require.NoError(t, os.MkdirAll(w.spillDir, 0o700))
		path := filepath.Join(w.spillDir, "x.pair")
		require.NoError(t, os.WriteFile(path, []byte("not a pair"), 0o600))
		i := w.instance()
		i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		time.Sleep(time.Hour)
		require.FileExists(t, path)
		require.Equal(t, 1, i.events.count(EventAlarm), "once, not at every try")
	})
}

func TestAConsentThatTheStoreDoesNotTakeIsSpilledAndSavedLater(t *testing.T) {
	for name, op := range map[string]string{"the account cannot be read": "Account", "the pair cannot be written": "AddPair"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				first := w.instance()
				first.seller("shop-1", 100)
				first.store.set(func(o string, _ bool) error {
					if o == op {
						return errors.New("the disk is full")
					}
					return nil
				})
				_, err := first.Exchange(t.Context(), "", w.provider.code(100), secret.Secret{})
				var problem *Error
				require.ErrorAs(t, err, &problem)
				require.Equal(t, ReasonStore, problem.Reason)
				require.Len(t, spilledFiles(t, w), 1)
				first.crash()
				synctest.Wait()
				second := w.instance()
				synctest.Wait()
				require.Empty(t, spilledFiles(t, w))
				state := second.account(100)
				require.Equal(t, uint64(2), state.Living()[0].Authorization)
				require.Equal(t, w.provider.refresh[100], state.Living()[0].RefreshToken.Reveal())
				second.lives("shop-1", 100)
			})
		})
	}
}

func TestValidTokensServeOnForADayWhileTheStoreCannotBeRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		var calls atomic.Int32
		i.store.set(func(string, bool) error {
			calls.Add(1)
			return errors.New("the disk is gone")
		})
		for range 24*60 - 1 {
			time.Sleep(time.Minute)
			i.lives("shop-1", 100)
		}
		require.Less(t, calls.Load(), int32(4*24*60))
		require.Equal(t, 1, i.events.count(EventAlarm), "the operator is told, though no request shows it, and once")
		time.Sleep(2 * time.Minute)
		problem := i.problem("shop-1")
		require.Equal(t, Connected, problem.Status, "never not connected")
		require.Equal(t, ReasonStore, problem.Reason)
		require.Positive(t, problem.RetryAfter)
		problem = i.problem("shop-2")
		require.Equal(t, Connected, problem.Status)
		i.store.set(nil)
		i.lives("shop-1", 100)
		require.Equal(t, NotConnected, i.problem("shop-2").Status)
	})
}

func TestAStoreThatDoesNotAnswerDelaysAWarmSellerOnlyABit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		hang := make(chan struct{})
		i.store.set(func(string, bool) error { <-hang; return nil })
		time.Sleep(time.Minute)
		began := time.Now()
		i.lives("shop-1", 100)
		require.LessOrEqual(t, time.Since(began), staleWait)
		began = time.Now()
		i.lives("shop-1", 100)
		require.Zero(t, time.Since(began))
		close(hang)
	})
}

func TestARecordThatDoesNotOpenIsNeverNotConnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.instance().seller("shop-1", 100)
		key, err := secret.ParseKey("cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd")
		require.NoError(t, err)
		w.keyring, err = secret.NewKeyring(key)
		require.NoError(t, err)
		problem := w.instance().problem("shop-1")
		require.Equal(t, Connected, problem.Status)
		require.Equal(t, ReasonStore, problem.Reason)
		var unknown *secret.UnknownKeyError
		require.ErrorAs(t, problem, &unknown)
	})
}

func TestABrokenStoreIsNotHammeredToOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var opens atomic.Int32
		var mended atomic.Bool
		i := w.instance(func(c *Config) {
			open := c.Open
			c.Open = func(ctx context.Context) (tokenstore.Store, *secret.Keyring, error) {
				opens.Add(1)
				if !mended.Load() {
					return nil, nil, errors.New("no route to the database")
				}
				return open(ctx)
			}
		})
		for range 100 {
			problem := i.problem("shop-1")
			require.Equal(t, ReasonStore, problem.Reason)
			require.Positive(t, problem.RetryAfter)
		}
		require.Equal(t, int32(1), opens.Load())
		mended.Store(true)
		time.Sleep(time.Minute)
		require.Equal(t, NotConnected, i.problem("shop-1").Status)
		require.Equal(t, int32(2), opens.Load())
	})
}

func TestAPairThatCannotBeReadBackIsAddedAgainBeforeTheOldOneIsDeleted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		i.store.set(func(op string, after bool) error {
			if op == "AddPair" && !after {
				return errSkipped
			}
			return nil
		})
		i.lives("shop-1", 100)
		time.Sleep(time.Minute)
		state := i.account(100)
		require.Len(t, state.Pairs, 1)
		require.Zero(t, state.Pairs[0].Generation)
		require.NotEmpty(t, state.Intents)
		i.store.set(nil)
		time.Sleep(time.Minute)
		state = i.account(100)
		require.Len(t, state.Pairs, 1)
		require.Equal(t, uint64(1), state.Pairs[0].Generation)
		require.Empty(t, state.Intents)
	})
}

func TestAnIntentThatCouldNotBeWithdrawnDoesNotHoldUsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i := w.instance()
		i.seller("shop-1", 100)
		time.Sleep(life + time.Minute)
		i.store.set(failingOp("DeleteIntent"))
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { return &oauth.Error{Outcome: oauth.Refused, Code: "dial"} }
		})
		problem := i.problem("shop-1")
		require.Len(t, i.account(100).Intents, 1)
		w.provider.script(func(p *provider) { p.before = nil })
		time.Sleep(problem.RetryAfter)
		i.lives("shop-1", 100)
		i.store.set(nil)
	})
}
