package sched

import "time"

// Event is something that happened. Its At is the time since the start of the run;
// one that is earlier than the last event's counts as that time.
type Event interface{ at() time.Duration }

// NodeUp reports that a node can be used, for the first time or again. One that was lost is
// assumed to hold nothing but Holds.
type NodeUp struct {
	At   time.Duration
	Node NodeID
	// Emulates replaces Node.Emulates, for a node that was not known when the run was
	// planned; nil = it stays.
	Emulates map[string]float64
	// Empty is set when the daemon has nothing that it may have made before it was lost.
	Empty bool
	// Holds are vertices that it holds.
	Holds []VertexID
}

// NodeLost reports that a node cannot be used: it was never reached or has gone.
type NodeLost struct {
	At   time.Duration
	Node NodeID
	Err  string
	// Reconnecting promises a NodeUp or another NodeLost for the node: units that
	// no other node can build wait for it instead of failing.
	Reconnecting bool
}

// VertexStarted reports that a step began to run. It is optional: without it, steps under
// way count as not begun when finish times are estimated.
type VertexStarted struct {
	At     time.Duration
	Node   NodeID
	Vertex VertexID
}

// VertexDone reports that a node now holds a vertex.
type VertexDone struct {
	At     time.Duration
	Node   NodeID
	Vertex VertexID
	Took   time.Duration
	// Cached is set when it was not executed: it was there or was fetched. Took
	// then says nothing about the node's speed.
	Cached bool
}

// VertexCached reports that the registry now holds a vertex: every node can fetch it.
type VertexCached struct {
	At     time.Duration
	Vertex VertexID
}

// VertexUnsent reports that the result of a vertex could not be sent to other nodes in any
// way: those that need it build it.
type VertexUnsent struct {
	At     time.Duration
	Vertex VertexID
}

// VertexMissed reports that a node could not read the result of a vertex that
// [VertexCached] reported. What needs it there is taken back, and it is sent again.
type VertexMissed struct {
	At     time.Duration
	Node   NodeID
	Vertex VertexID
}

// UnitBuilt reports that a unit's root is built; its outputs are not written yet.
type UnitBuilt struct {
	At        time.Duration
	Partition PartitionID
	Unit      UnitID
}

// UnitExported reports that a unit's outputs are written: the unit is finished.
type UnitExported struct {
	At        time.Duration
	Partition PartitionID
	Unit      UnitID
}

// UnitFailed reports that a unit could not be built or exported. When a submission fails
// because of one step, the driver sends it for each unit that uses the step.
type UnitFailed struct {
	At        time.Duration
	Partition PartitionID
	Unit      UnitID
	Vertex    VertexID // the failing step, or NoVertex
	Err       string
	// Retryable is set when the failure came from the surroundings and another attempt may
	// succeed.
	Retryable bool
	// Again is set when the cause of the failure was removed: it does not count as an attempt.
	Again bool
	// Elsewhere is set when it may succeed on another node only. It counts as an attempt;
	// when there is no other node, it is final.
	Elsewhere bool
	// Execution numbers the executions of Vertex that failed on the node, from 1, when
	// the step ran and failed by itself: it may be executed again, see
	// [Options.RetrySteps]. Several units may report the same one. 0 is any other
	// failure. Way is equal for executions that failed in the same way.
	Execution int
	Way       string
}

// PartitionEnded is the last event of a submission. Units of it that are neither
// exported nor failed are submitted again, or fail; see Err.
type PartitionEnded struct {
	At        time.Duration
	Partition PartitionID
	// Err is why it ended early; "" when all was done. When no UnitFailed said whose
	// fault it is, Err fails the units still open (with KeepGoing, those of a larger
	// submission are tried one by one first).
	Err       string
	Retryable bool // as in UnitFailed, for Err
	Again     bool // as in UnitFailed
}

// Cancel ends the run: nothing more is submitted, what runs is cancelled.
type Cancel struct {
	At     time.Duration
	Reason string // "" = "canceled"
}

// Tick reports that time has passed and nothing else happened. Steps that run late are seen
// only when time passes, so a driver sends one every few seconds.
type Tick struct{ At time.Duration }

func (e NodeUp) at() time.Duration         { return e.At }
func (e NodeLost) at() time.Duration       { return e.At }
func (e VertexStarted) at() time.Duration  { return e.At }
func (e VertexDone) at() time.Duration     { return e.At }
func (e VertexCached) at() time.Duration   { return e.At }
func (e VertexUnsent) at() time.Duration   { return e.At }
func (e VertexMissed) at() time.Duration   { return e.At }
func (e UnitBuilt) at() time.Duration      { return e.At }
func (e UnitExported) at() time.Duration   { return e.At }
func (e UnitFailed) at() time.Duration     { return e.At }
func (e PartitionEnded) at() time.Duration { return e.At }
func (e Cancel) at() time.Duration         { return e.At }
func (e Tick) at() time.Duration           { return e.At }
