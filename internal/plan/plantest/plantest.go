// Package plantest makes small projects on the disk, for the tests of plans and of what
// is made of them.
package plantest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/cost"
)

// Shop is a project of three targets; app and web share the stage "deps".
const Shop = `
-- docker-bake.hcl --
group "default" { targets = ["app", "web", "docs"] }
target "app" {
  target = "app"
}
target "web" {
  target = "web"
}
target "docs" {
  context = "docs"
}
-- Dockerfile --
FROM busybox:1 AS deps
COPY deps.txt /deps.txt
RUN make deps
FROM deps AS app
COPY app /src
RUN make app
FROM deps AS web
COPY web /src
RUN make web
-- deps.txt --
1
-- app/main.c --
app
-- web/main.c --
web
-- docs/Dockerfile --
FROM busybox:1
COPY . /docs
RUN make docs
-- docs/index.md --
# Index
`

// Project is a directory with a bake file, for tests.
type Project struct {
	T   *testing.T
	Dir string
	// History is a cost history that is kept nowhere.
	History *cost.Store
}

// New writes the files of a txtar archive to a new directory.
func New(t *testing.T, archive string) *Project {
	t.Helper()
	p := &Project{T: t, Dir: t.TempDir()}
	for _, f := range txtar.Parse([]byte(archive)).Files {
		p.Write(f.Name, string(f.Data))
	}
	var err error
	p.History, err = cost.Open(cost.InMemory, cost.Options{})
	require.NoError(t, err)
	return p
}

// Write writes a file of the project.
func (p *Project) Write(name, text string) {
	p.T.Helper()
	path := filepath.Join(p.Dir, name)
	require.NoError(p.T, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(p.T, os.WriteFile(path, []byte(text), 0o644))
}

// Replace replaces a text that a file contains.
func (p *Project) Replace(name, old, text string) {
	p.T.Helper()
	dt, err := os.ReadFile(filepath.Join(p.Dir, name))
	require.NoError(p.T, err)
	require.Contains(p.T, string(dt), old)
	p.Write(name, strings.Replace(string(dt), old, text, 1))
}

// Compile resolves the definition, all of it or some targets.
func (p *Project) Compile(targets ...string) *ir.Project {
	p.T.Helper()
	c, err := compiler.Compile(context.Background(), compiler.Options{
		Dir: p.Dir, Env: map[string]string{}, Platform: "linux/amd64", Targets: targets, DeferFaults: true,
	})
	require.NoError(p.T, err)
	return c
}
