package e2e

import (
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// breakStore takes the storage folder away and puts a file in its place: nothing
// in it can be read or written then, not even by root, whom permissions do not
// stop.
func (p *platform) breakStore() {
	p.t.Helper()
	require.NoError(p.t, os.Rename(p.url("STORAGE"), p.url("STORAGE")+".away"))
	require.NoError(p.t, os.WriteFile(p.url("STORAGE"), []byte("a disk in trouble"), 0o600))
}

// mendStore puts a link to the folder in the place of the file in one step. Between
// two steps, caddy could create a folder there.
func (p *platform) mendStore() {
	p.t.Helper()
	link := p.url("STORAGE") + ".link"
	require.NoError(p.t, os.Symlink(p.url("STORAGE")+".away", link))
	require.NoError(p.t, os.Rename(link, p.url("STORAGE")))
}

func requireUnavailable(t *testing.T, got answer) {
	t.Helper()
	require.Equal(t, http.StatusServiceUnavailable, got.status, got.body)
	seconds, err := strconv.Atoi(got.header.Get("Retry-After"))
	require.NoError(t, err, "Retry-After: %q", got.header.Get("Retry-After"))
	require.Positive(t, seconds)
	require.Contains(t, got.body, "unavailable")
}

// alarms are the lines of a log with which an operator is called.
func alarms(c *caddy) []string {
	var lines []string
	for line := range strings.Lines(c.log.String()) {
		if strings.Contains(line, `"level":"error"`) && strings.Contains(line, `"logger":"mercadopago"`) {
			lines = append(lines, line)
		}
	}
	return lines
}

func TestAStoreInTroubleStopsNobodyWithAValidTokenAndLosesNobody(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	c := p.serve(sessionSite + egressSite)
	caller := p.caller()
	for _, account := range []sandbox.Account{aurora, porto} {
		p.visitor().connect(account)
		require.Equal(t, http.StatusOK, caller.me(id(account)).status)
	}
	p.provider.SetAccessTokenLife(short)
	visitor := p.visitor()
	visitor.connect(rio)
	begun := p.visitor()
	callback := begun.consent(begun.begin(), sandbox.DefaultAccounts()[3])
	p.expire(short)

	p.breakStore()
	requests := p.provider.Stats().TokenRequests
	requireUnavailable(t, caller.me("nobody-that-memory-knows"))
	requireUnavailable(t, caller.me(id(rio)))
	requireUnavailable(t, visitor.get(p.url("SHOP")+"/"))
	requireUnavailable(t, begun.finish(callback))
	require.Equal(t, requests, p.provider.Stats().TokenRequests, "what could not be saved is not asked for")
	requireAurora(t, caller.me(id(aurora)))
	require.NotEmpty(t, alarms(c))
	for _, alarm := range alarms(c) {
		require.Contains(t, alarm, p.url("STORAGE"), "where the trouble is")
		require.Contains(t, alarm, "Caddy's storage", "what to do about it")
	}
	p.mendStore()

	require.Equal(t, http.StatusForbidden, caller.me("nobody-that-memory-knows").status)
	await(t, "who waited for the store is served", func() bool { return caller.me(id(rio)).status == http.StatusOK })
	await(t, "the log tells that the store works again", func() bool { return strings.Contains(c.log.String(), `"msg":"recovered"`) })
	require.Equal(t, 1, p.refreshes())
	begun.settle(begun.finish(callback))
	for _, account := range sandbox.DefaultAccounts() {
		require.Equal(t, http.StatusOK, caller.me(id(account)).status)
	}
	require.Zero(t, p.provider.Stats().RefreshReuse)
}

func TestAPairThatCannotBeSavedOutlivesAKill(t *testing.T) {
	parallel(t)
	p, c := expired(t, sessionSite+egressSite)
	reached, let := p.holdRefresh()
	caller := p.caller()
	served := make(chan answer, 1)
	go func() { served <- caller.me(id(aurora)) }()
	<-reached
	p.breakStore()
	let()
	requireAurora(t, <-served)
	await(t, "the operator is told", func() bool { return len(alarms(c)) > 0 })
	requireAurora(t, caller.me(id(aurora)))

	c.kill()
	p.mendStore()
	c.start()
	requireAurora(t, caller.me(id(aurora)))
	require.Equal(t, 1, p.refreshes(), "the pair was found again, not asked for anew")
	require.Zero(t, p.provider.Stats().RefreshReuse)
}

func TestAStoreThatIsNotThereYetDoesNotStopTheStart(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	require.NoError(t, os.WriteFile(p.url("STORAGE"), nil, 0o600))
	c := p.serve(sessionSite + egressSite)
	requireUnavailable(t, p.caller().me(id(aurora)))
	require.NoError(t, os.Remove(p.url("STORAGE")))
	await(t, "the store is opened", func() bool {
		return p.caller().me(id(aurora)).status == http.StatusForbidden
	})
	p.visitor().connect(aurora)
	requireAurora(t, p.caller().me(id(aurora)))
	require.NotContains(t, c.log.String(), "panic")
}
