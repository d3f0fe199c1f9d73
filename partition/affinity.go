package partition

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
)

// affinity is the default strategy. It starts from what the placements make, and
// from the earlier plan if there is one, and improves the best of them by simulated
// annealing over targets' nodes, whole groups that share a vertex, rebuild or fetch
// for each vertex and node, the source of a fetched vertex (which may be a node
// that builds it only for others) and the order on a node. Each trial is a full
// list schedule, cut short as soon as it cannot be accepted.
//
// The result is never longer than that of heft, lpt, queue and single, whatever the
// budget. (rendezvous is not among the starts: it depends on names.)
type affinity struct{}

func (affinity) Name() string { return "affinity" }

// chains is the number of searches that run at once. It is fixed, so that the plan
// does not depend on the machine.
const chains = 2

func (s affinity) Plan(ctx context.Context, p Problem, o Options) (Plan, error) {
	r, err := newRun(ctx, p, o)
	if err != nil {
		return Plan{}, fmt.Errorf("plan with %s: %w", s.Name(), err)
	}
	best := r.search(r.starts())
	if r.m.nn == 1 || r.m.nn > smallNodes || r.m.nv > smallVertices || o.Previous != nil {
		return r.finish(s.Name(), best)
	}
	best, proven, _ := r.prove(best, o.budget()/4)
	return r.finishProven(s.Name(), best, proven)
}

// Up to these sizes affinity also tries for a proof, see exact: branch and bound
// sometimes finds what annealing missed, and a proven plan needs no second look.
const (
	smallNodes    = 4
	smallVertices = 64
)

// start is a plan to begin from.
type start struct {
	d        *draft
	makespan float64
}

// starts returns the plans of the placements, the shortest first, but for one that fits
// slots more tightly, which comes second.
func (r *run) starts() []start {
	var out []start
	add := func(d *draft) { out = append(out, start{d, r.makespan(d)}) }
	if r.o.Previous != nil {
		add(r.again())
	}
	places := []func(*run) *draft{heft, heftBySum, lpt, queue, single}
	if r.m.links > 0 {
		places = append(places, heftUnshared)
	}
	for _, place := range places {
		if len(out) > 0 && r.ctx.Err() != nil {
			break
		}
		add(place(r))
	}
	slices.SortStableFunc(out, func(a, b start) int { return cmp.Compare(a.makespan, b.makespan) })
	// Plans of a kind with heft's are of no use unless they are better. Then they come
	// second: what is shorter at first is not always shorter in the end.
	best := out[0].makespan
	for _, place := range []func(*run) *draft{heftByFit, heftBySumAndFit} {
		if r.ctx.Err() != nil {
			break
		}
		d := place(r)
		if makespan := r.makespan(d); makespan < best {
			best = makespan
			out = slices.Insert(out, 1, start{d, makespan})
		}
	}
	return out
}

// again is the earlier plan; targets it did not have, or may not have where it had
// them, go where the other plans leave room.
func (r *run) again() *draft {
	m := r.m
	var order []int
	d := m.newDraft()
	for t, n := range r.o.Previous {
		if n >= 0 && int(n) < m.nn && m.allows(t, int(n)) {
			d.node[t] = int32(n)
		} else {
			d.node[t] = -1
			order = append(order, t)
		}
	}
	b := newBoard(m, d)
	for t, n := range d.node {
		if n >= 0 {
			b.try(b.closure.of(int(m.root[t])), int(n), true)
		}
	}
	b.placeAll(order)
	return d
}

// search looks for a better plan than the starts. Where there is nothing to choose, or
// nothing better, there is nothing to look for.
func (r *run) search(starts []start) *draft {
	first := newSearcher(r, 1, float64(r.bound.Max))
	shortest := slices.MinFunc(starts, func(a, b start) int { return cmp.Compare(a.makespan, b.makespan) })
	first.begin(shortest.d)
	if r.m.nn == 1 || r.settled(first.bestScore) {
		r.steps += first.steps
		return shortest.d
	}
	best, score, spent := shortest.d, first.bestScore, 0
	for k, budget := range r.o.rounds() {
		if r.ctx.Err() != nil || r.settled(score) {
			break
		}
		left := r.o.worth(spent+budget, score.makespan-float64(r.bound.Max)) - spent
		if left < budget && r.o.Previous == nil {
			break // rounds have fixed sizes
		}
		budget = min(budget, left)
		spent += budget
		found, others := r.round(starts, budget, uint64(k*chains))
		if r.o.Previous != nil || found.bestScore.less(score) {
			best, score = found.best, found.bestScore
		}
		starts = slices.Concat([]start{{best, score.makespan}}, others, starts)
	}
	return best
}

// round anneals in phases: at first each chain from its own start, in the last ones
// all from the best. Where there was time for one phase only, it also returns where the
// chains ended that did not find that.
func (r *run) round(starts []start, budget int, seed uint64) (found *searcher, others []start) {
	list := make([]*searcher, chains)
	for i := range list {
		list[i] = newSearcher(r, seed+uint64(i+1), float64(r.bound.Max))
		list[i].begin(starts[min(i, len(starts)-1)].d)
	}
	budget /= chains
	plan := schedule(r.m, budget, starts[0].d, list[0])
	for k, phase := range plan {
		var group sync.WaitGroup
		for i, c := range list {
			group.Go(func() {
				switch {
				case phase.fresh:
					c.again(starts[min(i+chains*k, len(starts)-1)].d)
				case k > 0:
					c.restart()
				}
				c.anneal(phase.until, phase.hot, phase.cold)
			})
		}
		group.Wait()
		if phase.meet {
			meet(list)
		}
	}
	if len(plan) == 1 {
		others = apart(list)
	}
	meet(list)
	if r.o.Previous != nil {
		r.stay(list[0], budget)
	}
	list[0].tidy(list[0].steps + budget/10)
	list[0].polish(list[0].steps + budget/10)
	for _, c := range list {
		r.steps += c.steps
	}
	return list[0], others
}

// stay prefers a plan that moves less than the best of c and is hardly longer: the
// earlier one, with only fetches and order chosen anew, or else the best with
// targets taken back one by one.
func (r *run) stay(c *searcher, budget int) {
	shortest, best := c.bestScore, c.best.clone()
	c.begin(r.again())
	c.pinned, c.lower = true, shortest.makespan
	c.anneal(c.steps+budget/2, 0.01, 0.0005)
	if c.bestScore.makespan <= shortest.makespan*(1+stability) {
		return
	}
	c.pinned = false
	c.begin(best)
	c.homeward()
}

// phase is one annealing of all chains.
type phase struct {
	until     int     // steps of a chain, from its beginning
	hot, cold float64 // temperatures relative to the makespan
	fresh     bool    // begin at a start of its own instead of the best so far
	meet      bool    // afterwards all chains go on from the best
}

// schedule chooses temperatures by how many trials the budget allows: annealing
// needs hundreds for each target; with fewer, going straight down gets further.
func schedule(m *model, budget int, d *draft, c *searcher) []phase {
	trials := budget / max(1, c.steps*3/2)
	switch {
	case trials > 4000*m.nt:
		return []phase{
			{until: budget / 2, hot: 0.02, cold: 0.0005, fresh: true},
			{until: budget, hot: 0.02, cold: 0.0005, fresh: true},
		}
	case trials > 200*m.nt:
		return []phase{
			{until: budget / 3, hot: 0.02, cold: 0.0005},
			{until: budget * 2 / 3, hot: 0.01, cold: 0.0005, meet: true},
			{until: budget, hot: 0.01, cold: 0.0005},
		}
	case trials > 10*m.nt:
		return []phase{
			{until: budget / 2, hot: 0.0005, cold: 0.0001, meet: true},
			{until: budget, hot: 0.0005, cold: 0.0001},
		}
	}
	return []phase{{until: budget, hot: 0.0001, cold: 0.00001}}
}

// leader returns the chain with the best draft.
func leader(list []*searcher) *searcher {
	best := list[0]
	for _, c := range list[1:] {
		if c.bestScore.less(best.bestScore) {
			best = c
		}
	}
	return best
}

// apart returns the drafts of the chains that do not lead.
func apart(list []*searcher) []start {
	var out []start
	best := leader(list)
	for _, c := range list {
		if c != best {
			out = append(out, start{c.best.clone(), c.bestScore.makespan})
		}
	}
	return out
}

// meet gives every chain the best draft of all.
func meet(list []*searcher) {
	best := leader(list)
	for _, c := range list {
		if c != best {
			c.best.copyFrom(best.best)
			c.bestScore = best.bestScore
		}
	}
}
