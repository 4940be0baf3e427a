package storetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/caddyserver/certmagic"
)

// Memory is CertMagic storage in memory. It is as strict as Caddy's files: what
// is missing is [fs.ErrNotExist] to List too, deleting a folder deletes all that
// lies beneath, and a lock is waited for. Several stores over one Memory are
// several instances.
type Memory struct {
	mu     sync.Mutex
	values map[string][]byte
	// folders has the keys and folders that lie directly in each folder. No folder is
	// empty.
	folders map[string]map[string]bool
	locks   map[string]chan struct{}
}

// NewMemory returns an empty storage.
func NewMemory() *Memory {
	return &Memory{values: make(map[string][]byte), folders: make(map[string]map[string]bool), locks: make(map[string]chan struct{})}
}

// Clone returns a storage of its own with the same values, and no locks.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	clone := NewMemory()
	clone.values = maps.Clone(m.values) // no value is ever changed in place
	for folder, keys := range m.folders {
		clone.folders[folder] = maps.Clone(keys)
	}
	return clone
}

// Lock waits for a lock until ctx is done.
func (m *Memory) Lock(ctx context.Context, name string) error {
	for {
		m.mu.Lock()
		released, taken := m.locks[name]
		if !taken {
			m.locks[name] = make(chan struct{})
			m.mu.Unlock()
			return nil
		}
		m.mu.Unlock()
		select {
		case <-released:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Unlock releases a lock, whoever holds it.
func (m *Memory) Unlock(_ context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	released, taken := m.locks[name]
	if !taken {
		return fmt.Errorf("lock %s: %w", name, fs.ErrNotExist)
	}
	delete(m.locks, name)
	close(released)
	return nil
}

// Store puts a value at a key.
func (m *Memory) Store(_ context.Context, key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.isFolder(key) {
		return fmt.Errorf("%s is a folder", key)
	}
	m.values[key] = slices.Clone(value)
	for {
		folder, ok := parent(key)
		if !ok || m.folders[folder][key] {
			return nil
		}
		if m.folders[folder] == nil {
			m.folders[folder] = make(map[string]bool)
		}
		m.folders[folder][key] = true
		key = folder
	}
}

// Load returns the value at a key.
func (m *Memory) Load(_ context.Context, key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	value, ok := m.values[key]
	if ok {
		return slices.Clone(value), nil
	}
	if m.isFolder(key) {
		return nil, fmt.Errorf("%s is a folder", key)
	}
	return nil, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
}

// Delete deletes a key, or a folder with all that lies beneath.
func (m *Memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if key == "" {
		clear(m.values)
		clear(m.folders)
		return nil
	}
	for _, beneath := range m.beneath(key) {
		delete(m.values, beneath)
		delete(m.folders, beneath)
	}
	delete(m.values, key)
	delete(m.folders, key)
	for {
		folder, ok := parent(key)
		if _, isValue := m.values[key]; !ok || isValue || m.isFolder(key) {
			return nil
		}
		delete(m.folders[folder], key)
		if len(m.folders[folder]) == 0 {
			delete(m.folders, folder)
		}
		key = folder
	}
}

// Exists tells whether there is a key or a folder.
func (m *Memory) Exists(_ context.Context, key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.values[key]
	return ok || m.isFolder(key)
}

// List returns the keys and folders in a folder, or all beneath it.
func (m *Memory) List(_ context.Context, folder string, recursive bool) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.isFolder(folder) {
		return nil, fmt.Errorf("%s: %w", folder, fs.ErrNotExist)
	}
	found := slices.Collect(maps.Keys(m.folders[folder]))
	if recursive {
		found = m.beneath(folder)
	}
	slices.Sort(found)
	return found, nil
}

// Stat describes a key or a folder.
func (m *Memory) Stat(_ context.Context, key string) (certmagic.KeyInfo, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if value, ok := m.values[key]; ok {
		return certmagic.KeyInfo{Key: key, Size: int64(len(value)), IsTerminal: true}, nil
	}
	if m.isFolder(key) {
		return certmagic.KeyInfo{Key: key}, nil
	}
	return certmagic.KeyInfo{}, fmt.Errorf("%s: %w", key, fs.ErrNotExist)
}

func (m *Memory) isFolder(key string) bool { return len(m.folders[key]) > 0 }

// beneath returns the keys and folders beneath a folder.
func (m *Memory) beneath(folder string) (all []string) {
	for key := range m.folders[folder] {
		all = append(append(all, key), m.beneath(key)...)
	}
	return all
}

// parent returns the folder that a key lies in.
func parent(key string) (folder string, ok bool) {
	i := strings.LastIndexByte(key, '/')
	return key[:max(i, 0)], i >= 0
}

// Hook returns storage with a hook before each operation: lock, unlock, store,
// load, delete, list and stat, with its key or lock name. An error of the hook is
// the operation's, which is then not carried out; an Exists is then false. The
// hook is called from many goroutines.
func Hook(storage certmagic.Storage, hook func(op, key string) error) certmagic.Storage {
	return &hooked{storage: storage, hook: hook}
}

type hooked struct {
	storage certmagic.Storage
	hook    func(op, key string) error
}

func (h *hooked) Lock(ctx context.Context, name string) error {
	if err := h.hook("lock", name); err != nil {
		return err
	}
	return h.storage.Lock(ctx, name)
}

func (h *hooked) Unlock(ctx context.Context, name string) error {
	if err := h.hook("unlock", name); err != nil {
		return err
	}
	return h.storage.Unlock(ctx, name)
}

func (h *hooked) Store(ctx context.Context, key string, value []byte) error {
	if err := h.hook("store", key); err != nil {
		return err
	}
	return h.storage.Store(ctx, key, value)
}

func (h *hooked) Load(ctx context.Context, key string) ([]byte, error) {
	if err := h.hook("load", key); err != nil {
		return nil, err
	}
	return h.storage.Load(ctx, key)
}

func (h *hooked) Delete(ctx context.Context, key string) error {
	if err := h.hook("delete", key); err != nil {
		return err
	}
	return h.storage.Delete(ctx, key)
}

func (h *hooked) Exists(ctx context.Context, key string) bool {
	return h.hook("exists", key) == nil && h.storage.Exists(ctx, key)
}

func (h *hooked) List(ctx context.Context, folder string, recursive bool) ([]string, error) {
	if err := h.hook("list", folder); err != nil {
		return nil, err
	}
	return h.storage.List(ctx, folder, recursive)
}

func (h *hooked) Stat(ctx context.Context, key string) (certmagic.KeyInfo, error) {
	if err := h.hook("stat", key); err != nil {
		return certmagic.KeyInfo{}, err
	}
	return h.storage.Stat(ctx, key)
}

// NoLock returns storage whose lock does nothing, as with some S3 plugins.
func NoLock(storage certmagic.Storage) certmagic.Storage { return noLock{storage} }

type noLock struct{ certmagic.Storage }

func (noLock) Lock(context.Context, string) error   { return nil }
func (noLock) Unlock(context.Context, string) error { return nil }

// ImpatientLock returns storage whose lock fails at once where another holds it,
// as with some PostgreSQL plugins.
func ImpatientLock(storage certmagic.Storage) certmagic.Storage {
	return &impatientLock{Storage: storage, taken: make(map[string]bool)}
}

type impatientLock struct {
	certmagic.Storage
	mu    sync.Mutex
	taken map[string]bool
}

func (l *impatientLock) Lock(_ context.Context, name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.taken[name] {
		return errors.New("already locked")
	}
	l.taken[name] = true
	return nil
}

func (l *impatientLock) Unlock(_ context.Context, name string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.taken, name)
	return nil
}

// LateListings is storage whose List shows what there was at the last CatchUp,
// as with some object stores: keys stored since are not in it, keys deleted
// since still are. Loading is never late.
type LateListings struct {
	certmagic.Storage
	mu     sync.Mutex
	hidden map[string]bool
	ghosts map[string]bool
}

// NewLateListings returns storage with listings that are late for ever, until
// CatchUp.
func NewLateListings(storage certmagic.Storage) *LateListings {
	l := &LateListings{Storage: storage}
	l.CatchUp()
	return l
}

// CatchUp lets List show what there is now.
func (l *LateListings) CatchUp() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.hidden, l.ghosts = make(map[string]bool), make(map[string]bool)
}

// Store puts a value at a key.
func (l *LateListings) Store(ctx context.Context, key string, value []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.Exists(ctx, key) && !l.ghosts[key] {
		l.hidden[key] = true
	}
	delete(l.ghosts, key)
	return l.Storage.Store(ctx, key, value)
}

// Delete deletes a key.
func (l *LateListings) Delete(ctx context.Context, key string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Exists(ctx, key) && !l.hidden[key] {
		l.ghosts[key] = true
	}
	delete(l.hidden, key)
	return l.Storage.Delete(ctx, key)
}

// List shows a folder as it was at the last CatchUp. A folder that is missing is
// empty, as object stores have it.
func (l *LateListings) List(ctx context.Context, folder string, recursive bool) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys, err := l.Storage.List(ctx, folder, recursive)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return l.hidden[key] })
	for key := range l.ghosts {
		if path.Dir(key) == folder || recursive && strings.HasPrefix(key, folder+"/") {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

var (
	_ certmagic.Storage = (*Memory)(nil)
	_ certmagic.Storage = (*LateListings)(nil)
)
