package report

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
)

// Format is the value of "format" in the JSON form of a plan, which distinguishes it
// from other JSON files. Version is that of the form: it changes when a field
// changes its meaning or goes; new fields do not change it.
const (
	Format  = "dbake-plan"
	Version = 1
)

// File is the JSON form of a plan. Times are in seconds since the start of the run,
// costs in seconds on a node of speed 1.
//
// Only Request, World, Duplicates, the names of nodes, Partitions, Fetch, Build, Pooled and
// the digests in Targets and Steps are read back, see [File.SavedPlan]; everything else is for
// people and programs that look at plans.
type File struct {
	Format  string `json:"format"`
	Version int    `json:"version"`
	// Request is what was asked for, as on the command line.
	Request Request `json:"request"`

	// World is what the definition was resolved with; left out of plans of older versions.
	World *World `json:"world,omitempty"`

	Strategy string `json:"strategy"`
	// Duplicates is the rule for what several nodes may execute.
	Duplicates plan.Duplicates `json:"duplicates,omitempty"`
	// Doubled are the steps that several nodes execute, and why they may; Unbound is the
	// makespan of a plan with any duplicates, left out where it was not asked for.
	Doubled []FileDoubled `json:"duplicated_steps,omitempty"`
	Unbound float64       `json:"any_duplicates_s,omitempty"`
	// Pooled is set when targets are given to idle nodes during the run; Partitions are
	// then only what is expected.
	Pooled     bool    `json:"pooled,omitempty"`
	Makespan   float64 `json:"makespan_s"`
	LowerBound float64 `json:"lower_bound_s"`
	Proven     bool    `json:"proven_optimal"`
	// SingleNode is the node that alone would end first, Single its makespan;
	// left out when no node can build everything.
	SingleNode string  `json:"single_node,omitempty"`
	Single     float64 `json:"single_node_s,omitempty"`
	// Undivided is the makespan with no target divided that need not be; left out
	// when none is.
	Undivided float64 `json:"undivided_s,omitempty"`
	// Executed is the cost of all executions, Duplicated that of those beyond the
	// first of each step.
	Executed   float64 `json:"executed_s"`
	Duplicated float64 `json:"duplicated_s"`
	// Effort is the number of tasks that were scheduled to find the plan.
	Effort  int        `json:"planning_effort"`
	Nodes   []FileNode `json:"nodes"`
	Targets []FileJob  `json:"targets"`
	// Stages are the groups of steps that several targets share.
	Stages []FileStage `json:"shared_stages"`
	Steps  []FileStep  `json:"steps"`
	// Tasks are the executions and transfers by start; Critical are the indices of those that
	// decide the makespan.
	Tasks    []FileTask `json:"tasks"`
	Critical []int      `json:"critical_path"`
	// Assumed are the base images whose configs are guesses.
	Assumed []string `json:"assumed_images,omitempty"`
}

// Request is what a plan was asked for. It holds what the user wrote, the values of
// --set and --var included.
type Request struct {
	Files      []string `json:"files,omitempty"`
	Targets    []string `json:"targets,omitempty"`
	Set        []string `json:"set,omitempty"`
	Vars       []string `json:"vars,omitempty"`
	NoCache    *bool    `json:"no_cache,omitempty"`
	Pull       *bool    `json:"pull,omitempty"`
	SBOM       string   `json:"sbom,omitempty"`
	Provenance string   `json:"provenance,omitempty"`
	Policy     []string `json:"policy,omitempty"`
	Push       bool     `json:"push,omitempty"`
	Load       bool     `json:"load,omitempty"`
	Strict     bool     `json:"strict,omitempty"`
	Exclude    []string `json:"exclude,omitempty"`
	WithDeps   bool     `json:"with_deps,omitempty"`
	Gates      []string `json:"gates,omitempty"`
	Profiles   []string `json:"profiles,omitempty"`

	Nodes         []string `json:"nodes,omitempty"`
	Builder       string   `json:"builder,omitempty"`
	Platforms     []string `json:"platforms,omitempty"`
	MaxNodes      int      `json:"max_nodes,omitempty"`
	CacheRegistry Values   `json:"cache_registry,omitempty"`
	// State is the digest of the directory that was named for the state of local
	// nodes: a plan cannot choose one, but can name another that is used.
	State digest.Digest `json:"state,omitempty"`
}

// Values are the values of a flag. One value is a string in JSON, several are a list.
type Values []string

// MarshalJSON implements json.Marshaler.
func (v Values) MarshalJSON() ([]byte, error) {
	if len(v) == 1 {
		return json.Marshal(v[0])
	}
	return json.Marshal([]string(v))
}

// UnmarshalJSON implements json.Unmarshaler.
func (v *Values) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*v = Values{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(v))
}

// World is what the definition saw of the world when the plan was made, so that it means
// the same when the plan is built.
type World struct {
	Time time.Time `json:"time"`
	// Seed is what random values are made of.
	Seed []byte `json:"seed"`
	// Env are the variables of the environment that the definition asked for; null was
	// not set. Withheld are the names of those that may be secret: they are taken from
	// the environment of the build.
	Env      map[string]*string `json:"environment,omitempty"`
	Withheld []string           `json:"environment_withheld,omitempty"`
}

// FileNode is a node and its work.
type FileNode struct {
	Name  string  `json:"name"`
	Addr  string  `json:"addr,omitempty"`
	Speed float64 `json:"speed"`
	Slots int     `json:"slots"`
	// SlotsAssumed is set when nobody said how many slots the node has.
	SlotsAssumed bool `json:"slots_assumed,omitempty"`
	// Tenants is how many others build there. Where there are N, a step counts as taking
	// N+1 times as long.
	Tenants int `json:"tenants,omitempty"`
	// Emulates holds the platforms that it emulates, with the factor by which a step
	// takes longer for it.
	Emulates map[string]float64 `json:"emulates,omitempty"`
	// Partitions are target names in order; each inner list is one solve.
	Partitions [][]string `json:"partitions"`
	// Fetch are the steps whose results it takes from another node, Build those
	// that it builds for others only; indices in Steps.
	Fetch  []FileFetch `json:"fetch,omitempty"`
	Build  []int       `json:"build,omitempty"`
	Busy   float64     `json:"busy_s"`
	Finish float64     `json:"finish_s"`
	// Steps is the number of distinct steps of its targets, Executed that of those
	// it has to run, WarmShare the part of their cost that it is spared.
	Steps     int     `json:"steps"`
	Executed  int     `json:"steps_executed"`
	WarmShare float64 `json:"warm_share"`
}

// FileDoubled is a step that several nodes execute.
type FileDoubled struct {
	Step  int          `json:"step"`
	Nodes []string     `json:"nodes"`
	Why   plan.Freedom `json:"why"`
}

// FileFetch is the transfer of a result; From is a node, or "registry".
type FileFetch struct {
	Step int    `json:"step"`
	From string `json:"from"`
}

// FileJob is a target with its predictions.
type FileJob struct {
	Name string `json:"name"`
	// Target and Platforms are those of a part of a divided target; left out of a
	// whole one.
	Target    string   `json:"target,omitempty"`
	Platforms []string `json:"platforms,omitempty"`
	// Gates are the targets that must succeed before it is published.
	Gates []string `json:"gates,omitempty"`
	// Definition changes when anything in the resolved definition of the target
	// does.
	Definition digest.Digest `json:"definition"`
	// ImageKey names the target's image by what goes into it; left out where that is
	// not known. Attested is what its attestations say besides.
	ImageKey digest.Digest `json:"image_key,omitempty"`
	Attested digest.Digest `json:"image_attested,omitempty"`
	Node     string        `json:"node"`
	Done     float64       `json:"done_s"`
	Own      float64       `json:"own_s"`
	Shared   float64       `json:"shared_s"`
	Steps    int           `json:"steps"`
	Warm     int           `json:"steps_held"`
	// First is the position of the first step that has to be run, from 1; 0 when
	// its node holds or fetches all results. FirstStep is its index in Steps.
	First     int    `json:"rebuilt_from"`
	FirstStep *int   `json:"rebuilt_from_step,omitempty"`
	Why       string `json:"why,omitempty"`
	// FetchedFrom are the nodes from which results are taken for it, "registry"
	// among them.
	FetchedFrom []string `json:"fetched_from,omitempty"`
	// Reason says why the target is on its node; left out in very large plans.
	Reason string `json:"reason,omitempty"`
	// From counts the steps to be run by where their cost was taken from:
	// measured, similar or prior.
	From map[cost.Source]int `json:"costs_from"`
}

// FileStage is a group of steps that the same targets need.
type FileStage struct {
	Name    string   `json:"name"`
	Steps   int      `json:"steps"`
	Cost    float64  `json:"cost_s"`
	Targets []string `json:"targets"`
	// Nodes build it, each once; HeldBy need it, and hold it or what is made of
	// it.
	Nodes  []string `json:"nodes"`
	HeldBy []string `json:"held_by,omitempty"`
	// FetchedBy take it, or what is made of it, from another node.
	FetchedBy []string `json:"fetched_by,omitempty"`
}

// FileStep is a vertex of the merged graph. Sources (images, directories) are
// among them; after them come those of kind "export", which write the outputs of a
// target, and "join", which stand for several results.
type FileStep struct {
	Name string `json:"name"`
	// Operation is what the step and all below it do, whatever is in the files.
	Operation warm.OpID `json:"operation"`
	// Result is Operation with the files that are read; left out where it is the same.
	Result  warm.ResultID `json:"result,omitempty"`
	Kind    string        `json:"kind"`
	Stage   string        `json:"stage,omitempty"`
	Cost    float64       `json:"cost_s"`
	Source  cost.Source   `json:"cost_from"`
	Samples int           `json:"samples"`
	Spread  float64       `json:"spread"`
	// Targets are the indices in Targets of those that need it.
	Targets []int `json:"targets"`
	// HeldBy are the names of the nodes that hold its result. InRegistry says that
	// a cache does that all nodes read.
	HeldBy     []string `json:"held_by,omitempty"`
	InRegistry bool     `json:"in_registry,omitempty"`
}

// FileTask is a node's task with a step, "run", "send" or "fetch"; Step is an index in
// Steps.
type FileTask struct {
	Kind  TaskKind `json:"kind"`
	Step  int      `json:"step"`
	Node  string   `json:"node"`
	Start float64  `json:"start_s"`
	End   float64  `json:"end_s"`
}

// File returns the JSON form of the plan; definitions are those of
// [Definitions].
func (p *Report) File(request Request, definitions map[string]digest.Digest) *File {
	f := &File{
		Format: Format, Version: Version, Request: request,
		Strategy: p.Strategy, Pooled: p.Pooled,
		Makespan: p.Makespan.Seconds(), LowerBound: p.Bound.Seconds(), Proven: p.Proven,
		SingleNode: p.SingleNode, Single: p.Single.Seconds(),
		Undivided: p.Undivided.Seconds(), Executed: p.Executed.Seconds(), Duplicated: p.Duplicated.Seconds(), Effort: p.Effort,
		Targets: []FileJob{}, Stages: []FileStage{}, Steps: []FileStep{}, Tasks: []FileTask{},
		Critical: append([]int{}, p.Critical...), Assumed: p.Assumed,
	}
	f.Duplicates, f.Unbound = plan.Duplicates(p.Duplicates.String()), p.Unbound.Seconds()
	for _, d := range p.Doubled {
		fd := FileDoubled{Step: d.Step, Why: d.Why}
		for _, n := range d.Nodes {
			fd.Nodes = append(fd.Nodes, p.Nodes[n].Name)
		}
		f.Doubled = append(f.Doubled, fd)
	}
	for n, node := range p.Nodes {
		s := p.Shares[n]
		fn := FileNode{
			Name: node.Name, Addr: node.Addr, Speed: node.Speed, Slots: node.Slots, SlotsAssumed: node.SlotsAssumed, Tenants: node.Tenants, Emulates: p.emulates(n), Partitions: [][]string{},
			Busy: s.Busy.Seconds(), Finish: s.Finish.Seconds(), Steps: s.Steps, Executed: s.Executed, WarmShare: s.Warm,
		}
		for _, part := range s.Partitions {
			var names []string
			for _, j := range part {
				names = append(names, p.Jobs[j].Name)
			}
			fn.Partitions = append(fn.Partitions, names)
		}
		if p.Assignment.Shares != nil {
			for _, f := range p.Assignment.Shares[n].Fetch {
				if int(f.Vertex) < len(p.Steps) {
					fn.Fetch = append(fn.Fetch, FileFetch{int(f.Vertex), p.source(int(f.From))})
				}
			}
			for _, v := range p.Assignment.Shares[n].Build {
				if int(v) < len(p.Steps) {
					fn.Build = append(fn.Build, int(v))
				}
			}
		}
		f.Nodes = append(f.Nodes, fn)
	}
	for _, j := range p.Jobs {
		fj := FileJob{
			Name: j.Name, Gates: j.Gates, Definition: definitions[j.Target], Node: p.Nodes[j.Node].Name,
			Done: j.Done.Seconds(), Own: j.Own.Seconds(), Shared: j.Shared.Seconds(),
			Steps: j.Steps, Warm: j.Warm, First: j.First, Why: string(j.Why), Reason: j.Reason, From: j.From,
		}
		if j.Platforms != nil {
			fj.Target, fj.Platforms = j.Target, j.Platforms
		}
		if j.First > 0 {
			fj.FirstStep = &j.FirstStep
		}
		for _, n := range j.FetchedFrom {
			fj.FetchedFrom = append(fj.FetchedFrom, p.source(n))
		}
		f.Targets = append(f.Targets, fj)
	}
	for _, s := range p.Stages {
		f.Stages = append(f.Stages, FileStage{Name: s.Name, Steps: s.Steps, Cost: s.Cost.Seconds(), Targets: s.Jobs, Nodes: append([]string{}, s.Nodes...), HeldBy: s.Held, FetchedBy: s.Fetched})
	}
	for _, s := range p.Steps {
		fs := FileStep{
			Name: s.Name, Operation: s.op, Result: s.result, Kind: s.Kind, Stage: s.Stage, Cost: s.Cost.Seconds(),
			Source: s.Source, Samples: s.Samples, Spread: s.Spread, Targets: append([]int{}, s.Jobs...), InRegistry: s.Cached,
		}
		for _, n := range s.Held {
			fs.HeldBy = append(fs.HeldBy, p.Nodes[n].Name)
		}
		f.Steps = append(f.Steps, fs)
	}
	for _, t := range p.Tasks {
		f.Tasks = append(f.Tasks, FileTask{Kind: t.Kind, Step: t.Step, Node: p.Nodes[t.Node].Name, Start: t.Start.Seconds(), End: t.End.Seconds()})
	}
	return f
}

// emulates returns the platforms that node n emulates, with the factors.
func (p *Report) emulates(n int) map[string]float64 {
	if n >= len(p.Problem.Nodes) {
		return nil
	}
	return p.Problem.Nodes[n].Emulates
}

// fromRegistry is what stands for the registry where nodes are named.
const fromRegistry = "registry"

// source names where a result is taken from.
func (p *Report) source(n int) string {
	if n == int(partition.Registry) {
		return fromRegistry
	}
	return p.Nodes[n].Name
}

// SavedPlan returns the part of the plan that is carried out again. A transfer of a step
// that is not in the file is left out.
func (f *File) SavedPlan() *plan.Saved {
	s := &plan.Saved{Strategy: f.Strategy, Pooled: f.Pooled}
	for _, t := range f.Targets {
		if t.Target != "" {
			s.Parts = append(s.Parts, plan.Part{Target: t.Target, Platforms: t.Platforms})
		}
	}
	for _, n := range f.Nodes {
		node := plan.SavedNode{Name: n.Name, Partitions: n.Partitions}
		for _, x := range n.Fetch {
			from := x.From
			if from == fromRegistry {
				from = ""
			}
			if x.Step >= 0 && x.Step < len(f.Steps) {
				node.Fetch = append(node.Fetch, plan.SavedFetch{Operation: f.Steps[x.Step].Operation, From: from})
			}
		}
		for _, step := range n.Build {
			if step >= 0 && step < len(f.Steps) {
				node.Build = append(node.Build, f.Steps[step].Operation)
			}
		}
		s.Nodes = append(s.Nodes, node)
	}
	return s
}

// Write writes the JSON form, indented.
func (f *File) Write(w io.Writer) error { return WriteJSON(w, f) }

// WriteJSON writes a value in the form of all JSON documents that dbake prints: indented,
// and without escapes for HTML.
func WriteJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// ErrNotPlan is wrapped when a file is not a plan of dbake.
var ErrNotPlan = errors.New("not a plan of dbake")

// ReadFile reads the JSON form. The error wraps [ErrNotPlan] when it is something
// else.
func ReadFile(r io.Reader) (*File, error) {
	var f File
	dt, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var head struct {
		Format  string `json:"format"`
		Version int    `json:"version"`
	}
	if json.Unmarshal(dt, &head) != nil || head.Format != Format {
		return nil, ErrNotPlan
	}
	if head.Version != Version {
		return nil, fmt.Errorf("the plan has version %d, this dbake reads version %d: make the plan anew", head.Version, Version)
	}
	if err := json.Unmarshal(dt, &f); err != nil {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	return &f, nil
}

// IsZero reports whether nothing in particular was asked for.
func (r Request) IsZero() bool {
	dt, err := json.Marshal(r)
	return err == nil && string(dt) == "{}"
}
