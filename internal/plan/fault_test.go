package plan

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/filesum"
)

// asNobody makes the rest of the test run without the rights of root, which may read
// every file; dir stays visible.
func asNobody(t *testing.T, dir string) {
	if os.Geteuid() != 0 {
		return
	}
	require.NoError(t, os.Chmod(filepath.Dir(dir), 0o755))
	require.NoError(t, syscall.Seteuid(65534))
	t.Cleanup(func() { require.NoError(t, syscall.Seteuid(0)) })
}

const shared = `
-- docker-bake.hcl --
group "default" { targets = ["all", "one", "user", "other"] }
target "all" {}
target "user" {
  contexts          = { all = "target:all" }
  dockerfile-inline = "FROM busybox:1\nCOPY --from=all / /\n"
}
target "one" {
  dockerfile-inline = "FROM busybox:1\nCOPY ok.txt /\n"
}
target "other" {
  context           = "other"
  dockerfile-inline = "FROM busybox:1\nCOPY . /\n"
}
-- Dockerfile --
FROM busybox:1
COPY . /c/
-- ok.txt --
ok
-- other/file --
`

// A fault in the files of one target is a fault of those targets alone that read
// the file, or link one that does, although others share the directory with it.
func TestFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		spoil func(t *testing.T, p *project)
		want  map[string]string // by target; a text in the error, "needs X", or absent
	}{
		"none": {func(*testing.T, *project) {}, map[string]string{}},
		"unreadable file": {
			func(t *testing.T, p *project) {
				p.Write("secret/key", "x")
				require.NoError(t, os.Chmod(filepath.Join(p.Dir, "secret/key"), 0))
			},
			map[string]string{"all": "target all: cannot read a file for [2/2] COPY . /c/: ", "user": "needs all"},
		},
		"unreadable directory": {
			func(t *testing.T, p *project) {
				p.Write("secret/key", "x")
				require.NoError(t, os.Chmod(filepath.Join(p.Dir, "secret"), 0))
			},
			map[string]string{"all": "secret: permission denied", "user": "needs all"},
		},
		"ignored": {
			func(t *testing.T, p *project) {
				p.Write("secret/key", "x")
				require.NoError(t, os.Chmod(filepath.Join(p.Dir, "secret"), 0))
				p.Write(".dockerignore", "secret\n")
			},
			map[string]string{},
		},
		"a name that is not UTF-8": {
			func(_ *testing.T, p *project) { p.Write("bad-\xff-name.txt", "x") },
			map[string]string{},
		},
		"broken link": {
			func(t *testing.T, p *project) {
				require.NoError(t, os.Symlink("nowhere", filepath.Join(p.Dir, "link")))
			},
			map[string]string{},
		},
		"no context": {
			func(t *testing.T, p *project) { require.NoError(t, os.RemoveAll(filepath.Join(p.Dir, "other"))) },
			map[string]string{"other": "target other: unable to prepare context: path \"other\" not found"},
		},
		"context is a file": {
			func(t *testing.T, p *project) {
				require.NoError(t, os.RemoveAll(filepath.Join(p.Dir, "other")))
				p.Write("other", "x")
			},
			map[string]string{"other": "path \"other\" not found"},
		},
		"bad ignore file": {
			func(_ *testing.T, p *project) { p.Write("other/.dockerignore", "# none\n[\n") },
			map[string]string{"other": `other/.dockerignore:2,1-2: target other: "[": syntax error in pattern`},
		},
		"no secret": {
			func(_ *testing.T, p *project) {
				p.Replace("docker-bake.hcl", `target "all" {}`, `target "all" { secret = ["id=a,src=none"] }`)
			},
			map[string]string{"all": "target all: failed to stat none", "user": "needs all"},
		},
		"missing file": {
			func(_ *testing.T, p *project) {
				p.Replace("docker-bake.hcl", "COPY ok.txt", "COPY gone.txt")
			},
			map[string]string{}, // the step says so
		},
		"everything": {
			func(t *testing.T, p *project) {
				p.Replace("docker-bake.hcl", `target "all" {}`, `target "all" { context = "none" }`)
				p.Replace("docker-bake.hcl", `target "one" {`, "target \"one\" {\n  context = \"none\"")
				require.NoError(t, os.RemoveAll(filepath.Join(p.Dir, "other")))
			},
			map[string]string{"all": "not found", "one": "not found", "other": "not found", "user": "needs all"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, shared)
			tt.spoil(t, p)
			c := p.Compile("default")
			asNobody(t, p.Dir)
			b, faults, err := PrepareWhole(context.Background(), c, frontend.Options{
				Dir: p.Dir, Resolver: frontend.NewRegistryResolver(frontend.RegistryOptions{Offline: true}),
			}, Memory{History: p.History, Files: filesum.Open("", time.Now())})
			require.NoError(t, err)
			got := map[string]string{}
			for _, f := range faults {
				got[f.Target] = "needs " + f.Needs
				if f.Err != nil {
					got[f.Target] = f.Err.Error()
				}
			}
			require.Len(t, got, len(tt.want), "%v", got)
			for target, text := range tt.want {
				require.Contains(t, got[target], text)
			}
			require.Len(t, b.Jobs, len(c.Targets)-len(tt.want))
			for _, j := range b.Jobs {
				require.NotContains(t, tt.want, j.Name)
			}
		})
	}
}
