package mercadopago

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden JSON of testdata/caddyfile_adapt")

const separator = "----------\n"

// Each file is a Caddyfile, a line of dashes, and the JSON it adapts to, or a
// part of the error it is refused with.
func TestEveryCaddyfileAdaptsToItsGoldenJSONOrItsError(t *testing.T) {
	files, err := filepath.Glob("testdata/caddyfile_adapt/*.caddyfiletest")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			input, want, found := strings.Cut(string(content), separator)
			require.True(t, found, "no line of dashes")
			got, err := adapt(t, input)
			if strings.HasPrefix(filepath.Base(file), "error_") {
				require.ErrorContains(t, err, strings.TrimSpace(want))
				require.ErrorContains(t, err, "Caddyfile:", "an error names file and line")
				return
			}
			require.NoError(t, err)
			if *update {
				require.NoError(t, os.WriteFile(file, []byte(input+separator+got), 0o644))
				return
			}
			require.Equal(t, want, got)
		})
	}
}

// The golden JSON also loads: what a Caddyfile can say, the app and the handler
// accept.
func TestEveryGoldenJSONLoads(t *testing.T) {
	for _, name := range []string{
		"MP_CLIENT_SECRET", "MP_CLIENT_SECRET_OLD", "MP_BR_CLIENT_SECRET",
		"MP_WEBHOOK_SECRET", "MP_WEBHOOK_SECRET_OLD",
	} {
		t.Setenv(name, "a-secret")
	}
	t.Setenv("MP_CLIENT_ID", "1234567890123456")
	t.Setenv("MP_DATABASE_URL", "postgres://caddy@127.0.0.1:1/nowhere")
	t.Setenv("MP_DATABASE_PASSWORD", "a-secret")
	t.Setenv("MP_DATABASE_URL", "postgres://caddy@127.0.0.1:1/nowhere")
	t.Setenv("MP_DATABASE_PASSWORD", "a-secret")
	t.Setenv("MP_BR_CLIENT_ID", "6543210987654321")
	t.Setenv("MP_ENCRYPTION_KEY", strings.Repeat("ab", 32))
	older := filepath.Join(t.TempDir(), "older-key")
	require.NoError(t, os.WriteFile(older, []byte(strings.Repeat("cd", 32)+"\n"), 0o600))
	storage, err := json.Marshal(map[string]string{"module": "file_system", "root": t.TempDir()})
	require.NoError(t, err)

	files, err := filepath.Glob("testdata/caddyfile_adapt/*.caddyfiletest")
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasPrefix(filepath.Base(file), "error_") {
			continue
		}
		t.Run(strings.TrimSuffix(filepath.Base(file), ".caddyfiletest"), func(t *testing.T) {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			_, golden, _ := strings.Cut(string(content), separator)
			golden = strings.ReplaceAll(golden, "/run/secrets/older-key", older)
			var config caddy.Config
			require.NoError(t, caddy.StrictUnmarshalJSON([]byte(golden), &config))
			config.StorageRaw = storage
			config.Admin = &caddy.AdminConfig{Disabled: true}
			require.NoError(t, caddy.Validate(&config))
		})
	}
}

func adapt(t *testing.T, input string) (string, error) {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return "", err
	}
	require.Empty(t, warnings)
	var pretty bytes.Buffer
	require.NoError(t, json.Indent(&pretty, adapted, "", "\t"))
	return pretty.String() + "\n", nil
}

func FuzzGlobalBlock(f *testing.F) {
	f.Add("mercadopago {\n\tclient_id 1\n\tapplication a {\n\t\tendpoints {\n\t\t\tapi x\n\t\t}\n\t}\n}")
	f.Add("mercadopago {\n\trenewal {\n\t\tparallel 3\n\t\twalk_every 1h\n\t\twalk_rate 9\n\t}\n}")
	f.Add("mercadopago {\n\tclient_secret a b c\n\trenew_before 3d\n\tpkce on\n}")
	f.Fuzz(func(t *testing.T, input string) {
		app := new(App)
		if app.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)) != nil {
			return
		}
		encoded, err := json.Marshal(app)
		require.NoError(t, err)
		require.NoError(t, caddy.StrictUnmarshalJSON(encoded, new(App)), "what is parsed is what loads")
	})
}

func FuzzDirective(f *testing.F) {
	f.Add("mercadopago {\n\tseller {http.auth.user.id}\n\tinject X-T Token\n\treturn_to /a /b*\n}")
	f.Add("mercadopago {\n\twebhook /webhooks/mercadopago pass\n}")
	f.Add("mercadopago {\n\tegress\n\tclients private_ranges ::1\n\tmax_replay_body 1KiB\n}")
	f.Fuzz(func(t *testing.T, input string) {
		handler := new(Handler)
		if handler.UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)) != nil {
			return
		}
		encoded, err := json.Marshal(handler)
		require.NoError(t, err)
		require.NoError(t, caddy.StrictUnmarshalJSON(encoded, new(Handler)), "what is parsed is what loads")
	})
}

func TestAHeaderThatIsWrittenInSmallLettersIsTheSameOne(t *testing.T) {
	h := &Handler{Inject: &Inject{Header: "x-mp-token"}}
	h.setDefaults()
	require.Equal(t, "X-Mp-Token", h.Inject.Header)
}

func TestTheHandlerComesAfterThoseWhoTellTheSeller(t *testing.T) {
	adapted, err := adapt(t, newRig(t).expand(globalBlock+`
SHOP {
	reverse_proxy APP
	mercadopago {
		seller {http.auth.user.id}
	}
	basic_auth {
		shop-1 $2a$14$Zkx19XLiW6VYouLHR5NmfOFU0z2GTNmpkT/5qqR7hx4IjWJPDhjvG
	}
}
`))
	require.NoError(t, err)
	at := func(handler string) int { return strings.Index(adapted, `"handler": "`+handler+`"`) }
	require.Positive(t, at("authentication"))
	require.Less(t, at("authentication"), at("mercadopago"))
	require.Less(t, at("mercadopago"), at("reverse_proxy"))
}
