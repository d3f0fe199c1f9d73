package simnode

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/pause"
)

// export makes the outputs that a solve asks for, and returns the response.
func (j *job) export(ctx context.Context, req *controlapi.SolveRequest, res *gatewayapi.Result) (map[string]string, error) {
	resp := map[string]string{}
	var refs []ref
	named := map[string]ref{}
	j.process.mu.Lock()
	for name, r := range res.GetRefs().GetRefs() {
		named[name] = j.refs[r.Id]
	}
	if r := res.GetRef(); r.GetId() != "" {
		named[""] = j.refs[r.Id]
	}
	j.process.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if named[name].state != nil {
			refs = append(refs, named[name])
		}
	}
	for _, e := range req.Exporters {
		if e.Type != "image" {
			return nil, fmt.Errorf("exporter %q could not be found", e.Type)
		}
		err := j.report("exporting to image", func() error { return j.writeImage(ctx, e.Attrs, res.Metadata, refs, resp) })
		if err != nil {
			return nil, err
		}
	}
	for _, e := range req.GetCache().GetExports() {
		where := e.Attrs["ref"]
		if e.Type != "registry" {
			where = "client directory"
		}
		err := j.report("exporting cache to "+where, func() error {
			desc, err := j.writeCache(ctx, e, refs)
			if err == nil && desc != "" {
				resp["cache.manifest"] = desc
			}
			return err
		})
		if err != nil && e.Attrs["ignore-error"] != "true" {
			return nil, err
		}
	}
	return resp, nil
}

// writeImage makes an image of results, and pushes it when attributes say so.
func (j *job) writeImage(ctx context.Context, attrs map[string]string, metadata map[string][]byte, refs []ref, resp map[string]string) error {
	p := j.process
	var manifests []ocispecs.Descriptor
	var stored [][]byte
	var blobs [][]byte
	if len(refs) == 0 {
		refs = []ref{{}} // an image of nothing
	}
	for _, r := range refs {
		m := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest}
		var layers []digest.Digest
		if r.state != nil {
			res, err := p.run(ctx, r.state)
			if err != nil {
				return err
			}
			res = res.output(r.output)
			if err := p.fetch(ctx, res); err != nil {
				return err
			}
			layers = res.layers
			p.disk.pack(res)
		}
		for _, l := range layers {
			p.disk.mu.Lock()
			dt := p.disk.blobs[l]
			p.disk.mu.Unlock()
			m.Layers = append(m.Layers, layer(dt))
			blobs = append(blobs, dt)
		}
		config, err := json.Marshal(map[string]any{"config": json.RawMessage(metadata[exptypes.ExporterImageConfigKey]), "rootfs": map[string]any{"type": "layers", "diff_ids": layers}})
		if err != nil {
			config = []byte("{}")
		}
		m.Config = ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
		dt, err := json.Marshal(m)
		if err != nil {
			return err
		}
		blobs = append(blobs, config)
		stored = append(stored, dt)
		manifests = append(manifests, ocispecs.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(dt), Size: int64(len(dt))})
	}
	desc, top := manifests[0], stored[0]
	if len(manifests) > 1 {
		blobs = append(blobs, stored...)
		dt, err := json.Marshal(ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex, Manifests: manifests})
		if err != nil {
			return err
		}
		desc, top = ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageIndex, Digest: digest.FromBytes(dt), Size: int64(len(dt))}, dt
	}
	if attrs["push"] == "true" {
		if err := pause.For(ctx, p.node.options.Timing.Push); err != nil {
			return err
		}
		for name := range strings.SplitSeq(attrs["name"], ",") {
			if attrs[string(exptypes.OptKeyPushByDigest)] == "true" {
				name += "@" + desc.Digest.String()
			}
			if _, err := p.node.options.Registry.put(name, desc.MediaType, top, blobs...); err != nil {
				return err
			}
		}
	}
	dt, err := json.Marshal(desc)
	if err != nil {
		return err
	}
	resp[exptypes.ExporterImageDigestKey] = desc.Digest.String()
	resp[exptypes.ExporterImageDescriptorKey] = base64.StdEncoding.EncodeToString(dt)
	resp[exptypes.ExporterImageNameKey] = attrs["name"]
	return nil
}
