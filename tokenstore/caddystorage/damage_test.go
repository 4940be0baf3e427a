package caddystorage_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/storetest"
)

var (
	account = tokenstore.AccountID{ClientID: "1234567890123456", UserID: 4_294_967_299, Live: true}
	moment  = time.Date(2026, time.March, 1, 12, 0, 0, 0, time.UTC)
	shop    = tokenstore.Connection{ID: "c1", Application: "brasil", Seller: "shop-42", Account: account, Authorization: 1, CreatedAt: moment}
)

func newPair(authorization, generation uint64, word string) tokenstore.Pair {
	p := tokenstore.Pair{AccessToken: secret.New("APP_USR-" + word), RefreshToken: secret.New("TG-" + word), ObtainedAt: moment, ExpiresAt: moment.Add(time.Hour)}
	p.PairID = tokenstore.PairID{Authorization: authorization, Generation: generation, Hash: tokenstore.HashPair(p.AccessToken, p.RefreshToken)}
	return p
}

// filled returns a storage that holds one of everything, and its store.
func filled(t testing.TB) (*storetest.Memory, *caddystorage.Store) {
	t.Helper()
	storage := storetest.NewMemory()
	store, ctx, p := caddystorage.New(storage, keyring(t, "k")), t.Context(), newPair(2, 0, "canary")
	require.NoError(t, store.PutConnection(ctx, shop))
	require.NoError(t, store.AddPair(ctx, account, p))
	require.NoError(t, store.PutIntent(ctx, account, tokenstore.Intent{Pair: p.Hash, Instance: "i", Nonce: "n", At: moment}))
	require.NoError(t, store.PutVerdict(ctx, account, tokenstore.Verdict{Pair: p.Hash, Reason: "invalid_grant", At: moment}))
	require.NoError(t, store.PutMark(ctx, account, tokenstore.Mark{Connection: "c1", At: moment}))
	require.NoError(t, store.PutTombstone(ctx, account, 1))
	return storage, store
}

// keys returns the keys of a storage that hold a text.
func keys(t testing.TB, storage certmagic.Storage, text string) []string {
	t.Helper()
	all, err := storage.List(t.Context(), "mercadopago", true)
	require.NoError(t, err)
	var found []string
	for _, key := range all {
		if info, err := storage.Stat(t.Context(), key); err == nil && info.IsTerminal && strings.Contains(key, text) {
			found = append(found, key)
		}
	}
	return found
}

func readAll(ctx context.Context, store tokenstore.Store) error {
	_, err := store.Connection(ctx, shop.Application, shop.Seller)
	if err != nil {
		return err
	}
	if _, err = store.Connections(ctx, account); err != nil {
		return err
	}
	_, err = store.Account(ctx, account)
	return err
}

// A damaged record is neither absent nor passed over: a seller whose pair does
// not open is not a seller without a pair.
func TestARecordThatCannotBeReadIsAnErrorThatNamesKeyAndCure(t *testing.T) {
	damages := map[string]func(raw []byte) []byte{
		"emptied":  func([]byte) []byte { return nil },
		"cut":      func(raw []byte) []byte { return raw[:len(raw)/2] },
		"replaced": func([]byte) []byte { return []byte(`{"version":1}`) },
		"too long": func(raw []byte) []byte { return append(raw, bytes.Repeat([]byte(" "), 64<<10)...) },
		"newer":    func(raw []byte) []byte { return bytes.Replace(raw, []byte(`"version":1`), []byte(`"version":2`), 1) },
	}
	storage, store := filled(t)
	for _, key := range keys(t, storage, "") {
		whole, err := storage.Load(t.Context(), key)
		require.NoError(t, err)
		if strings.HasSuffix(key, "/index") || strings.Contains(key, "/tombstone-") {
			continue // the first is a hint; of the second the name says all
		}
		for name, damage := range damages {
			require.NoError(t, storage.Store(t.Context(), key, damage(bytes.Clone(whole))))
			err := readAll(t.Context(), store)
			require.ErrorContains(t, err, key, name)
			require.NotErrorIs(t, err, tokenstore.ErrNotFound)
			require.NotContains(t, err.Error(), "canary")
			cure := "back-up"
			if name == "newer" {
				cure = "upgrade"
			}
			require.ErrorContains(t, err, cure, "%s %s", key, name)
		}
		require.NoError(t, storage.Store(t.Context(), key, whole))
		require.NoError(t, readAll(t.Context(), store))
	}
}

func TestARecordThatWasCopiedToAnotherPlaceIsAnError(t *testing.T) {
	storage, store := filled(t)
	other := account
	other.UserID++
	for _, kind := range []string{"/pair-", "/verdict-", "/intent-", "/mark-", "/connection-"} {
		from := keys(t, storage, kind)[0]
		raw, err := storage.Load(t.Context(), from)
		require.NoError(t, err)
		to := strings.Replace(from, "4294967299", "4294967300", 1)
		require.NoError(t, storage.Store(t.Context(), to, raw))
		_, err = store.Account(t.Context(), other)
		if kind == "/connection-" {
			_, err = store.Connections(t.Context(), other)
		}
		require.ErrorContains(t, err, to)
		require.ErrorContains(t, err, "belongs")
		require.NoError(t, storage.Delete(t.Context(), to))
	}
}

func TestAPairSealedWithAnUnknownKeyIsAnErrorThatNamesTheKey(t *testing.T) {
	storage, _ := filled(t)
	_, err := caddystorage.New(storage, keyring(t, "x")).Account(t.Context(), account)
	var unknown *secret.UnknownKeyError
	require.ErrorAs(t, err, &unknown)
}

func TestADamagedPairThatIsAddedAgainIsWhole(t *testing.T) {
	storage, store := filled(t)
	key := keys(t, storage, "/pair-")[0]
	require.NoError(t, storage.Store(t.Context(), key, []byte(`{"vers`)))
	require.NoError(t, store.AddPair(t.Context(), account, newPair(2, 0, "canary")))
	require.NoError(t, readAll(t.Context(), store))
}

func TestTheIndexIsOnlyAHint(t *testing.T) {
	for name, index := range map[string]string{
		"gone":     "",
		"cut":      `{"version":1,"key`,
		"newer":    `{"version":2}`,
		"too long": strings.Repeat(" ", 65<<10),
		"lying":    `{"version":1,"key":"KEY","value":["pair-9-9-ffffffffffffffffffffffffffffffff","../../x","verdict-00000000000000000000000000000000","mark-n-a",""]}`,
	} {
		storage, store := filled(t)
		want, err := store.Account(t.Context(), account)
		require.NoError(t, err)
		key := keys(t, storage, "/index")[0]
		if index == "" {
			require.NoError(t, storage.Delete(t.Context(), key))
		} else {
			require.NoError(t, storage.Store(t.Context(), key, []byte(strings.Replace(index, "KEY", key, 1))))
		}
		got, err := store.Account(t.Context(), account)
		require.NoError(t, err, name)
		require.Equal(t, want.Verdicts, got.Verdicts, name)
		require.Equal(t, want.Intents, got.Intents, name)
		require.Equal(t, want.Tombstone, got.Tombstone, name)
		require.Len(t, got.Pairs, 1, name)

		// The next write makes it anew, with what is there.
		require.NoError(t, store.AddPair(t.Context(), account, newPair(3, 0, "next")))
		raw, err := storage.Load(t.Context(), key)
		require.NoError(t, err)
		require.True(t, json.Valid(raw), name)
		require.NotContains(t, string(raw), "../", name)
		for _, record := range append(keys(t, storage, "/pair-3"), keys(t, storage, "/intent-")...) {
			if name != "lying" || strings.Contains(record, "/pair-3") {
				require.Contains(t, string(raw), filepath.Base(record), name)
			}
		}
	}
}

func TestAnAccountOfHundredsOfSellersStaysReadable(t *testing.T) {
	const sellers = 900
	storage, ring := storetest.NewMemory(), keyring(t, "k")
	store := caddystorage.New(storage, ring)
	connect := func(s *caddystorage.Store, n int) {
		c := shop
		c.ID, c.Seller = fmt.Sprintf("%s-%d", strings.Repeat("x", 60), n), fmt.Sprint("shop-", n)
		require.NoError(t, s.PutConnection(t.Context(), c))
	}
	// Most are connected in a storage of their own, and moved into the common one:
	// connecting a seller costs more, the more sellers the account has.
	for n := range sellers - 20 {
		own := storetest.NewMemory()
		connect(caddystorage.New(own, ring), n)
		for _, key := range keys(t, own, "") {
			if !strings.HasSuffix(key, "/index") {
				raw, err := own.Load(t.Context(), key)
				require.NoError(t, err)
				require.NoError(t, storage.Store(t.Context(), key, raw))
			}
		}
	}
	for n := sellers - 20; n < sellers; n++ {
		connect(store, n)
	}
	require.NoError(t, store.AddPair(t.Context(), account, newPair(1, 0, "x")))
	connections, err := store.Connections(t.Context(), account)
	require.NoError(t, err)
	require.Len(t, connections, sellers)
	raw, err := storage.Load(t.Context(), keys(t, storage, "/index")[0])
	require.NoError(t, err)
	require.Less(t, len(raw), 64<<10)
	require.Contains(t, string(raw), "pair-1-0-", "the newest stay in the index")
}

func TestWhatACrashLeavesLyingAboutIsPassedOver(t *testing.T) {
	storage := &certmagic.FileStorage{Path: t.TempDir()}
	store := caddystorage.New(storage, keyring(t, "k"))
	require.NoError(t, store.AddPair(t.Context(), account, newPair(1, 0, "x")))
	folder := filepath.Dir(storage.Filename(keys(t, storage, "/pair-")[0]))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "1234567890"), []byte("half a rec"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "pair-1-0-x.tmp"), nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(folder, "folder"), 0o700))
	got, err := store.Account(t.Context(), account)
	require.NoError(t, err)
	require.Len(t, got.Pairs, 1)
}

func TestNoTokenIsInTheStorageInClear(t *testing.T) {
	storage, _ := filled(t)
	for _, key := range keys(t, storage, "") {
		raw, err := storage.Load(t.Context(), key)
		require.NoError(t, err)
		require.NotContains(t, string(raw), "canary", key)
	}
}

func TestNoOperationFallsOnAFolder(t *testing.T) {
	deleted := func(key string) error {
		if len(strings.Split(key, "/")) < 3 || strings.HasSuffix(key, "/") {
			return fmt.Errorf("delete of folder %s", key)
		}
		return nil
	}
	storage, _ := filled(t)
	store := caddystorage.New(storetest.Hook(storage, func(op, key string) error {
		if op == "delete" {
			return deleted(key)
		}
		return nil
	}), keyring(t, "k"))
	before := len(keys(t, storage, ""))
	require.NoError(t, store.DeletePairs(t.Context(), account, newPair(2, 0, "canary").PairID))
	require.NoError(t, store.DeleteMark(t.Context(), account, tokenstore.Mark{Connection: "c1"}))
	require.NoError(t, store.DeleteConnection(t.Context(), shop))
	require.Len(t, keys(t, storage, ""), before-4+1, "pair, verdict, mark and note are gone; a tombstone came")
}

// errDisk is a storage's own failure.
var errDisk = errors.New("disk on fire")

func TestAStorageThatFailsIsNeverTakenForAnEmptyOne(t *testing.T) {
	storage, _ := filled(t)
	for _, failing := range []string{"load", "list"} {
		store := caddystorage.New(storetest.Hook(storage, func(op, _ string) error {
			if op == failing {
				return errDisk
			}
			return nil
		}), keyring(t, "k"))
		require.ErrorIs(t, readAll(t.Context(), store), errDisk)
		_, err := store.Account(t.Context(), account)
		require.ErrorIs(t, err, errDisk)
		_, err = store.Connections(t.Context(), account)
		require.ErrorIs(t, err, errDisk)
		require.NotErrorIs(t, err, tokenstore.ErrNotFound)
		if failing == "load" {
			err := store.Consume(t.Context(), "state", moment)
			require.ErrorIs(t, err, errDisk)
			require.NotErrorIs(t, err, tokenstore.ErrConsumed)
		}
	}
}

// Caddy's files report a record that vanishes while they list a folder as if
// the folder were missing.
func TestAListingThatStumblesIsTriedAgain(t *testing.T) {
	storage, _ := filled(t)
	index := keys(t, storage, "/index")[0]
	require.NoError(t, storage.Delete(t.Context(), index))
	stumbles := 3
	store := caddystorage.New(storetest.Hook(storage, func(op, key string) error {
		if op == "list" && stumbles > 0 {
			stumbles--
			return &fs.PathError{Op: "lstat", Path: key + "/1234567890", Err: fs.ErrNotExist}
		}
		return nil
	}), keyring(t, "k"))
	got, err := store.Account(t.Context(), account)
	require.NoError(t, err)
	require.Len(t, got.Pairs, 1)
	require.Zero(t, stumbles)
}

func TestALockThatFailsForEverIsWaitedForUntilTheContextIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries := 0
		store := caddystorage.New(storetest.Hook(storetest.NewMemory(), func(op, _ string) error {
			if op == "lock" {
				tries++
				return errDisk
			}
			return nil
		}), keyring(t, "k"))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := store.Lock(ctx, account)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.ErrorIs(t, err, errDisk, "what the storage said is told")
		require.Greater(t, tries, 20)
		require.Less(t, tries, 1000, "with pauses")
	})
}

func TestAnUnlockIsTriedAgainAndGivenUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		failures := 3
		store := caddystorage.New(storetest.Hook(storetest.NewMemory(), func(op, _ string) error {
			if op == "unlock" && failures > 0 {
				failures--
				return errDisk
			}
			return nil
		}), keyring(t, "k"))
		held, err := store.Lock(t.Context(), account)
		require.NoError(t, err)
		require.NoError(t, held.Unlock(t.Context()))

		held, err = store.Lock(t.Context(), account)
		require.NoError(t, err, "it was released")
		failures = 1 << 30
		start := time.Now()
		require.ErrorIs(t, held.Unlock(t.Context()), errDisk)
		require.LessOrEqual(t, time.Since(start), 10*time.Second)
	})
}

func TestAnAccountIsReadWithFewOperations(t *testing.T) {
	storage := storetest.NewMemory()
	var mu sync.Mutex
	var ops []string
	store := caddystorage.New(storetest.Hook(storage, func(op, key string) error {
		mu.Lock()
		defer mu.Unlock()
		ops = append(ops, op+" "+filepath.Base(key))
		return nil
	}), keyring(t, "k"))
	require.NoError(t, store.PutConnection(t.Context(), shop))
	require.NoError(t, store.AddPair(t.Context(), account, newPair(1, 0, "x")))
	count := func(f func() error) int {
		ops = nil
		require.NoError(t, f())
		t.Log(ops)
		return len(ops)
	}
	require.Equal(t, 2, count(func() error { _, err := store.Connection(t.Context(), shop.Application, shop.Seller); return err }))
	require.Equal(t, 4, count(func() error { _, err := store.Account(t.Context(), account); return err }))
	require.Equal(t, 4, count(func() error { return store.AddPair(t.Context(), account, newPair(1, 1, "y")) }))
	require.Equal(t, 3, count(func() error {
		return store.PutIntent(t.Context(), account, tokenstore.Intent{Pair: newPair(1, 1, "y").Hash})
	}))
}

// FuzzStoredRecord puts any bytes in the place of any record: what is read is
// what was written, or an error, and never that there is nothing.
func FuzzStoredRecord(f *testing.F) {
	storage, store := filled(f)
	all := keys(f, storage, "")
	for i, key := range all {
		raw, err := storage.Load(f.Context(), key)
		require.NoError(f, err)
		f.Add(uint8(i), raw)
		f.Add(uint8(i), raw[:len(raw)-1])
		f.Add(uint8(i), bytes.Replace(raw, []byte(`"value":`), []byte(`"value":[],"x":`), 1))
	}
	f.Fuzz(func(t *testing.T, which uint8, raw []byte) {
		storage, store := storage, store
		key := all[int(which)%len(all)]
		whole, err := storage.Load(t.Context(), key)
		require.NoError(t, err)
		require.NoError(t, storage.Store(t.Context(), key, raw))
		defer func() { require.NoError(t, storage.Store(t.Context(), key, whole)) }()
		err = readAll(t.Context(), store)
		if err == nil {
			got, err := store.Account(t.Context(), account)
			require.NoError(t, err)
			require.Len(t, got.Pairs, 1)
			require.Equal(t, newPair(2, 0, "canary").PairID, got.Pairs[0].PairID)
			return
		}
		require.NotErrorIs(t, err, tokenstore.ErrNotFound)
	})
}
