package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"time"

	digest "github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/entitlement"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/sched"
)

// execution is a plan that is carried out.
type execution struct {
	engine  *Engine
	request *Request

	// After Order.
	build   *plan.Build
	plan    *plan.Plan
	project *ir.Project
	pool    *daemon.Pool
	several bool           // nodes take part
	work    *runtime.Build // what they are to do; nil when nothing is left to be built

	// After Run.
	journal *journal
	result  *runtime.Result
	failure error // what failed in a run that has a result
}

// order puts together what the nodes are to do.
func (s *Session) order(ctx context.Context) (err error) {
	x := &s.run
	x.build, x.plan, x.project = s.build, s.plan, s.scope.project
	if s.images.Idle() {
		return nil
	}
	x.pool, x.several = s.facts.pool, len(s.facts.nodes) > 1
	if x.pool == nil {
		return errors.New("nothing can be built in a session that has not started its nodes")
	}
	r, e, nodes := &s.request, s.engine, s.standby.nodes
	x.work = &runtime.Build{
		Graph: s.build.Graph, Jobs: s.build.Jobs, Steps: s.plan.Exchange.Steps,
		Sched: runtime.Schedule(s.plan, sched.Options{
			Jobs: r.Jobs, KeepGoing: r.KeepGoing, DeferOutput: r.DeferOutput, Whole: r.Atomic,
			Steal:   !r.NoSteal && len(nodes.specs) > 1,
			Backoff: time.Second, Ahead: 1, RetrySteps: r.RetrySteps,
			// Nodes on one machine would only take the processor from each other.
			NoHedge: nodes.cluster != nil,
		}),
		Inputs: daemon.Inputs{
			Dirs: s.build.Locals(), Secrets: daemon.SecretSources(s.build.Secrets, e.Env, e.path), SSH: map[string][]string{},
			Env: e.Env, Docker: e.Docker, SharedKey: sharedKey(x.project.Dir),
		},
		Dir: x.project.Dir, Stdout: e.Stdout, Load: s.scope.load,
		Cache: s.caches.Input, CacheHolds: s.caches.holds, Registries: s.caches.access,
		Kept:        x.stock(),
		Credentials: cacheentry.NewCredentials(ctx, x.project, e.Env),
		Provenance:  r.Provenance,
		Withhold:    r.Atomic,
		Faulty:      faulty(s.prepared.faults),
		Watch:       s.watch,
		Drained:     nodes.drained,
		Held:        x.holdings,
	}
	if r.Trace {
		x.work.Tracing = daemon.NewTracing()
	}
	for _, store := range r.Stores {
		if store.Bases {
			x.work.Bases = store.Name
			break
		}
	}
	for i, c := range s.build.Costs {
		x.work.Sched.Vertices[i].Memory = c.Memory
		past := runtime.Trials{}
		past.Failed, past.All = s.build.Trials(i)
		x.work.Past = append(x.work.Past, past)
		x.work.Sched.Vertices[i].Flaky = past.Flaky()
	}
	if x.work.Load != nil && r.LoadEngine != nil && s.facts.ownStore() {
		x.work.LoadEngine = r.LoadEngine(ctx)
	}
	for id, agent := range s.build.SSH {
		x.work.Inputs.SSH[id] = agent.Paths
	}
	x.work.Entitlements, err = entitlement.Needs(s.build.Units)
	return err
}

// stock returns the units whose steps all have results that were found on the node that the
// plan gives the units to.
func (x *execution) stock() map[ir.UnitID]bool {
	kept := map[ir.UnitID]bool{}
	if x.plan.Pooled {
		return kept // any node may get any
	}
	on := map[ir.UnitID]int{}
	for n, parts := range x.plan.Partitions {
		for _, part := range parts {
			for _, j := range part {
				for _, u := range x.build.Jobs[j].Units {
					on[u.ID], kept[u.ID] = n, true
				}
			}
		}
	}
	for i, v := range x.build.Graph.Vertices {
		if !v.Kind.IsStep() {
			continue
		}
		for _, user := range v.Users {
			u := ir.UnitID(user)
			if kept[u] && (v.IgnoreCache || !x.plan.Nodes[on[u]].Holds.Proven[x.build.Names.Result(i)]) {
				delete(kept, u)
			}
		}
	}
	return kept
}

// holdings returns the steps whose results a node keeps that has come, or come back: from
// earlier runs, as far as the node still has them, and from what it executed in this one.
func (x *execution) holdings(info daemon.NodeInfo, records warm.Records, executed []plan.Measurement) []digest.Digest {
	holds, _ := x.engine.memory.Nodes().Check(info.Addr, info.ID, records)
	return x.build.Names.Holdings(holds, records, executed)
}

// sharedKey identifies this project on this machine, without showing the
// nodes its path.
func sharedKey(dir string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown" // then only the path distinguishes projects
	}
	sum := sha256.Sum256([]byte(host + "\x00" + dir))
	return hex.EncodeToString(sum[:16])
}

// carryOut carries the plan out, without the targets of faults. A failure with a result is no
// error of this stage: what was learned until then is still remembered.
func (x *execution) carryOut(ctx context.Context, images *Images, faults []plan.Fault) (err error) {
	start := time.Now()
	x.journal = newJournal(x.build, start)
	var ends []runtime.JobResult
	var unnamed error
	early := !x.request.Atomic && (x.work == nil || !x.request.DeferOutput)
	if early {
		ends, unnamed = images.keep(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if x.work == nil || unnamed != nil && !x.request.KeepGoing {
		x.result = &runtime.Result{}
	} else {
		report := x.engine.Report
		if err := report.Begin(x.build, x.plan, x.several); err != nil {
			return err
		}
		x.result, err = runtime.Run(ctx, x.pool, x.work, func(e runtime.Event) {
			x.journal.observe(e)
			report.Observe(e)
		})
		report.End()
	}
	err = errors.Join(err, plan.Join(faults))
	if x.result == nil {
		return err
	}
	if !early {
		err = x.publish(ctx, images, err)
	}
	if !early && err == nil {
		ends, unnamed = images.keep(ctx)
	}
	x.failure = errors.Join(err, unnamed)
	x.result.Jobs = append(x.result.Jobs, faultResults(faults)...)
	images.addTo(x.result, x.project, ends)
	x.result.Wall = time.Since(start)
	return nil
}

// faulty returns the targets of faults.
func faulty(faults []plan.Fault) []string {
	var names []string
	for _, f := range faults {
		names = append(names, f.Target)
	}
	return names
}

// faultResults returns the targets that were not built because of faults.
func faultResults(faults []plan.Fault) []runtime.JobResult {
	var list []runtime.JobResult
	for _, f := range faults {
		j := runtime.JobResult{Job: f.Target, Target: f.Target, State: runtime.Skipped, Reason: f.Needs + " failed"}
		if f.Err != nil {
			j.State, j.Reason, j.Err = runtime.Failed, f.Err.Error(), f.Err
		}
		list = append(list, j)
	}
	return list
}

// remember keeps what was learned. Failure to save is only a warning.
func (s *Session) remember(ctx context.Context) error {
	memory, x := s.engine.memory, &s.run
	done := x.journal.run(ctx, s.scope.definition.Dir, x, s.prepared.full)
	if err := memory.Runs().Add(done); err != nil {
		memory.Forgets(err)
	}
	ctx = context.WithoutCancel(ctx)
	if x.work != nil && x.work.Tracing != nil {
		if err := rememberSpans(ctx, x, memory.Runs(), done.ID); err != nil {
			memory.Forgets(err)
		}
	}
	var naming errgroup.Group
	naming.Go(func() error { // it asks registries, the rest asks nodes
		return s.images.remember(ctx, x.result, s.prepared.resolver, time.Now())
	})
	errs := learn(ctx, s)
	for _, err := range append([]error{naming.Wait()}, errs...) {
		if err != nil {
			memory.Forgets(err)
		}
	}
	return nil
}
