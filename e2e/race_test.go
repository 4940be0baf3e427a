//go:build race

package e2e

// raceEnabled tells that the tests run under the race detector, and so does the
// caddy under test.
const raceEnabled = true
