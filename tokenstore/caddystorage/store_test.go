package caddystorage_test

import (
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/memdir"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

func TestMain(m *testing.M) {
	// CertMagic's goroutine for a lock file ends up to 5 s after the lock.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"))
}

// key returns an encryption key of one letter, and its keyring.
func keyring(t testing.TB, letter string) *secret.Keyring {
	t.Helper()
	ring, err := secret.NewKeyring(secret.New(strings.Repeat(letter, 32)))
	require.NoError(t, err)
	return ring
}

// instances returns two instances' views of a storage.
func instances(t *testing.T, storage certmagic.Storage) (a, b tokenstore.Store) {
	t.Helper()
	return caddystorage.New(storage, keyring(t, "k")), caddystorage.New(storage, keyring(t, "k"))
}

func TestCaddysFilesKeepEveryPromise(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (a, b tokenstore.Store) {
		return instances(t, &certmagic.FileStorage{Path: memdir.New(t)})
	}, storetest.Parallel())
}

func TestMemoryKeepsEveryPromise(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (a, b tokenstore.Store) {
		return instances(t, storetest.NewMemory())
	}, storetest.Parallel())
}

func TestALockThatFailsInsteadOfWaitingKeepsEveryPromise(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (a, b tokenstore.Store) {
		return instances(t, storetest.ImpatientLock(storetest.NewMemory()))
	})
}

func TestALockThatDoesNothingCostsNoMoreThanItMust(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (a, b tokenstore.Store) {
		return instances(t, storetest.NoLock(storetest.NewMemory()))
	}, storetest.WorthlessLock())
}

func TestListingsThatLagHideNothing(t *testing.T) {
	t.Parallel()
	var late *storetest.LateListings
	storetest.Run(t, func(t *testing.T) (a, b tokenstore.Store) {
		late = storetest.NewLateListings(storetest.NewMemory())
		return instances(t, late)
	}, storetest.SettlesLater(func() { late.CatchUp() }))
}

func TestTheWeakestStorageOfAllLosesNothing(t *testing.T) {
	t.Parallel()
	var late *storetest.LateListings
	storetest.Run(t, func(t *testing.T) (a, b tokenstore.Store) {
		late = storetest.NewLateListings(storetest.NewMemory())
		return instances(t, storetest.NoLock(late))
	}, storetest.WorthlessLock(), storetest.SettlesLater(func() { late.CatchUp() }))
}

func TestAtAnyStepThereIsTheOldOrTheNewState(t *testing.T) {
	t.Parallel()
	for name, storage := range map[string]func(t *testing.T) certmagic.Storage{
		"memory": func(*testing.T) certmagic.Storage { return storetest.NewMemory() },
		"files":  func(t *testing.T) certmagic.Storage { return &certmagic.FileStorage{Path: memdir.New(t)} },
		"late listings": func(*testing.T) certmagic.Storage {
			return storetest.NewLateListings(storetest.NewMemory())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.RunSteps(t, func(t *testing.T, step func() error) (stepping, other tokenstore.Store) {
				below := storage(t)
				stepping, _ = instances(t, storetest.Hook(below, func(op, _ string) error {
					if op == "unlock" {
						return nil
					}
					return step()
				}))
				_, other = instances(t, below)
				return stepping, other
			})
		})
	}
}
