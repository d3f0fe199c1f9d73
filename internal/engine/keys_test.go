package engine

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/internal/imagekey"
	"github.com/dbake/dbake/internal/imagekey/keytest"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/local"
	"github.com/dbake/dbake/runtime/registry"
)

var (
	edits = flag.Int("edits", 60, "how many random edits of a project are compared")
	seed  = flag.Uint64("seed", 1, "what they are made of")
)

// quiet takes what a session says; warnings are errors of the test.
type quiet struct{ t *testing.T }

func (q quiet) Note(string)                               {}
func (q quiet) Warn(text string)                          { q.t.Error(text) }
func (q quiet) Begin(*plan.Build, *plan.Plan, bool) error { return nil }
func (q quiet) Observe(runtime.Event)                     {}
func (q quiet) End()                                      {}

// keysOf returns the keys of the images of a project.
func keysOf(t *testing.T, dir, home string) map[string]imagekey.Key {
	t.Helper()
	e := New(Config{Dir: dir, Env: map[string]string{"HOME": home}, Report: quiet{t}})
	s := e.Open(Request{Definition: compiler.Options{Dir: dir}, Reach: Running, Nodes: Nodes{Late: true}, Keys: true})
	defer func() { require.NoError(t, s.Close()) }()
	require.NoError(t, s.Through(t.Context(), Reuse))
	return s.Images().Keys()
}

// pushBase makes a base image that holds its version only.
func pushBase(ctx context.Context, c *registry.Client, ref string, version int, platforms []ocispecs.Platform) error {
	put := func(mediaType string, data []byte) (ocispecs.Descriptor, error) {
		d := ocispecs.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
		return d, c.Push(ctx, ref, d, data)
	}
	layer, err := put(ocispecs.MediaTypeImageLayer, fmt.Appendf(nil, "version %d", version))
	if err != nil {
		return err
	}
	index := ocispecs.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageIndex}
	for _, p := range platforms {
		config, err := json.Marshal(ocispecs.Image{Platform: p, RootFS: ocispecs.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}})
		if err != nil {
			return err
		}
		desc, err := put(ocispecs.MediaTypeImageConfig, config)
		if err != nil {
			return err
		}
		manifest, err := json.Marshal(ocispecs.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest, Config: desc, Layers: []ocispecs.Descriptor{layer},
		})
		if err != nil {
			return err
		}
		if desc, err = put(ocispecs.MediaTypeImageManifest, manifest); err != nil {
			return err
		}
		desc.Platform = &p
		index.Manifests = append(index.Manifests, desc)
	}
	data, err := json.Marshal(index)
	if err != nil {
		return err
	}
	_, err = put(ocispecs.MediaTypeImageIndex, data)
	return err
}

// TestKeysAgainstModel edits a project at random. Two states of an image have one key
// exactly if a model that knows nothing of graphs says that they are made of the same.
func TestKeysAgainstModel(t *testing.T) {
	reg, err := local.StartRegistry(t.Context(), t.TempDir())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, reg.Close()) })
	client := registry.New(registry.Options{Hosts: map[string]registry.Host{reg.Addr: {PlainHTTP: true}}})
	t.Cleanup(client.Close)
	both := []ocispecs.Platform{{OS: "linux", Architecture: "amd64"}, {OS: "linux", Architecture: "arm64"}}
	p, err := keytest.New(t.TempDir(), reg.Addr, *seed, 6, []string{"linux/amd64", "linux/arm64"}, func(base string, version int) error {
		return pushBase(t.Context(), client, reg.Addr+"/"+base+":1", version, both)
	})
	require.NoError(t, err)
	home := t.TempDir()
	type state struct {
		truth, what string
		key         imagekey.Key
	}
	byKey, byTruth := map[string]state{}, map[string]state{} // by target and key or truth
	falsely := 0
	check := func(what string) {
		keys, truth := keysOf(t, p.Dir, home), p.Truth()
		for _, name := range p.Targets() {
			now := state{truth[name], what, keys[name]}
			require.Empty(t, now.key.Unknown)
			k := name + " " + now.key.Digest.String()
			if then, ok := byKey[k]; ok && then.truth != now.truth {
				require.Failf(t, "falsely unchanged", "%s after %q and after %q:\n%s\n%s", name, then.what, what, then.truth, now.truth)
			} else if !ok {
				byKey[k] = now
			}
			if then, ok := byTruth[name+now.truth]; ok && then.key.Digest != now.key.Digest {
				falsely++
				t.Errorf("falsely changed: %s after %q and after %q: %v\n%s", name, then.what, what, imagekey.Compare(then.key.Lines, now.key.Lines), now.truth)
			} else if !ok {
				byTruth[name+now.truth] = now
			}
		}
	}
	check("nothing")
	for range *edits {
		check(p.Edit())
	}
	t.Logf("%d edits of %d targets: %d different images, none falsely unchanged, %d falsely changed", *edits, len(p.Targets()), len(byTruth), falsely)
}
