package sched

import "time"

// Command is something the driver must do.
type Command interface{ command() }

// Submit asks for one solve of the units on the node.
type Submit struct {
	Partition PartitionID
	Node      NodeID
	Units     []UnitID // in order of precedence
	Why       Why
	Delay     time.Duration // to wait before starting; 0 unless backing off
}

// Export asks for the outputs of a unit that was built: just now, or before a Defer.
type Export struct {
	Partition PartitionID
	Unit      UnitID
}

// Defer reports that the outputs of a unit that was just built are written later. What its
// submission holds of it must stay until the Export that follows, or the end of the submission.
type Defer struct {
	Partition PartitionID
	Unit      UnitID
}

// Release says that the outputs of a unit whose export was deferred will not be written:
// what its submission holds of it may go.
type Release struct {
	Partition PartitionID
	Unit      UnitID
}

// CancelPartition asks to end a submission early. PartitionEnded is still owed.
type CancelPartition struct {
	Partition PartitionID
	Reason    string
	// Recalled is set when it has not begun, and its units are submitted again, some of them to
	// another node.
	Recalled bool
}

// Abandon reports that a submission went down with its node. Nothing is owed.
type Abandon struct {
	Partition PartitionID
	Reason    string
}

// Reopen reports that results of steps with one result were lost with a node before they were
// sent, and are needed. They are built again, and so are the finished units that rest on them.
// What these had written counts no longer.
type Reopen struct {
	Node  NodeID
	Units []UnitID   // ascending; may be empty
	Lost  []VertexID // ascending
}

// Differ reports that a node is given units which may rest on results of its own, from before
// it was lost. The results are of steps with one result that another node has executed since.
// No other node is left that could build the units.
type Differ struct {
	Node  NodeID
	Steps []VertexID // ascending
}

// Finish ends the run; Step does nothing from then on.
type Finish struct {
	Outcomes []Outcome // indexed by UnitID
	Moves    []Move    // in order of time
	Reason   string    // why the run was stopped early; "" when it was not
}

func (Submit) command()          {}
func (Export) command()          {}
func (Defer) command()           {}
func (Release) command()         {}
func (CancelPartition) command() {}
func (Abandon) command()         {}
func (Reopen) command()          {}
func (Differ) command()          {}
func (Finish) command()          {}

// Why is how a submission came to its node.
type Why int

// The ways of a partition to a node.
const (
	Planned   Why = iota // by the plan or from the pool
	Stolen               // taken from another node's queue
	Hedged               // stolen, and started by the former owner as well
	Rescued              // from a lost node
	Retried              // again on the same node
	Recalled             // taken from another node, which had not begun it
	Replanned            // by another plan, made when a node came
)

var whyNames = [...]string{"planned", "stolen", "hedged", "rescued", "retried", "recalled", "replanned"}

func (w Why) String() string { return name(whyNames[:], int(w)) }

// Move is one entry of the ledger: units that changed their node.
type Move struct {
	At    time.Duration
	Why   Why // any but Planned
	Units []UnitID
	From  NodeID
	To    NodeID
	// Here and There are the times, since the start of the run, at which the units
	// were expected to be built on To and (0 when rescued) on From.
	Here, There time.Duration
	// Setup is the part of the work on To that From does not have to do.
	Setup time.Duration
}

// State is the end of a unit.
type State int

// The ways a unit ends.
const (
	NotStarted State = iota // or stopped before it was finished: see Submits
	Built                   // and exported
	Failed
	Skipped     // something it depends on failed
	Unpublished // built, and not exported, since one of its gates failed or nobody waits for it any more
)

var stateNames = [...]string{"not started", "built", "failed", "skipped", "unpublished"}

func (s State) String() string { return name(stateNames[:], int(s)) }

// Outcome is the end of a unit, with its cause.
type Outcome struct {
	State State
	// Node is where it was built or failed; NoNode when neither happened.
	Node NodeID
	// At is when it was finished or failed.
	At time.Duration
	// Submits counts its submissions, hedges included.
	Submits int
	// Because is the failed unit that a skipped one depends on, the first in order of UnitID when
	// there are several. For an unpublished unit it is the gate that keeps it back. Otherwise it
	// is NoUnit.
	Because UnitID
	Vertex  VertexID // the failing step of a failed unit, or NoVertex
	Reason  string   // why it was not built
}

func name(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return "unknown"
	}
	return names[i]
}
