package mercadopago

import (
	"context"
	_ "embed"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-mercadopago/caddy-mercadopago/demo"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

//go:embed Caddyfile.example
var exampleCaddyfile []byte

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  appName,
		Short: "Try and test the connection of sellers to Mercado Pago",
		CobraFunc: func(cmd *cobra.Command) {
			cmd.Args = cobra.NoArgs
			cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
			cmd.AddCommand(demoCommand(), sandboxCommand(), copyCommand())
		},
	})
}

func demoCommand() *cobra.Command {
	var options demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run a sample shop, this plugin and a stand-in for Mercado Pago",
		Long: `Runs Caddy from the example Caddyfile with a small sample shop and a stand-in
for Mercado Pago, all on this machine: connect a seller, take a payment, see who
was paid. It needs no network and no configuration, and ends with Ctrl-C.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return interruptible(cmd, func(ctx context.Context) error {
				options.Caddyfile = exampleCaddyfile
				options.Adapt = adaptCaddyfile
				options.Load = func(config []byte) error { return caddy.Load(config, true) }
				options.Stop = caddy.Stop
				options.Out = cmd.OutOrStdout()
				return demo.Run(ctx, options)
			})
		},
	}
	cmd.Flags().StringVar(&options.Dir, "dir", demoDir(), "The folder for everything the demo writes")
	cmd.Flags().StringVar(&options.Shop, "shop", "", "The loopback address of the shop (default 127.0.0.1:9300, or a free port)")
	cmd.Flags().StringVar(&options.Egress, "egress", "", "The loopback address that the shop calls (default 127.0.0.1:9301, or a free port)")
	cmd.Flags().StringVar(&options.Sandbox, "sandbox", "", "The loopback address of the stand-in (default 127.0.0.1:9100, or a free port)")
	return cmd
}

func demoDir() string {
	base, err := os.UserCacheDir()
	if err != nil {
		base = os.TempDir()
	}
	return filepath.Join(base, "caddy-mercadopago-demo")
}

func adaptCaddyfile(caddyfile []byte) ([]byte, error) {
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(caddyfile, map[string]any{"filename": "Caddyfile.example"})
	return adapted, err
}

func sandboxCommand() *cobra.Command {
	var listen string
	cmd := &cobra.Command{
		Use:   "sandbox",
		Short: "Run a stand-in for Mercado Pago",
		Long: `Runs a stand-in for Mercado Pago, for tests of your own app: its consent page,
its token endpoint and as much of its API as it takes to see who is paid. No real
money, no network. Its control page shortens lifetimes and causes faults.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return interruptible(cmd, func(ctx context.Context) error {
				return runSandbox(ctx, cmd, listen)
			})
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:9100", "The address to listen on")
	return cmd
}

func runSandbox(ctx context.Context, cmd *cobra.Command, listen string) error {
	listener, err := net.Listen("tcp", listen)
	if err != nil {
		return fmt.Errorf("listening on %s: %w", listen, err)
	}
	fmt.Fprintf(cmd.OutOrStdout(), sandboxWelcome,
		"http://"+listener.Addr().String(), sandbox.DefaultClientID, sandbox.DefaultClientSecret)
	return sandbox.New(sandbox.Options{AcceptAny: true}).Serve(ctx, listener)
}

// sandboxWelcome is what to write in the global block mercadopago.
const sandboxWelcome = `
  A stand-in for Mercado Pago is at %[1]s

  In the global block mercadopago, write:

    client_id      %[2]s
    client_secret  %[3]s
    endpoints {
        authorize %[1]s/authorization
        api       %[1]s
    }

  Lifetimes and faults: %[1]s/_sandbox/
  Ctrl-C ends it.

`

// interruptible runs until done or until Ctrl-C or SIGTERM.
func interruptible(cmd *cobra.Command, run func(context.Context) error) error {
	cmd.SilenceUsage = true
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx)
}
