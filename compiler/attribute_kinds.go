package compiler

import (
	"errors"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/gocty"

	"github.com/dbake/dbake/compiler/ir"
)

// plain returns a decoder that converts to a type and stores the result.
func plain[T any](typ cty.Type, field func(*definition) *T) decoder {
	return func(t *definition, v cty.Value, expr hcl.Expression) hcl.Diagnostics {
		return decodeValue(v, expr, typ, field(t))
	}
}

// stringShow, boolShow, listShow and mapShow show the plain attributes to references.
func stringShow(field func(*definition) **string) func(*definition) cty.Value {
	return func(t *definition) cty.Value { return stringValue(*field(t)) }
}

func boolShow(field func(*definition) **bool) func(*definition) cty.Value {
	return func(t *definition) cty.Value {
		if b := *field(t); b != nil {
			return cty.BoolVal(*b)
		}
		return cty.NullVal(cty.Bool)
	}
}

func listShow(field func(*definition) *[]string) func(*definition) cty.Value {
	return func(t *definition) cty.Value { return stringsValue(*field(t)) }
}

func mapShow(field func(*definition) *map[string]*string) func(*definition) cty.Value {
	return func(t *definition) cty.Value {
		m := *field(t)
		if m == nil {
			return cty.NullVal(cty.Map(cty.String))
		}
		values := make(map[string]cty.Value, len(m))
		for k, v := range m {
			values[k] = stringValue(v)
		}
		return mapOrEmpty(values)
	}
}

// elements returns a decoder of a list whose items are more than strings, and what
// shows it; shared is elements for a list that is held by pointers.
func elements[T any](decode func(cty.Value) ([]T, error), show func([]T) cty.Value, field func(*definition) *[]T) (decoder, func(*definition) cty.Value) {
	return func(t *definition, v cty.Value, expr hcl.Expression) hcl.Diagnostics {
		return decodeComposite(v, expr, decode, func(list []T) { *field(t) = list })
	}, func(t *definition) cty.Value { return show(*field(t)) }
}

func sharedList[T any](decode func(cty.Value) ([]T, error), show func([]T) cty.Value, field func(*definition) *[]*T) (decoder, func(*definition) cty.Value) {
	return func(t *definition, v cty.Value, expr hcl.Expression) hcl.Diagnostics {
		return decodeComposite(v, expr, decode, func(list []T) { *field(t) = pointers(list) })
	}, func(t *definition) cty.Value { return show(values(*field(t))) }
}

// pointers returns pointers to the elements of list, with the same room to grow.
func pointers[T any](list []T) []*T {
	if list == nil {
		return nil
	}
	out := make([]*T, len(list), cap(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// values is the inverse of pointers.
func values[T any](list []*T) []T {
	if list == nil {
		return nil
	}
	out := make([]T, len(list))
	for i, p := range list {
		out[i] = *p
	}
	return out
}

// decodeComposite decodes a value that has no type of its own. Unlike the plain
// attributes, it cannot be null.
func decodeComposite[T any](v cty.Value, expr hcl.Expression, decode func(cty.Value) (T, error), store func(T)) hcl.Diagnostics {
	switch {
	case !v.IsKnown():
		return unsuitable(expr, errUnknownValue)
	case v.IsNull():
		return unsuitable(expr, errors.New("null value is not allowed"))
	}
	out, err := decode(v)
	if err != nil {
		return unsuitable(expr, err)
	}
	store(out)
	return nil
}

var resourcesType = cty.ObjectWithOptionalAttrs(map[string]cty.Type{
	"memory": cty.String, "memory-swap": cty.String,
	"cpu-shares": cty.Number, "cpu-period": cty.Number, "cpu-quota": cty.Number,
	"cpuset-cpus": cty.String, "cpuset-mems": cty.String,
}, []string{"memory", "memory-swap", "cpu-shares", "cpu-period", "cpu-quota", "cpuset-cpus", "cpuset-mems"})

func decodeResources(v cty.Value) (*ir.Resources, error) {
	v, err := convert.Convert(v, resourcesType)
	if err != nil {
		return nil, err
	}
	r := &ir.Resources{}
	for name, field := range resourceStrings(r) {
		if err := decodeResource(v.GetAttr(name), field); err != nil {
			return nil, err
		}
	}
	for name, field := range resourceNumbers(r) {
		if err := decodeResource(v.GetAttr(name), field); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func decodeResource[T any](v cty.Value, field **T) error {
	if v.IsNull() || !v.IsKnown() {
		return nil
	}
	return gocty.FromCtyValue(v, field)
}

func resourceStrings(r *ir.Resources) map[string]**string {
	return map[string]**string{
		"memory": &r.Memory, "memory-swap": &r.MemorySwap,
		"cpuset-cpus": &r.CpusetCPUs, "cpuset-mems": &r.CpusetMems,
	}
}

func resourceNumbers(r *ir.Resources) map[string]**int64 {
	return map[string]**int64{
		"cpu-shares": &r.CPUShares, "cpu-period": &r.CPUPeriod, "cpu-quota": &r.CPUQuota,
	}
}

func resourcesValue(r *ir.Resources) cty.Value {
	if r == nil {
		return cty.NullVal(resourcesType.WithoutOptionalAttributesDeep())
	}
	attrs := map[string]cty.Value{}
	for name, field := range resourceStrings(r) {
		attrs[name] = stringValue(*field)
	}
	for name, field := range resourceNumbers(r) {
		attrs[name] = cty.NullVal(cty.Number)
		if *field != nil {
			attrs[name] = cty.NumberIntVal(**field)
		}
	}
	return cty.ObjectVal(attrs)
}

// value returns what references to the target see of it: its own attributes,
// those not set as null, lists of elements not set as empty lists.
func (t *definition) value() cty.Value {
	attrs := make(map[string]cty.Value, len(attributes)+1)
	attrs["name"] = cty.StringVal(t.name)
	for _, a := range attributes {
		if a.show != nil {
			attrs[a.name] = a.show(t)
		}
	}
	return cty.ObjectVal(attrs)
}

func stringValue(s *string) cty.Value {
	if s == nil {
		return cty.NullVal(cty.String)
	}
	return cty.StringVal(*s)
}

func stringsValue(list []string) cty.Value {
	switch {
	case list == nil:
		return cty.NullVal(cty.List(cty.String))
	case len(list) == 0:
		return cty.ListValEmpty(cty.String)
	}
	vals := make([]cty.Value, len(list))
	for i, s := range list {
		vals[i] = cty.StringVal(s)
	}
	return cty.ListVal(vals)
}

func contextsValue(m map[string]string) cty.Value {
	if m == nil {
		return cty.NullVal(cty.Map(cty.String))
	}
	values := make(map[string]cty.Value, len(m))
	for k, v := range m {
		values[k] = cty.StringVal(v)
	}
	return mapOrEmpty(values)
}

func mapOrEmpty(m map[string]cty.Value) cty.Value {
	if len(m) == 0 {
		return cty.MapValEmpty(cty.String)
	}
	return cty.MapVal(m)
}

// replaces merges an attribute whose last setting counts, replacesList such a list, adds
// a list whose items add up, addsEntries a map.
func replaces[T any](field func(*definition) **T) func(t, d *definition) {
	return func(t, d *definition) { replace(field(t), *field(d)) }
}

func replacesList[T any](field func(*definition) *[]T) func(t, d *definition) {
	return func(t, d *definition) { replaceList(field(t), *field(d)) }
}

func adds(field func(*definition) *[]string) func(t, d *definition) {
	return func(t, d *definition) { *field(t) = append(*field(t), *field(d)...) }
}

func addsEntries(field func(*definition) *map[string]*string) func(t, d *definition) {
	return func(t, d *definition) { setEntries(field(t), *field(d)) }
}

// distinct drops what a list says twice, and empty strings.
func distinct(field func(*definition) *[]string) func(*definition) {
	return func(t *definition) { *field(t) = dedupeStrings(*field(t)) }
}

func length(field func(*definition) *[]string) func(*definition) int {
	return func(t *definition) int { return len(*field(t)) }
}

// present, filled and filledMap report whether an attribute was set to something.
func present[T any](field func(*definition) **T) func(*definition) bool {
	return func(t *definition) bool { return *field(t) != nil }
}

func hasElements[T any](field func(*definition) *[]T) func(*definition) bool {
	return func(t *definition) bool { return len(*field(t)) > 0 }
}

func filledMap(field func(*definition) *map[string]*string) func(*definition) bool {
	return func(t *definition) bool { return len(*field(t)) > 0 }
}

func keysOf(field func(*definition) *map[string]*string) func(*definition) []string {
	return func(t *definition) []string { return ir.SortedKeys(*field(t)) }
}

// textKey, flagKey, listKey and entryKey are keys of --set for plain attributes.
func textKey(key string, field func(*definition) **string) setKey {
	return setKey{key, oneOverride, func(t *definition, _ string, o *override) error {
		value := o.value
		*field(t) = &value
		return nil
	}}
}

func flagKey(key string, field func(*definition) **bool) setKey {
	return setKey{key, oneOverride, func(t *definition, _ string, o *override) (err error) {
		*field(t), err = parseBoolOverride(key, o.value)
		return err
	}}
}

func listKey(key string, field func(*definition) *[]string) setKey {
	return setKey{key, listOverride, func(t *definition, _ string, o *override) error {
		*field(t) = o.over(*field(t))
		return nil
	}}
}

func entryKey(key string, field func(*definition) *map[string]*string) setKey {
	return setKey{key, entryOverride, func(t *definition, name string, o *override) error {
		value := o.value
		setEntries(field(t), map[string]*string{name: &value})
		return nil
	}}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}
