package compiler

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/zclconf/go-cty/cty"
	"github.com/zclconf/go-cty/cty/convert"
)

// A tuple becomes the list that the library makes of it.
func TestListOfStrings(t *testing.T) {
	a, b := cty.StringVal("a"), cty.StringVal("b")
	for name, v := range map[string]cty.Value{
		"strings":        cty.TupleVal([]cty.Value{a, b, a}),
		"one string":     cty.TupleVal([]cty.Value{a}),
		"nothing":        cty.EmptyTupleVal,
		"null":           cty.NullVal(cty.Tuple([]cty.Type{cty.String})),
		"unknown":        cty.UnknownVal(cty.Tuple([]cty.Type{cty.String})),
		"null string":    cty.TupleVal([]cty.Value{a, cty.NullVal(cty.String)}),
		"unknown string": cty.TupleVal([]cty.Value{a, cty.UnknownVal(cty.String)}),
		"any null":       cty.TupleVal([]cty.Value{a, cty.NullVal(cty.DynamicPseudoType)}),
		"marked string":  cty.TupleVal([]cty.Value{a, b.Mark("m")}),
		"marked":         cty.TupleVal([]cty.Value{a, b}).Mark("m"),
		"number":         cty.TupleVal([]cty.Value{a, cty.NumberIntVal(1)}),
		"tuple":          cty.TupleVal([]cty.Value{a, cty.TupleVal([]cty.Value{b})}),
		"list":           cty.ListVal([]cty.Value{a, b}),
		"string":         a,
	} {
		for _, want := range []cty.Type{cty.List(cty.String), cty.Set(cty.String), cty.List(cty.DynamicPseudoType), cty.Tuple([]cty.Type{cty.String, cty.String})} {
			expected, expectedErr := convert.Convert(v, want)
			got, err := convertValue(v, want)
			require.Equal(t, expectedErr, err, "%s to %s", name, want.FriendlyName())
			require.True(t, expectedErr != nil || expected.RawEquals(got), "%s to %s: %#v", name, want.FriendlyName(), got)
		}
	}
}

// BenchmarkGroup reads a group of many targets.
func BenchmarkGroup(b *testing.B) {
	list := make([]cty.Value, 5_000)
	for i := range list {
		list[i] = cty.StringVal("target")
	}
	v := cty.TupleVal(list)
	for b.Loop() {
		_, err := convertValue(v, cty.List(cty.String))
		require.NoError(b, err)
	}
}
