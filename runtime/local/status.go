package local

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client"
	"golang.org/x/sync/errgroup"
)

// Status is the state of a cluster as seen from outside.
type Status struct {
	StateDir string
	Running  bool // somebody runs it; the daemons may be dead all the same
	Kept     int  // how many nodes stay when nobody uses them; 0 = it ends with its last user
	PID      int  // of whoever runs it; 0 = nobody
	Registry RegistryStatus
	Nodes    []NodeStatus // in order of their names
}

// RegistryStatus is the registry's part of a Status.
type RegistryStatus struct {
	Addr  string // host:port; "" = no cluster was ever started here
	Alive bool
}

// NodeStatus is one daemon's part of a Status.
type NodeStatus struct {
	Node
	PID       int
	Alive     bool
	Problem   string   // why Alive is false
	Version   string   // of buildkitd
	Platforms []string // the native one first
	CacheSize int64    // bytes in the node's build cache
}

// ReadStatus looks at the cluster of a state directory ("" = [DefaultStateDir]).
func ReadStatus(ctx context.Context, dir string) (*Status, error) {
	dir, err := stateDir(dir)
	if err != nil {
		return nil, err
	}
	st, err := readState(ctx, dir)
	if err != nil {
		return nil, err
	}
	s := &Status{StateDir: dir, Registry: RegistryStatus{Addr: st.Registry}}
	if by := st.alive(); by != nil {
		s.Running, s.Kept, s.PID = true, by.Kept, by.PID
		s.Registry.Alive = pingRegistry(ctx, st.Registry) == nil
	}
	s.Nodes = []NodeStatus{}
	var eg errgroup.Group
	nodes := st.Nodes
	if s.Running {
		nodes = nodes[:min(st.Owner.Nodes, len(nodes))] // others are of an earlier, larger cluster
	}
	for i, n := range nodes {
		s.Nodes = append(s.Nodes, NodeStatus{Node: nodeOf(dir, i), PID: n.Daemon, Problem: "not running"})
	}
	for i := range s.Nodes {
		if s.Running {
			eg.Go(func() error {
				s.Nodes[i].look(ctx)
				return nil
			})
		}
	}
	return s, errors.Join(eg.Wait(), ctx.Err())
}

// look asks the daemon for facts that only it knows.
func (n *NodeStatus) look(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	workers, err := listWorkers(ctx, n.Addr)
	if err != nil {
		n.Problem = err.Error()
		return
	}
	n.Version = workers[0].BuildkitVersion.Version
	for _, p := range workers[0].Platforms {
		n.Platforms = append(n.Platforms, platforms.Format(p))
	}
	c, err := client.New(ctx, n.Addr)
	if err != nil {
		n.Problem = err.Error()
		return
	}
	defer c.Close()
	usage, err := c.DiskUsage(ctx)
	if err != nil {
		n.Problem = err.Error()
		return
	}
	for _, u := range usage {
		n.CacheSize += u.Size
	}
	n.Alive, n.Problem = true, ""
}
