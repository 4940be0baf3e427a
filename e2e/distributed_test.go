//go:build linux

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/internal/sample"
)

const (
	// cutFor is how long an instance is cut off: shorter than a token request may
	// take, so that an answer that is sent into the dark arrives in the end, when
	// TCP sends it again.
	cutFor = 5 * time.Second
	// settles is how long an instance leaves a pair alone that another one may have
	// posted: what a token request may take, and to save what it brings.
	settles = deadline + 10*time.Second
	// soon is when a disconnect must be honoured by every instance that listens, and
	// memoryLasts by one that does not. The former takes milliseconds, but may take
	// seconds on a busy machine.
	soon        = 10 * time.Second
	memoryLasts = 30 * time.Second
)

// TestThreeInstancesOnOneDatabaseKeepTheirPromisesThroughEverything runs three
// instances on machines of their own under load, cuts one off, kills one, reloads
// one, makes one deaf, restarts the database, and tells what happened when.
// SELLERS sets how many there are (1000).
func TestThreeInstancesOnOneDatabaseKeepTheirPromisesThroughEverything(t *testing.T) {
	t.Parallel()
	if !inOwnNetwork(t) {
		return
	}
	sellers := sellersOrdered(t)
	w := newDistributedWorld(t, sellers)
	w.tell("%d sellers, three instances, one database; %d tokens come due in the next %v, %d have ended", sellers, sellers/8, rush, sellers/20)
	a, b, c := w.instances[0], w.instances[1], w.instances[2]
	stop := w.load()
	w.quiet(3 * time.Second)

	w.disconnectWhileAllListen()
	deaf := w.disconnectWhileOneIsDeaf(a, c)
	unheard, mended := w.cutOff(b)
	w.reload(a)
	w.reunite(b, unheard, mended)
	w.kill(c)
	w.hear(a, deaf)
	w.restart("restarts", w.server.Stop)
	w.restart("is killed, and starts again", w.server.Crash)
	w.aside.Go(func() { w.listens(a) })
	w.quiet(3 * time.Second)
	stop()
	w.tell("the load ends; the reckoning begins")
	w.audit()
	w.aside.Wait()
	report := w.report()
	w.mu.Lock()
	requests := w.requests()
	w.mu.Unlock()
	sample.Searched(t, int64(requests), "requests to three instances")
	fmt.Print("\n" + report)
	folder := filepath.Join("..", "artifacts")
	require.NoError(t, os.MkdirAll(folder, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(folder, "distributed.txt"), []byte(w.said.String()+"\n"+report), 0o600))
}

// quiet lets the load go on.
func (w *distributedWorld) quiet(d time.Duration) { pause(w.t.Context(), d) }

// posts asks an instance for sellers whose tokens have ended, and waits until their
// refreshes are at the provider, which holds all of that instance back.
func (w *distributedWorld) posts(i *instance, sellers ...*shop) (g *barrier, asked *sync.WaitGroup) {
	g, asked = w.observed.hold(i.name), new(sync.WaitGroup)
	// What was answered before is to be saved: an answer on its way dies with whom it
	// goes to, and nobody can prevent that.
	w.atOnce(w.observed.givenTo(i.name), func(_ int, s *shop) error { return w.saved(s) })
	for _, s := range sellers {
		asked.Go(func() { _ = w.ask(i.beside, s, false) })
		await(w.t, "the refresh of "+s.name+" is at the provider", func() bool { return w.observed.holds(g, s) })
	}
	return g, asked
}

// kill kills an instance while a refresh of it is at the provider, and starts it
// again.
func (w *distributedWorld) kill(i *instance) {
	lost := w.shops[orphaned]
	g, asked := w.posts(i, lost)
	i.kill()
	asked.Wait()
	w.observed.open(i.name)
	w.tell("%s is killed while %d refreshes are at the provider, that of %s among them; none is carried out", i.name, len(w.observed.heldAt(g)), lost.name)
	w.strands(g, i)
	w.aside.Go(func() { w.rescues(w.instances[0], lost) })
	i.launch()
	i.serves()
	w.tell("%s is back", i.name)
}

// strands asks the other instances for all whose refreshes nobody will answer. From
// here on they wait until they may ask the provider again.
func (w *distributedWorld) strands(g *barrier, i *instance) {
	for _, other := range w.instances {
		if other == i {
			continue
		}
		w.aside.Go(func() {
			var mu sync.Mutex
			answers := make(map[string]int)
			w.atOnce(w.observed.heldAt(g), func(_ int, s *shop) error {
				kind := w.ask(other.beside, s, false)
				mu.Lock()
				defer mu.Unlock()
				answers[kind]++
				return nil
			})
			w.tell("%s was asked for those of %s, and did not ask the provider again: %s", other.name, i.name, countsOf(answers))
		})
	}
}

// rescues waits until an instance serves a seller whose refresh died with another.
func (w *distributedWorld) rescues(i *instance, s *shop) {
	died := time.Now()
	if err := w.comesTo(i, s, gotServed, settles+patience); err != nil {
		w.fail("%s: %v", s.name, err)
		return
	}
	w.tell("%s serves %s again, %v after its refresh died: the provider was asked anew", i.name, s.name, time.Since(died).Round(time.Second))
}

// disconnectWhileAllListen disconnects sellers, each by another instance.
func (w *distributedWorld) disconnectWhileAllListen() {
	var all []*parting
	w.acquaint(w.shops[listenerUp : listenerUp+partings])
	for n := range partings {
		i := w.instances[n%len(w.instances)]
		p := w.part(i, w.shops[listenerUp+n], 20*time.Millisecond, 0)
		w.tell("%s is disconnected by %s: %s", p.shop.name, i.name, lateness(p.honoured(p.answered)))
		all = append(all, p)
	}
	delays := w.note("listener up", all, func(p *parting) time.Time { return p.answered })
	if slices.Max(delays) > soon {
		w.fail("disconnects were honoured everywhere after %v", delays)
	}
}

// disconnectWhileOneIsDeaf keeps an instance from listening, and has sellers
// disconnected by another. The first half of them are asked for all the time, the
// others not before memory has ended.
func (w *distributedWorld) disconnectWhileOneIsDeaf(deaf, by *instance) (all []*parting) {
	w.deafener.deafen(true)
	await(w.t, deaf.name+" does not listen any more", func() bool { return strings.Contains(deaf.log.String(), `"msg":"not_listening"`) })
	w.tell("%s does not hear of changes any more: what listens is cut", deaf.name)
	w.acquaint(w.shops[listenerDown : listenerDown+partings])
	all = w.partAll(by, w.shops[listenerDown:listenerDown+partings], true)
	w.tell("%d sellers are disconnected by %s", len(all), by.name)
	return all
}

// hear waits until a deaf instance honours the disconnects, and lets it listen.
func (w *distributedWorld) hear(deaf *instance, all []*parting) {
	delays := w.note("listener down", all, func(p *parting) time.Time { return p.answered })
	slices.Sort(delays)
	slowest := delays[len(delays)-1]
	w.tell("%s honours them all; the last request that was served was sent %v after the disconnect", deaf.name, slowest.Round(time.Millisecond))
	if slowest > memoryLasts*4/3 || delays[len(delays)-3] > memoryLasts {
		w.fail("without a listener disconnects were honoured after %v", delays)
	}
	// Of those above one or two may be late where the machine stood still while they
	// were read again. Who had rested is refused at once.
	for _, p := range all {
		if idle := p.last[deaf.name]; p.idle > 0 && idle.After(p.answered) {
			w.fail("%s served %s though memory had ended", deaf.name, p.shop.name)
		}
	}
	w.deafener.mu.Lock()
	tries := w.deafener.deafening
	w.deafener.mu.Unlock()
	w.deafener.deafen(false)
	w.tell("who listens is let through; %s had tried %d times", deaf.name, tries)
}

// listens waits until an instance that was deaf hears again.
func (w *distributedWorld) listens(i *instance) {
	for patient := time.Now().Add(patience); time.Now().Before(patient); pause(w.t.Context(), 50*time.Millisecond) {
		log := i.log.String()
		if strings.LastIndex(log, `"msg":"listening"`) > strings.LastIndex(log, `"msg":"not_listening"`) {
			w.tell("%s listens", i.name)
			return
		}
	}
	w.fail("%s never listened again", i.name)
}

// cutOff cuts an instance off from everybody while refreshes of it are at the
// provider. It serves on for who is beside it.
func (w *distributedWorld) cutOff(i *instance) (unheard []*parting, mended time.Time) {
	dark, taken := w.shops[inTheDark], w.shops[neverTaken]
	warm := w.warm(i)
	w.acquaint(w.shops[whileCut : whileCut+partings])
	g, asked := w.posts(i, taken, dark)
	require.NoError(w.t, i.cut())
	cut := time.Now()
	w.tell("%s is cut off while %d refreshes are at the provider, those of %s and %s among them", i.name, len(w.observed.heldAt(g)), dark.name, taken.name)
	w.observed.let(g, dark)
	await(w.t, "the provider has answered", func() bool { return w.observed.livingOf(dark).to == i.name })
	w.tell("the provider carries out the refresh of %s, and answers into the dark; the others it does not", dark.name)
	w.strands(g, i)
	w.aside.Go(func() { w.rescues(w.instances[0], taken) })
	behind := make(chan []*parting, 1)
	go func() { behind <- w.disconnectBehindItsBack(i) }()
	// It is asked from beside it: nobody else reaches it.
	kept := 0
	for time.Since(cut) < cutFor || kept == 0 && time.Since(cut) < 2*cutFor {
		s := warm[w.random.n(len(warm))]
		kind := w.ask(i.beside, s, false)
		w.count(i.name+", cut off", kind, s)
		if kind == gotServed {
			kept++
		}
		pause(w.t.Context(), w.random.upTo(50*time.Millisecond))
	}
	require.NoError(w.t, i.mend())
	mended = time.Now()
	w.observed.open(i.name)
	w.tell("%s is back on the net; cut off it served %d requests from memory", i.name, kept)
	if kept == 0 {
		w.fail("%s served nobody while it was cut off", i.name)
	}
	w.aside.Go(asked.Wait)
	return <-behind, mended
}

// reunite waits until an instance that is back on the net knows what it missed, and
// has saved what it was given in the dark.
func (w *distributedWorld) reunite(i *instance, unheard []*parting, mended time.Time) {
	delays := w.note("cut off", unheard, func(*parting) time.Time { return mended })
	w.tell("%s honours what was disconnected meanwhile; the last request that was served was sent %v later", i.name, slices.Max(delays).Round(time.Millisecond))
	if slices.Max(delays) > memoryLasts {
		w.fail("an instance that was cut off honoured disconnects %v after it was back", delays)
	}
	dark := w.shops[inTheDark]
	if err := w.saved(dark); err != nil {
		w.fail("%s: %v", dark.name, err)
	}
	w.tell("%s has saved the answer that was sent into the dark: nobody asked again", i.name)
}

// warm are sellers that an instance has in memory, with tokens that live long.
func (w *distributedWorld) warm(i *instance) (shops []*shop) {
	for n := crowdFrom + 2; n < len(w.shops) && len(shops) < 40; n += 40 {
		shops = append(shops, w.shops[n])
	}
	w.meets(i, shops)
	return shops
}

// disconnectBehindItsBack disconnects sellers of which an instance that is cut off
// cannot hear.
func (w *distributedWorld) disconnectBehindItsBack(cut *instance) (all []*parting) {
	by := w.instances[len(w.instances)-1]
	all = w.partAll(by, w.shops[whileCut:whileCut+partings], false)
	w.tell("%d sellers are disconnected by %s, of which %s cannot hear", len(all), by.name, cut.name)
	return all
}

// reload loads a changed configuration into an instance, through its admin
// endpoint.
func (w *distributedWorld) reload(i *instance) {
	i.values["RELEASE"] = "second"
	request, err := http.NewRequest(http.MethodPost, "http://"+i.admin+"/load", strings.NewReader(i.caddyfile()))
	require.NoError(w.t, err)
	request.Header.Set("Content-Type", "text/caddyfile")
	got, err := receive(&http.Client{Timeout: patience}, request)
	require.NoError(w.t, err)
	require.Equal(w.t, http.StatusOK, got.status, got.body)
	request, err = http.NewRequest(http.MethodGet, distributedShop+"/connect/disconnect", nil)
	require.NoError(w.t, err)
	got, err = receive(i.outside, request)
	require.NoError(w.t, err)
	require.Equal(w.t, "second", got.header.Get("X-Release"))
	w.tell("%s serves another configuration", i.name)
}

// restart stops the database, and starts it again.
func (w *distributedWorld) restart(what string, stop func() error) {
	warm, i := w.shops[crowdFrom+2], w.instances[1]
	require.NoError(w.t, stop())
	kind := w.ask(i.beside, warm, false)
	if kind != gotServed {
		w.fail("%s answered %q for a seller in memory while the database was away", i.name, kind)
	}
	require.NoError(w.t, w.server.Start())
	w.tell("the database %s; %s is served meanwhile", what, warm.name)
}
