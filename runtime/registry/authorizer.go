package registry

import (
	"context"
	"net/http"

	"github.com/containerd/containerd/v2/core/remotes/docker"
)

// authorizer lets one request at a time ask for a token. The library's own reads when
// a token expires while another request may still be writing that; and a token that
// several requests need is asked for once either way.
type authorizer struct {
	docker.Authorizer
	turn chan struct{} // holds one value while a request has its turn
}

func newAuthorizer(a docker.Authorizer) docker.Authorizer {
	return &authorizer{Authorizer: a, turn: make(chan struct{}, 1)}
}

// Authorize implements docker.Authorizer.
func (a *authorizer) Authorize(ctx context.Context, req *http.Request) error {
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-a.turn }()
	return a.Authorizer.Authorize(ctx, req)
}
