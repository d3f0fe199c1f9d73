package runtime

import (
	"context"
	"io"
	"os"
	"path/filepath"

	"github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/session/auth/authprovider"

	"github.com/dbake/dbake/runtime/registry"
)

// dockerConfig is the user's docker configuration. One that is no file, as a pipe that
// would be waited for, is as good as none: the command line warns of it.
func dockerConfig() *configfile.ConfigFile {
	name := filepath.Join(config.Dir(), config.ConfigFileName)
	if info, err := os.Stat(name); err == nil && !info.Mode().IsRegular() {
		return configfile.New(name)
	}
	return config.LoadDefaultConfigFile(io.Discard)
}

// askHelper gives a credential helper that does not answer up. Its process cannot be
// ended from here, and is left to itself.
func askHelper(ask authprovider.AuthConfigProvider) authprovider.AuthConfigProvider {
	return func(ctx context.Context, host string, scopes []string, expired authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, registry.HelperTimeout, &registry.HelperError{Host: host})
		defer cancel()
		type answer struct {
			auth types.AuthConfig
			err  error
		}
		answered := make(chan answer, 1)
		go func() {
			auth, err := ask(ctx, host, scopes, expired)
			answered <- answer{auth, err}
		}()
		select {
		case a := <-answered:
			return a.auth, a.err
		case <-ctx.Done():
			return types.AuthConfig{}, context.Cause(ctx)
		}
	}
}
