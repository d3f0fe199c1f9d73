package layout

import (
	"context"
	"slices"
	"sync"
)

// Locks serialise the exports of a run that write blobs into one directory: two that
// write the same blob would take each other's files away, and BuildKit's client gives up at
// once when it finds the index locked.
type Locks struct {
	mu   sync.Mutex
	held map[string]chan struct{} // by directory; full while it is held; guarded by mu
}

// Lock waits until all dirs are free, or ctx ends.
func (l *Locks) Lock(ctx context.Context, dirs []string) (unlock func(), err error) {
	dirs = slices.Compact(slices.Sorted(slices.Values(dirs))) // in one order, so that no two wait for each other
	var taken []chan struct{}
	unlock = func() {
		for _, c := range taken {
			<-c
		}
	}
	for _, dir := range dirs {
		l.mu.Lock()
		if l.held == nil {
			l.held = map[string]chan struct{}{}
		}
		c := l.held[dir]
		if c == nil {
			c = make(chan struct{}, 1)
			l.held[dir] = c
		}
		l.mu.Unlock()
		select {
		case c <- struct{}{}:
			taken = append(taken, c)
		case <-ctx.Done():
			unlock()
			return nil, context.Cause(ctx)
		}
	}
	return unlock, nil
}
