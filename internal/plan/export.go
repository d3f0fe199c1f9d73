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

// export is the work of writing the outputs of a job. Compressing and pushing the layers of
// a large image takes as long as many a step; when the result was there before, its layers
// are compressed and in the registry already.
type export struct {
	fresh, again         cost.Step // zero when there is nothing to write
	freshCost, againCost cost.Prediction
}

// of returns p with the costs of each job's outputs.
func (p *prices) of(jobs []Job) *prices {
	out := *p
	out.jobs, out.exports = jobs, make([]export, len(jobs))
	for i, j := range jobs {
		if e := &out.exports[i]; exports(j.Target) {
			e.fresh, e.again = p.exportStep(j, "export"), p.exportStep(j, "export again")
			e.freshCost, e.againCost = p.history.Predict(e.fresh), p.history.Predict(e.again)
		}
	}
	return &out
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

// exportStep returns the step under which the history keeps the outputs of a job: it covers
// what is written and how, but not where to.
func (p *prices) exportStep(j Job, what string) cost.Step {
	var key strings.Builder
	for _, v := range p.graph.roots(j.Units) {
		fmt.Fprintf(&key, "%s\n", p.names.list[v].op)
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

// ExportCost predicts the cost of the outputs of job i on these nodes; ok is false when it
// has none. Which node will write them is not known yet: where one holds the result, it is
// likely to be that.
func (b *Build) ExportCost(i int, nodes []Node) (cost.Prediction, bool) {
	return b.prices.export(i, nodes)
}

func (p *prices) export(i int, nodes []Node) (_ cost.Prediction, ok bool) {
	e := p.exports[i]
	if e.fresh.Key == "" {
		return cost.Prediction{}, false
	}
	roots := p.graph.roots(p.jobs[i].Units)
	for _, n := range nodes {
		if len(roots) > 0 && !slices.ContainsFunc(roots, func(v int) bool { return !n.Holds.Results[p.names.list[v].result] }) {
			return e.againCost, true
		}
	}
	return e.freshCost, true
}
