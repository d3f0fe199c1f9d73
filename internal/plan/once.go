package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/partition"
)

// Duplicates is the rule for shared steps that may be executed on several nodes of one run.
type Duplicates string

// The rules, from the strictest.
const (
	// DuplicatesNever executes each step once.
	DuplicatesNever Duplicates = "never"
	// DuplicatesReproducible executes steps once that may give another result the second
	// time. The zero value means the same.
	DuplicatesReproducible Duplicates = "reproducible"
	// DuplicatesAny executes steps again wherever that ends sooner.
	DuplicatesAny Duplicates = "any"
)

// ParseDuplicates reads the name of a rule; "" is the default.
func ParseDuplicates(s string) (Duplicates, error) {
	known := []Duplicates{DuplicatesNever, DuplicatesReproducible, DuplicatesAny}
	switch d := Duplicates(s); {
	case d == "":
		return DuplicatesReproducible, nil
	case slices.Contains(known, d):
		return d, nil
	}
	return "", fmt.Errorf("unknown rule for duplicates %q; known: never, reproducible, any", s)
}

// WithDuplicates returns b with another rule for steps that several nodes may execute.
func (b *Build) WithDuplicates(d Duplicates) *Build {
	out := *b
	out.rule.duplicates = d
	return &out
}

// rule decides which steps several nodes may execute.
type rule struct {
	duplicates Duplicates
	fetched    map[string]string // by sourceKey: the node that has what the URL holds
}

// newRule returns the rule that is in force unless another is set. units have fetched
// what URLs hold.
func newRule(units []*frontend.Unit) rule {
	r := rule{fetched: map[string]string{}}
	for _, u := range units {
		for _, url := range u.URLs {
			r.fetched[sourceKey(url.Source, url.Checksum.String())] = url.Node
		}
	}
	return r
}

// Freedom is why a shared step may be executed on several nodes.
type Freedom string

// The reasons; the first that holds is given.
const (
	// FreeAny: every step may.
	FreeAny Freedom = "duplicates are allowed"
	// FreeUnsendable: the result cannot travel, so that there is no other way.
	FreeUnsendable Freedom = "its result cannot travel"
	// FreeFiles: it copies or makes files, and does the same everywhere.
	FreeFiles Freedom = "it does the same everywhere"
)

// Freedom returns, for every vertex of the graph, why several nodes may execute it; "" when
// only one may.
//
// Shared steps are bound whose result may be another one the second time. So are steps whose
// layers stand on those of a bound one, or it on theirs: they travel together. And so are the
// steps of a target that others stand on: FROM that target is to mean its image.
func (b *Build) Freedom() []Freedom {
	list := make([]Freedom, len(b.Graph.Vertices))
	if b.rule.duplicates == DuplicatesAny {
		for i := range list {
			list[i] = FreeAny
		}
		return list
	}
	return (&binding{b.graph, b.rule, list}).bind(b.Jobs, b.graph.sendable(b.Units))
}

// binding finds out which steps of a graph are bound to one node by a rule.
type binding struct {
	*graph
	rule
	list []Freedom // by vertex
}

// bind is [Build.Freedom] for a rule that binds steps.
func (b *binding) bind(jobs []Job, sendable []bool) []Freedom {
	list, shared := b.list, b.findShared(jobs)
	image := b.imagesOfOthers(jobs, shared)
	for i, v := range b.Vertices {
		switch {
		case !shared[i] || !v.Kind.IsStep():
			list[i] = FreeFiles
		case !sendable[i]:
			list[i] = FreeUnsendable
		case b.duplicates == DuplicatesNever || image[i]:
		case mayDiffer(v) || b.readsURL(v):
		case !b.standsOnBound(v):
			list[i] = FreeFiles
		}
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] != "" {
			continue
		}
		// What it stands on comes with it.
		for _, l := range b.layers(i)[1:] {
			if b.Vertices[l].Kind.IsStep() && sendable[l] {
				list[l] = ""
			}
		}
	}
	b.freeURLs()
	return list
}

// sourceKey names what a URL held when it was fetched.
func sourceKey(identifier, checksum string) string { return identifier + "\x00" + checksum }

// url reports whether v is the content of a URL whose checksum nobody gave. node is the one
// that has fetched it, if one has.
func (r rule) url(v *llbmerge.Vertex) (node string, ok bool) {
	src := v.Op.GetSource()
	if src == nil || !strings.HasPrefix(src.Identifier, "http://") && !strings.HasPrefix(src.Identifier, "https://") {
		return "", false
	}
	sum := src.Attrs[pb.AttrHTTPChecksum]
	node, ok = r.fetched[sourceKey(src.Identifier, sum)]
	return node, ok || sum == ""
}

// readsURL reports whether v reads what a URL holds, which may be something else when it
// is fetched again.
func (b *binding) readsURL(v *llbmerge.Vertex) bool {
	for _, in := range v.Inputs {
		if _, ok := b.url(b.Vertices[b.index[in]]); ok {
			return true
		}
	}
	return false
}

// freeURLs binds what is fetched from URLs where only bound steps read it: then these are
// executed where it is. Others fetch it again, and check that it is the same.
func (b *binding) freeURLs() {
	free := make([]bool, len(b.list)) // read by a step that is not bound
	for i, v := range b.Vertices {
		for _, in := range v.Inputs {
			free[b.index[in]] = free[b.index[in]] || b.list[i] != ""
		}
	}
	for i, v := range b.Vertices {
		if _, ok := b.url(v); ok && !free[i] {
			b.list[i] = ""
		}
	}
}

// mayDiffer reports whether two executions of a step on equal inputs may have different
// results.
func mayDiffer(v *llbmerge.Vertex) bool {
	switch v.Op.Op.(type) {
	case *pb.Op_File, *pb.Op_Merge, *pb.Op_Diff:
		return false
	}
	return true
}

// standsOnBound reports whether the layers of v stand on those of a bound step.
func (b *binding) standsOnBound(v *llbmerge.Vertex) bool {
	for len(v.Inputs) > 0 {
		k := LayerParent(v)
		if k < 0 || k >= len(v.Inputs) {
			return false // on none
		}
		i := b.index[v.Inputs[k]]
		if b.list[i] == "" {
			return true
		}
		v = b.Vertices[i]
	}
	return false
}

// imagesOfOthers reports, for every vertex, whether a layer of a job's image is its
// result, and the image that another job stands on.
func (b *binding) imagesOfOthers(jobs []Job, shared []bool) []bool {
	list := make([]bool, len(b.Vertices))
	for _, j := range jobs {
		for _, root := range b.roots(j.Units) {
			if !shared[root] {
				continue
			}
			for _, i := range b.layers(root) {
				list[i] = true
			}
		}
	}
	return list
}

// onDemand returns the steps that a node sends when another one turns out to need
// them, each with those of the same kind that its layers stand on.
func (g *graph) onDemand(p partition.Problem) []Intermediate {
	var list []Intermediate
	if len(p.Nodes) < 2 {
		return nil
	}
	for i := range g.Vertices {
		if !p.Vertices[i].Once || p.Vertices[i].Bytes == unsendable {
			continue
		}
		step := Intermediate{Vertex: i, Node: -1}
		for _, l := range g.layers(i) {
			if p.Vertices[l].Once {
				step.Sent = append(step.Sent, l)
			}
		}
		slices.Reverse(step.Sent)
		list = append(list, step)
	}
	return list
}

// String names the rule.
func (d Duplicates) String() string {
	if d == "" {
		return string(DuplicatesReproducible)
	}
	return strings.ToLower(string(d))
}
