package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/imagekey"
	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/internal/stopwatch"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/registry"
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
	Order                 // what the nodes are to be told
	Run                   // they carry it out
	Remember              // what was learned is kept for the next time
)

// stages does them. Each counts as the phase of the session's time that it is named
// after; a run divides its time itself.
var stages = [...]struct {
	phase string
	do    func(*Session, context.Context) error
}{
	Choose:   {"read the definition", (*Session).choose},
	Compile:  {"read the definition", (*Session).compile},
	Admit:    {"read the definition", (*Session).admit},
	Access:   {"read the definition", (*Session).access},
	Facts:    {"reach the nodes", (*Session).gather},
	Prepare:  {"compile the Dockerfiles", (*Session).prepare},
	Reuse:    {"look for what has not changed", (*Session).reuse},
	Caches:   {"look for caches", (*Session).findCaches},
	Divide:   {"plan", (*Session).divide},
	Order:    {"plan", (*Session).order},
	Run:      {"connect", (*Session).run},
	Remember: {"remember", (*Session).remember},
}

// Session is one definition on its way. Each stage fills the fields below its name.
type Session struct {
	engine  *Engine
	request Request
	done    Stage // the first that is yet to be done
	watch   *stopwatch.Watch

	// Choose; the stages after it may choose the nodes that were left for later.
	standby *standby

	// Compile
	whole *ir.Project

	// Access
	definition *ir.Project // what is built, as it is defined
	project    *ir.Project // what is built, in the form in which it is
	questions  []*ir.Target
	load       func(context.Context) (io.WriteCloser, error)

	// Facts
	facts *facts

	// Prepare
	history *cost.Store
	build   *plan.Build
	faults  []plan.Fault
	// resolver answers for base images, the same whenever it is asked.
	resolver *frontend.RegistryResolver

	// Reuse; build is of what is left from then on
	pushed pushed
	full   *plan.Build // of everything
	keys   map[string]imagekey.Key
	kept   []kept
	idle   bool // nothing is left to be built
	// comparison is that of the request, and compared the build that it is about.
	comparison *Comparison
	compared   *plan.Build

	// Caches
	caches buildCaches
	may    func(*ir.Target) bool // be divided although it need not; nil is all

	// Divide
	plan *plan.Plan

	// Order
	work *runtime.Build

	// Run
	journal *journal // of the run
	result  *runtime.Result
	failure error // what failed in a run that has a result
}

// Open starts a session. It must be closed.
func (e *Engine) Open(r Request) *Session {
	return &Session{engine: e, request: r, watch: stopwatch.New(), standby: &standby{engine: e, choice: r.Nodes}}
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
	if s.history != nil {
		s.engine.memory.CloseHistory(s.history)
		s.engine.memory.Prune(time.Now())
	}
	return s.standby.close()
}

// choose says which nodes are used.
func (s *Session) choose(ctx context.Context) (err error) {
	if s.request.Nodes.Late {
		return nil
	}
	s.standby.nodes, err = s.engine.findNodes(ctx, s.request.Nodes)
	return err
}

// Options say how the definition is resolved, for who wants something else of it than
// [Compile] makes. The stage [Choose] must have been done.
func (s *Session) Options() compiler.Options {
	o := s.request.Definition
	o.Env = s.standby.nodes.environment(s.engine.Env)
	if s.request.Reach != Offline {
		o.Remote = s.standby
	}
	s.request.Moment.apply(&o)
	return o
}

// compile resolves the definition.
func (s *Session) compile(ctx context.Context) (err error) {
	s.whole, err = compiler.Compile(ctx, s.Options())
	if s.request.Saved != nil && (errors.Is(err, compiler.ErrNoDefinition) || errors.Is(err, fs.ErrNotExist)) {
		err = fmt.Errorf("%w; a plan is built in the directory in which it was made", err)
	}
	if err != nil || s.request.Judge == nil {
		return err
	}
	return s.request.Judge(s.whole.Warnings)
}

// admit refuses what cannot be done or was not granted.
func (s *Session) admit(ctx context.Context) error {
	if err := s.engine.checkSwitches(); err != nil {
		return err
	}
	if err := s.engine.refusePolicies(s.whole); err != nil || s.request.Admit == nil {
		return err
	}
	questions, build := split(s.whole)
	return s.request.Admit(ctx, Admission{Project: s.whole, Build: s.buildable(build), Questions: questions})
}

// access gives targets what it takes to read and write where they say.
func (s *Session) access(ctx context.Context) (err error) {
	s.whole = s.standby.withAccess(s.whole)
	s.questions, s.definition = split(s.whole)
	if err := s.checkSaved(); err != nil {
		return err
	}
	s.project = s.buildable(s.definition)
	if s.request.Load != nil && len(s.project.Targets) > 0 {
		s.project, s.load, err = s.request.Load(ctx, s.project)
	}
	return err
}

// checkSaved refuses a saved plan whose targets are defined in another way now.
func (s *Session) checkSaved() error {
	saved := s.request.Saved
	if saved == nil {
		return nil
	}
	definitions, err := s.Definitions()
	if err != nil {
		return err
	}
	err = saved.Check(definitions)
	if w := saved.World; err != nil && w != nil && len(w.Withheld) > 0 {
		err = fmt.Errorf("%w, or set the variables that may be secret and are not in the plan as they were: %s", err, strings.Join(w.Withheld, ", "))
	}
	return err
}

// gather finds out about the nodes. They are started only for something to build.
func (s *Session) gather(ctx context.Context) (err error) {
	builds := len(s.project.Targets) > 0
	if builds && s.standby.nodes != nil && s.request.Reach == Started {
		s.standby.nodes.allow(s.project)
		// What a Docker engine can write is not known before it is asked.
		if !s.standby.nodes.hasEngine() && s.mayRest(ctx) {
			s.facts = s.standby.recall()
			return nil
		}
	}
	if err := s.standby.narrow(ctx, s.project, s.request.Reach != Offline); err != nil {
		return err
	}
	if err := s.learn(ctx); err != nil || !builds {
		return err
	}
	if err := s.fit(ctx); err != nil {
		return err
	}
	for _, silent := range s.facts.silent {
		s.engine.Report.Warn(fmt.Sprintf("%v; what it holds is taken from earlier builds", silent))
	}
	return nil
}

// learn asks the nodes what they are.
func (s *Session) learn(ctx context.Context) (err error) {
	builds := len(s.project.Targets) > 0
	switch {
	case s.standby.nodes == nil: // nobody has needed one so far
		s.facts = &facts{}
	case builds && s.request.Reach == Started:
		s.facts, err = s.standby.ask(ctx)
	default:
		s.facts, err = s.standby.guess(ctx, s.request.Reach == Offline)
	}
	return err
}

// prepare compiles the Dockerfiles. With [Request.KeepGoing], targets that cannot be
// compiled are left to the result.
func (s *Session) prepare(ctx context.Context) (err error) {
	memory := s.engine.memory
	if s.history == nil {
		s.history = memory.OpenHistory(s.request.History)
	}
	files := memory.Files()
	s.build, s.faults, err = plan.PrepareWhole(ctx, s.project, s.frontendOptions(ctx), plan.Memory{History: s.history, Files: files, List: s.request.ListFiles})
	if err != nil {
		return err
	}
	s.build = s.build.WithDuplicates(s.duplicates())
	s.full = s.build
	if !s.request.KeepGoing || len(s.build.Jobs) == 0 {
		if err := plan.Join(s.faults); err != nil {
			return err
		}
	}
	memory.SaveFiles(files)
	s.facts.nodes = s.build.Capacity(s.facts.nodes)
	return nil
}

// duplicates is the rule for what several nodes may execute: that of the request, or of
// the saved plan.
func (s *Session) duplicates() plan.Duplicates {
	if s.request.Warm {
		return plan.DuplicatesAny // every node is to hold all of it
	}
	if s.request.Duplicates == "" && s.request.Saved != nil {
		return s.request.Saved.Duplicates
	}
	return s.request.Duplicates
}

// Price finds out what the rule for duplicates costs the plan. The stage [Divide] must
// have been done.
func (s *Session) Price(ctx context.Context) error {
	if len(s.plan.Nodes) < 2 || s.duplicates() == plan.DuplicatesAny || s.request.Saved != nil {
		return nil
	}
	bound := s.build
	defer func() { s.build = bound }()
	s.build = bound.WithDuplicates(plan.DuplicatesAny)
	_, free, err := s.With(ctx, s.request.Strategy)
	if err == nil {
		s.plan.Unbound = free.Makespan
	}
	return err
}

// findCaches asks registries what their caches hold.
func (s *Session) findCaches(ctx context.Context) error {
	if s.request.Reach == Offline || s.idle {
		return nil // and every target may be divided whose outputs allow it
	}
	// Caches are named by the targets that share steps, whichever of them are built.
	s.caches = s.standby.caches(ctx, s.request.Stores, s.full)
	s.may = s.joinable(ctx, s.caches.access)
	results := s.caches.results(ctx, s.engine.memory)
	s.caches.holds = map[string]map[ir.UnitID]bool{}
	all := map[warm.ResultID]bool{}
	for ref, held := range results {
		maps.Copy(all, held)
		s.caches.holds[ref] = s.full.Cached(held)
	}
	s.build = s.build.WithCache(all)
	return nil
}

// joinable returns what says whether the parts of a target can be put together.
func (s *Session) joinable(ctx context.Context, access registry.Options) func(*ir.Target) bool {
	return func(t *ir.Target) bool { return runtime.Joinable(ctx, t, s.engine.Dir, access) }
}

// divide makes the plan, or takes the saved one.
func (s *Session) divide(ctx context.Context) (err error) {
	if s.idle {
		return nil
	}
	if s.request.Warm {
		return s.divideShared(ctx)
	}
	if s.request.Saved != nil {
		s.build, s.plan, err = s.build.Restore(s.facts.nodes, s.leftOf(s.request.Saved), s.faults)
	} else {
		s.build, s.plan, err = s.With(ctx, s.request.Strategy)
	}
	if errors.Is(err, plan.ErrNoNode) && s.facts.pool != nil {
		// One of those that are away might.
		err = errors.Join(err, errors.Join(s.facts.pool.Absent()...))
	}
	return err
}

// divideShared makes a plan by which every node builds what targets share. The caches of
// the targets are read, and none is written.
func (s *Session) divideShared(ctx context.Context) (err error) {
	policy := cachepolicy.Decide(s.caches.Input)
	known := plan.Memory{History: s.history, Files: s.engine.memory.Files()}
	s.build, s.plan, err = s.build.Shared(ctx, s.facts.nodes, s.request.WarmAll, policy.ImportEntries(), known)
	if err == nil {
		tags := s.caches.Known
		s.caches.Input = s.build.Caches()
		s.caches.Known = tags
	}
	return err
}

// With returns the build divided with a strategy, and the plan. The stage [Caches] must
// have been done.
func (s *Session) With(ctx context.Context, strategy partition.Strategy) (*plan.Build, *plan.Plan, error) {
	if s.request.Limit > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, s.request.Limit)
		defer stop()
	}
	return s.build.Choose(ctx, s.facts.nodes, strategy, s.request.Planning, s.may)
}

// Timings say where the time of the stages went, those of the run divided further.
func (s *Session) Timings() []stopwatch.Phase { return s.watch.Phases() }

// Project is the whole definition.
func (s *Session) Project() *ir.Project { return s.whole }

// Definition is the part of the definition that is built, as it is defined.
func (s *Session) Definition() *ir.Project { return s.definition }

// Questions are the targets that ask for something other than a build.
func (s *Session) Questions() []*ir.Target { return s.questions }

// Definitions are the digests of the definitions of what is built, wherever the local
// registry is.
func (s *Session) Definitions() (map[string]digest.Digest, error) {
	registry := ""
	if n := s.standby.nodes; n != nil && n.cluster != nil {
		registry = n.cluster.Registry()
	}
	return report.Definitions(s.definition, registry)
}

// Build is what was prepared, and divided by then.
func (s *Session) Build() *plan.Build { return s.build }

// Plan is the plan; nil when nothing is left to be built.
func (s *Session) Plan() *plan.Plan { return s.plan }

// Result is what the run did, nil when there was none, and what failed in it.
func (s *Session) Result() (*runtime.Result, error) { return s.result, s.failure }

// frontendOptions say how Dockerfiles are compiled.
func (s *Session) frontendOptions(ctx context.Context) frontend.Options {
	offline := s.request.Reach == Offline
	if s.resolver == nil {
		s.resolver = s.standby.resolver(s.request.MaxAge, offline)
	}
	o := s.standby.frontendOptions(ctx, s.facts, s.resolver, offline)
	o.FetchURLs = s.request.Reach == Started && s.duplicates() != plan.DuplicatesAny
	return o
}
