package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Which proxies of the docker configuration steps are given.
func TestProxyArgs(t *testing.T) {
	const config = `{"proxies": {
		"default": {"httpProxy": "http://all", "noProxy": "localhost"},
		"tcp://engine:2376": {"httpsProxy": "http://engine", "ftpProxy": "http://files"}
	}}`
	for _, tc := range []struct {
		name, config string
		env          map[string]string
		want         map[string]string
		warns        bool
	}{
		{"for all", config, nil, map[string]string{"HTTP_PROXY": "http://all", "NO_PROXY": "localhost"}, false},
		{"for another engine", config, map[string]string{"DOCKER_HOST": "tcp://other:2376"}, map[string]string{"HTTP_PROXY": "http://all", "NO_PROXY": "localhost"}, false},
		{"for the engine", config, map[string]string{"DOCKER_HOST": "tcp://engine:2376"}, map[string]string{"HTTPS_PROXY": "http://engine", "FTP_PROXY": "http://files"}, false},
		{"none", "{}", nil, map[string]string{}, false},
		{"no configuration", "", nil, nil, false},
		{"unreadable", "{", nil, nil, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			home := t.TempDir()
			if tc.config != "" {
				require.NoError(t, os.Mkdir(filepath.Join(home, ".docker"), 0o700))
				require.NoError(t, os.WriteFile(filepath.Join(home, ".docker", "config.json"), []byte(tc.config), 0o600))
			}
			var stderr bytes.Buffer
			a := &app{stderr: &stderr, env: map[string]string{"HOME": home}}
			for k, v := range tc.env {
				a.env[k] = v
			}
			require.NoError(t, a.showProgress(nil))
			require.Equal(t, tc.want, a.docker().proxyArgs())
			require.Equal(t, tc.warns, stderr.Len() > 0, stderr.String())
		})
	}
}
