package frontend

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNameContexts: the key of a context may spell the name of an image in any way.
func TestNameContexts(t *testing.T) {
	t.Parallel()
	attrs := map[string]string{
		"context:library/golang":                      "local:a",
		"context:docker.io/library/node::linux/amd64": "input:b",
		"context:alpine:latest":                       "local:c",
		"context:example.com/x":                       "local:d",
		"context:docker.io/library/both":              "local:e",
		"context:both":                                "local:f",
		"context:NoImage":                             "local:g",
	}
	nameContexts(attrs, []string{"NoImage", "alpine:latest", "both", "docker.io/library/both", "docker.io/library/node", "example.com/x", "library/golang"})
	require.Len(t, attrs, 10)
	require.Equal(t, "local:a", attrs["context:golang"])
	require.Equal(t, "input:b", attrs["context:node::linux/amd64"])
	require.Equal(t, "local:c", attrs["context:alpine"])
	require.Equal(t, "local:f", attrs["context:both"], "a key that says so itself")
}
