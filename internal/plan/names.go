package plan

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"

	digest "github.com/opencontainers/go-digest"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/llbmerge"
)

// Names identify the vertices of a graph from run to run. The digest of a vertex is not fit
// for that: what a local source transfers is the union of what all targets of the run need,
// so that the digests above it change with the list of targets. None of these names does.
type Names struct {
	graph *graph
	list  []names // by vertex
	base  string  // the directory of the project, without symbolic links
	files bool    // whether the files that vertices read are listed
}

// names are those of one vertex.
type names struct {
	// op covers the work of the vertex and all below it, whatever is in the files.
	op warm.OpID
	// result is op with the files that are read: a result that a node holds under this name
	// need not be built.
	result warm.ResultID
	// place and form explain why a result is not held: where in which Dockerfile the step
	// stands, and its work there apart from its inputs. "" when the place is not known.
	place warm.PlaceID
	form  warm.FormID
	slot  string // place for the history: the same for all targets of a Dockerfile
	// files is set when op and result are not one: the vertex, or one below it, reads
	// files.
	files  bool
	read   content
	mounts []warm.MountID // those that can be filled
}

// newNames finds the names of all vertices of the units' graph. It returns, by target, why
// files that steps read cannot be sent to a node.
func newNames(ctx context.Context, g *graph, units []*frontend.Unit, base string, known Memory) (_ *Names, faults map[string]error, err error) {
	out := &Names{graph: g, list: make([]names, len(g.Vertices)), base: base, files: known.List}
	faults = map[string]error{}
	r := &reader{dirs: locals(units), seen: map[string]content{}, sums: known.Files, list: known.List}
	targets := map[string]*ir.Target{} // by unit
	for _, u := range units {
		targets[string(u.ID)] = u.Target
	}
	for i, v := range g.Vertices {
		n := &out.list[i]
		var err error
		n.read, err = r.read(ctx, v, func(in int) *llbmerge.Vertex { return g.Vertices[g.index[v.Inputs[in]]] })
		if err != nil {
			return nil, nil, err
		}
		for _, u := range v.Users {
			if t := targets[u]; n.read.fault != nil && faults[t.Name] == nil {
				faults[t.Name] = fileFault(t, v.Step, n.read.fault)
			}
		}
		form, err := formOf(v)
		if err != nil {
			return nil, nil, fmt.Errorf("name %s: %w", v.Step, err)
		}
		op := append([]byte(nil), form...)
		var result strings.Builder
		n.files = n.read.key != ""
		n.mounts = mountsOf(v, func(in int) warm.ResultID { return out.list[g.index[v.Inputs[in]]].result })
		for k, in := range v.Inputs {
			below := out.list[g.index[in]]
			op = binary.AppendUvarint(append(op, below.op...), uint64(v.Op.GetInputs()[k].GetIndex()))
			result.WriteString(string(below.result) + "\n")
			n.files = n.files || below.files
		}
		n.op = warm.OpID(llbmerge.Digest(op))
		n.result = warm.ResultID(n.op)
		if n.files {
			n.result = warm.ResultID(llbmerge.Digest([]byte(string(n.op) + "\n" + n.read.key + "\n" + result.String())))
		}
		if n.slot = slotOf(v, redact.Text(targets[v.Users[0]].Context.Text)); n.slot != "" {
			n.place = warm.PlaceID(llbmerge.Digest([]byte("place " + n.slot + " " + only(v.Users, targets))))
			n.form = warm.FormID(llbmerge.Digest([]byte("form " + string(n.place) + string(form))))
		}
	}
	return out, faults, nil
}

// formOf encodes the work of a vertex apart from its inputs. Constraints are left out: they
// say where and whether to look into the cache, not what to do.
func formOf(v *llbmerge.Vertex) ([]byte, error) {
	if l := v.Local; l != nil {
		return fmt.Appendf(nil, "local %q %q %q", l.Name, l.IncludePatterns, l.ExcludePatterns), nil
	}
	return withoutInputs(v)
}

// The numbers of the fields of an op that say what it does: those between its inputs and
// its constraints.
const (
	firstWork = 2
	lastWork  = 10
)

// withoutInputs encodes the op of a vertex without its inputs and constraints. They are cut
// out of its bytes: to encode an op takes longer.
func withoutInputs(v *llbmerge.Vertex) ([]byte, error) {
	form := make([]byte, 0, len(v.Bytes))
	for rest := v.Bytes; len(rest) > 0; {
		number, _, size := protowire.ConsumeField(rest)
		if size < 0 {
			return nil, protowire.ParseError(size)
		}
		if firstWork <= number && number <= lastWork {
			form = append(form, rest[:size]...)
		}
		rest = rest[size:]
	}
	return form, nil
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

// Of returns the names under which the results of the vertices are remembered.
func (n *Names) Of(vertices []digest.Digest) []warm.Names {
	var list []warm.Names
	for _, d := range vertices {
		i, ok := n.graph.index[d]
		if !ok {
			continue
		}
		one := n.list[i]
		held := warm.Names{Result: one.result, Place: one.place, Form: one.form}
		if one.files {
			held.Op = one.op
		}
		list = append(list, held)
	}
	return list
}

// Traces returns, by result, the evidence that shows it among node's cache
// records.
func (n *Names) Traces(node string, ms []Measurement) map[warm.ResultID]warm.Trace {
	traces := map[warm.ResultID]warm.Trace{}
	for _, m := range ms {
		if i, ok := n.graph.index[m.Vertex]; ok && m.Node == node {
			traces[n.list[i].result] = n.trace(i, m)
		}
	}
	return traces
}

// Holdings returns the vertices whose results a node keeps: those that holds names, and those
// that it executed itself, as far as its records show them.
func (n *Names) Holdings(holds warm.Holdings, records warm.Records, executed []Measurement) []digest.Digest {
	found := map[int]bool{}
	for _, m := range executed {
		if i, ok := n.graph.index[m.Vertex]; ok {
			if _, kept := records.Find(n.trace(i, m)); kept {
				found[i] = true
			}
		}
	}
	var list []digest.Digest
	for i, v := range n.graph.Vertices {
		if (found[i] || holds.Results[n.list[i].result]) && !v.IgnoreCache {
			list = append(list, v.Digest)
		}
	}
	return list
}

// trace returns the evidence of an execution of vertex i.
func (n *Names) trace(i int, m Measurement) warm.Trace {
	return warm.NewTrace(recordText(n.graph.Vertices[i]), m.Start, m.Start.Add(m.Took))
}

// recordText returns the description that BuildKit gives to the result of a step.
func recordText(v *llbmerge.Vertex) string {
	if e := v.Op.GetExec(); e != nil {
		return "mount / from exec " + strings.Join(e.GetMeta().GetArgs(), " ")
	}
	return v.Step
}

// Operation identifies the work of vertex i of the graph and all below it.
func (n *Names) Operation(i int) warm.OpID { return n.list[i].op }

// Result identifies the result of vertex i: its operation with the files that are read.
func (n *Names) Result(i int) warm.ResultID { return n.list[i].result }
