package daemon

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/content/proxy"
	controlapi "github.com/moby/buildkit/api/services/control"
	bkclient "github.com/moby/buildkit/client"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc/metadata"
)

const (
	// spansTimeout bounds how long nodes may take to send their spans after a run that
	// was traced.
	spansTimeout = 10 * time.Second
	// maxTrace is the largest trace of one build that is read, in bytes. mostTraces is how many
	// builds of a node are traced, mostSpans how many spans of them are taken.
	maxTrace   = 32 << 20
	mostTraces = 256
	mostSpans  = 50_000
)

// Tracing makes the nodes of one run record spans of their work inside steps, pulls and
// exports, each build under a trace of its own. It is safe for concurrent use.
type Tracing struct {
	mu   sync.Mutex
	refs map[string][]string // of builds, by node
}

// Span is something that a node did.
type Span struct {
	Node       string
	ID, Parent string // "" is the parent of one that has none
	Name       string
	Start, End time.Time // by the clock of the node
	Attributes map[string]string
	Error      string
}

// NewTracing returns one that has no builds yet.
func NewTracing() *Tracing { return &Tracing{refs: map[string][]string{}} }

// traceparent is the name of the header in which W3C's trace context is sent.
const traceparent = "traceparent"

// enter has the build that opt describes traced on a node.
func (t *Tracing) enter(ctx context.Context, node string, opt *bkclient.SolveOpt) context.Context {
	if t == nil || opt.Internal { // of those a node keeps no record
		return ctx
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.refs[node]) >= mostTraces {
		return ctx
	}
	t.refs[node] = append(t.refs[node], opt.Ref)
	sum := sha256.Sum256([]byte(opt.Ref))
	return metadata.AppendToOutgoingContext(ctx, traceparent, fmt.Sprintf("00-%x-%x-01", sum[:16], sum[16:24]))
}

// tracedClient traces solves that come with a context of their own, as parts of its build.
type tracedClient struct {
	gateway.Client
	build context.Context
}

// trace returns f with a client whose solves are parts of the trace of a build.
func trace(build context.Context, f gateway.BuildFunc) gateway.BuildFunc {
	return func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		return f(ctx, tracedClient{c, build})
	}
}

// Solve implements gateway.Client.
func (c tracedClient) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if md, ok := metadata.FromOutgoingContext(c.build); ok {
		for _, value := range md.Get(traceparent) {
			ctx = metadata.AppendToOutgoingContext(ctx, traceparent, value)
		}
	}
	return c.Client.Solve(ctx, req)
}

// Spans asks the nodes for their spans. Those not reported in time, or not kept, are left out;
// the error names the nodes.
func (p *Pool) Spans(ctx context.Context, t *Tracing) ([]Span, error) {
	ctx, cancel := context.WithTimeout(ctx, spansTimeout)
	defer cancel()
	nodes, _ := p.members()
	lists, errs := make([][]Span, len(nodes)), make([]error, len(nodes))
	var eg errgroup.Group
	for i, n := range nodes {
		t.mu.Lock()
		refs := t.refs[n.spec.Name]
		t.mu.Unlock()
		if len(refs) == 0 {
			continue
		}
		eg.Go(func() error {
			l, err := n.current()
			if err == nil {
				lists[i], err = l.spans(ctx, n.spec.Name, refs)
			}
			if err != nil {
				errs[i] = fmt.Errorf("spans of node %s: %w", n.spec.Name, err)
			}
			return nil
		})
	}
	_ = eg.Wait() // they report through errs
	var all []Span
	for _, list := range lists {
		all = append(all, list...)
	}
	return all, errors.Join(errs...)
}

// spans reads the traces of some builds.
func (l *link) spans(ctx context.Context, node string, refs []string) ([]Span, error) {
	store := proxy.NewContentStore(l.client.ContentClient())
	var list []Span
	seen := map[string]bool{}
	for _, ref := range refs {
		blob, err := l.trace(ctx, ref)
		if err != nil {
			return list, err
		}
		if blob == nil || blob.Size > maxTrace {
			continue
		}
		dt, err := content.ReadBlob(ctx, store, ocispecs.Descriptor{Digest: digest.Digest(blob.Digest), Size: blob.Size, MediaType: blob.MediaType})
		if err != nil {
			return list, err
		}
		for _, s := range readSpans(dt) {
			if seen[s.ID] {
				continue
			}
			if len(list) == mostSpans {
				return list, fmt.Errorf("there are more than %d", mostSpans)
			}
			seen[s.ID] = true
			s.Node = node
			list = append(list, s)
		}
	}
	return list, nil
}

// trace returns where the trace of a build is, which has ended; nil when the node keeps
// none.
func (l *link) trace(ctx context.Context, ref string) (*controlapi.Descriptor, error) {
	// A node waits some seconds for late spans, unless somebody wants them.
	if _, err := l.client.ControlClient().UpdateBuildHistory(ctx, &controlapi.UpdateBuildHistoryRequest{Ref: ref, Finalize: true}); err != nil {
		return nil, err
	}
	var blob *controlapi.Descriptor
	err := l.history(ctx, &controlapi.BuildHistoryRequest{Ref: ref}, func(event *controlapi.BuildHistoryEvent) {
		if t := event.GetRecord().GetTrace(); t != nil {
			blob = t
		}
	})
	if err != nil {
		return nil, err
	}
	return blob, nil
}

// spanRecord is the part of a span that is read, as BuildKit keeps it.
type spanRecord struct {
	Name        string
	SpanContext struct{ SpanID string }
	Parent      struct{ SpanID string }
	StartTime   time.Time
	EndTime     time.Time
	Attributes  []struct {
		Key   string
		Value struct{ Value any }
	}
	Status struct {
		Code        any // a number, or its name
		Description string
	}
}

// noSpan is the id of a span that is none.
var noSpan = hex.EncodeToString(make([]byte, 8))

// readSpans reads the spans of a trace, up to the first that has no known form.
func readSpans(dt []byte) []Span {
	var list []Span
	dec := json.NewDecoder(bytes.NewReader(dt))
	for {
		var r spanRecord
		if err := dec.Decode(&r); err != nil {
			return list
		}
		if r.SpanContext.SpanID == "" || r.SpanContext.SpanID == noSpan || r.EndTime.Before(r.StartTime) {
			continue
		}
		s := Span{ID: r.SpanContext.SpanID, Parent: r.Parent.SpanID, Name: r.Name, Start: r.StartTime, End: r.EndTime}
		if s.Parent == noSpan {
			s.Parent = ""
		}
		for _, a := range r.Attributes {
			if s.Attributes == nil {
				s.Attributes = map[string]string{}
			}
			s.Attributes[a.Key] = fmt.Sprint(a.Value.Value)
		}
		if r.Status.Code == 1. || r.Status.Code == "Error" {
			s.Error = r.Status.Description
		}
		list = append(list, s)
	}
}
