package plan

import (
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/redact"
)

// export is what is known of writing the outputs of a job. Compressing and pushing
// the layers of a large image takes as long as many a step; when the result was there
// before, its layers are compressed and in the registry already.
type export struct {
	fresh, again         cost.Step // zero when there is nothing to write
	freshCost, againCost cost.Prediction
}

// predictExports asks the history what the outputs of each job will cost.
func (b *Build) predictExports() []export {
	list := make([]export, len(b.Jobs))
	for i, j := range b.Jobs {
		if e := &list[i]; exports(j.Target) {
			e.fresh, e.again = b.exportStep(j, "export"), b.exportStep(j, "export again")
			e.freshCost, e.againCost = b.history.Predict(e.fresh), b.history.Predict(e.again)
		}
	}
	return list
}

// exports reports whether the target has an output to be written.
func exports(t *ir.Target) bool {
	for _, o := range t.Outputs {
		if o.Form() != ir.FormNone {
			return true
		}
	}
	return false
}

// exportStep returns what the history knows the outputs of a job by: what is written
// and how, but not where to.
func (b *Build) exportStep(j Job, what string) cost.Step {
	var key strings.Builder
	for _, v := range b.rootsOf(j) {
		fmt.Fprintf(&key, "%s\n", b.names[v].op)
	}
	for _, o := range j.Target.Outputs {
		key.WriteString(o.Type)
		for _, k := range ir.SortedKeys(o.Attrs) {
			if k != "name" && k != "dest" {
				fmt.Fprintf(&key, " %q=%q", k, o.Attrs[k])
			}
		}
		key.WriteByte('\n')
	}
	return cost.Step{
		Key: digest.FromString(what + " " + key.String()), Kind: cost.Export,
		Slot: fmt.Sprintf("%s/%s/%s", what, redact.Text(j.Target.Context.Text), j.Name),
	}
}

// rootsOf returns the vertices that the units of a job end with.
func (b *Build) rootsOf(j Job) []int {
	var roots []int
	for _, u := range j.Units {
		if r, ok := b.Graph.Root(string(u.ID)); ok {
			roots = append(roots, b.index[r.Digest])
		}
	}
	return roots
}

// ExportCost predicts what the outputs of job i cost on these nodes; ok is false when
// it has none. Which node will write them is not known yet: where one holds the result,
// it is likely to be that.
func (b *Build) ExportCost(i int, nodes []Node) (p cost.Prediction, ok bool) {
	if b.exports[i].fresh.Key == "" {
		return p, false
	}
	roots := b.rootsOf(b.Jobs[i])
	for _, n := range nodes {
		if len(roots) > 0 && !slices.ContainsFunc(roots, func(v int) bool { return !n.Holds.Results[b.names[v].result] }) {
			return b.exports[i].againCost, true
		}
	}
	return b.exports[i].freshCost, true
}
