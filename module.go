// Package mercadopago connects sellers to a platform through Mercado Pago's
// OAuth, keeps their tokens alive and sealed, and puts the right seller's token
// on proxied requests.
//
// [App] holds the applications, keys and store of a configuration; [Handler]
// serves the connect pages and injects tokens.
package mercadopago

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddy-mercadopago/caddy-mercadopago/connect"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
)

// now is the clock of all that is made here. It stands apart so that a test can
// have a machine whose clock is wrong.
var now = time.Now

// appName is the name of the app, of its global option and of its directive.
const appName = "mercadopago"

// defaultApplication is the name of the application whose options stand
// directly in the global block.
const defaultApplication = "default"

// mostCacheSize bounds what can be set: it is some gigabytes.
const mostCacheSize = 10_000_000

func init() {
	caddy.RegisterModule(App{})
}

// App keeps the tokens of sellers that connected their Mercado Pago accounts to
// one or more applications of yours.
//
// Tokens are sealed with XChaCha20-Poly1305 and kept in Caddy's storage, under
// `mercadopago/`. Reloading the configuration interrupts nothing: what is live
// belongs to the process and is handed on.
type App struct {
	// The applications by name. The Caddyfile writes the options that stand
	// directly in the global block to the application `default`, which handlers
	// use unless they name another one.
	Applications map[string]*Application `json:"applications,omitempty"`

	// The keys that seal tokens and cookies: 32 bytes each, in base64 or hex.
	// The first seals, all open, so a key is replaced by putting the new one in
	// front. Placeholders are resolved when the configuration is loaded; use
	// them, so that no key stands in the configuration itself.
	//
	// Default: a key is generated and kept beside the tokens, if Caddy's storage
	// is its file system. Who can read that folder can then read the tokens. On
	// any other storage, and with a `store`, a key is required.
	EncryptionKeys []string `json:"encryption_keys,omitempty"`

	// The module that keeps the tokens: `postgres`, or another one of the namespace.
	// Default: Caddy's storage.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=mercadopago.stores inline_key=module"`

	// How many sellers are kept in memory at the most, those who were asked for lately
	// before others. Who is not there is read from the store again. Default: 262144.
	CacheSize int `json:"cache_size,omitempty"`

	// How tokens are renewed ahead of time, whether or not anyone uses them.
	Renewal *Renewal `json:"renewal,omitempty"`

	logger   *zap.Logger
	observer observer
	storage  certmagic.Storage
	store    StoreModule // nil is Caddy's storage
	keys     []secret.Secret
	source   *tokensource.Source
	pooled   bool

	pages *pages
}

// pages notes where the connect pages of each application are, so that handlers
// without pages of their own can tell a caller.
type pages struct {
	mu    sync.Mutex
	flows map[string]*connect.Flow
}

// CaddyModule returns the Caddy module information.
func (App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  appName,
		New: func() caddy.Module { return new(App) },
	}
}

// managers holds the one manager of this process, for as long as a
// configuration uses it.
var managers = caddy.NewUsagePool()

const managerKey = "manager"

// Provision sets up the applications. It touches neither network nor storage.
func (a *App) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger()
	a.storage = ctx.Storage()
	a.pages = &pages{flows: make(map[string]*connect.Flow)}
	if a.StoreRaw != nil {
		loaded, err := ctx.LoadModule(a, "StoreRaw")
		if err != nil {
			return fmt.Errorf("loading the store: %w", err)
		}
		store, ok := loaded.(StoreModule)
		if !ok {
			return fmt.Errorf("store: %T keeps no tokens", loaded)
		}
		a.store = store
	}
	if err := a.provisionKeys(); err != nil {
		return err
	}
	applications, err := a.provisionApplications()
	if err != nil {
		return err
	}
	if a.CacheSize < 0 || a.CacheSize > mostCacheSize {
		return fmt.Errorf("cache_size: write a number from 1 to %d, such as 262144", mostCacheSize)
	}
	renewal, err := a.Renewal.settings()
	if err != nil {
		return err
	}
	pooled, _, err := managers.LoadOrNew(managerKey, func() (caddy.Destructor, error) {
		return tokensource.NewManager(), nil
	})
	if err != nil {
		return err
	}
	a.pooled = true
	storeID, cure := identify(a.storage), storageCure
	if a.store != nil {
		storeID, cure = a.store.StoreID(), storeCure
	}
	a.observer = observer{a.logger, cure}
	a.source = pooled.(*tokensource.Manager).Source(tokensource.Config{
		StoreID:      storeID,
		Open:         a.open,
		Applications: applications,
		CacheSize:    a.CacheSize,
		Renewal:      renewal,
		SpillDir:     spillDir(storeID),
		Observer:     a.observer,
		Now:          now,
	})
	return nil
}

// spillDir is where pairs lie that a store did not take.
func spillDir(storeID string) string {
	return filepath.Join(caddy.AppDataDir(), appName, "spill", storeID)
}

func (a *App) provisionKeys() error {
	for i, text := range a.EncryptionKeys {
		place := fmt.Sprintf("encryption_keys[%d]", i)
		resolved, err := a.resolveSecret(place, text)
		if err != nil {
			return err
		}
		key, err := secret.ParseKey(resolved.Reveal())
		if err != nil {
			return fmt.Errorf("%s (%s): %w", place, shown(text), err)
		}
		a.keys = append(a.keys, key)
	}
	if len(a.keys) > 0 {
		return nil
	}
	if a.store != nil {
		return errors.New("encryption_key is missing: the store is not Caddy's file system, so no key is generated; make one with `openssl rand -base64 32` and configure the same one at every instance")
	}
	if _, ok := a.storage.(*certmagic.FileStorage); !ok {
		return errors.New("encryption_key is missing: Caddy's storage is not its file system, so no key is generated; make one with `openssl rand -base64 32` and configure it")
	}
	a.logger.Warn("no encryption_key is configured: a generated key is kept beside the tokens it seals, so who can read Caddy's storage folder or a back-up of it can read the tokens; make a key with `openssl rand -base64 32`")
	return nil
}

func (a *App) provisionApplications() ([]tokensource.Application, error) {
	if len(a.Applications) == 0 {
		return nil, errors.New("no application is configured: the global block mercadopago needs client_id, client_secret and redirect_uri")
	}
	var applications []tokensource.Application
	byClient, byRedirect := make(map[string]string), make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(a.Applications)) {
		application := a.Applications[name]
		if application == nil {
			return nil, fmt.Errorf("applications.%s is empty: it needs client_id, client_secrets and redirect_uri", name)
		}
		if err := application.provision(a, "applications."+name); err != nil {
			return nil, err
		}
		if other, taken := byRedirect[application.client.RedirectURI()]; taken {
			return nil, fmt.Errorf("applications.%s.redirect_uri: application %q has the same one; each application needs a redirect_uri of its own, because the callback tells them apart by it", name, other)
		}
		if other, taken := byClient[application.client.ClientID()]; taken {
			return nil, fmt.Errorf("applications.%s.client_id: application %q has the same one; write one application and use it from both places", name, other)
		}
		byRedirect[application.client.RedirectURI()] = name
		byClient[application.client.ClientID()] = name
		applications = append(applications, tokensource.Application{
			Name: name, Client: application.client, RenewBefore: application.renewBefore(),
		})
	}
	return applications, nil
}

// open opens the store and the keyring.
func (a *App) open(ctx context.Context) (tokenstore.Store, *secret.Keyring, error) {
	if a.store != nil {
		return a.openStore(ctx)
	}
	return a.openStorage(ctx)
}

func (a *App) openStore(ctx context.Context) (tokenstore.Store, *secret.Keyring, error) {
	keyring, err := secret.NewKeyring(a.keys...)
	if err != nil {
		return nil, nil, err
	}
	store, err := a.store.OpenStore(ctx, keyring)
	return store, keyring, err
}

// openStorage opens the store in Caddy's storage. A generated key goes on opening
// what it sealed after a key was configured.
func (a *App) openStorage(ctx context.Context) (tokenstore.Store, *secret.Keyring, error) {
	keys := slices.Clone(a.keys)
	if len(keys) == 0 {
		generated, err := caddystorage.GeneratedKey(ctx, a.storage)
		if err != nil {
			return nil, nil, fmt.Errorf("generating an encryption key: %w", err)
		}
		keys = append(keys, generated)
	} else {
		generated, err := caddystorage.ExistingKey(ctx, a.storage)
		switch {
		case err == nil:
			keys = append(keys, generated)
		case !errors.Is(err, tokenstore.ErrNotFound):
			return nil, nil, fmt.Errorf("looking for a generated encryption key: %w", err)
		}
	}
	keyring, err := secret.NewKeyring(keys...)
	if err != nil {
		return nil, nil, err
	}
	return caddystorage.New(a.storage, keyring), keyring, nil
}

// Start makes this configuration the one that serves.
func (a *App) Start() error {
	a.source.Start()
	return nil
}

// Stop hands on to another configuration, if there is one.
func (a *App) Stop() error {
	a.source.Stop()
	return nil
}

// Cleanup lets go of the manager. Requests that still run are not disturbed.
func (a *App) Cleanup() error {
	if a.source != nil {
		a.source.Release()
	}
	if !a.pooled {
		return nil
	}
	a.pooled = false
	_, err := managers.Delete(managerKey)
	return err
}

// offer notes the connect pages of a handler. Of several for one application
// the same one is chosen at every load, whichever handler comes first.
func (p *pages) offer(application string, flow *connect.Flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if other, ok := p.flows[application]; !ok || flow.ConnectURL("") < other.ConnectURL("") {
		p.flows[application] = flow
	}
}

// url returns the address where a seller of an application connects, or "" where
// no handler serves it.
func (p *pages) url(application string) string {
	p.mu.Lock()
	flow := p.flows[application]
	p.mu.Unlock()
	if flow == nil {
		return ""
	}
	return flow.ConnectURL("")
}

// identify returns a name for a storage by what it is and how it is configured,
// so that a reload with the same storage keeps what is in memory.
func identify(storage certmagic.Storage) string {
	config, err := json.Marshal(storage)
	if err != nil || string(config) == "{}" {
		config = fmt.Appendf(nil, "%p", storage) // it does not tell: take it for a new one
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%T %s", storage, config))
	return hex.EncodeToString(sum[:8])
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
