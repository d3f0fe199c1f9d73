package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/runtime/nodeset"
)

// fewestPoints is how far a curve goes at least by default.
const fewestPoints = 4

// Curve plans the build on 1, 2, … nodes, up to most of them. These may be more than there are;
// 0 is twice as many. Of the nodes that there are it takes those that [Nodes.Max] would. The
// stage [Caches] must have been done.
func (s *Session) Curve(ctx context.Context, most int) (*report.Curve, error) {
	name := s.request.Strategy.Name()
	given := s.facts.nodes
	if s.images.Idle() {
		return report.NewCurve(name, len(given), nil), nil
	}
	if most == 0 {
		most = max(fewestPoints, 2*len(given))
	}
	var needed []ocispecs.Platform
	for _, u := range s.build.Units {
		needed = append(needed, u.Platform)
	}
	var plans []report.CurvePlan
	var why error
	possible := false
	for k := 1; k <= most; k++ {
		point := report.CurvePlan{Nodes: gradation(given, needed, k), Assumed: max(0, k-len(given))}
		_, point.Plan, point.Why = s.choose(ctx, s.build, point.Nodes, s.request.Strategy)
		if point.Why != nil && !errors.Is(point.Why, plan.ErrNoNode) {
			return nil, point.Why
		}
		why, possible = point.Why, possible || point.Plan != nil
		plans = append(plans, point)
	}
	if !possible {
		return nil, why
	}
	return report.NewCurve(name, len(given), plans), nil
}

// gradation returns k nodes: the fastest of the given ones by the rule of --max-nodes, or all
// of them and copies that hold nothing.
func gradation(given []plan.Node, needed []ocispecs.Platform, k int) []plan.Node {
	if k < len(given) {
		var list []candidateNode
		for _, n := range given {
			list = append(list, candidateNode{spec: nodeset.Spec{Name: n.Name, Speed: n.Speed}, offers: n.Platforms, native: n.Native})
		}
		kept := fastest(list, needed, k)
		return slices.DeleteFunc(slices.Clone(given), func(n plan.Node) bool {
			return !slices.ContainsFunc(kept, func(c candidateNode) bool { return c.spec.Name == n.Name })
		})
	}
	nodes := slices.Clone(given)
	for i := len(given); i < k; i++ {
		n := given[i%len(given)]
		n.Name = fmt.Sprintf("%s+%d", n.Name, i/len(given))
		n.Holds, n.Lost, n.Tenants = warm.Holdings{}, nil, 0
		nodes = append(nodes, n)
	}
	return nodes
}
