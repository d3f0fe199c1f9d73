package frontend

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// recorder is the gateway client that a frontend run in this process sees. It
// answers what it can from the disk and the image resolver, asks remote for the
// rest when there is one, and never builds anything here.
type recorder struct {
	in        *inputs
	resolver  Resolver
	remote    gateway.Client // nil while there is no node
	syntax    string         // Options.Syntax
	attrs     map[string]string
	platform  ocispecs.Platform // of the nodes
	llbCaps   apicaps.CapSet
	caps      apicaps.CapSet
	frontends map[string]llb.State
	commits   *commits  // nil while there is no node that could be asked
	contents  *contents // nil unless URLs are to be fetched

	mu       sync.Mutex // guards the fields below
	images   map[string]bool
	assumed  map[string]bool
	asked    []imageAnswer
	read     []fileAnswer
	warnings []recordedWarning
	need     *needsNode // the first fact that only a node has

	dockerfile *recordedRef // where a remote Dockerfile was read from
	foreign    string       // the frontend image that was run on the node
	urls       []URL        // those that a node has fetched
}

type recordedWarning struct {
	message string
	opts    gateway.WarnOpts
}

var _ gateway.Client = (*recorder)(nil)

// needsNode is an error about facts that only a node can find out.
type needsNode struct {
	what string
	attr string // the attribute of the target that asks for it
}

// Error names the missing fact.
func (e *needsNode) Error() string { return e.what }

// inProcess informs the caller of a frontend that its syntax line names an image
// whose frontend is the one that is linked in.
type inProcess struct{ cmdline string }

// Error is seen only if the error escapes.
func (e *inProcess) Error() string { return "frontend " + e.cmdline + " runs in process" }

func newRecorder(ctx context.Context, c *compilation, in *inputs, remote gateway.Client) (*recorder, error) {
	r := &recorder{
		in:        in,
		resolver:  c.Resolver,
		remote:    remote,
		syntax:    c.Syntax,
		attrs:     maps.Clone(in.attrs),
		platform:  c.NodePlatform,
		llbCaps:   c.llbCaps,
		caps:      c.gatewayCaps,
		frontends: make(map[string]llb.State, len(in.defs)+len(in.linked)),
		images:    map[string]bool{},
		assumed:   map[string]bool{},
	}
	if c.Gateway != nil {
		r.commits = &c.commits
		if c.FetchURLs {
			r.contents = &c.contents
		}
	}
	for name, u := range in.linked {
		st, err := c.marked.state(ctx, c, u)
		if err != nil {
			return nil, fmt.Errorf("result of linked target %s: %w", u.Target.Name, err)
		}
		r.frontends[name] = st
	}
	for name, def := range in.defs {
		st, err := defState(def)
		if err != nil {
			return nil, fmt.Errorf("context %s: %w", name, err)
		}
		r.frontends[name] = st
	}
	return r, nil
}

// nodeOr returns the node's client, or the error that asks for one.
func (r *recorder) nodeOr(attr, format string, args ...any) (gateway.Client, error) {
	if r.remote != nil {
		return r.remote, nil
	}
	e := &needsNode{what: fmt.Sprintf(format, args...), attr: attr}
	r.mu.Lock()
	defer r.mu.Unlock()
	// The frontend forgives some failed reads, so that the error alone may get
	// lost on its way.
	if r.need == nil {
		r.need = e
	}
	return nil, e
}

// ranForeign notes that a frontend image made the result.
func (r *recorder) ranForeign(image string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.foreign = image
}

// readDockerfile notes that the Dockerfile lies in ref.
func (r *recorder) readDockerfile(ref *recordedRef) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dockerfile = ref
}

// recordedSession keeps BuildKit from giving local sources a random attribute. The
// rewriter removes it from definitions.
const recordedSession = "dbake"

// BuildOpts implements gateway.Client. The frontend writes into the options it
// gets, so that every call returns its own.
func (r *recorder) BuildOpts() gateway.BuildOpts {
	session := recordedSession
	if r.remote != nil {
		session = r.remote.BuildOpts().SessionID
	}
	return gateway.BuildOpts{
		Opts:      maps.Clone(r.attrs),
		SessionID: session,
		Workers:   []gateway.WorkerInfo{{Platforms: []ocispecs.Platform{r.platform}}},
		LLBCaps:   r.llbCaps,
		Caps:      r.caps,
	}
}

// Inputs implements gateway.Client.
func (r *recorder) Inputs(context.Context) (map[string]llb.State, error) {
	return maps.Clone(r.frontends), nil
}

// Warn implements gateway.Client.
func (r *recorder) Warn(_ context.Context, _ digest.Digest, msg string, opts gateway.WarnOpts) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.warnings = append(r.warnings, recordedWarning{message: msg, opts: opts})
	return nil
}

// NewContainer implements gateway.Client. The Dockerfile frontend starts none.
func (r *recorder) NewContainer(context.Context, gateway.NewContainerRequest) (gateway.Container, error) {
	return nil, errors.New("containers cannot be started while compiling")
}

// Solve implements gateway.Client.
func (r *recorder) Solve(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	if req.Frontend != "" {
		return r.solveFrontend(ctx, req)
	}
	res := gateway.NewResult()
	if src := localSource(req.Definition); src != nil {
		name := strings.TrimPrefix(src.Identifier, "local://")
		s, ok := r.in.sources[name]
		if !ok {
			return nil, fmt.Errorf("no local source %s", name)
		}
		dir, err := newDirRef(s, req.Definition, src.Attrs)
		if err != nil {
			return nil, fmt.Errorf("local source %s: %w", name, err)
		}
		res.SetRef(&watchedDir{dirRef: dir, recorder: r, source: name, attrs: src.Attrs})
		return res, nil
	}
	res.SetRef(&recordedRef{recorder: r, def: req.Definition})
	return res, nil
}

// solveFrontend runs another frontend on the node, except for those images that
// hold the frontend which is linked in.
func (r *recorder) solveFrontend(ctx context.Context, req gateway.SolveRequest) (*gateway.Result, error) {
	image := req.FrontendOpt["source"]
	if req.Frontend == "gateway.v0" && r.syntax != SyntaxRemote && isDockerfileFrontend(image) {
		return nil, &inProcess{cmdline: req.FrontendOpt["cmdline"]}
	}
	node, err := r.nodeOr("dockerfile", "%s is built by the frontend image %s", r.in.dockerfilePath, image)
	if err != nil {
		return nil, err
	}
	// Nodes would look the image up at different times.
	pinned, _, err := r.image(ctx, image, r.platform)
	if err != nil {
		return nil, metadataError(image, err)
	}
	req.FrontendOpt = maps.Clone(req.FrontendOpt)
	req.FrontendOpt["source"] = pinned
	r.ranForeign(pinned)
	req.Evaluate = false
	res, err := node.Solve(ctx, req)
	if err != nil && strings.HasPrefix(err.Error(), exitCode) {
		// BuildKit sends a frontend's standard error to that of the daemon, not here.
		return nil, fmt.Errorf("the frontend %s ended with %w; what it printed is in the log of the node's daemon", image, err)
	}
	return res, err
}

// exitCode starts BuildKit's error of a process that failed and said nothing of why.
const exitCode = "exit code: "

// isDockerfileFrontend reports whether an image of a syntax line holds BuildKit's
// own Dockerfile frontend, in any of its versions.
func isDockerfileFrontend(image string) bool {
	ref, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return false
	}
	switch ref.Name() {
	case "docker.io/docker/dockerfile", "docker.io/docker/dockerfile-upstream":
		return true
	}
	return false
}

// ResolveImageConfig implements gateway.Client. The reference it returns names
// the digest, so that the frontend's image sources do as well.
func (r *recorder) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	pinned, img, err := r.resolve(ctx, ref, opt)
	if err != nil {
		return "", "", nil, metadataError(ref, err)
	}
	return pinned, img.Digest, img.Config, nil
}

func (r *recorder) resolve(ctx context.Context, ref string, opt sourceresolver.Opt) (string, *Image, error) {
	p := r.platform
	if o := opt.OCILayoutOpt; o != nil {
		if o.Platform != nil {
			p = *o.Platform
		}
		img, err := layoutImage(ctx, r.in.ociStores[o.Store.StoreID], ref, p)
		return ref, img, err
	}
	if o := opt.ImageOpt; o != nil && o.Platform != nil {
		p = *o.Platform
	}
	return r.image(ctx, ref, p)
}

// metadataError is a node's error when an image cannot be resolved.
func metadataError(ref string, err error) error {
	return fmt.Errorf("failed to resolve source metadata for %s: %w", ref, err)
}

// image resolves an image and returns its pinned reference.
func (r *recorder) image(ctx context.Context, ref string, p ocispecs.Platform) (string, *Image, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return "", nil, fmt.Errorf("could not parse reference %q: %w", ref, err)
	}
	named = reference.TagNameOnly(named)
	img, err := r.resolver.Resolve(ctx, ImageRequest{Ref: named, Platform: platforms.Normalize(p)})
	if err != nil {
		return "", nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, newImageAnswer(named, platforms.Normalize(p), img))
	r.images[named.String()] = true
	if img.Assumed {
		r.assumed[named.String()] = true
	}
	if img.Digest == "" {
		return named.String(), img, nil
	}
	pinned, err := reference.WithDigest(named, img.Digest)
	if err != nil {
		return "", nil, fmt.Errorf("pin %s: %w", named, err)
	}
	return pinned.String(), img, nil
}

// ResolveSourceMetadata implements gateway.Client.
func (r *recorder) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	scheme, ref, _ := strings.Cut(op.Identifier, "://")
	switch scheme {
	case "docker-image", "oci-layout":
		if scheme == "oci-layout" && opt.OCILayoutOpt == nil {
			opt.OCILayoutOpt = &sourceresolver.ResolveOCILayoutOpt{
				Store: sourceresolver.ResolveImageConfigOptStore{StoreID: op.Attrs[pb.AttrOCILayoutStoreID]},
			}
		}
		ref, img, err := r.resolve(ctx, ref, opt)
		if err != nil {
			return nil, err // the caller says what it is about
		}
		op = op.CloneVT()
		op.Identifier = scheme + "://" + ref
		return &sourceresolver.MetaResponse{
			Op:    op,
			Image: &sourceresolver.ResolveImageResponse{Digest: img.Digest, Config: img.Config},
		}, nil
	}
	node, err := r.nodeOr("args.SOURCE_DATE_EPOCH", "metadata of %s", op.Identifier)
	if err != nil {
		return nil, err
	}
	return node.ResolveSourceMetadata(ctx, op, opt)
}

// localSource returns the source op of a definition that is one local source.
func localSource(def *pb.Definition) *pb.SourceOp {
	if def == nil || len(def.Def) != 2 { // the source and the terminal op
		return nil
	}
	var op pb.Op
	if err := op.UnmarshalVT(def.Def[0]); err != nil {
		return nil
	}
	if src := op.GetSource(); src != nil && strings.HasPrefix(src.Identifier, "local://") {
		return src
	}
	return nil
}
