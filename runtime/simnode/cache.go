package simnode

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	controlapi "github.com/moby/buildkit/api/services/control"
	cachetypes "github.com/moby/buildkit/cache/remotecache/v1/types"
	gatewayapi "github.com/moby/buildkit/frontend/gateway/pb"
	sessioncontent "github.com/moby/buildkit/session/content"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/dbake/dbake/internal/pause"
)

// configType is the media type of what a cache says of its layers.
const configType = "application/vnd.buildkit.cacheconfig.v0"

// imported is a cache that a build reads.
type imported struct {
	id      string
	done    chan struct{} // closed when it has been read, or could not be
	results map[digest.Digest]*result
}

// imports returns the caches that entries name, each of which a build reads once.
func (j *job) imports(entries []*gatewayapi.CacheOptionsEntry) []*imported {
	p := j.process
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*imported
	for _, e := range entries {
		id := e.Type + " " + fmt.Sprint(e.Attrs)
		c := j.caches[id]
		if c == nil {
			c = &imported{id: id, done: make(chan struct{})}
			j.caches[id] = c
			p.wg.Go(func() {
				defer close(c.done)
				c.results = j.read(e)
			})
		}
		list = append(list, c)
	}
	return list
}

// read reads a cache. One that cannot be read is an error of a vertex, and of nothing else.
func (j *job) read(e *gatewayapi.CacheOptionsEntry) map[digest.Digest]*result {
	where := e.Attrs["ref"]
	if e.Type != "registry" {
		where = e.Type + ":" + digest.FromString(fmt.Sprint(e.Attrs)).Encoded()[:8]
	}
	var results map[digest.Digest]*result
	err := j.report("importing cache manifest from "+where, func() error {
		if err := pause.For(j.ctx, j.process.node.options.Timing.Import); err != nil {
			return err
		}
		from, manifest, err := j.cache(e)
		if err != nil {
			return err
		}
		results, err = readCache(j.ctx, from, manifest)
		return err
	})
	if err != nil {
		return nil
	}
	return results
}

// report runs f as a vertex of a job that stands for no step.
func (j *job) report(name string, f func() error) error {
	p := j.process
	say := func(v *controlapi.Vertex) {
		p.mu.Lock()
		defer p.mu.Unlock()
		j.say(&controlapi.StatusResponse{Vertexes: []*controlapi.Vertex{v}})
	}
	v := &controlapi.Vertex{Digest: digest.FromString(name).String(), Name: name, Started: timestamppb.Now()}
	say(v)
	err := f()
	v = v.CloneVT()
	v.Completed = timestamppb.Now()
	if err != nil {
		v.Error = err.Error()
	}
	say(v)
	return err
}

// cache finds the manifest of a cache, and where its blobs are.
func (j *job) cache(e *gatewayapi.CacheOptionsEntry) (source, digest.Digest, error) {
	switch e.Type {
	case "registry":
		r := j.process.node.options.Registry
		d, ok := r.Resolve(e.Attrs["ref"])
		if !ok {
			return nil, "", fmt.Errorf("%s: not found", e.Attrs["ref"])
		}
		return registrySource{r}, d, nil
	case "local":
		caller, err := j.process.caller(j.ctx, j.session)
		if err != nil {
			return nil, "", err
		}
		return storeSource{sessioncontent.NewCallerStore(caller, "local:"+e.Attrs["src"])}, digest.Digest(e.Attrs["digest"]), nil
	}
	return nil, "", fmt.Errorf("unknown cache importer: %s", e.Type)
}

// registrySource fetches from a registry.
type registrySource struct{ *Registry }

func (s registrySource) fetch(_ context.Context, d digest.Digest) ([]byte, error) {
	dt, ok := s.Blob(d)
	if !ok {
		return nil, fmt.Errorf("%s: not found", d)
	}
	return dt, nil
}

// storeSource fetches from a store of a client.
type storeSource struct{ content.Provider }

func (s storeSource) fetch(ctx context.Context, d digest.Digest) ([]byte, error) {
	return content.ReadBlob(ctx, s.Provider, ocispecs.Descriptor{Digest: d})
}

// readCache returns the results that a cache names, by their keys.
func readCache(ctx context.Context, from source, manifest digest.Digest) (map[digest.Digest]*result, error) {
	dt, err := from.fetch(ctx, manifest)
	if err != nil {
		return nil, err
	}
	var m ocispecs.Manifest
	if err := json.Unmarshal(dt, &m); err != nil {
		return nil, err
	}
	if m.Config.MediaType != configType {
		return nil, fmt.Errorf("invalid cache manifest with config of type %q", m.Config.MediaType)
	}
	if dt, err = from.fetch(ctx, m.Config.Digest); err != nil {
		return nil, err
	}
	var c cachetypes.CacheConfig
	if err := json.Unmarshal(dt, &c); err != nil {
		return nil, err
	}
	results := map[digest.Digest]*result{}
	keys := map[int][]digest.Digest{}
	for i, rec := range c.Records {
		for _, key := range keysOf(c.Records, i, keys) {
			for _, r := range rec.Results {
				res := &result{key: key, created: r.CreatedAt, from: from}
				for l := r.LayerIndex; l >= 0 && len(res.layers) <= len(c.Layers); l = c.Layers[l].ParentIndex {
					res.layers = append(res.layers, c.Layers[l].Blob)
				}
				slices.Reverse(res.layers)
				if old := results[key]; old == nil || old.created.Before(res.created) {
					results[key] = res
				}
			}
		}
	}
	return results, nil
}

// mostKeys bounds the keys of a record: each of its inputs can be one of several.
const mostKeys = 16

// keysOf returns the keys that a record is found by.
func keysOf(records []cachetypes.CacheRecord, i int, known map[int][]digest.Digest) []digest.Digest {
	if keys, ok := known[i]; ok {
		return keys
	}
	known[i] = nil // of a loop there is none
	combos := [][]digest.Digest{nil}
	for _, alternatives := range records[i].Inputs {
		var next [][]digest.Digest
		for _, in := range alternatives {
			for _, k := range keysOf(records, in.LinkIndex, known) {
				if in.Selector != "" {
					k = chain(k, []digest.Digest{digest.Digest(in.Selector)})
				}
				for _, c := range combos {
					if len(next) < mostKeys {
						next = append(next, append(slices.Clone(c), k))
					}
				}
			}
		}
		combos = next
	}
	var keys []digest.Digest
	for _, c := range combos {
		if len(records[i].Inputs) == 0 {
			keys = append(keys, records[i].Digest)
			continue
		}
		keys = append(keys, chain(records[i].Digest, c))
	}
	known[i] = keys
	return keys
}

// cacheWriter puts a cache together.
type cacheWriter struct {
	process *process
	config  cachetypes.CacheConfig
	records map[*state]int
	layers  map[string]int // by the chain of their digests
	blobs   []digest.Digest
	sources map[digest.Digest]*result
}

// add adds the record of a step and of all below it. all says that the results of those
// are to be in the cache, too; those whose layers are blobs are in any case.
func (w *cacheWriter) add(st *state, with, all bool) int {
	i, ok := w.records[st]
	if !ok {
		i = len(w.config.Records)
		w.records[st] = i
		rec := cachetypes.CacheRecord{Digest: opDigest(st.op)}
		if st.op.GetSource() != nil {
			rec.Digest = st.key
		}
		w.config.Records = append(w.config.Records, rec)
	}
	res := w.process.resultOf(st)
	if rec := &w.config.Records[i]; len(rec.Results) == 0 && res != nil && len(res.layers) > 0 && st.op.GetSource() == nil && (with || w.process.disk.packed(res)) {
		rec.Results = []cachetypes.CacheResult{{LayerIndex: w.layersOf(res), CreatedAt: res.created}}
		w.process.disk.pack(res)
	}
	if ok {
		return i
	}
	for _, in := range st.inputs {
		link := cachetypes.CacheInput{LinkIndex: w.add(in.state, all, all)}
		if in.output != 0 {
			link.Selector = fmt.Sprint(in.output)
		}
		rec := &w.config.Records[i]
		rec.Inputs = append(rec.Inputs, []cachetypes.CacheInput{link})
	}
	return i
}

// resultOf returns the result of a step, as far as it is known; nil when it is not.
func (p *process) resultOf(st *state) *result {
	p.mu.Lock()
	res := st.result
	p.mu.Unlock()
	if res == nil {
		p.disk.mu.Lock()
		res = p.disk.results[st.key]
		p.disk.mu.Unlock()
	}
	return res
}

// layersOf adds the layers of a result and returns the index of the last.
func (w *cacheWriter) layersOf(res *result) int {
	last, name := -1, ""
	for _, l := range res.layers {
		name += " " + l.String()
		i, ok := w.layers[name]
		if !ok {
			i = len(w.config.Layers)
			w.layers[name] = i
			w.config.Layers = append(w.config.Layers, cachetypes.CacheLayer{
				Blob: l, ParentIndex: last,
				Annotations: &cachetypes.LayerAnnotations{MediaType: ocispecs.MediaTypeImageLayerGzip, DiffID: l, CreatedAt: res.created},
			})
			if !slices.Contains(w.blobs, l) {
				w.blobs = append(w.blobs, l)
			}
			w.sources[l] = res
		}
		last = i
	}
	return last
}

// writeCache writes a cache of results as an export of a client asks for it, and returns
// the description of its manifest; "" when there was nothing to write.
func (j *job) writeCache(ctx context.Context, e *controlapi.CacheOptionsEntry, refs []ref) (string, error) {
	p := j.process
	w := &cacheWriter{process: p, records: map[*state]int{}, layers: map[string]int{}, sources: map[digest.Digest]*result{}}
	for _, r := range refs {
		if _, err := p.run(ctx, r.state); err != nil {
			return "", err
		}
		if _, err := p.keyOf(ctx, r.state); err != nil {
			return "", err
		}
		w.add(r.state, true, e.Attrs["mode"] == "max")
	}
	if len(w.config.Layers) == 0 {
		return "", nil
	}
	if err := pause.For(ctx, p.node.options.Timing.Export); err != nil {
		return "", err
	}
	var blobs [][]byte
	m := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest}
	for _, l := range w.blobs {
		if err := p.fetch(ctx, w.sources[l]); err != nil {
			return "", err
		}
		p.disk.mu.Lock()
		dt := p.disk.blobs[l]
		p.disk.mu.Unlock()
		blobs = append(blobs, dt)
		m.Layers = append(m.Layers, layer(dt))
	}
	config, err := json.Marshal(w.config)
	if err != nil {
		return "", err
	}
	blobs = append(blobs, config)
	m.Config = ocispecs.Descriptor{MediaType: configType, Digest: digest.FromBytes(config), Size: int64(len(config))}
	manifest, err := json.Marshal(m)
	if err != nil {
		return "", err
	}
	desc := ocispecs.Descriptor{MediaType: m.MediaType, Digest: digest.FromBytes(manifest), Size: int64(len(manifest))}
	if err := j.writeBlobs(ctx, e, desc, manifest, blobs); err != nil {
		return "", err
	}
	dt, err := json.Marshal(desc)
	return string(dt), err
}

// writeBlobs writes a cache to where an export says.
func (j *job) writeBlobs(ctx context.Context, e *controlapi.CacheOptionsEntry, desc ocispecs.Descriptor, manifest []byte, blobs [][]byte) error {
	switch e.Type {
	case "registry":
		_, err := j.process.node.options.Registry.put(e.Attrs["ref"], desc.MediaType, manifest, blobs...)
		return err
	case "local":
		caller, err := j.process.caller(ctx, j.session)
		if err != nil {
			return err
		}
		store := sessioncontent.NewCallerStore(caller, "local:"+e.Attrs["dest"])
		for _, dt := range append(blobs, manifest) {
			d := ocispecs.Descriptor{Digest: digest.FromBytes(dt), Size: int64(len(dt))}
			if err := content.WriteBlob(ctx, store, d.Digest.String(), strings.NewReader(string(dt)), d); err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("unknown cache exporter: %s", e.Type)
}
