package frontend

import (
	"cmp"
	"maps"
	"slices"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Recollection is the meaning of an image's reference in some run.
type Recollection struct {
	Ref   string              `json:"ref"`
	Image ocispecs.Descriptor `json:"image"`
	// Node is set when only nodes could answer; Configs are then the configs, by platform.
	Node    bool                     `json:"node,omitempty"`
	Configs map[string]digest.Digest `json:"configs,omitempty"`
}

// Recollections are those of others. Its methods may be called from any goroutine.
type Recollections interface {
	Image(ref string) (Recollection, bool)
	// Blob returns a manifest, index or config that is what its digest says.
	Blob(d digest.Digest) ([]byte, bool)
}

// recallBlob returns a blob that need not be asked for.
func (r *RegistryResolver) recallBlob(d digest.Digest) ([]byte, bool) {
	if d == "" {
		return nil, false
	}
	if data, ok := r.cache.Blob(d); ok {
		return data, true
	}
	if r.opts.Others == nil {
		return nil, false
	}
	data, ok := r.opts.Others.Blob(d)
	if !ok || d.Validate() != nil || d.Algorithm().FromBytes(data) != d {
		return nil, false
	}
	r.cache.PutBlob(d, data)
	return data, true
}

// noteConfig notes the config of an image that a node reported.
func (r *RegistryResolver) noteConfig(ref reference.Named, platform string, config []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d, of := digest.FromBytes(config), ref.String()
	if r.nodes[of] == nil {
		r.nodes[of] = map[string]digest.Digest{}
	}
	r.nodes[of][platform] = d
	r.blobs[d.String()] = config
}

// Recollect returns what the tags that this run has asked for stand for, sorted, and the
// manifests and configs that it has read.
func (r *RegistryResolver) Recollect() ([]Recollection, map[digest.Digest][]byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Recollection
	for ref, is := range r.pins {
		if is.desc.Digest == "" || is.recalled || isDigested(ref) {
			continue
		}
		one := Recollection{Ref: ref, Image: ocispecs.Descriptor{MediaType: is.desc.MediaType, Digest: is.desc.Digest, Size: is.desc.Size}, Node: is.node}
		if is.node {
			one.Configs = maps.Clone(r.nodes[ref])
		}
		list = append(list, one)
	}
	slices.SortFunc(list, func(x, y Recollection) int { return cmp.Compare(x.Ref, y.Ref) })
	blobs := map[digest.Digest][]byte{}
	for d, data := range r.blobs {
		blobs[digest.Digest(d)] = data
	}
	return list, blobs
}

// isDigested reports whether a reference names a digest, which stands for itself.
func isDigested(ref string) bool {
	n, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return false
	}
	_, ok := n.(reference.Digested)
	return ok
}
