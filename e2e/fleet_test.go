package e2e

import (
	"context"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// short is a life that a test can wait out.
const short = 2 * time.Second

// expired is a platform whose seller's access token has just expired.
func expired(t *testing.T, sites string) (*platform, *caddy) {
	t.Helper()
	p := newPlatform(t)
	p.provider.SetAccessTokenLife(short)
	c := p.serve(sites)
	p.visitor().connect(aurora)
	p.expire(short)
	require.Zero(t, p.refreshes())
	return p, c
}

// callAtOnce lets callers ask at once whose the seller's token is.
func callAtOnce(t *testing.T, n int, callers ...*caller) []answer {
	t.Helper()
	answers := make([]answer, n)
	var done sync.WaitGroup
	for i := range n {
		done.Go(func() {
			answers[i] = callers[i%len(callers)].me(id(aurora))
		})
	}
	done.Wait()
	return answers
}

func requireAurora(t *testing.T, answers ...answer) {
	t.Helper()
	for _, got := range answers {
		require.Equal(t, http.StatusOK, got.status, got.body)
		require.Contains(t, got.body, id(aurora))
	}
}

// holdRefresh makes the provider hold back the next refresh until let is called.
// reached is closed when the provider has the request.
func (p *platform) holdRefresh() (reached <-chan struct{}, let func()) {
	arrived := make(chan struct{})
	ctx, let := context.WithCancel(p.t.Context())
	p.provider.Fault(sandbox.Fault{Kind: sandbox.Latency, Grant: "refresh_token", Wait: func(caller context.Context) {
		close(arrived)
		select {
		case <-ctx.Done():
		case <-caller.Done():
		}
	}})
	return arrived, let
}

func TestAHundredCallersAtExpiryCostOneTokenRequest(t *testing.T) {
	parallel(t)
	p, _ := expired(t, sessionSite+egressSite)
	requireAurora(t, callAtOnce(t, 100, p.caller())...)
	require.Equal(t, 1, p.refreshes())
	require.Zero(t, p.provider.Stats().RefreshReuse)
}

func TestTwoProcessesOnOneStorageFolderCostOneTokenRequest(t *testing.T) {
	parallel(t)
	p, _ := expired(t, sessionSite+egressSite)
	first := p.caller()
	p.values["ADMIN"], p.values["EGRESS"] = newAddress(t), "http://"+newAddress(t)
	p.serve(egressSite)
	second := p.caller()
	requireAurora(t, callAtOnce(t, 60, first, second)...)
	require.Equal(t, 1, p.refreshes())
	require.Zero(t, p.provider.Stats().RefreshReuse)
}

func TestACallerThatLeavesInMidRefreshCostsNothing(t *testing.T) {
	parallel(t)
	p, _ := expired(t, sessionSite+egressSite)
	reached, let := p.holdRefresh()
	caller := p.caller()
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() {
		_, err := caller.client.Do(caller.request(http.MethodGet, "/users/me", id(aurora), "").WithContext(ctx))
		left <- err
	}()
	<-reached
	leave()
	require.ErrorIs(t, <-left, context.Canceled)
	let()
	requireAurora(t, caller.me(id(aurora)))
	require.Equal(t, 1, p.refreshes())
	require.Zero(t, p.provider.Stats().RefreshReuse)
}

func TestAKillRightAfterARefreshLosesNobody(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	p.provider.SetAccessTokenLife(short)
	c := p.serve(sessionSite + egressSite)
	v := p.visitor()
	v.connect(aurora)
	p.expire(short)

	// The app is asked, so the refresh was answered; and before it answers in
	// turn, Caddy is gone.
	asked := make(chan struct{})
	p.app.answers(func(_ http.ResponseWriter, r *http.Request) {
		close(asked)
		<-r.Context().Done()
	})
	r, err := http.NewRequest(http.MethodGet, p.url("SHOP")+"/", nil)
	require.NoError(t, err)
	lost := make(chan error, 1)
	go func() {
		_, err := v.client.Do(r)
		lost <- err
	}()
	<-asked
	c.kill()
	require.Error(t, <-lost, "nobody is left to answer")
	require.Equal(t, 1, p.refreshes())

	p.app.answers(nil)
	p.app.received()
	c.start()
	require.Equal(t, http.StatusOK, v.get(p.url("SHOP")+"/").status)
	require.Equal(t, aurora.UserID, p.actsFor(p.app.received()[0]))
	requireAurora(t, p.caller().me(id(aurora)))
	require.Equal(t, 1, p.refreshes(), "the pair was on disk before anyone used it")
	require.Zero(t, p.provider.Stats().RefreshReuse)
}

func TestAFlowBegunBeforeARestartFinishesAfterIt(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	c := p.serve(sessionSite)
	v := p.visitor()
	authorization := v.begin()
	c.kill()
	callback := v.consent(authorization, aurora)
	c.start()
	v.settle(v.finish(callback))
	v.get(p.url("SHOP") + "/")
	require.Equal(t, aurora.UserID, p.actsFor(p.app.received()[0]))
}

func TestAFlowBegunBeforeAReloadFinishesAfterIt(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	c := p.serve(sessionSite)
	v := p.visitor()
	callback := v.consent(v.begin(), aurora)
	c.reload(p.caddyfile(strings.Replace(sessionSite, "mercadopago", "header X-Reloaded yes\n\tmercadopago", 1)))
	v.settle(v.finish(callback))
	got := v.get(p.url("SHOP") + "/")
	require.Equal(t, "yes", got.header.Get("X-Reloaded"))
	require.Equal(t, aurora.UserID, p.actsFor(p.app.received()[0]))
}
