package e2e

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// fault is a row of the matrix: what goes wrong, and what everybody sees of it.
type fault struct {
	area, name, when string
	// faulty has it played with a storage and a clock that obey the test.
	faulty bool
	// only is the one store that it is played on, where it makes sense on no other.
	only string
	// server makes the server that is played on, where it is one of its own.
	server func(testing.TB) *postgrestest.Server
	// play lets it happen, looks at both sellers meanwhile, and mends it.
	play func(*stage)

	// What callers see while it lasts: of a seller whose access token is valid,
	// and of one who has nothing valid left.
	valid, ended sees
	// told is what the operator sees, beside "no token for a request" with every
	// 503. No other alarm may sound, but for those of may, which depend on what is
	// under way when it goes wrong.
	told, may []told
	// after is what the second seller's callers see in the end, and then how it
	// came to that.
	after sees
	how   string
	// reuse is how many refresh tokens were sent that had been used before.
	reuse int
}

// sees is what a caller gets.
type sees struct {
	status       int
	code, reason string
}

var (
	ok       = sees{status: http.StatusOK}
	busy     = sees{http.StatusServiceUnavailable, "unavailable", "provider"}
	misfit   = sees{http.StatusServiceUnavailable, "unavailable", "application_fault"}
	broken   = sees{http.StatusServiceUnavailable, "unavailable", "store"}
	rejected = sees{http.StatusForbidden, "reconnect_required", "invalid_grant"}
	// providersOwn is what the API behind egress answered.
	unauthorized = sees{status: http.StatusUnauthorized, code: providersOwn}
	stranger     = sees{http.StatusForbidden, "not_connected", "not_connected"}
)

const providersOwn = "passed on"

func (s sees) String() string {
	switch {
	case s == either:
		return ok.String() + " or " + broken.String()
	case s.code == providersOwn:
		return fmt.Sprintf("%d, passed on", s.status)
	case s.code == "":
		return fmt.Sprint(s.status)
	case s.status == http.StatusServiceUnavailable:
		return fmt.Sprintf("%d `%s`, Retry-After", s.status, s.reason)
	case s.reason == "" || s.reason == s.code:
		return fmt.Sprintf("%d `%s`", s.status, s.code)
	}
	return fmt.Sprintf("%d `%s` (`%s`)", s.status, s.code, s.reason)
}

func (e told) String() string {
	text := e.level + " `" + e.event + "`"
	if e.reason != "" {
		text += " `" + e.reason + "`"
	}
	if e.text != "" {
		text += ": " + e.text
	}
	return text
}

// atOnce is how many rows are played at a time: most of a row is waiting for a
// deadline or a pause of the product.
const atOnce = 12

// TestNoFaultLosesASeller plays a fifth of the rows on each store, which TEST_SEED
// selects. With FAULTS=all, it plays every row on both stores.
func TestNoFaultLosesASeller(t *testing.T) {
	t.Parallel()
	sample.Log(t)
	matrix := faults()
	require.GreaterOrEqual(t, len(matrix), 45)
	t.Logf("\n%s", table(matrix))
	free := make(chan struct{}, atOnce)
	var rows sync.WaitGroup
	played := int64(0)
	for n, f := range matrix {
		for _, on := range f.stores(n) {
			played++
			rows.Go(func() {
				free <- struct{}{}
				defer func() { <-free }()
				t.Run(f.area+"/"+f.name+", "+f.when+", on "+on, func(t *testing.T) { f.test(t, on) })
			})
		}
	}
	rows.Wait()
	sample.Searched(t, played, "faults")
}

// The stores that rows are played on.
const (
	onFolder = "files"
	onTables = "PostgreSQL"
)

// stores are the stores that row n is played on in this run. With a given seed, no row
// is played on both.
func (f fault) stores(n int) (played []string) {
	for i, on := range []string{onFolder, onTables} {
		if (f.only == "" || f.only == on) && inShare(5, n+2*i) {
			played = append(played, on)
		}
	}
	return played
}

// inShare reports whether this run plays row i of a table of which it plays every nth
// row. With FAULTS=all, it plays all rows of all tables.
func inShare(n, i int) bool { return os.Getenv("FAULTS") == "all" || sample.OneIn(n, i) }

func (f fault) test(t *testing.T, on string) {
	s := newStage(t, f, on)
	f.play(s)
	require.Equal(t, f.valid.String(), s.sawValid.String(), "what callers of a seller with a valid token see")
	require.Equal(t, f.ended.String(), s.sawEnded.String(), "what callers of a seller with nothing valid left see")
	s.until(ended, f.after)
	s.served(valid)
	for _, e := range f.told {
		s.told(e)
	}
	s.toldOnce()
	require.Equal(t, f.reuse, s.provider.Stats().RefreshReuse, "refresh tokens that came again")
	for _, name := range []string{"alarm", "reconnect_required"} {
		for _, line := range s.events(name) {
			require.True(t, f.tells(line), "the log tells more than the table: %s", line)
		}
	}
	if f.after == rejected {
		s.visitor().connect(ended)
		s.served(ended)
	}
}

func (f fault) tells(line string) bool {
	return slices.ContainsFunc(append(slices.Clone(f.told), f.may...), func(e told) bool { return e.in(line) })
}

func table(matrix []fault) string {
	var text strings.Builder
	area := ""
	for _, f := range matrix {
		if f.area != area {
			area = f.area
			fmt.Fprintf(&text, "\n### %s\n\n| What goes wrong | When | Token still valid | Nothing valid left | The operator sees | Afterwards |\n|---|---|---|---|---|---|\n", area)
		}
		fmt.Fprintf(&text, "| %s | %s | %s | %s | %s | %s |\n", f.name, f.when, f.valid, f.ended, f.log(), f.outcome())
	}
	return strings.TrimPrefix(text.String(), "\n")
}

// log tells what the operator sees, for the table.
func (f fault) log() string {
	var lines []string
	for _, e := range f.told {
		lines = append(lines, e.String())
	}
	for _, e := range f.may {
		lines = append(lines, "perhaps "+e.String())
	}
	switch {
	case lines != nil:
		return strings.Join(lines, "<br>")
	case f.valid.status == http.StatusServiceUnavailable || f.ended.status == http.StatusServiceUnavailable:
		return "the 503 alone"
	}
	return "nothing"
}

// outcome tells how it ends, for the table.
func (f fault) outcome() string {
	text := f.after.String() + ", " + f.how
	if f.reuse > 0 {
		text += "; the used token was sent once more"
	}
	return text
}

var writeDocs = flag.Bool("docs", false, "write the matrix of faults to docs/reliability.md")

func TestTheTableOfFaultsIsTheOneThatIsTested(t *testing.T) {
	const path, begin, end = "../docs/reliability.md", "<!-- faults: made by make docs -->\n", "<!-- end of faults -->\n"
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, found := strings.Cut(string(page), begin)
	require.True(t, found)
	kept, after, found := strings.Cut(rest, end)
	require.True(t, found)
	made := "\n" + table(faults()) + "\n"
	if *writeDocs {
		require.NoError(t, os.WriteFile(path, []byte(before+begin+made+end+after), 0o644))
		return
	}
	require.Equal(t, made, kept, "docs/reliability.md is out of date: run make docs")
}

// faults is the whole matrix, in the order of the table.
func faults() []fault {
	var all []fault
	all = append(all, answerFaults()...)
	all = append(all, lostFaults()...)
	all = append(all, networkFaults()...)
	all = append(all, apiFaults()...)
	all = append(all, storeFaults()...)
	all = append(all, recordFaults()...)
	all = append(all, clockFaults()...)
	return append(all, postgresFaults()...)
}
