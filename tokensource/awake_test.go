package tokensource

import (
	"slices"
	"sync"
	"testing"
	"time"
	"unique"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func newAwake() *awake {
	w := new(awake)
	w.begin()
	return w
}

func awakeSeller(application string, n int) *snapshot {
	name := sellerName(n)
	return &snapshot{Token: Token{application: unique.Make(application), names: name + "c", sellerEnds: uint16(len(name))}}
}

func TestEachSellerWhoIsAwakeIsFoundAndNobodyElse(t *testing.T) {
	var keys []key
	for n := range 100 {
		keys = append(keys, awakeSeller("", n).key(), awakeSeller("brasil", n).key())
	}
	rapid.Check(t, func(t *rapid.T) {
		w, model := newAwake(), map[key]*snapshot{}
		drawn := func(t *rapid.T) *snapshot {
			return awakeSeller(rapid.SampledFrom([]string{"", "brasil"}).Draw(t, "application"), rapid.IntRange(0, 99).Draw(t, "n"))
		}
		t.Repeat(map[string]func(*rapid.T){
			"put": func(t *rapid.T) {
				for range 10 {
					s := drawn(t)
					w.put(s)
					model[s.key()] = s
				}
			},
			"remove": func(t *rapid.T) {
				for range rapid.IntRange(1, 20).Draw(t, "how many") {
					k := drawn(t).key()
					w.remove(k)
					delete(model, k)
				}
			},
			"": func(t *rapid.T) {
				require.Equal(t, len(model), w.sellers)
				for s := range w.all() {
					if s != model[s.key()] {
						t.Fatalf("%v", s.key())
					}
				}
				require.Len(t, slices.Collect(w.all()), len(model))
				for _, k := range keys {
					if s, ok := w.get(k); s != model[k] || ok != (s != nil) {
						t.Fatalf("%v: %v, %v", k, s, ok)
					}
				}
			},
		})
	})
}

func TestTheTableOfThoseWhoAreAwakeShrinksWithThem(t *testing.T) {
	w := newAwake()
	for n := range 2000 {
		w.put(awakeSeller("", n))
	}
	for n := range 1999 {
		w.remove(awakeSeller("", n).key())
	}
	require.Len(t, *w.table.Load(), fewPlaces)
	_, ok := w.get(awakeSeller("", 1999).key())
	require.True(t, ok)
}

// Requests look without a lock while the table grows and shrinks.
func TestASellerWhoIsAwakeIsFoundWhoeverComesAndGoes(t *testing.T) {
	w, there := newAwake(), awakeSeller("", 0)
	w.put(there)
	var readers sync.WaitGroup
	done := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					s, _ := w.get(there.key())
					if !assert.Same(t, there, s) {
						return
					}
				}
			}
		})
	}
	for range 20 {
		for n := range 2000 {
			w.put(awakeSeller("", n+1))
		}
		for n := range 2000 {
			w.remove(awakeSeller("", n+1).key())
		}
	}
	close(done)
	readers.Wait()
}

func TestOfThoseWhoAreAwakeTheOnesGiveWayWhoWereNotReadForLong(t *testing.T) {
	w := newAwake()
	for n := range 1000 {
		s := awakeSeller("", n)
		s.validatedAt = moment(n) * moment(time.Second)
		w.put(s)
	}
	w.evict(500)
	require.Equal(t, 500, w.sellers)
	recent := 0
	for n := 900; n < 1000; n++ {
		if _, ok := w.get(awakeSeller("", n).key()); ok {
			recent++
		}
	}
	require.Greater(t, recent, 90, "of a hundred")
	w.evict(1000)
	require.Zero(t, w.sellers)
}

func TestNoMoreSellersAreAwakeThanThereMayBe(t *testing.T) {
	r := newRealm(NewManager(), 10)
	for n := range 30 {
		s := awakeSeller("", n)
		s.account = r.account(accountID(1))
		require.True(t, r.remember(s, 0))
	}
	require.Equal(t, 10, r.awake.sellers)
	r.resize(5)
	require.Equal(t, 5, r.awake.sellers)
}
