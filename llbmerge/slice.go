package llbmerge

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
)

// joinID is the id of the op that joins several results. It is part of that op's
// cache key and says nothing else.
const joinID = "dbake.units"

// Slice returns the definition of what the given units need, with metadata and
// source maps as far as they concern these units. The order of the ids makes no
// difference.
//
// The result is that of the unit. Of several units it is a passthrough op, which
// BuildKit knows since v0.31: its output i is the result of the i-th id in sorted
// order, not counting units without vertices, and the definition points at
// output 0.
func (g *Graph) Slice(ids ...string) (*pb.Definition, error) {
	if len(ids) == 0 {
		return nil, errors.New("a slice needs at least one unit")
	}
	ids = slices.Clone(ids)
	slices.Sort(ids)
	ids = slices.Compact(ids)

	in := make([]bool, len(g.names))
	seen := make([]bool, len(g.Vertices))
	var vertices []int
	var units []*unit
	for _, id := range ids {
		u := g.units[id]
		if u == nil {
			return nil, fmt.Errorf("%q: %w", id, ErrUnknownUnit)
		}
		at, _ := slices.BinarySearch(g.names, id)
		in[at] = true
		if u.root < 0 {
			continue
		}
		units = append(units, u)
		for _, v := range u.vertices {
			if !seen[v] {
				seen[v] = true
				vertices = append(vertices, v)
			}
		}
	}
	s := g.slicer(in, vertices)
	if err := s.root(units); err != nil {
		return nil, err
	}
	return s.def, nil
}

// SliceAt returns the definition of the result r, which need not be that of a unit,
// with metadata and source maps of every unit that needs the vertex. The vertices
// are those that [Graph.Slice] has for these units.
func (g *Graph) SliceAt(r Root) (*pb.Definition, error) {
	root, ok := g.index[r.Digest]
	if !ok {
		return nil, fmt.Errorf("vertex %s is not in the graph", r.Digest)
	}
	in := make([]bool, len(g.names))
	for _, d := range g.details[root] {
		in[d.user] = true
	}
	needed := make([]bool, root+1)
	needed[root] = true
	var vertices []int
	for i := root; i >= 0; i-- {
		if !needed[i] {
			continue
		}
		vertices = append(vertices, i)
		for _, input := range g.Vertices[i].Inputs {
			needed[g.index[input]] = true
		}
	}
	slices.Reverse(vertices)
	s := g.slicer(in, vertices)
	if err := s.root([]*unit{{root: root, output: r.Index}}); err != nil {
		return nil, err
	}
	return s.def, nil
}

// slicer returns a slicer that has appended the vertices.
func (g *Graph) slicer(in []bool, vertices []int) *slicer {
	s := &slicer{
		graph: g,
		in:    in,
		def:   &pb.Definition{Metadata: make(map[string]*pb.OpMetadata, len(vertices)+2)},
		files: map[*pb.SourceInfo]int32{},
	}
	for _, v := range vertices {
		s.vertex(v)
	}
	return s
}

// slicer builds one definition.
type slicer struct {
	graph *Graph
	in    []bool // the units
	def   *pb.Definition
	files map[*pb.SourceInfo]int32
}

// vertex appends a vertex.
func (s *slicer) vertex(i int) {
	v, d := s.graph.Vertices[i], s.graph.details[i]
	var locs placeList
	for _, x := range d {
		if s.in[x.user] {
			locs.add(x.locs.places...)
		}
	}
	md := d.metadata(s.in)
	s.def.Def = append(s.def.Def, v.Bytes)
	s.def.Metadata[string(v.Digest)] = md
	if len(locs.places) == 0 {
		return
	}
	if s.def.Source == nil {
		s.def.Source = &pb.Source{Locations: map[string]*pb.Locations{}}
	}
	list := &pb.Locations{}
	for _, p := range locs.places {
		at, ok := s.files[p.file]
		if !ok {
			at = int32(len(s.def.Source.Infos))
			s.files[p.file] = at
			s.def.Source.Infos = append(s.def.Source.Infos, p.file)
		}
		list.Locations = append(list.Locations, &pb.Location{SourceIndex: at, Ranges: p.ranges})
	}
	s.def.Source.Locations[string(v.Digest)] = list
}

// root appends the ops that say what the result is.
func (s *slicer) root(units []*unit) error {
	if len(units) == 0 {
		return nil // an empty definition is an empty result
	}
	result := s.result(units[0])
	if len(units) > 1 {
		join := &pb.PassthroughOp{Id: joinID}
		op := &pb.Op{Op: &pb.Op_Passthrough{Passthrough: join}, Constraints: &pb.WorkerConstraints{}}
		at := map[Root]int64{}
		for _, u := range units {
			r := Root{Digest: s.graph.Vertices[u.root].Digest, Index: u.output}
			i, ok := at[r]
			if !ok {
				i = int64(len(op.Inputs))
				at[r] = i
				op.Inputs = append(op.Inputs, s.result(u))
			}
			join.Outputs = append(join.Outputs, i)
		}
		dgst, err := s.op(op, &pb.OpMetadata{
			Description: map[string]string{customName: fmt.Sprintf("[internal] results of %d targets", len(units))},
			Caps:        map[string]bool{string(pb.CapPassthroughOp): true},
		})
		if err != nil {
			return err
		}
		result = &pb.Input{Digest: string(dgst)}
	}
	return s.end(result)
}

// end appends the op that names the result.
func (s *slicer) end(result *pb.Input) error {
	caps := map[string]bool{string(pb.CapConstraints): true, string(pb.CapPlatform): true}
	for _, md := range s.def.Metadata {
		if md.IgnoreCache {
			caps[string(pb.CapMetaIgnoreCache)] = true
		}
		if md.Description != nil {
			caps[string(pb.CapMetaDescription)] = true
		}
		if md.ExportCache != nil {
			caps[string(pb.CapMetaExportCache)] = true
		}
	}
	_, err := s.op(&pb.Op{Inputs: []*pb.Input{result}}, &pb.OpMetadata{Caps: caps})
	return err
}

func (s *slicer) result(u *unit) *pb.Input {
	return &pb.Input{Digest: string(s.graph.Vertices[u.root].Digest), Index: int64(u.output)}
}

func (s *slicer) op(op *pb.Op, md *pb.OpMetadata) (digest.Digest, error) {
	dt, err := deterministic.Marshal(op)
	if err != nil {
		return "", fmt.Errorf("encode op %s: %w", opName(op), err)
	}
	dgst := Digest(dt)
	s.def.Def = append(s.def.Def, dt)
	s.def.Metadata[string(dgst)] = md
	return dgst, nil
}
