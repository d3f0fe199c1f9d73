package engine

import (
	"context"
	"io"
	"path/filepath"
	"time"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/dockerconfig"
	"github.com/dbake/dbake/internal/memory"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/nodeset"
)

// Config is the world that sessions run in.
type Config struct {
	// Dir is the absolute working directory.
	Dir string
	// Env is the environment; nothing reads another.
	Env map[string]string
	// Docker is the Docker configuration; nil is that which Env names.
	Docker *dockerconfig.Config
	// Stdout takes the outputs whose destination is "-".
	Stdout io.Writer
	// Supervisor is the command line of the process that owns shared local nodes;
	// nil makes them this process's own. Command is how other users of them
	// see this one.
	Supervisor []string
	Command    string
	// Report takes messages for people.
	Report Reporter
}

// Reporter takes the events of a session. Its methods but Observe may be called from any
// goroutine.
type Reporter interface {
	// Note takes remarks, Warn warnings; each is one line.
	Note(text string)
	Warn(text string)
	// Begin is called before a run of b by plan p; named is set when several nodes take
	// part.
	Begin(b *plan.Build, p *plan.Plan, named bool) error
	// Observe takes an event of the run. It is called from one goroutine.
	Observe(e runtime.Event)
	// End is called when the run has ended.
	End()
}

// Reach is whom a session may ask for facts.
type Reach int

const (
	Offline Reach = iota // nobody: what is given and remembered is believed
	Running              // registries, and nodes that run; others are started if nothing else helps
	Started              // registries, and all nodes, which are started for it
)

// Request describes the work of a session.
type Request struct {
	// Definition says how the definition is resolved. Its environment and its reader
	// of remote definitions are set by the session.
	Definition compiler.Options
	// Moment is the state of files and environment that the definition sees; nil is the
	// present one.
	Moment *Moment
	// Judge decides whether a definition with such warnings is accepted; nil accepts all.
	Judge func(warnings []*ir.SourceError) error
	// Admit decides whether the definition may be planned or built; nil admits all.
	Admit func(ctx context.Context, a Admission) error
	// Load starts to load images into an engine of this machine and returns the
	// project in the form that it reads; nil when nothing is loaded.
	Load func(ctx context.Context, p *ir.Project) (*ir.Project, func(context.Context) (io.WriteCloser, error), error)

	// LoadEngine returns the ID of that engine, so that images built in it are not
	// transferred there; nil is unknown.
	LoadEngine func(ctx context.Context) string

	Nodes Nodes
	Reach Reach
	// MaxAge is how old facts about the tag of a base image may be; 0 asks again.
	MaxAge time.Duration

	// Strategy divides the work, within Limit if it is not 0.
	Strategy partition.Strategy
	Planning partition.Options
	Limit    time.Duration
	// Duplicates is the rule for steps that several nodes may execute; a saved plan has its
	// own.
	Duplicates plan.Duplicates
	// Saved is the plan to be built; nil makes one.
	Saved *report.File
	// History is the absolute name of the file of measured costs; "" is that of the
	// user, and [cost.InMemory] keeps nothing.
	History string
	// Stores are the repositories through which nodes share results: transfers between
	// nodes go through the first.
	Stores []cachepolicy.Store

	// Reuse decides when a pushed image replaces a build.
	Reuse ReuseMode
	// Keys finds the keys of all images, also of those that are not pushed. ListFiles
	// keeps which files steps read, for comparisons.
	Keys, ListFiles bool
	// Warm builds what several targets share on every node, and writes nothing; or, with
	// WarmAll, everything.
	Warm, WarmAll bool
	// Since leaves out the targets that are what they were at a revision; nil leaves
	// out none for that.
	Since *Since

	// Jobs is how many targets are built at once; 0 is no limit.
	Jobs int
	// KeepGoing builds what does not depend on a failure; DeferOutput writes no
	// output before all is built.
	KeepGoing, DeferOutput bool
	// Atomic publishes nothing before all is built, and then all of it or nothing.
	Atomic bool
	// RetrySteps is how often a step that fails is executed again; 0 is never.
	RetrySteps int
	// NoSteal keeps jobs on the nodes that they were planned for.
	NoSteal bool
	// Provenance is which provenance of outputs stands in their metadata.
	Provenance string
	// Trace records the spans that nodes report from inside steps, pulls and exports.
	Trace bool
}

// duplicates is the rule for steps that several nodes may execute: the request's, or the
// saved plan's.
func (r *Request) duplicates() plan.Duplicates {
	if r.Warm {
		return plan.DuplicatesAny // every node is to hold all of it
	}
	if r.Duplicates == "" && r.Saved != nil {
		return r.Saved.Duplicates
	}
	return r.Duplicates
}

// Admission is a request for permission.
type Admission struct {
	// Project is the whole definition, Build the part of it that is to be built, as it is
	// built. Questions are the targets that ask for something else.
	Project, Build *ir.Project
	Questions      []*ir.Target
}

// Nodes chooses the nodes of a session.
type Nodes struct {
	// Specs are the nodes; else they are those of Builder, else those that the
	// environment names or that are kept running, else one on this machine.
	Specs   []nodeset.Spec
	Builder string
	// EngineFirst takes the BuildKit inside the Docker engine, if it answers, rather than
	// nodes of this machine: as docker buildx does.
	EngineFirst bool
	// Late chooses nodes only when one is needed.
	Late bool
	// StateDir is where local nodes keep their state, Buildkitd what they are started
	// with; "" is the default.
	StateDir, Buildkitd string
	// Platforms, if there are any, restrict the nodes to those that run one of them. Max is how
	// many nodes are used at most, 0 for any number.
	Platforms []string
	Max       int
	// Timeout is how long a node may be silent.
	Timeout time.Duration
	// Drained uses nodes even if they are marked as to go.
	Drained bool
	// Expect are nodes that will come later.
	Expect []Expectation
}

// Engine runs sessions.
type Engine struct {
	Config
	memory *memory.Memory
}

// New returns an engine.
func New(c Config) *Engine {
	if c.Docker == nil {
		c.Docker = dockerconfig.New(c.Env, func(err error) { c.Report.Warn(err.Error()) })
	}
	return &Engine{Config: c, memory: memory.New(c.Env, c.Report.Warn)}
}

// Path makes a file name absolute that is relative to dir; "" stays "".
func Path(dir, name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(dir, name)
}

func (e *Engine) path(name string) string { return Path(e.Dir, name) }
