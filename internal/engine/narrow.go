package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/nodeset"
)

// narrowed reports whether the request asks for a part of the nodes only.
func (n *Nodes) narrowed() bool { return len(n.Platforms) > 0 || n.Max > 0 }

// narrow leaves out the nodes that the request does not want: those that run none of its
// platforms, and the slowest of more than it allows. With ask it asks the nodes that run; those
// of this machine that rest are assumed to be what this machine is. An unknown node is left out
// with a warning.
func (n *nodes) narrow(ctx context.Context, p *ir.Project, ask bool) error {
	if !n.choice.narrowed() {
		return nil
	}
	answers := make([]daemon.Answer, len(n.specs))
	if ask {
		answers = daemon.Ask(ctx, n.specs)
	}
	var known []candidateNode
	for i, s := range n.specs {
		c := candidateNode{spec: s}
		switch a := answers[i]; {
		case ask && a.Err == nil:
			c.offers, c.native = a.Info.Platforms, a.Info.Native
		case n.mayRest(s):
			c.native = platforms.Normalize(platforms.DefaultSpec())
			c.offers = []ocispecs.Platform{c.native}
		case len(s.Platforms)+len(s.Prefers) > 0 || !ask:
			for _, name := range slices.Concat(s.Platforms, s.Prefers) {
				if pl, err := platforms.Parse(name); err == nil {
					c.offers = append(c.offers, platforms.Normalize(pl))
				}
			}
		default:
			n.warn(fmt.Sprintf("%v; it is left out, because its platforms are not known", a.Err))
			continue
		}
		known = append(known, c)
	}
	wanted, err := parsePlatforms(n.choice.Platforms)
	if err != nil {
		return err
	}
	kept := ofPlatforms(known, wanted)
	if len(kept) == 0 {
		return fmt.Errorf("no node runs %s: %s", strings.Join(n.choice.Platforms, " or "), describeOffers(known))
	}
	needed := wanted
	if p != nil {
		for _, t := range p.Targets {
			more, err := parsePlatforms(t.PlatformList())
			if err != nil {
				return err
			}
			needed = append(needed, more...)
		}
	}
	kept = fastest(kept, needed, n.choice.Max)
	n.specs = n.specs[:0:0]
	for _, c := range kept {
		n.specs = append(n.specs, c.spec)
	}
	return nil
}

// candidateNode is a node that may be used.
type candidateNode struct {
	spec   nodeset.Spec
	offers []ocispecs.Platform // empty when not known
	native ocispecs.Platform   // zero when not known
}

// runs reports whether the node runs a platform, and whether by itself.
func (c candidateNode) runs(p ocispecs.Platform) (runs, native bool) {
	native = c.native.Architecture != "" && platforms.Only(c.native).Match(p)
	if native || len(c.offers) == 0 {
		return true, native
	}
	return slices.ContainsFunc(c.offers, func(o ocispecs.Platform) bool { return platforms.OnlyStrict(o).Match(p) }), false
}

// ofPlatforms returns the nodes that run one of the platforms: those whose machine does if
// there are any, else those that emulate it.
func ofPlatforms(list []candidateNode, wanted []ocispecs.Platform) []candidateNode {
	if len(wanted) == 0 {
		return list
	}
	use := map[string]bool{}
	for _, p := range wanted {
		var native, other []string
		for _, c := range list {
			switch runs, own := c.runs(p); {
			case own:
				native = append(native, c.spec.Name)
			case runs:
				other = append(other, c.spec.Name)
			}
		}
		if len(native) == 0 {
			native = other
		}
		for _, name := range native {
			use[name] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(c candidateNode) bool { return !use[c.spec.Name] })
}

// fastest returns at most most of the nodes, all for 0: for each platform that is
// needed its fastest node, and then the fastest of all. Of equal nodes the first is
// taken, so that every build takes the same ones.
func fastest(list []candidateNode, needed []ocispecs.Platform, most int) []candidateNode {
	if most <= 0 || len(list) <= most {
		return list
	}
	order := slices.Clone(list)
	slices.SortStableFunc(order, func(a, b candidateNode) int { return cmp.Compare(b.spec.Speed, a.spec.Speed) })
	use := map[string]bool{}
	for _, p := range needed {
		best, rank := "", 0
		for _, c := range order {
			runs, native := c.runs(p)
			r := 0
			switch {
			case native:
				r = 2
			case runs:
				r = 1
			}
			if r > 0 && use[c.spec.Name] {
				r += 2 // it is used anyway
			}
			if r > rank {
				best, rank = c.spec.Name, r
			}
		}
		if best != "" && len(use) < most {
			use[best] = true
		}
	}
	for _, c := range order {
		if len(use) < most {
			use[c.spec.Name] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(list), func(c candidateNode) bool { return !use[c.spec.Name] })
}

func describeOffers(list []candidateNode) string {
	var parts []string
	for _, c := range list {
		var names []string
		for _, p := range c.offers {
			names = append(names, platforms.Format(p))
		}
		parts = append(parts, fmt.Sprintf("%s runs %s", c.spec.Name, strings.Join(names, ", ")))
	}
	if len(parts) == 0 {
		return "no node says what it runs"
	}
	return strings.Join(parts, "; ")
}

func parsePlatforms(names []string) ([]ocispecs.Platform, error) {
	var list []ocispecs.Platform
	for _, name := range names {
		if strings.EqualFold(name, "local") {
			list = append(list, platforms.Normalize(platforms.DefaultSpec()))
			continue
		}
		p, err := platforms.Parse(name)
		if err != nil {
			return nil, fmt.Errorf("platform %q: %w", name, err)
		}
		list = append(list, platforms.Normalize(p))
	}
	return list, nil
}
