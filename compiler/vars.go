package compiler

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/ext/typeexpr"
	"github.com/tonistiigi/go-csvvalue"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/gocty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/dbake/dbake/compiler/ir"
)

// jsonSuffix is added to the name of a variable to give its value as JSON.
const jsonSuffix = "_JSON"

// variable is a variable block.
type variable struct {
	name        string
	description string
	typ         hcl.Expression // nil: not typed
	fallback    *expression    // the default; nil: none
	validations []validation
	block       *hcl.Block

	// constraint is the declared type, set by resolveValue; NilType when none was
	// declared.
	constraint cty.Type
}

// validation is one rule of a variable. Absent parts are nil.
type validation struct {
	condition, message hcl.Expression
	missing            hcl.Range // where an absent part would stand
}

// readVariable takes in a variable block. Its unknown attributes are ignored,
// those of its validations are not.
func (e *evaluator) readVariable(b *hcl.Block) hcl.Diagnostics {
	content, _, diags := b.Body.PartialContent(variableSchema)
	v := &variable{name: b.Labels[0], block: b}
	if a := content.Attributes["type"]; a != nil {
		v.typ = a.Expr
	}
	if a := content.Attributes["description"]; a != nil {
		diags = append(diags, decodeLiteral(a.Expr, cty.String, &v.description)...)
	}
	for _, vb := range content.Blocks {
		rule, d := vb.Body.Content(validationSchema)
		sortDiagnostics(d)
		diags = append(diags, d...)
		r := validation{missing: vb.Body.MissingItemRange()}
		if a := rule.Attributes["condition"]; a != nil {
			r.condition = a.Expr
		}
		if a := rule.Attributes["error_message"]; a != nil {
			r.message = a.Expr
		}
		v.validations = append(v.validations, r)
	}
	if a := content.Attributes["default"]; a != nil {
		v.fallback = e.analyze(a.Expr)
	}
	if !e.reserved(v.name) {
		e.variables.set(v.name, v)
	}
	return diags
}

// decodeLiteral evaluates an expression that may use neither variables nor
// functions into dst.
func decodeLiteral(expr hcl.Expression, want cty.Type, dst any) hcl.Diagnostics {
	v, diags := expr.Value(nil)
	return append(diags, decodeValue(v, expr, want, dst)...)
}

// decodeValue converts v, the value of expr, to a type and stores it in dst.
func decodeValue(v cty.Value, expr hcl.Expression, want cty.Type, dst any) hcl.Diagnostics {
	v, err := convertValue(v, want)
	if err == nil {
		err = gocty.FromCtyValue(v, dst)
	}
	if err != nil {
		return unsuitable(expr, err)
	}
	return nil
}

// convertValue is convert.Convert whose error, where several entries of an object
// do not fit, is about the first of them by name: the library takes any.
func convertValue(v cty.Value, want cty.Type) (cty.Value, error) {
	if list, ok := listOfStrings(v); ok && want.Equals(list.Type()) {
		return list, nil
	}
	out, err := convert.Convert(v, want)
	if err == nil || !v.Type().IsObjectType() || !want.IsMapType() || !v.IsKnown() || v.IsNull() {
		return out, err
	}
	for _, name := range ir.SortedKeys(v.Type().AttributeTypes()) {
		if _, err := convert.Convert(cty.ObjectVal(map[string]cty.Value{name: v.GetAttr(name)}), want); err != nil {
			return cty.NilVal, err
		}
	}
	return out, err
}

// listOfStrings returns the list that v is, a tuple of strings. The library compares the type
// of each with that of each other one, which takes half a second for a group of 5,000 targets.
func listOfStrings(v cty.Value) (cty.Value, bool) {
	if !v.Type().IsTupleType() || v.IsMarked() || v.IsNull() || !v.IsKnown() || v.LengthInt() == 0 {
		return cty.NilVal, false
	}
	list := v.AsValueSlice()
	for _, e := range list {
		if e.Type() != cty.String {
			return cty.NilVal, false
		}
	}
	return cty.ListVal(list), true
}

func unsuitable(expr hcl.Expression, err error) hcl.Diagnostics {
	subject, context := expr.StartRange(), expr.Range()
	return hcl.Diagnostics{{
		Severity: hcl.DiagError,
		Summary:  "Unsuitable value type",
		Detail:   fmt.Sprintf("Unsuitable value: %s", err),
		Subject:  &subject,
		Context:  &context,
	}}
}

// resolveVariables evaluates all variables.
func (e *evaluator) resolveVariables() hcl.Diagnostics {
	for _, name := range e.variables.names {
		if err := e.resolveValue(e.root, name); err != nil {
			rng := e.variables.byKey[name].block.Body.MissingItemRange()
			return diagnose("Invalid value", err, rng, rng)
		}
	}
	return nil
}

// resolveValue evaluates the variable or global attribute of that name, if it is
// not yet known in scope.
//
// A global attribute is evaluated in the scope that asks for it first, which may
// be an instance of a matrix; its value is the same for everybody from then on.
func (e *evaluator) resolveValue(scope *hcl.EvalContext, name string) error {
	if _, ok := e.root.Variables[name]; ok {
		return nil
	}
	if _, ok := scope.Variables[name]; ok {
		return nil
	}
	_, isGlobal := e.globals.get(name)
	if _, isVariable := e.variables.get(name); !isGlobal && !isVariable {
		return fmt.Errorf("variable %q does not exist: %w", name, errUndefined)
	}
	key := scopedName{scope, name}
	if _, ok := e.startedValues[key]; ok {
		return fmt.Errorf("variable cycle not allowed for %s", name)
	}
	e.startedValues[key] = struct{}{}

	v, err := e.evaluateValue(scope, name)
	if err != nil {
		return err
	}
	e.root.Variables[name] = v
	return nil
}

func (e *evaluator) evaluateValue(scope *hcl.EvalContext, name string) (cty.Value, error) {
	vr, declared := e.variables.get(name)
	typ, typed := cty.DynamicPseudoType, false
	var def *expression
	if g, ok := e.globals.get(name); ok {
		def = g.expr
	} else {
		def, scope = vr.fallback, e.root
		var diags hcl.Diagnostics
		if typ, typed, diags = typeConstraint(vr.typ); diags.HasErrors() {
			return cty.NilVal, diags
		}
		if typed {
			vr.constraint = typ
		}
	}

	value := cty.NullVal(typ)
	if def != nil {
		if diags := e.load(scope, def, nil, true); diags.HasErrors() {
			return cty.NilVal, diags
		}
		v, diags := e.value(def, scope)
		if diags.HasErrors() {
			return cty.NilVal, diags
		}
		v, err := convertValue(v, typ)
		if err != nil {
			return cty.NilVal, fmt.Errorf("invalid type %s for variable %s default value: %w", typ.FriendlyName(), name, err)
		}
		value = v
	} else if !typed {
		value = cty.StringVal("")
	}
	if !declared {
		return value, nil
	}
	text, isJSON, ok := e.override(name, typed)
	if !ok {
		return value, nil
	}
	return readOverride(name, text, isJSON, typ, typed, def != nil, value)
}

// override returns the value given for a variable from outside of the files, and
// whether it is JSON. A typed variable prefers the JSON form.
func (e *evaluator) override(name string, typed bool) (text string, isJSON, ok bool) {
	text, ok = e.lookup(name)
	if ok && !typed {
		return text, false, true
	}
	jsonName := name + jsonSuffix
	_, declared := e.variables.get(jsonName)
	_, builtin := e.builtins[jsonName]
	if !declared && !builtin {
		if j, found := e.lookup(jsonName); found {
			return j, true, true
		}
	}
	return text, false, ok
}

// readOverride returns the value of a variable for which text was given: read as
// its declared type, else as the type of its default.
func readOverride(name, text string, isJSON bool, typ cty.Type, typed, hasDefault bool, value cty.Value) (cty.Value, error) {
	switch {
	case typed && isJSON:
		v, err := unmarshalJSON([]byte(text), typ)
		if err != nil {
			return cty.NilVal, fmt.Errorf("failed to convert variable %s from JSON: %w", name, err)
		}
		return v, nil
	case typ.IsListType(), typ.IsSetType(), typ.IsTupleType(), typ.IsMapType():
		v, err := valueFromCSV(name, text, typ)
		if err != nil {
			return cty.NilVal, fmt.Errorf("failed to convert variable %s from CSV: %w", name, err)
		}
		return v, nil
	case typed && typ.IsPrimitiveType():
		return primitive(name, text, typ)
	case typed:
		return cty.NilVal, fmt.Errorf("unsupported type %s for variable %s", typ.FriendlyName(), name)
	case !hasDefault, value.Type().Equals(cty.DynamicPseudoType):
		return cty.StringVal(text), nil
	case value.Type().IsPrimitiveType():
		return primitive(name, text, value.Type())
	}
	return cty.NilVal, fmt.Errorf("unsupported type %s for variable %s", value.Type().FriendlyName(), name)
}

// unmarshalJSON reads a value of a type. The library fails on a tuple that is too
// short by a panic.
func unmarshalJSON(data []byte, typ cty.Type) (v cty.Value, err error) {
	defer func() {
		if recover() != nil {
			v, err = cty.NilVal, fmt.Errorf("%s required", typ.FriendlyName())
		}
	}()
	return ctyjson.Unmarshal(data, typ)
}

// typeConstraint returns the type that expr declares, and whether it declares
// one: neither absence nor null does.
func typeConstraint(expr hcl.Expression) (typ cty.Type, typed bool, diags hcl.Diagnostics) {
	if expr == nil {
		return cty.DynamicPseudoType, false, nil
	}
	typ, diags = typeexpr.TypeConstraint(expr)
	if diags.HasErrors() {
		if v, d := expr.Value(nil); !d.HasErrors() && v.IsNull() {
			return cty.DynamicPseudoType, false, nil
		}
		return typ, false, diags
	}
	return typ, !typ.Equals(cty.DynamicPseudoType) || hcl.ExprAsKeyword(expr) == "any", nil
}

// primitive reads text as a string, number or bool.
func primitive(name, text string, typ cty.Type) (cty.Value, error) {
	switch typ {
	case cty.String:
		return cty.StringVal(text), nil
	case cty.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return cty.NilVal, fmt.Errorf("failed to parse %s as bool: %w", name, err)
		}
		return cty.BoolVal(b), nil
	case cty.Number:
		n, err := strconv.ParseFloat(text, 64)
		if err == nil && (math.IsNaN(n) || math.IsInf(n, 0)) {
			err = errors.New("invalid number value")
		}
		if err != nil {
			return cty.NilVal, fmt.Errorf("failed to parse %s as number: %w", name, err)
		}
		return cty.NumberVal(big.NewFloat(n)), nil
	}
	return cty.NilVal, fmt.Errorf("%s of type %s is not a primitive", name, typ.FriendlyName())
}

// valueFromCSV reads text as a list, set, tuple or map of primitives. The items
// are separated by commas; those of a map are KEY:VALUE.
func valueFromCSV(name, text string, typ cty.Type) (cty.Value, error) {
	fields, err := csvvalue.Fields(text, nil)
	if err != nil {
		err = fmt.Errorf("failed to parse %s as CSV: %w", text, err)
		if text == "" {
			err = fmt.Errorf("%w. %s is set and empty: unset it to have the default, or set %[2]s%s to [] or {} to have nothing", err, name, jsonSuffix)
		}
		return cty.NilVal, err
	}
	element := func(text string, elem cty.Type) (cty.Value, error) {
		if !elem.IsPrimitiveType() {
			return cty.NilVal, fmt.Errorf("unsupported type %s for CSV specification", typ.FriendlyName())
		}
		v, err := primitive(name, text, elem)
		if err != nil {
			preposition := "of"
			if typ.IsMapType() {
				preposition = "from"
			}
			return cty.NilVal, fmt.Errorf("failed to parse element %s type %s: %w", preposition, typ.FriendlyName(), err)
		}
		return v, nil
	}

	if typ.IsTupleType() {
		types := typ.TupleElementTypes()
		if len(types) != len(fields) {
			return cty.NilVal, fmt.Errorf("%s expects %d elements but only %d provided", typ.FriendlyName(), len(types), len(fields))
		}
		values := make([]cty.Value, len(fields))
		for i, f := range fields {
			if values[i], err = element(f, types[i]); err != nil {
				return cty.NilVal, err
			}
		}
		return cty.TupleVal(values), nil
	}

	elem := typ.ElementType()
	if !elem.IsPrimitiveType() {
		return cty.NilVal, fmt.Errorf("unsupported type %s for CSV specification", typ.FriendlyName())
	}
	if typ.IsMapType() {
		return mapFromCSV(name, fields, elem, element)
	}
	values := make([]cty.Value, len(fields))
	for i, f := range fields {
		if values[i], err = element(f, elem); err != nil {
			return cty.NilVal, err
		}
	}
	switch {
	case typ.IsSetType() && len(values) == 0:
		return cty.SetValEmpty(elem), nil
	case typ.IsSetType():
		return cty.SetVal(values), nil
	case len(values) == 0:
		return cty.ListValEmpty(elem), nil
	}
	return cty.ListVal(values), nil
}

func mapFromCSV(name string, fields []string, elem cty.Type, element func(string, cty.Type) (cty.Value, error)) (cty.Value, error) {
	parser := csvvalue.Parser{Comma: ':'}
	values := make(map[string]cty.Value, len(fields))
	for _, f := range fields {
		pair, err := parser.Fields(f, nil)
		if err != nil {
			return cty.NilVal, fmt.Errorf("failed to parse %s as k/v for variable %s: %w", f, name, err)
		}
		if len(pair) != 2 {
			return cty.NilVal, fmt.Errorf("expected one k/v pair but got %d pieces from %s", len(pair), f)
		}
		v, err := element(pair[1], elem)
		if err != nil {
			return cty.NilVal, err
		}
		values[pair[0]] = v
	}
	if len(values) == 0 {
		return cty.MapValEmpty(elem), nil
	}
	return cty.MapVal(values), nil
}

// validateVariables checks the rules of all variables. Conditions see the
// variables, the built-in functions, and what those needed.
func (e *evaluator) validateVariables() hcl.Diagnostics {
	var diags hcl.Diagnostics
	for _, name := range e.variables.names {
		for _, rule := range e.variables.byKey[name].validations {
			before := e.at.enter(rule.place())
			diags = append(diags, rule.check(e.root)...)
			e.at.leave(before)
		}
	}
	return diags
}

// place is where the rule stands.
func (r validation) place() hcl.Range {
	if r.condition == nil {
		return r.missing
	}
	return r.condition.Range()
}

func (r validation) check(scope *hcl.EvalContext) hcl.Diagnostics {
	subject := r.place()
	result := cty.NullVal(cty.DynamicPseudoType)
	if r.condition != nil {
		var diags hcl.Diagnostics
		if result, diags = r.condition.Value(scope); diags.HasErrors() {
			return diags
		}
	}
	problem := func(summary, detail string) hcl.Diagnostics {
		return hcl.Diagnostics{{Severity: hcl.DiagError, Summary: summary, Detail: detail, Subject: &subject}}
	}
	if result.IsNull() {
		return problem("Invalid condition result", "Condition expression must return either true or false, not null.")
	}
	result, err := convert.Convert(result, cty.Bool)
	if err == nil && !result.IsKnown() {
		err = errUnknownValue
	}
	if err != nil {
		return problem("Invalid condition result", fmt.Sprintf("Invalid condition result value: %s", err))
	}
	if result.True() {
		return nil
	}
	text := "This check failed, but has an invalid error message."
	if r.message != nil {
		message, diags := r.message.Value(scope)
		if diags.HasErrors() {
			return diags
		}
		if message, err := convert.Convert(message, cty.String); err == nil && message.IsKnown() && !message.IsNull() {
			text = message.AsString()
		}
	}
	return problem("Validation failed", text)
}

// shownVariable is a variable as --list shows it.
type shownVariable struct {
	Name        string  `json:"name"`
	Description string  `json:"description,omitempty"`
	Type        string  `json:"type,omitempty"`
	Value       *string `json:"value,omitempty"`
}

// shownVariables returns the resolved variables.
func (e *evaluator) shownVariables() []shownVariable {
	list := make([]shownVariable, 0, len(e.variables.names))
	for _, name := range e.variables.names {
		v := e.variables.byKey[name]
		s := shownVariable{Name: name, Description: v.description}
		if v.constraint != cty.NilType {
			s.Type = v.constraint.FriendlyNameForConstraint()
		}
		if value, ok := e.root.Variables[name]; ok && !value.IsNull() {
			text := v.show(value)
			s.Value = &text
		}
		list = append(list, s)
	}
	return list
}

// show returns the value of v for people: strings bare, everything with
// structure as JSON.
func (v *variable) show(value cty.Value) string {
	typ := v.constraint
	if typ == cty.NilType {
		if value.Type().IsPrimitiveType() {
			if s, err := convert.Convert(value, cty.String); err == nil {
				return s.AsString()
			}
			return ""
		}
		typ = value.Type()
	}
	b, err := ctyjson.Marshal(value, typ)
	if err != nil {
		return ""
	}
	if typ.Equals(cty.String) {
		return strings.Trim(string(b), `"`)
	}
	return string(b)
}
