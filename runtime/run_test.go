package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	bkerrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/pause"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/output"
	"github.com/dbake/dbake/runtime/sched"
	"github.com/dbake/dbake/runtime/watchdog"
)

// base is what all jobs of a test start from: an image and a step on it.
func base(t testing.TB) llb.State {
	t.Helper()
	return llb.Image("docker.io/library/base@" + digest.FromString("base").String()).Run(llb.Shlex("shared")).Root()
}

// newUnit compiles a unit that ends in one step for each command.
func newUnit(t testing.TB, target *ir.Target, commands ...string) *frontend.Unit {
	t.Helper()
	st := base(t)
	for _, c := range commands {
		st = st.Run(llb.Shlex(c)).Root()
	}
	def, err := st.Marshal(t.Context())
	require.NoError(t, err)
	return &frontend.Unit{ID: ir.UnitID(target.Name), Target: target, Definition: def.ToPB(), Config: []byte("{}")}
}

// newBuild is a build of one job for each target, job i planned for node i%nodes in
// a partition of its own. Every step takes a second.
func newBuild(t testing.TB, nodes int, names ...string) *Build {
	t.Helper()
	return newBuildOf(t, nodes, func(target *ir.Target) []string {
		return []string{target.Name + " first", target.Name + " second"}
	}, names...)
}

// newBuildOf is newBuild with other commands for each target.
func newBuildOf(t testing.TB, nodes int, commands func(*ir.Target) []string, names ...string) *Build {
	t.Helper()
	return newBuildFrom(t, nodes, func(target *ir.Target) *frontend.Unit {
		return newUnit(t, target, commands(target)...)
	}, names...)
}

// newBuildFrom is newBuild with other units.
func newBuildFrom(t testing.TB, nodes int, unit func(*ir.Target) *frontend.Unit, names ...string) *Build {
	t.Helper()
	b := &Build{Dir: t.TempDir(), Stdout: io.Discard}
	var units []llbmerge.Unit
	for _, name := range names {
		target := &ir.Target{Name: name, Tags: []string{"example.com/" + name}, Outputs: []ir.Output{{Type: "registry", Attrs: map[string]string{}}}}
		u := unit(target)
		b.Jobs = append(b.Jobs, plan.Job{Name: name, Target: target, Units: []*frontend.Unit{u}})
		units = append(units, llbmerge.Unit{ID: name, Definition: u.Definition})
	}
	var err error
	b.Graph, err = llbmerge.Merge(units)
	require.NoError(t, err)
	index := map[digest.Digest]sched.VertexID{}
	for i, v := range b.Graph.Vertices {
		index[v.Digest] = sched.VertexID(i)
		sv := sched.Vertex{}
		if v.Kind.IsStep() {
			sv.Cost = time.Second
		}
		for _, in := range v.Inputs {
			sv.Inputs = append(sv.Inputs, index[in])
		}
		b.Sched.Vertices = append(b.Sched.Vertices, sv)
	}
	b.Sched.Plan = make([][]sched.Partition, nodes)
	b.Sched.Network.Latency = time.Hour
	for n := range nodes {
		b.Sched.Nodes = append(b.Sched.Nodes, sched.Node{Name: fmt.Sprintf("n%d", n+1)})
	}
	for i, name := range names {
		root, ok := b.Graph.Root(name)
		require.True(t, ok)
		b.Sched.Units = append(b.Sched.Units, sched.Unit{Name: name, Root: index[root.Digest]})
		b.Sched.Plan[i%nodes] = append(b.Sched.Plan[i%nodes], sched.Partition{sched.UnitID(i)})
	}
	return b
}

// fleet are fake nodes that take the time of a test's bubble.
type fleet struct {
	tags  *fakeTags
	t     *testing.T
	graph *llbmerge.Graph
	nodes []*fakeNode
	// platforms are those of all nodes.
	platforms []ocispecs.Platform
}

func newFleet(t *testing.T, b *Build) *fleet {
	f := &fleet{t: t, graph: b.Graph}
	var handed sync.Map
	for range b.Sched.Nodes {
		f.nodes = append(f.nodes, &fakeNode{
			graph: b.Graph, took: time.Second, dead: make(chan struct{}), mute: make(chan struct{}), id: "id",
			held: map[digest.Digest]bool{}, active: map[digest.Digest]chan struct{}{}, ran: map[string]int{}, fails: map[string]error{},
			exportFails: map[string][]error{}, t: t, handed: &handed,
		})
	}
	return f
}

// run carries b out on the fleet.
func (f *fleet) run(ctx context.Context, b *Build) (*Result, []Event, error) {
	f.t.Helper()
	var infos []daemon.NodeInfo
	for i, n := range f.nodes {
		infos = append(infos, daemon.NodeInfo{Spec: nodeset.Spec{Name: fmt.Sprintf("n%d", i+1)}, ID: n.id, Platforms: f.platforms})
	}
	for i, n := range b.Sched.Nodes {
		infos[i].Name = n.Name
	}
	var events []Event
	r, err := newRun(b, infos, func(e Event) { events = append(events, e) })
	require.NoError(f.t, err)
	if f.tags == nil {
		// Whatever a tag stands for is right.
		f.tags = &fakeTags{tags: map[string]string{}}
		for _, j := range b.Jobs {
			for _, tag := range j.Target.Tags {
				f.tags.tags[tag+":latest"] = digest.FromString(tag + ":latest").String()
			}
		}
	}
	r.exports.tags = func([]string) tagStore { return f.tags }
	for i, a := range r.attendants {
		a.expect(a.timeout, f.nodes[i].absent)
		if a.absent != nil {
			a.node.info.ID = ""
		}
	}
	res, err := r.run(ctx, f.connect(r))
	for i, n := range f.nodes {
		require.Zero(f.t, n.running, "calls of node %d", i+1)
	}
	return res, events, err
}

// connect connects to the fakes, with a watch as over a real connection.
func (f *fleet) connect(r *run) connectFunc {
	return func(ctx context.Context, a *attendant) (*daemon.Connection, error) {
		nr := a.node
		n := f.nodes[nr.id]
		for {
			err := n.ping(ctx)
			if err == nil {
				break
			}
			if pause.For(ctx, 50*time.Millisecond) != nil {
				return nil, err
			}
		}
		if n.unfit != nil {
			return nil, n.unfit
		}
		ended, fail := context.WithCancelCause(context.Background())
		n.mu.Lock()
		n.ended = ended
		n.connections++
		n.sent = &nr.sent
		info := daemon.NodeInfo{Spec: nr.info.Spec, ID: n.id, Native: n.native}
		dead := n.dead
		n.mu.Unlock()
		var heard atomic.Int64
		var watching sync.WaitGroup
		watching.Go(func() {
			select {
			case <-dead:
				fail(errGone)
			case <-ended.Done():
			}
		})
		watching.Go(func() {
			watchdog.Watch{
				Timeout: a.timeout, Received: heard.Load, Fail: fail,
				Silent: func(d time.Duration) { r.workers.silent(nr, d) },
				Probe: func(ctx context.Context) {
					if n.ping(ctx) == nil {
						heard.Add(1)
					}
				},
			}.Run(ended)
		})
		return &daemon.Connection{Daemon: n, Witness: witness{n}, Info: info, Ended: ended, HangUp: fail, Stop: func() {
			fail(errClosed)
			watching.Wait()
		}}, nil
	}
}

// exports counts over all nodes how often an image was exported.
func (f *fleet) exports() map[string]int {
	count := map[string]int{}
	for _, n := range f.nodes {
		for _, name := range n.exported {
			count[name]++
		}
	}
	return count
}

// fakeNode runs steps one after the other by waiting. It stands beside package simnode,
// which serves BuildKit's protocol: there a connection fails, and what the run sees of it
// follows. Here a test decides what the run sees, call by call, also what the client of a
// real node makes of nothing yet, and a failure points at the run and not at the client.
type fakeNode struct {
	graph *llbmerge.Graph
	took  time.Duration
	fails map[string]error // by command
	// absent is why it did not answer before the run; unfit why it never can be used.
	absent, unfit error
	native        ocispecs.Platform
	// exportFails are the errors of an image's exports, one each.
	exportFails map[string][]error
	cacheFails  error
	cacheTakes  time.Duration // 0 = 1 s
	// unread are paths that cannot be read when directories are sent, by source.
	unread map[string][]string
	t      *testing.T
	// late is how much later than it answers it says that steps have ended.
	late   time.Duration
	handed *sync.Map // roots of caches that were transferred, by manifest digest; one for all nodes

	mu          sync.Mutex
	dead        chan struct{} // closed when the machine is gone
	mute        chan struct{} // closed when it says nothing any more
	ended       context.Context
	id          string
	connections int
	sent        *daemon.Transfers
	running     int // calls
	held        map[digest.Digest]bool
	active      map[digest.Digest]chan struct{}
	ran         map[string]int // by command
	exported    []string
	imports     []int // by solve of a partition
	caches      []string
	// tries are the registries of caches that do not answer it; nil is none.
	tries func(ctx context.Context, probes map[string]string) []string
	// unreadable says how many of a chain of results it can read; nil is all.
	unreadable func(chain []*pb.Definition) int
	unsaid     []*bkclient.SolveStatus
}

// witness is what a fake can be asked.
type witness struct{ node *fakeNode }

func (witness) LeaveOut(string) bool                          { return true }
func (witness) Drains(context.Context) (bool, error)          { return false, nil }
func (witness) Records(context.Context) (warm.Records, error) { return nil, nil }
func (witness) Tenants(context.Context) (int, error)          { return 0, nil }

func (w witness) Silent(ctx context.Context, probes map[string]string) []string {
	if w.node.tries == nil {
		return nil
	}
	return w.node.tries(ctx, probes)
}

func (w witness) Unreadable(_ context.Context, chain []*pb.Definition, _ []ir.CacheEntry, _ func(*bkclient.SolveStatus)) int {
	if w.node.unreadable == nil {
		return len(chain)
	}
	return w.node.unreadable(chain)
}

var (
	errGone   = status.Error(codes.Unavailable, "connection refused")
	errClosed = errors.New("the connection was closed")
)

func (n *fakeNode) enter() func() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.running++
	return func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.running--
	}
}

// cut has the connection break; the machine goes on.
func (n *fakeNode) cut() {
	n.mu.Lock()
	defer n.mu.Unlock()
	close(n.dead)
	n.dead = make(chan struct{})
}

// restart brings a machine back that was gone or silent.
func (n *fakeNode) restart() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead, n.mute = make(chan struct{}), make(chan struct{})
}

func (n *fakeNode) lines() (dead, mute chan struct{}, ended context.Context) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ended = n.ended
	if ended == nil {
		ended = context.Background()
	}
	return n.dead, n.mute, ended
}

// lag is how long a call to a node that says nothing goes on when its context has
// ended, as the status stream of a real one does.
const lag = 5 * time.Second

// hang is a call to a node that says nothing.
func (n *fakeNode) hang(ctx, ended context.Context) error {
	select {
	case <-ended.Done():
		return context.Cause(ended)
	case <-ctx.Done():
	}
	select {
	case <-ended.Done():
	case <-time.After(lag):
	}
	return context.Cause(ctx)
}

// until waits for done.
func (n *fakeNode) until(ctx context.Context, done <-chan struct{}) error {
	dead, mute, ended := n.lines()
	select {
	case <-mute:
		return n.hang(ctx, ended)
	default:
	}
	select {
	case <-dead:
		<-ended.Done() // reading fails before calls do
		return errGone
	case <-mute:
		return n.hang(ctx, ended)
	case <-ended.Done():
		return context.Cause(ended)
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-done:
		return nil
	}
}

func (n *fakeNode) wait(ctx context.Context, d time.Duration) error {
	done := make(chan struct{})
	timer := time.AfterFunc(d, func() { close(done) })
	defer timer.Stop()
	return n.until(ctx, done)
}

func (n *fakeNode) Pull(context.Context, string, *ocispecs.Platform) error { return nil }

func (n *fakeNode) ping(ctx context.Context) error {
	dead, mute, _ := n.lines()
	select {
	case <-dead:
		return errGone
	case <-mute:
		<-ctx.Done()
		return context.Cause(ctx)
	default:
		return nil
	}
}

// End is slow when the node says nothing, as letting go of a build is.
func (n *fakeNode) End() {
	_, mute, ended := n.lines()
	select {
	case <-mute:
		<-ended.Done()
	default:
	}
}

func (n *fakeNode) Evaluate(ctx context.Context, p daemon.Partition, observe func(*bkclient.SolveStatus), evaluated func(), release <-chan struct{}) error {
	defer n.enter()()
	n.mu.Lock()
	n.imports = append(n.imports, len(p.Imports))
	for _, e := range p.Imports {
		d := importedDigest(e)
		if d == "" {
			continue // a cache of an earlier build
		}
		root, ok := n.handed.Load(d)
		require.True(n.t, ok, "import of what was not written: %v", e)
		n.held[root.(digest.Digest)] = true
	}
	n.mu.Unlock()
	for _, def := range p.Single {
		if err := n.solve(ctx, rootOf(n.graph, def), observe); err != nil {
			return err
		}
	}
	evaluated()
	if n.late > 0 {
		err := n.wait(ctx, n.late)
		n.mu.Lock()
		unsaid := n.unsaid
		n.unsaid = nil
		n.mu.Unlock()
		for _, st := range unsaid {
			observe(st)
		}
		if err != nil {
			return err
		}
	}
	return n.until(ctx, release)
}

// importedDigest is the digest by which an import names a cache.
func importedDigest(e ir.CacheEntry) string {
	if e.Type == ir.TypeLocal {
		return e.Attrs["digest"]
	}
	_, d, _ := strings.Cut(e.Attrs["ref"], "@")
	return d
}

// rootOf returns the vertex that a definition of one result is about.
func rootOf(g *llbmerge.Graph, def *pb.Definition) *llbmerge.Vertex {
	v, _ := g.Vertex(digest.FromBytes(def.Def[len(def.Def)-2]))
	return v
}

// solve runs what v needs and the node does not hold.
func (n *fakeNode) solve(ctx context.Context, v *llbmerge.Vertex, observe func(*bkclient.SolveStatus)) error {
	n.mu.Lock()
	held := n.held[v.Digest]
	n.mu.Unlock()
	if !held {
		for _, in := range v.Inputs {
			input, _ := n.graph.Vertex(in)
			if err := n.solve(ctx, input, observe); err != nil {
				return err
			}
		}
	}
	return n.step(ctx, v, observe)
}

// step runs a step, or waits for another solve that runs it.
func (n *fakeNode) step(ctx context.Context, v *llbmerge.Vertex, observe func(*bkclient.SolveStatus)) error {
	for {
		n.mu.Lock()
		if n.held[v.Digest] {
			n.mu.Unlock()
			now := time.Now()
			observe(&bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Digest: v.Digest, Name: v.Step, Started: &now, Completed: &now, Cached: true}}})
			return nil
		}
		done, busy := n.active[v.Digest]
		if !busy {
			done = make(chan struct{})
			n.active[v.Digest] = done
			n.mu.Unlock()
			err := n.execute(ctx, v, observe)
			n.mu.Lock()
			n.held[v.Digest] = err == nil
			delete(n.active, v.Digest)
			close(done)
			n.mu.Unlock()
			return err
		}
		n.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (n *fakeNode) execute(ctx context.Context, v *llbmerge.Vertex, observe func(*bkclient.SolveStatus)) error {
	if l := v.Local; l != nil {
		for _, path := range n.unread[l.Name] {
			n.sent.LeaveOut(l.Name, path, &fault.InputError{Path: path, Err: fs.ErrPermission})
		}
	}
	if !v.Kind.IsStep() {
		return nil
	}
	command := strings.Trim(v.Command, "[]\"")
	started := time.Now()
	observe(&bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Digest: v.Digest, Name: v.Step, Started: &started}}})
	observe(&bkclient.SolveStatus{Logs: []*bkclient.VertexLog{{Vertex: v.Digest, Data: []byte("says " + command + "\n"), Timestamp: started}}})
	if err := n.wait(ctx, n.took); err != nil {
		return err
	}
	n.mu.Lock()
	n.ran[command]++
	n.mu.Unlock()
	if err := n.fails[command]; err != nil {
		return bkerrdefs.WrapVertex(err, v.Digest)
	}
	completed := time.Now()
	end := &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Digest: v.Digest, Name: v.Step, Started: &started, Completed: &completed}}}
	if n.late == 0 {
		observe(end)
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.unsaid = append(n.unsaid, end)
	return nil
}

func (n *fakeNode) Export(ctx context.Context, req daemon.ExportRequest, _ func(*bkclient.SolveStatus)) (map[string]string, error) {
	defer n.enter()()
	if err := n.wait(ctx, 100*time.Millisecond); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	name := req.Entry.Attrs["name"]
	if errs := n.exportFails[name]; len(errs) > 0 {
		n.exportFails[name] = errs[1:]
		return nil, errs[0]
	}
	n.exported = append(n.exported, name)
	return map[string]string{
		exptypes.ExporterImageNameKey:   name,
		exptypes.ExporterImageDigestKey: digest.FromString(name).String(),
	}, nil
}

func (n *fakeNode) ExportCache(ctx context.Context, req daemon.ExportRequest, _ func(*bkclient.SolveStatus)) (map[string]string, error) {
	defer n.enter()()
	if err := n.wait(ctx, cmp.Or(n.cacheTakes, time.Second)); err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range req.CacheTo {
		n.caches = append(n.caches, c.Attrs["ref"]+c.Attrs["dest"])
	}
	root := rootOf(n.graph, req.Contents[0].Definition).Digest
	manifest := digest.FromString("cache of " + root.String())
	n.handed.Store(manifest.String(), root)
	return map[string]string{cacheentry.ManifestKey: fmt.Sprintf(`{"digest": %q}`, manifest)}, n.cacheFails
}

// states are the ends of all jobs.
func states(res *Result) map[string]State {
	m := map[string]State{}
	for _, j := range res.Jobs {
		m[j.Job] = j.State
	}
	return m
}

// all gives every name one value.
func all[V any](v V, names ...string) map[string]V {
	m := map[string]V{}
	for _, n := range names {
		m[n] = v
	}
	return m
}

var names = []string{"a", "b", "c", "d", "e", "f"}

func images(names ...string) map[string]int {
	m := map[string]int{}
	for _, n := range names {
		m["example.com/"+n+":latest"] = 1
	}
	return m
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuild(t, 2, names...)
		f := newFleet(t, b)
		res, events, err := f.run(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, all(Done, names...), states(res))
		require.Equal(t, images(names...), f.exports())
		for i, n := range f.nodes {
			require.Equal(t, 1, n.ran["shared"])
			require.Equal(t, 7, res.Nodes[i].Ran)
			require.Zero(t, res.Nodes[i].Repeated)
			require.Equal(t, 2, res.Nodes[i].Shared)
			require.GreaterOrEqual(t, res.Nodes[i].Busy, 3*time.Second)
		}
		require.Equal(t, "example.com/a:latest", res.Jobs[0].Images[0].Name)
		require.Equal(t, output.InRegistry, res.Jobs[0].Images[0].Place)
		require.Len(t, res.Measured, 14)
		stages := map[string][]string{}
		for _, e := range events {
			if e, ok := e.(JobEvent); ok {
				stages[e.Job] = append(stages[e.Job], e.Stage)
			}
		}
		require.Equal(t, all([]string{"submitted", "built", "exported"}, names...), stages)

		// What waits is reported from the start on, and gets less.
		var queues []QueueEvent
		for _, e := range events {
			if e, ok := e.(QueueEvent); ok {
				queues = append(queues, e)
			}
		}
		require.Equal(t, []string{"a", "c", "e"}, queues[0].Nodes[0].Queued)
		require.False(t, queues[0].Nodes[0].Up, "no node is heard of yet")
		last := queues[len(queues)-1]
		require.Empty(t, last.Nodes[0].Queued)
		require.True(t, last.Nodes[0].Up)
		for i, q := range queues[1:] {
			require.GreaterOrEqual(t, q.At-queues[i].At, queueInterval)
		}
	})
}

// What stands on a base that is pulled in this run begins when the base is there, and
// not when the first step on it is done. Nodes report no end of a pull.
func TestStepsOnPulledBaseOverlap(t *testing.T) {
	forms := map[string]func(*ir.Target) llb.State{
		"image": func(*ir.Target) llb.State {
			return llb.Image("docker.io/library/base@" + digest.FromString("base").String())
		},
		"directory and image": func(target *ir.Target) llb.State {
			return llb.Image("docker.io/library/base@" + digest.FromString("base").String()).
				File(llb.Copy(llb.Local("context"), target.Name, "/"))
		},
	}
	for name, from := range forms {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuildFrom(t, 1, func(target *ir.Target) *frontend.Unit {
					def, err := from(target).Run(llb.Shlex(target.Name)).Root().Marshal(t.Context())
					require.NoError(t, err)
					return &frontend.Unit{ID: ir.UnitID(target.Name), Target: target, Definition: def.ToPB(), Config: []byte("{}")}
				}, names...)
				b.Sched.Nodes[0].Slots, b.Sched.Nodes[0].SlotsAssumed, b.Sched.Options.Steal = 1, true, true
				res, _, err := newFleet(t, b).run(t.Context(), b)
				require.NoError(t, err)
				most := 0
				for _, m := range res.Measured {
					at := 0
					for _, other := range res.Measured {
						if !other.Start.After(m.Start) && other.Start.Add(other.Took).After(m.Start) {
							at++
						}
					}
					most = max(most, at)
				}
				require.Equal(t, len(names), most, "steps at once")
			})
		})
	}
}

// TestStepsEndFirst has nodes say late that steps have ended: that a job is exported is
// reported after it all the same, and each once.
func TestStepsEndFirst(t *testing.T) {
	for _, shared := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			b := newBuild(t, 2, names...)
			if shared {
				withCaches(t, b)
			}
			f := newFleet(t, b)
			for _, n := range f.nodes {
				n.late = 700 * time.Millisecond
			}
			_, events, err := f.run(t.Context(), b)
			require.NoError(t, err)
			open, exported := map[string]bool{}, map[string]int{}
			for _, e := range events {
				switch e := e.(type) {
				case StatusEvent:
					for _, v := range e.Status.Vertexes {
						open[e.Node+v.Digest.String()] = v.Completed == nil
					}
				case JobEvent:
					if e.Stage != "exported" {
						continue
					}
					exported[e.Job]++
					for _, v := range b.Graph.Vertices {
						require.False(t, slices.Contains(v.Users, e.Job) && open[e.Node+v.Digest.String()], "%s is exported while %s runs", e.Job, v.Step)
					}
				}
			}
			require.Equal(t, all(1, names...), exported)
		})
	}
}

// TestNodeLost loses a node while it works, in each of its states.
func TestNodeLost(t *testing.T) {
	for _, after := range []time.Duration{0, 500 * time.Millisecond, 1500 * time.Millisecond, 3050 * time.Millisecond, 4 * time.Second, 5 * time.Second} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 3, names...)
				f := newFleet(t, b)
				time.AfterFunc(after, func() { close(f.nodes[1].dead) })
				res, events, err := f.run(t.Context(), b)
				require.NoError(t, err)
				require.Equal(t, all(Done, names...), states(res))
				for name, n := range f.exports() {
					require.LessOrEqual(t, n, 2, name) // again if the node went before it reported
				}
				require.Len(t, f.exports(), len(names))
				require.ErrorIs(t, res.Nodes[1].Lost, errGone)
				lost := 0
				for _, e := range events {
					switch e := e.(type) {
					case NodeEvent:
						lost++
					case MoveEvent:
						require.Equal(t, "rescued", e.Why)
						require.Equal(t, "n2", e.From)
					}
				}
				require.Equal(t, 1, lost)
				for _, j := range res.Jobs {
					require.NoError(t, j.Err)
				}
			})
		})
	}
}

func TestAllNodesLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuild(t, 2, names...)
		f := newFleet(t, b)
		for _, n := range f.nodes {
			time.AfterFunc(1500*time.Millisecond, func() { close(n.dead) })
		}
		res, _, err := f.run(t.Context(), b)
		require.ErrorIs(t, err, ErrIncomplete)
		var node *daemon.NodeError
		require.ErrorAs(t, err, &node)
		require.Equal(t, "lost", node.Op)
		for _, j := range res.Jobs {
			require.NotEqual(t, Done, j.State)
		}
	})
}

// TestIdleNodeLost loses a node that no call notices: the watch has to.
func TestIdleNodeLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuild(t, 1, "a")
		b.Sched.Nodes = append(b.Sched.Nodes, sched.Node{Name: "idle"})
		f := newFleet(t, b)
		f.nodes[0].took = time.Minute
		close(f.nodes[1].dead)
		res, _, err := f.run(t.Context(), b)
		require.NoError(t, err)
		require.Error(t, res.Nodes[1].Lost)
		require.NoError(t, res.Nodes[0].Lost)
	})
}

// ends are the jobs that are reported to have ended without being built.
func ends(events []Event) []string {
	var list []string
	for _, e := range events {
		if e, ok := e.(JobEvent); ok && (e.Stage == "failed" || e.Stage == "skipped") {
			list = append(list, e.Job+" "+e.Stage)
		}
	}
	return list
}

func TestStepFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuild(t, 2, names...)
		f := newFleet(t, b)
		f.nodes[0].fails["a first"] = errors.New("exit code: 3")
		res, events, err := f.run(t.Context(), b)
		var step *StepError
		require.ErrorAs(t, err, &step)
		require.Equal(t, []string{"a"}, step.Jobs)
		require.Equal(t, []string{"a failed"}, ends(events))
		require.Equal(t, "n1", step.Node)
		require.Equal(t, []string{"says a first"}, step.Log)
		require.Contains(t, step.Error(), "exit code: 3")
		require.Contains(t, step.Error(), "\n  says a first")
		require.Equal(t, Failed, states(res)["a"])
		require.Same(t, step, res.Jobs[0].Err)
		require.Equal(t, Cancelled, states(res)["b"])
		require.Equal(t, NotStarted, states(res)["f"])
		require.Empty(t, f.exports())
	})
}

// TestSharedStepFails has every job fail because of one step: one error, reported once
// for each node that ran it.
func TestSharedStepFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuild(t, 1, names...)
		b.Sched.Options.KeepGoing = true
		f := newFleet(t, b)
		f.nodes[0].fails["shared"] = errors.New("exit code: 1")
		res, _, err := f.run(t.Context(), b)
		require.Equal(t, all(Failed, names...), states(res))
		require.Equal(t, 1, strings.Count(err.Error(), "exit code: 1"), err.Error())
	})
}

func TestKeepGoing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuild(t, 2, names...)
		b.Sched.Options.KeepGoing = true
		b.Sched.Units[2].After = []sched.UnitID{0} // c after a
		f := newFleet(t, b)
		f.nodes[0].fails["a second"] = errors.New("exit code: 3")
		res, _, err := f.run(t.Context(), b)
		require.ErrorContains(t, err, "target a: ")
		require.Equal(t, map[string]State{"a": Failed, "b": Done, "c": Skipped, "d": Done, "e": Done, "f": Done}, states(res))
		require.Equal(t, "a failed", res.Jobs[2].Reason)
		require.Equal(t, images("b", "d", "e", "f"), f.exports())
	})
}

func TestCancel(t *testing.T) {
	for _, after := range []time.Duration{time.Millisecond, 1500 * time.Millisecond, 3050 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 2, names...)
				f := newFleet(t, b)
				ctx, cancel := context.WithCancelCause(t.Context())
				why := errors.New("interrupted")
				time.AfterFunc(after, func() { cancel(why) })
				res, _, err := f.run(ctx, b)
				require.Equal(t, why, err)
				require.Equal(t, Cancelled, states(res)["a"])
				require.Equal(t, NotStarted, states(res)["f"])
			})
		})
	}
}

func TestExportFails(t *testing.T) {
	const name = "example.com/a:latest"
	t.Run("final", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBuild(t, 1, names...)
			b.Sched.Options.KeepGoing = true
			f := newFleet(t, b)
			f.nodes[0].exportFails[name] = []error{errors.New("denied")}
			res, _, err := f.run(t.Context(), b)
			require.EqualError(t, err, "target a: failed on node n1: write output of type image: denied")
			want := all(Done, names...)
			want["a"] = Failed
			require.Equal(t, want, states(res))
		})
	})
	t.Run("retried", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			b := newBuild(t, 1, names...)
			f := newFleet(t, b)
			f.nodes[0].exportFails[name] = []error{errors.New("503 Service Unavailable")}
			res, _, err := f.run(t.Context(), b)
			require.NoError(t, err)
			require.Equal(t, all(Done, names...), states(res))
			require.Equal(t, images(names...), f.exports())
			require.Equal(t, 1, f.nodes[0].ran["a second"], "the results were there")
		})
	})
}

// TestHedged has a node that is far slower than planned, so that another takes its
// jobs over: each job is exported once, whoever builds it first.
func TestHedged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBuild(t, 2, names...)
		b.Sched.Options.Steal = true
		b.Sched.Plan = [][]sched.Partition{nil, nil}
		for u := range b.Jobs {
			b.Sched.Plan[0] = append(b.Sched.Plan[0], sched.Partition{sched.UnitID(u)})
		}
		f := newFleet(t, b)
		f.nodes[0].took = 30 * time.Second
		res, events, err := f.run(t.Context(), b)
		require.NoError(t, err)
		require.Equal(t, all(Done, names...), states(res))
		require.Equal(t, images(names...), f.exports())
		require.NotEmpty(t, res.Steals)
		// They are those that were reported, with the time at which the node began.
		var begun []time.Duration
		for _, e := range events {
			if e, ok := e.(MoveEvent); ok {
				begun = append(begun, e.At)
			}
		}
		for _, s := range res.Steals {
			require.Contains(t, begun, s.At)
		}
	})
}

// TestSharedCaches writes the caches of a registry when all is built, from results
// that are still held.
func TestSharedCaches(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			fails    error
			required bool
		}{{nil, false}, {errors.New("denied"), false}, {errors.New("denied"), true}} {
			b := newBuild(t, 2, names...)
			withCaches(t, b)
			b.Cache.Store.Required = tc.required
			f := newFleet(t, b)
			f.nodes[1].cacheFails = tc.fails
			res, _, err := f.run(t.Context(), b)
			require.Equal(t, all(Done, names...), states(res))
			require.Len(t, slices.Concat(f.nodes[0].caches, f.nodes[1].caches), 2)
			const failed = "node n2: write cache example.com/cache:"
			switch {
			case tc.fails == nil:
				require.NoError(t, err)
				require.Equal(t, []string{"join the caches of example.com/cache:dbake-a-c6b39a37: read example.com/cache:dbake-a-c6b39a37-0: registry example.com cannot be reached: dial: no network here"}, res.Warnings)
			case tc.required:
				require.ErrorContains(t, err, failed)
			default:
				require.NoError(t, err)
				require.Len(t, res.Warnings, 1)
				require.Contains(t, res.Warnings[0], failed)
			}
		}
	})
}
