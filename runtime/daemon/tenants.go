package daemon

import (
	"context"
	"slices"
	"strings"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/identity"
)

// Several builds may use one node. A node lists those that are under way, by their ref; the
// refs of dbake show which belong to one run.

const (
	// refMark begins the refs of dbake, and the tag of the run follows. All in all a ref is
	// as long as those that BuildKit's client draws.
	refMark   = product
	tagLength = 8
	// tenantsTimeout bounds how long a node may take to list the builds under way.
	tenantsTimeout = 2 * time.Second
	// together is how far apart the builds of one client begin that are not of dbake:
	// docker buildx bake begins all of its targets at once, each with a ref of its own.
	together = time.Second
)

// newTag draws the tag of a run. The last characters of an id are random.
func newTag() string {
	id := identity.NewID()
	return id[len(id)-tagLength:]
}

// newRef returns a ref for a build through l.
func (l *link) newRef() string {
	id := identity.NewID()
	if l.tag == "" {
		return id
	}
	head := refMark + l.tag
	return head + id[len(head):]
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
	return answers(p, func(l *link) int {
		tenants, _ := l.tenants(ctx) // unknown is no failure
		return tenants
	})
}

// tenants returns how many others build on the node.
func (l *link) tenants(ctx context.Context) (int, error) {
	ctx, cancel := context.WithTimeout(ctx, tenantsTimeout)
	defer cancel()
	var records []*controlapi.BuildHistoryRecord
	err := l.history(ctx, &controlapi.BuildHistoryRequest{ActiveOnly: true}, func(event *controlapi.BuildHistoryEvent) {
		// A daemon that does not know ActiveOnly lists what has ended, too.
		if r := event.GetRecord(); r != nil && event.Type == controlapi.BuildHistoryEventType_STARTED {
			records = append(records, r)
		}
	})
	if err != nil {
		return 0, err
	}
	return countTenants(records, l.tag), nil
}

// countTenants counts the others to whom builds under way belong: each run of dbake but the one
// with the tag own, and of the rest those that began together.
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
