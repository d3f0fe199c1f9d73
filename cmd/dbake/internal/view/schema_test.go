package view

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/cmd/dbake/internal/schematest"
)

// What is printed for programs is what the schemas of docs say.
func TestSchemas(t *testing.T) {
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		require.NoError(t, err)
		return data
	}
	require.NoError(t, schematest.Check("plan", read("plan.json")))
	require.NoError(t, schematest.Check("curve", read("curve.json")))
	require.NoError(t, schematest.Check("summary", read("outcome.json")))
	require.NoError(t, schematest.CheckLines("rawjson", read("progress.rawjson")))
}
