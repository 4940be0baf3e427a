package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

const modulePath = "github.com/caddy-mercadopago/caddy-mercadopago"

// block is a fenced block of the README.
type block struct {
	name string // the heading above it and its language, numbered from the second on
	line int
	text string
}

// tries are what is done with each block.
var tries = map[string]func(*testing.T, readme, string){
	"caddy-mercadopago sh":           tryMakeDemo,
	"Install sh":                     tryXcaddy,
	"Install sh 2":                   tryMakeKey,
	"Ingress caddyfile":              tryIngress,
	"Egress caddyfile":               tryEgress,
	"Egress sh":                      tryEgressCall,
	"Seller mode caddyfile":          trySellerMode,
	"What happens when json":         tryProblem,
	"Several applications caddyfile": tryApplications,
	"Webhook caddyfile":              tryWebhook,
	"Test your own app sh":           trySandbox,
	"Test your own app caddyfile":    trySandboxed,
	"Test your own app sh 2":         tryFaults,
	"Test your own app go":           tryGo,
}

func TestEveryBlockOfTheREADMEWorks(t *testing.T) {
	t.Parallel()
	sample.Log(t)
	r := readReadme(t)
	var known []string
	for _, b := range r.blocks {
		known = append(known, b.name)
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			takeTurn(t)
			try, ok := tries[b.name]
			require.True(t, ok, "README.md:%d: nothing tries this block", b.line)
			try(t, r, b.text)
		})
	}
	for name := range tries {
		require.Contains(t, known, name, "the README has no such block any more")
	}
}

// readme is README.md, taken apart.
type readme struct {
	text    string
	blocks  []block
	anchors []string
	tables  map[string][][]string // the rows of the table below a heading, without its head
}

func (r readme) block(t *testing.T, name string) string {
	t.Helper()
	i := slices.IndexFunc(r.blocks, func(b block) bool { return b.name == name })
	require.GreaterOrEqual(t, i, 0, "the README has no block %q", name)
	return r.blocks[i].text
}

func readReadme(t *testing.T) readme {
	t.Helper()
	text, err := os.ReadFile("../README.md")
	require.NoError(t, err)
	r := readme{text: string(text), tables: make(map[string][][]string)}
	var heading string
	var open *block
	seen := make(map[string]int)
	for i, line := range strings.Split(r.text, "\n") {
		fence, fenced := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case open != nil && fenced:
			require.Empty(t, fence, "README.md:%d", i+1)
			r.blocks, open = append(r.blocks, *open), nil
		case open != nil:
			open.text += line + "\n"
		case fenced:
			require.NotEmpty(t, fence, "README.md:%d: a block without a language cannot be tried", i+1)
			name := heading + " " + fence
			if seen[name]++; seen[name] > 1 {
				name = fmt.Sprintf("%s %d", name, seen[name])
			}
			open = &block{name: name, line: i + 1}
		case strings.HasPrefix(line, "#"):
			heading = strings.TrimSpace(strings.TrimLeft(line, "#"))
			r.anchors = append(r.anchors, strings.ReplaceAll(strings.ToLower(heading), " ", "-"))
		case strings.HasPrefix(line, "|"):
			cells := strings.Split(strings.Trim(line, "|"), "|")
			for i := range cells {
				cells[i] = strings.TrimSpace(cells[i])
			}
			r.tables[heading] = append(r.tables[heading], cells)
		}
	}
	require.Nil(t, open, "the last block is not closed")
	for heading, rows := range r.tables {
		require.Greater(t, len(rows), 2, "the table below %q", heading)
		require.Regexp(t, `^-+$`, rows[1][0], "the table below %q", heading)
		r.tables[heading] = rows[2:]
		for _, row := range rows {
			require.Len(t, row, len(rows[0]), "a row of the table below %q", heading)
		}
	}
	return r
}

// script is a shell block that runs.
type script struct {
	t       *testing.T
	process *exec.Cmd
	said    *transcript
	ended   chan error
}

// typed starts a shell block, as somebody types it in a folder.
func typed(t *testing.T, dir, text string, env ...string) *script {
	t.Helper()
	// People see what a server refuses; a script has to be told to mind.
	text = "curl() { command curl -sS --fail \"$@\"; }\n" + text
	s := &script{t: t, process: exec.Command("bash", "-euo", "pipefail", "-c", text), said: new(transcript), ended: make(chan error, 1)}
	s.process.Dir, s.process.Env = dir, append(environment(t.TempDir()), env...)
	s.process.Stdout, s.process.Stderr = s.said, s.said
	// Ctrl-C in a terminal goes to all that the line started.
	s.process.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	require.NoError(t, s.process.Start())
	go func() { s.ended <- s.process.Wait() }()
	t.Cleanup(func() {
		_ = syscall.Kill(-s.process.Process.Pid, syscall.SIGKILL)
		if t.Failed() {
			t.Logf("it said:\n%s", s.said)
		}
	})
	return s
}

// output waits for the end, and returns what was said.
func (s *script) output() string {
	s.t.Helper()
	require.NoError(s.t, <-s.ended, s.said)
	return s.said.String()
}

// buildTime is the longest that building Caddy may take with an empty build cache.
const buildTime = 15 * time.Minute

// says waits until something is said, and returns its first group.
func (s *script) says(pattern string) string {
	s.t.Helper()
	var found []string
	awaitFor(s.t, buildTime, "it says "+pattern, func() bool {
		select {
		case err := <-s.ended:
			s.t.Fatalf("it ended: %v", err)
		default:
		}
		found = regexp.MustCompile(pattern).FindStringSubmatch(s.said.String())
		return found != nil
	})
	return found[1]
}

// interrupt is Ctrl-C.
func (s *script) interrupt() {
	s.t.Helper()
	group := -s.process.Process.Pid
	require.NoError(s.t, syscall.Kill(group, syscall.SIGINT))
	<-s.ended // with the exit code of whatever was interrupted
	await(s.t, "nothing is left running", func() bool { return syscall.Kill(group, 0) == syscall.ESRCH })
}

// toolchain is what Go needs to build with the caches of this machine.
func toolchain(t *testing.T) []string {
	t.Helper()
	names := []string{"GOCACHE", "GOMODCACHE", "GOPATH", "GOPROXY", "GOSUMDB", "GONOSUMDB", "GOPRIVATE", "GOFLAGS", "GOTOOLCHAIN"}
	values := strings.Split(sh(t, "..", "go", append([]string{"env"}, names...)...), "\n")
	var env []string
	for i, name := range names {
		env = append(env, name+"="+values[i])
	}
	return env
}

// sh runs a program of the test's own.
func sh(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	command := exec.Command(name, args...)
	command.Dir, command.Stderr = dir, new(transcript)
	out, err := command.Output()
	require.NoError(t, err, "%s %v: %s", name, args, command.Stderr)
	return string(out)
}

// withCaddy is a folder that has what the README calls ./caddy.
func withCaddy(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Symlink(binary(t), filepath.Join(dir, "caddy")))
	return dir
}

// Two blocks build Caddy, which takes longer than all other blocks together. TEST_SEED
// selects which one a run tries. With FAULTS=all, it tries both.
const (
	demoBlock = iota
	xcaddyBlock
	buildingBlocks
)

// tryMakeDemo clones a repository that has the files of this folder.
func tryMakeDemo(t *testing.T, _ readme, text string) {
	if !inShare(buildingBlocks, demoBlock) {
		return
	}
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	origin := filepath.Join(t.TempDir(), "origin.git")
	git := func(args ...string) {
		sh(t, root, "git", append([]string{"--git-dir", origin, "--work-tree", root, "-c", "user.name=test", "-c", "user.email=test@example.com"}, args...)...)
	}
	git("init", "-q")
	git("add", "-A")
	git("commit", "-q", "--no-gpg-sign", "-m", "what stands here")
	dir := t.TempDir()
	demo := typed(t, dir, text, append(toolchain(t), "GIT_CONFIG_COUNT=1",
		"GIT_CONFIG_KEY_0=url."+origin+".insteadOf", "GIT_CONFIG_VALUE_0=https://"+modulePath)...)
	shop := demo.says(`Open\s+(http://\S+)`)
	page := (&platform{t: t}).visitor().get(shop)
	require.Equal(t, http.StatusOK, page.status)
	require.Contains(t, page.body, "Mercado Pago")
	demo.interrupt()
	require.Contains(t, demo.said.String(), "Nothing is left running")
	clone := filepath.Join(dir, filepath.Base(modulePath))
	require.Empty(t, sh(t, clone, "git", "status", "--porcelain"), "the demo leaves nothing outside its own folder")
}

// tryXcaddy builds with the pinned xcaddy and Caddy, and takes the module from
// here: what stands here is published later.
func tryXcaddy(t *testing.T, _ readme, text string) {
	if !inShare(buildingBlocks, xcaddyBlock) {
		return
	}
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	bin := t.TempDir()
	sh(t, root, "go", "build", "-modfile=tools/go.mod", "-o", filepath.Join(bin, "pinned"), "github.com/caddyserver/xcaddy/cmd/xcaddy")
	// @v0.0.0 keeps Go from asking a proxy for it.
	wrapper := fmt.Sprintf("#!/bin/sh\nexec %s/pinned \"$1\" \"$2\" \"$3@v0.0.0=%s\"\n", bin, root)
	require.NoError(t, os.WriteFile(filepath.Join(bin, "xcaddy"), []byte(wrapper), 0o755))
	version := strings.TrimSpace(sh(t, root, "go", "list", "-m", "-f", "{{.Version}}", "github.com/caddyserver/caddy/v2"))
	require.Contains(t, text, "xcaddy build --with "+modulePath+"\n", "three words follow xcaddy")
	built := typed(t, t.TempDir(), text, append(toolchain(t), "CADDY_VERSION="+version, "PATH="+bin+":"+os.Getenv("PATH"))...).output()
	require.Regexp(t, `(?m)^mercadopago$`, built)
	require.Regexp(t, `(?m)^http\.handlers\.mercadopago$`, built)
}

func tryMakeKey(t *testing.T, r readme, text string) {
	key := strings.TrimSpace(typed(t, t.TempDir(), text).output())
	out, err := validate(t, r.block(t, "Ingress caddyfile"), "MP_CLIENT_ID="+clientID, "MP_CLIENT_SECRET="+clientSecret, "MP_ENCRYPTION_KEY="+key)
	require.NoError(t, err, out)
	out, err = validate(t, r.block(t, "Ingress caddyfile"), "MP_CLIENT_ID="+clientID, "MP_CLIENT_SECRET="+clientSecret, "MP_ENCRYPTION_KEY="+key[:9])
	require.Error(t, err, out)
}

// validate validates a Caddyfile to the letter.
func validate(t *testing.T, text string, env ...string) (string, error) {
	t.Helper()
	home := t.TempDir()
	c := &caddy{t: t, home: home, env: append(environment(home), env...)}
	file := filepath.Join(home, "Caddyfile")
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	formatted, err := c.run("fmt", file)
	require.NoError(t, err, formatted)
	require.Equal(t, text, formatted, "as `caddy fmt` writes it")
	return c.run("validate", "--config", file, "--adapter", "caddyfile")
}

func codeLines(text string) (lines int) {
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			lines++
		}
	}
	return lines
}

// global is the global block of the Caddyfile under Ingress, which other blocks
// leave out.
func (r readme) global(t *testing.T) string {
	t.Helper()
	before, _, found := strings.Cut(r.block(t, "Ingress caddyfile"), "\nshop.example.com")
	require.True(t, found)
	return before
}

// serve validates a Caddyfile of the README to the letter, and then runs it with
// the addresses of this platform in place of its own.
func (r readme) serve(t *testing.T, p *platform, text string, env ...string) *caddy {
	t.Helper()
	env = append(env, p.secrets()...)
	out, err := validate(t, text, env...)
	require.NoError(t, err, out)
	return newCaddy(t, p.values["ADMIN"], p.own(text), env...)
}

var clientSecretLine = regexp.MustCompile(`(?m)^\t+client_secret .*$`)

// own makes a Caddyfile of the README one that runs here, beside others.
func (p *platform) own(text string) string {
	const options = "{\n admin $ADMIN\n storage file_system $STORAGE\n auto_https off\n default_bind 127.0.0.1\n grace_period 2s\n"
	text = strings.Replace(text, "{\n", os.Expand(options, func(name string) string { return p.values[name] }), 1)
	if !strings.Contains(text, "endpoints {") {
		text = clientSecretLine.ReplaceAllString(text, "$0\n endpoints {\n authorize http://127.0.0.1:9100/authorization\n api http://127.0.0.1:9100\n }")
	}
	return p.here(text)
}

// here puts the platform's addresses in place of the README's.
func (p *platform) here(text string) string {
	return strings.NewReplacer(
		"https://shop.example.com", p.values["SHOP"], "shop.example.com", p.values["SHOP"], "http://localhost:8080", p.values["SHOP"],
		"http://127.0.0.1:9301", p.values["EGRESS"], "https://api.mercadopago.com", p.values["PROVIDER"], "http://127.0.0.1:9100", p.values["PROVIDER"],
		"localhost:3000", p.values["APP"], "localhost:9000", p.values["LOGIN"],
	).Replace(text)
}

func tryIngress(t *testing.T, r readme, text string) {
	require.LessOrEqual(t, codeLines(text), 12)
	p := newPlatform(t)
	r.serve(t, p, text)
	v := p.visitor()
	got := v.get(p.url("SHOP") + "/orders")
	require.Equal(t, p.url("SHOP")+"/connect?return_to=%2Forders", got.location())
	v.connect(aurora)
	require.Equal(t, "the app", v.get(p.url("SHOP")+"/orders").body)
	require.Equal(t, aurora.UserID, p.actsFor(p.app.received()[0]))
}

func tryEgress(t *testing.T, r readme, text string) {
	require.LessOrEqual(t, codeLines(text), 12)
	p := newPlatform(t)
	r.serve(t, p, r.block(t, "Ingress caddyfile")+"\n"+text)
	p.visitor().connect(rio)
	got := p.caller().me(id(rio))
	require.Equal(t, http.StatusOK, got.status, got.body)
	require.Contains(t, got.body, rio.Nickname)
	require.Equal(t, http.StatusForbidden, p.caller().me(id(aurora)).status)
}

func tryEgressCall(t *testing.T, r readme, text string) {
	p := newPlatform(t)
	r.serve(t, p, r.block(t, "Ingress caddyfile")+"\n"+r.block(t, "Egress caddyfile"))
	p.visitor().connect(aurora)
	require.Contains(t, typed(t, t.TempDir(), p.here(text)).output(), aurora.Nickname)
}

// serveSellers is seller mode; the login service says who comes.
func (r readme) serveSellers(t *testing.T, login string) *platform {
	t.Helper()
	p := newPlatform(t)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Seller", login) }))
	t.Cleanup(service.Close)
	p.values["LOGIN"] = service.URL
	r.serve(t, p, r.global(t)+"\n"+r.block(t, "Seller mode caddyfile"))
	return p
}

func trySellerMode(t *testing.T, r readme, text string) {
	require.LessOrEqual(t, codeLines(text), 12)
	p := r.serveSellers(t, "shop-42")
	v := p.visitor("X-Seller", "shop-666")
	got := v.finish(v.consent(v.begin(), porto))
	require.Contains(t, got.location(), "/connect/confirm?", "a page asks")
	require.Contains(t, v.get(v.absolute(got.location())).body, "shop-42")
	v.settle(got)
	v.get(p.url("SHOP") + "/")
	asked := p.app.received()[0]
	require.Equal(t, porto.UserID, p.actsFor(asked))
	require.Equal(t, []string{"shop-42"}, asked.Header["X-Seller"])
}

func tryProblem(t *testing.T, r readme, text string) {
	p := r.serveSellers(t, "shop-42")
	request, err := http.NewRequest(http.MethodGet, p.url("SHOP")+"/orders", nil)
	require.NoError(t, err)
	got := p.visitor().send(request)
	require.JSONEq(t, p.here(text), got.body)
	var document struct{ Status int }
	require.NoError(t, json.Unmarshal([]byte(text), &document))
	require.Equal(t, document.Status, got.status)
}

func tryApplications(t *testing.T, r readme, text string) {
	p := newPlatform(t)
	r.serve(t, p, text, "MP_AR_CLIENT_ID=111", "MP_AR_CLIENT_SECRET=canary-ar", "MP_AR_CLIENT_SECRET_OLD=canary-old",
		"MP_BR_CLIENT_ID=222", "MP_BR_CLIENT_SECRET=canary-br")
	for country, client := range map[string]string{"ar": "111", "br": "222"} {
		v := p.visitor()
		connect := p.url("SHOP") + "/" + country + "/connect"
		require.Equal(t, connect+"?return_to=%2F"+country+"%2Forders", v.get(p.url("SHOP")+"/"+country+"/orders").location())
		authorization, err := url.Parse(v.get(connect).location())
		require.NoError(t, err)
		require.Equal(t, client, authorization.Query().Get("client_id"))
		require.Equal(t, connect+"/callback", authorization.Query().Get("redirect_uri"))
	}
	require.Equal(t, "the app", p.visitor().get(p.url("SHOP")+"/elsewhere").body)
}

func tryWebhook(t *testing.T, r readme, text string) {
	p := newPlatform(t)
	r.serve(t, p, text, "MP_WEBHOOK_SECRET="+webhookSecret)
	require.True(t, p.provider.SetWebhook(clientID, p.url("SHOP")+"/webhooks/mercadopago", webhookSecret))
	unlinkEndsIt(t, p)
}

func trySandbox(t *testing.T, r readme, text string) {
	address := newAddress(t)
	s := typed(t, withCaddy(t), strings.TrimSpace(text)+" --listen "+address)
	control := s.says(`(http://\S+/_sandbox/)`)
	require.Equal(t, http.StatusOK, (&platform{t: t}).visitor().get(control).status)
	// What it says to write is what the README's Caddyfile has.
	_, advice, found := strings.Cut(s.said.String(), "write:\n")
	require.True(t, found)
	advice, _, _ = strings.Cut(advice, "Lifetimes")
	has := spaces(r.block(t, "Test your own app caddyfile"))
	for line := range strings.Lines(advice) {
		require.Contains(t, has, spaces(strings.ReplaceAll(line, address, "127.0.0.1:9100")))
	}
	s.interrupt()
}

func spaces(text string) string { return strings.Join(strings.Fields(text), " ") }

// openSandbox puts a sandbox in place of the platform's provider, as the command
// runs it.
func (p *platform) openSandbox() {
	p.provider = sandbox.New(sandbox.Options{AcceptAny: true})
	server := httptest.NewServer(p.provider)
	p.t.Cleanup(server.Close)
	p.values["PROVIDER"] = server.URL
}

func trySandboxed(t *testing.T, r readme, text string) {
	p := newPlatform(t)
	p.openSandbox()
	r.serve(t, p, text)
	v := p.visitor()
	v.connect(aurora)
	v.get(p.url("SHOP") + "/")
	require.Equal(t, aurora.UserID, p.actsFor(p.app.received()[0]))
}

func tryFaults(t *testing.T, r readme, text string) {
	p := newPlatform(t)
	p.openSandbox()
	r.serve(t, p, r.block(t, "Test your own app caddyfile"))
	v := p.visitor()
	v.connect(aurora)
	v.get(p.url("SHOP") + "/")
	before := p.app.received()[0]
	require.Equal(t, aurora.UserID, p.actsFor(before))

	state := typed(t, t.TempDir(), p.here(text)).output()
	require.Contains(t, state, `"access_token_life": "2m"`)
	require.Contains(t, state, aurora.Nickname)
	require.Len(t, p.provider.Faults(), 1)
	fault := p.provider.Faults()[0]
	require.Equal(t, sandbox.Fault{Kind: sandbox.Cut, Path: fault.Path, Grant: "refresh_token", After: true, Times: fault.Times}, fault)
	_, alive := p.provider.AccessTokenOf(strings.TrimPrefix(before.Header.Get("Authorization"), "Bearer "))
	require.False(t, alive, "the account was revoked")
}

func tryGo(t *testing.T, _ readme, text string) {
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	dir := t.TempDir()
	module, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	sums, err := os.ReadFile("go.sum")
	require.NoError(t, err)
	here := strings.NewReplacer("module "+modulePath+"/e2e", "module shop", "=> ..", "=> "+root).Replace(string(module))
	for name, content := range map[string]string{"go.mod": here, "go.sum": string(sums), "shop_test.go": text} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600))
	}
	require.Empty(t, sh(t, dir, "gofmt", "-l", "."), "as gofmt writes it")
	require.Contains(t, sh(t, dir, "go", "test", "-vet=off", "-v", "."), "--- PASS: TestNothingIsPaidWhileMercadoPagoIsDown")
}
