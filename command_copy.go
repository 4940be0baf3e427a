package mercadopago

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/copying"
)

// storageName is what Caddy's storage is called where a store is named.
const storageName = "storage"

// copyOptions are the flags of the command.
type copyOptions struct {
	from, to, config, adapter string
	json                      bool
}

func copyCommand() *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:   "copy --from storage --to postgres --config <file>",
		Short: "Move all sellers to another store while instances serve",
		Long: `Moves every account with its tokens and connections from Caddy's storage to the
store that the configuration names (store postgres …), or back. The configuration
is read and nothing of it is started: it may run meanwhile, here or elsewhere, with
either store. A moved account goes on serving its valid tokens from where it was;
it is renewed, connected and disconnected where it is now.

Run it, load the configuration with the new store on all instances, and run it
again for what came late. It may be interrupted, and run again, at any time. Run it
as whom Caddy runs as, with the environment that Caddy has.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return interruptible(cmd, func(ctx context.Context) error {
				return runCopy(ctx, o, cmd.OutOrStdout(), cmd.ErrOrStderr())
			})
		},
	}
	cmd.Flags().StringVar(&o.from, "from", "", "Where everything is: storage, or the store of the configuration")
	cmd.Flags().StringVar(&o.to, "to", "", "Where everything shall be: storage, or the store of the configuration")
	cmd.Flags().StringVarP(&o.config, "config", "c", "", "The configuration file that names the store (default: the Caddyfile here)")
	cmd.Flags().StringVarP(&o.adapter, "adapter", "a", "", "The configuration adapter, such as caddyfile, where the file's name does not tell")
	cmd.Flags().BoolVar(&o.json, "json", false, "Print the summary as JSON")
	return cmd
}

func runCopy(ctx context.Context, o copyOptions, out, progress io.Writer) error {
	app, err := provisionedApp(o)
	if err != nil {
		return err
	}
	defer app.letGo()
	from, err := app.place(ctx, "--from", o.from)
	if err != nil {
		return err
	}
	to, err := app.place(ctx, "--to", o.to)
	if err != nil {
		return err
	}
	if from.Name == to.Name {
		return fmt.Errorf("--from and --to are both %s: one is %s, the other %s", o.from, storageName, app.storeName())
	}
	p := newProgress(progress, from.Name+" → "+to.Name)
	done, err := copying.Run(ctx, copying.Options{
		From: from, To: to, Settle: app.settles(), Progress: p.show, Failed: p.failed,
	})
	p.end()
	app.warnOfSpilled(progress, from.Name)
	if o.json {
		encoded, jerr := json.Marshal(done)
		fmt.Fprintln(out, string(encoded))
		return errors.Join(err, jerr)
	}
	summarize(out, done, from.Name, to.Name)
	if errors.Is(err, context.Canceled) {
		return errors.New("interrupted; nothing is lost: run it again to go on")
	}
	return err
}

// warnOfSpilled tells of pairs on this machine that the source did not take yet:
// only an instance that uses it saves them.
func (a *App) warnOfSpilled(out io.Writer, from string) {
	id := identify(a.storage)
	if from != storageName {
		id = a.store.StoreID()
	}
	spilled, _ := filepath.Glob(filepath.Join(spillDir(id), "*.*")) // the pattern is well-formed
	spilled = slices.DeleteFunc(spilled, func(path string) bool { return !tokensource.IsSpilled(path) })
	if len(spilled) > 0 {
		fmt.Fprintf(out, "%d new pairs of tokens wait in %s because %s did not take them: let an instance that uses it save them, then run this again, before that instance gets another store.\n",
			len(spilled), spillDir(id), from)
	}
}

// provisionedApp reads the configuration's app, and starts nothing of it.
func provisionedApp(o copyOptions) (*App, error) {
	text, _, _, err := caddycmd.LoadConfig(o.config, o.adapter)
	if err != nil {
		return nil, err
	}
	var config caddy.Config
	if err := json.Unmarshal(text, &config); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	raw, ok := config.AppsRaw[appName]
	if !ok {
		return nil, fmt.Errorf("the configuration has no global block %s; name one with --config", appName)
	}
	// Nothing else is touched: no listener, no admin endpoint, no log file.
	ctx, err := caddy.ProvisionContext(&caddy.Config{StorageRaw: config.StorageRaw, AppsRaw: caddy.ModuleMap{appName: raw}})
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	loaded, err := ctx.App(appName)
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	app := loaded.(*App) //nolint:forcetypeassert // it is ours
	if app.store == nil {
		app.letGo()
		return nil, errors.New("the configuration names no store beside Caddy's storage: give the one that does with --config; it need not be loaded yet, and has a line such as `store postgres {env.DATABASE_URL}` in its global block mercadopago")
	}
	return app, nil
}

// letGo cleans up what Caddy would when it replaces a configuration.
func (a *App) letGo() {
	_ = a.Cleanup()
	if store, ok := a.store.(caddy.CleanerUpper); ok {
		_ = store.Cleanup()
	}
}

// storeName is what the configuration calls its store.
func (a *App) storeName() string {
	return a.store.(caddy.Module).CaddyModule().ID.Name() //nolint:forcetypeassert // Caddy loaded it
}

// place opens a store by its name.
func (a *App) place(ctx context.Context, flag, name string) (copying.Place, error) {
	open := a.openStorage
	switch name {
	case storageName:
	case a.storeName():
		open = a.openStore
	default:
		return copying.Place{}, fmt.Errorf("%s %q: write %s or %s", flag, name, storageName, a.storeName())
	}
	store, _, err := open(ctx)
	if err != nil {
		return copying.Place{}, fmt.Errorf("opening %s: %w", name, err)
	}
	return copying.Place{Name: name, Store: store}, nil
}

// settles is how long a token request of any of the applications may take until its
// answer is saved.
func (a *App) settles() (longest time.Duration) {
	for _, application := range a.Applications {
		longest = max(longest, tokensource.Settles(application.client))
	}
	return longest
}

// summarize says what was done, and what to do next.
func summarize(out io.Writer, s copying.Summary, from, to string) {
	n := func(count int) string { return humanize.Comma(int64(count)) }
	fmt.Fprintf(out, "%s of %s accounts: %s moved, %s had something late, %s unchanged, %s failed.\n",
		n(s.Seen), n(s.Accounts), n(s.Moved), n(s.Late), n(s.Unchanged), n(s.Failed))
	fmt.Fprintf(out, "Written to %s: %s pairs of tokens, %s connections. Ended there: %s. Newer there, and kept: %s.\n",
		to, n(s.Pairs), n(s.Connections), n(s.Ended), n(s.Kept))
	if s.Moved == 0 || s.Failed > 0 || s.Seen < s.Accounts {
		return
	}
	how := "with `store " + to + "`"
	if to == storageName {
		how = "without the option store, and with the same encryption_key,"
	}
	fmt.Fprintf(out, "Next: load the configuration %s on all instances, then run this again for what came late.\nUntil then they serve what is valid from %s.\n", how, from)
}

const (
	// Between two drawings of the bar, and between two lines where there is none.
	barEvery  = 100 * time.Millisecond
	lineEvery = 10 * time.Second
	barWidth  = 24
	// mostErrors is how many failures are told one by one.
	mostErrors = 20
)

// progress draws a bar on a terminal, and writes a line now and then elsewhere.
type progress struct {
	out         io.Writer
	what        string
	terminal    bool
	begun, last time.Time
	errors      int
}

func newProgress(out io.Writer, what string) *progress {
	file, ok := out.(*os.File)
	now := time.Now()
	return &progress{out: out, what: what, terminal: ok && term.IsTerminal(int(file.Fd())), begun: now, last: now}
}

// clear removes the bar, so that something else can be written.
func (p *progress) clear() {
	if p.terminal {
		fmt.Fprint(p.out, "\r\x1b[K")
	}
}

func (p *progress) show(s copying.Summary) {
	now, every := time.Now(), lineEvery
	if p.terminal {
		every = barEvery
	}
	if now.Sub(p.last) < every && (!p.terminal || s.Seen < s.Accounts) {
		return
	}
	p.last = now
	p.clear()
	fmt.Fprint(p.out, p.line(s, now))
	if !p.terminal {
		fmt.Fprintln(p.out)
	}
}

// line is where a run is, and how long it will take at the pace it had.
func (p *progress) line(s copying.Summary, now time.Time) string {
	share := float64(s.Seen) / float64(max(s.Accounts, 1))
	text := p.what
	if p.terminal {
		bar := make([]rune, barWidth)
		for i := range bar {
			bar[i] = '░'
			if float64(i) < share*barWidth {
				bar[i] = '█'
			}
		}
		text += " " + string(bar)
	}
	text += fmt.Sprintf(" %3.0f %%  %s of %s", 100*share, humanize.Comma(int64(s.Seen)), humanize.Comma(int64(s.Accounts)))
	if elapsed := now.Sub(p.begun); elapsed > 3*time.Second && s.Seen > 0 {
		left := time.Duration(float64(elapsed) * (1 - share) / share).Round(time.Second)
		text += fmt.Sprintf("  %.0f/s  %s left", float64(s.Seen)/elapsed.Seconds(), left)
	}
	return text
}

func (p *progress) failed(id tokenstore.AccountID, err error) {
	p.errors++
	if p.errors > mostErrors {
		return
	}
	p.clear()
	fmt.Fprintf(p.out, "account %s: %v\n", id, err)
	if p.errors == mostErrors {
		fmt.Fprintln(p.out, "further failures are only counted")
	}
}

// end leaves the line of a terminal to what comes next.
func (p *progress) end() {
	if p.terminal {
		fmt.Fprintln(p.out)
	}
}
