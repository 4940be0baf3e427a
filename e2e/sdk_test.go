package e2e

import (
	"encoding/json"
	"os"
	"os/exec"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// The official SDK insists on a token of its own. Whatever it is given, the
// seller that the app names is paid.
func TestTheOfficialSDKPaysTheRightSellerWithADummyToken(t *testing.T) {
	parallel(t)
	_, err := os.Stat("node_modules/mercadopago/package.json")
	require.NoError(t, err, "the SDK is not installed: run `make test`, or `npm install --no-package-lock` in e2e")
	node, err := exec.LookPath("node")
	require.NoError(t, err, "Node.js is not on this machine: run `make test`, which installs it where it can")

	p := newPlatform(t)
	p.serve(sessionSite + egressSite)
	accounts := []sandbox.Account{aurora, porto}
	for _, account := range accounts {
		p.visitor().connect(account)
	}
	for i, account := range accounts {
		command := exec.Command(node, "pay.js", p.url("EGRESS"), id(account))
		var stderr transcript
		command.Stderr = &stderr
		out, err := command.Output()
		require.NoError(t, err, stderr.String())
		var said struct {
			Made, Again, Collector, Preference, User int64
			Status                                   string
		}
		require.NoError(t, json.Unmarshal(out, &said), string(out))
		require.Equal(t, "approved", said.Status)
		require.Equal(t, account.UserID, said.Collector)
		require.Equal(t, account.UserID, said.Preference)
		require.Equal(t, account.UserID, said.User)
		require.NotZero(t, said.Made)
		require.Equal(t, said.Made, said.Again, "the SDK's idempotency key arrives as it is")
		require.Equal(t, i+1, p.provider.Stats().Payments)
	}
}
