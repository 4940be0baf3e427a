// Package demo is what `caddy mercadopago demo` shows: a small shop that acts
// for sellers without ever having held a secret, the stand-in for Mercado Pago
// from package sandbox, and Caddyfile.example in front of both.
//
// It knows nothing of Caddy: the command that runs it hands Caddy in.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// Options are what a demo runs with. Caddyfile, Adapt, Load, Stop and Dir are
// required.
type Options struct {
	// Caddyfile is the text of Caddyfile.example. The addresses in it,
	// {$MP_SHOP:…} and so on, are replaced by those of this demo.
	Caddyfile []byte
	// Adapt turns a Caddyfile into JSON, Load runs it, Stop ends it: Caddy's own.
	Adapt func(caddyfile []byte) ([]byte, error)
	Load  func(config []byte) error
	Stop  func() error

	// Dir holds everything that the demo writes. It is made if it is missing.
	Dir string

	// Shop, Egress, App and Sandbox are the loopback addresses to listen on: the
	// site that a browser opens, the site that the shop calls, the shop itself
	// behind them, and Mercado Pago's stand-in. Default: 127.0.0.1 with ports
	// 9300, 9301, 9302 and 9100, or any free port where one of these is taken.
	Shop, Egress, App, Sandbox string

	// Out is told, for people, where the demo is and what to try. Default: nobody.
	Out io.Writer

	// Ready, if set, is called once everything answers.
	Ready func(*Demo)
}

// Demo is a running demo.
type Demo struct {
	// ShopURL is the one address to open in a browser, EgressURL what the shop
	// calls for Mercado Pago's API, SandboxURL Mercado Pago's stand-in.
	ShopURL, EgressURL, SandboxURL string

	// Sandbox can be asked and broken by a test.
	Sandbox *sandbox.Sandbox

	// LogFile is where Caddy's log goes.
	LogFile string

	app      string // the shop's own address, behind Caddy
	storage  string
	listener struct{ sandbox, app net.Listener }
}

// Run runs the demo until ctx ends, and then stops it and returns nil. What it
// kept is removed: the stand-in forgets its tokens when it ends, so sellers that
// were connected would come back as sellers that must reconnect.
func Run(ctx context.Context, o Options) error {
	d, err := prepare(o)
	if err != nil {
		return err
	}
	defer os.RemoveAll(d.storage)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return d.Sandbox.Serve(ctx, d.listener.sandbox) })
	group.Go(func() error { return serveShop(ctx, d.listener.app, newShop(d.EgressURL, d.SandboxURL)) })
	err = d.front(ctx, o)
	cancel()
	return errors.Join(err, group.Wait())
}

// front runs Caddy in front of what is listening already, until ctx ends.
func (d *Demo) front(ctx context.Context, o Options) error {
	adapted, err := o.Adapt(d.caddyfile(o.Caddyfile))
	if err != nil {
		return fmt.Errorf("adapting the demo's Caddyfile: %w", err)
	}
	config, err := d.frame(adapted)
	if err != nil {
		return err
	}
	if err := o.Load(config); err != nil {
		return fmt.Errorf("starting Caddy for the demo: %w", err)
	}
	if o.Out != nil {
		d.welcome(o.Out)
	}
	if o.Ready != nil {
		o.Ready(d)
	}
	<-ctx.Done()
	if o.Out != nil {
		fmt.Fprintln(o.Out, "\n  Stopped. Nothing is left running.")
	}
	return o.Stop()
}

// prepare makes the demo's folder and takes its addresses.
func prepare(o Options) (_ *Demo, err error) {
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making the demo's folder: %w", err)
	}
	// Caddy keeps a few things (an instance id, what could not be saved) beside
	// its storage: they stay in here too.
	for _, name := range []string{"XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		if err := os.Setenv(name, dir); err != nil {
			return nil, err
		}
	}
	d := &Demo{LogFile: filepath.Join(dir, "caddy.log")}
	if d.storage, err = os.MkdirTemp(dir, "storage-"); err != nil {
		return nil, fmt.Errorf("making the demo's storage: %w", err)
	}
	if err := d.listen(o); err != nil {
		os.RemoveAll(d.storage)
		return nil, err
	}
	d.Sandbox = sandbox.New(sandbox.Options{Applications: []sandbox.Application{{
		Name:         "Casa Lapacho",
		ClientID:     sandbox.DefaultClientID,
		ClientSecret: sandbox.DefaultClientSecret,
		RedirectURIs: []string{d.ShopURL + "/connect/callback"},
		PKCE:         true,
	}}})
	return d, nil
}

// listen opens what the demo serves itself, and finds ports for Caddy's sites.
func (d *Demo) listen(o Options) error {
	sandboxListener, err := listen(o.Sandbox, "127.0.0.1:9100")
	if err != nil {
		return err
	}
	appListener, err := listen(o.App, "127.0.0.1:9302")
	if err != nil {
		sandboxListener.Close()
		return err
	}
	shop, err := findAddress(o.Shop, "127.0.0.1:9300")
	if err == nil {
		d.EgressURL, err = findAddress(o.Egress, "127.0.0.1:9301")
	}
	if err != nil {
		sandboxListener.Close()
		appListener.Close()
		return err
	}
	// Browsers are sent to the name: cookies and consent then are on two sites,
	// localhost and 127.0.0.1, as they are with the real Mercado Pago.
	_, port, _ := net.SplitHostPort(shop)
	d.ShopURL = "http://localhost:" + port
	d.EgressURL = "http://" + d.EgressURL
	d.SandboxURL = "http://" + sandboxListener.Addr().String()
	d.app = appListener.Addr().String()
	d.listener.sandbox, d.listener.app = sandboxListener, appListener
	return nil
}

// listen listens on the address, or, where none is given, on the usual one or
// any free port.
func listen(address, usual string) (net.Listener, error) {
	given := address != ""
	if !given {
		address = usual
	}
	listener, err := net.Listen("tcp", address)
	if err != nil && !given {
		listener, err = net.Listen("tcp", "127.0.0.1:0")
	}
	if err != nil {
		return nil, fmt.Errorf("the demo cannot listen on %s: %w", address, err)
	}
	if tcp, ok := listener.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		listener.Close()
		return nil, fmt.Errorf("the demo listens on loopback only, and %s is not: write 127.0.0.1:<port>", address)
	}
	return listener, nil
}

// findAddress finds an address that Caddy can listen on in a moment.
func findAddress(address, usual string) (string, error) {
	listener, err := listen(address, usual)
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

// serveShop serves the shop until ctx ends.
func serveShop(ctx context.Context, listener net.Listener, shop http.Handler) error {
	server := &http.Server{
		Handler:           shop,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
	}
	stop := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		if server.Shutdown(grace) != nil {
			server.Close()
		}
	})
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
