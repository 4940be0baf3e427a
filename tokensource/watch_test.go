package tokensource

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// telling is a store that tells of changes when a test has it do so, and keeps a
// schedule.
type telling struct {
	tokenstore.Store
	mu      sync.Mutex
	changed func(tokenstore.Change)
	cut     chan struct{}
	begun   int
	due     map[tokenstore.AccountID]time.Time
	asked   chan struct{} // if not nil, it is closed by who asks what is due, and waits
}

func (s *telling) Watch(ctx context.Context, changed func(tokenstore.Change)) error {
	s.mu.Lock()
	s.changed, s.cut = changed, make(chan struct{})
	s.begun++
	cut := s.cut
	s.mu.Unlock()
	changed(tokenstore.Change{})
	select {
	case <-cut:
		return errors.New("cut")
	case <-ctx.Done():
		return nil
	}
}

func (s *telling) tell(c tokenstore.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changed(c)
}

func (s *telling) Due(ctx context.Context, clientID string, now, until time.Time, n int) (ids []tokenstore.AccountID, err error) {
	s.mu.Lock()
	if s.asked != nil {
		close(s.asked)
		s.asked = nil
		s.mu.Unlock()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	defer s.mu.Unlock()
	for id, at := range s.due {
		if id.ClientID == clientID && !at.After(now) && len(ids) < n {
			ids = append(ids, id)
			s.due[id] = until
		}
	}
	return ids, nil
}

func (s *telling) Schedule(_ context.Context, id tokenstore.AccountID, at time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.due[id] = at; at.IsZero() {
		delete(s.due, id)
	}
	return nil
}

func (s *telling) Account(ctx context.Context, id tokenstore.AccountID) (tokenstore.Account, error) {
	state, err := s.Store.Account(ctx, id)
	s.mu.Lock()
	defer s.mu.Unlock()
	state.DueAt = s.due[id]
	return state, err
}

func (s *telling) dueAt(user int64) time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.due[accountID(user)]
}

// tells is an instance whose store tells.
func (w *world) tells(parallel int) (*instance, *telling) {
	s := &telling{due: make(map[tokenstore.AccountID]time.Time)}
	i := w.instance(func(c *Config) {
		open := c.Open
		c.Open = func(ctx context.Context) (tokenstore.Store, *secret.Keyring, error) {
			store, keyring, err := open(ctx)
			s.Store = store
			return s, keyring, err
		}
		c.Renewal.Parallel = parallel
	})
	return i, s
}

func TestWhatAnotherInstanceChangesIsKnownAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, store := w.tells(0)
		other := w.instance()
		c := other.seller("shop-1", 100)
		other.seller("shop-2", 200)
		i.lives("shop-1", 100)
		old := i.lives("shop-2", 200)
		synctest.Wait()

		newer, err := other.Replace(t.Context(), other.lives("shop-2", 200))
		require.NoError(t, err)
		store.tell(tokenstore.Change{Account: accountID(200)})
		synctest.Wait()
		require.True(t, i.lives("shop-2", 200).AccessToken().Equal(newer.AccessToken()))
		require.False(t, old.AccessToken().Equal(newer.AccessToken()))

		require.NoError(t, other.Disconnect(t.Context(), c))
		i.lives("shop-1", 100) // it was not told yet
		store.tell(tokenstore.Change{Seller: "shop-1"})
		require.Equal(t, NotConnected, i.problem("shop-1").Status)
		i.end()
		other.end()
	})
}

// In a fleet most changes are of sellers that an instance has nothing to do with.
func TestChangesOfOthersSellersCostNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, store := w.tells(0)
		i.seller("shop-1", 100)
		i.lives("shop-1", 100)
		synctest.Wait()
		reads := 0
		i.store.set(func(string, bool) error { reads++; return nil })
		epoch := i.realm.epochNow()
		for user := range int64(1000) {
			store.tell(tokenstore.Change{Account: accountID(1000 + user)})
			store.tell(tokenstore.Change{Seller: "another"})
		}
		synctest.Wait()
		require.Zero(t, reads)
		require.Equal(t, epoch, i.realm.epochNow())
		i.end()
	})
}

func TestAfterAGapEverySellerIsReadAgainAndItIsToldOnceEachWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, store := w.tells(0)
		other := w.instance()
		c := other.seller("shop-1", 100)
		for range 2 { // that it began to listen has it read once more
			i.lives("shop-1", 100)
			synctest.Wait()
		}
		require.NoError(t, other.Disconnect(t.Context(), c))
		close(store.cut)
		synctest.Wait()
		require.Equal(t, 1, i.events.count(EventNotListening))
		i.lives("shop-1", 100)
		time.Sleep(time.Second)
		synctest.Wait()
		require.Equal(t, 2, store.begun)
		require.Equal(t, 1, i.events.count(EventListening))
		i.lives("shop-1", 100) // and is read again behind this
		synctest.Wait()
		require.Equal(t, NotConnected, i.problem("shop-1").Status)
		require.Equal(t, 1, i.events.count(EventNotListening))
		i.end()
		other.end()
	})
}

func TestAReloadListensOnceAndTheEndOfTheProcessNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, store := w.tells(0)
		i.seller("shop-1", 100)
		synctest.Wait()
		config := i.config
		next := i.manager.Source(config)
		next.Start()
		synctest.Wait()
		require.Equal(t, 1, store.begun, "the old one listens until the new one has its store")
		_, err := next.Token(t.Context(), "", "shop-1", time.Minute)
		require.NoError(t, err)
		_, err = next.Keyring(t.Context())
		require.NoError(t, err)
		synctest.Wait()
		require.Equal(t, 2, store.begun)
		i.end()
	})
}

func TestAReloadWhileTheStoreIsAskedIsNoTroubleWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, store := w.tells(4)
		i.seller("shop-1", 100)
		asked := make(chan struct{})
		store.mu.Lock()
		store.asked = asked
		store.mu.Unlock()
		<-asked
		next := i.manager.Source(w.config(i))
		next.Start()
		i.Stop()
		synctest.Wait()
		require.Zero(t, i.events.count(EventAlarm))
		i.end()
	})
}

// queued are the renewals that wait here.
func (i *instance) queued() (plans []plan) {
	q := i.realm.queue
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, it := range q.items {
		plans = append(plans, it.plan)
	}
	return plans
}

func TestAStoreThatKeepsTheScheduleIsAskedForWhatIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.life = 12 * day
		i, store := w.tells(4)
		i.seller("shop-1", 100)
		synctest.Wait()
		require.WithinDuration(t, time.Now().Add(day), store.dueAt(100), time.Hour, "unless someone confirms it")
		time.Sleep(25 * time.Hour)
		due := store.dueAt(100)
		require.WithinDuration(t, time.Now().Add(7*day), due, day)
		require.Empty(t, i.queued(), "nothing waits here")
		time.Sleep(time.Until(due) - time.Minute)
		require.Zero(t, w.provider.count())
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		require.Equal(t, 1, w.provider.count())
		require.True(t, store.dueAt(100).After(due.Add(7*day)))
		i.end()
	})
}

// What is remembered of a failure stays here; should the process die, another has
// the account a little later.
func TestWhatFailsIsTriedAgainHereAndScheduledForAfterThat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.provider.life = 12 * day
		i, store := w.tells(4)
		i.seller("shop-1", 100)
		synctest.Wait()
		w.provider.script(func(p *provider) {
			p.before = func(context.Context, string) error { return &oauth.Error{Outcome: oauth.Refused} }
		})
		time.Sleep(9 * day)
		synctest.Wait()
		items := i.queued()
		require.Len(t, items, 1)
		require.True(t, items[0].failing)
		require.Equal(t, items[0].at.Add(lease).Unix(), store.dueAt(100).Unix())
		i.end()
	})
}

// After a change of renew_before, or where a crash left it so, an account may be
// scheduled too late, or not at all.
func TestTheWalkBringsForwardWhatIsScheduledTooLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		i, store := w.tells(4)
		i.seller("shop-1", 100)
		synctest.Wait()
		for _, late := range []time.Time{{}, time.Now().Add(1000 * day)} {
			require.NoError(t, store.Schedule(t.Context(), accountID(100), late))
			time.Sleep(13 * time.Hour)
			synctest.Wait()
			require.WithinDuration(t, time.Now().Add(life-30*day), store.dueAt(100), 6*day)
		}
		i.end()
	})
}
