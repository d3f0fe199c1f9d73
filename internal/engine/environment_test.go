package engine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

func TestArtifactSwitch(t *testing.T) {
	p := &ir.Project{Targets: []*ir.Target{{Name: "t", Outputs: []ir.Output{
		{Type: "image"}, {Type: "oci", Attrs: map[string]string{"oci-artifact": "true"}}, {Type: "registry", Attrs: map[string]string{"name": "x"}}, {Type: "local"}, {Type: "docker"},
	}}}}
	for value, want := range map[string][]string{"": {"", "true", "", "", ""}, "0": {"", "true", "", "", ""}, "1": {"false", "true", "false", "", ""}} {
		var got []string
		for _, o := range (&Engine{Config: Config{Env: map[string]string{envNoArtifact: value}}}).withArtifactSwitch(p).Targets[0].Outputs {
			got = append(got, o.Attrs["oci-artifact"])
		}
		require.Equal(t, want, got, value)
	}
	require.Nil(t, p.Targets[0].Outputs[0].Attrs, "what is printed does not change")
}

func TestSwitches(t *testing.T) {
	for _, name := range []string{envNoAttestations, envNoArtifact} {
		require.NoError(t, (&Engine{Config: Config{Env: map[string]string{name: "1"}}}).checkSwitches())
		require.EqualError(t, (&Engine{Config: Config{Env: map[string]string{name: "yes"}}}).checkSwitches(), `invalid value "yes" of $`+name+`: write true or false`)
		require.Error(t, (&Engine{Config: Config{Env: map[string]string{name: ""}}}).checkSwitches(), "as docker buildx")
	}
	require.NoError(t, (&Engine{}).checkSwitches())
}

// TestGitQuerySwitch: the variable reaches those that compile Dockerfiles.
func TestGitQuerySwitch(t *testing.T) {
	for value, want := range map[string]bool{"": false, "0": false, "true": true} {
		e := New(Config{Dir: t.TempDir(), Env: map[string]string{envGitQueryAsInput: value}, Report: quiet{t}})
		s := &standby{engine: e}
		require.Equal(t, want, s.frontendOptions(t.Context(), &facts{}, nil, true).GitQueryAsInput, value)
	}
}

// The proxies of steps are those for the engine in use.
func TestProxiesOfTheEngine(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"proxies": {"default": {"httpProxy": "http://all"}, "tcp://engine:1": {"httpProxy": "http://engine"}}}`), 0o600))
	for host, want := range map[string]string{"tcp://engine:1": "http://engine", "tcp://other:1": "http://all", "": "http://all"} {
		e := New(Config{Dir: dir, Env: map[string]string{"DOCKER_CONFIG": dir, "DOCKER_HOST": host}, Report: quiet{t}})
		require.Equal(t, map[string]string{"HTTP_PROXY": want}, e.proxyArgs(), host)
	}
	e := New(Config{Dir: dir, Env: map[string]string{"DOCKER_CONFIG": dir, "DOCKER_CONTEXT": "gone"}, Report: quiet{t}})
	require.Equal(t, map[string]string{"HTTP_PROXY": "http://all"}, e.proxyArgs())
}
