package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// screenshots are kept for people to look at.
const screenshots = "../artifacts/screenshots"

// browser is a real one.
type browser struct {
	t        *testing.T
	ctx      context.Context
	language string
	folder   string // of its screenshots

	pages int // how many pages [browser.see] has checked

	mu         sync.Mutex
	complaints []string // of the browser, about what it was served
}

// newBrowser opens a window whose user prefers a language. It shares the process of
// the browser with other tests, but has its own cookies and cache. Its screenshots go
// to a folder of that name.
func newBrowser(t *testing.T, language, folder string) *browser {
	t.Helper()
	ctx, end := chromedp.NewContext(runningBrowser(t), chromedp.WithNewBrowserContext())
	t.Cleanup(end)
	b := &browser{t: t, ctx: ctx, language: language, folder: filepath.Join(screenshots, folder)}
	require.NoError(t, os.MkdirAll(b.folder, 0o755))
	require.NoError(t, chromedp.Listen(ctx, b.hear), "opening the browser")
	agent := ask[string](b, "navigator.userAgent")
	require.NotEmpty(t, agent)
	_, err := chromedp.Call(ctx, emulation.SetUserAgentOverride, emulation.SetUserAgentOverrideParams{UserAgent: agent, AcceptLanguage: language})
	require.NoError(t, err)
	return b
}

// theBrowser is the process that all tests share: to start one takes longer than most
// tests.
var theBrowser struct {
	sync.Once
	ctx    context.Context
	end    func()
	failed error
}

func runningBrowser(t *testing.T) context.Context {
	t.Helper()
	path := chromium(t)
	theBrowser.Do(func() { theBrowser.ctx, theBrowser.end, theBrowser.failed = startBrowser(path) })
	require.NoError(t, theBrowser.failed, "starting the browser")
	return theBrowser.ctx
}

func endBrowser() {
	if theBrowser.end != nil {
		theBrowser.end()
	}
}

func startBrowser(path string) (ctx context.Context, end func(), err error) {
	profile, err := os.MkdirTemp("", "caddy-mercadopago-browser-")
	if err != nil {
		return nil, nil, err
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.UserDataDir(profile), chromedp.Flag("no-proxy-server", true),
		chromedp.Flag("hide-scrollbars", true), chromedp.WindowSize(1280, 900),
		// Going back asks the server again, as on a browser that is short of memory.
		chromedp.Flag("disable-features", "Translate,BackForwardCache"),
		// By default each site of each test gets a renderer process, which doubles the
		// time that the tests take. Cookies are separate with one process too.
		chromedp.Flag("renderer-process-limit", "1"), chromedp.Flag("disable-site-isolation-trials", true), chromedp.Flag("in-process-gpu", true),
		// No test opens a page that is not its own, and root has no other way.
		chromedp.NoSandbox,
	)
	allocator, endAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, close := chromedp.NewContext(allocator)
	end = func() {
		close()
		endAllocator()
		_ = os.RemoveAll(profile)
	}
	return ctx, end, chromedp.Do(ctx)
}

// chromium finds the browser. `make test` installs one where there is none.
func chromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{
		"headless_shell", "headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable",
		"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
	} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Fatal("Chromium is not on this machine: run `make test`, which installs it where it can")
	return ""
}

// hear keeps what the browser complains of: broken policies, scripts that were
// refused, errors. That a page has the status of a problem is none.
func (b *browser) hear(event any) {
	complaint := ""
	switch event := event.(type) {
	case *cdplog.EventEntryAdded:
		if event.Entry.Level == cdplog.EntryLevelError && event.Entry.Source != cdplog.EntrySourceNetwork {
			complaint = event.Entry.Text
		}
	case *runtime.EventExceptionThrown:
		complaint = event.ExceptionDetails.Text
	}
	if complaint == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, complaint)
}

func (b *browser) requireNoComplaint() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.complaints, "what the browser complained of")
}

// do acts in the browser, and returns what came of it.
func do[T any](b *browser, what string, action chromedp.Action[T]) T {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	result, err := chromedp.Run(ctx, action)
	if err != nil {
		b.t.Fatalf("%s: %v\nat %s:\n%s", what, err, b.address(), b.text("body"))
	}
	return result
}

func (b *browser) open(address string) {
	b.t.Helper()
	do(b, "opening "+address, chromedp.Navigate(address))
}

func (b *browser) click(selector string) {
	b.t.Helper()
	do(b, "clicking "+selector, chromedp.Click(chromedp.CSS(selector)))
}

// ask evaluates an expression, in whatever page is there: none is an answer too.
func ask[T any](b *browser, expression string) T {
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	value, _ := chromedp.Run(ctx, chromedp.Evaluate[T](expression))
	return value
}

// address is where the browser is.
func (b *browser) address() string { return ask[string](b, "location.href") }

// text is what an element says, or "" where there is none.
func (b *browser) text(selector string) string {
	return strings.TrimSpace(ask[string](b,
		fmt.Sprintf(`document.readyState == "complete" && document.querySelector(%q)?.innerText || ""`, selector)))
}

// has tells whether the page is complete and has an element.
func (b *browser) has(selector string) bool {
	return ask[bool](b, fmt.Sprintf(`document.readyState == "complete" && document.querySelector(%q) != null`, selector))
}

// arrive waits until a page of ours, or of the provider, is there: one with the
// element, at an address that begins so.
func (b *browser) arrive(address, selector string) {
	b.t.Helper()
	await(b.t, "the browser is at "+address+" with "+selector, func() bool {
		return strings.HasPrefix(b.address(), address) && b.has(selector)
	})
	require.Equal(b.t, b.language[:2], ask[string](b, "document.documentElement.lang.slice(0, 2)"), "the language of %s", b.address())
}

// view is how somebody looks at a page.
type view struct {
	name          string
	width, height int64
	phone, dark   bool
}

var views = []view{
	{"phone-light", 390, 844, true, false},
	{"phone-dark", 390, 844, true, true},
	{"desktop-light", 1280, 900, false, false},
	{"desktop-dark", 1280, 900, false, true},
}

// see checks that a page is readable on a phone or a desktop, light or dark, and saves
// a screenshot. TEST_SEED selects the view, a different one for each page. With
// FAULTS=all, every page is checked in all views.
func (b *browser) see(name string) {
	b.t.Helper()
	b.pages++
	for i, v := range views {
		if !inShare(len(views), i+b.pages+slices.Index(languages, b.language)) {
			continue
		}
		b.look(v)
		picture := do(b, "taking a picture", chromedp.FullScreenshot(100))
		require.NoError(b.t, os.WriteFile(filepath.Join(b.folder, name+"-"+v.name+".png"), picture, 0o644))
		require.Empty(b.t, ask[[]string](b, faintTexts), "text without contrast on %s, %s", name, v.name)
		require.False(b.t, ask[bool](b, `document.documentElement.scrollWidth > innerWidth`),
			"%s must be scrolled sideways on a %s", name, v.name)
	}
	b.look(views[2])
}

func (b *browser) look(v view) {
	b.t.Helper()
	scheme := "light"
	if v.dark {
		scheme = "dark"
	}
	_, err := chromedp.Call(b.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: v.width, Height: v.height, DeviceScaleFactor: 1, Mobile: v.phone,
	})
	require.NoError(b.t, err)
	_, err = chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{
			{Name: "prefers-color-scheme", Value: scheme},
			{Name: "prefers-reduced-motion", Value: "reduce"}, // no picture of a colour on its way
		},
	})
	require.NoError(b.t, err)
}

// faintTexts lists what is written with less contrast than WCAG AA asks for.
const faintTexts = `(() => {
	const rgb = text => (text.match(/[\d.]+/g) || []).map(Number)
	const light = ([r, g, b]) => [r, g, b].map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
		.reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0)
	const behind = element => {
		for (let e = element; e; e = e.parentElement) {
			const color = rgb(getComputedStyle(e).backgroundColor)
			if (color.length == 3 || color[3] == 1) return color
			if (getComputedStyle(e).backgroundImage != "none") return null
		}
		return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255]
	}
	const faint = []
	for (const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT); walker.nextNode();) {
		const element = walker.currentNode.parentElement, style = getComputedStyle(element)
		const box = element.getBoundingClientRect()
		if (!walker.currentNode.data.trim() || box.width < 2 || style.visibility == "hidden" || element.closest("[disabled], [aria-hidden=true], svg, style")) continue
		const under = behind(element)
		if (!under) continue
		const [a, b] = [light(rgb(style.color)), light(under)]
		const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05)
		const large = parseFloat(style.fontSize) >= 24 || parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 700
		if (ratio < (large ? 3 : 4.5)) faint.push(walker.currentNode.data.trim() + ": " + ratio.toFixed(2))
	}
	return faint
})()`
