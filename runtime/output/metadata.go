package output

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"github.com/moby/buildkit/exporter/containerimage/exptypes"
)

// Response is a node's answer after it has written one output.
type Response struct {
	Pushed bool
	File   string // of an archive or a layout, as it was given
	Values map[string]string
}

func (r Response) digest() string { return r.Values[exptypes.ExporterImageDigestKey] }

// DescribesImage reports whether a value describes an image. Those of several outputs must
// not be mixed.
func DescribesImage(key string) bool {
	return strings.HasPrefix(key, "containerimage.") || key == exptypes.ExporterImageNameKey
}

// ImagesKey lists the images of a target whose outputs made several.
const ImagesKey = "dbake.images"

// namedImage is an entry of ImagesKey: an image with the name by which it can be found,
// or the file that it is in.
type namedImage struct {
	Name   string `json:"name,omitempty"`
	File   string `json:"file,omitempty"`
	Digest string `json:"digest"`
}

// MetadataOf returns the responses of a target's outputs as the metadata file shows
// them. What describes an image is that of one output, the first that was pushed if
// one was, and the names are those under which that very image is known.
func MetadataOf(list []Response) map[string]any {
	main := slices.IndexFunc(list, func(r Response) bool { return r.Pushed && r.digest() != "" })
	if main < 0 {
		main = slices.IndexFunc(list, func(r Response) bool { return r.digest() != "" })
	}
	out := map[string]any{}
	var names []string
	var images []namedImage
	several := false
	for i, r := range list {
		for k, v := range r.Values {
			if !DescribesImage(k) || i == main {
				out[k] = metadataValue(k, v)
			}
		}
		if main < 0 || r.digest() == "" {
			continue
		}
		several = several || r.digest() != list[main].digest()
		if r.File != "" {
			images = append(images, namedImage{File: r.File, Digest: r.digest()})
		}
		for name := range strings.SplitSeq(r.Values[exptypes.ExporterImageNameKey], ",") {
			if r.File == "" {
				images = append(images, namedImage{Name: name, Digest: r.digest()})
			}
			if r.digest() == list[main].digest() && r.Pushed == list[main].Pushed && name != "" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if len(names) > 0 {
		out[exptypes.ExporterImageNameKey] = strings.Join(names, ",")
	}
	if several {
		out[ImagesKey] = images
	}
	return out
}

// Metadata returns a frontend's answer as the metadata file shows it.
func Metadata(resp map[string]string) map[string]any {
	out := make(map[string]any, len(resp))
	for k, v := range resp {
		out[k] = metadataValue(k, v)
	}
	return out
}

// metadataValue decodes a value: an object, or a list of objects, that comes in base64
// becomes JSON; so does the answer to --call, which comes plain.
func metadataValue(key, v string) any {
	dt := []byte(v)
	if key != "result.json" {
		var err error
		if dt, err = base64.StdEncoding.DecodeString(v); err != nil {
			return v
		}
	}
	var object map[string]any
	var list []map[string]any
	if json.Unmarshal(dt, &object) == nil && len(object) > 0 || json.Unmarshal(dt, &list) == nil && len(list) > 0 {
		return json.RawMessage(dt)
	}
	return v
}
