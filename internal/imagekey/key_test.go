package imagekey

import (
	"maps"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/plan/plantest"
)

const project = `
-- docker-bake.hcl --
target "default" {
  args = { USED = "1", UNUSED = "1" }
  tags = ["example.com/a:1"]
}
-- Dockerfile --
FROM scratch
ARG USED
ENV USED=$USED
COPY f /
-- f --
1
`

// keyed is what a key is made from.
type keyed struct {
	job    *plan.Job
	unit   *frontend.Unit
	attrs  map[string]string // of the output
	target *ir.Target
}

// keyOf returns the key of the project after a change.
func keyOf(t *testing.T, change func(*keyed)) Key {
	t.Helper()
	p := plantest.New(t, project)
	b, err := plan.Prepare(t.Context(), p.Compile(), frontend.Options{
		Dir: p.Dir, Resolver: frontend.NewRegistryResolver(frontend.RegistryOptions{Offline: true}), DefaultProvenance: "mode=min,inline-only=true",
	}, plan.Memory{History: p.History, Files: filesum.Open("", time.Now())})
	require.NoError(t, err)
	m, err := b.Makeup(t.Context(), filesum.Open("", time.Now()))
	require.NoError(t, err)
	unit, target := *b.Units[0], *b.Units[0].Target
	unit.FrontendAttrs, unit.Target = maps.Clone(unit.FrontendAttrs), &target
	job := plan.Job{Name: "default", Target: &target, Units: []*frontend.Unit{&unit}}
	k := keyed{job: &job, unit: &unit, target: &target, attrs: map[string]string{"push": "true", "name": "example.com/a:1"}}
	if change != nil {
		change(&k)
	}
	key, err := ForJob(m, job, []Output{{Type: "image", Attrs: k.attrs}})
	require.NoError(t, err)
	return key
}

// Each thing counts for the image, for its attestations only, or not at all.
func TestWhatCounts(t *testing.T) {
	attr := func(name, value string) func(*keyed) { return func(k *keyed) { k.unit.FrontendAttrs[name] = value } }
	out := func(name, value string) func(*keyed) { return func(k *keyed) { k.attrs[name] = value } }
	asked := func(k *keyed) { k.target.Attest = []ir.Attest{{Type: "provenance"}} }
	plain, attested := keyOf(t, nil), keyOf(t, asked)
	require.Empty(t, plain.Attested)
	require.NotEmpty(t, attested.Attested)
	const image, attestations, nothing = "image", "attestations", "nothing"
	for name, c := range map[string]struct {
		change func(*keyed)
		counts string
	}{
		"config":                 {func(k *keyed) { k.unit.Config = []byte("{}") }, image},
		"what the frontend said": {func(k *keyed) { k.unit.Metadata = map[string][]byte{"x": nil} }, image},
		"index":                  {func(k *keyed) { k.unit.MultiPlatform = true }, image},
		"platform":               {func(k *keyed) { k.unit.ExportPlatform.Architecture = "s390x" }, image},
		"SOURCE_DATE_EPOCH":      {attr("build-arg:SOURCE_DATE_EPOCH", "1"), image},
		"BUILDKIT_INLINE_CACHE":  {attr("build-arg:BUILDKIT_INLINE_CACHE", "1"), image},
		"an SBOM":                {attr("attest:sbom", ""), image},
		"compression":            {out("compression", "zstd"), image},
		"annotation":             {out("annotation.a", "b"), image},
		"rewrite-timestamp":      {out("rewrite-timestamp", "true"), image},
		"its own cache": {func(k *keyed) {
			k.target.CacheTo = []ir.CacheEntry{{Type: "registry", Attrs: map[string]string{"ref": "x"}}}
		}, image},
		"revision":                 {attr("vcs:revision", "2"), attestations},
		"names":                    {out("name", "example.com/a:2"), attestations},
		"an arg that no step uses": {attr("build-arg:UNUSED", "2"), attestations},
		"name of the Dockerfile":   {attr("filename", "other"), attestations},
		"order of names":           {out("name", "example.com/a:1"), nothing},
		"push by digest":           {out("push-by-digest", "true"), nothing},
		"--pull":                   {attr("image-resolve-mode", "pull"), nothing},
		"proxy":                    {attr("build-arg:HTTP_PROXY", "http://proxy"), nothing},
		"where a context lies":     {attr("context:x", "local:dir-1-x"), nothing},
	} {
		now, nowAsked := keyOf(t, c.change), keyOf(t, func(k *keyed) { asked(k); c.change(k) })
		require.Equal(t, c.counts != image, now.Digest == plain.Digest, name)
		require.Equal(t, c.counts != image, now.Same(plain), "%s: nobody asked for attestations", name)
		require.Equal(t, c.counts != image, nowAsked.Digest == attested.Digest, name)
		require.Equal(t, c.counts == nothing, nowAsked.Same(attested), name)
	}
	// A default provenance that is there or not is another image.
	require.NotEqual(t, plain.Digest, keyOf(t, func(k *keyed) { delete(k.unit.FrontendAttrs, "attest:provenance") }).Digest)
}

func TestAlwaysBuilt(t *testing.T) {
	require.Empty(t, keyOf(t, nil).Unknown)
	require.Contains(t, keyOf(t, func(k *keyed) { k.unit.Frontend = "example.com/frontend" }).Unknown, "example.com/frontend")
	require.Contains(t, keyOf(t, func(k *keyed) { k.unit.Assumed = []string{"busybox"} }).Unknown, "busybox")
	require.False(t, keyOf(t, nil).Anew)
}
