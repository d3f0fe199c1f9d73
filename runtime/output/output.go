package output

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/distribution/reference"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/localfile"
)

// Image is one image that a target's output wrote.
type Image struct {
	// Name is the name with tag under which the image was pushed, loaded or kept on
	// the node, or the destination of the archive or layout that it is in, as it was
	// given: names in there may stand for other images elsewhere. "" when there is
	// neither.
	Name   string
	Digest string // of the manifest or index
	Place  Place
}

// Place is the kind of place that an image is in.
type Place string

// The places of images.
const (
	OnNode     Place = "node"
	InRegistry Place = "registry"
	InEngine   Place = "engine" // the Docker engine that images are loaded into
	InFile     Place = "file"   // an archive or a layout
)

// Output is one planned export of a target, in BuildKit's terms.
type Output struct {
	Entry bkclient.ExportEntry
	// file, stdout or load takes the archive of an output that comes as a stream;
	// file is absolute.
	file   string
	stdout io.Writer
	Load   func(context.Context) (io.WriteCloser, error)
	// begun is set as soon as a part of the archive is where it cannot be taken back.
	begun  *atomic.Bool
	Pushed bool
	Dest   string // file or directory, as it was given
	// Withheld is how it is withheld; nil is not at all.
	Withheld *Withholding
}

// All translates the outputs of t, with the rules of buildx for names, push
// and destinations. Relative destinations stand against dir; stdout takes the
// archives whose destination is "-"; load takes those of the docker and oci types
// without a destination.
func All(t *ir.Target, dir string, stdout io.Writer, load func(ctx context.Context) (io.WriteCloser, error)) ([]Output, error) {
	var list []Output
	for _, o := range t.Outputs {
		if o.Form() == ir.FormNone {
			continue
		}
		out, err := newOutput(t, o, dir, stdout, load)
		var placed *ir.SourceError
		if errors.As(err, &placed) {
			return nil, err
		}
		if err != nil {
			return nil, &ir.SourceError{Range: t.Origin("output"), Summary: fmt.Sprintf("target %s: %v", t.Name, err), Err: err}
		}
		list = append(list, out)
	}
	return list, nil
}

func newOutput(t *ir.Target, o ir.Output, dir string, stdout io.Writer, load func(ctx context.Context) (io.WriteCloser, error)) (Output, error) {
	attrs := maps.Clone(o.Attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	out := Output{Entry: bkclient.ExportEntry{Type: o.Type, Attrs: attrs}, begun: new(atomic.Bool)}
	if o.Type == ir.TypeRegistry {
		out.Entry.Type = bkclient.ExporterImage
		attrs["push"] = "true"
		if _, ok := attrs["unpack"]; !ok {
			attrs["unpack"] = "false"
		}
	}
	if err := annotate(attrs, t.Annotations); err != nil {
		return Output{}, err
	}
	switch out.Entry.Type {
	case bkclient.ExporterImage, bkclient.ExporterOCI, bkclient.ExporterDocker:
		if attrs["name"] == "" && len(t.Tags) > 0 {
			names, err := normalize(t.Tags)
			if err != nil {
				return Output{}, &ir.SourceError{Range: t.Origin("tags"), Summary: fmt.Sprintf("target %s: %v", t.Name, err), Err: err}
			}
			attrs["name"] = strings.Join(names, ",")
		}
	}
	dest := o.Dest
	if dest != "" && dest != "-" && !filepath.IsAbs(dest) {
		dest = filepath.Join(dir, dest)
	}
	switch out.Entry.Type {
	case bkclient.ExporterImage:
		push, err := ir.Switch(attrs, "push")
		if err != nil {
			return Output{}, err
		}
		if push && attrs["name"] == "" {
			return Output{}, errors.New("tag is needed when pushing to registry")
		}
		out.Pushed = push
		return out, nil
	case bkclient.ExporterLocal:
		if dest == "" || dest == "-" {
			return Output{}, errors.New("dest is required for local exporter")
		}
		out.Entry.OutputDir, out.Dest = dest, o.Dest
		return out, nil
	case bkclient.ExporterOCI, bkclient.ExporterDocker, bkclient.ExporterTar:
		return archive(out, t, o, dest, stdout, load)
	default:
		return Output{}, fmt.Errorf("unknown output type %q; known are image, registry, local, tar, oci, docker and cacheonly", o.Type)
	}
}

// archive completes an output whose result comes as one stream or as a directory
// in OCI layout (tar=false).
func archive(out Output, t *ir.Target, o ir.Output, dest string, stdout io.Writer, load func(ctx context.Context) (io.WriteCloser, error)) (Output, error) {
	if o.Type == bkclient.ExporterDocker && dest != "" && needsIndex(t) {
		return Output{}, errors.New("docker exporter does not support exporting manifest lists, use the oci exporter instead")
	}
	if v, ok := out.Entry.Attrs["tar"]; ok && out.Entry.Type != bkclient.ExporterTar {
		tar, err := strconv.ParseBool(v)
		if err != nil {
			return Output{}, fmt.Errorf("invalid value %q for tar", v)
		}
		if !tar {
			if dest == "" || dest == "-" {
				return Output{}, fmt.Errorf("dest is required for %s exporter with tar=false", o.Type)
			}
			out.Entry.OutputDir, out.Dest = dest, o.Dest
			return out, nil
		}
	}
	switch {
	case dest == "-":
		out.stdout, out.Dest = stdout, o.Dest
		return out, nil
	case dest == "" && load != nil && (o.Type == bkclient.ExporterDocker || o.Type == bkclient.ExporterOCI):
		out.Load = load
		return out, nil
	case dest == "":
		return Output{}, fmt.Errorf("dest file is required for %s exporter", o.Type)
	}
	place, err := localfile.Locate(dest)
	if err != nil {
		return Output{}, err
	}
	if place.IsDir() {
		return Output{}, fmt.Errorf("destination %s is a directory; name a file", dest)
	}
	out.file, out.Dest = dest, o.Dest
	return out, nil
}

// needsIndex reports whether the image of a target is an index: of platforms, or of an image
// and what is attested of it.
func needsIndex(t *ir.Target) bool {
	return len(t.PlatformList()) > 1 || slices.ContainsFunc(t.Attest, func(a ir.Attest) bool { return !a.Disabled })
}

// annotate adds t's annotations to the attributes of an exporter. The form is
// "[type[platform],...:]key=value".
func annotate(attrs map[string]string, annotations []string) error {
	for _, a := range annotations {
		key, value, ok := strings.Cut(a, "=")
		if !ok {
			return fmt.Errorf("invalid annotation %q: expected key=value", a)
		}
		types, name, typed := strings.Cut(key, ":")
		if !typed {
			types, name = "", key
		}
		for typ := range strings.SplitSeq(types, ",") {
			prefix := "annotation"
			if kind, platform, ok := strings.Cut(strings.TrimSuffix(typ, "]"), "["); ok {
				prefix += "-" + kind + "[" + platform + "]"
			} else if typ != "" {
				prefix += "-" + typ
			}
			attrs[prefix+"."+name] = value
		}
	}
	return nil
}

// normalize returns the full names of tags.
func normalize(tags []string) ([]string, error) {
	var names []string
	for _, tag := range tags {
		ref, err := reference.ParseNormalizedNamed(tag)
		if err != nil {
			return nil, fmt.Errorf("invalid tag %q: %w", tag, err)
		}
		if name := reference.TagNameOnly(ref).String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// Images lists the images that the response of an export names.
func (o Output) Images(resp map[string]string) []Image {
	digest := resp[exptypes.ExporterImageDigestKey]
	if digest == "" {
		return nil
	}
	img := Image{Digest: digest, Place: OnNode}
	names := resp[exptypes.ExporterImageNameKey]
	switch {
	case o.Dest != "":
		img.Name, img.Place = o.Dest, InFile
		return []Image{img}
	case o.Load != nil:
		img.Place = InEngine
	case o.Pushed && names != "":
		img.Place = InRegistry
	}
	if names == "" {
		return []Image{img}
	}
	var list []Image
	for name := range strings.SplitSeq(names, ",") {
		img.Name = name
		list = append(list, img)
	}
	return list
}

// Files is the file or directory that was written and holds no image, as it was given; ""
// is none.
func (o Output) Files() string {
	if o.Entry.Type == bkclient.ExporterLocal || o.Entry.Type == bkclient.ExporterTar {
		return o.Dest
	}
	return ""
}

// Export is an output of a target in the form that nodes read.
type Export struct {
	Type  string            // BuildKit's name of the exporter
	Attrs map[string]string // those of BuildKit; to be read only
	// Names are those that the image gets; without tags where it is pushed by digest.
	Names []string
	// Pushed is set when the output is only an image in a registry.
	Pushed bool
	// ByDigest is set when no tag is set.
	ByDigest bool
	// Insecure lets the registry speak plain HTTP, or have any certificate.
	Insecure bool
}

// Exports returns the outputs of t in the form that nodes read, with the names, types and
// annotations that follow from the other attributes of t. Nothing is opened.
func Exports(t *ir.Target, dir string) ([]Export, error) {
	nowhere := func(context.Context) (io.WriteCloser, error) { return nil, errors.ErrUnsupported }
	list, err := All(t, dir, io.Discard, nowhere)
	if err != nil {
		return nil, err
	}
	var exports []Export
	for _, o := range list {
		attrs := o.Entry.Attrs
		e := Export{Type: o.Entry.Type, Attrs: attrs, Pushed: o.Pushed}
		for name := range strings.SplitSeq(attrs["name"], ",") {
			if name != "" {
				e.Names = append(e.Names, name)
			}
		}
		for _, flag := range []struct {
			key string
			to  *bool
		}{{string(exptypes.OptKeyPushByDigest), &e.ByDigest}, {string(exptypes.OptKeyInsecure), &e.Insecure}} {
			if *flag.to, err = ir.Switch(attrs, flag.key); err != nil {
				return nil, fmt.Errorf("target %s: %w", t.Name, err)
			}
		}
		exports = append(exports, e)
	}
	return exports, nil
}
