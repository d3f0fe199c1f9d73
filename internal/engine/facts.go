package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/nodeset"
)

// facts are the properties of the nodes that must be known before Dockerfiles are compiled
// for them.
type facts struct {
	nodes []plan.Node
	// platform is the one that Dockerfiles are compiled for; zero is that of this
	// machine.
	platform ocispecs.Platform
	// caps is the LLB that all nodes support; nil is not known.
	caps *apicaps.CapSet
	// silent says why nodes did not answer that were asked and should run.
	silent []error
	// withOwnStore are the names of the nodes that are Docker engines which keep images in
	// a store of their own.
	withOwnStore []string
	// draining are the names of those that say that they are to go.
	draining []string
	// hostGateway is the address that "host-gateway" stands for on all nodes; "" when one
	// does not know, or they differ.
	hostGateway string
	// pool is that of the nodes when they were started for the build.
	pool *daemon.Pool
	// kept are the results that nodes reported then, by the ids of the nodes.
	kept map[string]warm.Records
}

// gather collects facts about the nodes for a project, and starts them if the reach allows
// it and there is something to build.
func (s *standby) gather(ctx context.Context, p *ir.Project, reach Reach) (*facts, error) {
	builds := len(p.Targets) > 0
	if err := s.narrow(ctx, p, reach != Offline); err != nil {
		return nil, err
	}
	learn := func() (*facts, error) {
		switch {
		case s.nodes == nil: // nobody has needed one so far
			return &facts{}, nil
		case builds && reach == Started:
			return s.ask(ctx)
		}
		return s.guess(ctx, reach == Offline)
	}
	f, err := learn()
	if err != nil || !builds {
		return f, err
	}
	for _, leave := range []func(*facts) (bool, error){
		func(f *facts) (bool, error) { return leaveDrained(s, f) },
		func(f *facts) (bool, error) { return s.fit(f, p) },
	} {
		changed, err := leave(f)
		if err != nil {
			return nil, err
		}
		if changed {
			if f, err = learn(); err != nil {
				return nil, err
			}
		}
	}
	for _, silent := range f.silent {
		s.engine.Report.Warn(fmt.Sprintf("%v; what it holds is taken from earlier builds", silent))
	}
	return f, nil
}

// wake starts nodes that rested and collects their facts, for a project that is to be
// built.
func (s *standby) wake(ctx context.Context, p *ir.Project) (*facts, error) {
	s.rest(false)
	if err := s.narrow(ctx, p, true); err != nil {
		return nil, err
	}
	f, err := s.ask(ctx)
	if err != nil {
		return nil, err
	}
	changed, err := leaveDrained(s, f)
	if err != nil {
		return nil, err
	}
	if changed {
		if f, err = s.ask(ctx); err != nil {
			return nil, err
		}
	}
	if changed, err := s.fit(f, p); err != nil || !changed {
		return f, err
	}
	return s.ask(ctx)
}

// ask starts the nodes and returns their facts. Those that do not answer are left out.
func (s *standby) ask(ctx context.Context) (*facts, error) {
	pool, err := s.start(ctx)
	if err != nil {
		return nil, err
	}
	f := &facts{pool: pool, kept: map[string]warm.Records{}}
	var records []warm.Records
	var asking sync.WaitGroup
	asking.Go(func() { records = pool.Records(ctx) })
	// They are asked for what they support only if they are others than the last time, or of
	// another version.
	if kept, ok := readFacts(s); ok {
		f.caps = kept.capsOf(pool.Nodes())
	}
	if f.caps != nil {
		pool.SetCaps(f.caps)
	} else {
		f.caps, err = pool.LLBCaps(ctx)
	}
	asking.Wait()
	if err != nil {
		return nil, err
	}
	for i, info := range pool.Nodes() {
		f.note(info, records[i])
		f.nodes = append(f.nodes, plannerNode(info, records[i], s.engine.memory.Nodes()))
	}
	f.platform = buildPlatform(f.nodes[0])
	f.hostGateway = commonGateway(pool.Nodes())
	s.keepFacts(f)
	return f, nil
}

// recall returns the facts that Dockerfiles are compiled for as long as no node is asked:
// those of the last time, if they are known, else those of the flags and of this machine.
func (s *standby) recall() (f *facts, known bool) {
	f = &facts{}
	for _, spec := range s.nodes.specs {
		if list := append(slices.Clone(spec.Platforms), spec.Prefers...); len(list) > 0 {
			if p, err := platforms.Parse(list[0]); err == nil {
				f.platform = platforms.Normalize(p)
			}
			break
		}
	}
	return f, s.recallFacts(f)
}

// guess returns facts about the nodes without starting any. Running nodes are asked, unless
// offline; for the others the flags and the ledger are believed.
func (s *standby) guess(ctx context.Context, offline bool) (*facts, error) {
	n := s.nodes
	f := &facts{}
	answers := make([]daemon.Answer, len(n.specs))
	if !offline {
		answers = daemon.Ask(ctx, n.specs)
		f.caps = daemon.CommonCaps(answers)
	}
	first := -1 // that a build would find
	var away []nodeset.Spec
	for i, spec := range n.specs {
		rests := n.mayRest(spec)
		switch err := answers[i].Err; {
		case !offline && err == nil:
			f.note(answers[i].Info, nil)
			node := plannerNode(answers[i].Info, answers[i].Records, s.engine.memory.Nodes())
			node.Tenants = answers[i].Tenants
			f.nodes = append(f.nodes, node)
		case err != nil && !rests:
			f.silent, away = append(f.silent, err), append(away, spec)
			fallthrough
		default:
			node, err := n.assume(spec, s.engine.memory.Nodes())
			if err != nil {
				return nil, err
			}
			f.nodes = append(f.nodes, node)
		}
		if first < 0 && (rests || !offline && answers[i].Err == nil) {
			first = i
		}
	}
	f.platform = buildPlatform(f.nodes[max(0, first)])
	if len(away) < len(n.specs) {
		if err := arrivalsOf(s).postpone(f, away); err != nil {
			return nil, err
		}
	}
	if offline {
		last := &facts{}
		s.recallFacts(last)
		f.hostGateway = last.hostGateway
		return f, nil
	}
	infos := make([]daemon.NodeInfo, len(answers))
	for i, a := range answers {
		infos[i] = a.Info
	}
	f.hostGateway = commonGateway(infos)
	return f, nil
}

// commonGateway is the address that "host-gateway" stands for on all nodes, or "". All
// steps are made once for all nodes, so it must not matter which of them runs one.
func commonGateway(nodes []daemon.NodeInfo) string {
	for _, n := range nodes {
		if n.HostGateway != nodes[0].HostGateway {
			return ""
		}
	}
	return nodes[0].HostGateway
}

// note remembers the special properties of a node, and the results that it keeps; nil when it
// did not say.
func (f *facts) note(info daemon.NodeInfo, records warm.Records) {
	if records != nil && f.kept != nil {
		f.kept[info.ID] = records
	}
	if info.Drains {
		f.draining = append(f.draining, info.Name)
	}
	if info.OwnStore {
		f.withOwnStore = append(f.withOwnStore, info.Name)
	}
}

// buildPlatform is the platform that Dockerfiles are compiled for when n is the first
// of the nodes.
func buildPlatform(n plan.Node) ocispecs.Platform {
	if len(n.Platforms) > 0 {
		return n.Platforms[0]
	}
	return n.Native
}

// assume returns a node as the planner sees it before it has answered.
func (n *nodes) assume(s nodeset.Spec, ledger warm.Ledger) (plan.Node, error) {
	p := plan.Node{Name: s.Name, Addr: s.Addr, Speed: s.Speed}
	p.Slots, p.SlotsWhy, p.SlotsAssumed = slots(s)
	p.Machine, p.Shared = machine(s)
	names := s.Platforms
	if len(names) == 0 {
		names = s.Prefers // as long as it is not known what else it runs
	}
	for _, name := range names {
		pl, err := platforms.Parse(name)
		if err != nil {
			return p, fmt.Errorf("node %s: platform %q: %w", s.Name, name, err)
		}
		p.Platforms = append(p.Platforms, pl)
	}
	if n.mayRest(s) {
		p.Native = platforms.Normalize(platforms.DefaultSpec()) // it will run on this machine
	}
	p.Holds = ledger.Holds(s.Addr, "")
	return p, nil
}

// plannerNode returns a node as the planner sees it when it has answered. records lists the
// results it keeps, nil when it did not report them.
func plannerNode(i daemon.NodeInfo, records warm.Records, ledger warm.Ledger) plan.Node {
	p := plan.Node{Name: i.Name, Addr: i.Addr, Speed: i.Speed, Platforms: i.Platforms, Native: i.Native}
	p.Slots, p.SlotsWhy, p.SlotsAssumed = slots(i.Spec)
	p.Machine, p.Shared = machine(i.Spec)
	if records == nil {
		p.Holds = ledger.Holds(i.Addr, i.ID)
	} else {
		p.Holds, p.Lost = ledger.Check(i.Addr, i.ID, records)
	}
	return p
}

// frontendOptions returns how Dockerfiles are compiled for the nodes. With offline nobody is
// asked.
func (s *standby) frontendOptions(ctx context.Context, f *facts, resolver *frontend.RegistryResolver, offline bool) frontend.Options {
	opts := frontend.Options{
		Dir:               s.engine.Dir,
		Resolver:          resolver,
		Tree:              s.tree(),
		GitQueryAsInput:   s.engine.on(envGitQueryAsInput),
		DefaultProvenance: "mode=min,inline-only=true",
		ProxyArgs:         s.engine.proxyArgs(),
		NodePlatform:      f.platform,
		LLBCaps:           f.caps,
		HostGateway:       f.hostGateway,
	}
	if !offline {
		opts.Gateway = s
	}
	if s.engine.on(envNoAttestations) || f.ownStore() || f.caps != nil && !f.caps.Contains(pb.CapAttestations) {
		opts.DefaultProvenance = ""
	}
	s.engine.passVCS(ctx, &opts)
	return opts
}
