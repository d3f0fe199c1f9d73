package local

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"
)

const (
	// A daemon that fails is started again after minBackoff, then after twice that
	// and so on, up to maxBackoff. One that had run for steady begins anew.
	minBackoff = 500 * time.Millisecond
	maxBackoff = 30 * time.Second
	steady     = time.Minute
)

// keeper keeps one daemon running: it starts the daemon, and starts it again when it
// died.
type keeper struct {
	node     Node
	stateDir string
	conf     daemonConfig
	log      func(format string, args ...any)
	moved    func() // called, from the keeper's goroutine, when the daemon changed

	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended
	kick   chan struct{} // ends a backoff

	mu       sync.Mutex // guards what follows
	current  *daemon    // nil while it is to be started again
	ready    bool
	failures int
	err      error           // of the last failure
	notes    []string        // for the next user
	stopCtx  context.Context // that of stop
	stopErr  error           // valid once done is closed
	changed  chan struct{}   // closed and replaced with each change of ready or failures
}

// startKeeper returns at once; wait for the daemon with awaitReady.
func startKeeper(stateDir string, node Node, conf daemonConfig, log func(string, ...any), moved func()) *keeper {
	ctx, cancel := context.WithCancel(context.Background())
	k := &keeper{
		node: node, stateDir: stateDir, conf: conf, log: log, moved: moved,
		cancel: cancel, done: make(chan struct{}), kick: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	go func() {
		defer close(k.done)
		k.run(ctx)
	}()
	return k
}

func (k *keeper) run(ctx context.Context) {
	var backoff time.Duration
	store := &suspicion{root: filepath.Join(nodeDir(k.stateDir, k.node.Name), "root")}
	for {
		began := time.Now()
		again, err := k.serve(ctx, store)
		if ctx.Err() != nil {
			k.set(nil, false, ctx.Err())
			return
		}
		if again {
			k.log("%v\nstarting it again", err)
			k.set(nil, false, nil)
			continue
		}
		k.set(nil, false, err)
		k.moved()
		if time.Since(began) > steady {
			backoff = 0
		}
		k.log("%v\nstarting it again in %s", err, backoff)
		select {
		case <-time.After(backoff):
		case <-k.kick:
		case <-ctx.Done():
			return
		}
		backoff = min(max(2*backoff, minBackoff), maxBackoff)
	}
}

// serve starts the daemon and returns when it has ended. again is set when the store may
// be the cause, and the next start is to show it.
func (k *keeper) serve(ctx context.Context, store *suspicion) (again bool, err error) {
	if err := store.examine(); err != nil {
		return false, fmt.Errorf("start node %s: %w", k.node.Name, err)
	}
	d, err := startDaemon(k.stateDir, k.node, k.conf)
	if err != nil {
		return false, errors.Join(err, store.acquit())
	}
	k.set(d, false, nil)
	if err = d.awaitReady(ctx); err == nil {
		if cause, err := store.convict(); cause != "" || err != nil {
			k.note(cause, err)
		}
		k.set(d, true, nil)
		k.moved()
		select {
		case <-d.exited:
			err = d.err()
		case <-ctx.Done():
		}
	} else if d.endedItself() && store.aside == "" {
		again = store.blame(err)
	}
	stopCtx := ctx // what is left of a daemon that failed needs no grace
	k.mu.Lock()
	if k.stopCtx != nil {
		stopCtx = k.stopCtx
	}
	k.mu.Unlock()
	if stopErr := d.stop(stopCtx); stopErr != nil {
		k.mu.Lock()
		k.stopErr = stopErr
		k.mu.Unlock()
		k.log("%v", stopErr)
	}
	return again, errors.Join(err, store.acquit())
}

// note keeps for the next user that the node has lost what it had built, and err if some
// of it could not be removed.
func (k *keeper) note(cause string, err error) {
	text := fmt.Sprintf("node %s cannot read what it has built, and starts empty (%s)", k.node.Name, cause)
	if err != nil {
		text = fmt.Sprintf("%s: remove it: %v", text, err)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.notes = append(k.notes, text)
}

// takeNotes returns what the next user is to know.
func (k *keeper) takeNotes() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	notes := k.notes
	k.notes = nil
	return notes
}

// set notes the state of the daemon; err is that of a failure.
func (k *keeper) set(d *daemon, ready bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.current, k.ready = d, ready
	if err != nil {
		k.err = err
		k.failures++
	}
	close(k.changed)
	k.changed = make(chan struct{})
}

// awaitReady waits until the daemon answers, or fails from now on.
func (k *keeper) awaitReady(ctx context.Context) error {
	k.mu.Lock()
	before := k.failures
	if k.current == nil && before > 0 {
		select {
		case k.kick <- struct{}{}:
		default:
		}
	}
	for {
		ready, failures, err, changed := k.ready, k.failures, k.err, k.changed
		k.mu.Unlock()
		if ready {
			return nil
		}
		if failures > before {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		k.mu.Lock()
	}
}

// daemon returns the running daemon, or nil.
func (k *keeper) daemon() *daemon {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.current
}

// lastErr returns nil while the daemon answers, else its last failure.
func (k *keeper) lastErr() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ready {
		return nil
	}
	return k.err
}

// stop ends the daemon, with ctx done by force, and waits for its end.
func (k *keeper) stop(ctx context.Context) error {
	k.mu.Lock()
	k.stopCtx = ctx
	k.mu.Unlock()
	k.cancel()
	<-k.done
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.stopErr
}
