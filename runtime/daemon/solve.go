package daemon

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"strconv"

	"github.com/containerd/platforms"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/solver/result"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/layout"
)

// product names us in the node's build history.
const product = "dbake"

// Content is the result of one unit as an exporter needs it.
type Content struct {
	Definition *pb.Definition
	Platform   ocispecs.Platform
	// Request are the options that the Dockerfile frontend was given for the
	// result; nil when another frontend made it.
	Request map[string]string
	// Metadata holds the image config and whatever else the frontend returned,
	// under the keys of a single-platform result.
	Metadata map[string][]byte
	// Attestations are built with the image, as an SBOM scan is.
	Attestations []result.Attestation[*pb.Definition]
}

// Daemon is a node as a run needs it: solves in one session. observe receives the status
// of a solve, in order.
type Daemon interface {
	// Evaluate runs every step of p. It calls evaluated when all results are
	// there and then holds them until release is closed.
	Evaluate(ctx context.Context, p Partition, observe func(*bkclient.SolveStatus), evaluated func(), release <-chan struct{}) error
	// Export hands results that the node already holds to an exporter and
	// returns the exporter's response.
	Export(ctx context.Context, req ExportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error)
	// ExportCache writes a cache of results that the node already holds,
	// without any image, and returns the response.
	ExportCache(ctx context.Context, req ExportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error)
	// Pull has the node hold an image for a platform, nil for its own.
	Pull(ctx context.Context, ref string, platform *ocispecs.Platform) error
	// End lets go of what evaluate keeps from one call to the next, and waits.
	End()
}

// solver is a daemon over one session.
type solver struct {
	*link
	session *session.Session
	// life ends when the connection does.
	life         context.Context
	evaluations  evaluations
	retrySteps   bool // steps that fail are executed again
	entitlements []string
	silent       silentCaches
	standIns     standIns
	// asks returns the registries, each named by one of its refs, that do not answer the
	// node in time; unheard is called when a cache is left out.
	asks    func(ctx context.Context, refs map[string]string) []string
	unheard func(where string)
	// services and sharedKey are what a session of its own needs, for exports
	// that cannot share one.
	services  services
	sharedKey string
	dirs      *layout.Locks // of the run
	tracing   *Tracing      // nil is none
}

var _ Daemon = (*solver)(nil)

// Partition is one slice to be evaluated as a whole.
type Partition struct {
	// Joined is the definition whose last op joins the roots of all units, if
	// there is one; single holds one definition for each unit, for nodes without
	// that op.
	Joined *pb.Definition
	Single []*pb.Definition
	// Imports are the same for all solves that share a step: a vertex keeps the cache
	// sources that it had when it was first looked up, so a solve with fewer of them
	// would make its neighbours miss. Results that other nodes have sent come on top,
	// before the first solve that needs them.
	Imports []ir.CacheEntry
	// Takes are steps whose results other nodes have sent: of it, or in its imports.
	Takes []Take
	// Anew says that a step of it has failed on the node before.
	Anew bool
}

// evaluateAll runs every step of p: in one solve, or in one for each unit where
// the node does not know the op that joins them.
func (s *solver) evaluateAll(ctx context.Context, ev *evaluation, p Partition) error {
	c, defs := ev.client, p.Single
	imports, err := s.read(ctx, ev, p.Imports)
	if err != nil {
		return err
	}
	caps := c.BuildOpts().LLBCaps
	if p.Joined != nil && caps.Supports(pb.CapPassthroughOp) == nil {
		defs = []*pb.Definition{p.Joined}
	}
	if defs, imports, err = s.standIns.decide(ctx, c, p.Takes, defs, imports); err != nil {
		return err
	}
	eg, ctx := errgroup.WithContext(ctx)
	for _, def := range defs {
		eg.Go(func() error {
			_, err := c.Solve(ctx, gateway.SolveRequest{
				Evaluate:     true,
				Definition:   def,
				CacheImports: cacheentry.ForGateway(imports),
			})
			return err
		})
	}
	return s.standIns.blame(eg.Wait())
}

// ExportRequest is one output of one target.
type ExportRequest struct {
	Contents []Content
	// Index forces an image index although there is one platform only.
	Index    bool
	Entry    *bkclient.ExportEntry // nil exports cache only
	Place    string                // what takes it on the client; "" when nothing does
	CacheTo  []bkclient.CacheOptionsEntry
	Frontend map[string]string // attestations and SOURCE_DATE_EPOCH, as a frontend would have received them
	// Provenance says which provenance the response holds: [ProvenanceMin], [ProvenanceMax]
	// or "" for none.
	Provenance string
	// Load is set when the output is for a Docker engine. LoadEngine is the ID of that
	// engine.
	Load       bool
	LoadEngine string
	// Unlisted says that an image in a layout gets no entry in its index.
	Unlisted bool
}

// Export implements Daemon.
func (s *solver) Export(ctx context.Context, req ExportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error) {
	if s.link.info.OwnStore {
		return s.exportFromEngine(ctx, req, observe)
	}
	return s.exportPlain(ctx, req, observe)
}

// exportPlain has the node do an export.
func (s *solver) exportPlain(ctx context.Context, req ExportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error) {
	opt := bkclient.SolveOpt{FrontendAttrs: maps.Clone(req.Frontend)}
	if req.Entry != nil {
		entry := *req.Entry
		if s.link.info.EngineID != "" && entry.Type == bkclient.ExporterImage {
			entry.Type = storeExporter // which gives the image its names
		}
		opt.Exports = []bkclient.ExportEntry{entry}
	}
	resp, err := s.withHeard(ctx, req.CacheTo, ir.CacheEntry.MayFail, func(ctx context.Context, caches []bkclient.CacheOptionsEntry) (map[string]string, error) {
		opt.Ref, opt.CacheExports = s.newRef(), caches
		return s.exporting(ctx, req, opt, observe, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
			return s.result(ctx, c, req)
		})
	})
	if err != nil {
		return nil, err
	}
	out := maps.Clone(resp)
	if out == nil {
		out = map[string]string{}
	}
	out[buildRefKey] = s.buildRef(opt.Ref)
	if req.Provenance != "" {
		// The output is there; that a node has forgotten it is no failure.
		if found, err := s.provenance(ctx, opt.Ref, req.Provenance); err == nil {
			maps.Copy(out, found)
		}
	}
	return out, nil
}

// exporting runs an export in the session of the run, or in one of its own when
// something comes to the client.
func (s *solver) exporting(ctx context.Context, req ExportRequest, opt bkclient.SolveOpt, observe func(*bkclient.SolveStatus), f gateway.BuildFunc) (map[string]string, error) {
	build := func(in *session.Session) (map[string]string, error) {
		resp, err := s.build(ctx, in, opt, observe, f)
		if err != nil {
			return nil, err
		}
		return resp.ExporterResponse, nil
	}
	if !req.receives() {
		return build(s.session)
	}
	// The client receives files through the session under the number of the
	// exporter within its solve, so two such exports cannot share one.
	var here faults
	stores, receivers, err := req.receiving(&here)
	if err != nil {
		return nil, err
	}
	own, stop, err := s.openSession(ctx, s.sharedKey, s.services.attachables(stores, receivers...))
	if err != nil {
		return nil, err
	}
	unlock, err := s.dirs.Lock(ctx, req.storeDirs())
	if err != nil {
		stop()
		return nil, err
	}
	defer unlock()
	resp, err := build(own)
	stop()
	if err != nil && ctx.Err() == nil {
		err = cmp.Or(here.at(req.Place), err)
	}
	if err == nil && req.Entry != nil && stores[layoutExport] != nil && !req.Unlisted {
		err = layout.Enter(ctx, req.Entry.OutputDir, resp)
	}
	return resp, err
}

// storeDirs are the directories of the client that take blobs and their index.
func (req *ExportRequest) storeDirs() []string {
	var dirs []string
	if e := req.Entry; e != nil && e.OutputDir != "" && e.Type != bkclient.ExporterLocal {
		dirs = append(dirs, filepath.Clean(e.OutputDir))
	}
	for _, c := range req.CacheTo {
		if c.Type == ir.TypeLocal {
			dirs = append(dirs, filepath.Clean(c.Attrs["dest"]))
		}
	}
	return dirs
}

// ExportCache implements Daemon.
func (s *solver) ExportCache(ctx context.Context, req ExportRequest, observe func(*bkclient.SolveStatus)) (map[string]string, error) {
	spare := func(ir.CacheEntry) bool { return true }
	return s.withHeard(ctx, req.CacheTo, spare, func(ctx context.Context, caches []bkclient.CacheOptionsEntry) (map[string]string, error) {
		return s.exporting(ctx, req, bkclient.SolveOpt{CacheExports: caches}, observe, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
			res := gateway.NewResult()
			// The daemon wants a platform for each of several results, and takes any
			// name for it.
			named := exptypes.Platforms{}
			for i, img := range req.Contents {
				ref, err := s.ref(ctx, c, img.Definition)
				if err != nil {
					return nil, err
				}
				res.AddRef(key(i), ref)
				named.Platforms = append(named.Platforms, exptypes.Platform{ID: key(i), Platform: platformOf(img)})
			}
			dt, err := json.Marshal(named)
			if err != nil {
				return nil, fmt.Errorf("encode platforms: %w", err)
			}
			res.AddMeta(exptypes.ExporterPlatformsKey, dt)
			return res, nil
		})
	})
}

// Pull implements Daemon.
func (s *solver) Pull(ctx context.Context, ref string, platform *ocispecs.Platform) error {
	var opts []llb.ConstraintsOpt
	if platform != nil {
		opts = append(opts, llb.Platform(*platform))
	}
	def, err := llb.Image(ref).Marshal(ctx, opts...)
	if err != nil {
		return fmt.Errorf("definition of %s: %w", ref, err)
	}
	_, err = s.build(ctx, s.session, bkclient.SolveOpt{}, func(*bkclient.SolveStatus) {}, func(ctx context.Context, c gateway.Client) (*gateway.Result, error) {
		res, err := c.Solve(ctx, gateway.SolveRequest{Evaluate: true, Definition: def.ToPB()})
		if err != nil {
			return nil, err
		}
		if ref, err := res.SingleRef(); err == nil && ref != nil {
			// What is read of it has to be there.
			_, err = ref.ReadDir(ctx, gateway.ReadDirRequest{Path: "/"})
			if err != nil {
				return nil, err
			}
		}
		return gateway.NewResult(), nil
	})
	return err
}

// platformOf is the platform to name an image by. The result of a step that does not
// depend on one, as COPY and WORKDIR, goes by any.
func platformOf(img Content) ocispecs.Platform {
	if img.Platform.OS == "" {
		return platforms.DefaultSpec()
	}
	return platforms.Normalize(img.Platform)
}

// ref returns the lazy result of a definition. The node holds what it stands for, so
// no cache is read for it.
func (s *solver) ref(ctx context.Context, c gateway.Client, def *pb.Definition) (gateway.Reference, error) {
	r, err := c.Solve(ctx, gateway.SolveRequest{Definition: s.standIns.replace(def)})
	if err != nil {
		return nil, err
	}
	return r.SingleRef()
}

// result assembles what the Dockerfile frontend would have returned for req.
func (s *solver) result(ctx context.Context, c gateway.Client, req ExportRequest) (*gateway.Result, error) {
	res := gateway.NewResult()
	exported := exptypes.Platforms{Platforms: make([]exptypes.Platform, len(req.Contents))}
	index := req.Index || len(req.Contents) > 1
	for i, img := range req.Contents {
		ref, err := s.describe(ctx, c, img)
		if err != nil {
			return nil, err
		}
		p := platforms.Normalize(img.Platform)
		exported.Platforms[i] = exptypes.Platform{ID: platforms.FormatAll(p), Platform: p}
		suffix := ""
		if index {
			suffix = "/" + exported.Platforms[i].ID
			res.AddRef(exported.Platforms[i].ID, ref)
		} else {
			res.SetRef(ref)
		}
		for k, v := range img.Metadata {
			res.AddMeta(k+suffix, v)
		}
		for _, a := range img.Attestations {
			made, err := result.ConvertAttestation(&a, func(def *pb.Definition) (gateway.Reference, error) {
				return s.ref(ctx, c, def)
			})
			if err != nil {
				return nil, fmt.Errorf("attestation: %w", err)
			}
			res.AddAttestation(exported.Platforms[i].ID, *made)
		}
	}
	dt, err := json.Marshal(exported)
	if err != nil {
		return nil, fmt.Errorf("encode platforms: %w", err)
	}
	res.AddMeta(exptypes.ExporterPlatformsKey, dt)
	return res, nil
}

// build is Client.Build in a session that is open, with the status stream drained
// into observe. Caches are imported by the solves within the build; given to the
// build as well, the client would open those in directories, and write there.
func (s *solver) build(ctx context.Context, in *session.Session, opt bkclient.SolveOpt, observe func(*bkclient.SolveStatus), f gateway.BuildFunc) (*bkclient.SolveResponse, error) {
	opt.SharedSession, opt.SessionPreInitialized = in, true
	opt.AllowedEntitlements = s.entitlements
	opt.Ref = cmp.Or(opt.Ref, s.newRef())
	status := make(chan *bkclient.SolveStatus)
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		for st := range status {
			observe(s.standIns.restore(st))
		}
	}()
	asked := s.tracing.enter(ctx, s.spec.Name, &opt)
	if s.tracing != nil {
		f = trace(asked, f)
	}
	resp, err := s.client.Build(s.link.workers.recall(asked), opt, product, f, status)
	<-drained
	if err != nil && ctx.Err() != nil {
		// The daemon reports a cancelled solve in its own words; the reason
		// is ours.
		return nil, errors.Join(context.Cause(ctx), err)
	}
	return resp, s.standIns.blame(err)
}

// receives reports whether something of req comes to the client as files.
func (req *ExportRequest) receives() bool {
	for _, e := range req.CacheTo {
		if e.Type == ir.TypeLocal {
			return true
		}
	}
	return req.Entry != nil && (req.Entry.Output != nil || req.Entry.OutputDir != "")
}

// key names the i-th result of a solve that has no platforms.
func key(i int) string { return strconv.Itoa(i) }
