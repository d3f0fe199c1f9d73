package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/memory"
	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/daemon"
)

// lesson is a run that later ones learn from: the costs of its steps, and the results that
// its nodes hold now.
type lesson struct {
	memory  *memory.Memory
	history *cost.Store
	lasting bool // the history is kept for later runs
	facts   *facts
	build   *plan.Build
	plan    *plan.Plan
	result  *runtime.Result
}

// learn keeps what a run has shown of nodes and caches.
func learn(ctx context.Context, s *Session) []error {
	memory, x := s.engine.memory, &s.run
	if x.work == nil {
		return nil
	}
	l := &lesson{
		memory: memory, history: s.prepared.history, lasting: s.request.History != cost.InMemory,
		facts: s.facts, build: x.build, plan: x.plan, result: x.result,
	}
	return []error{
		s.caches.remember(ctx, memory, x.build, x.result.Caches, time.Now()),
		l.remember(ctx, time.Now()),
		rememberTransfers(s), // whose sizes the history has learned by now
		arrivalsOf(s.standby).remember(x.pool),
	}
}

// remember notes the costs of the run's steps and where their results are.
func (l *lesson) remember(ctx context.Context, now time.Time) error {
	// infos are the nodes, records what each keeps now, usage what it reports of builds.
	infos, records, usage := l.facts.pool.All(), l.records(ctx), l.usage(ctx)
	addr, kept := map[string]string{}, map[string]warm.Records{}
	used := map[string]map[digest.Digest]daemon.StepUsage{} // by address
	for i, n := range l.result.Nodes {
		at := infos[i].Addr
		addr[n.Name], kept[at], used[at] = at, records[i], usage[i].Steps
	}
	list := slices.Clone(l.result.Measured)
	for i, m := range list {
		step := used[m.Node][m.Vertex]
		list[i].CPU, list[i].Memory = step.CPU, step.Memory
	}
	l.build.Names.SetMounts(list, l.mountsBefore(infos))
	l.rememberMachines(infos, usage, list)
	l.build.Record(l.history, list, l.capacity(infos), kept, now)
	l.build.RecordFailures(l.history, l.mishaps(addr), now)
	var errs []error
	for i, n := range l.result.Nodes {
		if n.Lost == nil && infos[i].ID != "" {
			at := infos[i].Addr
			gain := warm.Gain{Steps: l.build.Names.Of(n.Held), Traces: l.build.Names.Traces(at, list), Mounts: l.build.Names.Fills(at, list)}
			errs = append(errs, l.memory.Nodes().Add(at, infos[i].ID, gain, records[i], now))
		}
	}
	return errors.Join(errs...)
}

// records returns what each node keeps now. One that has run no step is not asked again: what
// it keeps of earlier runs it kept when this one began.
func (l *lesson) records(ctx context.Context) []warm.Records {
	ran := map[string]bool{} // by address
	for _, m := range l.result.Measured {
		ran[m.Node] = ran[m.Node] || m.Vertex != ""
	}
	list := l.facts.pool.RecordsOf(ctx, func(info daemon.NodeInfo) bool {
		return ran[info.Addr] || l.facts.kept[info.ID] == nil
	})
	for i, info := range l.facts.pool.All() {
		if i < len(list) && !ran[info.Addr] && list[i] == nil {
			list[i] = l.facts.kept[info.ID]
		}
	}
	return list
}

// mountsBefore returns the cache mounts that each node had filled before the run, by address. A node
// whose id is not known is left out.
func (l *lesson) mountsBefore(infos []daemon.NodeInfo) map[string]map[warm.MountID]bool {
	all := map[string]map[warm.MountID]bool{}
	for i := range l.result.Nodes {
		if infos[i].ID == "" {
			continue
		}
		mounts := map[warm.MountID]bool{}
		all[infos[i].Addr] = mounts
		planned := i < len(l.plan.Nodes)
		if planned && len(l.plan.Nodes[i].Holds.Mounts) == 0 {
			continue
		}
		for m := range l.memory.Nodes().Holds(infos[i].Addr, infos[i].ID).Mounts {
			// What the plan found to be lost is still named.
			if !planned || l.plan.Nodes[i].Holds.Mounts[m] {
				mounts[m] = true
			}
		}
	}
	return all
}

// mishaps returns the executions that failed. addr are the addresses of nodes by their names.
func (l *lesson) mishaps(addr map[string]string) []plan.Mishap {
	var list []plan.Mishap
	for _, s := range l.result.FailedSteps {
		for _, f := range s.Failures {
			list = append(list, plan.Mishap{Node: addr[f.Node], Vertex: s.Vertex})
		}
	}
	return list
}

// usage asks the nodes for the resources that the build used, as far as they are unknown.
func (l *lesson) usage(ctx context.Context) []daemon.Usage {
	nothing := make([]daemon.Usage, len(l.facts.pool.All()))
	if !l.learns() {
		return nothing
	}
	return l.facts.pool.Usage(ctx, l.result.Records())
}

// learns reports whether the run shows the use of a machine's resources: it ran a step, or
// met a new machine.
func (l *lesson) learns() bool {
	if !l.lasting {
		return false // nothing is kept
	}
	for _, n := range l.facts.nodes {
		if m, ok := l.history.Machine(n.Addr); !ok || time.Since(m.When) > freshMachine {
			return true
		}
	}
	var ran []digest.Digest
	for _, m := range l.result.Measured {
		ran = append(ran, m.Vertex)
	}
	return l.build.Unmeasured(ran)
}

// rememberMachines notes the nodes' reports of their machines, and estimates the use of
// steps where there are none.
func (l *lesson) rememberMachines(infos []daemon.NodeInfo, usage []daemon.Usage, list []plan.Measurement) {
	samples, machines := map[string][]daemon.MachineSample{}, map[string]cost.Machine{}
	for i, u := range usage {
		at := infos[i].Addr
		if m, ok := machineOf(u.Samples); ok {
			l.history.RecordMachine(at, m)
			samples[at] = u.Samples
		}
		if m, ok := l.history.Machine(at); ok {
			machines[at] = m
		}
	}
	estimate(list, samples, machines)
}

// capacity returns, by address, the number of steps that the plan assumes each node, or all
// nodes of its machine, to run at once. Where the user gave none, it is what the machine can
// do, as far as that is known now.
func (l *lesson) capacity(infos []daemon.NodeInfo) map[string]plan.Capacity {
	all := map[string]plan.Capacity{}
	for i := range l.result.Nodes {
		var c plan.Capacity
		var assumed bool
		if i < len(l.plan.Nodes) {
			n := l.plan.Nodes[i]
			c, assumed = plan.Capacity{Slots: n.Slots, Machine: n.Machine}, n.SlotsAssumed
			if n.Machine != "" {
				c.Slots = n.Shared
			}
		} else { // it came later
			c.Slots, _, assumed = slots(infos[i].Spec)
		}
		if m, ok := l.history.Machine(infos[i].Addr); ok && (assumed || c.Machine != "") {
			c.Cores = m.Cores
		}
		all[infos[i].Addr] = c
	}
	return all
}
