package frontend

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

func TestVCS(t *testing.T) {
	p := project(t, "-- app/Dockerfile --\nFROM alpine\nLABEL own=1\n", &ir.Target{Name: "t", Context: ir.ParseContext("app", nil)})
	root, err := filepath.EvalSymlinks(p.Dir)
	require.NoError(t, err)
	asked := ""
	o := options()
	o.VCSProvenance = true
	o.VCS = func(dir string) (VCS, bool) {
		asked = dir
		return VCS{Root: root, Revision: "abc", Source: "https://example.com/r"}, true
	}
	of := func(prefix string) map[string]string {
		units, err := Compile(t.Context(), p, o)
		require.NoError(t, err)
		got := map[string]string{}
		for k, v := range units[0].FrontendAttrs {
			if strings.HasPrefix(k, prefix) {
				got[k] = v
			}
		}
		var config struct {
			Config struct{ Labels map[string]string }
		}
		require.NoError(t, json.Unmarshal(units[0].Config, &config))
		labels := 1
		if o.VCSLabels {
			labels = 4
		}
		require.Len(t, config.Config.Labels, labels)
		return got
	}
	require.Equal(t, map[string]string{
		"vcs:revision": "abc", "vcs:source": "https://example.com/r", "vcs:localdir:context": "app", "vcs:localdir:dockerfile": "app",
	}, of("vcs:"))
	require.Equal(t, filepath.Join(p.Dir, "app"), asked)
	require.Empty(t, of("label:"))

	o.VCSProvenance, o.VCSLabels = false, true
	require.Empty(t, of("vcs:"))
	require.Equal(t, map[string]string{
		"label:org.opencontainers.image.revision":  "abc",
		"label:org.opencontainers.image.source":    "https://example.com/r",
		"label:com.docker.image.source.entrypoint": "app/Dockerfile",
	}, of("label:"))

	o.VCSLabels = false
	o.VCS = func(string) (VCS, bool) { return VCS{}, false }
	o.VCSProvenance = true
	require.Empty(t, of("vcs:"))
}
