package llbmerge

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"
)

// deterministic is how every op is encoded: attributes are a map, and an op whose
// bytes depend on the order of a map has several digests.
var deterministic = proto.MarshalOptions{Deterministic: true}

// canonicalise rewrites what the ops of a unit say, inputs and the narrowing of
// local sources apart.
func (b *builder) canonicalise(u Unit, g *unitGraph) error {
	for i := range g.nodes {
		n := &g.nodes[i]
		if o, ok := n.op.Op.(*pb.Op_Source); ok {
			if len(n.inputs) > 0 {
				return fmt.Errorf("source %q has inputs", o.Source.GetIdentifier())
			}
			if err := n.source(u, o.Source); err != nil {
				return err
			}
		}
		n.op.Constraints = constraints(n.op.Constraints, n.meta.IgnoreCache)
	}
	nameGroups(u, g)
	return b.groupLocals(g)
}

func (n *node) source(u Unit, src *pb.SourceOp) error {
	switch sourceKind(src.GetIdentifier()) {
	case KindLocal:
		name := strings.TrimPrefix(src.Identifier, "local://")
		if u.Locals != nil {
			id, ok := u.Locals[name]
			if !ok {
				return fmt.Errorf("local source %q has no identity", name)
			}
			name = id
		}
		var err error
		n.local, err = parseLocal(src, name)
		return err
	case KindOCILayout, KindBlob:
		delete(src.Attrs, pb.AttrOCILayoutSessionID)
	case KindGit:
		delete(src.Attrs, pb.AttrOCILayoutSessionID) // of a bundle
	}
	return nil
}

// constraints returns the canonical form of c, which is another one for ops that
// ignore the cache. Whether an op does is metadata, and a definition holds one
// metadata for each digest, so two ops that differ in it need two digests; and
// the worker constraints are the part of an op that has no bearing on what it
// does nor on its cache key. Both forms say the same to who does read them: no
// filter is an empty list or no list, and a filter may be repeated.
func constraints(c *pb.WorkerConstraints, ignoreCache bool) *pb.WorkerConstraints {
	var filter []string
	for _, f := range c.GetFilter() {
		if !slices.Contains(filter, f) {
			filter = append(filter, f)
		}
	}
	switch {
	case !ignoreCache:
	case len(filter) == 0:
		return nil
	default:
		filter = append(filter, filter[len(filter)-1])
	}
	return &pb.WorkerConstraints{Filter: filter}
}
