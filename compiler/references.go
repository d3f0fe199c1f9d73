package compiler

import (
	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
)

// blockKey is a reference to a block, as target.NAME.
type blockKey struct{ typ, name string }

// references is what expressions can know of targets and groups, as target.NAME.
type references struct {
	// blocks finds the blocks of a type by the names they resolved to. It is empty
	// until the names of all blocks are known, so names cannot refer to targets.
	blocks map[blockKey][]*block
	// known is true once references to targets and groups are recognised; before,
	// "target" is a variable like any other.
	known   bool
	wanted  map[blockKey]struct{} // names that some expression refers to
	values  map[blockKey]cty.Value
	visible map[string]int // per type, how many values were ever visible; present once a block was seen
}

func newReferences() references {
	return references{
		blocks:  map[blockKey][]*block{},
		wanted:  map[blockKey]struct{}{},
		values:  map[blockKey]cty.Value{},
		visible: map[string]int{},
	}
}

// note takes in that an expression refers to a name.
func (r *references) note(typ, name string) {
	r.wanted[blockKey{typ, name}] = struct{}{}
}

// meet takes in that there is a block of a type.
func (r *references) meet(typ string) {
	if _, ok := r.visible[typ]; !ok {
		r.visible[typ] = 0
	}
}

// publish makes what is known of an instance visible to references. Names that no
// expression refers to are only counted.
func (r *references) publish(key blockKey, inst *instance) {
	r.visible[key.typ]++
	if _, ok := r.wanted[key]; !ok {
		return
	}
	if inst.group != nil {
		r.values[key] = cty.ObjectVal(map[string]cty.Value{
			"name":        cty.StringVal(inst.group.Name),
			"description": cty.StringVal(inst.group.Description),
			"targets":     stringsValue(inst.group.Targets),
		})
		return
	}
	r.values[key] = inst.target.value()
}

// in returns scope, which is below root, with the values of the targets and groups that x
// refers to. Only these are put in, so that the cost of an evaluation does not
// grow with the number of targets.
func (r *references) in(x *expression, scope, root *hcl.EvalContext) *hcl.EvalContext {
	var child *hcl.EvalContext
	for _, typ := range []string{blockTarget, blockGroup} {
		count, seen := r.visible[typ]
		if !seen || !refersTo(x, typ) || shadowed(scope, root, typ) {
			continue
		}
		attrs := map[string]cty.Value{}
		x.references(func(t, name string) {
			if v, ok := r.values[blockKey{t, name}]; ok && t == typ {
				attrs[name] = v
			}
		})
		v := cty.ObjectVal(attrs)
		if count == 0 {
			v = cty.MapValEmpty(cty.Map(cty.String))
		}
		if child == nil {
			child = scope.NewChild()
			child.Variables = map[string]cty.Value{}
		}
		child.Variables[typ] = v
	}
	if child == nil {
		return scope
	}
	return child
}

func refersTo(x *expression, root string) bool {
	for _, v := range x.variables {
		if v.RootName() == root {
			return true
		}
	}
	return false
}

// shadowed reports whether a matrix key of scope has that name.
func shadowed(scope, root *hcl.EvalContext, name string) bool {
	for ; scope != nil && scope != root; scope = scope.Parent() {
		if _, ok := scope.Variables[name]; ok {
			return true
		}
	}
	return false
}
