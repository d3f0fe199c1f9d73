package compiler

import (
	"errors"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/gocty"

	"github.com/dbake/dbake/compiler/ir"
)

// targetAttr is what the language knows of an attribute of a target.
type targetAttr struct {
	name string
	// entries is true for attributes that are maps, whose entries have an origin
	// each.
	entries bool
	decode  func(t *definition, v cty.Value, expr hcl.Expression) hcl.Diagnostics
	// show returns the value that references see; nil hides the attribute.
	show func(t *definition) cty.Value
}

// targetAttributes are the attributes of a target, in the order in which they are
// printed.
var targetAttributes = []targetAttr{
	{name: "description",
		decode: plain(cty.String, func(t *definition) *string { return &t.description }),
		show:   func(t *definition) cty.Value { return cty.StringVal(t.description) }},
	listAttr("inherits", func(t *definition) *[]string { return &t.inherits }),
	listAttr("annotations", func(t *definition) *[]string { return &t.annotations }),
	compositeAttr("attest", decodeAttests, attestsValue, func(t *definition) *[]ir.Attest { return &t.attest }),
	stringAttribute("context", func(t *definition) **string { return &t.context }),
	{name: "contexts", entries: true,
		decode: plain(cty.Map(cty.String), func(t *definition) *map[string]string { return &t.contexts }),
		show:   func(t *definition) cty.Value { return contextsValue(t.contexts) }},
	stringAttribute("dockerfile", func(t *definition) **string { return &t.dockerfile }),
	stringAttribute("dockerfile-inline", func(t *definition) **string { return &t.dockerfileInline }),
	mapAttr("args", func(t *definition) *map[string]*string { return &t.args }),
	mapAttr("labels", func(t *definition) *map[string]*string { return &t.labels }),
	listAttr("tags", func(t *definition) *[]string { return &t.tags }),
	sharedAttr("cache-from", decodeCacheEntries, cacheEntriesValue, func(t *definition) *[]*ir.CacheEntry { return &t.cacheFrom }),
	compositeAttr("cache-to", decodeCacheEntries, cacheEntriesValue, func(t *definition) *[]ir.CacheEntry { return &t.cacheTo }),
	stringAttribute("target", func(t *definition) **string { return &t.stage }),
	sharedAttr("secret", decodeSecrets, secretsValue, func(t *definition) *[]*ir.Secret { return &t.secrets }),
	compositeAttr("ssh", decodeSSHs, sshsValue, func(t *definition) *[]ir.SSH { return &t.ssh }),
	listAttr("platforms", func(t *definition) *[]string { return &t.platforms }),
	sharedAttr("output", decodeOutputs, outputsValue, func(t *definition) *[]*ir.Output { return &t.outputs }),
	boolAttr("pull", func(t *definition) **bool { return &t.pull }),
	boolAttr("no-cache", func(t *definition) **bool { return &t.noCache }),
	stringAttribute("network", func(t *definition) **string { return &t.network }),
	listAttr("no-cache-filter", func(t *definition) *[]string { return &t.noCacheFilter }),
	stringAttribute("shm-size", func(t *definition) **string { return &t.shmSize }),
	listAttr("ulimits", func(t *definition) *[]string { return &t.ulimits }),
	{name: "resources", entries: true,
		decode: func(t *definition, v cty.Value, expr hcl.Expression) hcl.Diagnostics {
			return decodeComposite(v, expr, decodeResources, func(r *ir.Resources) { t.resources = r })
		},
		show: func(t *definition) cty.Value { return resourcesValue(t.resources) }},
	stringAttribute("call", func(t *definition) **string { return &t.call }),
	listAttr("entitlements", func(t *definition) *[]string { return &t.entitlements }),
	mapAttr("extra-hosts", func(t *definition) *map[string]*string { return &t.extraHosts }),
	compositeAttr("policy", decodePolicies, policiesValue, func(t *definition) *[]ir.Policy { return &t.policy }),
	{name: dependsOnAttribute,
		decode: plain(cty.List(cty.String), func(t *definition) *[]string { return &t.dependsOn })},
}

// dependsOnAttribute orders a target after others without reading their results.
// It is dbake's own; docker buildx ignores it.
const dependsOnAttribute = "depends_on"

func targetAttribute(name string) *targetAttr {
	for i := range targetAttributes {
		if targetAttributes[i].name == name {
			return &targetAttributes[i]
		}
	}
	return nil
}

// plain returns a decoder that converts to a type and stores the result.
func plain[T any](typ cty.Type, field func(*definition) *T) func(*definition, cty.Value, hcl.Expression) hcl.Diagnostics {
	return func(t *definition, v cty.Value, expr hcl.Expression) hcl.Diagnostics {
		return decodeValue(v, expr, typ, field(t))
	}
}

func stringAttribute(name string, field func(*definition) **string) targetAttr {
	return targetAttr{name: name, decode: plain(cty.String, field),
		show: func(t *definition) cty.Value { return stringValue(*field(t)) }}
}

func boolAttr(name string, field func(*definition) **bool) targetAttr {
	return targetAttr{name: name, decode: plain(cty.Bool, field),
		show: func(t *definition) cty.Value {
			if b := *field(t); b != nil {
				return cty.BoolVal(*b)
			}
			return cty.NullVal(cty.Bool)
		}}
}

func listAttr(name string, field func(*definition) *[]string) targetAttr {
	return targetAttr{name: name, decode: plain(cty.List(cty.String), field),
		show: func(t *definition) cty.Value { return stringsValue(*field(t)) }}
}

// mapAttr is an attribute whose entries may be null.
func mapAttr(name string, field func(*definition) *map[string]*string) targetAttr {
	return targetAttr{name: name, entries: true, decode: plain(cty.Map(cty.String), field),
		show: func(t *definition) cty.Value {
			m := *field(t)
			if m == nil {
				return cty.NullVal(cty.Map(cty.String))
			}
			values := make(map[string]cty.Value, len(m))
			for k, v := range m {
				values[k] = stringValue(v)
			}
			return mapOrEmpty(values)
		}}
}

// compositeAttr is a list of elements that are more than strings.
func compositeAttr[T any](name string, decode func(cty.Value) ([]T, error), show func([]T) cty.Value, field func(*definition) *[]T) targetAttr {
	return targetAttr{name: name,
		decode: func(t *definition, v cty.Value, expr hcl.Expression) hcl.Diagnostics {
			return decodeComposite(v, expr, decode, func(list []T) { *field(t) = list })
		},
		show: func(t *definition) cty.Value { return show(*field(t)) }}
}

// sharedAttr is a compositeAttr whose elements are held by pointer.
func sharedAttr[T any](name string, decode func(cty.Value) ([]T, error), show func([]T) cty.Value, field func(*definition) *[]*T) targetAttr {
	return targetAttr{name: name,
		decode: func(t *definition, v cty.Value, expr hcl.Expression) hcl.Diagnostics {
			return decodeComposite(v, expr, decode, func(list []T) { *field(t) = pointers(list) })
		},
		show: func(t *definition) cty.Value { return show(values(*field(t))) }}
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
	attrs := make(map[string]cty.Value, len(targetAttributes)+1)
	attrs["name"] = cty.StringVal(t.name)
	for _, a := range targetAttributes {
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
