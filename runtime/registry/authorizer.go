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
	return heeding(ctx, func() error {
		defer func() { <-a.turn }()
		return a.Authorizer.Authorize(ctx, req)
	})
}

// AddResponses implements docker.Authorizer. It asks for credentials.
func (a *authorizer) AddResponses(ctx context.Context, responses []*http.Response) error {
	return heeding(ctx, func() error { return a.Authorizer.AddResponses(ctx, responses) })
}

// heeding returns what f does, or the cause of ctx when that ends first: what waits for
// a credential helper knows no context. f is then left to end by itself, at the latest
// after HelperTimeout.
func heeding(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
