package llbmerge

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

// Replacement is a definition in which sources stand in for some vertices.
type Replacement struct {
	Definition *pb.Definition
	// Original are the digests that vertices have in the definition before, by those that
	// they have now, where these differ.
	Original map[digest.Digest]digest.Digest
}

// Replace returns def with sources in place of the vertices of the given digests, and
// without what nothing else needs. Names and places of vertices stay. Nil is returned when
// def has none of the vertices. Each must have its result as its first output.
func Replace(def *pb.Definition, sources map[digest.Digest]*pb.SourceOp) (*Replacement, error) {
	has := func(d digest.Digest) bool { _, ok := def.GetMetadata()[d.String()]; return ok }
	if !slices.ContainsFunc(slices.Collect(maps.Keys(sources)), has) {
		return nil, nil
	}
	ops := make(map[digest.Digest][]byte, len(def.Def))
	var root digest.Digest
	for _, dt := range def.Def {
		root = Digest(dt)
		ops[root] = dt
	}
	r := &replacer{
		old: def, ops: ops, sources: sources, done: map[digest.Digest]digest.Digest{},
		made: &Replacement{
			Definition: &pb.Definition{Metadata: map[string]*pb.OpMetadata{}},
			Original:   map[digest.Digest]digest.Digest{},
		},
	}
	if def.Source != nil {
		r.made.Definition.Source = &pb.Source{Infos: def.Source.Infos, Locations: map[string]*pb.Locations{}}
	}
	if _, err := r.vertex(root); err != nil {
		return nil, fmt.Errorf("replace steps: %w", err)
	}
	return r.made, nil
}

// replacer is the state of one Replace.
type replacer struct {
	old     *pb.Definition
	ops     map[digest.Digest][]byte
	sources map[digest.Digest]*pb.SourceOp
	done    map[digest.Digest]digest.Digest // new digests by old ones
	made    *Replacement
}

// vertex appends the vertex of a digest, after all that it needs, and returns its new digest.
func (r *replacer) vertex(d digest.Digest) (digest.Digest, error) {
	if now, ok := r.done[d]; ok {
		return now, nil
	}
	dt, ok := r.ops[d]
	if !ok {
		return "", fmt.Errorf("vertex %s is not in the definition", d)
	}
	var op pb.Op
	if err := proto.Unmarshal(dt, &op); err != nil {
		return "", fmt.Errorf("decode vertex %s: %w", d, err)
	}
	md := r.old.Metadata[d.String()]
	changed := false
	if source := r.sources[d]; source != nil {
		op = pb.Op{Op: &pb.Op_Source{Source: source}, Platform: op.Platform, Constraints: op.Constraints}
		md = &pb.OpMetadata{Description: md.GetDescription(), ProgressGroup: md.GetProgressGroup()}
		changed = true
	} else {
		for _, in := range op.Inputs {
			now, err := r.vertex(digest.Digest(in.Digest))
			if err != nil {
				return "", err
			}
			if r.sources[digest.Digest(in.Digest)] != nil && in.Index != 0 {
				return "", errors.New("another output than the first is needed")
			}
			changed = changed || string(now) != in.Digest
			in.Digest = string(now)
		}
	}
	now := d
	if changed {
		var err error
		if dt, err = deterministic.Marshal(&op); err != nil {
			return "", fmt.Errorf("encode op %s: %w", opName(&op), err)
		}
		now = Digest(dt)
		r.made.Original[now] = d
	}
	r.done[d] = now
	def := r.made.Definition
	def.Def = append(def.Def, dt)
	if md != nil {
		def.Metadata[now.String()] = md
	}
	if l := r.old.Source.GetLocations()[d.String()]; l != nil {
		def.Source.Locations[now.String()] = l
	}
	return now, nil
}

// Fetch returns a definition with a source as its result, under a name, and its vertex.
func Fetch(source *pb.SourceOp, name string) (*pb.Definition, digest.Digest, error) {
	s := &slicer{def: &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}}
	d, err := s.op(&pb.Op{Op: &pb.Op_Source{Source: source}, Constraints: &pb.WorkerConstraints{}}, &pb.OpMetadata{
		Description: map[string]string{customName: name},
		Caps:        map[string]bool{string(pb.CapMetaDescription): true},
	})
	if err != nil {
		return nil, "", err
	}
	return s.def, d, s.end(&pb.Input{Digest: d.String()})
}
