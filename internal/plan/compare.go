package plan

import (
	"cmp"
	"path/filepath"
	"slices"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/memory/warm"
)

// Rerun is a step of one build whose result another build does not have.
type Rerun struct {
	Step    string
	Targets []string // that need it, sorted
	Cost    time.Duration
	// Why is the cause; "" when only its inputs have changed.
	Why Why
	// Files are those that differ of what it reads, sorted by path, when both builds
	// list them.
	Files []FileChange
}

// FileChange is a file that two builds read differently.
type FileChange struct {
	Path string // relative to the directory of the project where it lies below
	What string // "added", "removed", "edited" or "mode"
}

// Compare returns the steps of b that would run again on a node that holds everything
// that before has, in the order of the graph.
func (b *Build) Compare(before *Build) []Rerun {
	all := make([]digest.Digest, len(before.Graph.Vertices))
	for i, v := range before.Graph.Vertices {
		all[i] = v.Digest
	}
	return newComparison(b, before).rerun(warm.NewHoldings(before.Names.Of(all)))
}

// comparison compares two builds.
type comparison struct {
	now, then *Build // then is nil when only its names are known
	// The vertices of then.
	ops    map[warm.OpID]int
	places map[warm.PlaceID]int
}

func newComparison(now, then *Build) *comparison {
	c := &comparison{now, then, map[warm.OpID]int{}, map[warm.PlaceID]int{}}
	if then == nil {
		return c
	}
	for i, n := range then.Names.list {
		c.ops[n.op] = i
		if n.place != "" {
			c.places[n.place] = i
		}
	}
	return c
}

// find returns the counterpart of a vertex.
func (c *comparison) find(n names) (vertex int, ok bool) {
	if vertex, ok = c.ops[n.op]; !ok && n.place != "" {
		vertex, ok = c.places[n.place]
	}
	return vertex, ok
}

// rerun returns the steps that would run again on a node with these holdings.
func (c *comparison) rerun(holds warm.Holdings) []Rerun {
	b := c.now
	node := []Node{{Holds: holds}}
	targets := map[string]string{} // by unit
	for _, u := range b.Units {
		targets[string(u.ID)] = u.Target.Name
	}
	anew := make([]bool, len(b.Graph.Vertices))
	var list []Rerun
	for i, v := range b.Graph.Vertices {
		n := b.Names.list[i]
		if !v.Kind.IsStep() && v.Local != nil || holds.Results[n.result] && !v.IgnoreCache {
			continue
		}
		anew[i] = true
		if !v.Kind.IsStep() {
			continue
		}
		r := Rerun{Step: v.Step, Cost: b.Costs[i].Duration}
		for _, u := range v.Users {
			r.Targets = append(r.Targets, targets[u])
		}
		slices.Sort(r.Targets)
		r.Targets = slices.Compact(r.Targets)
		above := slices.ContainsFunc(v.Inputs, func(in digest.Digest) bool {
			k := b.graph.index[in]
			return anew[k] && b.Graph.Vertices[k].Kind.IsStep()
		})
		changed := c.changedFiles(i)
		if r.Files = changed; !above || len(changed) > 0 {
			r.Why = b.Why(i, 0, node)
			if above {
				r.Why = WhyFiles
			}
		}
		list = append(list, r)
	}
	return list
}

// changedFiles compares the files of vertex i with those of its counterpart.
func (c *comparison) changedFiles(i int) []FileChange {
	now := c.now.Names
	n := now.list[i]
	if c.then == nil || !now.files || !c.then.Names.files || n.read.key == "" {
		return nil
	}
	then := c.then.Names
	k, ok := c.find(n)
	if !ok {
		return nil
	}
	type version struct{ now, old *found }
	files := map[string]*version{}
	at := func(base, dir, path string) *version {
		name := filepath.Join(dir, path)
		if rel, err := filepath.Rel(base, name); err == nil {
			name = filepath.ToSlash(rel)
		}
		if files[name] == nil {
			files[name] = &version{}
		}
		return files[name]
	}
	for _, set := range n.read.sets {
		for j := range set {
			f := &set[j]
			at(now.base, f.dir, f.path).now = f
		}
	}
	for _, set := range then.list[k].read.sets {
		for j := range set {
			f := &set[j]
			at(then.base, f.dir, f.path).old = f
		}
	}
	var list []FileChange
	for name, v := range files {
		switch {
		case v.old == nil:
			list = append(list, FileChange{name, "added"})
		case v.now == nil:
			list = append(list, FileChange{name, "removed"})
		case v.now.state() == v.old.state():
		case v.now.sum == v.old.sum && v.now.link == v.old.link:
			list = append(list, FileChange{name, "mode"})
		default:
			list = append(list, FileChange{name, "edited"})
		}
	}
	slices.SortFunc(list, func(x, y FileChange) int { return cmp.Compare(x.Path, y.Path) })
	return list
}

// CompareHeld is Compare with a build that is known only by the names of operations and
// results.
func (b *Build) CompareHeld(holds warm.Holdings) []Rerun {
	return newComparison(b, nil).rerun(holds)
}
