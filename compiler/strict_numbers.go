package compiler

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"

	"github.com/dbake/dbake/compiler/ir"
)

var decimal = pattern(`^-?[0-9]+\.[0-9]*0$`)

// losesZero reports whether a number is written with zeros at the end that are not
// there any more once it is text, as those of version 3.10.
func losesZero(number string) bool { return decimal().MatchString(number) }

// withoutZeros is what becomes of such a number.
func withoutZeros(number string) string {
	return strings.TrimSuffix(strings.TrimRight(number, "0"), ".")
}

func (w *warner) warnShortened(r ir.Range, number string) {
	w.warn(r, "Number loses a zero", fmt.Sprintf("The number %s becomes %q as text: write %q in quotes if it is a version.", number, withoutZeros(number), number))
}

// numbers finds such numbers in the expressions of bake files, and in the values
// that variables were given.
func (w *warner) numbers(e *evaluator) {
	for _, name := range e.variables.names {
		if v := e.variables.byKey[name]; v.fallback != nil {
			w.numbersIn(v.fallback.Expression)
		}
	}
	for _, name := range e.globals.names {
		w.numbersIn(e.globals.byKey[name].Expr)
	}
	for _, b := range e.blocks {
		for _, a := range b.attributes {
			w.numbersIn(a.Expr)
		}
	}
	for _, name := range e.variables.names {
		v := e.variables.byKey[name]
		value, ok := e.root.Variables[name]
		text, given := e.lookup(name)
		if ok && given && losesZero(text) && value.Type() == cty.Number {
			w.warn(sourceRange(v.block.LabelRanges[0]), "Number loses a zero",
				fmt.Sprintf("%s is a number: the value %s that it was given becomes %q as text. Declare it with type = string, or with a default in quotes.", name, text, withoutZeros(text)))
		}
	}
}

func (w *warner) numbersIn(expr hcl.Expression) {
	node, ok := expr.(hclsyntax.Node)
	if !ok {
		w.numbersInJSON(expr)
		return
	}
	// The walk has no errors but those of the function.
	_ = hclsyntax.VisitAll(node, func(n hclsyntax.Node) hcl.Diagnostics {
		if l, ok := n.(*hclsyntax.LiteralValueExpr); ok && l.Val.Type() == cty.Number {
			w.number(l.Range())
		}
		return nil
	})
}

// numbersInJSON finds numbers written as such, in lists and objects too.
func (w *warner) numbersInJSON(expr hcl.Expression) {
	if list, diags := hcl.ExprList(expr); !diags.HasErrors() {
		for _, x := range list {
			w.numbersInJSON(x)
		}
		return
	}
	if entries, diags := hcl.ExprMap(expr); !diags.HasErrors() {
		for _, p := range entries {
			w.numbersInJSON(p.Value)
		}
		return
	}
	w.number(expr.Range())
}

func (w *warner) number(r hcl.Range) {
	if text := string(w.sources.bytes(r)); losesZero(text) {
		w.warnShortened(sourceRange(r), text)
	}
}
