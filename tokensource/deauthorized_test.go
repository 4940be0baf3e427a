package tokensource

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

var errNoMore = &oauth.Error{Outcome: oauth.Unknown, Code: "unauthorized", Status: 401, Description: "invalid access token"}

// ends has the provider refuse every token of an account from now on.
func (p *provider) ends(user int64) {
	p.script(func(p *provider) {
		for access, owner := range p.access {
			if owner == user {
				delete(p.access, access)
			}
		}
		delete(p.refresh, user)
	})
}

// strict has /users/me answer as the real one does.
func (p *provider) strict() (asked *int) {
	asked = new(int)
	p.script(func(p *provider) {
		p.asks = func(access secret.Secret) (oauth.User, error) {
			*asked++
			user, ok := p.access[access.Reveal()]
			if !ok {
				return oauth.User{}, errNoMore
			}
			return oauth.User{ID: user}, nil
		}
	})
	return asked
}

func (i *instance) deauthorized(user int64) error {
	return i.Deauthorized(context.Background(), "", user, true)
}

func TestASellerWhoEndsTheAuthorizationElsewhereIsToldToReconnectAtOnceAndEverywhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, other := w.instance(), w.instance()
		i.seller("shop-1", 100)
		i.seller("shop-2", 100)
		i.seller("shop-3", 300)
		i.lives("shop-1", 100)
		other.lives("shop-1", 100)
		w.provider.strict()
		w.provider.ends(100)

		require.NoError(t, i.deauthorized(100))
		for _, seller := range []string{"shop-1", "shop-2"} {
			problem := i.problem(seller)
			require.Equal(t, ReconnectRequired, problem.Status)
			require.Equal(t, ReasonDeauthorized, problem.Reason)
		}
		require.Equal(t, 1, i.events.count(EventReconnectRequired))
		require.Equal(t, 2, i.events.count(EventDeauthorized), "two consents gave two pairs")
		i.lives("shop-3", 300)

		time.Sleep(validFor + time.Second)
		require.Equal(t, ReasonDeauthorized, other.problem("shop-1").Reason, "another instance learns it from the store")
		require.Equal(t, ReasonDeauthorized, w.instance().problem("shop-1").Reason, "and so does one that starts later")
		require.Zero(t, w.provider.count(), "no refresh token is posted for it")
		require.Len(t, i.account(100).Pairs, 2, "nothing is deleted")

		i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		require.NoError(t, i.deauthorized(100), "a notice that comes late is asked about")
		i.lives("shop-1", 100)
	})
}

func TestANoticeThatTheProviderDoesNotConfirmWritesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		answer error
		again  bool
	}{
		"taken":            {nil, false},
		"forbidden":        {&oauth.Error{Outcome: oauth.Unknown, Code: "forbidden", Status: 403}, true},
		"not found":        {&oauth.Error{Outcome: oauth.Unknown, Code: "unreadable", Status: 404}, true},
		"too many":         {&oauth.Error{Outcome: oauth.Refused, Code: "rate_limited", Status: 429}, true},
		"server error":     {&oauth.Error{Outcome: oauth.Unknown, Code: "server_error", Status: 500}, true},
		"unavailable":      {&oauth.Error{Outcome: oauth.Unknown, Code: "server_error", Status: 503}, true},
		"no connection":    {&oauth.Error{Outcome: oauth.Refused, Code: "dial"}, true},
		"time-out":         {&oauth.Error{Outcome: oauth.Unknown, Code: "timeout"}, true},
		"unreadable":       {&oauth.Error{Outcome: oauth.Unknown, Code: "unreadable", Status: 200}, true},
		"live credentials": {&oauth.Error{Outcome: oauth.Unknown, Status: 401, Description: "Unauthorized use of live credentials"}, true},
		"another error":    {errors.New("odd"), true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newWorld(t).instance()
				i.seller("shop-1", 100)
				i.w.provider.script(func(p *provider) {
					p.asks = func(secret.Secret) (oauth.User, error) { return oauth.User{ID: 100}, test.answer }
				})
				err := i.deauthorized(100)
				require.Equal(t, test.again, err != nil, "%v", err)
				require.Empty(t, i.account(100).Verdicts)
				require.Zero(t, i.events.count(EventReconnectRequired))
				i.lives("shop-1", 100)
			})
		})
	}
}

func TestAProviderThatDoesNotAnswerHoldsNoNoticeLongerThanItMayWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		i.w.provider.script(func(p *provider) {
			p.slow = func(ctx context.Context) { <-ctx.Done() }
			p.asks = func(secret.Secret) (oauth.User, error) { return oauth.User{}, context.DeadlineExceeded }
		})
		began := time.Now()
		require.Error(t, i.deauthorized(100))
		require.Equal(t, confirmWait, time.Since(began))
		i.lives("shop-1", 100)
	})
}

func TestANoticeAboutNobodyAsksNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		asked := i.w.provider.strict()
		require.NoError(t, i.deauthorized(999))
		require.NoError(t, i.Deauthorized(context.Background(), "", 100, false), "a test account is another account")
		require.Error(t, i.Deauthorized(context.Background(), "unknown", 100, true))
		require.Zero(t, *asked)
		i.lives("shop-1", 100)
	})
}

func TestOneNoticeThatComesManyTimesIsFollowedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		asked := i.w.provider.strict()
		i.w.provider.ends(100)
		go func() { _ = i.deauthorized(100) }()
		for range 5 {
			require.NoError(t, i.deauthorized(100))
		}
		require.Equal(t, 1, *asked)
		require.Equal(t, 1, i.events.count(EventReconnectRequired))
	})
}

func TestOnlyTheTokenThatTheProviderRefusesIsCondemned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		first := i.account(100).Pairs[0]
		i.w.provider.strict()
		i.w.provider.ends(100)
		i.seller("shop-1", 100) // a consent that came before the notice did
		require.Len(t, i.account(100).Pairs, 2)
		require.NoError(t, i.deauthorized(100))
		state := i.account(100)
		require.Len(t, state.Living(), 1)
		require.NotNil(t, state.Verdict(first.Hash))
		require.Zero(t, i.events.count(EventReconnectRequired))
		i.lives("shop-1", 100)
	})
}

func TestAConsentDuringTheQuestionIsUntouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, other := w.instance(), w.instance()
		i.seller("shop-1", 100)
		w.provider.ends(100)
		consented := false
		w.provider.script(func(p *provider) {
			p.slow = func(context.Context) {
				if consented {
					return
				}
				consented = true
				p.mu.Unlock()
				defer p.mu.Lock()
				other.seller("shop-1", 100)
			}
			p.asks = func(access secret.Secret) (oauth.User, error) {
				if user, ok := p.access[access.Reveal()]; ok {
					return oauth.User{ID: user}, nil
				}
				return oauth.User{}, errNoMore
			}
		})
		require.NoError(t, i.deauthorized(100))
		require.Zero(t, i.events.count(EventReconnectRequired))
		i.lives("shop-1", 100)
		other.lives("shop-1", 100)
	})
}

// A refresh may make the old access token useless, and keep its refresh token:
// the 401 then says nothing about the account.
func TestARefreshDuringTheQuestionIsNoEnd(t *testing.T) {
	for name, keep := range map[string]bool{"rotated": false, "kept": true} {
		for _, store := range []string{"locked", "no lock"} {
			t.Run(name+", "+store, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					if store == "no lock" {
						w.storage = storetest.NoLock(w.storage)
					}
					i, other := w.instance(), w.instance()
					i.seller("shop-1", 100)
					token := other.lives("shop-1", 100)
					refreshed := false
					w.provider.script(func(p *provider) {
						if keep {
							p.change = func(a *oauth.Answer) { a.RefreshToken = secret.Secret{} }
						}
						p.slow = func(context.Context) {
							if refreshed {
								return
							}
							refreshed = true
							p.mu.Unlock()
							_, err := other.Replace(context.Background(), token)
							p.mu.Lock()
							require.NoError(t, err)
							time.Sleep(time.Second) // its intent is withdrawn
							delete(p.access, token.AccessToken().Reveal())
						}
						p.asks = func(access secret.Secret) (oauth.User, error) {
							if user, ok := p.access[access.Reveal()]; ok {
								return oauth.User{ID: user}, nil
							}
							return oauth.User{}, errNoMore
						}
					})
					require.NoError(t, i.deauthorized(100))
					require.Zero(t, i.events.count(EventReconnectRequired))
					i.lives("shop-1", 100)
					other.lives("shop-1", 100)
				})
			})
		}
	}
}

func TestWhileARefreshIsUnderWayANoticeIsToComeAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		pair := i.account(100).Pairs[0]
		intent := tokenstore.Intent{Pair: pair.Hash, Instance: "elsewhere", Nonce: "n", At: time.Now()}
		require.NoError(t, i.store.PutIntent(context.Background(), accountID(100), intent))
		i.w.provider.strict()
		i.w.provider.ends(100)
		require.ErrorIs(t, i.deauthorized(100), errRefreshing)
		require.Empty(t, i.account(100).Verdicts)
		time.Sleep(15 * time.Minute)
		require.NoError(t, i.deauthorized(100), "an intent that was left behind is no refresh")
		require.Equal(t, ReasonDeauthorized, i.problem("shop-1").Reason)
	})
}

func TestAnAccessTokenThatHasEndedIsNotAskedAbout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.seller("shop-1", 100)
		asked := i.w.provider.strict()
		time.Sleep(life + time.Minute)
		require.NoError(t, i.deauthorized(100))
		require.Zero(t, *asked)
		i.lives("shop-1", 100) // by its refresh token, which was alive
	})
}

func TestAStoreThatFailsHasTheNoticeComeAgain(t *testing.T) {
	for _, broken := range []string{"Account", "PutVerdict"} {
		t.Run(broken, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				i := newWorld(t).instance()
				i.seller("shop-1", 100)
				i.w.provider.strict()
				i.w.provider.ends(100)
				i.store.set(func(op string, after bool) error {
					if op == broken && !after {
						return errors.New("the disk is gone")
					}
					return nil
				})
				require.Error(t, i.deauthorized(100))
				i.store.set(nil)
				require.NoError(t, i.deauthorized(100))
				require.Equal(t, ReasonDeauthorized, i.problem("shop-1").Reason)
			})
		})
	}
}

func TestMoreSellersThanLeaveAtOnceAreNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newWorld(t).instance()
		i.w.provider.strict()
		const sellers = noticesAtOnce + 3
		for n := range sellers {
			user := int64(1000 + n)
			consent, err := i.Exchange(context.Background(), "", i.w.provider.code(user), secret.Secret{})
			require.NoError(t, err)
			_, err = i.Connect(context.Background(), consent.Account.String(), consent)
			require.NoError(t, err)
			time.Sleep(time.Second) // exchanges have a rate
			i.w.provider.ends(user)
		}
		refused := 0
		for n := range sellers {
			if i.deauthorized(int64(1000+n)) != nil {
				refused++
			}
		}
		require.Equal(t, 3, refused)
		require.Equal(t, 3, i.events.count(EventAlarm))
		time.Sleep(15 * time.Minute)
		for n := range sellers {
			require.NoError(t, i.deauthorized(int64(1000+n)), "when they come again there is room")
		}
		require.Equal(t, sellers, i.events.count(EventReconnectRequired))
	})
}
