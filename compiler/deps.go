package compiler

import (
	"encoding/json"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// expression is an HCL expression with what it needs to be evaluated.
type expression struct {
	hcl.Expression
	functions []string        // names of the functions called, in order of appearance
	variables []hcl.Traversal // references to anything outside of the expression
}

// analyze finds the dependencies of expr.
func (e *evaluator) analyze(expr hcl.Expression) *expression {
	x := &expression{Expression: expr, variables: expr.Variables()}
	if node, ok := expr.(hclsyntax.Node); ok {
		x.functions = calls(node)
	} else {
		x.functions = e.sources.calls(expr)
	}
	return x
}

// calls returns the names of the functions that an expression calls.
func calls(node hclsyntax.Node) []string {
	var names []string
	// The visitor never returns diagnostics.
	_ = hclsyntax.VisitAll(node, func(n hclsyntax.Node) hcl.Diagnostics {
		if call, ok := n.(*hclsyntax.FunctionCallExpr); ok {
			names = append(names, call.Name)
		}
		return nil
	})
	return names
}

// calls returns the names of the functions called by the strings inside of a JSON
// value that are expressions as a whole. Calls inside of templates, as in
// "${f()}", are not found ahead of evaluation: by then every function is known.
func (s sources) calls(expr hcl.Expression) []string {
	if list, diags := hcl.ExprList(expr); !diags.HasErrors() && len(list) > 0 {
		var names []string
		for _, item := range list {
			names = append(names, s.calls(item)...)
		}
		return names
	}
	if pairs, diags := hcl.ExprMap(expr); !diags.HasErrors() && len(pairs) > 0 {
		var names []string
		for _, p := range pairs {
			names = append(names, s.calls(p.Key)...)
			names = append(names, s.calls(p.Value)...)
		}
		return names
	}
	rng := expr.Range()
	var text string
	if err := json.Unmarshal(s.bytes(rng), &text); err != nil {
		return nil // no string
	}
	parsed, diags := hclsyntax.ParseExpression([]byte(text), rng.Filename, rng.Start)
	if diags.HasErrors() {
		return nil
	}
	return calls(parsed)
}

// references calls yield for each reference of x to a block of type typ by name,
// as target.NAME.
func (x *expression) references(yield func(typ, name string)) {
	for _, v := range x.variables {
		typ := v.RootName()
		if typ != blockTarget && typ != blockGroup || len(v) < 2 {
			continue
		}
		if name, ok := stepName(v[1]); ok {
			yield(typ, name)
		}
	}
}

// stepName returns the name that a step of a traversal leads to: an attribute
// or a literal index.
func stepName(step hcl.Traverser) (string, bool) {
	switch step := step.(type) {
	case hcl.TraverseAttr:
		return step.Name, true
	case hcl.TraverseIndex:
		if step.Key.Type() == cty.String && step.Key.IsKnown() && !step.Key.IsNull() {
			return step.Key.AsString(), true
		}
	}
	return "", false
}
