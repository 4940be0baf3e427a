package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// profile writes a CPU profile of Caddy for each mode, and for the baseline: where
// to look when a target is missed. It is no part of the page.
func (b *bench) profile(ctx context.Context, _ *Report) error {
	w, err := b.costWorld(ctx)
	if err != nil {
		return err
	}
	defer w.close()
	folder := filepath.Join(b.root, "artifacts", "profiles")
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return err
	}
	const length = 10 * time.Second
	for _, m := range append(costModes(), &Mode{Name: "static", site: "STATIC"}) {
		l := w.load(w.servers[0], m.site, m.cookie, 64)
		l.length = length + 2*time.Second
		sent := make(chan error, 1)
		go func() {
			_, err := b.send(ctx, l)
			sent <- err
		}()
		profile, err := w.servers[0].get(fmt.Sprintf("/debug/pprof/profile?seconds=%.0f", length.Seconds()))
		if err == nil {
			err = <-sent
		}
		if err != nil {
			return err
		}
		name := filepath.Join(folder, strings.ToLower(m.site)+".pprof")
		if err := os.WriteFile(name, profile, 0o600); err != nil {
			return err
		}
		b.say("go tool pprof %s", name)
	}
	return nil
}
