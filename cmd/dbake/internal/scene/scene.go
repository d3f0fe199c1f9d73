package scene

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/printable"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/output"
)

// Scene is a run as far as it is known.
type Scene struct {
	// Nodes are in the order of the pool, Targets in that of the plan.
	Nodes   []*Node
	Targets []*Target
	// Failed are the steps that have failed, in order of time.
	Failed []*Step
	// News is what has happened, the newest last.
	News []News
	// Predicted is what the plan takes, Bound what no plan can beat if the predictions
	// are exact; 0 is unknown.
	Predicted, Bound time.Duration

	steps    []Planned
	nodes    map[string]*Node
	targets  map[string]*Target
	all      []*Step      // in order of their first event
	done     map[int]bool // by step: whether it was run, for those whose result is there
	logBytes int
	brief    bool // nothing that is printed is kept
}

// Node is one node.
type Node struct {
	Name string
	// Up is set when it is in use, Lost why it was given up, and Silent for how long it has
	// not answered.
	Up     bool
	Lost   string
	Silent time.Duration
	// Queue holds the targets that it is yet to be given, in order.
	Queue []string
	// Open is the number of jobs that it was given and that have not ended, Built that
	// of targets that it has built.
	Open, Built int
	// Ends is when it is expected to be done; 0 is unknown.
	Ends time.Duration
	// Steps is how many steps are known to be needed here, Done how many have their
	// result, Cached how many of those had it without being run.
	Steps, Done, Cached int
	// Running are the steps that run. A step keeps its place; nil is a free one.
	Running []*Step

	speed float64
	steps map[digest.Digest]*Step
}

// State is the state of a step or a target.
type State int

// The states, in order of progress.
const (
	Waiting State = iota
	Running
	Writing // a target that is built and whose outputs are being written
	Done
	Cached // a step whose result was there
	Skipped
	Cancelled
	Failed
)

// Step is a step of a graph on one node.
type Step struct {
	Node    *Node
	Name    string
	Targets []string
	State   State
	// Began is when it was heard that it runs, Ended when it was heard that it does
	// not any more; Took is how long it took by the clock of its node.
	Began, Ended, Took time.Duration
	// Expected is how long it takes if the prediction is right, 0 without one that
	// rests on measurements.
	Expected time.Duration
	Err      string
	Log      Log
	// Current and Total count the bytes of what it transfers; 0 is unknown.
	Current, Total int64

	number   int // from 1, in the order of the run
	index    int // of the plan's steps, -1 when it is none
	work     bool
	inputs   []digest.Digest
	digest   digest.Digest
	progress map[string][2]int64
	path     time.Duration // of the longest chain that ends with it, without itself
	before   *Step         // in that chain
}

// Number identifies the step in the run; the first is 1.
func (st *Step) Number() int { return st.number }

// RunTime is how long the step has been running, or ran.
func (st *Step) RunTime(now time.Duration) time.Duration {
	switch {
	case st.State == Running:
		return max(0, now-st.Began)
	case st.Took > 0:
		return st.Took
	}
	return st.Ended - st.Began
}

// Target is one target.
type Target struct {
	Name string
	// Nodes build it, in order.
	Nodes []string
	State State
	// Began is when a node was first given it, Ended when all was done.
	Began, Ended time.Duration
	Images       []output.Image
	// Why it is not built.
	Why string

	steps   []*Step // on all nodes, in order of their first event
	jobs    map[string]State
	n       int // jobs that it has
	planned int // steps that the plan counts
}

// Kind is the kind of something that has happened.
type Kind int

// The kinds of news.
const (
	Moved Kind = iota
	Sent
	Warned
	Good
	Bad
	Remarked
)

// News is something that has happened.
type News struct {
	At   time.Duration
	Kind Kind
	Node string
	Text string
}

// maxNews bounds the news that are kept.
const maxNews = 500

// New returns the scene at the start of a run.
func New(o Outlook) *Scene {
	s := &Scene{nodes: map[string]*Node{}, targets: map[string]*Target{}, done: map[int]bool{}}
	s.Predicted, s.Bound, s.steps = o.Makespan, o.Bound, o.Steps
	for _, n := range o.Nodes {
		s.node(n.Name).speed = n.Speed
	}
	for _, j := range o.Jobs {
		t := s.target(j.Target)
		t.n++
		t.planned = max(t.planned, j.Steps)
		if j.Node != "" {
			n := s.node(j.Node)
			n.Queue = appendNew(n.Queue, j.Target)
		}
	}
	return s
}

// NewBrief is New for a scene that keeps nothing of what steps print beyond the
// [Change] that reports it.
func NewBrief(o Outlook) *Scene {
	s := New(o)
	s.brief = true
	return s
}

func (s *Scene) node(name string) *Node {
	n := s.nodes[name]
	if n == nil {
		n = &Node{Name: name, speed: 1, steps: map[digest.Digest]*Step{}}
		s.nodes[name] = n
		s.Nodes = append(s.Nodes, n)
	}
	return n
}

func (s *Scene) target(name string) *Target {
	t := s.targets[name]
	if t == nil {
		t = &Target{Name: name, jobs: map[string]State{}}
		s.targets[name] = t
		s.Targets = append(s.Targets, t)
	}
	return t
}

// Target returns the target with a name, nil when there is none.
func (s *Scene) Target(name string) *Target { return s.targets[name] }

// Steps returns the steps that were heard of, in that order; not to be changed.
func (s *Scene) Steps() []*Step { return s.all }

// Printed is new output of a step: complete lines.
type Printed struct {
	Step  *Step
	Lines []string
}

// Change lists what an event has changed: the steps that began, those that ended, and their
// output. A step that was cached has ended without beginning.
type Change struct {
	Began, Ended []*Step
	Printed      []Printed
}

// Apply takes an event in that was heard at a time since the start of the run, and
// returns what it changed of steps.
func (s *Scene) Apply(at time.Duration, e runtime.Event) Change {
	switch e := e.(type) {
	case runtime.StatusEvent:
		return s.status(at, e)
	case runtime.JobEvent:
		s.job(at, e)
	case runtime.MoveEvent:
		s.noteMove(at, e)
	case runtime.RetryEvent:
		s.news(at, Warned, e.Node, fmt.Sprintf("attempt %d of %d failed with exit code %s: %s", e.Attempt, e.Limit, e.ExitCode, Name(e.Targets, printable.Line(e.Step))))
	case runtime.SendEvent:
		s.noteSend(at, e)
	case runtime.QueueEvent:
		for _, q := range e.Nodes {
			n := s.node(q.Node)
			n.Up, n.Queue, n.Open, n.Ends = q.Up, q.Queued, q.Open, q.Ends
		}
	case runtime.WaitEvent:
		s.news(at, Remarked, e.Node, e.Text)
	case runtime.NodeEvent:
		s.nodeEvent(at, e)
	}
	return Change{}
}

// Say adds a line to the news that is about no node.
func (s *Scene) Say(at time.Duration, kind Kind, text string) { s.news(at, kind, "", text) }

func (s *Scene) news(at time.Duration, kind Kind, node, text string) {
	s.News = append(s.News, News{At: at, Kind: kind, Node: node, Text: printable.Line(text)})
	if len(s.News) > maxNews {
		s.News = slices.Delete(s.News, 0, maxNews/5)
	}
}

func (s *Scene) nodeEvent(at time.Duration, e runtime.NodeEvent) {
	n := s.node(e.Node)
	switch {
	case e.Err != nil:
		n.Up, n.Lost, n.Silent = false, printable.Line(e.Err.Error()), 0
		s.news(at, Bad, e.Node, "lost: "+n.Lost)
		for i, st := range n.Running {
			if st != nil {
				st.State, st.Ended = Cancelled, at
				n.Running[i] = nil
			}
		}
	case e.Silent > 0:
		n.Silent = e.Silent
		s.news(at, Warned, e.Node, "has not answered for "+e.Silent.Round(time.Second).String())
	default:
		n.Lost, n.Silent = "", 0
		s.news(at, Good, e.Node, "answers again")
	}
}

func (s *Scene) noteMove(at time.Duration, e runtime.MoveEvent) {
	names := some(e.Targets)
	switch {
	case e.From != "" && e.From != e.Node:
		s.news(at, Moved, e.Node, fmt.Sprintf("takes over %s from %s (%s)", names, e.From, e.Why))
	default:
		s.news(at, Moved, e.Node, fmt.Sprintf("builds %s (%s)", names, e.Why))
	}
}

func (s *Scene) noteSend(at time.Duration, e runtime.SendEvent) {
	name := printable.Line(e.Step)
	if len(e.Targets) > 0 {
		name = Name(e.Targets, name)
	}
	if e.Err != nil {
		s.news(at, Warned, e.Node, fmt.Sprintf("could not send %s: %v", name, e.Err))
		return
	}
	to := ""
	if len(e.To) > 0 {
		to = " to " + some(e.To)
	}
	s.news(at, Sent, e.Node, "sent "+name+to)
}

// some names up to three things and counts the others.
func some(names []string) string {
	if len(names) > 3 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:2], ", "), len(names)-2)
	}
	return strings.Join(names, ", ")
}

// Name puts targets into the name of a step: "[build 2/4] RUN x" becomes
// "[worker build 2/4] RUN x".
func Name(targets []string, name string) string {
	if len(targets) == 0 {
		return name
	}
	who := strings.Join(targets, ",")
	if more := len(targets) - 2; more > 1 {
		who = fmt.Sprintf("%s,+%d", strings.Join(targets[:2], ","), more)
	}
	if rest, ok := strings.CutPrefix(name, "["); ok {
		return "[" + who + " " + rest
	}
	return "[" + who + "] " + name
}

var stages = map[string]State{"submitted": Running, "built": Writing, "exported": Done, "failed": Failed, "skipped": Skipped}

func (s *Scene) job(at time.Duration, e runtime.JobEvent) {
	t := s.target(e.Target)
	if t.State == Waiting && e.Stage == "submitted" {
		t.Began = at
	}
	if e.Node != "" {
		t.Nodes = appendNew(t.Nodes, e.Node)
		if e.Stage == "submitted" && t.n <= 1 {
			t.Nodes = []string{e.Node} // it may have moved
		}
	}
	t.jobs[e.Job] = stages[e.Stage]
	if e.Result != nil {
		t.Images = append(t.Images, e.Result.Images...)
	}
	// A target has the state of its least advanced part, unless one has failed.
	t.State = Done
	if len(t.jobs) < t.n {
		t.State = Running
	}
	for _, st := range t.jobs {
		if st > Done {
			t.State = max(t.State, st)
		} else if t.State <= Done {
			t.State = min(t.State, st)
		}
	}
	switch t.State {
	case Done:
		t.Ended = at
		if e.Node != "" {
			n := s.node(e.Node)
			n.Built++
			n.Open = max(0, n.Open-1) // what the node has before it is reported a moment later
		}
	case Failed, Skipped:
		t.Ended = at
		if t.State == Failed && t.Why == "" {
			t.Why = "failed"
			for _, st := range slices.Backward(s.Failed) {
				if slices.Contains(st.Targets, t.Name) {
					t.Why = st.Name + ": " + st.Err
					break
				}
			}
		}
		s.news(at, Bad, e.Node, fmt.Sprintf("%s %s", t.Name, e.Stage))
	}
}

func appendNew(list []string, name string) []string {
	if slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}

func (s *Scene) step(n *Node, d digest.Digest) *Step {
	st := n.steps[d]
	if st == nil {
		st = &Step{Node: n, number: len(s.all) + 1, index: -1, digest: d}
		n.steps[d] = st
		s.all = append(s.all, st)
	}
	return st
}

// status takes in BuildKit's status of steps.
func (s *Scene) status(at time.Duration, e runtime.StatusEvent) Change {
	n := s.node(e.Node)
	n.Up = n.Up || n.Lost == ""
	var c Change
	for _, v := range e.Status.Vertexes {
		st := s.step(n, v.Digest)
		s.describe(st, v, e)
		was := st.State
		s.advance(at, st, v)
		if was != Running && st.State == Running || was == Waiting && st.State > Running && st.State != Cached {
			c.Began = append(c.Began, st)
		}
		if was != st.State && st.State > Running {
			if lines := st.Log.close(); len(lines) > 0 {
				c.Printed = append(c.Printed, Printed{st, lines})
			}
			c.Ended = append(c.Ended, st)
		}
	}
	for _, vs := range e.Status.Statuses {
		st := s.step(n, vs.Vertex)
		if st.progress == nil {
			st.progress = map[string][2]int64{}
		}
		was := st.progress[vs.ID]
		st.progress[vs.ID] = [2]int64{vs.Current, vs.Total}
		st.Current += vs.Current - was[0]
		st.Total += vs.Total - was[1]
	}
	for _, l := range e.Status.Logs {
		st := s.step(n, l.Vertex)
		if st.Name == "" && st.Targets == nil {
			s.own(st, e.Targets[l.Vertex])
		}
		before := st.Log.bytes
		lines := st.Log.write(l.Stream, l.Data)
		s.logBytes += st.Log.bytes - before
		before = st.Log.bytes
		if s.brief {
			st.Log.Forget()
		} else if s.logBytes > maxLogs {
			st.Log.trim(minStepLog)
		} else {
			st.Log.trim(maxStepLog)
		}
		s.logBytes += st.Log.bytes - before
		if len(lines) > 0 {
			c.Printed = append(c.Printed, Printed{st, lines})
		}
	}
	return c
}

// describe notes the name and the kind of a step.
func (s *Scene) describe(st *Step, v *bkclient.Vertex, e runtime.StatusEvent) {
	st.Name = printable.Line(v.Name)
	if len(v.Inputs) > 0 {
		st.inputs = v.Inputs
	}
	s.own(st, e.Targets[v.Digest])
	i, ok := e.Steps[v.Digest]
	if !ok || st.index >= 0 {
		return
	}
	st.index = i
	st.work = i >= len(s.steps) || s.steps[i].Work
	if st.work {
		st.Node.Steps++
	}
	if i < len(s.steps) && s.steps[i].Measured && st.Node.speed > 0 {
		st.Expected = time.Duration(float64(s.steps[i].Cost) / st.Node.speed)
	}
}

// own notes the targets of a step.
func (s *Scene) own(st *Step, targets []string) {
	if len(targets) <= len(st.Targets) {
		return // a step has the same targets in every event
	}
	for _, name := range targets {
		if !slices.Contains(st.Targets, name) {
			st.Targets = append(st.Targets, name)
			t := s.target(name)
			t.steps = append(t.steps, st)
		}
	}
}

// advance notes the new state of a step.
func (s *Scene) advance(at time.Duration, st *Step, v *bkclient.Vertex) {
	switch {
	case v.Started == nil:
	case v.Completed == nil:
		if st.State != Running {
			st.State, st.Began = Running, at
			st.Node.occupy(st)
			st.follow()
		}
	default:
		st.Node.leave(st)
		if st.State == Waiting {
			st.Began = at
			st.follow()
		}
		had := st.State == Done || st.State == Cached
		st.Ended = at
		switch {
		case v.Error != "":
			st.Err = printable.Line(v.Error)
			st.State, st.Took = Failed, v.Completed.Sub(*v.Started)
			if strings.Contains(v.Error, "context canceled") {
				st.State = Cancelled
				return
			}
			if slices.Contains(s.Failed, st) {
				return // it was tried again
			}
			s.Failed = append(s.Failed, st)
			s.news(at, Bad, st.Node.Name, fmt.Sprintf("%s failed: %s", Name(st.Targets, st.Name), st.Err))
			return
		case v.Cached:
			st.State = Cached
		default:
			st.State, st.Took = Done, v.Completed.Sub(*v.Started)
		}
		if st.index >= 0 {
			s.done[st.index] = s.done[st.index] || st.State == Done
		}
		if st.work && !had {
			st.Node.Done++
			if st.State == Cached {
				st.Node.Cached++
			}
		}
	}
}

// occupy gives a step a place among those that run.
func (n *Node) occupy(st *Step) {
	if i := slices.Index(n.Running, nil); i >= 0 {
		n.Running[i] = st
		return
	}
	n.Running = append(n.Running, st)
}

// leave frees the place of a step.
func (n *Node) leave(st *Step) {
	if i := slices.Index(n.Running, st); i >= 0 {
		n.Running[i] = nil
	}
}

// follow notes which step this one had to wait for.
func (st *Step) follow() {
	st.path, st.before = 0, nil
	for _, d := range st.inputs {
		in := st.Node.steps[d]
		if in == nil {
			continue
		}
		if long := in.path + in.Took; in.State != Cached && long > st.path {
			st.path, st.before = long, in
		} else if in.State == Cached && in.path > st.path {
			st.path, st.before = in.path, in.before
		}
	}
}

// Critical is the longest chain of steps so far, each of which waited for the one
// before, and how long it took. Steps that were not run are no part of it.
func (s *Scene) Critical(now time.Duration) ([]*Step, time.Duration) {
	var last *Step
	var long time.Duration
	for _, st := range s.all {
		if st.State == Waiting || st.State == Cached {
			continue
		}
		if l := st.path + st.RunTime(now); l > long {
			last, long = st, l
		}
	}
	var chain []*Step
	for st := last; st != nil; st = st.before {
		chain = append(chain, st)
	}
	slices.Reverse(chain)
	return chain, long
}

// Counts holds the numbers of a scene's targets by state.
type Counts struct{ All, Done, Failed, Skipped, Open int }

// Counts counts the targets.
func (s *Scene) Counts() Counts {
	c := Counts{All: len(s.Targets)}
	for _, t := range s.Targets {
		switch t.State {
		case Done:
			c.Done++
		case Failed, Cancelled:
			c.Failed++
		case Skipped:
			c.Skipped++
		case Running, Writing:
			c.Open++
		}
	}
	return c
}

// Ends is when the run is expected to end, 0 when that is not known.
func (s *Scene) Ends() time.Duration {
	if s.Predicted == 0 {
		return 0
	}
	var ends time.Duration
	for _, n := range s.Nodes {
		if n.Up {
			ends = max(ends, n.Ends)
		}
	}
	return cmp.Or(ends, s.Predicted)
}

// Progress is how much of the work is done, from 0 to 1: by what its steps cost, or by
// targets where that is not known.
func (s *Scene) Progress() float64 {
	var done, all time.Duration
	for i, st := range s.steps {
		all += st.Cost
		if _, ok := s.done[i]; ok {
			done += st.Cost
		}
	}
	c := s.Counts()
	if all > 0 && c.Done < c.All {
		return min(0.99, float64(done)/float64(all))
	}
	if c.All == 0 {
		return 0
	}
	return float64(c.Done) / float64(c.All)
}

// Steps are the steps of a target, in the order in which they began, then those that did
// not: those on the nodes that build it, those that failed, and those that ran elsewhere
// because nodes build steps for each other. What targets share also runs where others of
// them are built; where it ran here as well, that is left out.
func (t *Target) Steps() []*Step {
	here := map[digest.Digest]bool{} // those that ran on its nodes
	own := func(st *Step) bool { return slices.Contains(t.Nodes, st.Node.Name) }
	for _, st := range t.steps {
		if own(st) && st.State != Cached && st.State != Waiting {
			here[st.digest] = true
		}
	}
	var list []*Step
	for _, st := range t.steps {
		ran := st.State != Cached && st.State != Waiting
		if len(t.Nodes) == 0 || own(st) || st.State == Failed || ran && !here[st.digest] {
			list = append(list, st)
		}
	}
	// BuildKit announces steps in any order.
	began := func(st *Step) time.Duration {
		if st.State == Waiting {
			return math.MaxInt64
		}
		return st.Began
	}
	slices.SortStableFunc(list, func(x, y *Step) int { return cmp.Compare(began(x), began(y)) })
	return list
}

// Doing returns the step of a target that has been running for the longest time, nil
// when none runs.
func (t *Target) Doing() *Step {
	var first *Step
	for _, st := range t.Steps() {
		if st.State == Running && (first == nil || st.Began < first.Began) {
			first = st
		}
	}
	return first
}

// Counts returns how many steps of a target are done, and how many of those were
// cached, of all that are known.
func (t *Target) Counts() (done, cached, all int) {
	for _, st := range t.steps {
		if !st.work || len(t.Nodes) > 0 && !slices.Contains(t.Nodes, st.Node.Name) {
			continue
		}
		all++
		switch st.State {
		case Cached:
			cached++
			done++
		case Done:
			done++
		}
	}
	return done, cached, max(all, t.planned)
}

// Work returns how many different steps the run consists of, how many of those are done,
// and how many of these were run nowhere, as their results were there.
func (s *Scene) Work() (done, cached, all int) {
	for i, st := range s.steps {
		if !st.Work {
			continue
		}
		all++
		if ran, ok := s.done[i]; ok {
			done++
			if !ran {
				cached++
			}
		}
	}
	return done, cached, all
}

// Waits returns the node in whose queue a target stands, and its place there from 1; ""
// when it stands in none.
func (s *Scene) Waits(t *Target) (node string, place int) {
	for _, n := range s.Nodes {
		if i := slices.Index(n.Queue, t.Name); i >= 0 {
			return n.Name, i + 1
		}
	}
	return "", 0
}
