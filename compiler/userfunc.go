package compiler

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"
)

// functionDef is a function block. Absent parts are nil.
type functionDef struct {
	params, variadic *hcl.Attribute
	result           *expression
	block            *hcl.Block
}

// readFunction takes in a function block; its unknown attributes are errors.
func (e *evaluator) readFunction(b *hcl.Block) hcl.Diagnostics {
	content, diags := b.Body.Content(functionSchema)
	sortDiagnostics(diags)
	f := &functionDef{
		params:   content.Attributes["params"],
		variadic: content.Attributes["variadic_params"],
		block:    b,
	}
	if a := content.Attributes["result"]; a != nil {
		f.result = e.analyze(a.Expr)
	}
	if name := b.Labels[0]; !e.reserved(name) {
		e.functions.set(name, f)
	}
	return diags
}

// resolveFunctions makes all functions callable; a mistake in one that nobody
// calls is found too.
func (e *evaluator) resolveFunctions() hcl.Diagnostics {
	for _, name := range e.functions.names {
		if err := e.resolveFunction(e.root, name); err != nil {
			f := e.functions.byKey[name]
			subject, context := f.block.LabelRanges[0], f.block.DefRange
			if f.params != nil {
				subject, context = f.params.Range, f.params.Range
			}
			return diagnose("Invalid function", err, subject, context)
		}
	}
	return nil
}

// resolveFunction makes the function of that name callable, if it is not yet. A
// built-in function wins over one of the same name in a file.
func (e *evaluator) resolveFunction(scope *hcl.EvalContext, name string) error {
	if _, ok := e.root.Functions[name]; ok {
		return nil
	}
	f, ok := e.functions.get(name)
	if !ok {
		return fmt.Errorf("function %q does not exist: %w", name, errUndefined)
	}
	key := scopedName{scope, name}
	if _, ok := e.startedFunctions[key]; ok {
		return fmt.Errorf("function cycle not allowed for %s", name)
	}
	e.startedFunctions[key] = struct{}{}

	if f.result == nil {
		return fmt.Errorf("empty result not allowed for %s", name)
	}
	if f.params == nil {
		return fmt.Errorf("empty params not allowed for %s", name)
	}
	params, variadic, diags := f.parameters()
	if diags.HasErrors() {
		return diags
	}
	local := make(map[string]struct{}, len(params)+1)
	for _, p := range params {
		local[p] = struct{}{}
	}
	if variadic != "" {
		local[variadic] = struct{}{}
	}
	if diags := e.load(e.root, f.result, local, false); diags.HasErrors() {
		return diags
	}
	e.root.Functions[name] = e.newFunction(params, variadic, f.result)
	return nil
}

// parameters returns the names of the parameters; variadic is "" when the
// function takes no further arguments.
func (f *functionDef) parameters() (params []string, variadic string, diags hcl.Diagnostics) {
	exprs, diags := hcl.ExprList(f.params.Expr)
	if diags.HasErrors() {
		return nil, "", diags
	}
	name := func(expr hcl.Expression, rng hcl.Range) string {
		param := hcl.ExprAsKeyword(expr)
		if param == "" {
			diags = append(diags, &hcl.Diagnostic{
				Severity: hcl.DiagError,
				Summary:  "Invalid param element",
				Detail:   "Each parameter name must be an identifier.",
				Subject:  &rng,
			})
		}
		return param
	}
	for _, x := range exprs {
		params = append(params, name(x, x.Range()))
	}
	if f.variadic != nil {
		variadic = name(f.variadic.Expr, f.variadic.Range)
	}
	return params, variadic, diags
}

// newFunction returns a function that evaluates result with its arguments as
// variables, over everything that is known when it is called.
func (e *evaluator) newFunction(params []string, variadic string, result *expression) function.Function {
	call := func(args []cty.Value) (cty.Value, error) {
		scope := e.root.NewChild()
		scope.Variables = make(map[string]cty.Value, len(params)+1)
		for i, p := range params {
			scope.Variables[p] = args[i]
		}
		if variadic != "" {
			scope.Variables[variadic] = cty.TupleVal(args[len(params):])
		}
		defer e.at.leave(e.at.enter(result.Range()))
		v, diags := result.Value(scope)
		if diags.HasErrors() {
			for _, d := range diags { // they are about to become text
				settleSuggestion(d)
			}
			return cty.DynamicVal, diags
		}
		return v, nil
	}
	spec := &function.Spec{
		// The type is that of the value: to ask for it would be a second call, and
		// functions that call each other would double with every one.
		Type: function.StaticReturnType(cty.DynamicPseudoType),
		Impl: func(args []cty.Value, _ cty.Type) (cty.Value, error) { return call(args) },
	}
	for _, p := range params {
		spec.Params = append(spec.Params, function.Parameter{Name: p, Type: cty.DynamicPseudoType})
	}
	if variadic != "" {
		spec.VarParam = &function.Parameter{Name: variadic, Type: cty.DynamicPseudoType}
	}
	return function.New(spec)
}
