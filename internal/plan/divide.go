package plan

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/partition"
)

// A target with several platforms is one job, built on one node, unless it is divided into
// parts. It has to be divided where no node can run all of its steps, and is where it ends
// sooner. Parts are pushed by digest and joined under the target's names: only what is pushed
// can be divided.

// joining is the time to write the index that joins the parts of a target: a few requests to
// the registry after the last of them.
const joining = time.Second

// Choose plans b on nodes, with targets divided where they have to be or where that
// ends sooner. It returns the build that the plan is for. may says which targets may be
// divided although they need not be; only those are asked about whose outputs allow it.
func (b *Build) Choose(ctx context.Context, nodes []Node, strategy partition.Strategy, opts partition.Options, may func(*ir.Target) bool) (*Build, *Plan, error) {
	whole := b.Divide(nodes)
	best, err := Make(ctx, whole, nodes, strategy, opts)
	if err != nil || len(nodes) < 2 || strategy.Name() == exact {
		return whole, best, err
	}
	asked := map[string]bool{}
	for _, j := range b.Jobs {
		if len(j.Units) > 1 && divisible(j.Target) {
			asked[j.Target.Name] = may == nil || may(j.Target)
		}
	}
	free := func(j Job) bool { return asked[j.Target.Name] }
	if !slices.ContainsFunc(b.Jobs, free) {
		return whole, best, nil
	}
	if opts.Budget > 1 {
		opts.Budget /= 2
	}
	// First plan every platform by itself: where the platforms come to lie shows which of them
	// belong together.
	single, err := b.planParts(ctx, nodes, strategy, opts, whole, func(j Job) [][]*frontend.Unit {
		if !free(j) {
			return nil
		}
		var groups [][]*frontend.Unit
		for _, u := range j.Units {
			groups = append(groups, []*frontend.Unit{u})
		}
		return groups
	})
	if err != nil {
		return nil, nil, err
	}
	place := map[string]int{} // by unit: the node
	for i, j := range single.build.Jobs {
		for _, u := range j.Units {
			place[string(u.ID)] = int(single.plan.Assignment.Node[i])
		}
	}
	grouped, err := b.planParts(ctx, nodes, strategy, opts, whole, func(j Job) [][]*frontend.Unit {
		if !free(j) {
			return nil
		}
		var groups [][]*frontend.Unit
		index := map[int]int{} // of groups, by node
		for _, u := range j.Units {
			n := place[string(u.ID)]
			i, ok := index[n]
			if !ok {
				i = len(groups)
				index[n] = i
				groups = append(groups, nil)
			}
			groups[i] = append(groups[i], u)
		}
		return groups
	})
	if err != nil {
		return nil, nil, err
	}
	limit := min(time.Duration(float64(best.Makespan)*(1-worthwhile)), best.Makespan-joining)
	if grouped.plan.Makespan >= limit || len(grouped.build.Jobs) == len(whole.Jobs) {
		return whole, best, nil
	}
	grouped.plan.Undivided = best.Makespan
	return grouped.build, grouped.plan, nil
}

// planned is a build and a plan for it.
type planned struct {
	build *Build
	plan  *Plan
}

// planParts plans b with jobs divided as groups says; nil divides them as in whole.
func (b *Build) planParts(ctx context.Context, nodes []Node, strategy partition.Strategy, opts partition.Options, whole *Build, groups func(Job) [][]*frontend.Unit) (planned, error) {
	var jobs []Job
	for _, j := range b.Jobs {
		if list := groups(j); list != nil {
			jobs = append(jobs, j.parts(list)...)
			continue
		}
		for _, part := range whole.Jobs {
			if part.Target == j.Target {
				jobs = append(jobs, part)
			}
		}
	}
	out := b.withJobs(jobs)
	p, err := Make(ctx, out, nodes, strategy, opts)
	return planned{out, p}, err
}

// divisible reports whether the parts of a target can be put together to exactly what
// one node would have made: every output is an image that is pushed under a name, and
// no cache is written whose ref the parts would take from each other.
func divisible(t *ir.Target) bool {
	if len(t.Outputs) == 0 || slices.ContainsFunc(t.Outputs, func(o ir.Output) bool { return !o.Pushes() }) {
		return false
	}
	return !slices.ContainsFunc(t.CacheTo, func(c ir.CacheEntry) bool { return c.Type != ir.TypeInline })
}

// parts returns j divided into jobs; j itself when there is one group.
func (j Job) parts(groups [][]*frontend.Unit) []Job {
	if len(groups) == 1 {
		return []Job{j}
	}
	var list []Job
	for _, g := range groups {
		part := Job{Target: j.Target, Units: g}
		part.Name = j.Target.Name + partSign + strings.Join(part.Platforms(), ",")
		list = append(list, part)
	}
	return list
}

// PartOf returns the platforms of job i when it is a part of its target, nil when it
// is all of it.
func (b *Build) PartOf(i int) []string {
	same := func(j Job) bool { return j.Target == b.Jobs[i].Target }
	if i > 0 && same(b.Jobs[i-1]) || i+1 < len(b.Jobs) && same(b.Jobs[i+1]) {
		return b.Jobs[i].Platforms()
	}
	return nil
}

// Platforms returns the names of the job's platforms.
func (j Job) Platforms() []string {
	var names []string
	for _, u := range j.Units {
		names = append(names, platforms.Format(u.Platform))
	}
	return names
}

// Divide returns b with a job for each group of platforms in place of a job whose
// steps no single node can run. Units stay together as long as one node can run
// them all; a unit that no node can run is left for [Make] to refuse. The jobs of a
// target follow each other and are named TARGET@PLATFORM,….
func (b *Build) Divide(nodes []Node) *Build {
	if !slices.ContainsFunc(b.Jobs, func(j Job) bool { return len(j.Units) > 1 }) {
		return b
	}
	needs := map[string][]ocispecs.Platform{} // by unit
	for _, v := range b.Graph.Vertices {
		if v.Kind != llbmerge.KindExec || v.Platform == nil {
			continue
		}
		for _, u := range v.Users {
			needs[u] = append(needs[u], *v.Platform)
		}
	}
	fits := func(units ...*frontend.Unit) bool {
		return slices.ContainsFunc(nodes, func(n Node) bool {
			for _, u := range units {
				if slices.ContainsFunc(needs[string(u.ID)], func(p ocispecs.Platform) bool { return !n.runs(p) }) {
					return false
				}
			}
			return true
		})
	}
	var jobs []Job
	for _, j := range b.Jobs {
		if len(j.Units) < 2 || fits(j.Units...) {
			jobs = append(jobs, j)
			continue
		}
		var groups [][]*frontend.Unit
		for _, u := range j.Units {
			// First fit, so that no node can run two of the groups: parts of
			// a target never meet on one node.
			i := slices.IndexFunc(groups, func(g []*frontend.Unit) bool { return fits(append(slices.Clone(g), u)...) })
			if i < 0 {
				groups = append(groups, nil)
				i = len(groups) - 1
			}
			groups[i] = append(groups[i], u)
		}
		jobs = append(jobs, j.parts(groups)...)
	}
	return b.withJobs(jobs)
}

// divide returns whole jobs divided as in the saved plan, as far as the platforms are the
// same.
func (s *Saved) divide(whole []Job) []Job {
	var jobs []Job
	for _, j := range whole {
		var groups [][]*frontend.Unit
		left := slices.Clone(j.Units)
		for _, t := range s.Parts {
			if t.Target != j.Target.Name {
				continue
			}
			var group []*frontend.Unit
			for _, u := range j.Units {
				if slices.Contains(t.Platforms, platforms.Format(u.Platform)) {
					group = append(group, u)
					left = slices.DeleteFunc(left, func(have *frontend.Unit) bool { return have == u })
				}
			}
			groups = append(groups, group)
		}
		if len(groups) == 0 || len(left) > 0 {
			jobs = append(jobs, j) // Restore finds what does not fit
			continue
		}
		jobs = append(jobs, j.parts(groups)...)
	}
	return jobs
}

// runs reports whether the node can run steps of a platform.
func (n Node) runs(p ocispecs.Platform) bool {
	return len(n.Platforms) == 0 || slices.ContainsFunc(n.Platforms, func(have ocispecs.Platform) bool {
		return platforms.Only(have).Match(p)
	})
}
