package daemon

import (
	"context"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/runtime/nodeset"
)

// Inspection is a node's answer to an inspection.
type Inspection struct {
	Info NodeInfo
	// Took is how long it took to answer, from the dial on.
	Took time.Duration
	// Disk is the size of its results in bytes, and InUse the part of it that cannot be
	// thrown away now; DiskMost is how much it may keep, 0 when there is no limit. Known is
	// false when it did not answer in time.
	Disk, InUse, DiskMost int64
	Known                 bool
	// Tenants is how many others build there: runs of dbake, and other clients.
	Tenants int
	// Err is a [*NodeError] when the node cannot be asked.
	Err error
}

// Inspect looks at the nodes that can be reached at once, each answer in the place of
// its node.
func Inspect(ctx context.Context, specs []nodeset.Spec) []Inspection {
	list := make([]Inspection, len(specs))
	var eg errgroup.Group
	for i, s := range specs {
		eg.Go(func() error {
			list[i] = inspect(ctx, s)
			return nil
		})
	}
	_ = eg.Wait()
	allotIn(list, func(x *Inspection) *NodeInfo { return &x.Info })
	return list
}

func inspect(ctx context.Context, s nodeset.Spec) (x Inspection) {
	n := &node{spec: s, timeout: askTimeout, changed: make(chan struct{})}
	start := time.Now()
	l, info, err := n.dial(ctx, false)
	if err != nil {
		x.Info.Spec = s
		x.Err = &NodeError{Node: s.Name, Addr: s.Addr, Op: "cannot be reached", Err: err}
		return x
	}
	defer l.close()
	x.Info, x.Took = info, time.Since(start)
	x.Tenants, _ = l.tenants(ctx) // unknown is no failure
	ctx, cancel := context.WithTimeout(ctx, recordsTimeout)
	defer cancel()
	usage, err := l.client.DiskUsage(ctx)
	if err != nil {
		return x // unknown is no failure
	}
	x.Known = true
	for _, u := range usage {
		if u.Shared {
			continue // counted where it belongs
		}
		x.Disk += u.Size
		if u.InUse {
			x.InUse += u.Size
		}
	}
	workers, err := l.client.ListWorkers(ctx)
	if err != nil || len(workers) == 0 {
		return x
	}
	x.DiskMost = mostKept(workers[0].GCPolicy)
	return x
}

// mostKept is the least limit of the rules that apply to all results, 0 for no limit.
func mostKept(rules []bkclient.PruneInfo) int64 {
	var most int64
	for _, r := range rules {
		if len(r.Filter) == 0 && r.MaxUsedSpace > 0 && (most == 0 || r.MaxUsedSpace < most) {
			most = r.MaxUsedSpace
		}
	}
	return most
}
