package e2e

import (
	"bytes"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

func pairOf(account sandbox.Account) func(*stage) record {
	return func(s *stage) record { return s.engine.pair(account) }
}

func connectionOf(account sandbox.Account) func(*stage) record {
	return func(s *stage) record { return s.engine.connection(account) }
}

// damaged plays a record that is another than it was, until it is put back.
func damaged(of func(*stage) record, damage func([]byte) []byte, lines ...string) func(*stage) {
	return func(s *stage) {
		s.running()
		damaged := of(s)
		content := damaged.read()
		damaged.write(damage(bytes.Clone(content)))
		if lines != nil {
			s.order(lines...)
		}
		s.look()
		damaged.write(content)
	}
}

func garbage([]byte) []byte      { return []byte("\x00\x17 a disk in trouble") }
func nothing([]byte) []byte      { return nil }
func half(content []byte) []byte { return content[:len(content)/2] }
func future(content []byte) []byte {
	return bytes.Replace(content, []byte(`"version":1`), []byte(`"version":2`), 1)
}

// sealedAnew changes one letter of what is sealed.
func sealedAnew(content []byte) []byte {
	at := bytes.Index(content, []byte(`"tokens":"`)) + 60
	content[at] ^= 1
	return content
}

const putBack = "when the record is put back"

func recordFaults() []fault {
	var all []fault
	add := func(name, text string, play func(*stage)) *fault {
		all = append(all, fault{
			area: "Records", name: name, when: "while serving", play: play, only: onFolder,
			valid: ok, ended: broken, told: alarmed(text), after: ok, how: putBack,
		})
		return &all[len(all)-1]
	}
	// both has a row played on either store.
	both := func(f *fault) *fault {
		f.only = ""
		return f
	}
	add("a seller's pair is garbage", "restore it from a back-up", damaged(pairOf(ended), garbage))
	add("a seller's pair is empty", "restore it from a back-up", damaged(pairOf(ended), nothing))
	add("a seller's pair is cut off", "restore it from a back-up", damaged(pairOf(ended), half))
	both(add("a seller's pair was changed", "", damaged(pairOf(ended), sealedAnew)))
	both(add("a seller's pair is of a future version", "upgrade", damaged(pairOf(ended), future)))
	add("a seller's connection is garbage", "restore it from a back-up", damaged(connectionOf(ended), garbage))
	f := add("an account's index is garbage", "", damaged(func(s *stage) record { return folder{s}.record(ended, "index") }, garbage))
	f.ended, f.told, f.how = ok, nil, "the index was made anew"
	f = add("the pair of a seller in memory is garbage", "restore it from a back-up", damaged(pairOf(valid), garbage, "later 1m"))
	f.faulty, f.ended = true, ok
	f = both(add("the encryption key is another", "encryption_key", otherKey))
	f.when, f.valid, f.how = "from a restart on", broken, "when the old key is written behind the new one"
	f = both(add("the store was restored from a back-up that has an older pair", "the store lost a pair that memory knows", olderBackup))
	f.faulty, f.ended, f.how = true, ok, "the newer pair is in the store again"
	f = both(add("the store was restored from a back-up that has an older pair", "", olderBackupAtStart))
	f.when, f.ended, f.after = "before a start", rejected, rejected
	f.told = []told{{"warn", "reconnect_required", "invalid_grant", ""}}
	f.how, f.reuse = "200 once the seller has reconnected: nobody has the living pair", 1
	f = add("the folder is empty (a volume that is not mounted)", "", unmounted)
	f.ended, f.told, f.may, f.how = stranger, nil, alarmed("is its volume mounted"), "when the folder is there again"
	f = add("the folder is empty (a volume that is not mounted)", "is its volume mounted", unmounted)
	f.faulty, f.when = true, "for longer than memory is believed (30 s)"
	f.ended, f.how = stranger, "when the folder is there again"
	return all
}

// otherKey is a caddy that was given a new key and not the old one.
func otherKey(s *stage) {
	const other = "9f2c61a0e7d84b35a1c0f3e2d4b5968778695a4b3c2d1e0ff0e1d2c3b4a59687"
	s.connected(valid, 100*day)
	s.connected(ended, -day)
	s.values["KEY"] = "{env.MP_OTHER_KEY}"
	s.start("MP_OTHER_KEY=" + other)
	s.look()
	s.values["KEY"] = "{env.MP_OTHER_KEY} {env.MP_ENCRYPTION_KEY}"
	s.caddy.reload(s.config())
}

func olderBackup(s *stage) {
	s.running()
	restore := s.engine.backUp()
	require.Equal(s.t, ok, s.call(ended))
	s.settled(ended)
	restore()
	require.Equal(s.t, uint64(0), s.generation(ended))
	s.order("later 1m")
	s.look()
	await(s.t, "the store has the newer pair again", func() bool { return s.generation(ended) == 1 })
	require.Equal(s.t, 1, s.refreshes())
}

func olderBackupAtStart(s *stage) {
	s.running()
	restore := s.engine.backUp()
	require.Equal(s.t, ok, s.call(ended))
	s.caddy.stop()
	restore()
	s.caddy.start()
	s.look()
}

// unmounted is a store without anything in it, though Caddy has just read it.
func unmounted(s *stage) {
	s.running()
	fill := s.engine.empty()
	if s.orders != "" {
		s.order("later 1m")
	}
	s.look()
	fill()
}
