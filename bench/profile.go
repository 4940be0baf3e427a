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
	for _, m := range append(costModes(), &Mode{Name: "static", site: "STATIC"}) {
		l := w.load(w.servers[0], m.site, m.cookie, 64)
		if err := b.profileOf(ctx, w.servers[0].server, l, filepath.Join(folder, strings.ToLower(m.site)+".pprof")); err != nil {
			return err
		}
	}
	flow, err := b.flowWorld(ctx, "")
	if err != nil {
		return err
	}
	defer flow.close()
	return b.profileOf(ctx, flow.server, flow.load("SESSION"), filepath.Join(folder, "connect.pprof"))
}

func (b *bench) profileOf(ctx context.Context, s *server, l load, file string) error {
	const length = 10 * time.Second
	l.length = length + 2*time.Second
	sent := make(chan error, 1)
	go func() {
		_, err := b.send(ctx, l)
		sent <- err
	}()
	profile, err := s.get(fmt.Sprintf("/debug/pprof/profile?seconds=%.0f", length.Seconds()))
	if err == nil {
		err = <-sent
	}
	if err != nil {
		return err
	}
	b.say("go tool pprof %s", file)
	return os.WriteFile(file, profile, 0o600)
}
