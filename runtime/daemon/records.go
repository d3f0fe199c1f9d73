package daemon

import (
	"context"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/apicaps"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/runtime/nodeset"
)

const (
	// recordsTimeout bounds how long a node may take to say what it keeps. It does
	// so in milliseconds unless it has yet to measure results that are new.
	recordsTimeout = 2 * time.Second
	// askTimeout bounds how long a plan waits for a node.
	askTimeout = 3 * time.Second
)

// Records asks every node for the results it keeps, in the order of All. They are nil for a
// node that does not answer in time.
func (p *Pool) Records(ctx context.Context) []warm.Records {
	return p.RecordsOf(ctx, func(NodeInfo) bool { return true })
}

// RecordsOf is Records for some of the nodes. Those of the others are nil.
func (p *Pool) RecordsOf(ctx context.Context, wanted func(NodeInfo) bool) []warm.Records {
	return answers(p, func(l *link) warm.Records {
		if !wanted(l.info) {
			return nil
		}
		records, _ := l.records(ctx) // unknown is no failure
		return records
	})
}

// records returns the results and the cache mounts that the node keeps; not nil without an
// error.
func (l *link) records(ctx context.Context) (warm.Records, error) {
	ctx, cancel := context.WithTimeout(ctx, recordsTimeout)
	defer cancel()
	usage, err := l.client.DiskUsage(ctx, bkclient.WithFilter([]string{"type==" + string(bkclient.UsageRecordTypeRegular), "type==" + string(bkclient.UsageRecordTypeCacheMount)}))
	if err != nil {
		return nil, err
	}
	var list []warm.Record
	for _, u := range usage {
		list = append(list, warm.Record{Text: u.Description, Made: u.CreatedAt, Bytes: u.Size})
	}
	return warm.NewRecords(list), nil
}

// Answer is a node's answer when a plan is made.
type Answer struct {
	Info    NodeInfo
	Caps    *apicaps.CapSet // the LLB that it supports; nil when it did not say
	Records warm.Records    // the results it keeps; nil when it did not say
	Tenants int             // how many others build there
	Err     error           // a [*NodeError] when the node cannot be asked
}

// Ask asks the nodes that can be reached at once for their capabilities and results, each
// answer in the place of its node.
func Ask(ctx context.Context, specs []nodeset.Spec) []Answer {
	answers := make([]Answer, len(specs))
	var eg errgroup.Group
	for i, s := range specs {
		eg.Go(func() error {
			n := &node{spec: s, timeout: askTimeout, changed: make(chan struct{})}
			l, info, err := n.dial(ctx, false)
			if err != nil {
				answers[i].Err = &NodeError{Node: s.Name, Addr: s.Addr, Op: "cannot be reached", Err: err}
				return nil
			}
			answers[i].Info = info
			answers[i].Records, _ = l.records(ctx) // unknown is no failure
			answers[i].Tenants, _ = l.tenants(ctx)
			answers[i].Caps = l.sayCaps(ctx)
			l.close()
			return nil
		})
	}
	_ = eg.Wait()
	allotIn(answers, func(a *Answer) *NodeInfo { return &a.Info })
	return answers
}
