package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"regexp"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	"github.com/moby/buildkit/frontend/dockerui"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/redact"
)

// A node describes a result by the frontend that made it and by the frontend's options, or not
// at all when a client made it. The provenance of an image is to have its Dockerfile, build
// args and labels. So a node's own Dockerfile frontend is asked for the image with these
// options, and with a Dockerfile that is nothing but the result: the frontend returns it op for
// op. The provenance then shows only two things besides: the name of this result, and that the
// Dockerfile was an input.

// described is the name of the result in that Dockerfile.
const described = "dbake-result"

// NamingStep is the name of the step that writes that Dockerfile.
const NamingStep = "name the result"

// stageName is what a stage can be called.
var stageName = regexp.MustCompile(`^[a-z][a-z0-9-_.]*$`)

// describable reports whether the options of a request let a frontend return a
// result as it is.
func describable(attrs map[string]string, c gateway.Client) bool {
	if _, ok := attrs["attest:provenance"]; !ok || attrs["filename"] == "" {
		return false
	}
	caps := c.BuildOpts().Caps
	if caps.Supports(gwpb.CapFrontendInputs) != nil {
		return false
	}
	if epoch, ok := attrs["build-arg:SOURCE_DATE_EPOCH"]; ok {
		if _, err := strconv.ParseInt(epoch, 10, 64); err != nil {
			return false // asks about the context
		}
	}
	if stage, ok := attrs["target"]; ok && (!stageName.MatchString(strings.ToLower(stage)) || stage == described) {
		return false
	}
	return true
}

// hideContexts hides passwords in the URLs of contexts. What is recorded of a request
// is published with the image, and its contexts were fetched when it was compiled.
func hideContexts(attrs map[string]string) {
	for k, v := range attrs {
		if k == "context" || strings.HasPrefix(k, "context:") {
			attrs[k] = redact.Text(v)
		}
	}
}

// describe returns the lazy result of an image such that the node knows how it was
// asked for.
func (s *solver) describe(ctx context.Context, c gateway.Client, img Content) (gateway.Reference, error) {
	if len(img.Definition.GetDef()) == 0 || !describable(img.Request, c) {
		return s.ref(ctx, c, img.Definition)
	}
	attrs := maps.Clone(img.Request)
	for k := range attrs {
		// What a Dockerfile with nothing but the result must not be asked for.
		stage, named := strings.CutPrefix(k, "context:")
		stage, _, _ = strings.Cut(stage, "::")
		switch {
		case k == "dockerfilekey", k == "build-arg:BUILDKIT_SYNTAX", k == "attest:sbom":
			delete(attrs, k)
		case named && strings.EqualFold(stage, attrs["target"]):
			delete(attrs, k)
		}
	}
	hideContexts(attrs)
	if _, ok := attrs["context"]; ok {
		attrs["contextkey"] = described // there is none of that name: it is not fetched again
	}
	config, err := json.Marshal(ocispecs.Image{Platform: ocispecs.Platform{OS: img.Platform.OS, Architecture: img.Platform.Architecture, Variant: img.Platform.Variant}})
	if err != nil {
		return nil, fmt.Errorf("encode image config: %w", err)
	}
	metadata, err := json.Marshal(map[string][]byte{exptypes.ExporterImageConfigKey: config})
	if err != nil {
		return nil, fmt.Errorf("encode image config: %w", err)
	}
	attrs["context:"+described] = "input:" + described
	attrs["input-metadata:"+described] = string(metadata)
	attrs["platform"] = platforms.FormatAll(platforms.Normalize(img.Platform))
	dockerfile, err := resultDockerfile(ctx, attrs["filename"], attrs["target"])
	if err != nil {
		return nil, err
	}
	res, err := c.Solve(ctx, gateway.SolveRequest{
		Frontend: "dockerfile.v0", FrontendOpt: attrs,
		FrontendInputs: map[string]*pb.Definition{described: s.standIns.replace(img.Definition), "dockerfile": dockerfile},
	})
	if err != nil {
		return nil, err
	}
	if len(res.Refs) == 1 {
		for _, ref := range res.Refs {
			return ref, nil
		}
	}
	return res.SingleRef()
}

// resultDockerfile is a directory with the Dockerfile whose last stage is the result.
func resultDockerfile(ctx context.Context, name, stage string) (*pb.Definition, error) {
	text := "# check=skip=all\nFROM " + described
	if stage != "" {
		text += " AS " + strings.ToLower(stage)
	}
	name = path.Join("/", name)
	st := llb.Scratch()
	if dir := path.Dir(name); dir != "/" {
		st = st.File(llb.Mkdir(dir, 0o755, llb.WithParents(true)))
	}
	// With the ignore file the frontend does not look for one in the context.
	st = st.File(llb.Mkfile(name, 0o644, []byte(text+"\n")).Mkfile(name+".dockerignore", 0o644, []byte("*\n")),
		dockerui.WithInternalName(NamingStep))
	def, err := st.Marshal(ctx)
	if err != nil {
		return nil, fmt.Errorf("describe a result: %w", err)
	}
	return def.ToPB(), nil
}

// FrontendAttrs are the options of units that are exported as one: those of any of
// them, for all platforms.
func FrontendAttrs(units []*frontend.Unit) map[string]string {
	attrs := maps.Clone(units[0].FrontendAttrs)
	hideContexts(attrs)
	if attrs["platform"] == "" {
		return attrs
	}
	var names []string
	for _, u := range units {
		names = append(names, u.FrontendAttrs["platform"])
	}
	attrs["platform"] = strings.Join(names, ",")
	return attrs
}
