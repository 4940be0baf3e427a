package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// running brings up a caddy that serves the first seller from memory, and lets
// the second one come to its end.
func (s *stage) running() {
	s.t.Helper()
	s.connected(valid, 100*day)
	_, schedules := s.store().(tokenstore.Scheduler)
	if schedules {
		s.unnoticed(ended)
	}
	s.start()
	require.Equal(s.t, ok, s.call(valid))
	await(s.t, "the first walk through the store is over", func() bool { return len(s.events("renewals")) > 0 })
	if !schedules {
		s.connected(ended, -day)
	}
}

// unnoticed makes an account one whose token ended a day ago, and that no caddy
// comes by in the next minutes but for a caller.
func (s *stage) unnoticed(account sandbox.Account) {
	s.t.Helper()
	s.connected(account, -day)
	require.NoError(s.t, s.store().(tokenstore.Scheduler).Schedule(s.t.Context(), accountID(account), later()))
}

// whileRunning plays a storage that does as the lines say.
func whileRunning(lines ...string) func(*stage) {
	return func(s *stage) {
		s.running()
		s.order(lines...)
		s.look()
		s.mend(lines)
	}
}

// mend makes the storage work again. Time that has passed does not come back.
func (s *stage) mend(lines []string) {
	s.t.Helper()
	s.order(slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return !strings.HasPrefix(line, "later ") })...)
}

// beforeStart plays a storage that is in trouble from the first moment.
func beforeStart(lines ...string) func(*stage) {
	return func(s *stage) {
		s.connected(valid, 100*day)
		s.connected(ended, -day)
		s.order(lines...)
		s.start()
		s.look()
		s.mend(lines)
	}
}

// duringRefresh plays a storage that does as the lines say from when a refresh
// was posted: its answer is on the way, and can be had only once.
func duringRefresh(lines ...string) func(*stage) {
	return func(s *stage) {
		s.answeredInto(func() { s.order(lines...) })
		s.mend(lines)
	}
}

func (s *stage) answeredInto(trouble func()) {
	s.t.Helper()
	s.running()
	reached, let := s.holdRefresh()
	done := make(chan sees, 1)
	go func() {
		defer close(done)
		done <- s.call(ended)
	}()
	select {
	case <-reached:
	case saw := <-done:
		s.t.Fatalf("%s without a refresh", saw)
	}
	trouble()
	let()
	s.sawEnded = <-done
	s.sawValid = s.call(valid)
	require.Equal(s.t, s.sawEnded, s.call(ended), "the token goes on serving")
	require.Equal(s.t, 1, s.refreshes())
}

// alarmed is what the operator is told of what a store holds.
func alarmed(text string) []told { return []told{{"error", "alarm", "store", text}} }

// recovered is what the operator is told when a store can be used again.
var recovered = told{"info", "recovered", "store", ""}

// troubled is what the operator is told of a store that cannot be used, once each
// way.
func troubled(text string) []told { return append(alarmed(text), recovered) }

const (
	notPosted = "refreshed once the store is back; nothing was asked for that could not be saved"
	savedLate = "with the pair that came, saved when the store was back"
	notTaken  = "the store does not take a new pair"
)

func storeFaults() []fault {
	var all []fault
	add := func(name, when, text string, play func(*stage)) *fault {
		all = append(all, fault{
			area: "Store", name: name, when: when, faulty: true, play: play, only: onFolder,
			valid: ok, ended: broken, told: troubled(text), after: ok, how: notPosted,
		})
		return &all[len(all)-1]
	}
	const serving, longer = "while serving", "for longer than memory is believed (30 s)"
	add("reads fail", serving, "input/output error", whileRunning("load error EIO"))
	add("reads fail", longer, "input/output error", whileRunning("later 1m", "load error EIO"))
	add("reads fail", "for longer than 24 h", "input/output error", whileRunning("later 25h", "load error EIO")).valid = broken
	add("listing fails", serving, "input/output error", whileRunning("list error EIO"))
	// What fails before a refresh is told with the refresh.
	for _, of := range []struct {
		name, text, when string
		lines            []string
	}{
		{"writes fail", "input/output error", serving, []string{"store error EIO"}},
		{"the disk is full", "no space left on device", serving, []string{"store error ENOSPC"}},
		{"the folder is read-only", "read-only file system", serving, []string{"store error EROFS", "delete error EROFS"}},
	} {
		add(of.name, of.when, of.text, whileRunning(of.lines...)).told = []told{{"warn", "renewal_failed", "store", of.text}}
	}
	add("no permission for anything", serving, "permission denied", whileRunning("* error EACCES"))
	add("everything fails", "from before the start", "input/output error", beforeStart("* error EIO")).valid = broken
	f := add("locks fail", serving, "", whileRunning("lock error EIO"))
	f.ended, f.told, f.how = busy, nil, "refreshed without the lock"
	f = add("locks hang", serving, "", whileRunning("lock hang"))
	f.ended, f.told, f.how = busy, nil, "refreshed without the lock"
	f = add("deleting fails", serving, "", whileRunning("delete error EIO"))
	f.ended, f.told, f.how = ok, nil, "what was left is removed later"
	f = add("every operation takes 50 ms", serving, "", whileRunning("* slow 50ms"))
	f.ended, f.told, f.how = ok, nil, "a little later"
	add("every operation hangs", serving, "deadline exceeded", whileRunning("* hang"))
	add("every operation hangs", longer, "deadline exceeded", whileRunning("later 1m", "* hang"))
	add("every operation hangs, and no deadline ends it", serving, "deadline exceeded", whileRunning("* stuck"))
	f = add("writing hangs, and no deadline ends it", serving, "", whileRunning("store stuck"))
	f.ended, f.told = busy, nil

	const posted = "when a refresh was posted"
	for _, of := range []struct{ name, line string }{
		{"writes fail", "store error EIO"},
		{"the disk is full", "store error ENOSPC"},
		{"writes leave half a record", "store torn EIO"},
		{"writes are lost and reported as done", "store lost"},
		{"everything fails", "* error EIO"},
		{"everything hangs", "* hang"},
	} {
		f := add(of.name, posted, notTaken, duringRefresh(of.line))
		f.ended, f.told, f.how = ok, alarmed(notTaken), savedLate
	}
	f = add("writes fail, and the folder for what could not be saved is unusable", posted, "spilling a pair", func(s *stage) {
		s.answeredInto(func() {
			spill := filepath.Join(s.caddy.home, "data", "caddy", "mercadopago", "spill")
			require.NoError(s.t, os.RemoveAll(spill))
			require.NoError(s.t, os.MkdirAll(filepath.Dir(spill), 0o700))
			require.NoError(s.t, os.WriteFile(spill, nil, 0o600))
			s.order("store error EIO")
		})
		s.order()
	})
	f.ended, f.told, f.how = ok, alarmed("spilling a pair"), savedLate
	f = add("writes fail, and caddy is killed", posted, notTaken, func(s *stage) {
		s.answeredInto(func() { s.order("store error EIO") })
		s.told(alarmed(notTaken)[0])
		s.caddy.kill()
		s.order()
		s.caddy.start()
	})
	f.ended, f.told, f.how = ok, alarmed(notTaken), "with the pair that came, found in the folder for what could not be saved"
	return all
}

func clockFaults() []fault {
	var all []fault
	add := func(name, when string, play func(*stage)) {
		all = append(all, fault{
			area: "Clock", name: name, when: when, faulty: true, play: play, valid: ok, ended: ok, after: ok, how: "and when the clock is right again",
		})
	}
	set := func(by string) func(*stage) {
		return func(s *stage) {
			s.running()
			// The provider's clock is right: what has ended has ended.
			s.provider.KillAccessTokens(ended.UserID)
			s.order("clock " + by)
			s.look()
			s.order()
		}
	}
	add("back an hour", "while serving", set("-1h"))
	add("back a year", "while serving", set("-8760h"))
	add("on an hour", "while serving", set("1h"))
	add("on a year", "while serving", set("8760h"))
	add("on a year", "from before the start", func(s *stage) {
		s.connected(valid, 100*day)
		s.connected(ended, -day)
		s.order("clock 8760h")
		s.start()
		s.look()
		s.order()
	})
	for _, of := range []struct {
		name string
		by   time.Duration
	}{{"the provider's is a year behind", -365 * day}, {"the provider's is a year ahead", 365 * day}} {
		all = append(all, fault{
			area: "Clock", name: of.name, when: eachRefresh, play: atRefresh(dated(of.by)),
			valid: ok, ended: ok, after: ok, how: unharmed,
		})
	}
	return all
}
