package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/gofrs/flock"

	"github.com/dbake/dbake/internal/localfile"
)

// state is the content of cluster.json. It is replaced as a whole, so that it can
// be read without the lock.
type state struct {
	Registry string      `json:"registry"`
	Nodes    []nodeState `json:"nodes"`
	Owner    *owner      `json:"owner,omitempty"` // nil = nobody runs the cluster
}

type nodeState struct {
	Name string `json:"name"`
	Addr string `json:"addr"` // host:port

	// PID and Started name the daemon's process while it runs; 0 = none. The start
	// time tells it from a later process with the same id.
	PID     int    `json:"pid,omitempty"`
	Started uint64 `json:"started,omitempty"`
}

type owner struct {
	PID      int    `json:"pid"`
	Started  uint64 `json:"started"`
	Detached bool   `json:"detached,omitempty"`
	Nodes    int    `json:"nodes"` // how many of the nodes it runs
}

func (n nodeState) node(stateDir string) Node {
	return Node{
		Name:    n.Name,
		Addr:    "tcp://" + n.Addr,
		LogFile: filepath.Join(nodeDir(stateDir, n.Name), "buildkitd.log"),
	}
}

func loadState(dir string) (*state, error) {
	st := &state{}
	b, err := os.ReadFile(filepath.Join(dir, "cluster.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return st, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read cluster state: %w", err)
	}
	if err := json.Unmarshal(b, st); err != nil {
		return nil, fmt.Errorf("read %s: %w (remove the file to start with new ports)", filepath.Join(dir, "cluster.json"), err)
	}
	return st, nil
}

func (st *state) save(dir string) error {
	b, err := json.MarshalIndent(st, "", "  ")
	if err != nil {
		return fmt.Errorf("save cluster state: %w", err)
	}
	if err := localfile.Replace(filepath.Join(dir, "cluster.json"), append(b, '\n'), 0o644); err != nil {
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
		if err != nil {
			if ok {
				lock.Unlock()
			}
			return nil, nil, err
		}
		if ok {
			return lock, st, nil
		}
		if st.Owner != nil && processAlive(st.Owner.PID, st.Owner.Started) {
			return nil, st, nil
		}
		select {
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("%w: %s is locked by another process: %w", ErrInUse, dir, context.Cause(ctx))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// reserve gives the registry and n nodes an address each, keeping those of earlier
// runs when they are free.
func (st *state) reserve(n int, notify func(string, ...any)) error {
	if st.Registry == "" || !portFree(st.Registry) {
		addr, err := freeAddr(st.taken())
		if err != nil {
			return err
		}
		if st.Registry != "" {
			notify("the registry's port changes: %s is taken, using %s (images keep the old name until they are built again)", st.Registry, addr)
		}
		st.Registry = addr
	}
	return st.reserveNodes(n, notify)
}

func (st *state) reserveNodes(n int, notify func(string, ...any)) error {
	for i := range n {
		if i == len(st.Nodes) {
			if err := st.addNode(); err != nil {
				return err
			}
			continue
		}
		node := &st.Nodes[i]
		// A daemon that outlived its owner still holds its port; it is ended
		// before the port is needed.
		if processAlive(node.PID, node.Started) || portFree(node.Addr) {
			continue
		}
		addr, err := freeAddr(st.taken())
		if err != nil {
			return err
		}
		notify("the port of node %s changes: %s is taken, using %s", node.Name, node.Addr, addr)
		node.Addr = addr
	}
	return nil
}

func (st *state) addNode() error {
	addr, err := freeAddr(st.taken())
	if err != nil {
		return err
	}
	st.Nodes = append(st.Nodes, nodeState{Name: "n" + strconv.Itoa(len(st.Nodes)+1), Addr: addr})
	return nil
}

func (st *state) taken() map[string]bool {
	taken := map[string]bool{st.Registry: true}
	for _, n := range st.Nodes {
		taken[n.Addr] = true
	}
	return taken
}

func portFree(addr string) bool {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	return l.Close() == nil
}

// freeAddr returns a free loopback address. It looks below the range from which
// systems give ports to outgoing connections, so that the port is likely to be
// free again in the next run; only when that fails it takes what the system gives.
func freeAddr(taken map[string]bool) (string, error) {
	for range 100 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(20000+rand.IntN(12000)))
		if !taken[addr] && portFree(addr) {
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

// clearLeftovers ends daemons whose owner died and removes what they left. The
// caller holds the lock.
func (st *state) clearLeftovers(ctx context.Context, dir string) error {
	for i := range st.Nodes {
		n := &st.Nodes[i]
		if n.PID != 0 {
			if err := endProcess(ctx, n.PID, n.Started, stopGrace); err != nil {
				return fmt.Errorf("end the leftover daemon of node %s: %w", n.Name, err)
			}
			n.PID, n.Started = 0, 0
		}
		if err := sweep(nodeDir(dir, n.Name)); err != nil {
			return fmt.Errorf("clear away what node %s left: %w", n.Name, err)
		}
	}
	st.Owner = nil
	return nil
}
