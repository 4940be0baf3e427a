package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"text/template"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokensource"
)

const module = "github.com/caddy-mercadopago/caddy-mercadopago"

// Report is all that was measured: what the page is made from.
type Report struct {
	Scale   string
	Date    string
	Machine Machine
	Took    time.Duration

	Costs       []*Cost
	Allocations []Allocations
	Growth      []*Growth
	Settling    time.Duration
	Stores      []*Store
	Tables      []Size // of PostgreSQL
	FolderSize  Size
	Refresh     Refresh
	Flow        *Flow
	Simulated   []Simulated
}

// Machine is what everything ran on.
type Machine struct {
	CPU, Kernel, Go, Caddy, Commit, PostgreSQL string
	Cores                                      int
	Memory                                     float64 // GiB
}

// describe notes what the figures are of.
func (r *Report) describe(ctx context.Context, b *bench) error {
	r.Date = time.Now().UTC().Format("2 January 2006")
	m := &r.Machine
	m.Cores, m.Go = runtime.NumCPU(), runtime.Version()
	m.CPU = after("/proc/cpuinfo", "model name\t:")
	var kilobytes float64
	if _, err := fmt.Sscan(after("/proc/meminfo", "MemTotal:"), &kilobytes); err == nil {
		m.Memory = kilobytes / (1 << 20)
	}
	kernel, err := os.ReadFile("/proc/sys/kernel/osrelease")
	if err != nil {
		return err
	}
	m.Kernel = strings.TrimSpace(string(kernel))
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, dependency := range info.Deps {
			if dependency.Path == "github.com/caddyserver/caddy/v2" {
				m.Caddy = dependency.Version
			}
		}
	}
	commit := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty=, changed", "--exclude=*")
	commit.Dir = b.root
	text, err := commit.Output()
	m.Commit = strings.TrimSpace(string(text))
	return err
}

// after returns what stands behind a name in a file of the system's, or "unknown".
func after(file, name string) string {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name); ok {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

//go:embed benchmarks.md.tmpl
var page string

// CacheSize is how many sellers are kept in memory unless it is set otherwise.
func (*Report) CacheSize() int { return tokensource.DefaultCacheSize }

// FlowsAtOnce is how many flows a round has.
func (*Report) FlowsAtOnce() int { return flowsAtOnce }

// ProviderLatency is what a token request takes.
func (*Report) ProviderLatency() time.Duration { return providerLatency }

// HasExpired tells whether callers for one seller were measured.
func (r *Report) HasExpired() bool { return r.Flow != nil && r.Flow.Callers > 0 }

// write writes the page and its plots.
func (r *Report) write(docs string) error {
	plots := filepath.Join(docs, "benchmarks")
	if err := os.MkdirAll(plots, 0o755); err != nil {
		return err
	}
	for name, svg := range r.plots() {
		if err := os.WriteFile(filepath.Join(plots, name+".svg"), []byte(svg), 0o644); err != nil { //nolint:gosec // docs are for everyone
			return err
		}
	}
	parsed, err := template.New("page").Funcs(template.FuncMap{
		"times": times, "spread": spreadText, "judge": judge, "judgeBelow": judgeBelow, "judgeAbove": judgeAbove, "percent": percent, "minutes": minutes, "round": rounded, "bytes": bytesOf, "ms": ms, "count": count,
	}).Parse(page)
	if err != nil {
		return err
	}
	var text strings.Builder
	if err := parsed.Execute(&text, r); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(docs, "benchmarks.md"), []byte(text.String()), 0o644) //nolint:gosec // docs are for everyone
}
