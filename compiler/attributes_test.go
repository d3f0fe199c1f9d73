package compiler

import (
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// Every field of a target is the business of exactly one row of the table, and a row
// says everything of its attribute: what has no row would be lost when targets inherit.
func TestEveryFieldHasARow(t *testing.T) {
	fields, results, names := map[string]int{}, map[string]int{}, map[string]int{}
	for _, a := range attributes {
		fields[a.field]++
		if a.result != "" {
			results[a.result]++
		}
		names[a.name]++
		require.NotNil(t, a.decode, a.name)
		require.NotNil(t, a.merge, a.name)
		require.Equal(t, a.result != "", a.lower != nil, a.name)
		require.Equal(t, a.compose != nil, a.isSet != nil, a.name)
		require.True(t, a.result == "" || a.print != nil || a.name == dependsOnAttribute || a.name == gatesAttribute, "%s is not printed", a.name)
		for _, k := range a.set {
			require.NotNil(t, k.apply, k.key)
			require.NotEqual(t, unknownOverride, k.kind, k.key)
		}
	}
	for name, n := range names {
		require.Equal(t, 1, n, name)
	}
	require.Equal(t, fieldsOf(definition{}, "name", "builtWith", "linked", "remoteContext", "origins", "base"), fields)
	require.Equal(t, fieldsOf(ir.Target{}, "Name", "Linked", "Fault", "Origins"), results)
}

// fieldsOf counts the fields of a struct once, but for those that are no attributes.
func fieldsOf(v any, others ...string) map[string]int {
	fields := map[string]int{}
	for _, f := range reflect.VisibleFields(reflect.TypeOf(v)) {
		if !slices.Contains(others, f.Name) {
			fields[f.Name] = 1
		}
	}
	return fields
}

// What an attribute is set to survives inheritance: merge copies the very field.
func TestMergeReachesEveryField(t *testing.T) {
	full := definition{}
	v := reflect.ValueOf(&full).Elem()
	for _, a := range attributes {
		require.True(t, v.FieldByName(a.field).IsValid(), a.name)
	}
	one := "x"
	full = definition{
		description: one, inherits: []string{one}, annotations: []string{one}, attest: []ir.Attest{{Type: "sbom"}}, context: &one, contexts: map[string]string{"c": one},
		dockerfile: &one, dockerfileInline: &one, args: map[string]*string{"a": &one}, labels: map[string]*string{"l": &one}, tags: []string{one},
		cacheFrom: []*ir.CacheEntry{{Type: one}}, cacheTo: []ir.CacheEntry{{Type: one}}, stage: &one, secrets: []*ir.Secret{{ID: one}}, ssh: []ir.SSH{{ID: one}},
		platforms: []string{one}, outputs: []*ir.Output{{Type: one}}, pull: new(bool), noCache: new(bool), network: &one, noCacheFilter: []string{one}, shmSize: &one,
		ulimits: []string{one}, resources: &ir.Resources{Memory: &one}, call: &one, entitlements: []string{one}, extraHosts: map[string]*string{"h": &one},
		policy: []ir.Policy{{Filename: one}}, dependsOn: []string{one}, gates: []string{one},
	}
	var child definition
	child.merge(&full)
	got := reflect.ValueOf(&child).Elem()
	for _, a := range attributes {
		require.False(t, v.FieldByName(a.field).IsZero(), "the test sets no %s", a.field)
		require.False(t, got.FieldByName(a.field).IsZero(), "%s is not inherited", a.name)
	}
}
