// Command faulty is the Caddy that tests run. It differs from cmd/caddy in two ways.
// If FAULTS names a file, the module's clock is wrong in the way that the file
// describes. If a Caddyfile has `storage faulty`, the storage fails in the way that
// the file describes. A line of the file is one of
//
//	clock -1h
//	later 25h
//	store error ENOSPC
//	load slow 200ms
//
// for an operation of certmagic.Storage or for all of them (`*`). The file is
// read at each operation, so that a test can be certain when a fault begins.
package main

import (
	"bufio"
	"bytes"
	"os"
	"strings"
	"time"
	"unsafe"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-mercadopago/caddy-mercadopago"
)

func main() {
	if os.Getenv("FAULTS") != "" {
		now = clock
	}
	caddycmd.Main()
}

// now is the module's clock. It is no option of the module, which has no use for
// one.
//
//go:linkname now github.com/caddy-mercadopago/caddy-mercadopago.now
var now func() time.Time

// clock is the time as the file has it: `later` lets time pass, `clock` has
// somebody set the machine's clock.
func clock() time.Time {
	t := time.Now()
	for _, f := range faults() {
		if f.operation != "clock" && f.operation != "later" {
			continue
		}
		by, err := time.ParseDuration(f.kind)
		if err != nil {
			panic(err)
		}
		if f.operation == "later" {
			t = t.Add(by)
			continue
		}
		t = stepped(t, by)
	}
	return t
}

// stepped moves a time's reading of the wall clock and leaves its monotonic one,
// which no function of package time does: the time of day jumps, and what counts
// the time since the start goes on as if nothing was.
func stepped(t time.Time, by time.Duration) time.Time {
	const secondsAt = 30 // in a word of one flag, 33 bits of seconds and 30 of nanoseconds
	set := t
	*(*uint64)(unsafe.Pointer(&set)) += uint64(by/time.Second) << secondsAt
	if !set.Round(0).Equal(t.Round(0).Add(by)) {
		panic("the bits of a time are not where they are expected")
	}
	return set
}

// fault is one line.
type fault struct{ operation, kind, value string }

// faults reads the lines.
func faults() []fault {
	content, err := os.ReadFile(os.Getenv("FAULTS")) //nolint:gosec // the test that starts this program names it
	if err != nil {
		return nil // none yet
	}
	var all []fault
	for lines := bufio.NewScanner(bytes.NewReader(content)); lines.Scan(); {
		words := append(strings.Fields(lines.Text()), "", "", "")
		if words[0] != "" {
			all = append(all, fault{words[0], words[1], words[2]})
		}
	}
	return all
}
