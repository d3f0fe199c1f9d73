package llbmerge

import (
	"testing"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

// FuzzDefinition merges whatever decodes as a definition.
func FuzzDefinition(f *testing.F) {
	for seed := range uint64(5) {
		for _, u := range newPlot(seed, 12).units(2) {
			f.Add([]byte(encode(f, u.Definition)))
		}
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		def := &pb.Definition{}
		if proto.Unmarshal(data, def) != nil {
			return
		}
		checkMerge(t, []Unit{{ID: "a", Definition: def}, {ID: "b", Definition: def}})
	})
}

// FuzzOps merges two definitions of arbitrary ops that are linked properly, which
// mutation of a whole definition hardly ever finds.
func FuzzOps(f *testing.F) {
	for seed := range uint64(5) {
		u := newPlot(seed, 12).units(1)[0]
		var ops [4][]byte
		copy(ops[:], u.Definition.Def)
		f.Add(ops[0], ops[1], ops[2], ops[3], uint16(seed), "a", "{}")
	}
	f.Add(locals("a"), locals("!b"), locals("*"), []byte{}, uint16(1), "x", "y")
	f.Fuzz(func(t *testing.T, a, b, c, d []byte, links uint16, name, id string) {
		x, ok1 := link(links, a, b, c, d)
		y, ok2 := link(links>>8, d, b, a)
		if !ok1 || !ok2 {
			return
		}
		for _, dt := range x.Def {
			x.Metadata[string(digest.FromBytes(dt))] = &pb.OpMetadata{IgnoreCache: links&1 != 0, ProgressGroup: &pb.ProgressGroup{Id: name}, Description: map[string]string{customName: name}}
		}
		checkMerge(t, []Unit{
			{ID: name, Definition: x},
			{ID: name + "2", Definition: y},
		})
	})
}

func locals(path string) []byte {
	dt, err := deterministic.Marshal(&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{
		Identifier: "local://context", Attrs: map[string]string{pb.AttrFollowPaths: list(path)},
	}}})
	if err != nil {
		panic(err)
	}
	return dt
}

// link makes a definition of ops: all inputs of an op become earlier ones.
func link(links uint16, ops ...[]byte) (*pb.Definition, bool) {
	def := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	var names []string
	for _, dt := range ops {
		op := &pb.Op{}
		if proto.Unmarshal(dt, op) != nil {
			return nil, false
		}
		for i, in := range op.Inputs {
			if len(names) == 0 {
				op.Inputs = nil
				break
			}
			in.Digest = names[(int(links)+i)%len(names)]
			links = links>>3 | links<<13
			in.Index = max(0, in.Index)
		}
		dt, err := deterministic.Marshal(op)
		if err != nil {
			return nil, false
		}
		names = append(names, string(digest.FromBytes(dt)))
		def.Def = append(def.Def, dt)
	}
	dt, err := deterministic.Marshal(&pb.Op{Inputs: []*pb.Input{{Digest: names[len(names)-1]}}})
	if err != nil {
		return nil, false
	}
	def.Def = append(def.Def, dt)
	return def, true
}

// checkMerge checks the laws for units that may be refused.
func checkMerge(t *testing.T, units []Unit) {
	g, err := Merge(units)
	if err != nil {
		return
	}
	checkGraph(t, g)
	again := merge(t, cut(t, g, g.Units()...))
	if describe(g) != describe(again) {
		t.Fatalf("merging the slices of\n%s\ngives\n%s", describe(g), describe(again))
	}
	if _, err := g.Slice(g.Units()...); err != nil {
		t.Fatal(err)
	}
}
