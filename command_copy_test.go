package mercadopago

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/copying"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// copies runs the command with a configuration file.
func (r *rig) copies(caddyfile string, args ...string) (out, progress string, err error) {
	r.t.Helper()
	path := filepath.Join(r.t.TempDir(), "Caddyfile.new")
	require.NoError(r.t, os.WriteFile(path, []byte(r.expand(caddyfile)), 0o600))
	var stdout, stderr bytes.Buffer
	cmd := copyCommand()
	cmd.SetArgs(append(args, "--config", path, "--adapter", "caddyfile"))
	cmd.SetOut(&stdout)
	cmd.SetErr(&stderr)
	cmd.SilenceErrors = true
	err = cmd.ExecuteContext(r.t.Context())
	return stdout.String(), stderr.String(), err
}

// Caddy serves all the while: on files with a generated key, on PostgreSQL, and on
// files again.
func TestCopyMovesSellersToAnotherStoreAndBackWhileCaddyServes(t *testing.T) {
	r := newRig(t)
	t.Setenv("MP_TEST_DATABASE", postgrestest.Shared(t).Database(t))
	onFiles := strings.Replace(globalBlock, "		encryption_key {env.MP_TEST_KEY}\n", "", 1) + sellerSite
	onPostgres := withStore("schema tokens") + sellerSite
	require.NoError(t, r.tryLoad(onFiles))
	r.connectSeller("shop-1", aurora)
	r.connectSeller("shop-2", almacen)
	require.Equal(t, http.StatusOK, r.asking("shop-1").status)
	token := r.app.last().Header.Get("Authorization")

	out, progress, err := r.copies(onPostgres, "--from", "storage", "--to", "postgres")
	require.NoError(t, err)
	require.Equal(t, `2 of 2 accounts: 2 moved, 0 had something late, 0 unchanged, 0 failed.
Written to postgres: 2 pairs of tokens, 2 connections. Ended there: 0. Newer there, and kept: 0.
Next: load the configuration with `+"`store postgres`"+` on all instances, then run this again for what came late.
Until then they serve what is valid from storage.
`, out)
	require.Empty(t, progress, "it took no time")
	require.NotContains(t, out+progress, "APP_USR")
	require.NotContains(t, out+progress, postgrestest.Password)

	// The instance goes on, and does not change what is moved.
	require.Equal(t, http.StatusOK, r.asking("shop-1").status)
	b := r.browser()
	b.header.Set("X-User", "shop-3")
	refused := b.confirm(r.at("SHOP"), b.consent(r.at("SHOP")+"/connect?return_to=/", aurora.UserID))
	require.Equal(t, http.StatusServiceUnavailable, refused.status, refused.body)
	require.NotEmpty(t, refused.header.Get("Retry-After"))
	require.Contains(t, r.logged(), `"reason":"unavailable"`)

	require.NoError(t, stopCaddy())
	require.NoError(t, r.tryLoad(onPostgres))
	require.Equal(t, http.StatusOK, r.asking("shop-1").status)
	require.Equal(t, token, r.app.last().Header.Get("Authorization"))
	out, _, err = r.copies(onPostgres, "--from", "storage", "--to", "postgres", "--json")
	require.NoError(t, err)
	var summary copying.Summary
	require.NoError(t, json.Unmarshal([]byte(out), &summary))
	require.Equal(t, copying.Summary{Accounts: 2, Seen: 2, Late: 1, Unchanged: 1, Pairs: 1}, summary)
	r.connectSeller("shop-3", aurora)
	require.Equal(t, http.StatusOK, r.asking("shop-3").status)

	out, _, err = r.copies(onPostgres, "--from", "postgres", "--to", "storage")
	require.NoError(t, err)
	require.Contains(t, out, "Next: load the configuration without the option store, and with the same encryption_key, on all instances")
	require.NoError(t, stopCaddy())
	require.NoError(t, r.tryLoad(globalBlock+sellerSite))
	for _, seller := range []string{"shop-1", "shop-2", "shop-3"} {
		require.Equal(t, http.StatusOK, r.asking(seller).status, seller)
	}
	require.Zero(t, r.sandbox.Stats().RefreshReuse)
}

func TestCopySaysWhatIsMissing(t *testing.T) {
	r := newRig(t)
	t.Setenv("MP_TEST_DATABASE", "postgres://caddy:canary@127.0.0.1:1/nowhere")
	whole := withStore("query_timeout 1s") + sellerSite
	for name, c := range map[string]struct {
		caddyfile string
		args      []string
		want      string
	}{
		"no store":             {globalBlock + sellerSite, []string{"--from", "storage", "--to", "postgres"}, "the configuration names no store beside Caddy's storage"},
		"no global block":      {"{\n\tadmin off\n}\n", []string{"--from", "storage", "--to", "postgres"}, "the configuration has no global block mercadopago"},
		"no encryption key":    {strings.Replace(whole, "		encryption_key {env.MP_TEST_KEY}\n", "", 1), []string{"--from", "storage", "--to", "postgres"}, "encryption_key is missing"},
		"no direction":         {whole, nil, `--from "": write storage or postgres`},
		"another store":        {whole, []string{"--from", "storage", "--to", "mysql"}, `--to "mysql": write storage or postgres`},
		"one store twice":      {whole, []string{"--from", "storage", "--to", "storage"}, "--from and --to are both storage: one is storage, the other postgres"},
		"an unreachable store": {whole, []string{"--from", "storage", "--to", "postgres"}, "opening postgres: "},
	} {
		t.Run(name, func(t *testing.T) {
			out, progress, err := r.copies(c.caddyfile, c.args...)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, out+progress+err.Error(), "canary")
		})
	}
}

func TestCopyTellsOfPairsThatTheSourceHasNotTaken(t *testing.T) {
	r := newRig(t)
	t.Setenv("MP_TEST_DATABASE", postgrestest.Shared(t).Database(t))
	require.NoError(t, r.tryLoad(globalBlock+sellerSite))
	r.connectSeller("shop-1", aurora)
	config := withStore("schema tokens") + sellerSite
	_, progress, err := r.copies(config, "--from", "storage", "--to", "postgres")
	require.NoError(t, err)
	require.NotContains(t, progress, "new pairs")
	dir := spillDir(identify(&certmagic.FileStorage{Path: r.storage}))
	require.NoError(t, os.MkdirAll(dir, 0o700))
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	for _, name := range []string{"a.pair", "b.consent", "renewals.json"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	_, progress, err = r.copies(config, "--from", "storage", "--to", "postgres")
	require.NoError(t, err)
	require.Contains(t, progress, "2 new pairs of tokens wait in "+dir)
}

func TestProgressIsABarOnATerminalAndLinesElsewhere(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, "storage → postgres")
	p.show(copying.Summary{Accounts: 10_000, Seen: 1})
	require.Empty(t, out.String(), "a line now and then")
	p.last = p.last.Add(-lineEvery)
	p.begun = p.begun.Add(-25 * time.Second)
	p.show(copying.Summary{Accounts: 10_000, Seen: 2500})
	require.Equal(t, "storage → postgres  25 %  2,500 of 10,000  100/s  1m15s left\n", out.String())

	out.Reset()
	p.terminal = true
	p.show(copying.Summary{Accounts: 10_000, Seen: 10_000})
	require.Contains(t, out.String(), "\r\x1b[Kstorage → postgres ████████████████████████ 100 %  10,000 of 10,000")
	out.Reset()
	p.last = p.last.Add(-barEvery)
	p.show(copying.Summary{Accounts: 10_000, Seen: 5000})
	require.Contains(t, out.String(), "storage → postgres ████████████░░░░░░░░░░░░  50 %")
	require.NotContains(t, out.String(), "\n")
	out.Reset()
	for range 3 * mostErrors {
		p.failed(tokenstore.AccountID{ClientID: "1234", UserID: 7}, errors.New("damaged"))
	}
	require.Equal(t, mostErrors, strings.Count(out.String(), "account 1234/7/test: damaged\n"))
	require.Equal(t, 1, strings.Count(out.String(), "further failures are only counted"))
}
