package secret

import (
	"bytes"
	"crypto/fips140"
	"encoding/base64"
	"encoding/hex"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// rawKey returns a key of 32 bytes that are all b.
func rawKey(b byte) Secret { return New(strings.Repeat(string([]byte{b}), keySize)) }

func newRing(t testing.TB, keys ...Secret) *Keyring {
	t.Helper()
	ring, err := NewKeyring(keys...)
	require.NoError(t, err)
	return ring
}

func TestWhatIsSealedOpensWithTheSamePurposeAndNames(t *testing.T) {
	ring := newRing(t, rawKey(1))
	for _, p := range purposes {
		for _, text := range []string{"", "x", canary, strings.Repeat("long ", 20_000)} {
			for _, names := range [][]string{nil, {""}, {"client", "cookie"}, {strings.Repeat("n", 300)}} {
				sealed := ring.Seal(p, []byte(text), names...)
				require.NotContains(t, string(sealed), canary)
				opened, err := ring.Open(p, sealed, names...)
				require.NoError(t, err)
				require.Equal(t, text, string(opened))
			}
		}
	}
}

func TestWhatIsSealedForOnePurposeOpensForNoOther(t *testing.T) {
	ring := newRing(t, rawKey(1))
	for _, sealedFor := range purposes {
		sealed := ring.Seal(sealedFor, []byte(canary), "name")
		for _, openedFor := range purposes {
			_, err := ring.Open(openedFor, sealed, "name")
			if sealedFor == openedFor {
				require.NoError(t, err)
				continue
			}
			require.ErrorIs(t, err, ErrOpen)
		}
	}
}

func TestAPurposeHasAKeyOfItsOwn(t *testing.T) {
	// The additional data would tell purposes apart even under one key; this
	// looks below it.
	k, err := derive([]byte(rawKey(1).Reveal()))
	require.NoError(t, err)
	nonce := make([]byte, 24)
	seen := make(map[string]Purpose)
	for _, p := range purposes {
		sealed := string(k.aead(p).Seal(nil, nonce, []byte(canary), nil))
		require.NotContains(t, seen, sealed)
		seen[sealed] = p
	}
}

// Each purpose has a sub-key too; this checks the additional data alone.
func TestThePurposeIsPartOfWhatIsSealed(t *testing.T) {
	seen := make(map[string]Purpose)
	for _, p := range purposes {
		data := string(appendAdditionalData(nil, p, []string{"name"}))
		require.NotContains(t, seen, data)
		seen[data] = p
	}
}

func TestASealedValueMovedElsewhereDoesNotOpen(t *testing.T) {
	ring := newRing(t, rawKey(1))
	home := []string{"client", "account", "7"}
	sealed := ring.Seal(Record, []byte(canary), home...)
	for name, names := range map[string][]string{
		"nowhere":             nil,
		"another client":      {"other", "account", "7"},
		"another generation":  {"client", "account", "8"},
		"another order":       {"account", "client", "7"},
		"one name less":       {"client", "account"},
		"one name more":       {"client", "account", "7", ""},
		"names run together":  {"client", "account7"},
		"names cut elsewhere": {"clienta", "ccount", "7"},
		"a length in a name":  {"client\x07account\x017"},
	} {
		_, err := ring.Open(Record, sealed, names...)
		require.ErrorIs(t, err, ErrOpen, name)
	}
	_, err := ring.Open(Record, sealed, home...)
	require.NoError(t, err)
}

func TestAnAlteredByteAnywhereIsNoticed(t *testing.T) {
	ring := newRing(t, rawKey(1))
	sealed := ring.Seal(Session, []byte(canary), "n")
	for i := range sealed {
		altered := bytes.Clone(sealed)
		altered[i] ^= 1
		text, err := ring.Open(Session, altered, "n")
		require.Error(t, err)
		require.Nil(t, text)
		if i >= keyIDSize {
			require.ErrorIs(t, err, ErrOpen)
		}
	}
}

func TestACutOrExtendedValueDoesNotOpen(t *testing.T) {
	ring := newRing(t, rawKey(1))
	sealed := ring.Seal(Link, []byte(canary))
	for n := range sealed {
		_, err := ring.Open(Link, sealed[:n])
		require.ErrorIs(t, err, ErrOpen)
	}
	_, err := ring.Open(Link, append(bytes.Clone(sealed), 0))
	require.ErrorIs(t, err, ErrOpen)
}

func TestOpeningLeavesTheSealedValueAsItWas(t *testing.T) {
	ring := newRing(t, rawKey(1))
	sealed := ring.Seal(Record, []byte(canary))
	before := bytes.Clone(sealed)
	for range 2 {
		_, err := ring.Open(Record, sealed)
		require.NoError(t, err)
		require.Equal(t, before, sealed)
	}
}

func TestWritingBehindAnOpenedTextCannotReachWhatFollowsIt(t *testing.T) {
	ring := newRing(t, rawKey(1))
	text, err := ring.Open(Record, ring.Seal(Record, []byte(canary), "name"), "name")
	require.NoError(t, err)
	require.Equal(t, len(text), cap(text))
}

func TestTheFirstKeySealsAndOlderOnesStillOpen(t *testing.T) {
	older, newer := newRing(t, rawKey(1)), newRing(t, rawKey(2), rawKey(1))
	require.NotEqual(t, older.KeyID(), newer.KeyID())

	sealed := older.Seal(Record, []byte(canary))
	require.Equal(t, older.KeyID(), SealedWith(sealed))
	text, err := newer.Open(Record, sealed)
	require.NoError(t, err)
	require.Equal(t, canary, string(text))
	require.Equal(t, newer.KeyID(), SealedWith(newer.Seal(Record, nil)))
}

func TestAnUnknownKeyIsNamedWithTheCure(t *testing.T) {
	first, second := newRing(t, rawKey(1)), newRing(t, rawKey(2))
	_, err := second.Open(Record, first.Seal(Record, []byte(canary)))
	var unknown *UnknownKeyError
	require.ErrorAs(t, err, &unknown)
	require.Equal(t, first.KeyID(), unknown.ID)
	require.NotErrorIs(t, err, ErrOpen)
	require.ErrorContains(t, err, first.KeyID())
	require.ErrorContains(t, err, "add that key after the first one in encryption_key")
}

func TestAKeyIDTellsNothingOfTheKey(t *testing.T) {
	require.NotContains(t, hex.EncodeToString([]byte(rawKey(7).Reveal())), newRing(t, rawKey(7)).KeyID())
}

func TestAKeyNamedTwiceCountsOnce(t *testing.T) {
	require.Len(t, newRing(t, rawKey(1), rawKey(2), rawKey(1)).keys, 2)
}

func TestAKeyringRefusesWhatIsNoKey(t *testing.T) {
	_, err := NewKeyring()
	require.EqualError(t, err, "a keyring needs at least one key")
	_, err = NewKeyring(rawKey(1), New("short"))
	require.EqualError(t, err, "an encryption key has 5 bytes, it needs 32")
}

func TestAModeThatForbidsTheCipherIsAnErrorAtOnce(t *testing.T) {
	// The mode is fixed when a process starts, so a second process runs this test.
	if !fips140.Enforced() {
		program, err := os.Executable()
		require.NoError(t, err)
		child := exec.CommandContext(t.Context(), program, "-test.run=^"+t.Name()+"$", "-test.v")
		child.Env = append(os.Environ(), "GODEBUG=fips140=only")
		out, err := child.CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "--- PASS: "+t.Name())
		return
	}
	ring, err := NewKeyring(rawKey(1))
	require.ErrorContains(t, err, "not allowed in FIPS 140-only mode")
	require.Nil(t, ring, "a keyring without ciphers panics at its first use")
}

func TestNoNonceIsUsedTwice(t *testing.T) {
	ring := newRing(t, rawKey(1))
	var mu sync.Mutex
	seen := make(map[string]bool)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 2_000 {
				nonce := string(ring.Seal(Session, []byte(canary))[keyIDSize:headerSize])
				mu.Lock()
				seen[nonce] = true
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Len(t, seen, 16_000)
}

func TestSealedWithKnowsWhatCannotBeSealed(t *testing.T) {
	require.Empty(t, SealedWith(nil))
	require.Empty(t, SealedWith(make([]byte, overhead-1)))
	require.Equal(t, "00000000", SealedWith(make([]byte, overhead)))
}

func TestAPurposeNobodyDeclaredIsAMistakeInTheProgram(t *testing.T) {
	ring := newRing(t, rawKey(1))
	const says = "secret: no such purpose: cookie"
	require.PanicsWithValue(t, says, func() { ring.Seal("cookie", nil) })
	require.PanicsWithValue(t, says, func() { _, _ = ring.Open("cookie", ring.Seal(Record, nil)) })
}

func TestKeysAreReadAsTheyAreWritten(t *testing.T) {
	raw := make([]byte, keySize)
	for i := range raw {
		raw[i] = byte(251 - i) // gives + and / in base64
	}
	std := base64.StdEncoding.EncodeToString(raw)
	require.Contains(t, std, "+")
	require.Contains(t, std, "/")
	url := base64.URLEncoding.EncodeToString(raw)
	for name, row := range map[string]struct{ text, problem string }{
		"hex":                   {text: hex.EncodeToString(raw)},
		"hex in capitals":       {text: strings.ToUpper(hex.EncodeToString(raw))},
		"base64":                {text: std},
		"base64 unpadded":       {text: strings.TrimRight(std, "=")},
		"base64 for addresses":  {text: url},
		"the same unpadded":     {text: strings.TrimRight(url, "=")},
		"spaces around":         {text: " \t" + std + "\r\n"},
		"empty":                 {text: "", problem: "is empty"},
		"only spaces":           {text: " \n", problem: "is empty"},
		"a sentence":            {text: "correct horse battery staple", problem: "neither base64 nor 64 hex digits"},
		"a placeholder":         {text: "{env.MP_ENCRYPTION_KEY}", problem: "neither base64 nor 64 hex digits"},
		"16 bytes of base64":    {text: base64.StdEncoding.EncodeToString(raw[:16]), problem: "has 16 bytes, it needs 32"},
		"16 bytes of hex":       {text: hex.EncodeToString(raw[:16]), problem: "has 24 bytes, it needs 32"},
		"one byte too many":     {text: base64.StdEncoding.EncodeToString(append(bytes.Clone(raw), 1)), problem: "has 33 bytes"},
		"64 that are no hex":    {text: strings.Repeat("zz", 32), problem: "has 48 bytes"},
		"a key cut in the copy": {text: std[:30], problem: "the encryption key"},
	} {
		t.Run(name, func(t *testing.T) {
			key, err := ParseKey(row.text)
			if row.problem != "" {
				require.ErrorContains(t, err, row.problem)
				require.ErrorContains(t, err, "openssl rand -base64 32")
				if text := strings.TrimSpace(row.text); text != "" {
					require.NotContains(t, err.Error(), text, "an error never repeats what may be a key")
				}
				return
			}
			require.NoError(t, err)
			require.Equal(t, string(raw), key.Reveal())
		})
	}
}

func TestGeneratedKeysAreDifferentAndParse(t *testing.T) {
	a, err := ParseKey(GenerateKey().Reveal())
	require.NoError(t, err)
	b, err := ParseKey(GenerateKey().Reveal())
	require.NoError(t, err)
	require.False(t, a.Equal(b))
	newRing(t, a, b)
}

func TestOpeningASessionCostsFewAllocations(t *testing.T) {
	ring := newRing(t, rawKey(1))
	names := []string{"4934588586838432", "__Host-mp_session"}
	sealed := ring.Seal(Session, []byte("shop-42 and a connection id"), names...)
	require.LessOrEqual(t, testing.AllocsPerRun(100, func() {
		_, _ = ring.Open(Session, sealed, names...)
	}), 1.0)
}

func BenchmarkOpenSession(b *testing.B) {
	ring := newRing(b, rawKey(2), rawKey(1))
	sealed := ring.Seal(Session, []byte("shop-42 and a connection id"), "4934588586838432", "__Host-mp_session")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ring.Open(Session, sealed, "4934588586838432", "__Host-mp_session"); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzOpen(f *testing.F) {
	ring := newRing(f, rawKey(1), rawKey(2))
	f.Add([]byte(nil), "")
	f.Add(make([]byte, overhead), "n")
	f.Add(ring.Seal(Session, []byte(canary), "n"), "m")
	f.Add(newRing(f, rawKey(3)).Seal(Session, []byte(canary), "n"), "n")
	f.Fuzz(func(t *testing.T, sealed []byte, name string) {
		// Nobody can make a value that opens without the key.
		text, err := ring.Open(Session, sealed, name, "a name the fuzzer cannot seal for")
		require.Error(t, err)
		require.Nil(t, text)

		opened, err := ring.Open(Link, ring.Seal(Link, sealed, name), name)
		require.NoError(t, err)
		require.True(t, bytes.Equal(sealed, opened))
	})
}

func FuzzParseKey(f *testing.F) {
	f.Add(GenerateKey().Reveal())
	f.Add("")
	f.Add(strings.Repeat("ab", keySize))
	f.Add("AA==\n==")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := ParseKey(text)
		if err != nil {
			require.True(t, key.IsZero())
			return
		}
		newRing(t, key)
	})
}
