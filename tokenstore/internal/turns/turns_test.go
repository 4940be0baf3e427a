package turns

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTurnsKeepNothingOfThoseWhoLeft(t *testing.T) {
	var turns Turns[string]
	ctx, cancel := context.WithCancel(t.Context())
	leave, err := turns.Enter(ctx, "a")
	require.NoError(t, err)
	gaveUp := make(chan error)
	go func() {
		_, err := turns.Enter(ctx, "a")
		gaveUp <- err
	}()
	cancel()
	require.ErrorIs(t, <-gaveUp, context.Canceled)
	leave()
	require.Empty(t, turns.byName)
}
