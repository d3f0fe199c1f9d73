package llbmerge

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Unit is a definition to be merged, and what the names in it stand for.
type Unit struct {
	// ID is opaque and unique among the units of a graph.
	ID string
	// Definition is as BuildKit marshals it. It is not changed, but the graph
	// refers to its metadata and source maps; an empty one is a unit without vertices.
	Definition *pb.Definition
	// Load returns the definition where the field is nil. It is called once, so that of all
	// definitions only one has to be there at a time.
	Load func() (*pb.Definition, error)
	// Locals holds the identity of the directory behind each local source of the
	// definition. Sources of the same identity are the same directory, and the
	// identity is the name of the source in the graph. Nil means that the names
	// are identities; in any other map a missing name is an error.
	Locals map[string]string
}

// Graph is the merged graph of several units. It is immutable, and safe for
// concurrent use; what it returns must not be changed.
type Graph struct {
	// Vertices are in dependency order: every input stands before its users.
	Vertices []*Vertex

	index   map[digest.Digest]int
	names   []string // unit ids, sorted
	units   map[string]*unit
	groups  []Group
	details []details // by vertex
}

// Vertex is an op that one or more units need.
type Vertex struct {
	// Digest is the digest of Bytes and the name of the vertex on every node.
	Digest digest.Digest
	// Bytes is Op, marshalled deterministically.
	Bytes []byte
	Op    *pb.Op
	// Inputs are the digests of the inputs of Op, in their order. One vertex may
	// be there several times.
	Inputs []digest.Digest
	Kind   Kind
	// Step is the name that the frontend gave to the vertex, or a description.
	Step string
	// Command is what an exec vertex runs.
	Command string
	// Stage is the name of the build stage, and Place where in it the step stands, as
	// far as Step says.
	Stage string
	Place Place
	// Platform is nil for vertices that have none.
	Platform *ocispecs.Platform
	// Users are the ids of the units that need the vertex, sorted. Vertices of
	// one group share the slice.
	Users []string
	// IgnoreCache is set when the vertex is to be built even if its result is
	// known.
	IgnoreCache bool
	// Local is what a vertex of KindLocal reads; nil for others.
	Local *Local
	// Locations are the places in Dockerfiles that the vertex comes from, for
	// each of its users in turn.
	Locations []Location
}

// Location is a place in a file that a unit was compiled from.
type Location struct {
	Unit string
	// File holds the name and the text of the file.
	File *pb.SourceInfo
	// Ranges count lines from 1 and characters from 0.
	Ranges []*pb.Range
}

// Root is the result of a unit: an output of a vertex.
type Root struct {
	Digest digest.Digest
	Index  int
}

// Group is a stage group: the vertices that exactly the same units need.
type Group struct {
	Users    []string // sorted
	Vertices []int    // indexes into Graph.Vertices, ascending
}

// ErrUnknownUnit is wrapped when a graph is asked for a unit that it lacks.
var ErrUnknownUnit = errors.New("unit is not in the graph")

// unit is a unit of a graph.
type unit struct {
	vertices []int // in dependency order, the root last
	root     int   // -1 when the unit is empty
	output   int
}

// details are what each user says of a vertex; users are in the order of their
// ids.
type details []detail

type detail struct {
	user int // index into Graph.names
	meta *pb.OpMetadata
	locs placeList
}

// builder is the state of one Merge.
type builder struct {
	graph  *Graph
	infos  map[digest.Digest]*pb.SourceInfo
	groups map[string]*localGroup
}

// Merge returns the graph of the given units. Their order makes no difference.
// The error says which unit it is about.
func Merge(units []Unit) (*Graph, error) {
	units = slices.Clone(units)
	slices.SortStableFunc(units, func(a, b Unit) int { return cmp.Compare(a.ID, b.ID) })
	b := &builder{
		graph:  &Graph{index: map[digest.Digest]int{}, units: make(map[string]*unit, len(units))},
		infos:  map[digest.Digest]*pb.SourceInfo{},
		groups: map[string]*localGroup{},
	}
	// What a local source becomes depends on all units, so that no digest is
	// known before all are loaded.
	loaded := make([]*unitGraph, len(units))
	for i, u := range units {
		if i > 0 && units[i-1].ID == u.ID {
			return nil, fmt.Errorf("unit %q is there twice", u.ID)
		}
		g, err := b.load(u)
		if err != nil {
			return nil, fmt.Errorf("unit %q: %w", u.ID, err)
		}
		if err := b.canonicalise(u, g); err != nil {
			return nil, fmt.Errorf("unit %q: %w", u.ID, err)
		}
		b.graph.names = append(b.graph.names, u.ID)
		loaded[i] = g
	}
	for i, g := range loaded {
		if err := b.add(i, g); err != nil {
			return nil, fmt.Errorf("unit %q: %w", units[i].ID, err)
		}
		loaded[i] = nil
	}
	b.finish()
	return b.graph, nil
}

// add puts the nodes of a unit into the graph.
func (b *builder) add(user int, ug *unitGraph) error {
	g := b.graph
	u := &unit{root: -1, output: int(ug.output)}
	g.units[g.names[user]] = u
	at := make([]int, len(ug.nodes)) // vertices
	for i := range ug.nodes {
		n := &ug.nodes[i]
		dt, dgst, err := n.encode(func(in int) digest.Digest { return g.Vertices[at[in]].Digest })
		if err != nil {
			return err
		}
		v, ok := g.index[dgst]
		if !ok {
			v = len(g.Vertices)
			g.index[dgst] = v
			g.Vertices = append(g.Vertices, newVertex(n, dgst, dt))
			g.details = append(g.details, nil)
		}
		at[i] = v
		d := g.details[v]
		if len(d) > 0 && d[len(d)-1].user == user {
			// Two ops of the unit became one.
			same := &d[len(d)-1]
			same.meta = same.meta.CloneVT() // its maps may be those of other ops
			joinMetadata(same.meta, n.meta)
			same.locs.add(n.locs...)
			continue
		}
		says := detail{user: user, meta: n.meta}
		says.locs.add(n.locs...)
		g.details[v] = append(d, says)
		u.vertices = append(u.vertices, v)
	}
	if ug.root >= 0 {
		u.root = at[ug.root]
	}
	return nil
}

// encode returns the canonical bytes of n, given the digests of its inputs.
func (n *node) encode(input func(node int) digest.Digest) ([]byte, digest.Digest, error) {
	if n.local != nil {
		return n.finish()
	}
	for i, in := range n.inputs {
		n.op.Inputs[i].Digest = string(input(in))
	}
	dt, err := deterministic.Marshal(n.op)
	if err != nil {
		return nil, "", fmt.Errorf("encode op %s: %w", opName(n.op), err)
	}
	return dt, Digest(dt), nil
}

func newVertex(n *node, dgst digest.Digest, dt []byte) *Vertex {
	v := &Vertex{
		Digest:      dgst,
		Bytes:       dt,
		Op:          n.op,
		Kind:        kindOf(n.op),
		Command:     command(n.op),
		IgnoreCache: n.meta.IgnoreCache,
	}
	for _, in := range n.op.Inputs {
		v.Inputs = append(v.Inputs, digest.Digest(in.Digest))
	}
	if n.op.Platform != nil {
		p := n.op.Platform.Spec()
		v.Platform = &p
	}
	if n.local != nil {
		l := n.local.Local
		v.Local = &l
	}
	return v
}

// finish fills in what depends on all users of a vertex.
func (b *builder) finish() {
	g := b.graph
	bySignature := map[string]int{} // groups
	var key []byte
	for i, v := range g.Vertices {
		key = key[:0]
		for _, d := range g.details[i] {
			key = binary.AppendUvarint(key, uint64(d.user))
			for _, p := range d.locs.places {
				v.Locations = append(v.Locations, Location{Unit: g.names[d.user], File: p.file, Ranges: p.ranges})
			}
		}
		at, ok := bySignature[string(key)]
		if !ok {
			at = len(g.groups)
			bySignature[string(key)] = at
			users := make([]string, len(g.details[i]))
			for j, d := range g.details[i] {
				users[j] = g.names[d.user]
			}
			g.groups = append(g.groups, Group{Users: users})
		}
		g.groups[at].Vertices = append(g.groups[at].Vertices, i)
		v.Users = g.groups[at].Users
		v.Step = g.details[i].step(v.Op)
		v.Place = placeOf(v.Step)
		v.Stage = v.Place.Stage
	}
}

// step returns what the users call an op: the least name, as metadata has it.
func (d details) step(op *pb.Op) string {
	name, found := "", false
	for _, x := range d {
		if own, ok := x.meta.Description[customName]; ok && (!found || own < name) {
			name, found = own, true
		}
	}
	if name != "" {
		return name
	}
	return opName(op)
}

// metadata joins what the users say for whom in is true; nil is all. There is at
// least one.
func (d details) metadata(in []bool) *pb.OpMetadata {
	var md *pb.OpMetadata
	for _, x := range d {
		switch {
		case in != nil && !in[x.user]:
		case md == nil:
			md = x.meta.CloneVT()
		default:
			joinMetadata(md, x.meta)
		}
	}
	return md
}

// Units returns the ids of all units, sorted.
func (g *Graph) Units() []string { return slices.Clone(g.names) }

// Vertex returns the vertex of the given digest.
func (g *Graph) Vertex(d digest.Digest) (*Vertex, bool) {
	i, ok := g.index[d]
	if !ok {
		return nil, false
	}
	return g.Vertices[i], true
}

// Root returns the result of a unit. It is false for units that are not in the
// graph, and for those without vertices: their result is empty.
func (g *Graph) Root(id string) (Root, bool) {
	u := g.units[id]
	if u == nil || u.root < 0 {
		return Root{}, false
	}
	return Root{Digest: g.Vertices[u.root].Digest, Index: u.output}, true
}

// Needs reports whether the vertex v is, or needs, the vertex of digest d.
func (g *Graph) Needs(v, d digest.Digest) bool {
	root, ok := g.index[v]
	at, there := g.index[d]
	if !ok || !there || at > root {
		return false
	}
	needed := make([]bool, root+1)
	needed[root] = true
	for i := root; i > at; i-- {
		if !needed[i] {
			continue
		}
		for _, in := range g.Vertices[i].Inputs {
			needed[g.index[in]] = true
		}
	}
	return needed[at]
}

// Groups returns the stage groups in the order of their first vertices.
func (g *Graph) Groups() []Group { return slices.Clone(g.groups) }
