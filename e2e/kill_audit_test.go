package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// auditor reads the processes' store behind their backs.
type auditor struct {
	tokenstore.Store
	keyring *secret.Keyring
}

func newAuditor(t *testing.T, place *place) *auditor {
	t.Helper()
	key, err := secret.ParseKey(encryptionKey)
	require.NoError(t, err)
	keyring, err := secret.NewKeyring(key)
	require.NoError(t, err)
	return &auditor{place.open(keyring), keyring}
}

// spilled are the hashes of the pairs that lie in files of their own until the
// store takes them.
func (a *auditor) spilled(home string) (map[string]bool, error) {
	folders := filepath.Join(home, "data", "caddy", "mercadopago", "spill", "*")
	pairs, err := filepath.Glob(filepath.Join(folders, "*.pair"))
	if err != nil {
		return nil, err
	}
	consents, err := filepath.Glob(filepath.Join(folders, "*.consent"))
	if err != nil {
		return nil, err
	}
	hashes := make(map[string]bool)
	for _, path := range append(pairs, consents...) {
		record, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		_, pair, err := tokenstore.OpenPair(a.keyring, secret.Spill, record)
		if err != nil {
			return nil, err
		}
		hashes[pair.Hash] = true
	}
	return hashes, nil
}

// loss is an account whose living pair died with a process.
type loss struct {
	age     time.Duration // of the answer that brought it
	consent bool          // and not by a refresh
}

// mourn looks what died with a process: an answer of the provider that was on its
// way, which nobody can prevent, and nothing else.
func (s *siege) mourn(r *replica) {
	// What is in a server that is down is not lost, and cannot be looked at.
	s.place.up.RLock()
	defer s.place.up.RUnlock()
	for _, g := range s.book.givenTo(r.life) {
		// First the spilled pairs: between two looks one may go over into the store,
		// never back.
		spilled, err := s.store.spilled(r.home)
		needed, failure := s.gone(g)
		if err = errors.Join(err, failure); err != nil {
			s.fail("reading the store after a kill: %v", err)
			continue
		}
		s.book.note(g.account, "%s died; %.8s is gone: %v; spilled: %v", g.to.name, g.hash, needed, spilled[g.hash])
		if !needed || spilled[g.hash] || !s.book.lose(g) {
			continue
		}
		l := loss{max(0, r.life.killed.Sub(g.at)), g.consent}
		s.losses = append(s.losses, l)
		switch {
		case s.wasUsed(g):
			s.fail("%s was lost, though its new pair had been used:%s", g.account, s.book.story(g.account))
		case l.age > inFlight:
			s.fail("%s was lost, though its new pair was there for %v:%s", g.account, l.age, s.book.story(g.account))
		}
	}
}

func (s *siege) wasUsed(g *given) bool {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	return g.used
}

// gone tells whether a pair is not in the store though a connection needs it.
func (s *siege) gone(g *given) (bool, error) {
	ctx := context.Background()
	state, err := s.store.Account(ctx, g.account)
	if err != nil {
		return false, err
	}
	if slices.ContainsFunc(state.Pairs, func(p tokenstore.Pair) bool { return p.Hash == g.hash }) {
		return false, nil
	}
	if len(state.Pairs) == 0 && state.Tombstone > 0 {
		return false, nil // disconnected
	}
	// A disconnect ends the connection before it deletes pairs: who is still
	// connected needs them.
	connections, err := s.store.Connections(ctx, g.account)
	return len(connections) > 0, err
}

// count is the reckoning when all is quiet: every seller is connected to what it
// may be connected to, and the store has the living pair.
func (s *siege) count() {
	s.t.Helper()
	for _, seller := range s.sellers {
		var account int64
		var err error
		await(s.t, "the last request is through", func() bool {
			account, err = s.sound(seller)
			return err == nil || time.Since(s.newest(seller)) > inFlight
		})
		if err != nil {
			s.fail("lost: %v%s", err, s.stories(seller))
			continue
		}
		seller.settled(account)
	}
}

// newest is when a seller's accounts were given a pair last.
func (s *siege) newest(seller *besiegedSeller) (at time.Time) {
	for _, account := range seller.accounts {
		if g := s.book.lastOf(seller.id(account)); g != nil && g.at.After(at) {
			at = g.at
		}
	}
	return at
}

// sound returns the account that a seller is connected to, where nothing is wrong
// with it.
func (s *siege) sound(seller *besiegedSeller) (int64, error) {
	ctx := context.Background()
	c, err := s.store.Connection(ctx, seller.application, seller.name)
	if err != nil {
		return nobody, fmt.Errorf("the connection of %s: %w", seller, err)
	}
	if !slices.Contains(seller.now(), c.Account.UserID) {
		return nobody, fmt.Errorf("%s is connected to %d, and should be to one of %v", seller, c.Account.UserID, seller.now())
	}
	state, err := s.store.Account(ctx, c.Account)
	if err != nil {
		return nobody, err
	}
	g := s.book.lastOf(c.Account)
	if g == nil {
		return nobody, errors.New("the provider knows nothing of it")
	}
	if !slices.ContainsFunc(state.Living(), func(p tokenstore.Pair) bool { return p.Hash == g.hash }) {
		return nobody, fmt.Errorf("the store has no living pair %.8s of %s, which %s needs: %v, verdicts %v", g.hash, c.Account, seller, idsOf(state.Pairs), state.Verdicts)
	}
	return c.Account.UserID, nil
}

func idsOf(pairs []tokenstore.Pair) []string {
	var ids []string
	for _, p := range pairs {
		ids = append(ids, p.String())
	}
	return ids
}

// report is what people want to know, also when they come while it runs.
func (s *siege) report(seed uint64, took time.Duration) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, f := s.book, s.fleet
	b.mu.Lock()
	defer b.mu.Unlock()
	kills := s.kills[1] + s.kills[2] + s.kills[3]
	var text strings.Builder
	row := func(name, format string, args ...any) {
		fmt.Fprintf(&text, "%-46s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("kills", "%d (%d of one process, %d of two, %d of three) in %v, seed %d", kills, s.kills[1], s.kills[2], s.kills[3], took.Round(time.Second), seed)
	if s.place.server != nil {
		row("crashes of the server that the store is on", "%d", s.crises)
	}
	row("sellers, accounts", "%d, %d", len(s.sellers), len(b.last))
	row("refreshes, consents, reloads", "%d, %d, %d", b.refreshes, b.consents, s.reloaded)
	row("what people did", "%s", countsOf(s.done))
	row("answers", "%s", countsOf(s.answers))
	row("refreshes cut before the provider took them", "%d, of which %d were posted again and answered", b.cuts, b.again)
	row("pairs tried again after an unknown outcome", "%s", countsOf(f.unknown))
	row("refresh tokens posted after they were spent", "%d", b.provider.Stats().RefreshReuse)
	row("requests that got another seller's token", "%d", s.answers[othersToken])
	row("lost with an answer in flight", "%d (%d of them of a consent), sent before the kill: %s", len(s.losses), consents(s.losses), agesOf(s.losses))
	row("lost otherwise, or served wrongly", "%d", s.wrong)
	row("slowest to serve again by every process", "%v", s.slowest.Round(time.Second))
	row("alarms", "%s", countsOf(f.alarms))
	folder := filepath.Join("..", "artifacts")
	if err := os.MkdirAll(folder, 0o755); err == nil {
		err = os.WriteFile(filepath.Join(folder, "kills-on-"+s.place.name+".txt"), []byte(text.String()), 0o600)
		require.NoError(s.t, err)
	}
	return text.String()
}

func countsOf(counts map[string]int) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(parts, ", ")
}

func consents(losses []loss) (n int) {
	for _, l := range losses {
		if l.consent {
			n++
		}
	}
	return n
}
