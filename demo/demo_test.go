package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// anyPorts are the options of a demo that is in nobody's way, with a stand-in
// for Caddy that does nothing.
func anyPorts(t *testing.T) Options {
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		t.Setenv(name, t.TempDir()) // put back after the test
	}
	return Options{
		Caddyfile: []byte("{$MP_SHOP:http://localhost:9300}"),
		Adapt: func([]byte) ([]byte, error) {
			return []byte(`{"apps":{"http":{"servers":{"srv0":{"listen":[":9300"]},"srv1":{"listen":["127.0.0.1:9301"]}}}}}`), nil
		},
		Load: func([]byte) error { return nil },
		Stop: func() error { return nil },
		Dir:  filepath.Join(t.TempDir(), "demo"),
		Shop: "127.0.0.1:0", Egress: "127.0.0.1:0", App: "127.0.0.1:0", Sandbox: "127.0.0.1:0",
	}
}

func get(t *testing.T, address string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(address)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

func TestTheDemoAnswersUntilItIsStoppedAndLeavesNothingBehind(t *testing.T) {
	o := anyPorts(t)
	ctx, cancel := context.WithCancel(t.Context())
	stopped := false
	o.Stop = func() error { stopped = true; return nil }
	var loaded struct {
		Admin   struct{ Disabled bool }
		Storage struct{ Module, Root string }
	}
	o.Load = func(config []byte) error { return json.Unmarshal(config, &loaded) }
	var out bytes.Buffer
	o.Out = &out
	var shop, stand string
	o.Ready = func(d *Demo) {
		shop, stand = get(t, "http://"+d.app), get(t, d.SandboxURL+"/v1/payments/1")
		require.NoError(t, os.WriteFile(filepath.Join(loaded.Storage.Root, "token"), nil, 0o600))
		require.Contains(t, out.String(), d.ShopURL)
		cancel()
	}

	require.NoError(t, Run(ctx, o))

	require.Contains(t, shop, "Casa Lapacho")
	require.Contains(t, stand, `"status"`)
	require.True(t, stopped)
	require.True(t, loaded.Admin.Disabled)
	require.Equal(t, "file_system", loaded.Storage.Module)
	require.True(t, strings.HasPrefix(loaded.Storage.Root, o.Dir), "storage in %s", loaded.Storage.Root)
	left, err := os.ReadDir(o.Dir)
	require.NoError(t, err)
	require.Empty(t, left)
	require.NotContains(t, out.String(), "\x1b", "colours where there is no terminal")
}

func TestADemoThatCannotStartSaysWhyAndLeavesNothingBehind(t *testing.T) {
	broken := errors.New("broken")
	for name, breaks := range map[string]func(*Options){
		"adapt":   func(o *Options) { o.Adapt = func([]byte) ([]byte, error) { return nil, broken } },
		"load":    func(o *Options) { o.Load = func([]byte) error { return broken } },
		"no site": func(o *Options) { o.Adapt = func([]byte) ([]byte, error) { return []byte(`{}`), nil } },
		"no JSON": func(o *Options) { o.Adapt = func([]byte) ([]byte, error) { return []byte(`{`), nil } },
		"network": func(o *Options) { o.Shop = "0.0.0.0:0" },
		"address": func(o *Options) { o.Egress = "nowhere" },
	} {
		t.Run(name, func(t *testing.T) {
			o := anyPorts(t)
			breaks(&o)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			o.Ready = func(*Demo) { cancel() }
			err := Run(ctx, o)
			require.Error(t, err)
			left, err := os.ReadDir(o.Dir)
			require.NoError(t, err)
			require.Empty(t, left)
		})
	}
}

func TestATakenPortIsLeftToItsOwner(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()

	another, err := listen("", taken.Addr().String())
	require.NoError(t, err, "the usual port is taken: any other")
	defer another.Close()
	require.NotEqual(t, taken.Addr().String(), another.Addr().String())

	_, err = listen(taken.Addr().String(), "")
	require.ErrorContains(t, err, taken.Addr().String(), "a port that was asked for is not replaced")
}

func TestTheDemosCaddyfileIsTheExampleWithItsOwnAddresses(t *testing.T) {
	example, err := os.ReadFile("../Caddyfile.example")
	require.NoError(t, err)
	d := &Demo{ShopURL: "http://localhost:1", EgressURL: "http://127.0.0.1:2", SandboxURL: "http://127.0.0.1:3", app: "127.0.0.1:4"}
	t.Setenv("MP_SHOP", "http://elsewhere.example.com")

	got := string(d.caddyfile(example))

	require.NotContains(t, got, "{$MP_")
	for _, line := range []string{
		"redirect_uri http://localhost:1/connect/callback\n", "\nhttp://localhost:1 {\n", "\nhttp://127.0.0.1:2 {\n",
		"authorize http://127.0.0.1:3/authorization\n", "reverse_proxy http://127.0.0.1:3 {\n", "reverse_proxy 127.0.0.1:4 {\n",
	} {
		require.Contains(t, got, line)
	}
}

func TestTheFrameKeepsTheDemoOffTheNetworkAndInItsFolder(t *testing.T) {
	d := &Demo{storage: "/demo/storage-1", LogFile: "/demo/caddy.log"}
	got, err := d.frame([]byte(`{"apps":{"http":{"servers":{"srv0":{"listen":[":9300"],"routes":[{"handle":[]}]},"srv1":{"listen":["127.0.0.1:9301"]}}},"mercadopago":{}}}`))
	require.NoError(t, err)
	require.JSONEq(t, `{
		"admin": {"disabled": true, "config": {"persist": false}},
		"storage": {"module": "file_system", "root": "/demo/storage-1"},
		"logging": {"logs": {
			"default": {"level": "PANIC"},
			"demo": {"writer": {"output": "file", "filename": "/demo/caddy.log", "roll_size_mb": 10, "roll_keep": 1}}
		}},
		"apps": {
			"http": {"grace_period": "1s", "servers": {
				"srv0": {"listen": ["127.0.0.1:9300"], "routes": [{"handle": []}]},
				"srv1": {"listen": ["127.0.0.1:9301"]}
			}},
			"mercadopago": {}
		}
	}`, string(got))
}
