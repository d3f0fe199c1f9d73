package dockerconfig

import (
	"os"
	"path/filepath"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// put writes a file of a configuration.
func put(t *testing.T, text string, name ...string) {
	t.Helper()
	path := filepath.Join(name...)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
}

func TestDir(t *testing.T) {
	for want, env := range map[string]map[string]string{
		"":           {},
		"/h/.docker": {"HOME": "/h", "USERPROFILE": "/p"},
		"/p/.docker": {"USERPROFILE": "/p"},
		"/c":         {"HOME": "/h", "DOCKER_CONFIG": "/c"},
	} {
		require.Equal(t, filepath.FromSlash(want), New(env, nil).Dir())
	}
}

// Which proxies steps are given.
func TestProxyArgs(t *testing.T) {
	dir := t.TempDir()
	put(t, `{"proxies": {
		"default": {"httpProxy": "http://all", "noProxy": "localhost"},
		"tcp://engine:2376": {"httpsProxy": "http://engine", "ftpProxy": "http://files"}
	}}`, dir, "config.json")
	c := New(map[string]string{"DOCKER_CONFIG": dir}, nil)
	all := map[string]string{"HTTP_PROXY": "http://all", "NO_PROXY": "localhost"}
	require.Equal(t, all, c.ProxyArgs(""))
	require.Equal(t, all, c.ProxyArgs("tcp://other:2376"))
	require.Equal(t, map[string]string{"HTTPS_PROXY": "http://engine", "FTP_PROXY": "http://files"}, c.ProxyArgs("tcp://engine:2376"))
}

// A configuration that cannot be read is an error that names the file for callers that need it,
// and one warning for all others.
func TestBroken(t *testing.T) {
	dir := t.TempDir()
	put(t, "{", dir, "config.json")
	var warnings []error
	c := New(map[string]string{"DOCKER_CONFIG": dir}, func(err error) { warnings = append(warnings, err) })
	_, err := c.File()
	require.ErrorContains(t, err, filepath.Join(dir, "config.json"))
	_, err = c.ContextName()
	require.ErrorContains(t, err, filepath.Join(dir, "config.json"))
	require.Empty(t, warnings, "these were told by errors")
	require.Empty(t, c.Optional().AuthConfigs)
	require.Empty(t, c.ProxyArgs(""))
	require.Equal(t, []string{filepath.Join(dir, "cli-plugins")}, c.PluginDirs())
	require.Len(t, warnings, 1)
	require.ErrorContains(t, warnings[0], filepath.Join(dir, "config.json"))
}

// There need not be a configuration.
func TestNone(t *testing.T) {
	for _, env := range []map[string]string{{}, {"DOCKER_CONFIG": t.TempDir()}} {
		c := New(env, func(err error) { t.Error(err) })
		_, err := c.File()
		require.NoError(t, err)
		name, err := c.ContextName()
		require.NoError(t, err)
		require.Empty(t, name)
		require.Empty(t, c.ProxyArgs(""))
		require.Empty(t, c.ContextNames())
		require.True(t, c.HasContext(DefaultContext))
		require.False(t, c.HasContext("desk"))
		_, err = c.Context("desk")
		require.ErrorContains(t, err, "docker context desk: ")
	}
}

// The file is read once, whatever becomes of it.
func TestReadOnce(t *testing.T) {
	dir := t.TempDir()
	put(t, `{"currentContext": "desk", "cliPluginsExtraDirs": ["/extra"]}`, dir, "config.json")
	env := map[string]string{"DOCKER_CONFIG": dir}
	c := New(env, nil)
	name, err := c.ContextName()
	require.NoError(t, err)
	require.Equal(t, "desk", name)
	put(t, "{", dir, "config.json")
	require.Equal(t, []string{"/extra", filepath.Join(dir, "cli-plugins")}, c.PluginDirs())
	env["DOCKER_CONTEXT"] = DefaultContext
	name, err = c.ContextName()
	require.NoError(t, err)
	require.Empty(t, name)
}

func TestContext(t *testing.T) {
	dir := t.TempDir()
	c := New(map[string]string{"DOCKER_CONFIG": dir}, nil)
	at := func(kind, name string) string {
		return filepath.Join(dir, "contexts", kind, digest.FromString(name).Encoded())
	}
	put(t, `{"Name": "plain", "Endpoints": {"docker": {"Host": "unix:///d.sock"}}}`, at("meta", "plain"), "meta.json")
	put(t, `{"Name": "far", "Metadata": {"Description": "x"}, "Endpoints": {"docker": {"Host": "tcp://far:2376", "SkipTLSVerify": true}, "kubernetes": {"Host": "no"}}}`, at("meta", "far"), "meta.json")
	put(t, "ca", at("tls", "far"), "docker", "ca.pem")
	put(t, "cert", at("tls", "far"), "docker", "cert.pem")
	put(t, "key", at("tls", "far"), "docker", "key.pem")
	put(t, "{", at("meta", "bad"), "meta.json")

	got, err := c.Context("plain")
	require.NoError(t, err)
	require.Equal(t, Context{Host: "unix:///d.sock"}, got)
	got, err = c.Context("far")
	require.NoError(t, err)
	tls := filepath.Join(at("tls", "far"), "docker")
	require.Equal(t, Context{
		Host: "tcp://far:2376", SkipVerify: true,
		CACert: filepath.Join(tls, "ca.pem"), Cert: filepath.Join(tls, "cert.pem"), Key: filepath.Join(tls, "key.pem"),
	}, got)
	_, err = c.Context("bad")
	require.ErrorContains(t, err, filepath.Join(at("meta", "bad"), "meta.json"))
	require.ElementsMatch(t, []string{"plain", "far"}, c.ContextNames())
	require.True(t, c.HasContext("far"))
	require.False(t, c.HasContext("../far"))
}
