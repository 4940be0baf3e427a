// Package turns lets the goroutines of one process take turns, by name.
package turns

import (
	"context"
	"sync"
)

// Turns is one mutex per name, kept only while somebody has it or waits. The zero
// Turns is ready for use.
type Turns[K comparable] struct {
	mu     sync.Mutex
	byName map[K]*turn
}

type turn struct {
	inside chan struct{}
	users  int
}

// Enter waits until nobody is inside or ctx is done.
func (t *Turns[K]) Enter(ctx context.Context, name K) (leave func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	at := t.join(name)
	select {
	case at.inside <- struct{}{}:
	case <-ctx.Done():
		t.part(name, at)
		return nil, ctx.Err()
	}
	return func() {
		<-at.inside
		t.part(name, at)
	}, nil
}

func (t *Turns[K]) join(name K) *turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	at := t.byName[name]
	if at == nil {
		if t.byName == nil {
			t.byName = make(map[K]*turn)
		}
		at = &turn{inside: make(chan struct{}, 1)}
		t.byName[name] = at
	}
	at.users++
	return at
}

func (t *Turns[K]) part(name K, at *turn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	at.users--
	if at.users == 0 {
		delete(t.byName, name)
	}
}
