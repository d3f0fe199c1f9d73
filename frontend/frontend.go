package frontend

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/containerd/platforms"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/solver/result"
	"github.com/moby/buildkit/util/apicaps"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/units"
)

// SyntaxRemote, as [Options.Syntax], makes a node run the frontend image that a
// Dockerfile's syntax line names, docker/dockerfile included.
const SyntaxRemote = "remote"

// Options say how to compile. Only Resolver must be set.
type Options struct {
	// Dir is the absolute directory against which relative paths stand; empty
	// is the project's.
	Dir string
	// GitQueryAsInput gives frontends the repository, and not the URL, of a git context
	// whose URL has a query.
	GitQueryAsInput bool
	// Resolver answers questions about images.
	Resolver Resolver
	// Gateway reaches a node for what cannot be compiled here; nil when there
	// is none.
	Gateway Gateway
	// FetchURLs has a node fetch what HTTP sources without a checksum hold, so that all
	// steps get the same.
	FetchURLs bool
	// Tree is the repository or archive that the project was read from, which
	// the remote contexts of its targets are directories of; nil when there is
	// none.
	Tree *pb.Definition
	// NodePlatform is the build platform of all units and the target platform
	// of units that do not name one; zero is the platform of this machine.
	NodePlatform ocispecs.Platform
	// ProxyArgs are build args that apply to every target which does not set
	// them: the proxy settings of the user's docker configuration.
	ProxyArgs map[string]string
	// DefaultProvenance is the value of the provenance attestation for targets
	// that do not speak about it, as "mode=min,inline-only=true"; empty is no
	// provenance.
	DefaultProvenance string
	// VCS says what is known of the work tree that a directory lies in; ok is
	// false when it lies in none. It is asked about contexts, one at a time; nil
	// is no answer. VCSProvenance and VCSLabels say where it goes.
	VCS                      func(dir string) (v VCS, ok bool)
	VCSProvenance, VCSLabels bool
	// Syntax is empty or SyntaxRemote.
	Syntax string
	// LLBCaps are the capabilities that all nodes have; nil is those of the
	// BuildKit release this package is built with. Ops that need others are not
	// used where there is another way, as for COPY --link; a step that needs one
	// for which there is none fails on the node, which says so.
	LLBCaps *apicaps.CapSet
	// HostGateway is the IP address that "host-gateway" stands for among extra hosts; empty
	// is not known.
	HostGateway string
	// Units remembers compiled units; nil does not.
	Units *units.Store
	// Parallelism is how many units are compiled at once; 0 is one for each
	// processor, at least four since much of the time is spent waiting for
	// registries.
	Parallelism int
}

// Unit is a compiled unit.
type Unit struct {
	ID     ir.UnitID
	Target *ir.Target
	// Platform is the target platform, normalized: the one the unit names, or
	// the nodes'.
	Platform ocispecs.Platform
	// ExportPlatform is the platform under which the result is exported. It
	// differs from Platform only for Windows images, which take the version
	// from their base.
	ExportPlatform ocispecs.Platform
	// Dockerfile is the Dockerfile as the user knows it: its path below the project,
	// else its absolute path, or what names one that is elsewhere or inline.
	Dockerfile string
	// MultiPlatform is true when the target's result is an index although it
	// may have one platform only: it has several, or asks for one with the
	// build arg BUILDKIT_MULTI_PLATFORM.
	MultiPlatform bool

	// Definition is the LLB, in topological order, its last op the terminal
	// one. A result without any content, as that of a bare FROM scratch, has no
	// ops. It is nil where it is packed, as of units that are remembered: [Unit.LLB]
	// returns it in any case.
	Definition *pb.Definition
	packed     *packed
	// Config is the image config (exptypes.ExporterImageConfigKey); nil when a
	// foreign frontend gave none.
	Config []byte
	// Metadata is what else the frontend said about the result, as the base
	// image's config and the source date epoch; keys are those of a result with
	// one platform, without a platform suffix.
	Metadata map[string][]byte
	// Attestations are the attestations that have to be built with the result,
	// as the run of an SBOM scanner.
	Attestations []result.Attestation[*pb.Definition]
	// FrontendAttrs are the options that the unit was compiled with, as a
	// build through dockerfile.v0 would have them. Among them are the
	// attestation requests ("attest:...") that the exporting side acts on.
	FrontendAttrs map[string]string
	// Frontend is the image of the frontend that a node compiled the unit with;
	// "" is BuildKit's own for Dockerfiles.
	Frontend string

	// Locals are the directories that the local sources in Definition and
	// Attestations mean, by source name.
	Locals map[string]Local
	// OCIStores are the directories of OCI image layouts, by store id.
	OCIStores map[string]string
	// URLs are the HTTP sources of the definition that a node has fetched.
	URLs []URL
	// Secrets and SSH are the sources of the ids in Definition and
	// Attestations. An id that the target of the step does not declare has no
	// entry; nothing must be served for it.
	Secrets map[string]Secret
	SSH     map[string]ir.SSH
	// Entitlements are those that the ops need, sorted: "network.host",
	// "security.insecure", "device".
	Entitlements []string
	// Devices are the names of the CDI devices that the ops need, sorted.
	Devices []string
	// Images are the image references that the frontend asked about, sorted;
	// Assumed those among them whose config is a guess.
	Images  []string
	Assumed []string
	// Warnings are those of the Dockerfile frontend, in order of line.
	Warnings []Warning
}

// Local is a directory on this machine.
type Local struct {
	Dir string // absolute, without symbolic links
}

// Warning is a remark of the Dockerfile frontend.
type Warning struct {
	Range   ir.Range
	Message string
	Detail  string
	URL     string
	Level   int
	Excerpt string // the lines concerned, ready to print
	// Source is the Dockerfile as the frontend knows it, and Ranges the lines in it;
	// nil for a remark without a place.
	Source *pb.SourceInfo
	Ranges []*pb.Range
}

// UnitError is a failure to compile one unit. Units of one target that fail in
// the same way are reported once.
type UnitError struct {
	Unit ir.UnitID
	Err  error
}

// Error returns the text of the cause.
func (e *UnitError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *UnitError) Unwrap() error { return e.Err }

// Gateway reaches a node.
type Gateway interface {
	// Build opens a session that serves s, calls fn with the gateway client of
	// a build on it, and returns the error of fn. It is called by several
	// goroutines at once.
	Build(ctx context.Context, s Session, fn func(context.Context, gateway.Client) error) error
}

// Session holds the services that a build on a node may use on this machine.
type Session struct {
	// Platform is that of the unit; a node that can run it is preferred.
	Platform ocispecs.Platform
	// Locals are directories by the name of their local source.
	Locals map[string]string
	// OCIStores are directories of OCI image layouts by store id.
	OCIStores map[string]string
	// Secrets and SSH are by the id that the node asks for.
	Secrets map[string]Secret
	SSH     map[string]ir.SSH
}

// Compile compiles the units of p and returns them in the order of p.Units().
// The error joins one [UnitError] for each unit that failed; the units that did
// not fail, and do not link to one that did, are returned beside it.
func Compile(ctx context.Context, p *ir.Project, o Options) ([]*Unit, error) {
	c, err := newCompilation(p, o)
	if err != nil {
		return nil, err
	}
	return c.all(ctx, p.Units())
}

// compilation is one run over the units of a project.
type compilation struct {
	Options
	paths
	project  *ir.Project
	ids      *idTable
	platform string // NodePlatform as text
	commits  commits
	contents contents
	vcsLock  sync.Mutex // held while VCS is asked
	marked   markedUnits
	caps     capSets
	unpacker *unpacker
	common   []byte // what all units are compiled from, for [inputs.encode]

	llbCaps, gatewayCaps apicaps.CapSet
}

func newCompilation(p *ir.Project, o Options) (*compilation, error) {
	o.Dir = cmp.Or(o.Dir, p.Dir)
	if o.NodePlatform.OS == "" {
		o.NodePlatform = platforms.DefaultSpec()
	}
	o.NodePlatform = platforms.Normalize(o.NodePlatform)
	if o.Parallelism <= 0 {
		o.Parallelism = max(4, runtime.GOMAXPROCS(0))
	}
	if o.Resolver == nil {
		return nil, errors.New("frontend: no image resolver")
	}
	realDir, err := realPath(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("project directory: %w", err)
	}
	c := &compilation{
		Options:     o,
		project:     p,
		ids:         newIDTable(p),
		paths:       paths{dir: o.Dir, real: realDir},
		platform:    platforms.FormatAll(o.NodePlatform),
		llbCaps:     pb.Caps.CapSet(pb.Caps.All()),
		gatewayCaps: gwpb.Caps.CapSet(gwpb.Caps.All()),
	}
	if o.LLBCaps != nil {
		c.llbCaps = *o.LLBCaps
	}
	c.common, c.unpacker = commonInputs(c), newUnpacker(&c.caps)
	return c, nil
}

// outcome is the result of one unit, to be waited for by those that link to it.
type outcome struct {
	done chan struct{}
	unit *Unit // nil when it failed or was left out
	err  error // nil when it was left out because of a link
}

func (c *compilation) all(ctx context.Context, units []ir.Unit) ([]*Unit, error) {
	outcomes := make([]*outcome, len(units))
	byTarget := map[string][]*outcome{}
	for i, u := range units {
		outcomes[i] = &outcome{done: make(chan struct{})}
		byTarget[u.Target.Name] = append(byTarget[u.Target.Name], outcomes[i])
	}

	slots := semaphore.NewWeighted(int64(c.Parallelism))
	var wg sync.WaitGroup
	for i, u := range units {
		out := outcomes[i]
		wg.Go(func() {
			defer close(out.done)
			// Links point at earlier units only, so that waiting before taking
			// a slot cannot dead-lock.
			links := map[string][]*Unit{}
			for _, name := range u.Target.Links() {
				parents, ok := byTarget[name]
				if !ok {
					out.err = &UnitError{Unit: u.ID, Err: linkError(u.Target, name)}
					return
				}
				for _, parent := range parents {
					<-parent.done
					if parent.unit == nil {
						return
					}
					links[name] = append(links[name], parent.unit)
				}
			}
			if err := slots.Acquire(ctx, 1); err != nil {
				out.err = context.Cause(ctx)
				return
			}
			defer slots.Release(1)
			unit, err := c.compile(ctx, u, links)
			if err != nil {
				out.err = &UnitError{Unit: u.ID, Err: err}
				return
			}
			if unit.packed != nil {
				unit.Definition = nil
			}
			out.unit = unit
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}

	var done []*Unit
	var errs []error
	seen := map[string]bool{}
	for i, out := range outcomes {
		if out.unit != nil {
			done = append(done, out.unit)
		}
		if out.err == nil {
			continue
		}
		if key := units[i].Target.Name + "\x00" + out.err.Error(); !seen[key] {
			seen[key] = true
			errs = append(errs, out.err)
		}
	}
	return done, errors.Join(errs...)
}

// linkError reports that a link names a target that is not in the project.
func linkError(t *ir.Target, name string) error {
	path := "contexts"
	for _, k := range ir.SortedKeys(t.Contexts) {
		if from := t.Contexts[k]; from.Kind == ir.SourceTarget && from.Ref == name {
			path = "contexts." + k
			break
		}
	}
	return &ir.SourceError{Range: t.Origin(path), Summary: "failed to find target " + name}
}

// compile compiles one unit.
func (c *compilation) compile(ctx context.Context, u ir.Unit, links map[string][]*Unit) (*Unit, error) {
	if u.Target.Fault != nil {
		return nil, u.Target.Fault
	}
	in, err := c.prepare(ctx, u, links)
	if err != nil {
		return nil, err
	}
	key, err := in.encode(c)
	if err != nil {
		return nil, err
	}
	if unit := c.recallUnit(ctx, in, key); unit != nil {
		return unit, nil
	}
	var unit *Unit
	err = c.hereOrRemote(ctx, in, func(ctx context.Context, remote gateway.Client) error {
		rec, res, err := c.build(ctx, in, remote, nil)
		if err != nil {
			return err
		}
		var made *origin
		if unit, made, err = c.unit(ctx, in, rec, res); err == nil && remote == nil {
			unit.packed = rec.keep(c, unit, made, key)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return unit, nil
}

// hereOrRemote calls fn without a node, and again with one if fn returns a
// needsNode. Its errors point at the user's files.
func (c *compilation) hereOrRemote(ctx context.Context, in *inputs, fn func(context.Context, gateway.Client) error) error {
	// The session in which fn runs serves the Dockerfile, so that a Dockerfile
	// given by URL takes a session of its own.
	if err := c.fetchDockerfile(ctx, in); err != nil {
		return c.sourceError(in, err)
	}
	err := fn(ctx, nil)
	var need *needsNode
	if errors.As(err, &need) {
		err = c.onNode(ctx, in, need, fn)
	}
	if err != nil {
		return c.sourceError(in, err)
	}
	return nil
}

// onNode calls fn with a node that can be asked for what the unit needs.
func (c *compilation) onNode(ctx context.Context, in *inputs, need *needsNode, fn func(context.Context, gateway.Client) error) error {
	if c.Gateway == nil {
		return &ir.SourceError{
			Range:   in.unit.Target.Origin(need.attr),
			Summary: need.Error(),
			Detail:  "this can only be compiled with the help of a node, and none was given",
			Err:     need,
		}
	}
	return in.withSession(c.ids, func(s Session) error {
		var cause error
		err := c.Gateway.Build(ctx, s, func(ctx context.Context, remote gateway.Client) error {
			cause = fn(ctx, remote)
			return cause
		})
		if errors.Is(err, cause) {
			return err // with what was printed on the node
		}
		// The error of fn goes to the node and may come back as text.
		return cmp.Or(cause, err)
	})
}

// unitPlatform returns the platform of u.
func (c *compilation) unitPlatform(u ir.Unit) (ocispecs.Platform, error) {
	switch u.Platform {
	case "":
		return c.NodePlatform, nil
	case "local":
		return platforms.Normalize(platforms.DefaultSpec()), nil
	}
	p, err := platforms.Parse(u.Platform)
	if err != nil {
		return p, &ir.SourceError{Range: u.Target.Origin("platforms"), Summary: err.Error(), Err: err}
	}
	return platforms.Normalize(p), nil
}

// closure adds what the definitions of linked units refer to.
func (u *Unit) closure(links map[string][]*Unit) {
	for _, name := range ir.SortedKeys(links) {
		for _, l := range links[name] {
			maps.Copy(u.Locals, l.Locals)
			maps.Copy(u.OCIStores, l.OCIStores)
			maps.Copy(u.Secrets, l.Secrets)
			maps.Copy(u.SSH, l.SSH)
			u.Assumed = append(u.Assumed, l.Assumed...)
			u.Images = append(u.Images, l.Images...)
			u.URLs = append(u.URLs, l.URLs...)
		}
	}
	slices.Sort(u.Assumed)
	u.Assumed = slices.Compact(u.Assumed)
	slices.Sort(u.Images)
	u.Images = slices.Compact(u.Images)
}
