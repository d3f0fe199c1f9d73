package engine

import (
	"context"
	"errors"
	"net"
	"testing"

	"github.com/distribution/reference"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/runtime/registry"
)

// resolverFunc is a frontend.Resolver.
type resolverFunc func() (*frontend.Image, error)

func (f resolverFunc) Resolve(context.Context, frontend.ImageRequest) (*frontend.Image, error) {
	return f()
}

// Only what is wrong with the network is made up for by a guess, and each guess is
// told once.
func TestUnreachable(t *testing.T) {
	ref, err := reference.ParseNormalizedNamed("example.com/x:1")
	require.NoError(t, err)
	req := frontend.ImageRequest{Ref: ref}
	var noted []string
	known, guess := &frontend.Image{Digest: "d"}, &frontend.Image{Assumed: true}
	answer := func(img *frontend.Image, err error) frontend.Resolver {
		return resolverFunc(func() (*frontend.Image, error) { return img, err })
	}
	u := &unreachable{noted: map[string]bool{}, note: func(image string, _ error) { noted = append(noted, image) }}

	u.Resolver, u.offline = answer(known, nil), answer(guess, nil)
	img, err := u.Resolve(t.Context(), req)
	require.NoError(t, err)
	require.Same(t, known, img)

	missing := errors.New("not found")
	u.Resolver = answer(nil, missing)
	_, err = u.Resolve(t.Context(), req)
	require.ErrorIs(t, err, missing)

	u.Resolver = answer(nil, &registry.Error{Kind: registry.ErrUnreachable, Err: &net.DNSError{Err: "no such host"}})
	for range 2 {
		img, err = u.Resolve(t.Context(), req)
		require.NoError(t, err)
		require.Same(t, guess, img)
	}
	require.Equal(t, []string{"example.com/x:1"}, noted)

	u.offline = answer(known, nil)
	img, err = u.Resolve(t.Context(), frontend.ImageRequest{Ref: reference.TrimNamed(ref)})
	require.NoError(t, err)
	require.Same(t, known, img)
	require.Len(t, noted, 1)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = u.Resolve(ctx, req)
	require.Error(t, err)
}
