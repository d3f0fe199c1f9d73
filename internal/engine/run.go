package engine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/entitlement"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/sched"
)

// order puts together what the nodes are to be told.
func (s *Session) order(ctx context.Context) (err error) {
	if s.idle {
		return nil
	}
	if s.facts.pool == nil {
		return errors.New("nothing can be built in a session that has not started its nodes")
	}
	r, e, nodes := &s.request, s.engine, s.standby.nodes
	s.work = &runtime.Build{
		Graph: s.build.Graph, Jobs: s.build.Jobs, Steps: s.plan.Exchange.Steps,
		Sched: runtime.Schedule(s.plan, sched.Options{
			Jobs: r.Jobs, KeepGoing: r.KeepGoing, DeferOutput: r.DeferOutput,
			Steal:   !r.NoSteal && len(nodes.specs) > 1,
			Backoff: time.Second, Ahead: 1,
			// Nodes on one machine would only take the processor from each other.
			NoHedge: nodes.cluster != nil,
		}),
		Inputs: runtime.Inputs{
			Dirs: s.build.Locals(), Secrets: runtime.SecretSources(s.build.Secrets, e.Env, e.path), SSH: map[string][]string{},
			Env: e.Env, SharedKey: sharedKey(s.project.Dir),
		},
		Dir: s.project.Dir, Stdout: e.Stdout, Load: s.load,
		Cache: s.caches.Input, CacheHolds: s.caches.holds, Registries: s.caches.access,
		Credentials: runtime.NewCacheCredentials(ctx, s.project, e.Env),
		Provenance:  r.Provenance,
		Watch:       s.watch,
	}
	for _, store := range r.Stores {
		if store.Bases {
			s.work.Bases = store.Name
			break
		}
	}
	for i, c := range s.build.Costs {
		s.work.Sched.Vertices[i].Memory = c.Memory
	}
	if s.load != nil && r.LoadEngine != nil && s.facts.ownStore() {
		s.work.LoadEngine = r.LoadEngine(ctx)
	}
	for id, agent := range s.build.SSH {
		s.work.Inputs.SSH[id] = agent.Paths
	}
	s.work.Entitlements, err = entitlement.Needed(s.build.Units)
	return err
}

// sharedKey tells this project on this machine from all others, without telling the
// nodes its path.
func sharedKey(dir string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown" // then only the path tells projects apart
	}
	sum := sha256.Sum256([]byte(host + "\x00" + dir))
	return hex.EncodeToString(sum[:16])
}

// run carries the plan out. That something failed is no error of this stage when there
// is a result: what was learned until then is still to be remembered.
func (s *Session) run(ctx context.Context) (err error) {
	start := time.Now()
	s.journal = newJournal(s.build, start)
	var ends []runtime.JobResult
	var unnamed error
	early := s.idle || !s.request.DeferOutput
	if early {
		ends, unnamed = s.keep(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if s.idle || unnamed != nil && !s.request.KeepGoing {
		s.result = &runtime.Result{}
	} else {
		report := s.engine.Report
		if err := report.Begin(s.build, s.plan, len(s.facts.nodes) > 1); err != nil {
			return err
		}
		s.result, err = s.facts.pool.Run(ctx, s.work, func(e runtime.Event) {
			s.journal.observe(e)
			report.Observe(e)
		})
		report.End()
	}
	err = errors.Join(err, plan.Join(s.faults))
	if s.result == nil {
		return err
	}
	if !early && err == nil {
		ends, unnamed = s.keep(ctx)
	}
	s.failure = errors.Join(err, unnamed)
	s.result.Jobs = append(s.result.Jobs, faultResults(s.faults)...)
	s.withKept(ends)
	s.result.Wall = time.Since(start)
	return nil
}

// faultResults are the targets that were not built because of faults.
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

// remember keeps what was learned. What cannot be kept is reported, and no error.
func (s *Session) remember(ctx context.Context) error {
	memory := s.engine.memory
	if err := memory.Runs().Add(s.journal.run(ctx, s)); err != nil {
		memory.Forgets(err)
	}
	ctx = context.WithoutCancel(ctx)
	if err := s.rememberImages(ctx, time.Now()); err != nil {
		memory.Forgets(err)
	}
	if s.idle || s.facts.pool == nil {
		return nil
	}
	for _, err := range []error{
		s.caches.remember(ctx, memory, s.build, s.result.Caches, time.Now()),
		s.rememberSteps(s.facts.pool.All(), s.facts.pool.Records(ctx), s.usage(ctx), time.Now()),
	} {
		if err != nil {
			memory.Forgets(err)
		}
	}
	return nil
}

// rememberSteps notes what the steps of the run took and where their results are.
// records are what each node keeps now, usage what it told of the builds.
func (s *Session) rememberSteps(infos []runtime.NodeInfo, records []warm.Records, usage []runtime.Usage, now time.Time) error {
	addr, capacity, kept := map[string]string{}, map[string]plan.Capacity{}, map[string]warm.Records{}
	native, used := map[string]ocispecs.Platform{}, map[string]map[digest.Digest]runtime.StepUsage{}
	for i, n := range s.result.Nodes {
		at := infos[i].Addr
		addr[n.Name], native[n.Name], kept[at] = at, infos[i].Native, records[i]
		capacity[at] = s.capacity(i, infos[i])
		used[n.Name] = usage[i].Steps
	}
	var list []plan.Measurement
	for _, m := range s.result.Measured {
		list = append(list, plan.Measurement{Node: addr[m.Node], Native: native[m.Node], Vertex: m.Vertex, Job: m.Job, Start: m.Start, Took: m.Took, CPU: used[m.Node][m.Vertex].CPU, Memory: used[m.Node][m.Vertex].Memory})
	}
	s.rememberMachines(infos, usage, list)
	s.build.Record(s.history, list, capacity, kept, now)
	var errs []error
	for i, n := range s.result.Nodes {
		if n.Lost == nil && infos[i].ID != "" {
			at := infos[i].Addr
			errs = append(errs, s.engine.memory.Nodes().Add(at, infos[i].ID, s.build.Held(n.Held), s.build.Traces(at, list), records[i], now))
		}
	}
	return errors.Join(errs...)
}
