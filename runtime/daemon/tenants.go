package daemon

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/identity"
	"golang.org/x/sync/errgroup"
)

// Several builds may use one node. A node lists those that are under way, by their ref; the
// refs of dbake show which belong to one run.

const (
	// refMark begins the refs of dbake, and the tag of the run follows. All in all a ref is as long as those
	// that BuildKit's client draws.
	refMark   = product
	tagLength = 8
	// tenantsTimeout bounds how long a node may take to list the builds under way.
	tenantsTimeout = 2 * time.Second
	// together is how far apart the builds of one client begin that are not of dbake:
	// docker buildx bake begins all of its targets at once, each with a ref of its own.
	together = time.Second
)

// newTag draws the tag of a run.
func newTag() string { return draw(tagLength) }

// draw returns the last n characters of a new id, which are random.
func draw(n int) string {
	id := identity.NewID()
	return id[len(id)-n:]
}

// newRef returns a ref for a build through l.
func (l *link) newRef() string {
	if l.tag == "" {
		return identity.NewID()
	}
	head := refMark + l.tag
	return head + draw(len(identity.NewID())-len(head))
}

// tagOf returns the tag of the run that a ref belongs to; "" when it is not of dbake.
func tagOf(ref string) string {
	rest, ok := strings.CutPrefix(ref, refMark)
	if !ok || len(rest) <= tagLength {
		return ""
	}
	return rest[:tagLength]
}

// Tenants returns, for every node in the order of All, how many others build there: runs of
// dbake, and other clients. It is 0 for a node that does not answer in time, or refuses.
func (p *Pool) Tenants(ctx context.Context) []int {
	nodes, _ := p.members()
	list := make([]int, len(nodes))
	var eg errgroup.Group
	for i, n := range nodes {
		eg.Go(func() error {
			if l, err := n.current(); err == nil {
				list[i], _ = l.tenants(ctx) // not to know is no failure
			}
			return nil
		})
	}
	_ = eg.Wait()
	return list
}

// tenants returns how many others build on the node.
func (l *link) tenants(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, tenantsTimeout)
	defer cancel()
	events, err := l.client.ControlClient().ListenBuildHistory(ctx, &controlapi.BuildHistoryRequest{ActiveOnly: true, EarlyExit: true})
	if err != nil {
		return 0, err
	}
	var records []*controlapi.BuildHistoryRecord
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return countTenants(records, l.tag), nil
		}
		if err != nil {
			return 0, err
		}
		// A daemon that does not know ActiveOnly lists what has ended, too.
		if r := event.GetRecord(); r != nil && event.Type == controlapi.BuildHistoryEventType_STARTED {
			records = append(records, r)
		}
	}
}

// countTenants counts those that builds under way belong to, but for the run with a tag:
// each other run of dbake, and of the rest those that began together.
func countTenants(records []*controlapi.BuildHistoryRecord, own string) int {
	runs := map[string]bool{}
	var begun []time.Time
	for _, r := range records {
		switch tag := tagOf(r.Ref); tag {
		case "":
			begun = append(begun, r.CreatedAt.AsTime())
		case own:
		default:
			runs[tag] = true
		}
	}
	slices.SortFunc(begun, time.Time.Compare)
	count := len(runs)
	for i, t := range begun {
		if i == 0 || t.Sub(begun[i-1]) > together {
			count++
		}
	}
	return count
}
