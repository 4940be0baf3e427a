package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/certmagic"
)

func init() { caddy.RegisterModule(Storage{}) }

// Storage is a storage plugin as others write them: Caddy's files, and what may
// happen to any storage.
type Storage struct {
	Root                   string `json:"root,omitempty"`
	*certmagic.FileStorage `json:"-"`
}

// CaddyModule returns the Caddy module information.
func (Storage) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.storage.faulty", New: func() caddy.Module { return new(Storage) }}
}

// CertMagicStorage returns the storage itself.
func (s *Storage) CertMagicStorage() (certmagic.Storage, error) {
	s.FileStorage = &certmagic.FileStorage{Path: s.Root}
	return s, nil
}

// UnmarshalCaddyfile reads `storage faulty <root>`.
func (s *Storage) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next()
	if !d.Args(&s.Root) {
		return d.ArgErr()
	}
	return nil
}

var errnos = map[string]syscall.Errno{
	"EIO": syscall.EIO, "ENOSPC": syscall.ENOSPC, "EROFS": syscall.EROFS, "EACCES": syscall.EACCES,
}

// errLost is of a write that is reported as done.
var errLost = errors.New("lost")

// suffer does to an operation what the file says.
func suffer(ctx context.Context, operation, key string) error {
	for _, f := range faults() {
		if f.operation != operation && f.operation != "*" {
			continue
		}
		switch f.kind {
		case "error": // the disk says so
			return &fs.PathError{Op: operation, Path: key, Err: errnos[f.value]}
		case "slow":
			pause, err := time.ParseDuration(f.value)
			if err != nil {
				panic(err)
			}
			if err := wait(ctx, time.After(pause)); err != nil {
				return err
			}
		case "hang": // until the caller gives up
			<-ctx.Done()
			return ctx.Err()
		case "stuck": // in the kernel, which no caller's deadline ends
			for again := time.Tick(20 * time.Millisecond); stillStuck(operation); {
				<-again
			}
		case "lost":
			return errLost
		default:
			panic(fmt.Sprintf("unknown fault %q", f.kind))
		}
	}
	return nil
}

func wait(ctx context.Context, until <-chan time.Time) error {
	select {
	case <-until:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func stillStuck(operation string) bool {
	for _, f := range faults() {
		if (f.operation == operation || f.operation == "*") && f.kind == "stuck" {
			return true
		}
	}
	return false
}

// Lock implements certmagic.Locker.
func (s *Storage) Lock(ctx context.Context, name string) error {
	if err := suffer(ctx, "lock", name); err != nil {
		return err
	}
	return s.FileStorage.Lock(ctx, name)
}

// Store implements certmagic.Storage. A write that is torn leaves half of it.
func (s *Storage) Store(ctx context.Context, key string, value []byte) error {
	for _, f := range faults() {
		if f.operation == "store" && f.kind == "torn" {
			_ = s.FileStorage.Store(ctx, key, value[:len(value)/2])
			return &fs.PathError{Op: "store", Path: key, Err: errnos[f.value]}
		}
	}
	err := suffer(ctx, "store", key)
	if errors.Is(err, errLost) {
		return nil
	}
	if err != nil {
		return err
	}
	return s.FileStorage.Store(ctx, key, value)
}

// Load implements certmagic.Storage.
func (s *Storage) Load(ctx context.Context, key string) ([]byte, error) {
	if err := suffer(ctx, "load", key); err != nil {
		return nil, err
	}
	return s.FileStorage.Load(ctx, key)
}

// Delete implements certmagic.Storage.
func (s *Storage) Delete(ctx context.Context, key string) error {
	if err := suffer(ctx, "delete", key); err != nil {
		return err
	}
	return s.FileStorage.Delete(ctx, key)
}

// List implements certmagic.Storage.
func (s *Storage) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	if err := suffer(ctx, "list", prefix); err != nil {
		return nil, err
	}
	return s.FileStorage.List(ctx, prefix, recursive)
}

var (
	_ caddy.StorageConverter = (*Storage)(nil)
	_ caddyfile.Unmarshaler  = (*Storage)(nil)
	_ certmagic.Storage      = (*Storage)(nil)
)
