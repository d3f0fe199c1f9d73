package daemon

import (
	"context"

	"github.com/docker/cli/cli/config/configfile"
	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/session/auth/authprovider"

	"github.com/dbake/dbake/runtime/registry"
)

// logins returns the credentials for registries. A Docker configuration that cannot be read
// counts as none: a node may need none.
func (in Inputs) logins() *configfile.ConfigFile {
	if in.Docker == nil {
		return configfile.New("")
	}
	return in.Docker.Optional()
}

// loginsFor returns a provider of the credentials in logins. Its errors name the registry, and
// the helper that was asked.
func loginsFor(logins *configfile.ConfigFile) authprovider.AuthConfigProvider {
	ask := askHelper(authprovider.LoadAuthConfig(logins))
	return func(ctx context.Context, host string, scopes []string, expired authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
		auth, err := ask(ctx, host, scopes, expired)
		return auth, registry.NoCredentials(logins, host, err)
	}
}

// askHelper gives up a credential helper that does not answer. Its process cannot be ended from
// here, and is left behind.
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
