package frontend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/dockerfile/builder"
	"github.com/moby/buildkit/frontend/dockerui"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/solver/result"

	"github.com/dbake/dbake/compiler/ir"
)

// build runs the Dockerfile frontend with the options of in and more.
func (c *compilation) build(ctx context.Context, in *inputs, remote gateway.Client, more map[string]string) (*recorder, *gateway.Result, error) {
	rec, err := newRecorder(ctx, c, in, remote)
	if err != nil {
		return nil, nil, err
	}
	for _, k := range ir.SortedKeys(more) {
		rec.attrs[k] = more[k]
	}
	res, err := builder.Build(ctx, rec)
	var here *inProcess
	if errors.As(err, &here) {
		// With a command line the frontend takes itself for the one that was
		// asked for.
		rec.attrs["cmdline"] = here.cmdline
		res, err = builder.Build(ctx, rec)
	}
	if rec.need != nil {
		return nil, nil, rec.need
	}
	if err != nil {
		return nil, nil, withFindings(c.warnings(in, rec.warnings), err)
	}
	if err := c.refuseRemotePolicy(ctx, in, rec); err != nil {
		return nil, nil, err
	}
	return rec, res, nil
}

// fetchDockerfile has a node fetch a Dockerfile given by URL.
func (c *compilation) fetchDockerfile(ctx context.Context, in *inputs) error {
	if in.dockerfileURL == "" {
		return nil
	}
	need := &needsNode{what: "the Dockerfile " + in.dockerfileURL + " has to be fetched", attr: "dockerfile"}
	return c.onNode(ctx, in, need, func(ctx context.Context, remote gateway.Client) error {
		st := llb.HTTP(in.dockerfileURL, llb.Filename(dockerui.DefaultDockerfileName),
			llb.WithCustomName("[internal] load "+in.dockerfileURL))
		def, err := st.Marshal(ctx)
		if err != nil {
			return fmt.Errorf("failed to read dockerfile: %w", err)
		}
		res, err := remote.Solve(ctx, gateway.SolveRequest{Definition: def.ToPB()})
		if err != nil {
			return fmt.Errorf("failed to read dockerfile: %w", err)
		}
		ref, err := res.SingleRef()
		if err != nil {
			return fmt.Errorf("failed to read dockerfile: %w", err)
		}
		data, err := dockerui.ReadFile(ctx, ref, dockerui.DefaultDockerfileName)
		if err != nil {
			return fmt.Errorf("failed to read dockerfile: %w", err)
		}
		in.memoryDockerfile(data)
		return nil
	})
}

// newUnit returns the unit of in as far as that is known before it is compiled.
func newUnit(in *inputs) *Unit {
	return &Unit{
		ID:             in.unit.ID,
		Target:         in.unit.Target,
		Platform:       in.platform,
		ExportPlatform: in.platform,
		Dockerfile:     in.knownDockerfile(),
		MultiPlatform:  isMultiPlatform(in),
		FrontendAttrs:  in.attrs,
		Metadata:       map[string][]byte{},
		Locals:         map[string]Local{},
		OCIStores:      map[string]string{},
		Secrets:        map[string]Secret{},
		SSH:            map[string]ir.SSH{},
	}
}

// unit makes a Unit of the frontend's result.
func (c *compilation) unit(ctx context.Context, in *inputs, rec *recorder, res *gateway.Result) (*Unit, *origin, error) {
	u := newUnit(in)
	u.Frontend = rec.foreign
	ref, id, err := singleRef(res)
	if err != nil {
		return nil, nil, err
	}
	rw := c.rewriter(in, rec)
	if u.Definition, err = definitionOf(ctx, ref, rw); err != nil {
		return nil, nil, err
	}
	for _, k := range ir.SortedKeys(res.Metadata) {
		v := res.Metadata[k]
		k = strings.TrimSuffix(k, "/"+id)
		switch k {
		case exptypes.ExporterImageConfigKey:
			u.Config = v
		case exptypes.ExporterPlatformsKey:
			if err := u.exportPlatform(in, v); err != nil {
				return nil, nil, err
			}
		default:
			u.Metadata[k] = v
		}
	}
	for _, k := range ir.SortedKeys(res.Attestations) {
		for _, a := range res.Attestations[k] {
			att, err := attestation(ctx, a, rw)
			if err != nil {
				return nil, nil, err
			}
			u.Attestations = append(u.Attestations, att)
		}
	}
	u.Images = ir.SortedKeys(rec.images)
	u.Assumed = ir.SortedKeys(rec.assumed)
	u.URLs = rec.urls
	needs, err := needsOf(u)
	if err != nil {
		return nil, nil, err
	}
	made := &origin{needs: needs, secrets: rw.secrets, agents: rw.agents, images: u.Images, assumed: u.Assumed}
	if err := u.take(in, made); err != nil {
		return nil, nil, err
	}
	u.Warnings = c.warnings(in, rec.warnings)
	return u, made, nil
}

// isMultiPlatform reports whether the options ask for an index.
func isMultiPlatform(in *inputs) bool {
	v := in.attrs["build-arg:BUILDKIT_MULTI_PLATFORM"]
	if v == "" {
		v = in.attrs["multi-platform"]
	}
	b, err := strconv.ParseBool(v)
	return err == nil && b
}

// singleRef returns the only reference of a result and the platform suffix of its
// metadata keys. The reference is nil for a result without content.
func singleRef(res *gateway.Result) (gateway.Reference, string, error) {
	if res.Refs == nil {
		return res.Ref, "", nil
	}
	if len(res.Refs) != 1 {
		return nil, "", fmt.Errorf("the frontend returned %d results for one platform", len(res.Refs))
	}
	for id, ref := range res.Refs {
		return ref, id, nil
	}
	return nil, "", nil
}

// exportPlatform reads the platform from the frontend's list.
func (u *Unit) exportPlatform(in *inputs, data []byte) error {
	var ps exptypes.Platforms
	if err := json.Unmarshal(data, &ps); err != nil {
		return fmt.Errorf("platforms of the result: %w", err)
	}
	// Without a platform the frontend reports that of the process it runs in.
	if in.unit.Platform != "" && len(ps.Platforms) == 1 {
		u.ExportPlatform = ps.Platforms[0].Platform
	}
	return nil
}

// rewriter returns the rewriter for the definitions of one unit.
func (c *compilation) rewriter(in *inputs, rec *recorder) *rewriter {
	return &rewriter{
		rename:  in.rename,
		caps:    &c.caps,
		ids:     c.ids,
		target:  in.unit.Target,
		secrets: map[string]Secret{},
		agents:  map[string]ir.SSH{},
		commit:  rec.pinGit,
		fetch:   rec.pinHTTP,
		pin: func(ctx context.Context, ref string, p *pb.Platform) (string, error) {
			return pinReference(ref, func(named reference.Named) (string, error) {
				pinned, _, err := rec.image(ctx, named.String(), platformSpec(p, c.NodePlatform))
				if err != nil {
					return "", metadataError(named.String(), err)
				}
				return pinned, nil
			})
		},
	}
}

// definitionOf returns the rewritten definition behind ref.
func definitionOf(ctx context.Context, ref gateway.Reference, rw *rewriter) (*pb.Definition, error) {
	var def *pb.Definition
	switch r := ref.(type) {
	case nil:
		return &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}, nil
	case *recordedRef:
		def = r.def
	default:
		st, err := ref.ToState()
		if err != nil {
			return nil, fmt.Errorf("definition of the node's result: %w", err)
		}
		m, err := st.Marshal(ctx)
		if err != nil {
			return nil, fmt.Errorf("definition of the node's result: %w", err)
		}
		def = m.ToPB()
	}
	return rw.apply(ctx, def)
}

func attestation(ctx context.Context, a result.Attestation[gateway.Reference], rw *rewriter) (result.Attestation[*pb.Definition], error) {
	out := result.Attestation[*pb.Definition]{
		Kind:        a.Kind,
		Metadata:    a.Metadata,
		Path:        a.Path,
		InToto:      a.InToto,
		ContentFunc: a.ContentFunc,
	}
	def, err := definitionOf(ctx, a.Ref, rw)
	if err != nil {
		return out, fmt.Errorf("attestation: %w", err)
	}
	out.Ref = def
	return out, nil
}

// warnings turns what the frontend remarked into warnings in order of line.
func (c *compilation) warnings(in *inputs, recorded []recordedWarning) []Warning {
	var ws []Warning
	for _, r := range recorded {
		w := Warning{Message: r.message, URL: r.opts.URL, Level: r.opts.Level}
		for i, d := range r.opts.Detail {
			if i > 0 {
				w.Detail += "\n"
			}
			w.Detail += string(d)
		}
		if r.opts.SourceInfo != nil {
			w.Range, w.Excerpt = c.locate(in, r.opts.SourceInfo, r.opts.Range)
			w.Source, w.Ranges = r.opts.SourceInfo, r.opts.Range
		}
		ws = append(ws, w)
	}
	slices.SortStableFunc(ws, func(a, b Warning) int {
		if d := a.Range.Start.Line - b.Range.Start.Line; d != 0 {
			return d
		}
		return strings.Compare(a.Message, b.Message)
	})
	return ws
}
