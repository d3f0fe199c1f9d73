package sched

import (
	"math"
	"slices"
	"time"
)

// A node that has become slow shows in its steps, one after the other. Any single step may be
// late because its prediction is bad; the other nodes show how bad predictions are. So what a
// node does is compared, step by step, with what it would do if it were slow, until the
// evidence is beyond doubt: the cumulative sum of Page, Continuous inspection schemes (1954),
// with log-normal errors.

var (
	// slowed is the logarithm of how many times longer steps take on a node that has become
	// slow, for the test against one that has not. Steps that take less than the square
	// root of that longer, twice as long as expected, speak against it.
	slowed = math.Log(4)
	// accidents times the steps of the run are the odds at which a node counts as slow: more
	// steps have more streaks of bad luck.
	accidents = 100.
)

// doubtless is the logarithm of the odds at which a node counts as slow.
func (s *speeds) doubtless() float64 {
	return math.Log(accidents * float64(1+len(s.cfg.Vertices)))
}

const (
	// brief is what a step must take, in nanoseconds, to be evidence: shorter times show what
	// surrounds the step.
	brief = 1e9
	// beforehand is how many steps the belief about predictions weighs, spread the variance
	// of their logarithm by that belief, when they are off by a factor between 0.3 and 3.
	// least is the smallest variance that is believed.
	beforehand, spread, least = 4, 0.44, 0.1
)

// tally sums up, of steps that were never measured before, the squares of the logarithms
// of how far they were from what was expected.
type tally struct {
	steps   int
	squares float64
}

// doubt is the evidence that a node has become slow.
type doubt struct {
	odds     float64 // their logarithm; 0 = none
	exp, got float64 // of the steps that raised it, in nanoseconds
}

// expectation is the time of a step on n if n is as it should be, in nanoseconds.
func (s *speeds) expectation(n *node, v VertexID) (exp float64, measured bool) {
	if m := s.learned.measured[v]; m > 0 {
		return float64(m) / s.pace(n, v), true
	}
	return float64(s.cfg.Vertices[v].Cost) * s.learned.bias() / s.pace(n, v), false
}

// weigh adds a step that took got, or has taken that long and is not done.
func (s *speeds) weigh(n *node, d doubt, exp, got float64, measured, done bool) doubt {
	if exp == 0 || max(exp, got) < brief || !done && got < 2*exp {
		return d // under way and not late: it may become so
	}
	gain := (2*math.Log(got/exp) - slowed) * slowed / (2 * s.variance(n, measured))
	if !done {
		got *= overdue
	}
	if d.odds += gain; d.odds <= 0 {
		return doubt{}
	}
	d.exp, d.got = d.exp+exp, d.got+got
	return d
}

// variance returns that of the logarithm of how far predictions are off, as the nodes other than n
// show.
func (s *speeds) variance(n *node, measured bool) float64 {
	if measured {
		return least
	}
	all := s.learned.tally
	return max(least, (beforehand*spread+all.squares-n.tally.squares)/float64(beforehand+all.steps-n.tally.steps))
}

// overruns reports whether a step under way on n takes more than twice as long as it was
// expected to, and longer than predictions are usually off.
func (s *speeds) overruns(n *node, r running) bool {
	exp, measured := s.expectation(n, r.v)
	usual := math.Exp(2 * math.Sqrt(s.variance(n, measured)))
	return float64(s.now-r.since) > max(brief, exp*max(2, usual))
}

// inspect takes in that n did a step.
func (s *speeds) inspect(n *node, v VertexID, took time.Duration) {
	exp, measured := s.expectation(n, v)
	got := float64(took)
	n.doubt = s.weigh(n, n.doubt, exp, got, measured, true)
	n.doubt.odds = min(n.doubt.odds, 2*s.doubtless()) // or it would never recover
	if !measured && exp > 0 && max(exp, got) >= brief {
		x := math.Log(got / exp)
		for _, t := range []*tally{&n.tally, &s.learned.tally} {
			t.steps, t.squares = t.steps+1, t.squares+x*x
		}
	}
}

// lag returns how many times slower n is than it should be, according to its steps that are
// done and under way; 0 when that is in doubt and n is not under suspicion.
func (s *speeds) lag(n *node) float64 {
	if n == s.suspect {
		return max(1, s.doubts(n).times())
	}
	if n.lagSeen != s.seen {
		n.lag, n.lagSeen = s.findLag(n), s.seen
	}
	return n.lag
}

func (s *speeds) findLag(n *node) float64 {
	if len(s.nodes) == 1 {
		return 0
	}
	if d := s.doubts(n); d.odds >= s.doubtless() {
		return d.times()
	}
	return 0
}

// doubts returns the evidence that n has become slow, its steps under way included.
func (s *speeds) doubts(n *node) doubt {
	d := n.doubt
	for _, r := range n.running {
		exp, measured := s.expectation(n, r.v)
		d = s.weigh(n, d, exp, float64(s.now-r.since), measured, false)
	}
	return d
}

// times returns how many times slower the node is, if it is slow.
func (d doubt) times() float64 {
	if d.exp == 0 {
		return 0
	}
	return d.got / d.exp
}

// lags reports whether n is much slower than it should be.
func (s *speeds) lags(n *node) bool { return s.lag(n) > 0 }

// anyLags reports whether some node does.
func (s *speeds) anyLags() bool {
	if s.lagsSeen != s.seen {
		s.lagsAny, s.lagsSeen = slices.ContainsFunc(s.nodes, s.lags), s.seen
	}
	return s.lagsAny
}

// startable returns the first part that n should start, beginning with p. When n lags, that is
// one that no other node would finish sooner. It is nil when all are better left to the others,
// which take them when they have a slot free.
func startable(s *fates, n *node, p *part) *part {
	if !s.lags(n) || !awaits(s, n, p) {
		return p
	}
	rest := slices.Clone(n.ready)
	slices.SortFunc(rest, comparePos)
	for _, q := range rest {
		if q != p && !awaits(s, n, q) {
			return q
		}
	}
	if !slices.Contains(s.held, n) {
		s.held = append(s.held, n)
	}
	return nil
}

// awaits reports whether p should wait for a node that finishes it sooner than n does, although
// that node first does all that it was given before. p is ready, so n would execute now what was
// to be sent to it and is not there: what waits for that is not ready.
func awaits(s *fates, n *node, p *part) bool {
	if p.lane.n != nil && !s.cfg.Options.Steal {
		return false // nobody would take it
	}
	units := slices.Clone(s.pick(n, p.units))
	forgo(s, n, units)
	here := s.survey(n, units, false).path
	for _, m := range s.nodes {
		if m == n || m.state != up || m.drains || s.remaining(m) >= here || !s.suitsAll(units, m) || s.lags(m) {
			continue
		}
		if p.lane.n != nil && len(m.sub.m) == 0 {
			// It has nothing to do, so it would take p now or never.
			if s.wants(m) && s.assess(m, n, units, s.arrivals(m)) != nil {
				return true
			}
			continue
		}
		if r := s.survey(m, units, true); r.ok && !r.early && s.latest(m, r) < here && s.stealable(m, units) {
			return true
		}
	}
	return false
}

// release has the nodes in held looked at again.
func (s *queues) release() {
	for _, n := range s.held {
		s.wake(n)
	}
	s.held = s.held[:0]
}
