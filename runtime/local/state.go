package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"path/filepath"
	"strconv"
	"time"

	"github.com/gofrs/flock"

	"github.com/dbake/dbake/internal/localfile"
	"github.com/dbake/dbake/internal/pause"
)

// state is the content of cluster.json. It is replaced as a whole, so that it can
// be read without the lock.
type state struct {
	Registry string      `json:"registry"`
	Nodes    []nodeState `json:"nodes"`
	Owner    *owner      `json:"owner,omitempty"` // nil = nobody runs the cluster

	lost string // a line about the file that was replaced by this; "" = none
}

type nodeState struct {
	Name string `json:"name"`

	// PID and Started name the first process of the daemon's namespace while it
	// runs; 0 = none. The start time distinguishes it from a later process with the same id.
	PID     int    `json:"pid,omitempty"`
	Started uint64 `json:"started,omitempty"`

	// Daemon is the process id of buildkitd itself.
	Daemon int `json:"daemon,omitempty"`
}

// owner is the process that runs the daemons.
type owner struct {
	PID     int    `json:"pid"`
	Started uint64 `json:"started"`

	// Shared is set when it is a supervisor, which others can join.
	Shared bool `json:"shared,omitempty"`

	// Nodes is how many nodes run, or are to run.
	Nodes int `json:"nodes"`

	// Kept is how many nodes stay when nobody uses them; 0 = it ends with the last user.
	Kept int `json:"kept,omitempty"`
}

func nodeName(i int) string { return "n" + strconv.Itoa(i+1) }

// nodeOf returns the node with the given index. All of it follows from the state
// directory, so that it is known before it runs and stays the same.
func nodeOf(stateDir string, i int) Node {
	name := nodeName(i)
	return Node{
		Name:    name,
		Addr:    "unix://" + nodeSocket(stateDir, name),
		LogFile: filepath.Join(nodeDir(stateDir, name), "buildkitd.log"),
	}
}

// damageError is why a state file says nothing.
type damageError struct {
	path  string
	cause error
}

func (e *damageError) Error() string { return fmt.Sprintf("%s is damaged: %v", e.path, e.cause) }

func (e *damageError) Unwrap() error { return e.cause }

// maxState is how many bytes a state file may have.
const maxState = 1 << 20

// loadState returns the state of a directory. Its only error is a damageError, with an
// empty state.
func loadState(dir string) (*state, error) {
	path := filepath.Join(dir, "cluster.json")
	b, err := localfile.Read(path, maxState)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &state{}, nil
	case err != nil:
		return &state{}, &damageError{path, err}
	}
	st := &state{}
	if err := json.Unmarshal(b, st); err != nil {
		return &state{}, &damageError{path, err}
	}
	if err := st.check(); err != nil {
		return &state{}, &damageError{path, err}
	}
	return st, nil
}

// check returns what is wrong with a state that was read: its names become paths, and its
// registry is for this machine alone.
func (st *state) check() error {
	for i, n := range st.Nodes {
		if n.Name != nodeName(i) {
			return fmt.Errorf("node %d is named %q", i+1, n.Name)
		}
	}
	if host, _, err := net.SplitHostPort(st.Registry); st.Registry != "" && (err != nil || host != "127.0.0.1") {
		return fmt.Errorf("%q is no registry of this machine", st.Registry)
	}
	return nil
}

// readState is loadState for those who do not hold the lock: the supervisor, when one runs,
// writes a damaged file anew.
func readState(ctx context.Context, dir string) (*state, error) {
	st, err := loadState(dir)
	if err == nil {
		return st, nil
	}
	askToSave(ctx, dir)
	return loadState(dir)
}

func (st *state) save(dir string) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("save cluster state: %w", err)
	}
	if err := localfile.Replace(filepath.Join(dir, "cluster.json"), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("save cluster state: %w", err)
	}
	return nil
}

// lockOrOwner returns either the lock on a state directory, or nil and a state
// with the living owner that holds it. Others hold the lock for moments without
// becoming owners, which is why it tries more than once.
func lockOrOwner(ctx context.Context, dir string) (*flock.Flock, *state, error) {
	ctx, cancel := context.WithTimeout(ctx, stopGrace+5*time.Second)
	defer cancel()
	lock := flock.New(filepath.Join(dir, "cluster.lock"))
	for {
		ok, err := lock.TryLock()
		if err != nil {
			return nil, nil, fmt.Errorf("lock %s: %w", lock.Path(), err)
		}
		st, err := loadState(dir)
		switch {
		case ok && err != nil:
			if st, err = replaceDamaged(dir, err); err != nil {
				return nil, nil, errors.Join(err, lock.Unlock())
			}
		case err != nil:
			st, err = readState(ctx, dir)
		}
		if ok {
			return lock, st, nil
		}
		if st.alive() != nil {
			return nil, st, nil
		}
		if ended := pause.For(ctx, 20*time.Millisecond); ended != nil {
			return nil, nil, errors.Join(fmt.Errorf("%w: %s is locked by another process: %w", ErrInUse, dir, ended), err)
		}
	}
}

// reclaim ends and removes the leftovers of a crashed cluster in a state directory, and
// saves the state as change makes it. It returns the lock, which is held, or an error while
// a process runs the nodes.
func reclaim(ctx context.Context, dir string, change func(*state)) (*flock.Flock, error) {
	lock, st, err := lockOrOwner(ctx, dir)
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, inUse(dir, st.Owner)
	}
	if err = st.clearLeftovers(ctx, dir); err == nil {
		change(st)
		err = st.save(dir)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return lock, nil
}

// reserve gives the registry an address, that of earlier runs when it is free.
func (st *state) reserve(notify func(string, ...any)) error {
	if st.Registry != "" && portFree(st.Registry) {
		return nil
	}
	addr, err := freeAddr()
	if err != nil {
		return err
	}
	if st.Registry != "" {
		notify("the registry's port changes: %s is taken, using %s (images keep the old name until they are built again)", st.Registry, addr)
	}
	st.Registry = addr
	return nil
}

// alive returns the owner if it is still there, else nil.
func (st *state) alive() *owner {
	if st.Owner == nil || !processAlive(st.Owner.PID, st.Owner.Started) {
		return nil
	}
	return st.Owner
}

func portFree(addr string) bool {
	listeners, err := listenLoopback(addr)
	closeAll(listeners)
	return err == nil
}

// freeAddr returns a free loopback address. It looks below the range from which
// systems give ports to outgoing connections, so that the port is likely to be
// free again in the next run; only when that fails it takes what the system gives.
func freeAddr() (string, error) {
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(12000)))
		if portFree(addr) {
			return addr, nil
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	addr := l.Addr().String()
	return addr, l.Close()
}

// clearLeftovers ends daemons whose owner died and removes their files. The caller holds
// the lock.
func (st *state) clearLeftovers(ctx context.Context, dir string) error {
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.PID != 0 {
			if err := endProcess(ctx, n.PID, n.Started, stopGrace); err != nil {
				return fmt.Errorf("end the leftover daemon of node %s: %w", n.Name, err)
			}
			n.PID, n.Started, n.Daemon = 0, 0, 0
		}
		if err := sweep(dir, n.Name); err != nil {
			return fmt.Errorf("remove the leftovers of node %s: %w", n.Name, err)
		}
	}
	st.Owner = nil
	return nil
}
