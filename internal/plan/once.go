package plan

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"

	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/partition"
)

// Duplicates says which of the steps that targets share may be executed on several
// nodes of one run.
type Duplicates string

// The rules, from the strictest.
const (
	// DuplicatesNever executes each step once.
	DuplicatesNever Duplicates = "never"
	// DuplicatesReproducible executes once what may give another result the second
	// time. It is what the zero value means.
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

// WithDuplicates returns b with another rule for what is executed on several nodes.
func (b *Build) WithDuplicates(d Duplicates) *Build {
	out := *b
	out.duplicates = d
	return &out
}

// Freedom is why a shared step may be executed on several nodes.
type Freedom string

// The reasons; the first that holds is given.
const (
	// FreeAny: every step may.
	FreeAny Freedom = "duplicates are allowed"
	// FreeUnsendable: the result cannot travel, so that there is no other way.
	FreeUnsendable Freedom = "its result cannot be handed over"
	// FreeFiles: it copies or makes files, and does the same everywhere.
	FreeFiles Freedom = "it does the same everywhere"
)

// Freedom says, for every vertex of the graph, why several nodes may execute it; "" when one may.
//
// Bound are shared steps whose result may be another one the second time. So are steps
// whose layers stand on those of a bound one, or it on theirs: they travel together. And so are the steps of a target that others
// stand on: FROM that target is to mean its image.
func (b *Build) Freedom() []Freedom {
	list := make([]Freedom, len(b.Graph.Vertices))
	if b.duplicates == DuplicatesAny {
		for i := range list {
			list[i] = FreeAny
		}
		return list
	}
	shared := b.shared()
	sendable := b.sendable()
	image := b.imagesOfOthers(shared)
	for i, v := range b.Graph.Vertices {
		switch {
		case !shared[i] || !v.Kind.IsStep():
			list[i] = FreeFiles
		case !sendable[i]:
			list[i] = FreeUnsendable
		case b.duplicates == DuplicatesNever || image[i]:
		case mayDiffer(v) || b.readsURL(v):
		case !b.standsOnBound(v, list):
			list[i] = FreeFiles
		}
	}
	for i := len(list) - 1; i >= 0; i-- {
		if list[i] != "" {
			continue
		}
		// What it stands on comes with it.
		for _, l := range b.layers(i)[1:] {
			if b.Graph.Vertices[l].Kind.IsStep() && sendable[l] {
				list[l] = ""
			}
		}
	}
	b.freeURLs(list)
	return list
}

// sourceKey names what a URL held when it was fetched.
func sourceKey(identifier, checksum string) string { return identifier + "\x00" + checksum }

// url reports whether v is what a URL holds whose checksum nobody gave, and which node
// has fetched it, if one has.
func (b *Build) url(v *llbmerge.Vertex) (node string, ok bool) {
	src := v.Op.GetSource()
	if src == nil || !strings.HasPrefix(src.Identifier, "http://") && !strings.HasPrefix(src.Identifier, "https://") {
		return "", false
	}
	sum := src.Attrs[pb.AttrHTTPChecksum]
	node, ok = b.fetched[sourceKey(src.Identifier, sum)]
	return node, ok || sum == ""
}

// readsURL reports whether v reads what a URL holds, which may be something else when it
// is fetched again.
func (b *Build) readsURL(v *llbmerge.Vertex) bool {
	for _, in := range v.Inputs {
		if _, ok := b.url(b.Graph.Vertices[b.index[in]]); ok {
			return true
		}
	}
	return false
}

// freeURLs binds what is fetched from URLs where only bound steps read it: then these are
// executed where it is. Others fetch it again, and check that it is the same.
func (b *Build) freeURLs(list []Freedom) {
	free := make([]bool, len(list)) // read by a step that is not bound
	for i, v := range b.Graph.Vertices {
		for _, in := range v.Inputs {
			free[b.index[in]] = free[b.index[in]] || list[i] != ""
		}
	}
	for i, v := range b.Graph.Vertices {
		if _, ok := b.url(v); ok && !free[i] {
			list[i] = ""
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
func (b *Build) standsOnBound(v *llbmerge.Vertex, free []Freedom) bool {
	for len(v.Inputs) > 0 {
		k := LayerParent(v)
		if k < 0 || k >= len(v.Inputs) {
			return false // on none
		}
		i := b.index[v.Inputs[k]]
		if free[i] == "" {
			return true
		}
		v = b.Graph.Vertices[i]
	}
	return false
}

// shared reports, for every vertex, whether several jobs need it.
func (b *Build) shared() []bool {
	jobs := map[string]int{} // by unit
	for i, j := range b.Jobs {
		for _, u := range j.Units {
			jobs[string(u.ID)] = i
		}
	}
	list := make([]bool, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		first := -1
		for _, u := range v.Users {
			if j, ok := jobs[u]; ok && first < 0 {
				first = j
			} else if ok && j != first {
				list[i] = true
			}
		}
	}
	return list
}

// imagesOfOthers reports, for every vertex, whether a layer of a job's image is its
// result, and the image that another job stands on.
func (b *Build) imagesOfOthers(shared []bool) []bool {
	list := make([]bool, len(b.Graph.Vertices))
	for _, j := range b.Jobs {
		for _, u := range j.Units {
			r, ok := b.Graph.Root(string(u.ID))
			if !ok || !shared[b.index[r.Digest]] {
				continue
			}
			for _, i := range b.layers(b.index[r.Digest]) {
				list[i] = true
			}
		}
	}
	return list
}

// layers returns vertex i and the vertices that its layers stand on, the highest first.
func (b *Build) layers(i int) []int {
	list := []int{i}
	for v := b.Graph.Vertices[i]; len(v.Inputs) > 0; v = b.Graph.Vertices[i] {
		k := LayerParent(v)
		if k < 0 || k >= len(v.Inputs) {
			break
		}
		i = b.index[v.Inputs[k]]
		list = append(list, i)
	}
	return list
}

// onDemand returns the steps that a node sends when another one turns out to need
// them, each with those of the same kind that its layers stand on.
func (b *Build) onDemand(p partition.Problem) []Intermediate {
	var list []Intermediate
	if len(p.Nodes) < 2 {
		return nil
	}
	for i := range b.Graph.Vertices {
		if !p.Vertices[i].Once || p.Vertices[i].Bytes == unsendable {
			continue
		}
		step := Intermediate{Vertex: i, Node: -1}
		for _, l := range b.layers(i) {
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
