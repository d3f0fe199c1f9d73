package daemon

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/session/auth/authprovider"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/dockerconfig"
)

func TestCredentialHelperThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		end := make(chan struct{})
		defer close(end)
		ask := askHelper(func(context.Context, string, []string, authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
			<-end
			return types.AuthConfig{}, nil
		})
		_, err := ask(t.Context(), "registry.example.com", nil, nil)
		require.EqualError(t, err, "credentials for registry.example.com: the credential helper of the Docker configuration has not answered for 1m0s")
	})
	auth, err := askHelper(func(_ context.Context, host string, _ []string, _ authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
		return types.AuthConfig{Username: host}, nil
	})(t.Context(), "a", nil, nil)
	require.NoError(t, err)
	require.Equal(t, "a", auth.Username)
}

// A node that asks for the credentials for a registry learns which helper failed.
func TestCredentialHelperThatFails(t *testing.T) {
	bin, dir := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bin, "docker-credential-bad"), []byte("#!/bin/sh\necho run: acme login\nexit 1\n"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), []byte(`{"credHelpers":{"r.test":"bad","https://index.docker.io/v1/":"nosuch"}}`), 0o600))
	t.Setenv("PATH", bin+string(os.PathListSeparator)+os.Getenv("PATH"))
	ask := loginsFor(Inputs{Docker: dockerconfig.New(map[string]string{"DOCKER_CONFIG": dir}, nil)}.logins())
	_, err := ask(t.Context(), "r.test", nil, nil)
	require.ErrorContains(t, err, "credentials for r.test: credential helper docker-credential-bad: ")
	require.ErrorContains(t, err, "run: acme login")
	_, err = ask(t.Context(), "registry-1.docker.io", nil, nil)
	require.ErrorContains(t, err, "credentials for registry-1.docker.io: credential helper docker-credential-nosuch: ")
	auth, err := ask(t.Context(), "other.test", nil, nil)
	require.NoError(t, err)
	require.Empty(t, auth.Username)
}

func TestDockerConfigurationThatIsAPipe(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "config.json"), 0o600))
	in := Inputs{Docker: dockerconfig.New(map[string]string{"DOCKER_CONFIG": dir}, nil)}
	require.Empty(t, in.logins().AuthConfigs, "it is not waited for")
}
