package sched

import "slices"

// unit is the state of a unit.
type unit struct {
	state unitState
	// part is where it is queued. Invariant: it is set if and only if the unit is queued.
	part *part
	// runs are the submissions that work on it, on different nodes. Invariant: there are one or
	// two if the unit is submitted or granted, else none.
	runs []ref
	// granted is the submission that is to export it, or to wait with the export. Invariant: it
	// is set if and only if the unit is granted. Then it is among runs, and is the only one that
	// is deferred or exporting there.
	granted *run
	out     Outcome // final when the unit is over
	tries   int     // attempts that came to nothing, see mayRetry
	moves   int     // how often it was given to another node; from maxMoves on it is not stolen
	flunked bool    // a step or an output of it failed somewhere: it is not built twice at once
	// flaw is the execution that it failed with last. home are the nodes of the
	// configuration while it is kept from some of them, confined says that it is.
	flaw     failedRun
	home     []NodeID
	confined bool
}

type ref struct {
	r *run
	i int
}

// unitState is how far a unit is, in order of progress.
type unitState int

const (
	idle      unitState = iota // in no queue and no submission, as when one has failed
	queued                     // in a part
	submitted                  // in one submission or two
	granted                    // one of them is to export it, or to wait with that
	over                       // its outcome is final, unless what it rests on is lost
)

// unitMoves are the states that may follow each. A unit goes back when a submission comes
// to nothing or is recalled, and when it has to be built again.
var unitMoves = [...][]unitState{
	idle:      {queued, over},
	queued:    {idle, submitted, over},
	submitted: {idle, granted, over},
	granted:   {idle, submitted, over},
	over:      {idle},
}

// turn brings a unit into another state. It does nothing when that cannot follow. All
// counts by state are kept here and nowhere else.
func (s *fleet) turn(id UnitID, to unitState) {
	u := &s.units[id]
	if !slices.Contains(unitMoves[u.state], to) {
		return
	}
	if to == over {
		s.left--
	} else if u.state == over {
		s.left++
	}
	u.state = to
}

// isOver reports whether the outcome of a unit is final.
func (s *fleet) isOver(id UnitID) bool { return s.units[id].state == over }
