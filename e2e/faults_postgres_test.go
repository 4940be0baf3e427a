package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// alone is a server that a row has for itself.
func alone(settings ...string) func(testing.TB) *postgrestest.Server {
	return func(t testing.TB) *postgrestest.Server { return postgrestest.New(t, append(settings, "fsync=off")...) }
}

// outage makes a database unusable, and returns what mends it.
type outage func(*tables) (mend func())

func (o outage) whileServing(s *stage) {
	s.running()
	mend := o(s.tables())
	s.look()
	s.suffers()
	mend()
}

func (o outage) beforeStart(s *stage) {
	s.connected(valid, 100*day)
	s.unnoticed(ended)
	mend := o(s.tables())
	s.start()
	s.look()
	s.suffers()
	mend()
}

func (o outage) duringRefresh(s *stage) {
	var mend func()
	s.answeredInto(func() { mend = o(s.tables()) })
	s.suffers()
	mend()
}

func (s *stage) tables() *tables { return s.engine.(*tables) }

// suffers waits until the operator was told all but the end of it.
func (s *stage) suffers() {
	s.t.Helper()
	for _, e := range s.row.told {
		if e != recovered && e != listening {
			s.told(e)
		}
	}
}

var (
	notListening = told{"warn", "not_listening", "store", ""}
	listening    = told{"info", "listening", "", ""}
)

// cutOff is what the operator is told of a server that nobody reaches.
func cutOff(text string) []told { return append(troubled(text), notListening, listening) }

// The ways to stop a server: as an administrator does, and as a power cut does.
var (
	stopped = downBy((*postgrestest.Server).Stop)
	crashed = downBy((*postgrestest.Server).Crash)
)

func downBy(stop func(*postgrestest.Server) error) outage {
	return func(d *tables) func() {
		require.NoError(d.s.t, stop(d.server))
		return func() { require.NoError(d.s.t, d.server.Start()) }
	}
}

func restarted(d *tables) func() {
	require.NoError(d.s.t, d.server.Stop())
	require.NoError(d.s.t, d.server.Start())
	return func() {}
}

// anew is what statements make of the sessions that caddy opens from then on; it
// has none when they have run.
func anew(bad, good string) outage {
	return func(d *tables) func() {
		d.do(bad)
		d.terminate()
		return func() { d.do(good) }
	}
}

// statements run, and others mend what they did.
func statements(bad, good string) outage {
	return func(d *tables) func() {
		d.do(bad)
		return func() { d.do(good) }
	}
}

// over is a fault of the network.
func over(fault func(*wire) (mend func())) func(*stage) {
	return func(s *stage) {
		w := s.tables().through()
		outage(func(*tables) func() { return fault(w) }).whileServing(s)
	}
}

const (
	whenServing  = "while serving"
	beforeServed = "from before the start"
	whenPosted   = "when a refresh was posted"
)

func postgresFaults() []fault {
	var all []fault
	add := func(name, when string, log []told, play func(*stage)) *fault {
		all = append(all, fault{
			area: "PostgreSQL", name: name, when: when, play: play, only: onTables,
			valid: ok, ended: broken, told: log, after: ok, how: notPosted,
		})
		return &all[len(all)-1]
	}
	// Refused, or told that the server is shutting down: who comes at that moment.
	const unreachable = "failed to connect"
	add("the server is stopped", whenServing, cutOff(unreachable), stopped.whileServing).server = alone()
	add("the server crashes", whenServing, cutOff(unreachable), crashed.whileServing).server = alone()
	f := add("the server is down", beforeServed, troubled(unreachable), stopped.beforeStart)
	f.server, f.valid = alone(), broken
	f = add("the server is restarted", whenServing, []told{notListening, listening}, outage(restarted).whileServing)
	f.server, f.ended, f.how, f.may = alone(), ok, "over connections that are new", troubled("")
	for _, of := range []struct {
		name string
		outage
	}{{"the server is stopped", stopped}, {"the server crashes", crashed}} {
		f = add(of.name, whenPosted, append(alarmed(notTaken), notListening, listening), of.duringRefresh)
		f.server, f.ended, f.how, f.may = alone(), ok, savedLate, troubled(unreachable)
	}
	f = add("the server crashes, and caddy is killed", whenPosted, alarmed(notTaken), killedWithTheServer)
	f.server, f.ended, f.may = alone(), ok, alarmed(unreachable)
	f.how = "with the pair that came, found in the folder for what could not be saved"

	f = add("fail-over: the server crashes, a second one is promoted", whenServing, cutOff("read only"), failedOver)
	f.server = alone()
	f = add("fail-over to a replica that lags behind by a pair", whenServing, append([]told{notListening, listening}, alarmed("the store lost a pair that memory knows")...), laggedBehind)
	f.server, f.faulty, f.ended, f.may, f.how = alone(), true, ok, troubled(""), "the newer pair is in the store again"
	f = add("there is a replica only", beforeServed, troubled("read only"), outage(replicaOnly).beforeStart)
	f.server, f.valid = alone(), broken
	add("all sessions become read-only", whenServing, cutOff("read only"),
		anew("alter role %[1]s set default_transaction_read_only = on", "alter role %[1]s reset default_transaction_read_only").whileServing)
	f = add("the server becomes read-only, sessions live on", whenServing, troubled("read only"), readOnly)
	f.server = alone()

	add("too many connections", whenServing, cutOff("too many connections"),
		anew("alter role %[1]s connection limit 0", "alter role %[1]s connection limit -1").whileServing)
	f = add("a storm: others have all connections", beforeServed, troubled("53300"), outage(storm).beforeStart)
	f.server, f.valid = alone("max_connections=15"), broken
	add("the password is another", whenServing, cutOff("password authentication failed"),
		anew("alter role %[1]s password 'another'", "alter role %[1]s password '"+postgrestest.Password+"'").whileServing)
	add("the schema is gone", whenServing, troubled("does not exist"),
		statements("alter schema mercadopago rename to away", "alter schema away rename to mercadopago").whileServing)
	add("the schema is not permitted", whenServing, troubled("permission denied"),
		statements("alter schema mercadopago owner to caddy", "alter schema mercadopago owner to %[1]s").whileServing)
	f = add("the tables are empty (another database)", whenServing, nil, unmounted)
	f.ended, f.may, f.how = stranger, alarmed("is it the right database"), "when they are filled again"
	f = add("the tables are empty (another database)", "for longer than memory is believed (30 s)", alarmed("is it the right database"), unmounted)
	f.faulty, f.ended, f.how = true, stranger, "when they are filled again"

	f = add("each backend in turn is terminated, between any two statements of a refresh", whenServing, nil, terminatedInTurn)
	f.ended, f.how, f.may = ok, "the statement is sent over another connection", append(troubled(""), notListening)
	f = add("backends are terminated at random", "again and again", nil, terminatedAtRandom)
	f.ended, f.how, f.may = either, notPosted, append(troubled(""), alarmed(notTaken)...)
	add("a table is locked by another session", whenServing, troubled("canceling statement"), outage(tableLocked).whileServing)
	f = add("the lock of the account is another session's for ever", whenServing, nil, lockedForEver)
	f.ended, f.how = busy, "refreshed without the lock"
	f = add("every message takes 20 ms", whenServing, nil, over(slow))
	f.ended, f.how = ok, "a little later"
	add("a black hole", whenServing, troubled("deadline exceeded"), over((*wire).held)).may = []told{notListening, listening}
	add("connections are reset", whenServing, cutOff(unreachable), over(resets))
	f = add("connections are reset once", whenServing, []told{notListening, listening}, over(resetOnce))
	f.ended, f.how, f.may = ok, "over connections that are new", troubled("")
	f = add("only the listener is cut off", whenServing, []told{notListening, listening}, over(deaf))
	f.ended, f.how = ok, "as if nothing was: memory is read again every 30 s"
	return all
}

// either is what a caller sees of a fault that is there at one moment and not at
// the next.
var either = sees{code: "either"}
