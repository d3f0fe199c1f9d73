package compiler

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"

	"github.com/dbake/dbake/compiler/ir"
)

// block is a target or group as it stands in a file, and what became of it.
type block struct {
	*hcl.Block
	// Set by readBlock.
	attributes []*attribute    // those the type knows, in order of appearance
	loading    []*attribute    // the same in the order in which their dependencies are resolved
	schemaErr  hcl.Diagnostics // what is wrong with the shape of the block
	// Set by nameBlock.
	instances []*instance // one, or one for each combination of a matrix
	names     []string    // of the instances
}

// attribute is an attribute of a block.
type attribute struct {
	*hcl.Attribute
	expr   *expression
	ranges map[string]ir.Range // cache of entryRanges
}

// instance is a block in one scope: the block itself, or one combination of its
// matrix. Exactly one of target and group is set.
type instance struct {
	scope  *hcl.EvalContext
	target *definition
	group  *ir.Group
	// done and started hold names of attributes: those whose value is known, and
	// those whose evaluation by a reference has begun.
	done, started map[string]struct{}
	// resolving is set while the whole block is evaluated.
	resolving bool
}

func newBlock(b *hcl.Block) *block { return &block{Block: b} }

// readBlock finds the attributes of a block.
func (e *evaluator) readBlock(b *block) {
	schema := targetSchema
	if b.Type == blockGroup {
		schema = groupSchema
	}
	content, _, diags := b.Body.PartialContent(schema)
	b.schemaErr = diags
	for _, a := range sortedAttributes(content.Attributes) {
		x := e.analyze(a.Expr)
		x.references(e.refs.note)
		b.attributes = append(b.attributes, &attribute{Attribute: a, expr: x})
	}
	// docker buildx has them in a small map, which it walks in the order in which
	// they were put in most of the time: by name, or in JSON by appearance. It
	// shows in which attribute is to blame for a cycle.
	b.loading = b.attributes
	if _, native := b.Body.(*hclsyntax.Body); native {
		b.loading = slices.SortedFunc(slices.Values(b.attributes), func(x, y *attribute) int {
			return strings.Compare(x.Name, y.Name)
		})
	}
}

func (b *block) attribute(name string) *attribute {
	for _, a := range b.attributes {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// sortedAttributes returns attributes in order of appearance.
func sortedAttributes(attrs hcl.Attributes) []*hcl.Attribute {
	list := make([]*hcl.Attribute, 0, len(attrs))
	for _, a := range attrs {
		list = append(list, a)
	}
	slices.SortFunc(list, func(a, b *hcl.Attribute) int { return a.Range.Start.Byte - b.Range.Start.Byte })
	return list
}

// nameBlock expands the matrix of a block and names its instances.
func (e *evaluator) nameBlock(b *block) error {
	e.refs.meet(b.Type)
	scopes, err := e.scopes(b)
	if err != nil {
		return err
	}
	label := b.Labels[0]
	seen := make(map[string]struct{}, len(scopes))
	for _, scope := range scopes {
		if err := validateName(label); err != nil {
			return err
		}
		name, err := e.instanceName(b, scope)
		if err != nil {
			return err
		}
		if err := validateName(name); err != nil {
			return err
		}
		i := &instance{scope: scope, done: map[string]struct{}{}, started: map[string]struct{}{}}
		if b.Type == blockGroup {
			i.group = &ir.Group{Name: name, Range: sourceRange(b.DefRange)}
		} else {
			i.target = &definition{name: name, origins: map[string]ir.Range{"": sourceRange(b.DefRange)}}
		}
		b.instances = append(b.instances, i)
		b.names = append(b.names, name)
	}
	for _, name := range b.names {
		if _, dup := seen[name]; dup {
			return fmt.Errorf("duplicate name %q", name)
		}
		seen[name] = struct{}{}
	}
	return nil
}

// scopes returns the scopes a block is to be evaluated in: the root, or one for
// each combination of the values of its matrix, in which the keys are variables.
// Keys vary in alphabetical order, the first one fastest.
func (e *evaluator) scopes(b *block) ([]*hcl.EvalContext, error) {
	if _, _, diags := b.Body.PartialContent(&hcl.BodySchema{}); diags.HasErrors() {
		return nil, diags // no body at all
	}
	attr := b.attribute("matrix")
	if attr == nil {
		return []*hcl.EvalContext{e.root}, nil
	}
	if b.Type == blockGroup {
		return nil, errors.New("matrix is not supported for groups")
	}
	if diags := e.load(e.root, attr.expr, nil, true); diags.HasErrors() {
		return nil, diags
	}
	matrix, diags := e.value(attr.expr, e.root)
	if diags.HasErrors() {
		return nil, diags
	}
	if t := matrix.Type(); !t.IsMapType() && !t.IsObjectType() || !matrix.IsKnown() {
		return nil, errors.New("matrix must be a map")
	}
	if matrix.IsNull() {
		return []*hcl.EvalContext{e.root}, nil
	}

	axes := matrix.AsValueMap()
	combinations := []map[string]cty.Value{{}}
	for _, key := range ir.SortedKeys(axes) {
		if !axes[key].CanIterateElements() {
			return nil, errors.New("matrix values must be a list")
		}
		if len(combinations)*axes[key].LengthInt() > maxCombinations {
			return nil, errTooManyCombinations
		}
		var next []map[string]cty.Value
		for it := axes[key].ElementIterator(); it.Next(); {
			_, v := it.Element()
			for _, c := range combinations {
				extended := make(map[string]cty.Value, len(c)+1)
				for k, v := range c {
					extended[k] = v
				}
				extended[key] = v
				next = append(next, extended)
			}
		}
		combinations = next
	}
	if len(axes) == 0 {
		return []*hcl.EvalContext{e.root}, nil
	}
	scopes := make([]*hcl.EvalContext, len(combinations))
	for i, c := range combinations {
		scopes[i] = e.root.NewChild()
		scopes[i].Variables = c
	}
	return scopes, nil
}

// instanceName returns the name of an instance: what the attribute "name" gives,
// or the label.
func (e *evaluator) instanceName(b *block, scope *hcl.EvalContext) (string, error) {
	attr := b.attribute("name")
	if attr == nil {
		return b.Labels[0], nil
	}
	if b.Type == blockGroup {
		return "", errors.New("name is not supported for groups")
	}
	if b.attribute("matrix") == nil {
		return "", errors.New("name requires matrix")
	}
	if diags := e.load(scope, attr.expr, nil, true); diags.HasErrors() {
		return "", diags
	}
	v, diags := e.value(attr.expr, scope)
	if diags.HasErrors() {
		return "", diags
	}
	v, err := convert.Convert(v, cty.String)
	if err != nil {
		return "", err
	}
	if v.IsNull() || !v.IsKnown() {
		return "", errors.New("name must be a string")
	}
	return v.AsString(), nil
}

// resolveBlock evaluates all instances of a block: the attribute of that name, or
// for "" all that are not yet known. What is known becomes visible to references.
//
// An attribute asked for by reference while its own evaluation by reference has
// not ended is a cycle. The value that becomes visible under a name is that of
// the block resolved last, so with several blocks of one name references see one
// of them, as written: neither merged nor inherited.
func (e *evaluator) resolveBlock(b *block, only string) error {
	defer e.at.leave(e.at.enter(b.DefRange))
	for i, inst := range b.instances {
		if only != "" {
			if _, ok := inst.done[only]; ok {
				return nil
			}
			if _, ok := inst.started[only]; ok {
				return fmt.Errorf("reference cycle not allowed for %s.%s.%s", b.Type, b.names[i], only)
			}
			inst.started[only] = struct{}{}
		}
		if b.schemaErr.HasErrors() && (only == "" || b.Type == blockTarget) {
			return b.schemaErr
		}
		if only == "" {
			// A block that refers to itself as a whole, directly or by another.
			if inst.resolving {
				return fmt.Errorf("reference cycle not allowed for %s.%s", b.Type, b.names[i])
			}
			inst.resolving = true
		}
		err := e.resolveInstance(b, inst, only)
		if only == "" {
			inst.resolving = false
		}
		if err != nil {
			return err
		}
		e.refs.publish(blockKey{b.Type, b.names[i]}, inst)
	}
	return nil
}

func (e *evaluator) resolveInstance(b *block, inst *instance, only string) error {
	wanted := func(a *attribute) bool {
		_, done := inst.done[a.Name]
		return !done && (only == "" || a.Name == only) && !isStructural(a.Name)
	}
	for _, a := range b.loading {
		if !wanted(a) || a.Name == dependsOnAttribute {
			continue
		}
		if diags := e.load(inst.scope, a.expr, nil, true); diags.HasErrors() {
			return diags
		}
	}
	var diags hcl.Diagnostics
	var decoded []string
	for _, a := range b.attributes {
		if !wanted(a) {
			continue
		}
		decoded = append(decoded, a.Name)
		if a.Name == dependsOnAttribute {
			e.decodeDependsOn(inst, a)
			continue
		}
		diags = append(diags, e.decode(inst, a)...)
	}
	if diags.HasErrors() {
		return diags
	}
	for _, name := range decoded {
		inst.done[name] = struct{}{}
	}
	if only != "" {
		inst.done[only] = struct{}{}
	}
	return nil
}

// isStructural reports whether an attribute shapes its block and is no value of
// it.
func isStructural(name string) bool { return name == "matrix" || name == "name" }

// decode evaluates an attribute into its field.
func (e *evaluator) decode(inst *instance, a *attribute) hcl.Diagnostics {
	v, diags := e.value(a.expr, inst.scope)
	if inst.group != nil {
		return append(diags, decodeGroupAttribute(inst.group, a, v)...)
	}
	known := targetAttribute(a.Name)
	d := known.decode(inst.target, v, a.expr)
	if diags = append(diags, d...); diags.HasErrors() {
		return diags
	}
	if v.IsNull() {
		return diags // sets nothing
	}
	inst.target.origins[a.Name] = sourceRange(a.Expr.Range())
	if known.entries {
		if a.ranges == nil {
			a.ranges = entryRanges(a)
		}
		for path, rng := range a.ranges {
			inst.target.origins[path] = rng
		}
	}
	return diags
}

// decodeDependsOn evaluates the attribute that only dbake knows. Other tools ignore
// it whatever it holds, so what makes no sense is no error: it is kept for the
// strict mode to report.
func (e *evaluator) decodeDependsOn(inst *instance, a *attribute) {
	diags := e.load(inst.scope, a.expr, nil, true)
	if !diags.HasErrors() {
		diags = e.decode(inst, a)
	}
	if diags.HasErrors() {
		inst.target.dependsOn = nil
		e.ignored = append(e.ignored, diags...)
	}
}

// entryRanges finds the places of the entries of an attribute written as an
// object, by path, as args.FOO. Entries with computed keys are not among them.
func entryRanges(a *attribute) map[string]ir.Range {
	ranges := map[string]ir.Range{}
	pairs, diags := hcl.ExprMap(a.Expr)
	if diags.HasErrors() {
		return ranges
	}
	for _, p := range pairs {
		var key string
		if d := decodeLiteral(p.Key, cty.String, &key); !d.HasErrors() {
			ranges[a.Name+"."+key] = sourceRange(p.Value.Range())
		}
	}
	return ranges
}

func decodeGroupAttribute(g *ir.Group, a *attribute, v cty.Value) hcl.Diagnostics {
	switch a.Name {
	case "description":
		return decodeValue(v, a.Expr, cty.String, &g.Description)
	default:
		return decodeValue(v, a.Expr, cty.List(cty.String), &g.Targets)
	}
}
