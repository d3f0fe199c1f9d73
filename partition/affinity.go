package partition

import (
	"context"
	"fmt"
	"math/rand/v2"
)

// affinity is the default strategy: the best of all placements, improved by local
// search on the predicted makespan.
type affinity struct{}

func (affinity) Name() string { return "affinity" }

func (s affinity) Plan(ctx context.Context, p Problem, o Options) (Plan, error) {
	r, err := newRun(ctx, p, o)
	if err != nil {
		return Plan{}, fmt.Errorf("plan with %s: %w", s.Name(), err)
	}
	var best *draft
	at := 0.0
	for _, place := range []func(*run) *draft{heft, lpt, queue, rendezvous, single} {
		d := place(r)
		if mk := r.makespan(d); best == nil || mk < at {
			best, at = d, mk
		}
	}
	r.improve(best, at)
	return r.finish(s.Name(), best)
}

// improve changes d by random moves that do not lengthen it, until the budget is spent.
func (r *run) improve(d *draft, at float64) {
	m := r.m
	rng := rand.New(rand.NewPCG(r.o.Seed, 1))
	for r.steps < r.o.budget() && r.ctx.Err() == nil {
		trial := d.clone()
		switch rng.IntN(3) {
		case 0:
			t, n := rng.IntN(m.nt), rng.IntN(m.nn)
			if !m.allows(t, n) {
				continue
			}
			trial.node[t] = int32(n)
		case 1:
			a, b := rng.IntN(m.nt), rng.IntN(m.nt)
			na, nb := trial.node[a], trial.node[b]
			if na == nb || !m.allows(a, int(nb)) || !m.allows(b, int(na)) {
				continue
			}
			trial.node[a], trial.node[b] = nb, na
		case 2:
			v, n := rng.IntN(m.nv), rng.IntN(m.nn)
			m.set(trial.fetch, v)[n>>6] ^= 1 << (n & 63)
		}
		if mk := r.makespan(trial); mk <= at {
			*d, at = *trial, mk
		}
	}
}
