package sched

import "time"

// speeds are the times of steps and the speeds of nodes: the predictions, corrected by the
// run's measurements.
type speeds struct {
	fleet
	now     time.Duration // of the last event; it never goes back
	learned learning
	seen    int // changes whenever something that the lag of a node rests on does
	// lagsAny is set when some node lagged when seen was lagsSeen.
	lagsAny  bool
	lagsSeen int
	// suspect is a node that is taken to lag while another one thinks of building its unit
	// too, and unpromised one that is taken to be sent nothing more; nil = none.
	suspect, unpromised *node
}

// learning holds the run's measurements, all nodes together.
type learning struct {
	measured []int64   // nanoseconds at speed 1; 0 = not measured
	begun    []running // the earliest step under way, for those not measured
	by       []NodeID  // which node runs it; NoNode = none
	prior    float64   // weight of "predictions are right", in nanoseconds
	exp, got float64   // predicted and measured time of the steps done
	tally    tally     // of all nodes
}

func newLearning(vs []Vertex) learning {
	l := learning{
		measured: make([]int64, len(vs)),
		begun:    make([]running, len(vs)),
		by:       make([]NodeID, len(vs)),
	}
	var sum float64
	for i := range vs {
		l.by[i] = NoNode
		sum += float64(vs[i].Cost)
	}
	// Two average steps weigh as much as the belief in the predictions: enough to
	// damp the first surprise, little enough to learn within a run.
	l.prior = float64(time.Millisecond)
	if len(vs) > 0 {
		l.prior = max(l.prior, 2*sum/float64(len(vs)))
	}
	return l
}

func (l *learning) start(v VertexID, n NodeID, at time.Duration) {
	if l.by[v] == NoNode {
		l.by[v], l.begun[v] = n, running{v, at}
	}
}

func (l *learning) stop(v VertexID, n NodeID) {
	if l.by[v] == n {
		l.by[v] = NoNode
	}
}

// bias is the factor by which predictions have been too low.
func (l *learning) bias() float64 {
	return clamp((l.prior+l.got)/(l.prior+l.exp), 1./8, 8)
}

func clamp(x, lo, hi float64) float64 { return max(lo, min(x, hi)) }

// slowness is the factor by which a node takes longer than its speed says, beyond
// the bias that all nodes share. Steps under way that take longer than they should
// count before they are done: that is how a node that has become slow is noticed.
func (s *speeds) slowness(n *node) float64 {
	if lag := s.lag(n); lag > 0 {
		return clamp(lag, 1, slowest)
	}
	l := &s.learned
	exp, got := n.exp, n.got
	for _, r := range n.running {
		weight, cost := 1., float64(l.measured[r.v])
		if cost == 0 { // the step may be what is slow
			weight, cost = hearsay, float64(s.cfg.Vertices[r.v].Cost)*l.bias()
		}
		if due, age := cost/s.pace(n, r.v), float64(s.now-r.since); age > due {
			exp, got = exp+weight*due, got+weight*age
		}
	}
	return clamp((l.prior+got)/(l.prior+exp), 1./4, slowest)
}

// slowest is the largest factor by which a node is taken to have become slower.
const slowest = 16

// learn takes in a measured step.
func (s *speeds) learn(n *node, v VertexID, took time.Duration) {
	l := &s.learned
	s.inspect(n, v, took)
	s.seen++
	if raw := s.cfg.Vertices[v].Cost; raw > 0 {
		exp := float64(raw) / s.pace(n, v)
		l.exp += exp
		l.got += float64(took)
		if m := l.measured[v]; m > 0 {
			n.exp += float64(m) / s.pace(n, v)
			n.got += float64(took)
		} else {
			n.exp += hearsay * exp * l.bias()
			n.got += hearsay * float64(took)
		}
	}
	cost := max(1, int64(float64(took)*s.pace(n, v)/s.slowness(n)))
	if old := l.measured[v]; old > 0 {
		cost = (old + cost) / 2
	}
	l.measured[v] = cost
	s.seen++
}

// cost returns the time of a step at speed 1, in nanoseconds.
func (s *speeds) cost(v VertexID) float64 {
	l := &s.learned
	if m := l.measured[v]; m > 0 {
		return float64(m)
	}
	c := float64(s.cfg.Vertices[v].Cost) * l.bias()
	if by := l.by[v]; by != NoNode && !s.lags(s.nodes[by]) {
		if age := float64(s.now-l.begun[v].since) * s.pace(s.nodes[by], v) / max(1, s.slowness(s.nodes[by])); age > c {
			c = overdue * age
		}
	}
	return c
}

const (
	// overdue times its age is the time that a step is expected to take in all once
	// it has run longer than predicted.
	overdue = 1.5
	// hearsay is the weight, in what is learned about a node, of a step compared to its
	// prediction. One that was measured on another node before weighs 1: it shows the node's
	// speed, while the others rather show how wrong predictions are.
	hearsay = 0.3
)

// pace is the speed of a node at a step: less than its speed where it emulates, or has yet to
// fill a cache mount.
func (s *speeds) pace(n *node, v VertexID) float64 {
	speed := n.speed
	if n.cold != nil && n.cold.has(v) {
		speed /= s.cfg.Vertices[v].Cold
	}
	if len(n.emulates) > 0 {
		if factor, ok := n.emulates[s.cfg.Vertices[v].Platform]; ok {
			return speed / factor
		}
	}
	return speed
}

// exec is the time of a step on a node, in nanoseconds.
func (s *speeds) exec(n *node, v VertexID) float64 {
	return s.cost(v) * s.slowness(n) / s.pace(n, v)
}

// rest is what is left of a step under way that takes t in all.
func (s *speeds) rest(r running, t float64) float64 {
	age := float64(s.now - r.since)
	if age <= t {
		return t - age
	}
	return (overdue - 1) * age
}
