package runtime

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/grpcerrors"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/codes"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/sched"
)

// A daemon reads the caches that a solve imports without a deadline, and looks a step
// up in them in the one goroutine that schedules all its builds: a registry that
// accepts connections and says nothing would stop the node, also for others, until
// its connections end (solver/llbsolver/bridge.go, newLazyCacheManager). So each
// registry is tried by each node before the first solve, and left out where it is
// silent; and each cache is read before it is imported, see [solver.read].

// reachTimeout bounds how long a registry may take to answer a node.
const reachTimeout = 10 * time.Second

// registryHost is the registry of a cache, "" when it is in none.
func registryHost(e ir.CacheEntry) string {
	if e.Type != cacheRegistry {
		return ""
	}
	ref, err := reference.ParseNormalizedNamed(e.Attrs["ref"])
	if err != nil {
		return "" // the node will refuse it
	}
	return reference.Domain(ref)
}

// cacheHost is what serves a cache: its registry, or the service that its type names.
func cacheHost(e ir.CacheEntry) string {
	if host := registryHost(e); host != "" {
		return host
	}
	return "for caches of type " + e.Type
}

// silentCaches are what serves caches and does not answer the node.
type silentCaches struct {
	mu   sync.Mutex
	list []string // as cacheHost names it; guarded by mu
}

// has reports whether where does not answer.
func (c *silentCaches) has(where string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.list, where)
}

// add notes that where does not answer. It reports whether that is new.
func (c *silentCaches) add(where string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if slices.Contains(c.list, where) {
		return false
	}
	c.list = append(c.list, where)
	return true
}

// leaveOut has the solves and exports of the node keep away from what does not answer.
func (s *solver) leaveOut(where string) {
	if s.silent.add(where) {
		s.unheard(where)
	}
}

// registries returns a ref in each registry that holds caches of the run.
func (r *run) registries() map[string]string {
	refs := map[string]string{}
	add := func(e ir.CacheEntry) {
		if host := registryHost(e); host != "" && refs[host] == "" {
			refs[host] = e.Attrs["ref"]
		}
	}
	for _, im := range r.caches.imports {
		add(im.Entry)
	}
	for _, j := range r.Jobs {
		for _, u := range j.Units {
			for _, e := range r.caches.byUnit[u.ID] {
				add(e)
			}
		}
	}
	if r.caches.shared {
		for _, store := range slices.Concat([]cachepolicy.Store{r.caches.input.Store}, r.caches.input.More) {
			add(store.Entry(store.Name + ":" + store.Prefix))
		}
	}
	return refs
}

// probe finds the registries that do not answer the node in time, and has its solves
// and exports keep away from them.
func (s *solver) probe(ctx context.Context, attach []session.Attachable, refs map[string]string) []string {
	hosts := s.link.silent(ctx, attach, refs)
	for _, h := range hosts {
		s.silent.add(h)
	}
	return hosts
}

// heard returns the caches that are served by something that answers, as far as is
// known.
func (s *solver) heard(entries []ir.CacheEntry) []ir.CacheEntry {
	return slices.DeleteFunc(slices.Clone(entries), func(e ir.CacheEntry) bool { return s.silent.has(cacheHost(e)) })
}

// writable leaves out the caches that are to be written into a silent registry and
// whose errors do not count; of others it is an error.
func (s *solver) writable(entries []bkclient.CacheOptionsEntry) ([]bkclient.CacheOptionsEntry, error) {
	if s.link != nil && s.link.info.OwnStore {
		var err error
		if entries, err = s.withoutCaches(entries); err != nil {
			return nil, err
		}
	}
	var kept []bkclient.CacheOptionsEntry
	for _, e := range entries {
		host := cacheHost(ir.CacheEntry{Type: e.Type, Attrs: e.Attrs})
		if !s.silent.has(host) {
			kept = append(kept, e)
			continue
		}
		if ignore, err := strconv.ParseBool(e.Attrs["ignore-error"]); err != nil || !ignore {
			return nil, &Rejected{fmt.Errorf("%s did not answer within %s", service(host), reachTimeout)}
		}
	}
	return kept, nil
}

// silent returns the registries that do not answer in time. An answer of any kind
// will do, also that there is no such image.
func (l *link) silent(ctx context.Context, attach []session.Attachable, refs map[string]string) []string {
	if len(refs) == 0 {
		return nil
	}
	var mu sync.Mutex // guards silent
	var silent []string
	_ = l.gateway(ctx, attach, func(ctx context.Context, c gateway.Client) error {
		ctx, cancel := context.WithTimeout(ctx, reachTimeout)
		defer cancel()
		var eg errgroup.Group
		for host, ref := range refs {
			eg.Go(func() error {
				_, err := c.ResolveSourceMetadata(ctx, &pb.SourceOp{Identifier: "docker-image://" + ref}, sourceresolver.Opt{
					LogName: "[internal] ask for " + ref, ImageOpt: &sourceresolver.ResolveImageOpt{},
				})
				// The node is told of the deadline and may report it before it is seen here.
				late := ctx.Err() != nil || grpcerrors.Code(err) == codes.DeadlineExceeded
				if err != nil && (late || containsAny(strings.ToLower(err.Error()), silenceSigns)) {
					mu.Lock()
					defer mu.Unlock()
					silent = append(silent, host)
				}
				return nil
			})
		}
		return eg.Wait()
	}) // where the node itself is silent, its link says so
	if ctx.Err() != nil {
		return nil
	}
	slices.Sort(silent)
	return silent
}

// reach tries the registries of caches from a node that was connected to.
func (r *run) reach(ctx context.Context, n *nodeRun, c *connection) {
	if c.probe == nil {
		return
	}
	for _, host := range c.probe(ctx) {
		r.messages <- silentMessage{node: n, host: host}
	}
}

// service names what serves caches, as cacheHost does, for people.
func service(where string) string {
	if strings.Contains(where, " ") {
		return "the service " + where
	}
	return "registry " + where
}

// silentMessage says that a registry of caches does not answer a node.
type silentMessage struct {
	node *nodeRun
	host string
}

func (m silentMessage) take(r *run) []sched.Event {
	text := fmt.Sprintf("%s did not answer within %s: the caches in it are not used", service(m.host), reachTimeout)
	r.observe(WaitEvent{At: r.since(), Node: m.node.info.Name, Text: text})
	r.caches.warn(text)
	if registryHost(r.exchange.registry()) == m.host {
		r.exchange.direct = true
	}
	return r.missed(m.node, func(e ir.CacheEntry) bool { return registryHost(e) == m.host })
}

// warn keeps a warning for the end of the run, unless it is known.
func (c *caches) warn(text string) {
	if !slices.Contains(c.warnings, text) {
		c.warnings = append(c.warnings, text)
	}
}

// importVertex starts the name of the vertex that reads a cache, in BuildKit's status.
const importVertex = "importing cache manifest from "

// noteImports warns of caches that a node cannot read. That there is none is as
// before the first build that writes it. What nodes have sent each other is sent again
// in another way.
func (r *run) noteImports(n *nodeRun, st *bkclient.SolveStatus) []sched.Event {
	var events []sched.Event
	for _, v := range st.Vertexes {
		ref, ok := strings.CutPrefix(v.Name, importVertex)
		if !ok || v.Error == "" || strings.Contains(v.Error, "context canceled") {
			continue
		}
		if missed := r.missed(n, func(e ir.CacheEntry) bool { return e.Attrs["ref"] == ref }); len(missed) > 0 {
			r.caches.warn(fmt.Sprintf("node %s cannot read what other nodes wrote to the cache registry; results go through this machine instead: %s", n.info.Name, v.Error))
			events = append(events, missed...)
			continue
		}
		if !strings.Contains(v.Error, ": not found") {
			r.caches.warn(fmt.Sprintf("cache %s cannot be read: %s", ref, v.Error))
		}
	}
	return events
}

// exportVertex starts the name of the vertex that writes a cache, in BuildKit's status.
const exportVertex = "exporting cache to "

// unwrittenCaches are the caches that a solve for an output of a job could not write.
type unwrittenCaches struct {
	from   *solveSource
	faults []string
}

// outputOf names an output of a job.
type outputOf struct {
	job    string
	number int
}

// noteExports keeps why caches that targets write themselves could not be written. With
// ignore-error=true their outputs succeed all the same, and nothing else reports it.
// Only the last try of an output counts.
func (r *run) noteExports(from *solveSource, st *bkclient.SolveStatus) {
	if from == nil || from.job == "" {
		return
	}
	key := outputOf{from.job, from.output}
	kept := r.caches.unwritten[key]
	if kept.from != from {
		kept = unwrittenCaches{from: from}
	}
	for _, v := range st.Vertexes {
		if where, ok := strings.CutPrefix(v.Name, exportVertex); ok && v.Error != "" {
			kept.faults = appendNew(kept.faults, fmt.Sprintf("the cache cannot be written to %s: %s", where, v.Error))
		}
	}
	if r.caches.unwritten == nil {
		r.caches.unwritten = map[outputOf]unwrittenCaches{}
	}
	r.caches.unwritten[key] = kept
}

// warnUnwritten warns of the caches that could not be written although their targets
// succeeded. Those of failed targets are in the errors of these.
func (r *run) warnUnwritten() {
	for i, j := range r.Jobs {
		if r.results[i].State != Done {
			continue
		}
		var faults []string
		for of, kept := range r.caches.unwritten {
			if of.job == j.Name {
				faults = append(faults, kept.faults...)
			}
		}
		slices.Sort(faults)
		for _, fault := range faults {
			r.caches.warn(fmt.Sprintf("target %s: %s", j.Target.Name, fault))
		}
	}
}
