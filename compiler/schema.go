package compiler

import "github.com/hashicorp/hcl/v2"

// The block types of the HCL family.
const (
	blockTarget   = "target"
	blockGroup    = "group"
	blockVariable = "variable"
	blockFunction = "function"
)

// entitySchema finds the blocks that can be referred to, in every file.
var entitySchema = &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
	{Type: blockGroup, LabelNames: []string{"name"}},
	{Type: blockTarget, LabelNames: []string{"name"}},
}}

// definitionSchema finds the blocks that expressions may use.
var definitionSchema = &hcl.BodySchema{Blocks: []hcl.BlockHeaderSchema{
	{Type: blockFunction, LabelNames: []string{"name"}},
	{Type: blockVariable, LabelNames: []string{"name"}},
}}

var variableSchema = &hcl.BodySchema{
	Attributes: []hcl.AttributeSchema{{Name: "default"}, {Name: "description"}, {Name: "type"}},
	Blocks:     []hcl.BlockHeaderSchema{{Type: "validation"}},
}

var validationSchema = &hcl.BodySchema{
	Attributes: []hcl.AttributeSchema{{Name: "condition"}, {Name: "error_message"}},
}

var functionSchema = &hcl.BodySchema{
	Attributes: []hcl.AttributeSchema{{Name: "params"}, {Name: "result"}, {Name: "variadic_params"}},
}

// groupSchema lists what a group may hold; "matrix" and "name" are listed to be
// refused.
var groupSchema = &hcl.BodySchema{Attributes: []hcl.AttributeSchema{
	{Name: "description"},
	{Name: "matrix"},
	{Name: "name"},
	{Name: "targets", Required: true},
}}

// targetSchema lists what a target may hold. Everything else is ignored.
var targetSchema = func() *hcl.BodySchema {
	s := &hcl.BodySchema{Attributes: []hcl.AttributeSchema{{Name: "matrix"}, {Name: "name"}}}
	for _, a := range attributes {
		s.Attributes = append(s.Attributes, hcl.AttributeSchema{Name: a.name})
	}
	return s
}()
