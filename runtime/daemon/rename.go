package daemon

import (
	"slices"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
)

// RenameVertices returns a copy of st in which vertices have the digests that name gives them.
// Others may read st as well.
func RenameVertices(st *bkclient.SolveStatus, name func(digest.Digest) digest.Digest) *bkclient.SolveStatus {
	out := &bkclient.SolveStatus{}
	for _, v := range st.Vertexes {
		x := *v
		x.Digest = name(v.Digest)
		x.Inputs = slices.Clone(v.Inputs)
		for k, d := range v.Inputs {
			x.Inputs[k] = name(d)
		}
		out.Vertexes = append(out.Vertexes, &x)
	}
	for _, s := range st.Statuses {
		x := *s
		x.Vertex = name(s.Vertex)
		out.Statuses = append(out.Statuses, &x)
	}
	for _, l := range st.Logs {
		x := *l
		x.Vertex = name(l.Vertex)
		out.Logs = append(out.Logs, &x)
	}
	for _, w := range st.Warnings {
		x := *w
		x.Vertex = name(w.Vertex)
		out.Warnings = append(out.Warnings, &x)
	}
	return out
}
