package nodeset

import (
	"encoding/base64"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/dockerconfig"
	"github.com/dbake/dbake/runtime/nodeset/dockerengine"
)

// TestContainer reads what docker buildx stores of a container, and starts it.
func TestContainer(t *testing.T) {
	env := home(t, `
-- .docker/buildx/instances/box --
{"Name":"box","Driver":"docker-container","Nodes":[
 {"Name":"box0","Endpoint":"default","Flags":["--allow-insecure-entitlement=network.host"],
  "DriverOpts":{"image":"example.com/bk:1","network":"host","memory":"2g","memory-swap":"-1","cpu-quota":"50000","cpuset-cpus":"0-3","env.A":"b=c","restart-policy":"no","default-load":"true"},
  "Files":{"buildkitd.toml":"`+base64.StdEncoding.EncodeToString([]byte("debug = true"))+`","certs/r/ca.pem":"eA=="}},
 {"Name":"box1","Endpoint":"default"}]}
-- .docker/buildx/instances/bad --
{"Name":"bad","Driver":"docker-container","Nodes":[{"Name":"bad0","DriverOpts":{"memory":"much"}}]}
`)
	specs, err := FromBuilder(t.Context(), "box", dockerconfig.New(env, nil))
	require.NoError(t, err)
	require.Equal(t, &dockerengine.Container{
		Name: "buildx_buildkit_box0", Image: "example.com/bk:1", Network: "host", Restart: "no",
		Cmd:    []string{"--allow-insecure-entitlement=network.host", "--config", "/etc/buildkit/buildkitd.toml"},
		Env:    []string{"A=b=c"},
		Files:  map[string][]byte{"/etc/buildkit/buildkitd.toml": []byte("debug = true"), "/etc/buildkit/certs/r/ca.pem": []byte("x")},
		Volume: "buildx_buildkit_box0_state", CgroupParent: "/docker/buildx",
		Limits: dockerengine.Limits{Memory: 2 << 30, MemorySwap: -1, CPUQuota: 50000, CPUSetCPUs: "0-3"},
	}, specs[0].Container)
	require.Equal(t, "moby/buildkit:buildx-stable-1", specs[1].Container.Image)
	_, err = FromBuilder(t.Context(), "bad", dockerconfig.New(env, nil))
	require.ErrorContains(t, err, "driver option memory=much")

	var asked []string
	running := false
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.Method+" "+r.URL.Path)
		switch {
		case r.URL.Path == "/info":
			_, _ = w.Write([]byte("{}"))
		case strings.HasSuffix(r.URL.Path, "/json"):
			_, _ = w.Write([]byte(`{"State":{"Running":` + map[bool]string{true: "true", false: "false"}[running] + `}}`))
		case strings.HasSuffix(r.URL.Path, "/start"):
			running = true
			w.WriteHeader(http.StatusNoContent)
		}
	}))
	defer srv.Close()
	env["DOCKER_HOST"] = strings.Replace(srv.URL, "http://", "tcp://", 1)
	require.NoError(t, Resolve(specs, dockerconfig.New(env, nil)))
	var notices []string
	boot := func() bool {
		booted, err := specs[0].Boot(t.Context(), func(text string) { notices = append(notices, text) })
		require.NoError(t, err)
		return booted
	}
	require.True(t, boot())
	require.False(t, boot(), "it runs")
	require.Equal(t, []string{"starting container buildx_buildkit_box0"}, notices)
	require.True(t, slices.Contains(asked, "POST /containers/buildx_buildkit_box0/start"), asked)

	srv.Close()
	require.False(t, boot(), "there is no engine")
}
