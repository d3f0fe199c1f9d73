package frontend

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	apicapspb "github.com/moby/buildkit/util/apicaps/pb"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

func ptr[T any](v T) *T { return &v }

// Each attribute of a target becomes the frontend options that docker buildx
// gives for it.
func TestAttrs(t *testing.T) {
	for _, tc := range []struct {
		name   string
		target ir.Target
		opts   func(*Options)
		want   map[string]string
	}{
		{name: "nothing"},
		{name: "args", target: ir.Target{Args: map[string]string{"A": "1", "B": ""}},
			want: map[string]string{"build-arg:A": "1", "build-arg:B": ""}},
		{name: "proxy args do not replace args", target: ir.Target{Args: map[string]string{"HTTP_PROXY": "mine"}},
			opts: func(o *Options) { o.ProxyArgs = map[string]string{"HTTP_PROXY": "p", "NO_PROXY": "n"} },
			want: map[string]string{"build-arg:HTTP_PROXY": "mine", "build-arg:NO_PROXY": "n"}},
		{name: "labels", target: ir.Target{Labels: map[string]string{"org.x": "y"}},
			want: map[string]string{"label:org.x": "y"}},
		{name: "target", target: ir.Target{Stage: "base"}, want: map[string]string{"target": "base"}},
		{name: "platform", target: ir.Target{Platforms: []string{"linux/arm64/v8"}},
			want: map[string]string{"platform": "linux/arm64"}},
		{name: "platforms", target: ir.Target{Platforms: []string{"linux/arm64,linux/arm/v7"}},
			want: map[string]string{"platform": "linux/arm64", "multi-platform": "true"}},
		{name: "no-cache", target: ir.Target{NoCache: ptr(true), NoCacheFilter: []string{"a"}}, want: map[string]string{"no-cache": ""}},
		{name: "no-cache false", target: ir.Target{NoCache: ptr(false)}},
		{name: "no-cache-filter", target: ir.Target{NoCacheFilter: []string{"a", "b"}}, want: map[string]string{"no-cache": "a,b"}},
		{name: "pull", target: ir.Target{Pull: ptr(true)}, want: map[string]string{"image-resolve-mode": "pull"}},
		{name: "network none", target: ir.Target{Network: ptr("none")}, want: map[string]string{"force-network-mode": "none"}},
		{name: "network default", target: ir.Target{Network: ptr("default")}},
		{name: "shm-size", target: ir.Target{ShmSize: ptr("128m")}, want: map[string]string{"shm-size": "134217728"}},
		{name: "ulimits", target: ir.Target{Ulimits: []string{"nproc=5", "nofile=1024:2048", "core=0", "nproc=6"}},
			want: map[string]string{"ulimit": "core=0:0,nofile=1024:2048,nproc=6:6"}},
		{name: "extra-hosts", target: ir.Target{ExtraHosts: map[string]string{"z": "10.0.0.1,[::1]", "a": "1.2.3.4"}},
			want: map[string]string{"add-hosts": "a=1.2.3.4,z=10.0.0.1,z=::1"}},
		{name: "host gateway", target: ir.Target{ExtraHosts: map[string]string{"h": "host-gateway,1.2.3.4"}},
			opts: func(o *Options) { o.HostGateway = "172.17.0.1" },
			want: map[string]string{"add-hosts": "h=172.17.0.1,h=1.2.3.4"}},
		{name: "resources", target: ir.Target{Resources: &ir.Resources{
			Memory: ptr("512m"), MemorySwap: ptr("-1"), CPUShares: ptr(int64(2)), CPUPeriod: ptr(int64(3)),
			CPUQuota: ptr(int64(4)), CpusetCPUs: ptr("0-1"), CpusetMems: ptr("0")}},
			want: map[string]string{"memory": "536870912", "memswap": "-1", "cpushares": "2", "cpuperiod": "3",
				"cpuquota": "4", "cpusetcpus": "0-1", "cpusetmems": "0"}},
		{name: "attest", target: ir.Target{Attest: []ir.Attest{
			{Type: "provenance", Attrs: map[string]string{"mode": "max", "builder-id": "a,b"}},
			{Type: "sbom", Attrs: map[string]string{"type": "sbom", "generator": "x"}}}},
			want: map[string]string{"attest:provenance": `"builder-id=a,b",mode=max`, "attest:sbom": "generator=x"}},
		{name: "default provenance", opts: func(o *Options) { o.DefaultProvenance = "mode=min" },
			want: map[string]string{"attest:provenance": "mode=min"}},
		{name: "provenance disabled", target: ir.Target{Attest: []ir.Attest{{Type: "provenance", Disabled: true}}},
			opts: func(o *Options) { o.DefaultProvenance = "mode=min" }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			tg := tc.target
			tg.Name = "t"
			o := options()
			if tc.opts != nil {
				tc.opts(&o)
			}
			units, err := Compile(t.Context(), project(t, "-- Dockerfile --\nFROM alpine AS base\nRUN true\nFROM base\n", &tg), o)
			require.NoError(t, err)
			got := units[0].FrontendAttrs
			require.True(t, strings.HasPrefix(got["dockerfilekey"], "dir-"))
			require.Equal(t, "Dockerfile", got["filename"])
			delete(got, "dockerfilekey")
			delete(got, "filename")
			if tc.want == nil {
				tc.want = map[string]string{}
			}
			require.Equal(t, tc.want, got)
		})
	}
}

// What the options do to the steps.
func TestOptionsReachSteps(t *testing.T) {
	u := compile(t, project(t, "-- Dockerfile --\nFROM alpine AS base\nRUN one\nFROM base\nRUN --network=host two\n", &ir.Target{
		Name: "t", Network: ptr("none"), ShmSize: ptr("1m"), Ulimits: []string{"nofile=1:2"},
		ExtraHosts: map[string]string{"h": "1.2.3.4"}, Resources: &ir.Resources{Memory: ptr("1g")},
		NoCacheFilter: []string{"base"}, Args: map[string]string{"HTTP_PROXY": "p"},
	}))[0]
	list := ops(t, u.Definition)
	one, two := list[1].GetExec(), list[2].GetExec()
	require.Equal(t, pb.NetMode_NONE, one.Network)
	require.Equal(t, pb.NetMode_HOST, two.Network)
	require.Equal(t, []string{"network.host"}, u.Entitlements)
	require.Equal(t, "h", one.Meta.ExtraHosts[0].Host)
	require.Equal(t, "nofile", one.Meta.Ulimit[0].Name)
	require.Equal(t, "p", one.Meta.ProxyEnv.HttpProxy)
	md := func(i int) *pb.OpMetadata {
		return u.Definition.Metadata[string(digest.FromBytes(u.Definition.Def[i]))]
	}
	require.Equal(t, int64(1<<30), md(1).LinuxResources.Memory)
	require.True(t, md(1).IgnoreCache)
	require.False(t, md(2).IgnoreCache)
}

// capsWithout are the capabilities of nodes that lack some.
func capsWithout(missing ...apicaps.CapID) *apicaps.CapSet {
	var list []*apicapspb.APICap
	for _, c := range pb.Caps.All() {
		if !slices.Contains(missing, apicaps.CapID(c.ID)) {
			list = append(list, c)
		}
	}
	set := pb.Caps.CapSet(list)
	return &set
}

// Nodes that lack a capability are given definitions without it.
func TestOldNodes(t *testing.T) {
	p := project(t, "-- Dockerfile --\nFROM alpine\nCOPY --link a /\nRUN one\n", &ir.Target{Name: "t", Ulimits: []string{"nofile=1:2"}})
	compiled := func(caps *apicaps.CapSet) (merges, ulimits int) {
		o := options()
		o.LLBCaps = caps
		units, err := Compile(t.Context(), p, o)
		require.NoError(t, err)
		for _, op := range ops(t, units[0].Definition) {
			if op.GetMerge() != nil {
				merges++
			}
			ulimits += len(op.GetExec().GetMeta().GetUlimit())
		}
		return merges, ulimits
	}
	for _, tc := range []struct {
		caps            *apicaps.CapSet
		merges, ulimits int
	}{
		{nil, 1, 1},
		{capsWithout(), 1, 1},
		{capsWithout(pb.CapMergeOp), 0, 1},
		{capsWithout(pb.CapMergeOp, pb.CapExecMetaUlimit), 0, 0},
	} {
		merges, ulimits := compiled(tc.caps)
		require.Equal(t, tc.merges, merges)
		require.Equal(t, tc.ulimits, ulimits)
	}
}

// Where the Dockerfile and the ignore file are found.
func TestDockerfilePaths(t *testing.T) {
	const files = `
-- Dockerfile --
FROM alpine
ENV WHICH=root
-- .dockerignore --
root-ignored
-- sub/dockerfile --
FROM alpine
ENV WHICH=lower
-- sub/other.Dockerfile --
FROM alpine
ENV WHICH=other
COPY . /
-- sub/other.Dockerfile.dockerignore --
other-ignored
-- sub/deep/Dockerfile --
FROM alpine
ENV WHICH=deep
COPY . /
-- sub/.dockerignore --
sub-ignored
-- outside/Dockerfile --
FROM alpine
ENV WHICH=outside
COPY . /
-- outside/.dockerignore --
not-for-others
`
	for _, tc := range []struct {
		context, dockerfile, which string
		exclude                    string
	}{
		{".", "", "root", ""},
		{"sub", "", "lower", ""},
		{"sub", "other.Dockerfile", "other", `["other-ignored"]`},
		{"sub", "deep/Dockerfile", "deep", `["sub-ignored"]`},
		{"sub", "../outside/Dockerfile", "outside", `["sub-ignored"]`},
		{"sub", "cwd://outside/Dockerfile", "outside", `["sub-ignored"]`},
		{"cwd://sub", "deep/Dockerfile", "deep", `["sub-ignored"]`},
		{"link", "deep/Dockerfile", "deep", `["sub-ignored"]`},
	} {
		t.Run(tc.context+" "+tc.dockerfile, func(t *testing.T) {
			p := project(t, files, &ir.Target{Name: "t", Context: ir.ParseContext(tc.context, nil), Dockerfile: tc.dockerfile})
			require.NoError(t, os.Symlink("sub", filepath.Join(p.Dir, "link")))
			u := compile(t, p)[0]
			require.Contains(t, string(u.Config), "WHICH="+tc.which)
			for _, op := range ops(t, u.Definition) {
				if src := op.GetSource(); src != nil && strings.HasPrefix(src.Identifier, "local://") {
					require.Equal(t, tc.exclude, src.Attrs[pb.AttrExcludePatterns])
					require.Equal(t, Local{Dir: must(realPath(filepath.Join(p.Dir, "sub")))}, u.Locals[strings.TrimPrefix(src.Identifier, "local://")])
				}
			}
		})
	}
	t.Run("absolute", func(t *testing.T) {
		p := project(t, files, &ir.Target{Name: "t", Context: ir.ParseContext("sub", nil)})
		p.Targets[0].Dockerfile = filepath.Join(p.Dir, "outside", "Dockerfile")
		require.Contains(t, string(compile(t, p)[0].Config), "WHICH=outside")
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Named contexts of each kind.
func TestNamedContexts(t *testing.T) {
	const files = `
-- Dockerfile --
FROM base
COPY --from=extra / /
-- dir/x --
-- dir/.dockerignore --
ignored
`
	for _, tc := range []struct{ name, value, want string }{
		{"dir", "dir", `local://dir-`},
		{"cwd", "cwd://dir", `local://dir-`},
		{"image", "docker-image://busybox", `docker-image://docker.io/library/busybox:latest@sha256:`},
		{"image without tag", "docker-image://x.io/a/b:1", `docker-image://x.io/a/b:1@sha256:`},
		{"git", "https://example.com/repo.git#main:sub", `git://example.com/repo.git#main`},
		{"http", "https://example.com/file.tgz", `https://example.com/file.tgz`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u := compile(t, project(t, files, &ir.Target{Name: "t", Contexts: map[string]ir.Source{"extra": ir.ParseNamedContext(tc.value)}}))[0]
			var found bool
			for _, op := range ops(t, u.Definition) {
				if src := op.GetSource(); src != nil && strings.HasPrefix(src.Identifier, tc.want) {
					found = true
					if strings.HasPrefix(tc.want, "local") {
						require.Equal(t, `["ignored"]`, src.Attrs[pb.AttrExcludePatterns])
					}
				}
			}
			require.True(t, found, text(t, u.Definition))
		})
	}
	t.Run("scratch", func(t *testing.T) {
		u := compile(t, project(t, "-- Dockerfile --\nFROM base\n", &ir.Target{Name: "t", Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("docker-image://scratch")}}))[0]
		require.Empty(t, ops(t, u.Definition))
		require.NotNil(t, u.Definition.Metadata)
	})
}

// A result without any content can be transferred.
func TestLinkToScratch(t *testing.T) {
	units := compile(t, project(t, "-- Dockerfile --\nFROM scratch\nENV A=B\n-- child/Dockerfile --\nFROM base\nCOPY --from=base / /x\n-- child/x --\n",
		&ir.Target{Name: "empty"},
		&ir.Target{Name: "child", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:empty")}}))
	require.Contains(t, string(units[1].Config), "A=B")
}

func TestOCILayout(t *testing.T) {
	p := project(t, "-- Dockerfile --\nFROM base\n")
	dir := filepath.Join(p.Dir, "layout")
	s := newStubRegistry(t)
	root := s.image("app", "v1")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755))
	for d, b := range s.blobs {
		require.NoError(t, os.WriteFile(filepath.Join(dir, "blobs", "sha256", digest.Digest(d).Encoded()), b.data, 0o644))
	}
	index, err := json.Marshal(ocispecs.Index{Manifests: []ocispecs.Descriptor{{
		MediaType: ocispecs.MediaTypeImageIndex, Digest: digest.Digest(root), Size: int64(len(s.blobs[root].data)),
		Annotations: map[string]string{ocispecs.AnnotationRefName: "v1"},
	}}})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "index.json"), index, 0o644))

	for _, value := range []string{"oci-layout://layout:v1", "oci-layout://layout@" + root, "oci-layout://" + dir + ":v1@" + root} {
		p.Targets = project(t, "", &ir.Target{Name: "t", Contexts: map[string]ir.Source{"base": ir.ParseNamedContext(value)}, Platforms: []string{"linux/arm64"}}).Targets
		u := compile(t, p)[0]
		src := ops(t, u.Definition)[0].GetSource()
		require.Equal(t, "oci-layout://docker.io/library/base@"+root, src.Identifier)
		require.NotContains(t, src.Attrs, pb.AttrOCILayoutSessionID)
		require.Equal(t, map[string]string{src.Attrs[pb.AttrOCILayoutStoreID]: must(realPath(dir))}, u.OCIStores)
		require.Contains(t, string(u.Config), `"architecture":"arm64"`)
	}
	p.Targets[0].Contexts["base"] = ir.ParseNamedContext("oci-layout://layout")
	_, err = Compile(t.Context(), p, options())
	require.ErrorContains(t, err, `oci-layout reference "oci-layout://layout" could not be resolved: no image with tag "latest"`)
}

// An id means one source, also in what a linked target contributes.
func TestSecrets(t *testing.T) {
	const files = `
-- Dockerfile --
FROM alpine
RUN --mount=type=secret,id=token --mount=type=secret,id=own,env=OWN --mount=type=ssh true
-- child/Dockerfile --
FROM base
RUN --mount=type=secret,id=token true
`
	one := ir.Secret{ID: "token", Src: "one"}
	two := ir.Secret{ID: "token", Env: "TWO"}
	targets := func(second []ir.Secret) []*ir.Target {
		return []*ir.Target{
			{Name: "a", Secrets: []ir.Secret{one}, SSH: []ir.SSH{{ID: "default"}}},
			{Name: "b", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:a")}, Secrets: second},
		}
	}
	same := compile(t, project(t, files, targets([]ir.Secret{one})...))
	require.Equal(t, map[string]Secret{"token": {Secret: one}}, same[0].Secrets)
	require.Equal(t, map[string]ir.SSH{"default": {ID: "default"}}, same[0].SSH)
	require.Equal(t, same[0].Secrets, same[1].Secrets)

	other := compile(t, project(t, files, targets([]ir.Secret{two})...))
	require.Len(t, other[1].Secrets, 2)
	var values []Secret
	for _, id := range ir.SortedKeys(other[1].Secrets) {
		if strings.HasPrefix(id, "token.") {
			values = append(values, other[1].Secrets[id])
		}
	}
	require.ElementsMatch(t, []Secret{{Secret: one}, {Secret: two}}, values)
	exec := ops(t, other[0].Definition)[1].GetExec()
	var mount *pb.Mount
	for _, m := range exec.Mounts {
		if m.SecretOpt != nil {
			mount = m
		}
	}
	require.Equal(t, "/run/secrets/token", mount.Dest, "the step must not see the other id")
	require.Equal(t, one, other[0].Secrets[mount.SecretOpt.ID].Secret)

	// A target that does not declare the id must not get someone else's.
	p := project(t, files, append(targets([]ir.Secret{two}), &ir.Target{Name: "c", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("docker-image://alpine")}})...)
	third := compile(t, p)[2]
	require.Empty(t, third.Secrets)
	require.Contains(t, text(t, third.Definition), "token.undeclared")
}

func TestEntitlements(t *testing.T) {
	u := compile(t, project(t, `
-- Dockerfile --
FROM alpine
RUN --security=insecure true
RUN --device=name=vendor.com/device=x,required true
`, &ir.Target{Name: "t", Network: ptr("host")}))[0]
	require.Equal(t, []string{"device", "network.host", "security.insecure"}, u.Entitlements)
}

func TestSBOM(t *testing.T) {
	u := compile(t, project(t, "-- Dockerfile --\nFROM alpine\nARG BUILDKIT_SBOM_SCAN_CONTEXT=true\nCOPY x /x\n-- x --\n",
		&ir.Target{Name: "t", Attest: []ir.Attest{{Type: "sbom", Attrs: map[string]string{"generator": "scanner"}}}}))[0]
	require.Len(t, u.Attestations, 1)
	require.Contains(t, u.Images, "docker.io/library/scanner:latest")
	require.Len(t, u.Locals, 1)
	golden(t, "sbom", text(t, u.Attestations[0].Ref))
}

func TestMultiPlatformArg(t *testing.T) {
	u := compile(t, project(t, "-- Dockerfile --\nFROM alpine\n", &ir.Target{
		Name: "t", Platforms: []string{"linux/arm64"}, Args: map[string]string{"BUILDKIT_MULTI_PLATFORM": "1"}}))[0]
	require.True(t, u.MultiPlatform)
	require.NotEmpty(t, u.Config)
	require.Equal(t, []string{"containerimage.base.config"}, ir.SortedKeys(u.Metadata))
	require.Equal(t, arm64, u.ExportPlatform)
}

// SOURCE_DATE_EPOCH reaches the metadata that the exporter reads.
func TestEpoch(t *testing.T) {
	u := compile(t, project(t, "-- Dockerfile --\nFROM alpine\n", &ir.Target{Name: "t", Args: map[string]string{"SOURCE_DATE_EPOCH": "12"}}))[0]
	require.Equal(t, "12", string(u.Metadata["source.date.epoch"]))
}

func TestWarnings(t *testing.T) {
	u := compile(t, project(t, "-- svc/Dockerfile --\nFROM alpine AS a\nMAINTAINER me\nFROM a as b\n", &ir.Target{Name: "t", Context: ir.ParseContext("svc", nil)}))[0]
	require.Len(t, u.Warnings, 2)
	require.Equal(t, "MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label (line 2)", u.Warnings[0].Message)
	require.Equal(t, "svc/Dockerfile:2,1-14", u.Warnings[0].Range.String())
	require.Contains(t, u.Warnings[0].Excerpt, "   2 | >>> MAINTAINER me")
	require.NotEmpty(t, u.Warnings[0].URL)
	require.Equal(t, 3, u.Warnings[1].Range.Start.Line)
}

// The syntax line of the Dockerfile frontend itself is served in process.
func TestSyntaxInProcess(t *testing.T) {
	plain := compile(t, project(t, "-- Dockerfile --\nFROM alpine\nRUN true\n", &ir.Target{Name: "t"}))[0]
	for _, files := range []string{
		"-- Dockerfile --\n# syntax=docker/dockerfile:1.7\nFROM alpine\nRUN true\n",
		"-- Dockerfile --\n# syntax = docker.io/docker/dockerfile-upstream:master-labs\nFROM alpine\nRUN true\n",
	} {
		require.Equal(t, plain.Definition.Def, compile(t, project(t, files, &ir.Target{Name: "t"}))[0].Definition.Def)
	}
	arg := compile(t, project(t, "-- Dockerfile --\nFROM alpine\nRUN true\n", &ir.Target{Name: "t", Args: map[string]string{"BUILDKIT_SYNTAX": "docker/dockerfile:1"}}))[0]
	require.Equal(t, plain.Definition.Def, arg.Definition.Def)
}

// The environment of a scanner has one order.
func TestSBOMParameters(t *testing.T) {
	attest := []ir.Attest{{Type: "sbom", Attrs: map[string]string{"generator": "scanner", "A": "1", "B": "2", "C": "3", "D": "4", "E": "5"}}}
	first := compile(t, project(t, webFiles, &ir.Target{Name: "t", Context: ir.ParseContext("web", nil), Attest: attest}))[0]
	for range 10 {
		again := compile(t, project(t, webFiles, &ir.Target{Name: "t", Context: ir.ParseContext("web", nil), Attest: attest}))[0]
		require.Equal(t, first.Attestations[0].Ref.Def, again.Attestations[0].Ref.Def)
	}
}

// A link named "context" replaces the main context.
func TestLinkAsMainContext(t *testing.T) {
	units := compile(t, project(t, "-- Dockerfile --\nFROM alpine\nRUN make\n-- child/Dockerfile --\nFROM alpine\nCOPY out /\n",
		&ir.Target{Name: "parent"},
		&ir.Target{Name: "child", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"context": ir.ParseNamedContext("target:parent")}}))
	require.Empty(t, units[1].Locals)
	require.Contains(t, text(t, units[1].Definition), `"make"`)
}

// Nodes need not have the platform of this machine.
func TestNodePlatform(t *testing.T) {
	o := options()
	o.NodePlatform = ocispecs.Platform{OS: "linux", Architecture: "riscv64"}
	units, err := Compile(t.Context(), project(t, webFiles+"-- child/Dockerfile --\nFROM busybox AS base\nRUN child\nFROM base\nARG TARGETPLATFORM BUILDPLATFORM\nENV P=$TARGETPLATFORM-$BUILDPLATFORM\n",
		&ir.Target{Name: "web", Context: ir.ParseContext("web", nil), Platforms: []string{"linux/riscv64", "linux/s390x"}},
		&ir.Target{Name: "child", Context: ir.ParseContext("child", nil), Contexts: map[string]ir.Source{"base": ir.ParseNamedContext("target:web")}}), o)
	require.NoError(t, err)
	child := units[2]
	require.Equal(t, o.NodePlatform, child.Platform)
	require.Equal(t, o.NodePlatform, child.ExportPlatform)
	require.Contains(t, string(child.Config), "P=linux/riscv64-linux/riscv64")
	// The whole stage is replaced by the result of the link.
	require.Contains(t, text(t, child.Definition), "apk add curl")
	require.NotContains(t, text(t, child.Definition), "s390x")
	require.NotContains(t, text(t, child.Definition), `"child"`)
}

// Errors name a Dockerfile as the user knows it, wherever it is.
func TestKnownDockerfile(t *testing.T) {
	for _, tt := range []struct{ root, path, want string }{
		{"", "services/auth/Dockerfile", "services/auth/Dockerfile"},
		{"", "app dockerfile-inline", "app dockerfile-inline"},
		{"https://example.com/r.git#main:sub", "Dockerfile", "Dockerfile of https://example.com/r.git#main:sub"},
		{"services/auth", "Dockerfile", "services/auth/Dockerfile"},
		{".", "Dockerfile", "Dockerfile"},
	} {
		in := &inputs{dockerfileRoot: tt.root, dockerfilePath: tt.path}
		require.Equal(t, tt.want, in.knownDockerfile())
	}
}
