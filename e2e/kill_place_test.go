package e2e

import (
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/caddystorage"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres"
	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore/postgres/postgrestest"
)

// place is where a fleet under siege keeps its tokens.
type place struct {
	name string
	// storage and store are lines of the Caddyfile: of its global options, and of
	// the app.
	storage, store string
	env            []string
	open           func(keyring *secret.Keyring) tokenstore.Store

	// server is what can crash beside the processes, or nil. up is held for writing
	// while it is down.
	server *postgrestest.Server
	up     sync.RWMutex
}

// onFiles is a folder that all processes share.
func onFiles(t *testing.T) *place {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "storage")
	return &place{
		name: "files", storage: "storage file_system " + folder,
		open: func(keyring *secret.Keyring) tokenstore.Store {
			return caddystorage.New(&certmagic.FileStorage{Path: folder}, keyring)
		},
	}
}

// onPostgres is a server of its own, and nothing else that processes share. It is
// killed, as they are, on a machine that runs on: what was written need not have
// reached the disk.
func onPostgres(t *testing.T) *place {
	t.Helper()
	server := postgrestest.New(t, "fsync=off")
	return &place{
		name: "postgres", store: "store postgres {env.MP_DATABASE}", env: []string{"MP_DATABASE=" + server.DSN()}, server: server,
		open: func(keyring *secret.Keyring) tokenstore.Store {
			database, err := postgres.Open(postgres.Config{DSN: secret.New(server.DSN())})
			require.NoError(t, err)
			store, err := database.Store(t.Context(), keyring)
			require.NoError(t, err)
			return store
		},
	}
}

// crashes kills the server that the store is on, at times that have nothing to do
// with what the processes do, and starts it again.
func (s *siege) crashes(over <-chan struct{}) {
	if s.place.server == nil {
		return
	}
	for {
		select {
		case <-over:
			return
		case <-time.After(500*time.Millisecond + s.random.upTo(4*time.Second)):
		}
		s.crash()
	}
}

func (s *siege) crash() {
	s.place.up.Lock()
	defer s.place.up.Unlock()
	s.crises++
	if err := s.place.server.Crash(); err != nil {
		s.fail("the server could not be killed: %v", err)
	}
	pause(s.t.Context(), s.random.upTo(time.Second))
	if err := s.place.server.Start(); err != nil {
		s.fail("the server did not start again: %v", err)
	}
}
