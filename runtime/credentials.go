package runtime

import (
	"context"
	"fmt"
	"time"

	"github.com/docker/cli/cli/config/types"
	"github.com/moby/buildkit/session/auth/authprovider"
)

// helperTimeout bounds how long a credential helper may take. Some ask a person.
const helperTimeout = 60 * time.Second

// askHelper gives a credential helper that does not answer up. Its process cannot be
// ended from here, and is left to itself.
func askHelper(ask authprovider.AuthConfigProvider) authprovider.AuthConfigProvider {
	return func(ctx context.Context, host string, scopes []string, expired authprovider.ExpireCachedAuthCheck) (types.AuthConfig, error) {
		ctx, cancel := context.WithTimeoutCause(ctx, helperTimeout,
			fmt.Errorf("credentials for %s: the credential helper of the Docker configuration has not answered for %s", host, helperTimeout))
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
