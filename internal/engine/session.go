package engine

import (
	"context"
	"errors"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/stopwatch"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
)

// Stage is a part of the way from a definition to what was built.
type Stage int

// The stages, in their order.
const (
	Choose   Stage = iota // which nodes are used; none is contacted
	Compile               // the definition is resolved to targets
	Admit                 // what cannot be done or was not granted is refused
	Access                // targets get what it takes to read and write where they say
	Facts                 // what the nodes are, support and hold
	Prepare               // Dockerfiles become one graph of steps, with their costs
	Reuse                 // what has not changed since it was pushed is left out
	Caches                // what caches in registries hold
	Divide                // which node builds what: the plan
	Order                 // what the nodes are to do
	Run                   // they carry it out
	Remember              // what was learned is kept for the next time
)

// stages does them. Each counts as the phase of the session's time that it is named
// after; a run divides its time itself.
var stages = [...]struct {
	phase string
	do    func(*Session, context.Context) error
}{
	Choose: {"read the definition", func(s *Session, ctx context.Context) error {
		return s.standby.choose(ctx)
	}},
	Compile: {"read the definition", func(s *Session, ctx context.Context) error {
		return s.scope.compile(ctx, s.standby)
	}},
	Admit: {"read the definition", func(s *Session, ctx context.Context) error {
		return s.scope.admit(ctx, s.standby)
	}},
	Access: {"read the definition", func(s *Session, ctx context.Context) error {
		return s.scope.access(ctx, s.standby)
	}},
	Facts:   {"reach the nodes", (*Session).gather},
	Prepare: {"compile the Dockerfiles", (*Session).prepare},
	Reuse:   {"look for what has not changed", (*Session).reuse},
	Caches:  {"look for caches", (*Session).findCaches},
	Divide:  {"plan", (*Session).divide},
	Order:   {"plan", (*Session).order},
	Run: {"connect", func(s *Session, ctx context.Context) error {
		return s.run.carryOut(ctx, &s.images, s.prepared.faults)
	}},
	Remember: {"remember", (*Session).remember},
}

// Session is one definition on its way: its stages, and the thread between them. What a
// stage finds out belongs to a part, which the stages after it are given.
type Session struct {
	engine  *Engine
	request Request
	done    Stage // the first that is yet to be done
	watch   *stopwatch.Watch

	standby  *standby    // the nodes: Choose; later stages may choose those that were left for later
	scope    scope       // what is asked for: Compile, Admit, Access
	facts    *facts      // of the nodes: Facts
	prepared preparation // how Dockerfiles are compiled, and all that was: Prepare
	images   Images      // the images of targets, and which are not built: Reuse
	changes  Changes     // since earlier states of the project: Reuse
	caches   buildCaches // Caches

	// build is what is to be built, in the form that it has after the stage that was
	// done last, from Prepare on. plan is the plan for it, from Divide on; nil when
	// nothing is left to be built.
	build *plan.Build
	plan  *plan.Plan

	run execution // Order, Run
}

// Open starts a session. It must be closed.
func (e *Engine) Open(r Request) *Session {
	s := &Session{engine: e, request: r, watch: stopwatch.New(), standby: &standby{engine: e, choice: r.Nodes, atomic: r.Atomic}}
	s.scope = scope{engine: e, request: &s.request}
	s.prepared = preparation{engine: e, request: &s.request}
	s.images = Images{engine: e, request: &s.request, pushed: pushed{standby: s.standby}}
	if len(r.Stores) > 0 {
		s.images.pushed.store = r.Stores[0] // where others may read what was pushed
	}
	s.prepared.others = s.images.pushed.recollections()
	s.changes = Changes{engine: e, since: r.Since, buildAt: s.buildAt}
	s.run = execution{engine: e, request: &s.request}
	return s
}

// Through does what has not been done of the stages up to and including last. After an
// error the session can only be closed.
func (s *Session) Through(ctx context.Context, last Stage) error {
	defer s.watch.Stop()
	for ; s.done <= last; s.done++ {
		stage := stages[s.done]
		s.watch.Enter(stage.phase)
		if err := stage.do(s, ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close gives back all that the session has taken.
func (s *Session) Close() error {
	s.prepared.close()
	return s.standby.close()
}

// gather finds out about the nodes. They are started only for something to build.
func (s *Session) gather(ctx context.Context) (err error) {
	project, reach := s.scope.project, s.request.Reach
	if s.scope.builds() && s.standby.nodes != nil && reach == Started {
		s.standby.nodes.allow(project)
		if f, ok := s.images.mayRest(ctx, project, s.standby); ok {
			s.facts = f
			return nil
		}
	}
	s.facts, err = s.standby.gather(ctx, project, reach)
	return err
}

// prepare compiles the Dockerfiles. Nodes that rest are started if one has to be asked for
// something that is not remembered.
func (s *Session) prepare(ctx context.Context) (err error) {
	compile := func() error {
		return s.prepared.prepare(ctx, s.scope.project, s.prepared.options(ctx, s.standby, s.facts))
	}
	err = compile()
	if s.standby.resting && s.prepared.needsNode(err) && s.images.pushed.learn(ctx) {
		err = compile()
	}
	if s.standby.resting && s.prepared.needsNode(err) {
		if s.facts, err = s.standby.wake(ctx, s.scope.project); err != nil {
			return err
		}
		s.prepared.resolver = nil
		err = compile()
	}
	if err != nil {
		return err
	}
	s.build = s.prepared.full
	s.changes.of(s.build)
	s.facts.nodes = s.build.Capacity(s.facts.nodes)
	return nil
}

// reuse leaves out the targets whose images are unchanged, and those that were not asked
// for since a revision. Nodes that rest are started only when something is left to build;
// if they are not what was assumed of them, Dockerfiles are compiled again.
func (s *Session) reuse(ctx context.Context) (err error) {
	if err := s.judge(ctx); err != nil {
		return err
	}
	if s.standby.resting && len(s.images.remaining()) > 0 {
		assumed := s.facts
		if s.facts, err = s.standby.wake(ctx, s.scope.project); err != nil {
			return err
		}
		if s.prepared.recalled() || !assumed.compiles(s.facts) {
			if err := s.prepare(ctx); err != nil {
				return err
			}
			if err := s.judge(ctx); err != nil {
				return err
			}
		}
	}
	s.build, err = s.images.leave(ctx, s.build, s.prepared.planMemory)
	return err
}

// judge decides which targets are not built.
func (s *Session) judge(ctx context.Context) error {
	unchanged, err := s.changes.findUnchanged(ctx)
	if err != nil {
		return err
	}
	return s.images.judge(ctx, s.prepared.full, unchanged)
}

// findCaches asks registries what their caches hold.
func (s *Session) findCaches(ctx context.Context) error {
	if s.request.Reach == Offline || s.images.Idle() {
		return nil // and every target may be divided whose outputs allow it
	}
	// Caches are named by the targets that share steps, whichever of them are built.
	s.caches = s.standby.caches(ctx, s.request.Stores, s.prepared.full)
	s.build = s.build.WithCache(s.caches.learn(ctx, s.engine.memory, s.prepared.full))
	return nil
}

// divide makes the plan, or takes the saved one.
func (s *Session) divide(ctx context.Context) (err error) {
	r := &s.request
	switch {
	case s.images.Idle():
		return nil
	}
	arrivalsOf(s.standby).muster(ctx, s.facts, s.build)
	s.facts.lookAround(ctx, s.engine.Report.Note)
	s.build = plan.Through(s.build, wayOf(s))
	switch {
	case r.Warm:
		s.build, s.plan, err = s.caches.share(ctx, s.build, s.facts.nodes, r.WarmAll, s.prepared.planMemory())
		return err
	case r.Saved != nil:
		s.build, s.plan, err = s.build.Restore(s.facts.nodes, s.images.leftOf(r.Saved, s.build), s.prepared.faults)
	default:
		s.build, s.plan, err = s.With(ctx, r.Strategy)
	}
	if errors.Is(err, plan.ErrNoNode) && s.facts.pool != nil {
		// One of those that are away might.
		err = errors.Join(err, errors.Join(s.facts.pool.Absent()...))
	}
	return err
}

// With returns the build divided with a strategy, and the plan. The stage [Caches] must
// have been done.
func (s *Session) With(ctx context.Context, strategy partition.Strategy) (*plan.Build, *plan.Plan, error) {
	return s.choose(ctx, s.build, s.facts.nodes, strategy)
}

// choose is With for a build and nodes.
func (s *Session) choose(ctx context.Context, b *plan.Build, nodes []plan.Node, strategy partition.Strategy) (*plan.Build, *plan.Plan, error) {
	may := s.caches.joinable(ctx, s.engine.Dir)
	if s.request.Limit > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, s.request.Limit)
		defer stop()
	}
	return b.Choose(ctx, nodes, strategy, s.request.Planning, may)
}

// Price finds out what the rule for duplicates costs the plan. The stage [Divide] must
// have been done.
func (s *Session) Price(ctx context.Context) error {
	if len(s.plan.Nodes) < 2 || s.request.duplicates() == plan.DuplicatesAny || s.request.Saved != nil {
		return nil
	}
	unbound := s.build.WithDuplicates(plan.DuplicatesAny)
	if near, err := unbound.Near(s.plan); err != nil || near {
		s.plan.Unbound = s.plan.Makespan // it is a plan without the rule, too
		return err
	}
	_, free, err := s.choose(ctx, unbound, s.facts.nodes, s.request.Strategy)
	if err == nil {
		s.plan.Unbound = free.Makespan
	}
	return err
}

// Options say how the definition is resolved, for callers that want something else of it than
// [Compile] makes. The stage [Choose] must have been done.
func (s *Session) Options() compiler.Options { return s.scope.options(s.standby) }

// Timings say where the time of the stages went, those of the run divided further.
func (s *Session) Timings() []stopwatch.Phase { return s.watch.Phases() }

// Project is the whole definition.
func (s *Session) Project() *ir.Project { return s.scope.whole }

// Definition is the part of the definition that is built, as it is defined.
func (s *Session) Definition() *ir.Project { return s.scope.definition }

// Questions are the targets that ask for something other than a build.
func (s *Session) Questions() []*ir.Target { return s.scope.questions }

// Definitions are the digests of the definitions of what is built, wherever the local
// registry is.
func (s *Session) Definitions() (map[string]digest.Digest, error) {
	return s.scope.definitions(s.standby)
}

// Footprint is what the targets touch on this machine. The stage [Prepare] must have been
// done.
func (s *Session) Footprint() Footprint { return s.scope.footprint(s.prepared.full) }

// Build is what was prepared, and divided by then.
func (s *Session) Build() *plan.Build { return s.build }

// Images are the images of the targets. The stage [Reuse] must have been done.
func (s *Session) Images() *Images { return &s.images }

// Changes compare the targets with what they were. The stage [Prepare] must have been
// done.
func (s *Session) Changes() *Changes { return &s.changes }

// Plan is the plan; nil when nothing is left to be built.
func (s *Session) Plan() *plan.Plan { return s.plan }

// Result is what the run did, nil when there was none, and what failed in it.
func (s *Session) Result() (*runtime.Result, error) { return s.run.result, s.run.failure }
