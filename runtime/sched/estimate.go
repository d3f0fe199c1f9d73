package sched

import (
	"slices"
	"time"
)

// estimator predicts how long things take, from the problem, from the holdings and the work
// of nodes, and from the run's measurements.
type estimator struct {
	speeds
}

// way returns how n would best come to hold v and its cost, in the unit of demand.load.
func (s *estimator) way(n *node, v VertexID) (way uint8, work int64) {
	if n.fetches.has(v) {
		return byFetch, int64(s.transfer(v))
	}
	if o := s.elsewhere(n, v); o != nil {
		return byFetch, int64(s.comes(n, o, v))
	}
	if s.cached.has(v) {
		if t := s.transfer(v); s.cfg.Vertices[v].Once || t < s.exec(n, v) || !s.cfg.executes(s.cfg.Vertices[v].Platform, n.id) {
			return byFetch, int64(t)
		}
	}
	if m := s.learned.measured[v]; m > 0 {
		return byMeasurement, int64(float64(m) * n.speed / s.pace(n, v))
	}
	return byPrediction, int64(float64(s.cfg.Vertices[v].Cost) * n.speed / s.pace(n, v))
}

// execLoad is the execution time in d, in nanoseconds of one slot of its node, less
// what the steps under way have behind them.
func (s *estimator) execLoad(d *demand) float64 {
	n := d.n
	sum := (float64(d.load[byPrediction])*s.learned.bias() + float64(d.load[byMeasurement])) * s.slowness(n) / n.speed
	for _, r := range n.running {
		e, ok := d.m[r.v]
		if !ok || e.way == byFetch {
			continue
		}
		counted := float64(e.work) * s.slowness(n) / n.speed
		if e.way == byPrediction {
			counted *= s.learned.bias()
		}
		sum += s.rest(r, s.exec(n, r.v)) - counted
	}
	return max(0, sum)
}

// atOnce is the number of steps that n runs at once. Where that is a guess, what it
// does counts: no more when it leaves something waiting, and no less.
func (s *estimator) atOnce(n *node) float64 {
	runs := len(n.running)
	switch {
	case !n.assumed:
		return s.part(n, float64(n.slots))
	case runs > 0 && runs < n.slots && len(s.recallable(n)) > 0:
		return float64(runs)
	}
	return s.part(n, float64(max(n.slots, runs)))
}

// remaining is the least time until n is done with everything submitted and queued:
// as if its slots were never idle, but no sooner than the last of its steps under way.
func (s *estimator) remaining(n *node) float64 {
	least := max(s.execLoad(&n.all)/s.atOnce(n), float64(n.all.load[byFetch]))
	for _, r := range n.running {
		least = max(least, s.rest(r, s.exec(n, r.v)))
	}
	return s.comesIn(n) + least
}

// comesIn is the time until n is expected to come, if it is not there yet.
func (s *estimator) comesIn(n *node) float64 {
	if n.state != expected {
		return 0
	}
	return float64(max(0, n.from-s.now))
}

// survey is the work that a node would have for some units.
type survey struct {
	exec  float64 // on one slot
	fetch float64
	path  float64 // the longest chain
	// unsure is the part of exec that was never measured.
	unsure float64
	// ok is false when the node may not execute a step that it cannot fetch.
	ok bool
	// early is set when a transfer to the node is still pending: a unit that does not wait
	// for it executes the step.
	early bool
	// bare is set when nothing more is to be sent to the node: it executes the steps.
	bare bool
}

// survey follows the units down to what n holds. With fresh set, steps that n does
// anyhow count for the path only.
func (s *estimator) survey(n *node, units []UnitID, fresh bool) survey {
	s.mark()
	s.stack, s.list = s.stack[:0], s.list[:0]
	for _, u := range units {
		s.stack = append(s.stack, s.cfg.Units[u].Root)
	}
	r := survey{ok: true}
	slow := s.slowness(n)
	for len(s.stack) > 0 {
		v := s.stack[len(s.stack)-1]
		s.stack = s.stack[:len(s.stack)-1]
		if s.stamp[v] == s.epoch || n.held.has(v) {
			continue
		}
		s.stamp[v] = s.epoch
		s.list = append(s.list, v)
		promised, pending := s.promise(n, v)
		r.early = r.early || pending
		t := s.cost(v) * slow / s.pace(n, v)
		if fresh {
			if e, ok := n.all.m[v]; ok && promised == n.fetches.has(v) {
				if e.way == byFetch {
					t = float64(e.work)
				}
				s.path[v] = t
				s.stack = append(s.stack, n.all.follows(v, e.way)...)
				continue
			}
		}
		in := s.inputs[v]
		may := s.cfg.executes(s.cfg.Vertices[v].Platform, n.id)
		if x, from := s.transfer(v), s.elsewhere(n, v); from != nil {
			t = s.comes(n, from, v)
			r.fetch += t
			in = nil // its layers come with it
		} else if promised || s.cached.has(v) && (x < t || !may || s.cfg.Vertices[v].Once) {
			t = x
			r.fetch += x
			in = in[:min(1, len(in))]
		} else {
			r.ok = r.ok && may
			r.exec += t
			if s.learned.measured[v] == 0 {
				r.unsure += t
			}
		}
		s.path[v] = t
		s.stack = append(s.stack, in...)
	}
	for _, x := range n.running {
		if s.stamp[x.v] == s.epoch {
			s.path[x.v] = s.rest(x, s.path[x.v])
		}
	}
	slices.Sort(s.list)
	for _, v := range s.list {
		longest := 0.
		for _, in := range s.inputs[v] {
			if s.stamp[in] == s.epoch {
				longest = max(longest, s.path[in])
			}
		}
		s.path[v] += longest
		r.path = max(r.path, s.path[v])
	}
	return r
}

// promise reports whether v is sent to n, or was; pending is set while it is still to be sent.
func (s *estimator) promise(n *node, v VertexID) (yes, pending bool) {
	yes = n.fetches.has(v) && (s.cached.has(v) || n != s.unpromised)
	return yes, yes && !s.cached.has(v)
}

// latest is an upper bound on the time until n has also done what the survey found,
// in any order of work that leaves no slot idle without need (Graham 1969).
func (s *estimator) latest(n *node, r survey) float64 {
	m := s.part(n, float64(n.slots))
	return s.comesIn(n) + (s.execLoad(&n.all)+r.exec)/m + r.path*(1-1/max(1, m)) + float64(n.all.load[byFetch]) + r.fetch
}

// bestNode returns the node expected to finish the units first, and when; nil when
// no node that is up or expected may run all of them. Nodes that are up come
// before those that are not, and nodes that can execute every step before others.
func (s *estimator) bestNode(units []UnitID) (*node, time.Duration) {
	var best *node
	var bestClass int
	var bestAt float64
	for _, n := range s.nodes {
		if n.state == lost || !s.suitsAll(units, n) {
			continue
		}
		class := 0
		if n.state == up {
			class = 2
		}
		if n.drains { // if there is no other
			class -= 4
		}
		if best != nil && (class+1 < bestClass || class+1 == bestClass && s.remaining(n) >= bestAt) {
			continue
		}
		r := s.survey(n, units, true)
		if r.ok {
			class++
		}
		at := s.latest(n, r)
		if best == nil || class > bestClass || class == bestClass && at < bestAt {
			best, bestClass, bestAt = n, class, at
		}
	}
	if best == nil {
		return nil, 0
	}
	return best, s.now + time.Duration(bestAt)
}
