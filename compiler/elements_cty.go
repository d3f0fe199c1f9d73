package compiler

import (
	"errors"
	"math/big"
	"strconv"

	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
	"github.com/zclconf/go-cty/cty/gocty"
	ctyjson "github.com/zclconf/go-cty/cty/json"

	"github.com/dbake/dbake/compiler/ir"
)

// The values of expressions and the elements of lists: decoding takes a list or
// tuple whose items are strings or objects, encoding gives what a reference such
// as target.app.output shows.

var (
	// mapElementType is the type of the elements that are shown as maps.
	mapElementType = cty.Map(cty.String)
	secretType     = cty.ObjectWithOptionalAttrs(map[string]cty.Type{
		"id": cty.String, "src": cty.String, "env": cty.String,
	}, []string{"id", "src", "env"})
	sshType = cty.ObjectWithOptionalAttrs(map[string]cty.Type{
		"id": cty.String, "paths": cty.List(cty.String),
	}, []string{"id", "paths"})
)

// decodeElements decodes the items of list that say something: not those that
// are null, unknown or an empty string. A set is no list.
func decodeElements[T any](list cty.Value, element cty.Type, decode func(cty.Value) ([]T, error)) ([]T, error) {
	if ty := list.Type(); !ty.IsTupleType() && !ty.IsListType() {
		return nil, errors.New(convert.MismatchMessage(ty, cty.List(element)))
	}
	if list.IsNull() || !list.IsKnown() {
		return nil, nil
	}
	out := make([]T, 0, list.LengthInt())
	for it := list.ElementIterator(); it.Next(); {
		_, v := it.Element()
		if v.IsNull() || !v.IsKnown() || isString(v) && v.AsString() == "" {
			continue
		}
		items, err := decode(v)
		if err != nil {
			return nil, err
		}
		out = append(out, items...)
	}
	return out, nil
}

func isString(v cty.Value) bool { return v.Type() == cty.String }

// one adapts the result of a parser to decodeElements.
func one[T any](v T, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	return []T{v}, nil
}

// stringMap returns the entries of an object or map that are known and not null.
func stringMap(v cty.Value) (map[string]string, error) {
	v, err := convertValue(v, mapElementType)
	if err != nil {
		return nil, err
	}
	out := make(map[string]string, v.LengthInt())
	for it := v.ElementIterator(); it.Next(); {
		key, value := it.Element()
		if value.IsKnown() && !value.IsNull() {
			out[key.AsString()] = value.AsString()
		}
	}
	return out, nil
}

func decodeCacheEntries(list cty.Value) ([]ir.CacheEntry, error) {
	return decodeElements(list, mapElementType, func(v cty.Value) ([]ir.CacheEntry, error) {
		if isString(v) {
			return parseCacheEntry(v.AsString())
		}
		m, err := stringMap(v)
		if err != nil {
			return nil, err
		}
		if m[typeKey] == "" {
			// As written, before its numbers became strings.
			if text, err := ctyjson.Marshal(v, v.Type()); err == nil {
				return nil, errors.New("type required for " + strconv.Quote(string(text)))
			}
		}
		return one(cacheEntryFromMap(m))
	})
}

func decodeOutputs(list cty.Value) ([]ir.Output, error) {
	return decodeElements(list, mapElementType, func(v cty.Value) ([]ir.Output, error) {
		if isString(v) {
			return one(parseOutput(v.AsString()))
		}
		m, err := stringMap(v)
		if err != nil {
			return nil, err
		}
		return one(outputFromMap(m))
	})
}

func decodeAttests(list cty.Value) ([]ir.Attest, error) {
	return decodeElements(list, mapElementType, func(v cty.Value) ([]ir.Attest, error) {
		if isString(v) {
			return one(parseAttest(v.AsString()))
		}
		m, err := stringMap(v)
		if err != nil {
			return nil, err
		}
		return one(attestFromMap(m))
	})
}

func decodeSecrets(list cty.Value) ([]ir.Secret, error) {
	return decodeElements(list, secretType, func(v cty.Value) ([]ir.Secret, error) {
		if isString(v) {
			return one(parseSecret(v.AsString()))
		}
		v, err := convert.Convert(v, secretType)
		if err != nil {
			return nil, err
		}
		return []ir.Secret{{ID: stringAttr(v, "id"), Src: stringAttr(v, "src"), Env: stringAttr(v, "env")}}, nil
	})
}

func decodeSSHs(list cty.Value) ([]ir.SSH, error) {
	return decodeElements(list, sshType, func(v cty.Value) ([]ir.SSH, error) {
		if isString(v) {
			return one(parseSSH(v.AsString()))
		}
		v, err := convert.Convert(v, sshType)
		if err != nil {
			return nil, err
		}
		ssh := ir.SSH{ID: stringAttr(v, "id")}
		if paths := v.GetAttr("paths"); !paths.IsNull() && paths.IsKnown() {
			if err := gocty.FromCtyValue(paths, &ssh.Paths); err != nil {
				return nil, err
			}
		}
		return []ir.SSH{ssh}, nil
	})
}

func decodePolicies(list cty.Value) ([]ir.Policy, error) {
	// Unlike in other lists, null is no way to say nothing.
	if list.CanIterateElements() {
		for it := list.ElementIterator(); it.Next(); {
			if _, v := it.Element(); v.IsKnown() && v.IsNull() {
				return nil, errors.New(convert.MismatchMessage(v.Type(), mapElementType))
			}
		}
	}
	return decodeElements(list, mapElementType, func(v cty.Value) ([]ir.Policy, error) {
		if isString(v) {
			return one(parsePolicy(v.AsString()))
		}
		if ty := v.Type(); !ty.IsObjectType() && !ty.IsMapType() {
			return nil, errors.New(convert.MismatchMessage(ty, mapElementType))
		}
		m := make(map[string]string, v.LengthInt())
		for it := v.ElementIterator(); it.Next(); {
			key, value := it.Element()
			if value.IsNull() || !value.IsKnown() {
				continue
			}
			switch value.Type() {
			case cty.String:
				m[key.AsString()] = value.AsString()
			case cty.Bool:
				m[key.AsString()] = strconv.FormatBool(value.True())
			case cty.Number:
				m[key.AsString()] = new(big.Float).Set(value.AsBigFloat()).Text('f', -1)
			default:
				return nil, errors.New(convert.MismatchMessage(value.Type(), cty.String))
			}
		}
		return one(policyFromMap(m))
	})
}

// stringAttr returns an attribute of an object, "" when it says nothing.
func stringAttr(object cty.Value, name string) string {
	if v := object.GetAttr(name); !v.IsNull() && v.IsKnown() {
		return v.AsString()
	}
	return ""
}

// elementsValue returns the list of the values of some elements.
func elementsValue[T any](list []T, element cty.Type, encode func(T) cty.Value) cty.Value {
	if len(list) == 0 {
		return cty.ListValEmpty(element.WithoutOptionalAttributesDeep())
	}
	values := make([]cty.Value, len(list))
	for i, v := range list {
		values[i] = encode(v)
	}
	return cty.ListVal(values)
}

// mapValue returns a map of strings as a value, with fields given as pairs of
// name and content added to it.
func mapValue(attrs map[string]string, fields ...string) cty.Value {
	values := make(map[string]cty.Value, len(attrs)+len(fields)/2)
	for k, v := range attrs {
		values[k] = cty.StringVal(v)
	}
	for i := 0; i+1 < len(fields); i += 2 {
		values[fields[i]] = cty.StringVal(fields[i+1])
	}
	if len(values) == 0 {
		return cty.MapValEmpty(cty.String)
	}
	return cty.MapVal(values)
}

func cacheEntriesValue(list []ir.CacheEntry) cty.Value {
	return elementsValue(list, mapElementType, func(e ir.CacheEntry) cty.Value {
		return mapValue(e.Attrs, typeKey, e.Type)
	})
}

// outputsValue shows the destination of every output, set or not.
func outputsValue(list []ir.Output) cty.Value {
	return elementsValue(list, mapElementType, func(o ir.Output) cty.Value {
		return mapValue(o.Attrs, typeKey, o.Type, "dest", o.Dest)
	})
}

func attestsValue(list []ir.Attest) cty.Value {
	return elementsValue(list, mapElementType, func(a ir.Attest) cty.Value {
		if a.Disabled {
			return mapValue(a.Attrs, typeKey, a.Type, "disabled", "true")
		}
		return mapValue(a.Attrs, typeKey, a.Type)
	})
}

func secretsValue(list []ir.Secret) cty.Value {
	return elementsValue(list, secretType, func(s ir.Secret) cty.Value {
		return cty.ObjectVal(map[string]cty.Value{
			"id": cty.StringVal(s.ID), "src": cty.StringVal(s.Src), "env": cty.StringVal(s.Env),
		})
	})
}

func sshsValue(list []ir.SSH) cty.Value {
	return elementsValue(list, sshType, func(s ir.SSH) cty.Value {
		paths := cty.ListValEmpty(cty.String)
		if len(s.Paths) > 0 {
			values := make([]cty.Value, len(s.Paths))
			for i, p := range s.Paths {
				values[i] = cty.StringVal(p)
			}
			paths = cty.ListVal(values)
		}
		return cty.ObjectVal(map[string]cty.Value{"id": cty.StringVal(s.ID), "paths": paths})
	})
}

func policiesValue(list []ir.Policy) cty.Value {
	return elementsValue(list, mapElementType, func(p ir.Policy) cty.Value {
		var fields []string
		add := func(name, value string) { fields = append(fields, name, value) }
		if p.Filename != "" {
			add("filename", p.Filename)
		}
		if p.Reset {
			add("reset", "true")
		}
		if p.Disabled {
			add("disabled", "true")
		}
		if p.Strict != nil {
			add("strict", strconv.FormatBool(*p.Strict))
		}
		if p.LogLevel != nil {
			add("log-level", *p.LogLevel)
		}
		return mapValue(nil, fields...)
	})
}
