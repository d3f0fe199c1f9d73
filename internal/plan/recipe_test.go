package plan

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/memory/runs"
)

const recipeProject = `-- docker-bake.hcl --
variable "V" { default = "hunter2" }
target "default" {
  args = { VALUE = V, UNUSED = "none" }
  secret = ["id=token,src=a"]
}
-- Dockerfile --
FROM busybox@sha256:0000000000000000000000000000000000000000000000000000000000000000
ARG VALUE
WORKDIR /$VALUE
ENV FROM_ARG=${VALUE}x
COPY src /src
RUN --mount=type=secret,id=token \
    make "$VALUE" $FROM_ARG
-- src/one --
1
-- src/two --
2
-- a --
the word
`

// What is kept of a build names what its steps are made of, without a value that may be
// secret, and says which of it has changed.
func TestRecipes(t *testing.T) {
	p := newProject(t, recipeProject)
	h := runs.NewHasher([]byte("a key"))
	write := func() ([]runs.Recipe, []runs.FileSet) {
		b, err := Prepare(t.Context(), p.Compile(), frontend.Options{
			Dir: p.Dir, Resolver: frontend.NewRegistryResolver(frontend.RegistryOptions{Offline: true}),
		}, Memory{History: p.History, Files: filesum.Open("", time.Now()), List: true})
		require.NoError(t, err)
		recipes, files, places, err := Recipes(b, h)
		require.NoError(t, err)
		require.Len(t, places, len(b.Graph.Vertices))
		return recipes, files
	}
	recipes, files := write()
	kept, err := json.Marshal([]any{recipes, files})
	require.NoError(t, err)
	for _, secret := range []string{"hunter2", "the word"} {
		require.NotContains(t, string(kept), secret)
	}
	var names []string
	for _, r := range recipes {
		names = append(names, r.Text)
	}
	require.Equal(t, []string{"FROM docker.io/library/busybox", "WORKDIR /$VALUE", "COPY src /src", `RUN --mount=type=secret,id=token make "$VALUE" $FROM_ARG`}, names)
	run := recipes[3]
	has := func(kind runs.PartKind, name string) bool {
		return slices.ContainsFunc(run.Parts, func(p runs.Part) bool { return p.Kind == kind && p.Name == name })
	}
	require.True(t, has(runs.PartArg, "VALUE"))
	require.True(t, has(runs.PartEnv, "FROM_ARG"))
	require.True(t, has(runs.PartSecret, "token"))
	require.True(t, has(runs.PartCommand, ""))
	require.True(t, slices.ContainsFunc(recipes[1].Parts, func(p runs.Part) bool { return p.Kind == runs.PartArg && p.Name == "VALUE" }), "WORKDIR spells it")
	require.Len(t, files, 1)
	require.Len(t, files[0].Files, 2)
	require.Equal(t, ".", files[0].Dir)

	again, _ := write()
	require.Equal(t, recipes, again)
	p.Replace("src/two", "2", "3")
	now, changed := write()
	require.Equal(t, recipes[1].Hash, now[1].Hash)
	require.NotEqual(t, recipes[2].Hash, now[2].Hash)
	require.NotEqual(t, recipes[3].Hash, now[3].Hash)
	require.Equal(t, recipes[3].Parts, now[3].Parts)
	require.Equal(t, files[0].Files["src/one"], changed[0].Files["src/one"])
	require.NotEqual(t, files[0].Files["src/two"], changed[0].Files["src/two"])
}
