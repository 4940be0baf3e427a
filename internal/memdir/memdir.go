// Package memdir has folders in memory for tests that write many small files.
package memdir

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// New returns a folder that is deleted at the end of the test. It lies in memory
// where the system has such a place: flushing files to a disk takes most of the time
// of such tests, and none of them cuts the power.
func New(t testing.TB) string {
	t.Helper()
	path, err := os.MkdirTemp("/dev/shm", "caddy-mercadopago-")
	if err != nil {
		return t.TempDir()
	}
	// A goroutine that is about to end may still be writing there.
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return os.RemoveAll(path) == nil }, time.Minute, 10*time.Millisecond)
	})
	return path
}
