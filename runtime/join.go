package runtime

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/output"
	"github.com/dbake/dbake/runtime/registry"
)

// joinParallel is how many images are put together at once.
const joinParallel = 4

// divided is a target whose platforms are built as several jobs. Its jobs push by digest. When
// all parts are there, the client writes the index that joins them under the target's names.
type divided struct {
	target  *ir.Target
	jobs    []int // indices of Build.Jobs
	images  []joint
	ordered []ocispecs.Platform // of all units
}

// joint is one image that is to be put together.
type joint struct {
	names       []string
	repo        string // where the parts are pushed
	annotations map[string]string
	insecure    bool
	parts       []digest.Digest // by place in divided.jobs; "" until it is pushed
}

// dividedTargets returns the targets that several jobs build, in order.
func dividedTargets(b *Build) []*divided {
	var list []*divided
	byTarget := map[string]*divided{}
	for i, j := range b.Jobs {
		d := byTarget[j.Target.Name]
		if d == nil {
			d = &divided{target: j.Target}
			byTarget[j.Target.Name] = d
			list = append(list, d)
		}
		d.jobs = append(d.jobs, i)
		for _, u := range j.Units {
			d.ordered = append(d.ordered, u.ExportPlatform)
		}
	}
	list = slices.DeleteFunc(list, func(d *divided) bool { return len(d.jobs) == 1 })
	for _, d := range list {
		// The index lists platforms as the target does, however they were divided.
		order := func(p ocispecs.Platform) int { return platformOrder(d.target, p) }
		slices.SortStableFunc(d.ordered, func(x, y ocispecs.Platform) int { return order(x) - order(y) })
	}
	return list
}

// platformOrder is the place of p among the platforms of t.
func platformOrder(t *ir.Target, p ocispecs.Platform) int {
	p = platforms.Normalize(p)
	for i, name := range t.Platforms {
		// The version of Windows is that of the base image.
		q, err := platforms.Parse(name)
		if err == nil && q.OS == p.OS && q.Architecture == p.Architecture && q.Variant == p.Variant {
			return i
		}
	}
	return len(t.Platforms)
}

// divide turns the outputs of a job into those of one part: pushed by digest, to be named when
// all parts are there. Only pushed outputs can be joined.
func (d *divided) divide(outs []output.Output) ([]output.Output, error) {
	first := d.images == nil
	for i := range outs {
		out := &outs[i]
		attrs := out.Entry.Attrs
		if out.Entry.Type != bkclient.ExporterImage || !out.Pushed {
			err := fmt.Errorf("an output of type %s needs all platforms on one node, and no node can build them all; push the image instead", out.Entry.Type)
			return nil, d.refuse(err)
		}
		if _, ok := attrs[string(exptypes.OptKeyPushByDigest)]; ok {
			return nil, d.refuse(errors.New("an image whose platforms no single node can build gets a name; leave push-by-digest out"))
		}
		names := strings.Split(attrs["name"], ",")
		ref, err := reference.ParseNormalizedNamed(names[0])
		if err != nil {
			return nil, fmt.Errorf("target %s: name %q: %w", d.target.Name, names[0], err)
		}
		if first {
			j := joint{names: names, repo: ref.Name(), parts: make([]digest.Digest, len(d.jobs)), annotations: map[string]string{}}
			for _, k := range ir.SortedKeys(attrs) {
				if name, ok := strings.CutPrefix(k, exptypes.AnnotationIndexKey("")); ok {
					j.annotations[name] = attrs[k]
				}
			}
			if v, ok := attrs[string(exptypes.OptKeyInsecure)]; ok {
				j.insecure = v == ""
				if v != "" {
					if j.insecure, err = strconv.ParseBool(v); err != nil {
						return nil, fmt.Errorf("target %s: invalid value %q for %s", d.target.Name, v, exptypes.OptKeyInsecure)
					}
				}
			}
			d.images = append(d.images, j)
		}
		attrs["name"] = ref.Name()
		attrs[string(exptypes.OptKeyPushByDigest)] = "true"
		attrs[string(exptypes.OptKeyNameCanonical)] = "true"
	}
	return outs, nil
}

func (d *divided) refuse(err error) error {
	return &ir.SourceError{Range: d.target.Origin("output"), Summary: fmt.Sprintf("target %s: %v", d.target.Name, err), Err: err}
}

// putIndex writes an index with the user's credentials. Registries that need not be
// secure are asked over TLS first, as a node does.
func (b *Build) putIndex(ctx context.Context, index registry.Index, insecure bool) (ocispecs.Descriptor, error) {
	var hosts []string
	for _, name := range index.Names {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return ocispecs.Descriptor{}, fmt.Errorf("name %q: %w", name, err)
		}
		if insecure {
			hosts = append(hosts, reference.Domain(ref))
		}
	}
	c := registry.New(b.Registries.Insecure(hosts...))
	defer c.Close()
	return c.PutIndex(ctx, index)
}

// join joins the images of targets whose parts are all there.
func (x *exports) join(ctx context.Context, a *accounts) error {
	var eg errgroup.Group
	eg.SetLimit(joinParallel)
	joined, errs := make([]written, len(x.divided)), make([]error, len(x.divided))
	for i, d := range x.divided {
		if !x.joins(d, a) {
			continue
		}
		eg.Go(func() error {
			joined[i], errs[i] = x.joinTarget(ctx, d, a)
			return nil
		})
	}
	_ = eg.Wait() // they report through errs
	for i, d := range x.divided {
		switch {
		case errs[i] != nil:
			errs[i] = fmt.Errorf("target %s: put its platforms together: %w", d.target.Name, errs[i])
			a.failJoin(d.jobs, errs[i])
		case joined[i].responses != nil:
			a.join(d.jobs, joined[i])
		}
	}
	return errors.Join(errs...)
}

// joins reports whether a target has images to join, and all their parts are there.
func (x *exports) joins(d *divided, a *accounts) bool {
	return len(d.images) > 0 && !slices.ContainsFunc(d.jobs, func(j int) bool { return !a.isDone(j) })
}

// joinTarget writes the indexes of one target.
func (x *exports) joinTarget(ctx context.Context, d *divided, a *accounts) (w written, err error) {
	for k, j := range d.jobs {
		images := a.images(j)
		if len(images) != len(d.images) {
			return w, fmt.Errorf("node %s reported %d images, want %d", a.node(j), len(images), len(d.images))
		}
		for i, img := range images {
			d.images[i].parts[k] = digest.Digest(img.Digest)
		}
	}
	for _, img := range d.images {
		index := registry.Index{Names: img.names, ByDigest: x.work.Withhold, Platforms: d.ordered, Annotations: img.annotations}
		for _, dgst := range img.parts {
			index.Parts = append(index.Parts, registry.Part{Repo: img.repo, Digest: dgst})
		}
		desc, err := x.putIndex(ctx, index, img.insecure)
		if err != nil {
			return w, err
		}
		dt, err := json.Marshal(desc)
		if err != nil {
			return w, fmt.Errorf("encode descriptor: %w", err)
		}
		names := img.names
		if x.work.Withhold {
			names = []string{img.repo}
		}
		resp := map[string]string{
			exptypes.ExporterImageDigestKey:     desc.Digest.String(),
			exptypes.ExporterImageDescriptorKey: base64.StdEncoding.EncodeToString(dt),
			exptypes.ExporterImageNameKey:       strings.Join(names, ","),
		}
		out := output.Output{Pushed: true}
		if x.work.Withhold {
			if w.withheld == nil {
				w.withheld = &output.Withheld{}
			}
			out.Withheld = &output.Withholding{Names: img.names, Insecure: img.insecure}
			w.withheld.Add(d.target.Name, out, resp, nil)
		}
		w.images = append(w.images, out.Images(resp)...)
		w.responses = append(w.responses, output.Response{Pushed: true, Values: resp})
	}
	return w, nil
}
