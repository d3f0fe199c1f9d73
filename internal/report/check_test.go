package report

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

// Definitions that differ in the address of the local registry are alike, and no others.
func TestDefinitionsWhereverTheRegistryIs(t *testing.T) {
	const here, there = "127.0.0.1:5000", "127.0.0.1:6001"
	digests := func(registry, text string) string {
		value := strings.ReplaceAll(text, "REG", registry)
		p := &ir.Project{Targets: []*ir.Target{{Name: "a", Tags: []string{"x:1"}, Args: map[string]string{"V": value, value: "in a name"}}}}
		list, err := Definitions(p, registry)
		require.NoError(t, err)
		return list["a"].String()
	}
	for _, text := range []string{"REG", "REG/app:1", "docker-image://REG/a", "http://REG/v2/ and REG/b", `"REG"`, "plain"} {
		require.Equal(t, digests(here, text), digests(there, text), text)
	}
	for _, text := range []string{"REG1/app", "9REG/app", "a.REG/app"} {
		require.NotEqual(t, digests(here, text), digests(there, text), "%s is another address", text)
	}
	require.NotEqual(t, digests(here, "LOCAL-REGISTRY/app"), digests(here, "REG/app"))
	require.NotEqual(t, digests(here, `{"around the local registry":["","/app"]}`), digests(here, "REG/app"))
	require.Equal(t, digests("", "plain"), digests(here, "plain"))
}

func TestAround(t *testing.T) {
	for text, want := range map[string][]string{
		"":             {""},
		"h:1":          {"", ""},
		"h:1/a h:1":    {"", "/a ", ""},
		"h:12 h:1 x":   {"h:12 ", " x"},
		"h:1h:1":       {"h:1h:1"},
		"h:1,h:1":      {"", ",", ""},
		"xh:1 -h:1 h1": {"xh:1 -h:1 h1"},
	} {
		require.Equal(t, want, around(text, "h:1"), text)
	}
}
