package plan

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/proto"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/llbmerge"
)

// names are what a vertex is remembered by from run to run. The digest of the
// vertex is not fit for that: what a local source transfers is the union of what
// all targets of the run need, so that the digests above it change with the list
// of targets. None of these names does.
type names struct {
	// op is what the vertex and all below it do, whatever is in the files.
	op warm.OpID
	// result is op with the files that are read: what a node holds by this name
	// need not be built.
	result warm.ResultID
	// place and form tell why a result is not held: where in which Dockerfile the
	// step stands, and what it does there apart from its inputs. "" when the
	// place is not known.
	place warm.PlaceID
	form  warm.FormID
	slot  string // place for the history: the same for all targets of a Dockerfile
	// files says that op and result are not one: the vertex, or one below it,
	// reads files.
	files bool
	read  content
}

// name finds the names of all vertices. It returns, by target, why files that steps
// read cannot be sent to a node.
func (b *Build) name(ctx context.Context, sums *filesum.Cache) (faults map[string]error, err error) {
	faults = map[string]error{}
	b.names = make([]names, len(b.Graph.Vertices))
	r := &reader{dirs: b.Locals(), seen: map[string]content{}, sums: sums, list: b.list}
	targets := map[string]*ir.Target{} // by unit
	for _, u := range b.Units {
		targets[string(u.ID)] = u.Target
	}
	for i, v := range b.Graph.Vertices {
		n := &b.names[i]
		var err error
		n.read, err = r.read(ctx, v, func(in int) *llbmerge.Vertex { return b.Graph.Vertices[b.index[v.Inputs[in]]] })
		if err != nil {
			return nil, err
		}
		for _, u := range v.Users {
			if t := targets[u]; n.read.fault != nil && faults[t.Name] == nil {
				faults[t.Name] = fileFault(t, v.Step, n.read.fault)
			}
		}
		form, err := formOf(v)
		if err != nil {
			return nil, fmt.Errorf("name %s: %w", v.Step, err)
		}
		op := append([]byte(nil), form...)
		var result strings.Builder
		n.files = n.read.key != ""
		for k, in := range v.Inputs {
			below := b.names[b.index[in]]
			op = binary.AppendUvarint(append(op, below.op...), uint64(v.Op.GetInputs()[k].GetIndex()))
			result.WriteString(string(below.result) + "\n")
			n.files = n.files || below.files
		}
		n.op = warm.OpID(digest.FromBytes(op))
		n.result = warm.ResultID(n.op)
		if n.files {
			n.result = warm.ResultID(digest.FromString(string(n.op) + "\n" + n.read.key + "\n" + result.String()))
		}
		if n.slot = slotOf(v, redact.Text(targets[v.Users[0]].Context.Text)); n.slot != "" {
			n.place = warm.PlaceID(digest.FromString("place " + n.slot + " " + only(v.Users, targets)))
			n.form = warm.FormID(digest.FromString("form " + string(n.place) + string(form)))
		}
	}
	return faults, nil
}

// formOf encodes what a vertex does apart from its inputs. Constraints are left
// out: they say where and whether to look into the cache, not what to do.
func formOf(v *llbmerge.Vertex) ([]byte, error) {
	if l := v.Local; l != nil {
		return fmt.Appendf(nil, "local %q %q %q", l.Name, l.IncludePatterns, l.ExcludePatterns), nil
	}
	return proto.MarshalOptions{Deterministic: true}.Marshal(&pb.Op{Op: v.Op.GetOp(), Platform: v.Op.GetPlatform()})
}

// only returns the target that all the units belong to, "" when they are of several.
func only(units []string, targets map[string]*ir.Target) string {
	name := ""
	for i, u := range units {
		if t := targets[u].Name; i == 0 {
			name = t
		} else if t != name {
			return ""
		}
	}
	return name
}

// Held returns the names by which the results of the given vertices are remembered.
func (b *Build) Held(vertices []digest.Digest) []warm.Names {
	var list []warm.Names
	for _, d := range vertices {
		i, ok := b.index[d]
		if !ok {
			continue
		}
		n := b.names[i]
		held := warm.Names{Result: n.result, Place: n.place, Form: n.form}
		if n.files {
			held.Op = n.op
		}
		list = append(list, held)
	}
	return list
}

// Cached returns the units of which the results of all steps are among those given. A step
// that ignores the cache has no result there that counts.
func (b *Build) Cached(results map[warm.ResultID]bool) map[ir.UnitID]bool {
	units := map[ir.UnitID]bool{}
	for _, u := range b.Units {
		units[u.ID] = true
	}
	for i, v := range b.Graph.Vertices {
		if !v.Kind.IsStep() || results[b.names[i].result] && !v.IgnoreCache {
			continue
		}
		for _, u := range v.Users {
			delete(units, ir.UnitID(u))
		}
	}
	return units
}

// Traces returns, by result, the evidence by which to recognise it among node's cache
// records.
func (b *Build) Traces(node string, ms []Measurement) map[warm.ResultID]warm.Trace {
	traces := map[warm.ResultID]warm.Trace{}
	for _, m := range ms {
		if i, ok := b.index[m.Vertex]; ok && m.Node == node {
			traces[b.names[i].result] = b.trace(i, m)
		}
	}
	return traces
}

// trace returns the evidence of an execution of vertex i.
func (b *Build) trace(i int, m Measurement) warm.Trace {
	return warm.NewTrace(recordText(b.Graph.Vertices[i]), m.Start, m.Start.Add(m.Took))
}

// recordText is what BuildKit writes on the result of a step.
func recordText(v *llbmerge.Vertex) string {
	if e := v.Op.GetExec(); e != nil {
		return "mount / from exec " + strings.Join(e.GetMeta().GetArgs(), " ")
	}
	return v.Step
}

// Why says why a step has to be executed on a node.
type Why string

// The reasons; the first that holds is given.
const (
	// WhyNoCache: the target asks for it.
	WhyNoCache Why = "cache not wanted"
	// WhyDear: the result is in the registry, and to fetch it would not end sooner.
	WhyDear Why = "built sooner than fetched"
	// WhyPruned: the step was run there, and the result was thrown away.
	WhyPruned Why = "no longer on the node"
	// WhyFiles: the step was run there with other files.
	WhyFiles Why = "changed files"
	// WhySource: the step was run there on another base image or source.
	WhySource Why = "changed base or source"
	// WhyCommand: at its place in the Dockerfile stood another command.
	WhyCommand Why = "edited command"
	// WhyElsewhere: another node holds the result, and its transfer would not end
	// sooner.
	WhyElsewhere Why = "built on another node only"
	// WhyEmpty: nothing is known to be held by the node.
	WhyEmpty Why = "node holds nothing yet"
	// WhyNew: none of the above.
	WhyNew Why = "never built here"
)

// Operation identifies what vertex i of the graph and all below it do.
func (b *Build) Operation(i int) warm.OpID { return b.names[i].op }

// Result names what vertex i leads to: its operation with the files that are read.
func (b *Build) Result(i int) warm.ResultID { return b.names[i].result }

// Why says why vertex i, whose inputs among steps are all held, is not held by node n.
func (b *Build) Why(i, n int, nodes []Node) Why {
	holds, v, name := nodes[n].Holds, b.Graph.Vertices[i], b.names[i]
	switch {
	case v.IgnoreCache:
		return WhyNoCache
	case b.cached[name.result]:
		return WhyDear
	case nodes[n].Lost[name.result]:
		return WhyPruned
	case name.files && holds.Ops[name.op]:
		return WhyFiles
	case name.place != "" && holds.Forms[name.form]:
		return WhySource
	case name.place != "" && holds.Places[name.place]:
		return WhyCommand
	}
	for m, other := range nodes {
		if m != n && other.Holds.Results[name.result] {
			return WhyElsewhere
		}
	}
	if len(holds.Results) == 0 {
		return WhyEmpty
	}
	return WhyNew
}
