package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// languages in which people read our pages, as their browsers ask for them.
var languages = []string{"es-AR", "pt-BR", "en-US"}

// demo is `caddy mercadopago demo`, as a person runs it.
type demo struct {
	shop, egress, provider string
	dir                    string
	process                *exec.Cmd
	ended                  chan error
	said                   *transcript
}

var demoAddress = regexp.MustCompile(`Open\s+(http://\S+)`)

func runDemo(t *testing.T) *demo {
	t.Helper()
	home := t.TempDir()
	d := &demo{dir: filepath.Join(home, "demo"), said: new(transcript), ended: make(chan error, 1)}
	provider, egress := newAddress(t), newAddress(t)
	d.provider, d.egress = "http://"+provider, "http://"+egress
	d.process = exec.Command(binary(t), "mercadopago", "demo", "--dir", d.dir,
		"--shop", newAddress(t), "--egress", egress, "--sandbox", provider)
	d.process.Env, d.process.Dir = environment(home), home
	d.process.Stdout, d.process.Stderr = d.said, d.said
	require.NoError(t, d.process.Start())
	go func() { d.ended <- d.process.Wait() }()
	t.Cleanup(func() {
		_ = d.process.Process.Kill()
		if t.Failed() {
			t.Logf("the demo said:\n%s", d.said)
		}
	})
	await(t, "the demo tells where it is", func() bool {
		found := demoAddress.FindStringSubmatch(d.said.String())
		if found != nil {
			d.shop = found[1]
		}
		return found != nil
	})
	return d
}

// interrupt is Ctrl-C.
func (d *demo) interrupt(t *testing.T) {
	t.Helper()
	require.NoError(t, d.process.Process.Signal(syscall.SIGINT))
	require.NoError(t, <-d.ended)
	require.NotContains(t, d.said.String(), "DATA RACE")
	left, err := filepath.Glob(filepath.Join(d.dir, "storage-*"))
	require.NoError(t, err)
	require.Empty(t, left, "the demo leaves no tokens behind")
}

// agree chooses an account at the provider and allows what is asked.
func (b *browser) agree(provider string, account sandbox.Account) {
	b.t.Helper()
	radio := "#account-" + id(account)
	b.arrive(provider+"/authorization", `button[value=approve]`)
	if !b.has(radio) {
		// Logged in with another account: the provider does not ask by itself.
		b.click(`button[value=switch]`)
		b.arrive(provider+"/authorization", radio)
	}
	b.click(`label[for=account-` + id(account) + `]`)
	b.click(`button[value=approve]`)
}

// TestTheDemoIsWalkedInABrowser goes through the demo in one language, which TEST_SEED
// selects. With FAULTS=all, it goes through it in all languages.
func TestTheDemoIsWalkedInABrowser(t *testing.T) {
	t.Parallel()
	sample.Log(t)
	for i, language := range languages {
		if !inShare(len(languages), i) {
			continue
		}
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			takeTurn(t)
			d := runDemo(t)
			b := newBrowser(t, language, "demo-"+language[:2])
			login := d.connectFirst(t, b)
			d.pay(t, b, rio)
			d.switchAccount(t, b)
			require.Equal(t, login, b.text("#login"), "the shop's own login, SameSite=Strict, is still there")
			d.deny(t, b)
			d.disconnect(t, b)
			d.connectFromOutside(t, b)
			b.requireNoComplaint()
			d.interrupt(t)
		})
	}
}

func (d *demo) connectFirst(t *testing.T, b *browser) (login string) {
	t.Helper()
	b.open(d.shop)
	b.arrive(d.shop, "#connect")
	b.see("01-shop-not-connected")
	login = b.text("#login")
	require.NotEmpty(t, login)
	b.click("#connect")
	b.arrive(d.provider+"/authorization", `button[value=approve]`)
	b.see("02-consent")
	b.agree(d.provider, rio)
	b.arrive(d.shop+"/", "#nickname")
	require.Equal(t, d.shop+"/", b.address(), "code and state have left the address bar")
	require.Equal(t, rio.Nickname, b.text("#nickname"))
	require.Equal(t, login, b.text("#login"), "the shop's own login, SameSite=Strict, was there at the end")
	b.see("03-shop-connected")
	return login
}

func (d *demo) pay(t *testing.T, b *browser, payee sandbox.Account) {
	t.Helper()
	b.open(d.shop)
	b.arrive(d.shop, "#pay")
	b.click("#pay")
	b.arrive(d.shop+"/payments/", "#collector")
	require.Equal(t, id(payee), b.text("#collector"))
	require.Contains(t, b.text("#payee"), payee.Nickname)
	b.see("04-receipt-" + strconv.FormatInt(payee.UserID, 10))
}

// switchAccount connects another account: asked and refused, asked and accepted.
func (d *demo) switchAccount(t *testing.T, b *browser) {
	t.Helper()
	b.open(d.shop)
	b.arrive(d.shop, "#another")
	b.click("#another")
	b.agree(d.provider, aurora)
	b.arrive(d.shop+"/connect/confirm", `button[value=refuse]`)
	require.Contains(t, b.text("main"), rio.Nickname)
	require.Contains(t, b.text("main"), aurora.Nickname)
	b.see("05-switch")
	b.click(`button[value=refuse]`)
	b.arrive(d.shop+"/connect/finish", "body.kept")
	b.see("06-kept")
	b.click("a.go")
	b.arrive(d.shop+"/", "#nickname")
	require.Equal(t, rio.Nickname, b.text("#nickname"), "who was refused is paid nothing")

	b.click("#another")
	b.agree(d.provider, aurora)
	b.arrive(d.shop+"/connect/confirm", `button[value=connect]`)
	b.click(`button[value=connect]`)
	b.arrive(d.shop+"/", "#nickname")
	require.Equal(t, aurora.Nickname, b.text("#nickname"))
	d.pay(t, b, aurora)
}

func (d *demo) deny(t *testing.T, b *browser) {
	t.Helper()
	b.open(d.shop)
	b.arrive(d.shop, "#another")
	b.click("#another")
	b.arrive(d.provider+"/authorization", `button[value=deny]`)
	b.click(`button[value=deny]`)
	b.arrive(d.shop+"/connect/", "body.problem")
	require.Contains(t, b.text("main"), "denied")
	b.see("07-denied")
	b.open(d.shop)
	b.arrive(d.shop, "#nickname")
	require.Equal(t, aurora.Nickname, b.text("#nickname"), "a refusal changes nothing")
}

func (d *demo) disconnect(t *testing.T, b *browser) {
	t.Helper()
	b.click("#disconnect")
	b.arrive(d.shop+"/connect/disconnect", "button.danger")
	b.see("08-disconnect")
	b.click("button.danger")
	b.arrive(d.shop+"/connect/disconnect?done", "body.nothing")
	b.see("09-disconnected")
	b.open(d.shop)
	b.arrive(d.shop, "#connect")
}

// connectFromOutside begins with an address that somebody typed: that asks
// before it goes anywhere, and ends at a page of ours.
func (d *demo) connectFromOutside(t *testing.T, b *browser) {
	t.Helper()
	b.open(d.shop + "/connect")
	b.arrive(d.shop+"/connect", "body.start")
	b.see("10-start")
	b.click("button.go")
	b.agree(d.provider, porto)
	b.arrive(d.shop+"/connect/finish", "body.connected")
	require.Contains(t, b.text("main"), porto.Nickname)
	b.see("11-connected")
	do(b, "reloading", chromedp.Reload())
	b.arrive(d.shop+"/connect/finish", "body.connected")
	// Going back leads past the callback: there is no code to be used again.
	ask[any](b, "history.back()")
	b.arrive(d.provider+"/authorization", `button[value=approve]`)
	ask[any](b, "history.forward()")
	b.arrive(d.shop+"/connect/finish", "body.connected")
	b.open(d.shop + "/connect/callback?code=TG-made-up&state=made-up")
	b.arrive(d.shop+"/connect/callback", "body.problem")
	b.see("12-made-up-callback")
}

func TestTheDemoSaysWhatToTryAndLeavesNothingElsewhere(t *testing.T) {
	parallel(t)
	d := runDemo(t)
	for _, address := range []string{d.shop, d.egress, d.provider + "/_sandbox/"} {
		require.Contains(t, d.said.String(), address)
	}
	d.interrupt(t)
	home := filepath.Dir(d.dir)
	entries, err := os.ReadDir(home)
	require.NoError(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	require.Equal(t, []string{"demo"}, names, strings.Join(names, " "))
}
