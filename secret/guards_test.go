package secret

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// The sub-keys tell purposes apart too; this looks beside them.
func TestThePurposeIsPartOfWhatIsSealed(t *testing.T) {
	seen := make(map[string]Purpose)
	for _, p := range purposes {
		data := string(appendAdditionalData(nil, p, []string{"name"}))
		require.NotContains(t, seen, data)
		seen[data] = p
	}
}
