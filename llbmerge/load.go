package llbmerge

import (
	"errors"
	"fmt"
	"slices"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"
)

// node is an op of one unit. Its op is ours to change.
type node struct {
	op     *pb.Op
	meta   *pb.OpMetadata // never nil, and not ours: others may share it
	locs   []place
	inputs []int        // nodes, one for each input of op
	local  *localSource // nil for anything but a local source
}

// place is where an op stands in a Dockerfile.
type place struct {
	file   *pb.SourceInfo // one pointer for each distinct file
	ranges []*pb.Range
}

// unitGraph holds the ops of one unit, in dependency order.
type unitGraph struct {
	nodes  []node
	root   int // -1 when the unit is empty
	output pb.OutputIndex
}

// opList is the decoded ops of a definition, and the one that its last op points at.
type opList struct {
	list   []*pb.Op
	names  []digest.Digest
	index  map[string]int // by name
	root   int
	output pb.OutputIndex
}

// decodeOps decodes a definition that has ops.
func decodeOps(def *pb.Definition) (*opList, error) {
	last := len(def.Def) - 1
	o := &opList{list: make([]*pb.Op, last), names: make([]digest.Digest, last), index: make(map[string]int, last)}
	for i, dt := range def.Def[:last] {
		op, err := decode(dt)
		if err != nil {
			return nil, fmt.Errorf("decode op %d of %d: %w", i+1, len(def.Def), err)
		}
		o.list[i], o.names[i] = op, Digest(dt)
		o.index[string(o.names[i])] = i
	}
	pointer, err := decode(def.Def[last])
	if err != nil {
		return nil, fmt.Errorf("decode op %d of %d: %w", last+1, len(def.Def), err)
	}
	if pointer.Op != nil || len(pointer.Inputs) != 1 {
		return nil, errors.New("the last op of the definition does not point at one result")
	}
	o.output = pb.OutputIndex(pointer.Inputs[0].Index)
	o.root, err = o.resolve(pointer.Inputs[0])
	return o, err
}

// resolve returns the op that an input names.
func (o *opList) resolve(in *pb.Input) (int, error) {
	i, ok := o.index[in.GetDigest()]
	if !ok {
		return 0, fmt.Errorf("input %q is not in the definition", in.GetDigest())
	}
	if in.Index < 0 {
		return 0, fmt.Errorf("input %s has output index %d", in.Digest, in.Index)
	}
	return i, nil
}

// load decodes a definition and keeps what its root needs.
func (b *builder) load(u Unit) (*unitGraph, error) {
	def := u.Definition
	if def == nil && u.Load != nil {
		var err error
		if def, err = u.Load(); err != nil {
			return nil, err
		}
	}
	if len(def.GetDef()) == 0 {
		return &unitGraph{root: -1}, nil
	}
	ops, err := decodeOps(def)
	if err != nil {
		return nil, err
	}
	files, err := b.files(def.Source)
	if err != nil {
		return nil, err
	}

	// Depth first along the inputs, on a stack of our own: how deep a graph is
	// must not matter.
	const (
		unseen = iota
		open
		done
	)
	type frame struct {
		op    int
		input int
	}
	g := &unitGraph{output: ops.output}
	state := make([]uint8, len(ops.list))
	position := make([]int, len(ops.list))
	state[ops.root] = open
	for stack := []frame{{op: ops.root}}; len(stack) > 0; {
		top := &stack[len(stack)-1]
		op := ops.list[top.op]
		if top.input < len(op.Inputs) {
			in, err := ops.resolve(op.Inputs[top.input])
			if err != nil {
				return nil, err
			}
			top.input++
			switch state[in] {
			case unseen:
				state[in] = open
				stack = append(stack, frame{op: in})
			case open:
				return nil, fmt.Errorf("op %s needs itself", ops.names[in])
			}
			continue
		}
		n := node{op: op, inputs: make([]int, len(op.Inputs))}
		for i, in := range op.Inputs {
			n.inputs[i] = position[ops.index[in.Digest]]
		}
		name := string(ops.names[top.op])
		if n.locs, err = places(def.Source, files, name); err != nil {
			return nil, err
		}
		n.meta = metadataOf(def.Metadata[name])
		state[top.op], position[top.op] = done, len(g.nodes)
		g.nodes = append(g.nodes, n)
		stack = stack[:len(stack)-1]
	}
	g.root = position[ops.root]
	return g, nil
}

// decode reads an op as nodes do. Their decoder sets no bound to nesting, so that
// ops which might nest deep go through one that does first.
func decode(dt []byte) (*pb.Op, error) {
	const deep = 1 << 20
	op := &pb.Op{}
	if len(dt) > deep {
		if err := proto.Unmarshal(dt, op); err != nil {
			return nil, err
		}
		op.Reset()
	}
	if err := op.UnmarshalVT(dt); err != nil {
		return nil, err
	}
	return op, nil
}

// files returns the shared form of the files of a source map.
func (b *builder) files(src *pb.Source) ([]*pb.SourceInfo, error) {
	files := make([]*pb.SourceInfo, len(src.GetInfos()))
	for i, info := range src.GetInfos() {
		if info == nil {
			return nil, fmt.Errorf("file %d of the source map is missing", i)
		}
		dt, err := deterministic.Marshal(info)
		if err != nil {
			return nil, fmt.Errorf("encode file %q of the source map: %w", info.Filename, err)
		}
		key := Digest(dt)
		if b.infos[key] == nil {
			b.infos[key] = info
		}
		files[i] = b.infos[key]
	}
	return files, nil
}

// places returns the locations of an op.
func places(src *pb.Source, files []*pb.SourceInfo, name string) ([]place, error) {
	locs := src.GetLocations()[name].GetLocations()
	if len(locs) == 0 {
		return nil, nil
	}
	list := make([]place, 0, len(locs))
	for _, l := range locs {
		if l == nil || l.SourceIndex < 0 || int(l.SourceIndex) >= len(files) {
			return nil, fmt.Errorf("the location of op %s is in no file of the source map", name)
		}
		list = append(list, place{file: files[l.SourceIndex], ranges: l.Ranges})
	}
	return list, nil
}

// placeList is a list of places, each once.
type placeList struct {
	places []place
	byFile map[*pb.SourceInfo][]int // for long lists, as of steps that many units share
}

func (l *placeList) add(places ...place) {
	const long = 16
	for _, p := range places {
		if l.has(p) {
			continue
		}
		if l.byFile == nil && len(l.places) == long {
			l.byFile = map[*pb.SourceInfo][]int{}
			for i, have := range l.places {
				l.byFile[have.file] = append(l.byFile[have.file], i)
			}
		}
		if l.byFile != nil {
			l.byFile[p.file] = append(l.byFile[p.file], len(l.places))
		}
		l.places = append(l.places, p)
	}
}

func (l *placeList) has(p place) bool {
	if l.byFile != nil {
		return slices.ContainsFunc(l.byFile[p.file], func(i int) bool { return samePlace(l.places[i], p) })
	}
	return slices.ContainsFunc(l.places, func(have place) bool { return samePlace(have, p) })
}

func samePlace(a, b place) bool {
	return a.file == b.file && slices.EqualFunc(a.ranges, b.ranges, sameRange)
}

func sameRange(a, b *pb.Range) bool {
	return samePosition(a.GetStart(), b.GetStart()) && samePosition(a.GetEnd(), b.GetEnd())
}

func samePosition(a, b *pb.Position) bool {
	return a.GetLine() == b.GetLine() && a.GetCharacter() == b.GetCharacter()
}
