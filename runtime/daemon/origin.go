package daemon

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	provenancetypes "github.com/moby/buildkit/solver/llbsolver/provenance/types"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/runtime/registry"
)

// Origin describes the build that made an image, by the keys of docker buildx, so that the
// metadata of a build that finds the image unchanged can repeat it. It holds no values of
// build args and labels: the new build knows them.
type Origin map[string]string

// noProvenance is the provenance of a build whose node reported none.
const noProvenance = "none"

// OriginOf returns the origin in the metadata of a target; asked is set when the provenance
// was asked for.
func OriginOf(metadata map[string]any, asked bool) Origin {
	o := Origin{}
	provenance := false
	for key, v := range metadata {
		switch v := v.(type) {
		case string:
			if key == buildRefKey {
				o[key] = v
			}
		case json.RawMessage:
			if p, err := readProvenance(v, ""); err == nil && isProvenanceKey(key) {
				provenance = true
				o.put(key, p)
			}
		}
	}
	if asked && !provenance {
		o[buildProvenanceKey] = noProvenance
	}
	return o
}

func isProvenanceKey(key string) bool {
	return key == buildProvenanceKey || strings.HasPrefix(key, buildProvenanceKey+"/")
}

// put keeps a provenance without what only mode max has.
func (o Origin) put(key string, p *provenancetypes.ProvenancePredicateSLSA02) {
	p.BuildConfig, p.Metadata = nil, nil
	withoutValues(&p.Invocation.Parameters)
	if dt, err := json.Marshal(p); err == nil {
		o[key] = redact.Text(string(dt))
	}
}

// withoutValues removes the values of build args and labels from a request and from those that
// it is a part of. Their names stay.
func withoutValues(p *provenancetypes.Parameters) {
	for name := range p.Args {
		if isValue(name) {
			p.Args[name] = ""
		}
	}
	for _, below := range requests(p) {
		withoutValues(below)
	}
}

// isValue reports whether the value of an arg is what provenance of mode min leaves out.
func isValue(name string) bool {
	return strings.HasPrefix(name, "build-arg:") || strings.HasPrefix(name, "label:")
}

// requests returns the requests that p is a part of or rests on.
func requests(p *provenancetypes.Parameters) []*provenancetypes.Parameters {
	var list []*provenancetypes.Parameters
	add := func(r *provenancetypes.RequestProvenance) {
		if r != nil && r.Request != nil {
			list = append(list, r.Request)
		}
	}
	add(p.Root)
	for _, name := range ir.SortedKeys(p.Inputs) {
		add(p.Inputs[name])
	}
	return list
}

// Covers reports whether o has the provenance of a mode, or knows that there is none.
func (o Origin) Covers(mode string) bool {
	if mode == "" {
		return true
	}
	for key, v := range o {
		if isProvenanceKey(key) && (mode == ProvenanceMin || v == noProvenance) {
			return true
		}
	}
	return false
}

// Metadata returns the metadata of a build of units, as far as o has it. Build args and labels
// get the values that units have.
func (o Origin) Metadata(mode string, units []*frontend.Unit) map[string]any {
	out := map[string]any{}
	for key, v := range o {
		switch {
		case key == buildRefKey:
			out[key] = v
		case mode == "" || v == noProvenance || !isProvenanceKey(key):
		default:
			p, err := readProvenance([]byte(v), "")
			if err != nil {
				continue // it was damaged
			}
			complete(&p.Invocation.Parameters, FrontendAttrs(units))
			if dt, err := json.Marshal(p); err == nil {
				out[key] = json.RawMessage(dt)
			}
		}
	}
	return out
}

// complete gives build args and labels in a request the values that they have now, also in
// the request that it is a part of; in others those that are known there.
func complete(p *provenancetypes.Parameters, attrs map[string]string) {
	fill(p, attrs)
	args := map[string]string{}
	maps.Copy(args, p.Args)
	for name, value := range attrs {
		if isValue(name) {
			args[name] = value
		}
	}
	if len(args) > 0 {
		p.Args = args
	}
	if p.Root != nil && p.Root.Request != nil {
		complete(p.Root.Request, attrs)
	}
	for _, below := range requests(p) {
		fill(below, attrs)
	}
}

// fill gives the args that a request has their values.
func fill(p *provenancetypes.Parameters, attrs map[string]string) {
	for name := range p.Args {
		switch value, ok := attrs[name]; {
		case ok && (isValue(name) || strings.HasPrefix(name, "vcs:")):
			p.Args[name] = value
		case isValue(name), name == "no-cache" && !ok: // which nothing is reused with
			delete(p.Args, name)
		}
	}
}

// AttestedOrigin returns what the image of units attests of its build; of mode max only if
// all of that was attested. It is empty when there is no such attestation.
func AttestedOrigin(ctx context.Context, c *registry.Client, ref, mode string, units []*frontend.Unit) (Origin, error) {
	list, err := c.Attestations(ctx, ref, isProvenance)
	if err != nil {
		return nil, err
	}
	byPlatform := map[string]string{}
	for _, a := range list {
		var statement struct {
			Predicate json.RawMessage `json:"predicate"`
		}
		if err := json.Unmarshal(a.Data, &statement); err != nil {
			return nil, fmt.Errorf("read the provenance of %s: %w", ref, err)
		}
		p, err := readProvenance(statement.Predicate, a.Predicate)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", ref, err)
		}
		if p.BuildConfig == nil && (mode != ProvenanceMin || keepsQuiet(units)) {
			return Origin{}, nil
		}
		if mode == ProvenanceMin {
			p.BuildConfig, p.Metadata = nil, nil
		}
		dt, err := json.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("encode provenance: %w", err)
		}
		byPlatform[platforms.FormatAll(platforms.Normalize(a.Platform))] = string(dt)
	}
	o := Origin{}
	for _, u := range units {
		name := platforms.FormatAll(platforms.Normalize(u.ExportPlatform))
		v, ok := byPlatform[name]
		if !ok {
			return Origin{}, nil
		}
		key := buildProvenanceKey
		if u.MultiPlatform || len(units) > 1 {
			key += "/" + name
		}
		o[key] = v
	}
	return o, nil
}

// keepsQuiet reports whether attested provenance of mode min leaves out something of units
// that metadata has: the names of secrets and agents.
func keepsQuiet(units []*frontend.Unit) bool {
	return slices.ContainsFunc(units, func(u *frontend.Unit) bool { return len(u.Target.Secrets)+len(u.Target.SSH) > 0 })
}

// With returns o with the further facts of other.
func (o Origin) With(other Origin) Origin {
	all := maps.Clone(other)
	if all == nil {
		all = Origin{}
	}
	maps.Copy(all, o)
	return all
}
