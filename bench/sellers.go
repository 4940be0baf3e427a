package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	mercadopago "github.com/caddy-mercadopago/caddy-mercadopago"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	clientID      = "4934588586838432"
	clientSecret  = "client-secret-of-the-benchmark"
	encryptionKey = "6b1d5f0e9a8c7b6a5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c"
	// application is the name of the application whose options stand directly in a
	// Caddyfile.
	application = "default"
	// firstAccount is the number below that of the first seller's account.
	firstAccount = 5_411_000_000
)

func newKeyring() (*secret.Keyring, error) {
	key, err := secret.ParseKey(encryptionKey)
	if err != nil {
		return nil, err
	}
	return secret.NewKeyring(key)
}

// seller is the seller of a number, who is connected to the account of that
// number. Names and tokens are as long as real ones.
func seller(n int64, obtained time.Time, life time.Duration) (tokenstore.Connection, tokenstore.Pair) {
	id := tokenstore.AccountID{ClientID: clientID, UserID: firstAccount + n, Live: true}
	var random [16]byte
	copy(random[:], strconv.FormatInt(n, 10)+"----------------")
	hexed := hex.EncodeToString(random[:])
	pair := tokenstore.Pair{
		AccessToken:  secret.New(fmt.Sprintf("APP_USR-%s-112210-%s-%d", clientID, hexed, id.UserID)),
		RefreshToken: secret.New(fmt.Sprintf("TG-%s-%d", hexed[:24], id.UserID)),
		PublicKey:    fmt.Sprintf("APP_USR-%s-%s-%s-%s-%s", hexed[:8], hexed[8:12], hexed[12:16], hexed[16:20], hexed[20:]),
		Scope:        "offline_access read write", ObtainedAt: obtained, ExpiresAt: obtained.Add(life),
	}
	pair.PairID = tokenstore.PairID{Authorization: 1, Hash: tokenstore.HashPair(pair.AccessToken, pair.RefreshToken)}
	return tokenstore.Connection{
		ID: hexed, Application: application, Seller: sellerName(n), Account: id, Authorization: 1,
		Nickname: fmt.Sprintf("VENDEDOR%d", n), Country: "AR", CreatedAt: obtained,
	}, pair
}

func sellerName(n int64) string { return "shop-" + strconv.FormatInt(n, 10) }

// crowd is a store that has every seller there could be, and holds none of them:
// what a process with it needs is what the plugin needs. It can only be read.
type crowd struct {
	tokenstore.Store
	obtained time.Time
}

const life = 180 * 24 * time.Hour

func (c crowd) Connection(_ context.Context, _, name string) (tokenstore.Connection, error) {
	var n int64
	if _, err := fmt.Sscanf(name, "shop-%d", &n); err != nil {
		return tokenstore.Connection{}, tokenstore.ErrNotFound
	}
	connection, _ := seller(n, c.obtained, life)
	// As a store reads it: nothing in it is anybody else's.
	for _, text := range []*string{&connection.Application, &connection.Account.ClientID, &connection.Country} {
		*text = strings.Clone(*text)
	}
	return connection, nil
}

func (c crowd) Account(_ context.Context, id tokenstore.AccountID) (tokenstore.Account, error) {
	_, pair := seller(id.UserID-firstAccount, c.obtained, life)
	pair.Scope = strings.Clone(pair.Scope)
	return tokenstore.Account{ID: id, Pairs: []tokenstore.Pair{pair}}, nil
}

func (crowd) Accounts(context.Context, string, int) ([]tokenstore.AccountID, string, error) {
	return nil, "", nil
}

func (crowd) CleanUp(context.Context, time.Time, string, int) (string, error) { return "", nil }

// CrowdStore is crowd as Caddy's configuration names it.
type CrowdStore struct{}

func init() { caddy.RegisterModule(CrowdStore{}) }

// CaddyModule returns the Caddy module information.
func (CrowdStore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "mercadopago.stores.crowd", New: func() caddy.Module { return new(CrowdStore) }}
}

// UnmarshalCaddyfile takes the name alone.
func (*CrowdStore) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if d.Next(); d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// StoreID implements mercadopago.StoreModule.
func (*CrowdStore) StoreID() string { return "crowd" }

// OpenStore implements mercadopago.StoreModule.
func (*CrowdStore) OpenStore(context.Context, *secret.Keyring) (tokenstore.Store, error) {
	return crowd{obtained: time.Now()}, nil
}

var _ mercadopago.StoreModule = (*CrowdStore)(nil)
