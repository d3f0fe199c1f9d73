package frontend

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/urlutil"
	digest "github.com/opencontainers/go-digest"
)

// Named is a gateway client that knows its node.
type Named interface {
	gateway.Client
	// Node is the name of the node.
	Node() string
}

// URL is what an HTTP source without a checksum had to say in this run.
type URL struct {
	Source   string        // the identifier of its op
	Checksum digest.Digest // the attribute that it has since
	// Node has it; "" is unknown.
	Node string
}

// contents are what HTTP sources without a checksum hold during one run.
type contents struct {
	mu   sync.Mutex
	urls map[string]*URL // by all that the request consists of
	// locks are held while a node is asked, by the same.
	locks map[string]*sync.Mutex
}

// get returns what ask finds out, which is called once for a key unless it fails.
func (c *contents) get(key string, ask func() (*URL, error)) (*URL, error) {
	c.mu.Lock()
	if c.urls == nil {
		c.urls, c.locks = map[string]*URL{}, map[string]*sync.Mutex{}
	}
	lock := c.locks[key]
	if lock == nil {
		lock = &sync.Mutex{}
		c.locks[key] = lock
	}
	c.mu.Unlock()
	lock.Lock()
	defer lock.Unlock()
	c.mu.Lock()
	known := c.urls[key]
	c.mu.Unlock()
	if known != nil {
		return known, nil
	}
	u, err := ask()
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.urls[key] = u
	return u, nil
}

// pinHTTP has a node fetch what a URL holds, so that it is the same for all steps of the
// run, and reports whether the source was changed. A source that cannot be fetched is left
// as it is: its step says why. Nodes from before BuildKit 0.26 do not say.
func (r *recorder) pinHTTP(ctx context.Context, op *pb.Op, src *pb.SourceOp) (bool, error) {
	if r.contents == nil || src.Attrs[pb.AttrHTTPChecksum] != "" || r.llbCaps.Supports(pb.CapSourceHTTPChecksum) != nil {
		return false, nil
	}
	node, err := r.nodeOr("dockerfile", "what is at %s has to be found", urlutil.RedactCredentials(src.Identifier))
	if err != nil {
		return false, err
	}
	var key strings.Builder
	key.WriteString(src.Identifier)
	for _, k := range slices.Sorted(maps.Keys(src.Attrs)) {
		fmt.Fprintf(&key, "\x00%s\x00%s", k, src.Attrs[k])
	}
	u, err := r.contents.get(key.String(), func() (*URL, error) {
		u, err := fetchURL(ctx, node, op, src)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			return &URL{}, nil
		}
		return u, nil
	})
	if err != nil || u.Checksum == "" {
		return false, err
	}
	if src.Attrs == nil {
		src.Attrs = map[string]string{}
	}
	src.Attrs[pb.AttrHTTPChecksum] = u.Checksum.String()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.urls = append(r.urls, *u)
	return true, nil
}

// fetchURL has the node fetch the source and keep it under its checksum. Both are done in
// one build, in which a node asks a URL once.
func fetchURL(ctx context.Context, node gateway.Client, op *pb.Op, src *pb.SourceOp) (*URL, error) {
	name := urlutil.RedactCredentials(src.Identifier)
	res, err := node.ResolveSourceMetadata(ctx, src.CloneVT(), sourceresolver.Opt{LogName: "[internal] find what is at " + name})
	if err != nil || res.HTTP == nil || res.HTTP.Digest == "" {
		return &URL{}, err
	}
	pinned := op.CloneVT()
	source := pinned.GetSource()
	if source.Attrs == nil {
		source.Attrs = map[string]string{}
	}
	source.Attrs[pb.AttrHTTPChecksum] = res.HTTP.Digest.String()
	dt, err := pinned.Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode the source %s: %w", name, err)
	}
	end, err := (&pb.Op{Inputs: []*pb.Input{{Digest: digest.FromBytes(dt).String()}}}).Marshal()
	if err != nil {
		return nil, fmt.Errorf("encode the source %s: %w", name, err)
	}
	_, err = node.Solve(ctx, gateway.SolveRequest{Evaluate: true, Definition: &pb.Definition{Def: [][]byte{dt, end}}})
	if err != nil {
		return nil, err
	}
	u := &URL{Source: src.Identifier, Checksum: res.HTTP.Digest}
	if n, ok := node.(Named); ok {
		u.Node = n.Node()
	}
	return u, nil
}
