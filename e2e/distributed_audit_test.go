//go:build linux

package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// saved waits until the store has the pair that the provider gave a seller last: it
// may have been given a moment ago.
func (w *distributedWorld) saved(s *shop) error {
	for patient := time.Now().Add(patience); ; {
		state, err := w.store.Account(context.Background(), s.account)
		living := w.observed.livingOf(s)
		if err == nil && slices.ContainsFunc(state.Living(), func(p tokenstore.Pair) bool { return p.Hash == living.hash }) {
			return nil
		}
		switch late := time.Now().After(patient); {
		case late && err != nil:
			return fmt.Errorf("the account cannot be read: %w", err)
		case late:
			return fmt.Errorf("lost: the store has %v, and not the pair that lives, %.8s, given to %q", idsOf(state.Pairs), living.hash, living.to)
		}
		pause(w.t.Context(), 100*time.Millisecond)
	}
}

// audit is the reckoning when all is quiet.
func (w *distributedWorld) audit() {
	w.t.Helper()
	w.auditServing()
	w.auditStore()
	w.auditProvider()
}

// auditServing asks for every seller: who is connected is served with the own token,
// and who was disconnected is refused. Under the race detector, which makes all of
// it several times slower, one instance after the other is asked, and all of them
// for some.
func (w *distributedWorld) auditServing() {
	w.t.Helper()
	var all sync.WaitGroup
	asked := make([]int, len(w.instances))
	for at, i := range w.instances {
		var shops []*shop
		for n, s := range w.shops {
			if !raceEnabled || n < crowdFrom || n%50 == 0 || n%len(w.instances) == at {
				shops = append(shops, s)
			}
		}
		asked[at] = len(shops)
		all.Go(func() {
			w.atOnce(shops, func(_ int, s *shop) error {
				want := gotServed
				if w.gone[s] {
					want = "403 not_connected"
				}
				// A pair that was posted in vain is left alone for a while.
				return w.comesTo(i, s, want, settles+patience)
			})
		})
	}
	all.Wait()
	w.tell("every seller is served with its own token, but for %d that were disconnected: the instances were asked for %v of %d", len(w.gone), asked, len(w.shops))
}

// auditStore looks for the living pair of everybody who is connected.
func (w *distributedWorld) auditStore() {
	w.t.Helper()
	ctx := context.Background()
	w.atOnce(w.shops, func(_ int, s *shop) error {
		connection, err := w.store.Connection(ctx, "default", s.name)
		switch {
		case w.gone[s] && errors.Is(err, tokenstore.ErrNotFound):
			return nil
		case err != nil:
			return fmt.Errorf("its connection: %w", err)
		case w.gone[s]:
			return errors.New("was disconnected, and has a connection")
		case connection.Account != s.account:
			return fmt.Errorf("lost: its connection is to %v", connection.Account)
		}
		return w.saved(s)
	})
	w.tell("the store has the living pair of everybody who is connected")
}

// auditProvider looks what refresh tokens were posted: each is answered once at the
// most, and comes again only where it was never carried out and whoever posted it
// was cut off or killed.
func (w *distributedWorld) auditProvider() {
	o := w.observed
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, p := range o.byRefresh {
		last := time.Time{}
		for n, posted := range p.posts {
			switch {
			case n > 0 && p.posts[n-1].outcome != dropped:
				w.fail("the refresh token of %s was posted again after it was %s: %v", p.shop.name, p.posts[n-1].outcome, storyOf(p))
			case n > 0 && posted.at.Sub(last) < deadline:
				w.fail("the refresh token of %s was posted again after %v: %v", p.shop.name, posted.at.Sub(last), storyOf(p))
			}
			last = posted.at
		}
	}
	if reused := o.sandbox.Stats().RefreshReuse; reused != 0 {
		w.fail("%d refresh tokens were posted after they were spent", reused)
	}
}

func storyOf(p *obtained) string {
	var parts []string
	for _, posted := range p.posts {
		parts = append(parts, fmt.Sprintf("%s %s by %s", posted.at.Format("15:04:05.000"), posted.outcome, posted.by))
	}
	return strings.Join(parts, ", ")
}

// requests counts the requests under load. w.mu must be held.
func (w *distributedWorld) requests() (n int) {
	for _, kinds := range w.answers {
		for _, some := range kinds {
			n += some
		}
	}
	return n
}

// report is the reckoning in numbers.
func (w *distributedWorld) report() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var text strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&text, "%-40s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("sellers, of them disconnected", "%d, %d", len(w.shops), len(w.gone))
	row("requests under load", "%d", w.requests())
	for _, name := range slices.Sorted(maps.Keys(w.answers)) {
		row("  "+name, "%s", countsOf(w.answers[name]))
	}
	w.reportProvider(row)
	for _, kind := range slices.Sorted(maps.Keys(w.disconnects)) {
		delays := w.disconnects[kind]
		slices.Sort(delays)
		row("disconnects, "+kind, "%d; honoured everywhere after %v (median), %v (most)",
			len(delays), delays[len(delays)/2].Round(time.Millisecond), delays[len(delays)-1].Round(time.Millisecond))
	}
	row("what may not be", "%d", w.wrong)
	row("took", "%v", time.Since(w.began).Round(time.Second))
	return text.String()
}

func (w *distributedWorld) reportProvider(row func(name, format string, args ...any)) {
	o := w.observed
	o.mu.Lock()
	defer o.mu.Unlock()
	posted, posts, all, twice := 0, 0, 0, 0
	stranded := make(map[string][]string)
	for _, p := range o.byRefresh {
		if len(p.posts) == 0 {
			continue
		}
		posted++
		posts += len(p.posts)
		done := 0
		for _, one := range p.posts {
			switch one.outcome {
			case carried:
				done++
			case dropped:
				stranded[one.by] = append(stranded[one.by], p.shop.name)
			}
		}
		all += done
		if done > 1 {
			twice++
		}
	}
	row("pairs refreshed, token requests", "%d, %d", posted, posts)
	row("  carried out; of one pair twice", "%d; %d", all, twice)
	for _, name := range slices.Sorted(maps.Keys(stranded)) {
		slices.Sort(stranded[name])
		row("  of "+name+", never carried out", "%d: %s", len(stranded[name]), strings.Join(stranded[name], " "))
	}
	injected := 0
	for _, n := range o.injected {
		injected += n
	}
	row("requests that came with a token", "%d, with another seller's %d", injected, o.astray)
}
