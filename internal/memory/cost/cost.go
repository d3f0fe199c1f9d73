package cost

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Kind is the kind of a step.
type Kind string

// The kinds of steps.
const (
	Run  Kind = "run"
	Copy Kind = "copy"
	Add  Kind = "add"
	From Kind = "from"
	// Export is not a step: it is what writing the outputs of a target takes.
	Export Kind = "export"
	Other  Kind = "other"
)

// Step is a build step as its cost sees it.
type Step struct {
	// Key is equal for steps that do the same work on the same inputs, whatever the
	// machine: a digest of the operation and its ancestors without names of nodes,
	// sessions and local paths. A step without a Key is never measured.
	Key digest.Digest
	// Slot is equal for versions of the same step: target, stage and position, as in
	// "api/build/4". "" is no slot.
	Slot string
	Kind Kind
	// Command is the command line of a RUN step. It is never stored.
	Command string
	// InputBytes is what a COPY or ADD step copies and the size of a FROM step's
	// image; 0 = unknown.
	InputBytes int64
	Platform   string
}

// Sample is one execution of a step.
type Sample struct {
	Node  string
	Took  time.Duration
	Bytes int64 // of the layer it made; 0 = unknown
	When  time.Time
	// CPU is the processor time that it used, Memory the most that it held; 0 =
	// unknown.
	CPU    time.Duration
	Memory int64
	// Inputs names what it was executed on: it is equal for executions that should have
	// given the same result. "" is not known.
	Inputs string
	// Mounts says in which state its cache mounts were; "" when it has none, or that is not
	// known.
	Mounts Mounts
}

// Mounts is the state of the cache mounts of a step when it began.
type Mounts string

// The states of cache mounts.
const (
	Filled Mounts = "filled" // all of them, by an earlier step
	Cold   Mounts = "cold"   // not all of them
)

// Failure is an execution of a step that ended with an exit code.
type Failure struct {
	Node   string
	When   time.Time
	Inputs string // as in Sample
}

// Source says what a prediction rests on.
type Source string

// The sources of predictions, best first.
const (
	Measured Source = "measured"
	Similar  Source = "similar"
	Prior    Source = "prior"
)

// Prediction is what a step is expected to cost.
type Prediction struct {
	// Duration is the time on a node of speed 1; see [Store.Speed].
	Duration time.Duration
	// Filled is the time where the cache mounts of the step are filled, when that is known to
	// be noticeably less than Duration, which then is the time where they are cold; 0 otherwise:
	// Duration serves for both.
	Filled  time.Duration
	Bytes   int64 // of the layer; 0 = unknown
	Source  Source
	Samples int // executions it rests on; 0 for a plain guess
	// Spread is how far an execution typically lies from Duration, relative to it: 0.1
	// is ten percent. 1 when there are too few samples.
	Spread float64
	// Cores is how many processors it keeps busy while it runs: less than 1 when it
	// waits. Memory is the most that it holds, in bytes. 0 = unknown.
	Cores  float64
	Memory int64
}
