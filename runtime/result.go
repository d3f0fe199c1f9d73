package runtime

import (
	"maps"
	"slices"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/output"
	"github.com/dbake/dbake/runtime/publish"
)

// State is how a job ended.
type State string

// The ends of a job, in order of progress.
const (
	NotStarted State = "not started" // never given to a node
	Skipped    State = "skipped"     // something it needs failed
	Cancelled  State = "cancelled"   // given to a node, stopped before it was done
	Failed     State = "failed"
	Done       State = "done" // built, and every output written
	// Unchanged is a target that was not built because its image, or what it is made
	// of, has not changed.
	Unchanged State = "unchanged"
	// Unpublished is a target that is built, and whose outputs are not where they were
	// asked for, since something else failed.
	Unpublished State = "not published"
)

// Good reports whether a target is as it was asked for.
func (s State) Good() bool { return s == Done || s == Unchanged }

// Result is the result of a run. It is complete whether the run failed or not.
type Result struct {
	// Jobs are in the order of the plan.
	Jobs []JobResult
	// Nodes are in the order of the pool.
	Nodes []NodeResult
	// Steals are the jobs that ran elsewhere than planned, in order of time.
	Steals []Steal
	// Measured are the times of the nodes' work, for the cost history, without CPU and Memory.
	Measured []plan.Measurement
	// Transfers are the results that nodes sent to others, in the order in which they had gone.
	Transfers []Transfer
	// Caches are those that were written to registries.
	Caches []WrittenCache
	// Sick are the nodes that failed jobs for reasons of their own.
	Sick []Sickness
	// Withheld is what is yet to be published; nil when everything is, or nothing will
	// be.
	Withheld *publish.Batch
	// FailedSteps are those that ran and failed, whether or not they succeeded after that.
	FailedSteps []*FailedStep
	// Warnings are remarks on the run as a whole.
	Warnings []string
	Wall     time.Duration
}

// Transfer is a result that a node has sent to others.
type Transfer struct {
	Node  string
	Steps []int // that were sent together, vertices of the graph
	// Registry is the host of the registry that took it; "" is the client.
	Registry string
	Start    time.Time // by the clock of the client
	Took     time.Duration
}

// Records returns the names of the builds that wrote the outputs, by node.
func (r *Result) Records() map[string][]string {
	records := map[string][]string{}
	for _, j := range r.Jobs {
		if name := daemon.RecordOf(j.Metadata); name != "" {
			records[j.Node] = append(records[j.Node], name)
		}
	}
	return records
}

// JobResult is the end of one job.
type JobResult struct {
	Job    string
	Target string
	Node   string // where it was built; "" when it never started
	State  State
	// Reason says why a job is not done; Err is the failure itself.
	Reason string
	Err    error
	Images []output.Image
	// Files are the files and directories that outputs wrote and that hold no image, as
	// they were given.
	Files []string
	// Metadata is the exporters' response, for the metadata file.
	Metadata map[string]any

	withheld *output.Withheld // nil when nothing of it is yet to be published
}

// TargetResult is the end of one target, whose parts several nodes may have built.
type TargetResult struct {
	Name  string
	Nodes []string // that built it, in the order of the parts
	State State
	// Reason says why it is not done. It is that of the part that is worst off.
	Reason string
	Images []output.Image
	Files  []string // as of [JobResult]
}

// severity orders states: a target has the state of its worst part.
var severity = map[State]int{Unchanged: 0, Done: 0, Unpublished: 1, NotStarted: 2, Skipped: 3, Cancelled: 4, Failed: 5}

// NotePublished notes that what was withheld is published.
func (r *Result) NotePublished() {
	r.Withheld = nil
	for i := range r.Jobs {
		if j := &r.Jobs[i]; j.withheld != nil {
			if len(j.withheld.Responses) > 0 { // a part of a target has none
				j.Images = j.withheld.Images
				maps.Copy(j.Metadata, output.MetadataOf(j.withheld.Responses))
			}
			j.withheld = nil
		}
	}
}

// NoteUnpublished notes that what was withheld is not published, and why. Images then have no
// name but their digests.
func (r *Result) NoteUnpublished(reason string) {
	r.Withheld = nil
	for i := range r.Jobs {
		j := &r.Jobs[i]
		if j.withheld != nil && j.State == Done {
			j.State, j.Reason = Unpublished, reason
		}
		j.withheld = nil
	}
}

// Targets returns the ends of the targets, in the order of the plan.
func (r *Result) Targets() []TargetResult {
	var list []TargetResult
	index := map[string]int{} // of list
	for _, j := range r.Jobs {
		i, ok := index[j.Target]
		if !ok {
			i = len(list)
			index[j.Target] = i
			list = append(list, TargetResult{Name: j.Target, State: j.State, Reason: j.Reason})
		}
		t := &list[i]
		if j.Node != "" {
			t.Nodes = appendNew(t.Nodes, j.Node)
		}
		if severity[j.State] > severity[t.State] {
			t.State, t.Reason = j.State, j.Reason
		}
		t.Images = append(t.Images, j.Images...)
		for _, name := range j.Files { // parts write into one directory
			t.Files = appendNew(t.Files, name)
		}
	}
	for i := range list {
		if t := &list[i]; !t.State.Good() {
			// Parts have no name, and what one output wrote is no whole target.
			t.Images, t.Files = nil, nil
		}
	}
	return list
}

// NodeResult is the work of one node.
type NodeResult struct {
	Name    string
	Targets []string // built here, in order of their end; a part counts as its target
	// Ran is the number of steps that were executed, Cached that of steps
	// answered from a cache; Shared is how many executions were saved because
	// several jobs of the node need the same step.
	Ran, Cached, Shared int
	// Repeated is the number of executions beyond the first of a step; a node
	// that runs a step twice in a run has lost its result in between.
	Repeated int
	// Busy is the time during which at least one step ran.
	Busy time.Duration
	// ContextBytes is the number of bytes that the node read from local directories, Transfers
	// how often it read each, by source name.
	ContextBytes int64
	Transfers    map[string]int
	Held         []digest.Digest // the steps and images whose results are there now
	Lost         error           // why the node was given up; nil when it was not
}

// Steal is work that another node took over.
type Steal struct {
	At       time.Duration // when To was given the first of the jobs, since the start of the run
	Jobs     []string
	From, To string
	Why      string // "stolen", "hedged", "rescued"
	// Here and There are when the jobs were expected to be built on To and, unless
	// rescued from a lost node, on From.
	Here, There time.Duration
}

// Sickness is work that a node could not do, and why. The jobs were tried elsewhere.
type Sickness struct {
	Node   string
	Reason string // in a few words
	Jobs   []string
}

// Event is something that happened during a run. Observers receive events one
// after the other, from one goroutine.
type Event interface{ event() }

// StatusEvent is progress of a node's steps. Nothing is reported twice, although the
// solves of a node overlap.
type StatusEvent struct {
	Node   string
	Status *bkclient.SolveStatus
	// Targets are those that each vertex of Status is for, in the order of the plan. A step that
	// a target gets by reading another one counts for that one.
	Targets map[digest.Digest][]string
	// Steps are the places in [Build.Graph] of those vertices of Status that are there.
	Steps map[digest.Digest]int
}

// JobEvent reports that a job started, was built or ended.
type JobEvent struct {
	At     time.Duration
	Job    string
	Target string
	Node   string // "" for one that was skipped before a node had it
	// Stage is "submitted", "built" or "exported", or "failed" or "skipped" for a job
	// that is not tried again.
	Stage  string
	Result *JobResult // of one that was exported
}

// MoveEvent reports that jobs were given to a node other than planned, or again.
type MoveEvent struct {
	At      time.Duration
	Jobs    []string
	Targets []string
	Node    string
	From    string // the node that had them; "" when it is the same
	Why     string
}

// RetryEvent reports that a step has failed on a node and is executed again.
type RetryEvent struct {
	At       time.Duration
	Node     string // on which it failed
	Step     string
	Targets  []string // whose step it is
	ExitCode string   // as BuildKit writes it
	Attempt  int      // the one that failed, from 1
	Limit    int      // of attempts
}

// SendEvent reports that a node has sent the result of a step for others, or that it
// could not; then those build it themselves.
type SendEvent struct {
	At      time.Duration
	Node    string
	To      []string // the nodes that are to take it
	Step    string
	Targets []string // whose step it is
	Err     error
}

// QueueEvent reports the work that every node has before it. It is reported at the start of a
// run and when that work has changed, at most five times a second.
type QueueEvent struct {
	At    time.Duration
	Nodes []NodeQueue // in the order of the pool
}

// NodeQueue is the work that one node has before it.
type NodeQueue struct {
	Node   string
	Up     bool     // it is in use
	Queued []string // targets that it has not been given yet, in order
	Open   int      // jobs that it was given and that have not ended
	// Ends is when it is expected to be done, since the start of the run.
	Ends time.Duration
}

// NodeEvent reports the new state of a node: it was given up, is back, or is silent.
type NodeEvent struct {
	At     time.Duration
	Node   string
	Err    error         // why it was given up; nil when it was not
	Silent time.Duration // for how long it has said nothing although it was asked
	Back   bool          // it is used again, or heard again
}

// WaitEvent reports what a node waits for.
type WaitEvent struct {
	At   time.Duration
	Node string
	Text string
}

func (StatusEvent) event() {}
func (WaitEvent) event()   {}
func (JobEvent) event()    {}
func (MoveEvent) event()   {}
func (RetryEvent) event()  {}
func (NodeEvent) event()   {}
func (SendEvent) event()   {}
func (QueueEvent) event()  {}

// appendNew appends name unless it is there.
func appendNew(list []string, name string) []string {
	if slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}
