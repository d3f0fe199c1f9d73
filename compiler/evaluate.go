package compiler

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/function"

	"github.com/dbake/dbake/compiler/ir"
)

// evaluator holds the state of the evaluation of all files of the HCL family.
// See the package documentation for the order of the passes.
type evaluator struct {
	at       *place
	sources  sources
	builtins map[string]string                // BAKE_CMD_CONTEXT and its like
	lookup   func(name string) (string, bool) // --var, then the environment

	variables named[*variable]
	functions named[*functionDef]
	globals   named[*global]
	blocks    []*block // targets and groups as they stand in the files

	// root is the scope of everything that is not a matrix instance or the body
	// of a function.
	root *hcl.EvalContext
	// started holds the names whose evaluation has begun in a scope, for the
	// detection of cycles.
	startedValues    map[scopedName]struct{}
	startedFunctions map[scopedName]struct{}

	refs references // to targets and groups

	ignored hcl.Diagnostics // mistakes where docker buildx does not look
}

// scopedName is a name as seen from a scope.
type scopedName struct {
	scope *hcl.EvalContext
	name  string
}

// named is a set of definitions that remembers the order of their names.
type named[T any] struct {
	names []string
	byKey map[string]T
}

// set adds or replaces the definition of name; a replaced one keeps its place.
func (n *named[T]) set(name string, v T) {
	if n.byKey == nil {
		n.byKey = make(map[string]T)
	}
	if _, ok := n.byKey[name]; !ok {
		n.names = append(n.names, name)
	}
	n.byKey[name] = v
}

func (n *named[T]) get(name string) (T, bool) {
	v, ok := n.byKey[name]
	return v, ok
}

// global is a top-level attribute.
type global struct {
	*hcl.Attribute
	expr *expression
}

// errUndefined marks a name that nothing defines. Expressions may name what does
// not exist as long as they are not evaluated, so most callers let it pass.
var errUndefined = errors.New("undefined")

// newEvaluator returns an evaluator for files that may call functions.
func newEvaluator(at *place, src sources, builtins map[string]string, functions map[string]function.Function, lookup func(string) (string, bool)) *evaluator {
	return &evaluator{
		at:       at,
		sources:  src,
		builtins: builtins,
		lookup:   lookup,
		root: &hcl.EvalContext{
			Variables: map[string]cty.Value{},
			Functions: functions,
		},
		startedValues:    map[scopedName]struct{}{},
		startedFunctions: map[scopedName]struct{}{},
		refs:             newReferences(),
	}
}

// reserved reports whether a name cannot be defined by files: what is defined
// under it anyway is ignored.
func (e *evaluator) reserved(name string) bool {
	_, builtin := e.builtins[name]
	return builtin || name == blockTarget || name == blockGroup
}

// load resolves everything that x needs in scope: the functions it calls, and the
// values and blocks it refers to, except for names in exclude. Names that nothing
// defines are an error only when missing is false.
func (e *evaluator) load(scope *hcl.EvalContext, x *expression, exclude map[string]struct{}, missing bool) hcl.Diagnostics {
	rng := x.Range()
	fail := func(err error) hcl.Diagnostics { return diagnose("Invalid expression", err, rng, rng) }
	passes := func(err error) bool { return err == nil || missing && errors.Is(err, errUndefined) }

	for _, name := range x.functions {
		if err := e.resolveFunction(scope, name); !passes(err) {
			return fail(err)
		}
	}
	for _, v := range x.variables {
		root := v.RootName()
		if _, ok := exclude[root]; ok {
			continue
		}
		if e.refs.known && (root == blockTarget || root == blockGroup) {
			if err := e.resolveReference(v); !passes(err) {
				return fail(err)
			}
			continue
		}
		if err := e.resolveValue(scope, root); !passes(err) {
			return fail(err)
		}
	}
	return nil
}

// resolveReference resolves the block, or the one attribute of it, that a
// traversal such as target.NAME.ATTRIBUTE leads to.
func (e *evaluator) resolveReference(v hcl.Traversal) error {
	typ, steps := v.RootName(), v.SimpleSplit().Rel
	if len(steps) == 0 {
		return fmt.Errorf("cannot access %s as a variable", typ)
	}
	name, ok := steps[0].(hcl.TraverseAttr)
	if !ok {
		return fmt.Errorf("cannot traverse %s without attribute", typ)
	}
	var only string
	if len(steps) > 1 {
		if attr, ok := steps[1].(hcl.TraverseAttr); ok {
			only = attr.Name
		}
	}
	for _, b := range e.refs.blocks[blockKey{typ, name.Name}] {
		if err := e.resolveBlock(b, only); err != nil {
			return err
		}
	}
	return nil
}

// value evaluates x, whose dependencies are loaded, in scope.
func (e *evaluator) value(x *expression, scope *hcl.EvalContext) (cty.Value, hcl.Diagnostics) {
	defer e.at.leave(e.at.enter(x.Range()))
	v, diags := x.Value(e.refs.in(x, scope, e.root))
	if !diags.HasErrors() {
		diags = append(diags, checkSize(v, x.Range())...)
	}
	return v, diags
}

// read takes in the blocks and attributes of the files, in order. Nothing is
// evaluated yet, literals of variables apart.
func (e *evaluator) read(files []hclSource) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, f := range files {
		content, _, d := f.body.PartialContent(definitionSchema)
		diags = append(diags, d...)
		for _, b := range content.Blocks {
			var d hcl.Diagnostics
			if b.Type == blockVariable {
				d = e.readVariable(b)
			} else {
				d = e.readFunction(b)
			}
			diags = append(diags, d...)
		}
	}
	if diags.HasErrors() {
		return diags
	}

	var rest []hcl.Body
	for _, f := range files {
		content, leftover, d := f.body.PartialContent(entitySchema)
		diags = append(diags, d...)
		for _, b := range content.Blocks {
			e.blocks = append(e.blocks, newBlock(b))
		}
		rest = append(rest, leftover)
	}
	if diags.HasErrors() {
		return diags
	}
	return e.readGlobals(rest)
}

// readGlobals takes in the top-level attributes: whatever is no block. Stray
// blocks are let pass, and so is an attribute set in several files: the last one
// counts.
func (e *evaluator) readGlobals(bodies []hcl.Body) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, b := range bodies {
		_, leftover, d := b.PartialContent(definitionSchema)
		diags = append(diags, d...)
		if d.HasErrors() {
			continue
		}
		attrs, d := leftover.JustAttributes()
		for _, diag := range d {
			if diag.Detail != "Blocks are not allowed here." {
				diags = append(diags, diag)
			}
		}
		for _, a := range sortedAttributes(attrs) {
			if !e.reserved(a.Name) && a.Name != blockFunction {
				e.globals.set(a.Name, &global{Attribute: a})
			}
		}
	}
	if diags.HasErrors() {
		return diags
	}
	for _, name := range e.globals.names {
		g := e.globals.byKey[name]
		g.expr = e.analyze(g.Expr)
		g.expr.references(e.refs.note)
	}
	return nil
}

// evaluate runs the passes over what was read, and lays the targets and groups
// of the files over those in c.
func (e *evaluator) evaluate(c *config) hcl.Diagnostics {
	for name := range e.builtins {
		e.root.Variables[name] = cty.StringVal(e.builtins[name])
	}
	if diags := e.resolveVariables(); diags.HasErrors() {
		return diags
	}
	if diags := e.validateVariables(); diags.HasErrors() {
		return diags
	}
	if diags := e.resolveFunctions(); diags.HasErrors() {
		return diags
	}
	e.refs.known = true
	for _, b := range e.blocks {
		e.readBlock(b)
	}
	generated, diags := e.resolveNames()
	if diags.HasErrors() {
		return diags
	}
	if diags := e.resolveBlocks(c); diags.HasErrors() {
		return diags
	}
	if diags := e.resolveGlobals(); diags.HasErrors() {
		return diags
	}
	c.groups = append(c.groups, generated...)
	return nil
}

// resolveGlobals evaluates the attributes that nothing has asked for, since a
// mistake in them is a mistake all the same.
func (e *evaluator) resolveGlobals() hcl.Diagnostics {
	for _, name := range e.globals.names {
		if err := e.resolveValue(e.root, name); err != nil {
			rng := e.globals.byKey[name].Range
			return diagnose("Invalid attribute", err, rng, rng)
		}
	}
	return nil
}

// resolveNames gives every block its names, and returns the groups that stand for
// the targets of a matrix.
func (e *evaluator) resolveNames() ([]*ir.Group, hcl.Diagnostics) {
	byName := map[blockKey][]*block{}
	type label struct {
		names []string
		rng   hcl.Range
	}
	var labels named[*label]
	for _, b := range e.blocks {
		if err := e.nameBlock(b); err != nil {
			rng := b.LabelRanges[0]
			return nil, diagnose("Invalid name", err, rng, rng)
		}
		for _, name := range b.names {
			key := blockKey{b.Type, name}
			byName[key] = append(byName[key], b)
			if b.Type == blockTarget {
				l, ok := labels.get(b.Labels[0])
				if !ok {
					l = &label{rng: b.DefRange}
					labels.set(b.Labels[0], l)
				}
				l.names = append(l.names, name)
			}
		}
	}
	e.refs.blocks = byName

	var groups []*ir.Group
	for _, parent := range labels.names {
		l := labels.byKey[parent]
		names := unique(l.names)
		if len(names) == 1 && names[0] == parent {
			continue
		}
		groups = append(groups, &ir.Group{Name: parent, Targets: names, Range: sourceRange(l.rng)})
	}
	return groups, nil
}

// resolveBlocks evaluates all blocks completely and adds them to c: a target is
// merged over an earlier one of its name, a group replaces it. Mistakes in
// expressions of one block do not keep those of the next from being found.
func (e *evaluator) resolveBlocks(c *config) hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, b := range e.blocks {
		if err := e.resolveBlock(b, ""); err != nil {
			d, ok := err.(hcl.Diagnostics) //nolint:errorlint // a wrapped one has become text on purpose
			if !ok {
				return diagnose("Invalid block", err, b.LabelRanges[0], b.DefRange)
			}
			diags = append(diags, d...)
			continue
		}
		for _, i := range b.instances {
			if i.group != nil {
				c.setGroup(i.group)
			} else {
				i.target.setBase(b)
				c.addTarget(i.target)
			}
		}
	}
	return diags
}

// unique returns the first occurrences in list; an empty list as it is.
func unique(list []string) []string {
	if len(list) == 0 {
		return list
	}
	seen := make(map[string]struct{}, len(list))
	var out []string
	for _, s := range list {
		if _, ok := seen[s]; !ok {
			seen[s] = struct{}{}
			out = append(out, s)
		}
	}
	return out
}

// isIdentifier reports whether name can be the name of a target or group.
func isIdentifier(name string) bool {
	return name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-") == ""
}

const identifierPattern = "[a-zA-Z0-9_-]+"

func validateName(name string) error {
	if !isIdentifier(name) {
		return fmt.Errorf("only %q are allowed", identifierPattern)
	}
	return nil
}
