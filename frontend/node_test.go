package frontend

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/registry"
)

// nodeImages is a node that knows every image, or none.
type nodeImages struct {
	err   error
	after time.Duration
	asked atomic.Int32

	mu   sync.Mutex
	refs []string // guarded by mu
}

const nodeDigest = digest.Digest("sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc")

func (n *nodeImages) resolve(ctx context.Context, req ImageRequest) (*Image, error) {
	n.asked.Add(1)
	n.mu.Lock()
	n.refs = append(n.refs, req.Ref.String()+" "+req.Platform.Architecture)
	n.mu.Unlock()
	select {
	case <-time.After(n.after):
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if n.err != nil {
		return nil, n.err
	}
	return &Image{Digest: nodeDigest, Config: []byte(`{"architecture":"` + req.Platform.Architecture + `"}`)}, nil
}

// TestNodeAnswers has a node answer where this machine does not, and pins what it
// says for all platforms.
func TestNodeAnswers(t *testing.T) {
	refused := func(context.Context, string, string) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: &net.DNSError{Err: "no such host", Name: "inside.test", IsNotFound: true}}
	}
	client := registry.New(registry.Options{Dial: refused})
	t.Cleanup(client.Close)
	node := &nodeImages{}
	r := NewRegistryResolver(RegistryOptions{Client: client, Node: node.resolve})
	for _, p := range []string{"amd64", "arm64", "amd64"} {
		img, err := r.Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, "inside.test/x:1"), Platform: platform(p)})
		require.NoError(t, err)
		require.Equal(t, nodeDigest, img.Digest)
		require.JSONEq(t, `{"architecture":"`+p+`"}`, string(img.Config))
	}
	pinned, err := reference.WithDigest(parseNamed(t, "inside.test/x:1"), nodeDigest)
	require.NoError(t, err)
	require.Equal(t, []string{"inside.test/x:1 amd64", pinned.String() + " amd64", pinned.String() + " arm64"}, node.refs)

	// An image that neither has is reported in the words of both; the node's come first.
	node.err = errors.New("node n1: not found")
	_, err = r.Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, "inside.test/y:1"), Platform: amd64})
	require.EqualError(t, err, "node n1: not found; asked from here: registry inside.test cannot be reached: dial tcp: lookup inside.test: no such host")
	require.ErrorIs(t, err, registry.ErrUnreachable)

	// Without a node that knows more, the client's words stand alone.
	node.err = ErrNoNode
	_, err = r.Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, "inside.test/y:1"), Platform: amd64})
	require.EqualError(t, err, "registry inside.test cannot be reached: dial tcp: lookup inside.test: no such host")
}

// What the registry refuses here a node may have: it counts.
func TestNodeAnswersAfterRefusal(t *testing.T) {
	s := newStubRegistry(t)
	node := &nodeImages{}
	o := s.options(t)
	o.Node = node.resolve
	r := NewRegistryResolver(o)
	img, err := r.Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, s.host()+"/missing:1"), Platform: amd64})
	require.NoError(t, err)
	require.Equal(t, nodeDigest, img.Digest)

	// What this machine finds is not asked of a node.
	asked := node.asked.Load()
	img, err = r.Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, "alpine"), Platform: amd64})
	require.NoError(t, err)
	require.NotEqual(t, nodeDigest, img.Digest)
	require.Equal(t, asked, node.asked.Load())
}

// A registry that does not answer here is not waited for: a node is asked meanwhile,
// and the first image counts.
func TestNodeIsAskedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		never := func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		client := registry.New(registry.Options{Dial: never})
		defer client.Close()
		start := time.Now()
		node := &nodeImages{after: time.Second}
		r := NewRegistryResolver(RegistryOptions{Client: client, Node: node.resolve})
		_, err := r.Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, "inside.test/x:1"), Platform: amd64})
		require.NoError(t, err)
		require.Equal(t, nodeDelay+2*time.Second, time.Since(start), "one request for the digest, one for the config")

		// Whoever gives up is answered at once.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		_, err = r.Resolve(ctx, ImageRequest{Ref: parseNamed(t, "inside.test/y:1"), Platform: amd64})
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Second, time.Since(start))
	})
}

// A registry that gives the digest but not the config leaves that to the node.
func TestNodeGivesTheConfig(t *testing.T) {
	s := newStubRegistry(t)
	front := http.NewServeMux()
	front.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		s.ServeHTTP(w, r)
	})
	s.Config.Handler = front
	node := &nodeImages{}
	o := s.options(t)
	o.Node = node.resolve
	img, err := NewRegistryResolver(o).Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, "alpine"), Platform: arm64})
	require.NoError(t, err)
	require.NotEqual(t, nodeDigest, img.Digest, "the registry's own")
	require.JSONEq(t, `{"architecture":"arm64"}`, string(img.Config))
	require.Equal(t, []string{"docker.io/library/alpine:latest@" + img.Digest.String() + " arm64"}, node.refs)
}

func platform(arch string) ocispecs.Platform {
	return ocispecs.Platform{OS: "linux", Architecture: arch}
}

// Where nobody can be reached, what was answered last is recalled if that is wanted, of
// this machine and of nodes; where somebody answers, it is not.
func TestRecall(t *testing.T) {
	s := newStubRegistry(t)
	node, dir := &nodeImages{}, t.TempDir()
	o := s.options(t)
	o.CacheDir, o.Node = dir, node.resolve
	hub, inside := ImageRequest{Ref: parseNamed(t, "alpine"), Platform: amd64}, ImageRequest{Ref: parseNamed(t, s.host()+"/missing:1"), Platform: amd64}
	r := NewRegistryResolver(o)
	first, err := r.Resolve(t.Context(), hub)
	require.NoError(t, err)
	onNode, err := r.Resolve(t.Context(), inside)
	require.NoError(t, err)
	require.Equal(t, nodeDigest, onNode.Digest)

	node.err = ErrNodesAway
	o.Recall = true
	r = NewRegistryResolver(o)
	img, err := r.Resolve(t.Context(), hub)
	require.NoError(t, err)
	require.Equal(t, first, img)
	require.False(t, r.Recalled(), "the registry was asked")
	img, err = r.Resolve(t.Context(), inside)
	require.NoError(t, err)
	require.Equal(t, onNode, img)
	require.True(t, r.Recalled())
	_, err = r.Resolve(t.Context(), ImageRequest{Ref: inside.Ref, Platform: arm64})
	require.ErrorIs(t, err, ErrNodesAway, "of another platform nothing was said")

	// A node that says that there is none is believed.
	node.err = registry.ErrNotFound
	_, err = NewRegistryResolver(o).Resolve(t.Context(), inside)
	require.ErrorIs(t, err, registry.ErrNotFound)

	s.Close()
	node.err = ErrNodesAway
	r = NewRegistryResolver(o)
	img, err = r.Resolve(t.Context(), hub)
	require.NoError(t, err)
	require.Equal(t, first, img)
	require.True(t, r.Recalled())
	o.Recall = false
	_, err = NewRegistryResolver(o).Resolve(t.Context(), hub)
	require.Error(t, err)
}
