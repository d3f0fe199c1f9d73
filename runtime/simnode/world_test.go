package simnode_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/plan/plantest"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/nodeset"
	"github.com/dbake/dbake/runtime/publish"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
	"github.com/dbake/dbake/runtime/simnode"
)

// host is the registry of all images and caches.
const host = "registry.test"

// cacheRepo is where caches are, of those runs that have any.
const cacheRepo = host + "/cache"

// project is a generated project, compiled and merged.
type project struct {
	build *plan.Build
	// fails is set when one of its steps fails wherever it runs, flaky when some fail in a
	// part of their executions.
	fails, flaky bool
}

// flakyPart is how large a part of the executions of a flaky step fails.
const flakyPart = 0.3

// newProject generates a project: stages on a common base, and targets on some of them,
// some on what others push. Most of its steps never give the same result twice.
func newProject(t *testing.T, seed uint64) *project {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 1))
	// What came later draws from a source of its own, so that seeds keep their projects.
	later := rand.New(rand.NewPCG(seed, 7))
	guarded := later.IntN(3) == 0
	p := &project{flaky: later.IntN(5) == 0}
	step := 0
	run := func() string {
		step++
		c := fmt.Sprintf("RUN echo step %d; sleep %.1f", step, 0.2+4*rng.Float64()*rng.Float64())
		if rng.IntN(4) > 0 {
			c += "; head -c 9 /dev/urandom > /r"
		}
		if p.flaky && later.IntN(4) == 0 {
			c += fmt.Sprintf("; echo timed out; flaky %.1f", flakyPart)
		}
		return c + "\n"
	}
	var docker, hcl strings.Builder
	docker.WriteString("FROM busybox:1 AS stage0\nCOPY common /common\n" + run())
	stages := 1 + rng.IntN(4)
	for i := 1; i < stages; i++ {
		fmt.Fprintf(&docker, "FROM stage%d AS stage%d\n", rng.IntN(i), i)
		for range 1 + rng.IntN(2) {
			docker.WriteString(run())
		}
	}
	targets := 2 + rng.IntN(6)
	failing := -1
	if rng.IntN(12) == 0 {
		failing, p.fails = rng.IntN(targets), true
	}
	var names []string
	for i := range targets {
		name := fmt.Sprintf("t%d", i)
		names = append(names, fmt.Sprintf("%q", name))
		base, context := fmt.Sprintf("stage%d", rng.IntN(stages)), ""
		if i > 0 && rng.IntN(3) == 0 {
			base, context = "pushed", fmt.Sprintf("  contexts = { pushed = \"target:t%d\" }\n", rng.IntN(i))
		}
		fmt.Fprintf(&docker, "FROM %s AS %s\n", base, name)
		if rng.IntN(3) == 0 {
			fmt.Fprintf(&docker, "COPY own%d /own\n", i)
		}
		if rng.IntN(3) == 0 {
			fmt.Fprintf(&docker, "COPY --from=stage%d /r /from\n", rng.IntN(stages))
		}
		for range rng.IntN(3) {
			docker.WriteString(run())
		}
		if i == failing {
			fmt.Fprintf(&docker, "RUN echo no; sleep 1; exit 3\n")
		}
		if guarded && later.IntN(2) == 0 {
			test := "test" + name
			context += fmt.Sprintf("  gates = [%q]\n", test)
			fmt.Fprintf(&docker, "FROM %s AS %s\nRUN echo test %d; sleep %.1f", name, test, i, 0.2+3*later.Float64())
			switch {
			case later.IntN(8) == 0:
				p.fails = true
				docker.WriteString("; exit 3")
			case p.flaky:
				fmt.Fprintf(&docker, "; echo timed out; flaky %.1f", flakyPart)
			}
			docker.WriteString("\n")
			contexts := ""
			if base == "pushed" {
				contexts = strings.SplitAfter(context, "\n")[0]
			}
			fmt.Fprintf(&hcl, "target %q {\n  target = %q\n%s}\n", test, test, contexts)
		}
		fmt.Fprintf(&hcl, "target %q {\n  target = %q\n%s  tags = [\"%s/%s:1\"]\n  output = [\"type=image,push=true\"]\n}\n", name, name, context, host, name)
	}
	var archive strings.Builder
	fmt.Fprintf(&archive, "-- docker-bake.hcl --\ngroup \"default\" { targets = [%s] }\n%s-- Dockerfile --\n%s-- common --\ncommon\n", strings.Join(names, ", "), hcl.String(), docker.String())
	for i := range targets {
		fmt.Fprintf(&archive, "-- own%d --\nfile %d\n", i, i)
	}
	on := plantest.New(t, archive.String())
	var err error
	p.build, err = plan.Prepare(context.Background(), on.Compile(), frontend.Options{
		Dir: on.Dir, Resolver: frontend.NewRegistryResolver(frontend.RegistryOptions{Offline: true}),
	}, plan.Memory{History: on.History, Files: filesum.Open("", time.Now())})
	require.NoError(t, err)
	for i, v := range p.build.Graph.Vertices {
		if _, s, ok := strings.Cut(v.Command, "sleep "); ok {
			var seconds float64
			if _, err := fmt.Sscanf(s, "%f", &seconds); err == nil {
				// As a history that is about right.
				p.build.Costs[i].Duration = time.Duration(seconds * (0.7 + 0.6*rng.Float64()) * float64(time.Second))
			}
		}
	}
	return p
}

// world is the nodes and the registry of one seed.
type world struct {
	seed     uint64
	rng      *rand.Rand
	registry *simnode.Registry
	nodes    []*simnode.Node
	specs    []nodeset.Spec
	slots    int
	cached   bool // there is a repository for caches
	makespan time.Duration
	// retrySteps is how often steps that fail are executed again; past is what is known
	// of steps, by their names.
	retrySteps int
	past       map[string]runtime.Trials
	// calm says that nothing happens to the nodes.
	calm bool
	// hurt are the nodes to which something happens; lossy says that some result may
	// be built twice for it, and frail that no node is spared.
	// strikes counts what happens to them.
	hurt    map[string]bool
	strikes int
	lossy   bool
	frail   bool
	// whole says that all is to be published or nothing, and stopped that it was
	// interrupted. before is what the tags of images stood for when it began.
	whole, stopped bool
	before         map[string]digest.Digest
	// said are the faults, for the one who looks into a seed.
	said []string
}

// newWorld starts the nodes. Their registry may hold something already.
func newWorld(seed uint64, r *simnode.Registry) *world {
	w := &world{seed: seed, rng: rand.New(&lockedSource{source: rand.NewPCG(seed, 2)}), registry: r, hurt: map[string]bool{}}
	n := 1 + w.rng.IntN(4)
	w.slots = 1 + w.rng.IntN(4)
	w.cached = w.rng.IntN(2) == 0
	w.whole, w.before = seed%3 == 1, tags(r)
	for i := range n {
		timing := simnode.DefaultTiming
		timing.Push += time.Duration(w.rng.IntN(2000)) * time.Millisecond
		timing.Export += time.Duration(w.rng.IntN(1000)) * time.Millisecond
		o := simnode.Options{
			Registry: r, Seed: seed*10 + uint64(i), Slots: w.slots, Timing: timing,
			Latency: time.Duration(w.rng.IntN(20)) * time.Millisecond,
		}
		if w.rng.IntN(4) == 0 {
			o.Slow = 1 + 9*w.rng.Float64()
		}
		node := simnode.New(o)
		w.nodes = append(w.nodes, node)
		w.specs = append(w.specs, nodeset.Spec{Name: fmt.Sprintf("n%d", i+1), Addr: node.Addr(), Speed: 1})
	}
	return w
}

// order plans a project for the nodes that have answered.
func (w *world) order(t *testing.T, p *project, answered []daemon.NodeInfo) *runtime.Build {
	var list []plan.Node
	for _, n := range answered {
		list = append(list, plan.Node{Name: n.Name, Addr: n.Addr, Speed: 1, Slots: w.slots})
	}
	names := []string{"affinity", "round-robin", "queue", "single", "heft"}
	strategy, err := partition.Lookup(names[w.rng.IntN(len(names))])
	require.NoError(t, err)
	duplicates := []plan.Duplicates{plan.DuplicatesReproducible, plan.DuplicatesNever}[w.rng.IntN(2)]
	b, made, err := p.build.WithDuplicates(duplicates).Choose(context.Background(), list, strategy, partition.Options{Budget: 1000}, nil)
	require.NoError(t, err)
	work := &runtime.Build{
		Graph: b.Graph, Jobs: b.Jobs, Steps: made.Exchange.Steps,
		Sched: runtime.Schedule(made, sched.Options{
			KeepGoing: w.rng.IntN(3) == 0 && !w.whole, DeferOutput: w.rng.IntN(4) == 0 && !w.whole, Whole: w.whole, Steal: len(list) > 1, Backoff: time.Second, Ahead: 1, NoHedge: w.rng.IntN(2) == 0,
			RetrySteps: w.retrySteps,
		}),
		Inputs:     daemon.Inputs{Dirs: b.Locals(), SSH: map[string][]string{}, SharedKey: "seeds"},
		Dir:        t.TempDir(),
		Withhold:   w.whole,
		Registries: registry.Options{Dial: w.registry.Dial, Hosts: map[string]registry.Host{host: {PlainHTTP: true}}},
	}
	for i, v := range b.Graph.Vertices {
		work.Past = append(work.Past, w.past[v.Step])
		work.Sched.Vertices[i].Flaky = work.Past[i].Flaky()
	}
	if w.cached {
		repo, err := cachepolicy.ParseRepo(cacheRepo)
		require.NoError(t, err)
		work.Cache = b.Caches(cachepolicy.Store{Repo: repo})
		work.Cache.Known = map[string][]string{cacheRepo: w.registry.Tags(cacheRepo)}
	} else {
		work.Cache = b.Caches()
	}
	w.makespan = made.Makespan
	return work
}

// mishap is something that happens to one node at some time.
type mishap struct {
	name string
	// lossy faults may lose a result that others rest on.
	lossy bool
	do    func(w *world, n *simnode.Node)
}

var mishaps = []mishap{
	{"is lost", true, func(_ *world, n *simnode.Node) { n.Lose() }},
	{"is lost and comes back", true, func(w *world, n *simnode.Node) {
		n.Lose()
		later(w, n, func() { n.Return(false) })
	}},
	{"is lost and comes back empty", true, func(w *world, n *simnode.Node) {
		n.Lose()
		later(w, n, func() { n.Return(true) })
	}},
	{"is silent", true, func(_ *world, n *simnode.Node) { n.Silence(true) }},
	{"is silent for a while", true, func(w *world, n *simnode.Node) {
		n.Silence(true)
		later(w, n, func() { n.Silence(false) })
	}},
	{"is cut off for a moment", true, func(_ *world, n *simnode.Node) { n.Cut() }},
	{"forgets results", true, func(w *world, n *simnode.Node) {
		n.Evict(func() bool { return w.rng.IntN(2) == 0 })
	}},
	{"is sick", true, func(_ *world, n *simnode.Node) {
		n.Sicken(errors.New("failed to create shim task: no space left on device"))
	}},
	{"finds layers of the cache gone", true, func(w *world, _ *simnode.Node) { w.lose(0.3) }},
	{"finds the registry busy", false, func(w *world, _ *simnode.Node) { w.registry.Refuse(1 + w.rng.IntN(4)) }},
}

// lockedSource is a source of random numbers for faults, which may happen at the same time.
type lockedSource struct {
	mu     sync.Mutex
	source rand.Source
}

func (s *lockedSource) Uint64() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.source.Uint64()
}

// later does something to a node after a while. The seed says when, so it is drawn now.
func later(w *world, _ *simnode.Node, do func()) {
	time.AfterFunc(time.Duration(w.rng.IntN(20_000))*time.Millisecond, do)
}

// lose has the registry lose a part of the layers that only caches name.
func (w *world) lose(part float64) {
	kept := map[digest.Digest]bool{}
	for _, name := range w.registry.Names() {
		if strings.HasPrefix(name, cacheRepo) {
			continue
		}
		if d, ok := w.registry.Resolve(name); ok {
			for _, l := range w.layers(d.String()) {
				kept[l] = true
			}
		}
	}
	for _, l := range w.registry.Layers() {
		if !kept[l] && w.rng.Float64() < part {
			w.registry.Lose(l)
		}
	}
}

// anybody are the mishaps that are not those of a node.
var anybody = map[string]bool{"finds the registry busy": true, "finds layers of the cache gone": true}

// delay has some nodes come late; it is called before they are dialled.
func (w *world) delay() {
	for i, n := range w.nodes {
		if i == 0 || w.rng.IntN(6) > 0 {
			continue
		}
		at := time.Duration(w.rng.IntN(15_000)) * time.Millisecond
		w.said = append(w.said, fmt.Sprintf("%s comes at %s", w.specs[i].Name, at))
		w.hurt[w.specs[i].Name] = true
		n.Lose()
		time.AfterFunc(at, func() { n.Return(true) })
	}
}

// disturb draws what happens, and when.
func (w *world) disturb() (stop func()) {
	if w.calm {
		return func() {}
	}
	stopDrains := w.drain()
	w.frail = w.rng.IntN(10) == 0
	count := w.rng.IntN(5)
	span := int(w.makespan.Milliseconds()*3/2) + 500
	var timers []*time.Timer
	for range count {
		f := mishaps[w.rng.IntN(len(mishaps))]
		i := w.rng.IntN(len(w.nodes))
		at := time.Duration(w.rng.IntN(span)) * time.Millisecond
		if !anybody[f.name] {
			if i == 0 && !w.frail {
				continue // one node is well
			}
			w.hurt[w.specs[i].Name] = true
			w.strikes++
		}
		w.said = append(w.said, fmt.Sprintf("%s %s at %s", w.specs[i].Name, f.name, at))
		w.lossy = w.lossy || f.lossy
		timers = append(timers, time.AfterFunc(at, func() { f.do(w, w.nodes[i]) }))
	}
	return func() {
		stopDrains()
		for _, t := range timers {
			t.Stop()
		}
	}
}

// drain has some nodes be drained, and some of those stay after all.
func (w *world) drain() (stop func()) {
	rng := rand.New(rand.NewPCG(w.seed, 6))
	var timers []*time.Timer
	span := int(w.makespan.Milliseconds()*3/2) + 500
	for i, n := range w.nodes {
		if rng.IntN(4) > 0 {
			continue
		}
		at := time.Duration(rng.IntN(span)) * time.Millisecond
		w.said = append(w.said, fmt.Sprintf("%s is drained at %s", w.specs[i].Name, at))
		timers = append(timers, time.AfterFunc(at, func() { n.Drain(true) }))
		if rng.IntN(3) == 0 {
			later := at + time.Duration(rng.IntN(span))*time.Millisecond
			w.said = append(w.said, fmt.Sprintf("%s is not drained any more at %s", w.specs[i].Name, later))
			timers = append(timers, time.AfterFunc(later, func() { n.Drain(false) }))
		}
	}
	return func() {
		for _, t := range timers {
			t.Stop()
		}
	}
}

// outcome is how a run ended.
type outcome struct {
	result *runtime.Result
	err    error
	work   *runtime.Build
	sent   int      // results that nodes sent
	drains drainLog // of what the run said
	// passed are the jobs that were done at some time. One may be undone when results are lost
	// with a node; what its success had published stays.
	passed map[string]bool
	// doubled are the nodes that built the same as another one until this was done first.
	doubled map[string]bool
}

// take notes an event.
func (o *outcome) take(w *world, e runtime.Event) {
	o.drains.take(w, e)
	switch e := e.(type) {
	case runtime.JobEvent:
		if e.Stage == "exported" {
			o.passed[e.Job] = true
		}
	case runtime.MoveEvent:
		if e.Why == sched.Hedged.String() {
			o.doubled[e.From], o.doubled[e.Node] = true, true
		}
	case runtime.SendEvent:
		if e.Err == nil {
			o.sent++
		}
	}
}

// drainLog follows which nodes a run takes for drained, and what it gives them.
type drainLog struct {
	now   map[string]bool
	ever  int             // drains that were seen
	given map[string]bool // jobs that a node had before
	wrong []string
}

// take notes an event. Jobs that no node has had yet do not go to a node that drains while
// another is well and stays.
func (d *drainLog) take(w *world, e runtime.Event) {
	switch e := e.(type) {
	case runtime.WaitEvent:
		switch {
		case strings.Contains(e.Text, "it is drained, ends what it has begun"):
			d.now[e.Node] = true
			d.ever++
		case strings.Contains(e.Text, "is not drained any more"):
			delete(d.now, e.Node)
		}
	case runtime.JobEvent:
		if e.Stage != "submitted" {
			return
		}
		if d.now[e.Node] && !d.given[e.Job] {
			for _, s := range w.specs {
				if s.Name != e.Node && !d.now[s.Name] && !w.hurt[s.Name] {
					d.wrong = append(d.wrong, fmt.Sprintf("%s was given %s at %s although it drains and %s does not", e.Node, e.Job, e.At, s.Name))
				}
			}
		}
		d.given[e.Job] = true
	}
}

// trace prints an event, for the one who looks into a seed.
func (w *world) trace(at time.Duration, e runtime.Event) {
	switch e := e.(type) {
	case runtime.StatusEvent:
		for _, v := range e.Status.Vertexes {
			if v.Completed != nil {
				fmt.Printf("%s %s: %s cached=%v %s\n", at, e.Node, v.Name, v.Cached, v.Error)
			}
		}
	case runtime.QueueEvent:
		fmt.Printf("%s %+v\n", at, e.Nodes)
	default:
		fmt.Printf("%s %T%+v\n", at, e, e)
	}
}

// carryOut plans and runs a project on the nodes.
func (w *world) carryOut(ctx context.Context, t *testing.T, p *project) (o outcome) {
	pool, err := daemon.Dial(ctx, w.specs, daemon.DialOptions{})
	if err != nil {
		o.err = err
		return o
	}
	defer pool.Close()
	if _, err := pool.LLBCaps(ctx); err != nil {
		o.err = err
		return o
	}
	o.work = w.order(t, p, pool.Nodes())
	stop := w.disturb()
	defer stop()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if w.whole {
		defer w.interrupt(cancel)()
	}
	start := time.Now()
	o.passed, o.doubled = map[string]bool{}, map[string]bool{}
	o.drains = drainLog{now: map[string]bool{}, given: map[string]bool{}}
	o.result, o.err = runtime.Run(ctx, pool, o.work, func(e runtime.Event) {
		if *traceFlag {
			w.trace(time.Since(start), e)
		}
		o.take(w, e)
	})
	if w.whole {
		o.err = w.publish(ctx, o)
	}
	return o
}

var errStopped = errors.New("interrupted")

// interrupt has some runs interrupted; of those, some while they publish.
func (w *world) interrupt(cancel context.CancelCauseFunc) (stop func()) {
	rng := rand.New(rand.NewPCG(w.seed, 3))
	if rng.IntN(4) > 0 {
		return func() {}
	}
	at := time.Duration(rng.Float64() * 1.5 * float64(w.makespan))
	w.said = append(w.said, fmt.Sprintf("it is interrupted at %s", at))
	t := time.AfterFunc(at, func() { w.stopped = true; cancel(errStopped) })
	return func() { t.Stop() }
}

// publish publishes what a run has withheld.
func (w *world) publish(ctx context.Context, o outcome) error {
	err := o.err
	if err == nil {
		err = o.result.Withheld.Publish(ctx, func([]string) publish.Registry { return registry.New(o.work.Registries) })
	}
	if o.result != nil && err == nil {
		o.result.NotePublished()
	} else if o.result != nil {
		o.result.NoteUnpublished("something failed")
	}
	return err
}

// tags are those of images.
func tags(r *simnode.Registry) map[string]digest.Digest {
	list := map[string]digest.Digest{}
	for _, name := range r.Names() {
		if !strings.HasPrefix(name, cacheRepo) && !strings.Contains(name, "@") {
			list[name], _ = r.Resolve(name)
		}
	}
	return list
}

func (w *world) close() {
	for _, n := range w.nodes {
		n.Close()
	}
	w.registry.Close()
}

// check returns what a run did wrong.
func (w *world) check(p *project, o outcome) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	if o.result == nil {
		if !w.frail {
			say("no result: %v", o.err)
		}
		return wrong
	}
	if now := tags(w.registry); w.whole && o.err != nil && !maps.Equal(now, w.before) {
		say("it failed, and these tags are set: %v; before: %v", now, w.before)
	}
	all := true
	for i, j := range o.result.Jobs {
		all = all && j.State == runtime.Done
		if j.State == runtime.Done && len(o.work.Jobs[i].Target.Tags) > 0 {
			w.checkPushed(j, say)
		}
		w.checkGates(o, i, say)
		if j.State == runtime.Failed && j.Err == nil && j.Reason == "" {
			say("%s failed, and nobody says why", j.Job)
		}
	}
	switch {
	case all && o.err != nil:
		say("everything is done, but: %v", o.err)
	case !all && o.err == nil:
		say("something is not done, and there is no error")
	case !all && p.flaky && !p.fails && !w.frail && !w.stopped && !w.exhausted(o) && !w.someFailed():
		say("it failed although one node is well, and no step failed: %v", o.err)
	case !all && !p.flaky && !p.fails && !w.frail && !w.stopped && !w.exhausted(o):
		say("it failed although one node is well: %v", o.err)
	case all && w.stopped && w.whole && o.err != nil:
		say("it was interrupted, and everything is said to be published")
	case all && p.fails:
		say("a step that fails everywhere did not")
	}
	w.checkCounts(o, say)
	w.checkOnce(o, say)
	return append(wrong, o.drains.wrong...)
}

// someFailed reports whether an execution failed.
func (w *world) someFailed() bool {
	return slices.ContainsFunc(w.nodes, func(n *simnode.Node) bool {
		return slices.ContainsFunc(n.Executions(), func(e simnode.Execution) bool { return e.Layer == "" })
	})
}

// checkGates checks that a job is not published unless its gates have succeeded.
func (w *world) checkGates(o outcome, i int, say func(string, ...any)) {
	t, state := o.work.Jobs[i].Target, o.result.Jobs[i].State
	for k, gate := range o.work.Jobs {
		if !slices.Contains(t.Gates, gate.Target.Name) || o.result.Jobs[k].State == runtime.Done {
			continue
		}
		if state == runtime.Done {
			say("%s is done although %s is %s", t.Name, gate.Target.Name, o.result.Jobs[k].State)
		}
		for _, tag := range t.Tags {
			if now, _ := w.registry.Resolve(tag); now != w.before[tag] && !o.passed[gate.Target.Name] {
				say("%s is published although %s is %s", tag, gate.Target.Name, o.result.Jobs[k].State)
			}
		}
	}
}

// exhausted reports whether what failed met as many faults of nodes as there are attempts.
func (w *world) exhausted(o outcome) bool {
	const attempts = 3
	given := 0
	for _, j := range o.result.Jobs {
		sick := new(fault.NodeSick)
		if j.State == runtime.Failed && !errors.As(j.Err, &sick) && !strings.HasSuffix(j.Reason, fmt.Sprintf("(%d attempts)", attempts)) {
			return false
		}
		if j.State == runtime.Failed {
			given++
		}
	}
	return given > 0 && w.strikes >= attempts
}

// checkPushed checks that the registry has what is said to be pushed.
func (w *world) checkPushed(j runtime.JobResult, say func(string, ...any)) {
	if len(j.Images) == 0 {
		say("%s is done and names no image", j.Job)
	}
	for _, img := range j.Images {
		d, ok := w.registry.Resolve(img.Name)
		if !ok || d.String() != img.Digest {
			say("%s stands for %s, not for %s as was reported", img.Name, d, img.Digest)
		}
	}
}

// checkCounts compares what is reported of each node with what it did. Nobody knows all
// of a node that could not be heard for a while, and what a run or a node is told to stop may
// end all the same.
func (w *world) checkCounts(o outcome, say func(string, ...any)) {
	for _, n := range o.result.Nodes {
		if w.hurt[n.Name] {
			continue
		}
		i := slices.IndexFunc(w.specs, func(s nodeset.Spec) bool { return s.Name == n.Name })
		did := 0
		for _, e := range w.nodes[i].Executions() {
			if e.Layer != "" {
				did++
			}
		}
		if n.Ran > did || n.Ran < did && o.err == nil && !o.doubled[n.Name] {
			say("%s is said to have run %d steps; it ran %d", n.Name, n.Ran, did)
		}
	}
}

// checkOnce checks that what was pushed rests on one result of each step, unless a
// warning says otherwise, and that nothing was executed twice without a reason.
func (w *world) checkOnce(o outcome, say func(string, ...any)) {
	vertexOf := map[digest.Digest]digest.Digest{} // of layers
	ran := map[digest.Digest][]string{}
	for i, n := range w.nodes {
		for _, e := range n.Executions() {
			if e.Layer != "" {
				vertexOf[e.Layer] = e.Vertex
				ran[e.Vertex] = append(ran[e.Vertex], w.specs[i].Name)
			}
		}
	}
	in := map[digest.Digest]map[digest.Digest][]string{} // jobs by layer, by vertex
	for _, j := range o.result.Jobs {
		if j.State != runtime.Done {
			continue
		}
		for _, img := range j.Images {
			for _, l := range w.layers(img.Digest) {
				v := vertexOf[l]
				if in[v] == nil {
					in[v] = map[digest.Digest][]string{}
				}
				in[v][l] = append(in[v][l], j.Job)
			}
		}
	}
	told := slices.ContainsFunc(o.result.Warnings, func(s string) bool {
		return strings.Contains(s, "differ") || strings.Contains(s, "still made with the lost one")
	})
	for i, v := range o.work.Graph.Vertices {
		if !o.work.Sched.Vertices[i].Once {
			continue
		}
		if len(in[v.Digest]) > 1 && !told {
			say("images have different results of %s, and nobody says so: %v; it was run by %v", v.Step, slices.Collect(maps.Values(in[v.Digest])), ran[v.Digest])
		}
		if len(ran[v.Digest]) > 1 && !w.lossy {
			say("%s was run by %v", v.Step, ran[v.Digest])
		}
	}
}

// layers returns those of an image in the registry.
func (w *world) layers(image string) []digest.Digest {
	dt, ok := w.registry.Blob(digest.Digest(image))
	if !ok {
		return nil
	}
	var m ocispecs.Manifest
	if json.Unmarshal(dt, &m) != nil {
		return nil
	}
	var list []digest.Digest
	for _, l := range m.Layers {
		list = append(list, l.Digest)
	}
	return list
}
