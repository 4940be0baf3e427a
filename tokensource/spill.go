package tokensource

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	// spilledPair is a pair that has its number; spilledConsent is one that gets
	// the next authorization, because the store could not tell which that is.
	spilledPair    = ".pair"
	spilledConsent = ".consent"
	mostSpilled    = 64 << 10
)

// IsSpilled reports whether a file in a [Config]'s SpillDir is a pair that the store
// did not take yet.
func IsSpilled(path string) bool {
	ext := filepath.Ext(path)
	return ext == spilledPair || ext == spilledConsent
}

// spill is a pair in a sealed file of its own. The zero spill is no file.
type spill struct {
	mu      sync.Mutex
	dir     string
	keyring *secret.Keyring
	id      tokenstore.AccountID
	path    string
}

// write seals a pair to a file, on disk when it returns.
func (s *spill) write(dir string, keyring *secret.Keyring, id tokenstore.AccountID, pair tokenstore.Pair) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if dir == "" {
		return errors.New("there is no folder to spill it to")
	}
	s.dir, s.keyring, s.id = dir, keyring, id
	return s.seal(pair)
}

// renumber writes a spilled consent anew, once its number has changed: replayed
// by its number it can never come above a consent that is newer, nor above its
// own successor.
func (s *spill) renumber(pair tokenstore.Pair) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" {
		return nil
	}
	return s.seal(pair)
}

// seal writes the file in place of the one that is there. A pair without an
// authorization is a consent's.
func (s *spill) seal(pair tokenstore.Pair) error {
	ext := spilledPair
	if pair.Authorization == 0 {
		ext, pair.Authorization = spilledConsent, 1
	}
	record, err := tokenstore.SealPair(s.keyring, secret.Spill, s.id, pair)
	if err != nil {
		return fmt.Errorf("spilling a pair: %w", err)
	}
	name := sha256.Sum256([]byte(s.id.String() + "/" + pair.Hash + fmt.Sprintf("/%d/%d", pair.Authorization, pair.Generation)))
	path := filepath.Join(s.dir, hex.EncodeToString(name[:16])+ext)
	if err := writeFile(path, record); err != nil {
		return fmt.Errorf("spilling a pair: %w", err)
	}
	if s.path != "" && s.path != path {
		_ = os.Remove(s.path)
	}
	s.path = path
	return nil
}

// remove deletes the file: its pair, or one above it, was read back.
func (s *spill) remove() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == "" {
		return
	}
	// A file that stays is found to be saved at the next replay.
	_ = os.Remove(s.path)
	s.path = ""
}

// writeFile writes a file that is either there as a whole or not at all, and is
// on disk, with its name, when it returns.
func writeFile(path string, content []byte) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "spilling-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	// Some systems cannot sync a folder; the file itself is on disk.
	_ = folder.Sync()
	return folder.Close()
}

// spilled returns the files of pairs that a store did not take: of this store,
// and of others, whose folders are beside. One that fails is often cured by
// another address or password, and then goes by another name.
func (s *Source) spilled() []string {
	if s.config.SpillDir == "" {
		return nil
	}
	// Neither pattern can be malformed but by the folder's name, and then nothing
	// was spilled there.
	folders := filepath.Join(filepath.Dir(s.config.SpillDir), "*")
	pairs, _ := filepath.Glob(filepath.Join(folders, "*"+spilledPair))
	consents, _ := filepath.Glob(filepath.Join(folders, "*"+spilledConsent))
	return append(pairs, consents...)
}

// foreign reports whether a file was spilled for a store of another name.
func (s *Source) foreign(path string) bool {
	return filepath.Dir(path) != filepath.Clean(s.config.SpillDir)
}

func (s *Source) hasSpilled() bool { return len(s.spilled()) > 0 }

// replay brings spilled pairs into the store. It returns when ctx is done; what
// does not land goes on being tried in the background.
func (s *Source) replay(ctx context.Context, o *opened) {
	if !s.hasSpilled() {
		return
	}
	_, _ = s.replays.do(ctx, s.manager, 0, struct{}{}, func(ctx context.Context) (struct{}, error) {
		told := make(map[string]bool)
		pauses := pausesBetween(time.Second, time.Minute)
		for {
			left := 0
			for _, path := range s.spilled() {
				if err := s.replayFile(ctx, o, path); err != nil {
					left++
					if !told[path] {
						told[path] = true
						s.observe(Event{Name: EventAlarm, Reason: ReasonStore, Err: fmt.Errorf("a spilled pair of tokens is not in the store yet: %s: %w", filepath.Base(path), err)})
					}
				}
			}
			if left == 0 || !s.manager.sleep(ctx, pauses.NextBackOff()) {
				return struct{}{}, nil
			}
		}
	})
}

func (s *Source) replayFile(ctx context.Context, o *opened, path string) error {
	record, err := readBounded(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // its own landing, or another process, was faster
	}
	if err != nil {
		return err
	}
	id, pair, err := tokenstore.OpenPair(o.keyring, secret.Spill, record)
	if err != nil {
		if s.foreign(path) {
			return nil // of a store with keys of its own
		}
		return err
	}
	// This process is already saving the pair. A replay would give the consent a new
	// number: if it was refreshed by then, it would rank above its own successor.
	if _, busy := s.manager.landing.Load(pair.Hash); busy {
		return nil
	}
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		return nil // it was saved just now
	}
	ctx, cancel := context.WithTimeout(ctx, storeWait)
	defer cancel()
	l := landing{source: s, store: o.store, keyring: o.keyring, account: s.realm.account(id), pair: pair}
	l.spill = spill{dir: filepath.Dir(path), keyring: o.keyring, id: id, path: path}
	state, err := o.store.Account(ctx, id)
	if err != nil {
		return err
	}
	if s.foreign(path) && len(state.Pairs) == 0 {
		return nil // an account of that other store: its pairs are not for this one
	}
	if strings.HasSuffix(path, spilledConsent) {
		if hasHash(&state, pair.Hash) {
			return os.Remove(path)
		}
		l.consent, l.pair.Authorization = true, state.NextAuthorization()
		if err := l.spill.renumber(l.pair); err != nil {
			return err
		}
	} else if state.Tombstone >= pair.Authorization || covers(&state, pair.PairID) {
		if s.foreign(path) && !hasHash(&state, pair.Hash) {
			return nil // numbers of another store need not mean the same here
		}
		return os.Remove(path)
	}
	if _, err := l.try(ctx); err != nil && !errors.Is(err, errVoid) {
		return err
	}
	l.spill.remove()
	return nil
}

func hasHash(state *tokenstore.Account, hash string) bool {
	for _, p := range state.Pairs {
		if p.Hash == hash {
			return true
		}
	}
	return false
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	record, err := io.ReadAll(io.LimitReader(f, mostSpilled+1))
	if err == nil && len(record) > mostSpilled {
		err = errors.New("it is too long for a pair")
	}
	return record, err
}
