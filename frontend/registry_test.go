package frontend

import (
	"context"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/distribution/reference"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/dockerconfig"
	"github.com/dbake/dbake/runtime/registry"
)

var arm64 = ocispecs.Platform{OS: "linux", Architecture: "arm64"}

func parseNamed(t *testing.T, ref string) reference.Named {
	t.Helper()
	n, err := reference.ParseNormalizedNamed(ref)
	require.NoError(t, err)
	return reference.TagNameOnly(n)
}

func (s *stubRegistry) options(t *testing.T) RegistryOptions {
	t.Helper()
	return RegistryOptions{Client: s.client(t, t.TempDir(), "docker.io")}
}

// client asks the stub for what these registries hold, with the credentials in a
// directory of docker's configuration.
func (s *stubRegistry) client(t *testing.T, dockerConfig string, mirrored ...string) *registry.Client {
	t.Helper()
	hosts := map[string]registry.Host{s.host(): {PlainHTTP: true}}
	for _, m := range mirrored {
		hosts[m] = registry.Host{Mirrors: []string{s.host()}}
	}
	c := registry.New(registry.Options{
		Credentials: registry.DockerCredentials(dockerconfig.New(map[string]string{"DOCKER_CONFIG": dockerConfig}, nil)), Hosts: hosts,
		Patience: registry.Patience{Busy: -1, Away: -1},
	})
	t.Cleanup(c.Close)
	return c
}

func TestRegistryResolvesOncePerRun(t *testing.T) {
	s := newStubRegistry(t)
	r := NewRegistryResolver(s.options(t))
	g, ctx := errgroup.WithContext(t.Context())
	images := make([]*Image, 20)
	for i := range images {
		g.Go(func() (err error) {
			p := amd64
			if i%2 == 1 {
				p = arm64
			}
			images[i], err = r.Resolve(ctx, ImageRequest{Ref: parseNamed(t, "alpine"), Platform: p})
			return err
		})
	}
	require.NoError(t, g.Wait())
	for i, img := range images {
		require.Equal(t, images[0].Digest, img.Digest, "one digest for all platforms")
		require.Equal(t, images[i%2].Config, img.Config)
		require.False(t, img.Assumed)
	}
	require.Contains(t, string(images[0].Config), `"architecture":"amd64"`)
	require.Contains(t, string(images[1].Config), `"architecture":"arm64"`)
	require.Contains(t, string(images[0].Config), "NAME=library/alpine:latest")
	require.Equal(t, 1, s.count("HEAD "))
	require.Equal(t, 1+2+2, s.count("GET "), "an index, two manifests, two configs")

	// The tag moves while the run goes on.
	s.moveTags("v2")
	img, err := r.Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, "alpine"), Platform: amd64})
	require.NoError(t, err)
	require.Equal(t, images[0], img)
}

func TestRegistryCache(t *testing.T) {
	s := newStubRegistry(t)
	o := s.options(t)
	o.CacheDir = t.TempDir()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	o.Now = func() time.Time { return now }
	resolve := func(o RegistryOptions, ref string, p ocispecs.Platform) *Image {
		t.Helper()
		img, err := NewRegistryResolver(o).Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, ref), Platform: p})
		require.NoError(t, err)
		return img
	}
	first := resolve(o, "alpine", amd64)
	gets := s.count("GET ")

	// What a digest names is never fetched again; what a tag names is asked.
	require.Equal(t, first, resolve(o, "alpine", amd64))
	require.Equal(t, gets, s.count("GET "))
	require.Equal(t, 2, s.count("HEAD "))
	require.Equal(t, first.Config, resolve(o, "alpine@"+first.Digest.String(), amd64).Config)
	require.Equal(t, 2, s.count("HEAD "))

	s.moveTags("v2")
	aged := o
	aged.MaxAge = time.Hour
	now = now.Add(time.Hour)
	require.Equal(t, first, resolve(aged, "alpine", amd64))
	now = now.Add(time.Second)
	second := resolve(aged, "alpine", amd64)
	require.NotEqual(t, first.Digest, second.Digest)

	// Offline: the last known answer, or an assumption.
	s.Close()
	offline := o
	offline.Offline = true
	now = now.Add(1000 * time.Hour)
	require.Equal(t, second, resolve(offline, "alpine", amd64))
	other := resolve(offline, "alpine", arm64)
	require.True(t, other.Assumed)
	require.Equal(t, second.Digest, other.Digest)
	unknown := resolve(offline, "debian", arm64)
	require.True(t, unknown.Assumed)
	require.Empty(t, unknown.Digest)
	require.Contains(t, string(unknown.Config), `"architecture":"arm64"`)
	pinned := resolve(offline, "debian@"+first.Digest.String()[:10]+strings.Repeat("0", 61), amd64)
	require.True(t, pinned.Assumed)
	require.NotEmpty(t, pinned.Digest)
}

// A damaged cache is as good as none.
func TestRegistryCacheDamaged(t *testing.T) {
	s := newStubRegistry(t)
	o := s.options(t)
	o.CacheDir = t.TempDir()
	o.MaxAge = time.Hour
	req := ImageRequest{Ref: parseNamed(t, "alpine"), Platform: amd64}
	var warnings []string
	o.Warn = func(err error) { warnings = append(warnings, err.Error()) }
	first, err := NewRegistryResolver(o).Resolve(t.Context(), req)
	require.NoError(t, err)
	require.Empty(t, warnings)
	require.NoError(t, filepath.WalkDir(o.CacheDir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.WriteFile(p, []byte(`{"ref":1`), 0o644)
	}))
	again, err := NewRegistryResolver(o).Resolve(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, first, again)
	require.Len(t, warnings, 1)
	require.Regexp(t, `^what is remembered about images: .*\.json is damaged$`, warnings[0])

	// What was damaged is as new.
	_, err = NewRegistryResolver(o).Resolve(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, warnings, 1)
}

// A place where nothing can be kept, as a file, costs a warning and no more.
func TestRegistryCacheUnusable(t *testing.T) {
	s := newStubRegistry(t)
	o := s.options(t)
	o.CacheDir = filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(o.CacheDir, nil, 0o600))
	var warnings []string
	o.Warn = func(err error) { warnings = append(warnings, err.Error()) }
	_, err := NewRegistryResolver(o).Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, "alpine"), Platform: amd64})
	require.NoError(t, err)
	require.Len(t, warnings, 1)
	require.Contains(t, warnings[0], "not a directory")
}

func TestRegistryCredentials(t *testing.T) {
	s := newStubRegistry(t)
	s.user, s.password = "me", "canary"
	dir := t.TempDir()
	req := ImageRequest{Ref: parseNamed(t, s.host()+"/team/app:1"), Platform: amd64}
	_, err := NewRegistryResolver(RegistryOptions{Client: s.client(t, dir)}).Resolve(t.Context(), req)
	require.ErrorIs(t, err, registry.ErrDenied)

	auth := base64.StdEncoding.EncodeToString([]byte("me:canary"))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"),
		fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, s.host(), auth), 0o600))
	img, err := NewRegistryResolver(RegistryOptions{Client: s.client(t, dir)}).Resolve(t.Context(), req)
	require.NoError(t, err)
	require.Contains(t, string(img.Config), "NAME=team/app:1")
}

func TestRegistryErrors(t *testing.T) {
	s := newStubRegistry(t)
	r := NewRegistryResolver(s.options(t))
	_, err := r.Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, s.host()+"/missing"), Platform: amd64})
	require.EqualError(t, err, "not found in registry "+s.host())
	_, err = r.Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, s.host()+"/app"), Platform: ocispecs.Platform{OS: "linux", Architecture: "s390x"}})
	require.ErrorContains(t, err, "/app:latest for linux/s390x: ")

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = r.Resolve(ctx, ImageRequest{Ref: parseNamed(t, s.host()+"/late"), Platform: amd64})
	require.ErrorIs(t, err, context.Canceled)
	_, err = r.Resolve(t.Context(), ImageRequest{Ref: parseNamed(t, s.host()+"/late"), Platform: amd64})
	require.NoError(t, err, "a cancelled caller must not fail the next one")
}

// Tags move while a project is compiled; all units must name one digest.
func TestCompilePinsOnce(t *testing.T) {
	s := newStubRegistry(t)
	p := project(t, `
-- Dockerfile --
FROM alpine
COPY --from=busybox /bin/busybox /bb
RUN --mount=from=tools:1,target=/t true
`,
		&ir.Target{Name: "a", Platforms: []string{"linux/amd64", "linux/arm64"}},
		&ir.Target{Name: "b", Contexts: map[string]ir.Source{"alpine": ir.ParseNamedContext("docker-image://debian")}},
	)
	units, err := Compile(t.Context(), p, Options{Resolver: NewRegistryResolver(s.options(t)), NodePlatform: amd64})
	require.NoError(t, err)
	require.Len(t, units, 3)
	seen := map[string]bool{}
	for _, u := range units {
		for _, op := range ops(t, u.Definition) {
			if src := op.GetSource(); src != nil {
				require.Contains(t, src.Identifier, "@sha256:")
				seen[src.Identifier] = true
			}
		}
	}
	require.Len(t, seen, 4)
}

func TestCompileOffline(t *testing.T) {
	p := project(t, `
-- Dockerfile --
FROM alpine
COPY --from=busybox@sha256:de68ccc327e508f44a3a150fc877a442581bb03dd53e24b418fbc425ece79d52 /x /x
`, &ir.Target{Name: "a"}, &ir.Target{Name: "b", Contexts: map[string]ir.Source{"busybox": ir.ParseNamedContext("target:a")}})
	units, err := Compile(t.Context(), p, Options{Resolver: NewRegistryResolver(RegistryOptions{Offline: true})})
	require.NoError(t, err)
	for _, u := range units {
		require.Contains(t, u.Assumed, "docker.io/library/alpine:latest")
		require.Equal(t, u.Images, u.Assumed)
	}
}
