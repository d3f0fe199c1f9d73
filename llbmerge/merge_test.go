package llbmerge

import (
	"context"
	"fmt"
	"testing"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver"
	"github.com/moby/buildkit/solver/llbsolver"
	"github.com/moby/buildkit/solver/llbsolver/ops"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

func TestKeptApart(t *testing.T) {
	image := llb.Image("docker.io/library/alpine:latest")
	run := func(opts ...llb.RunOption) llb.State {
		return image.Run(append([]llb.RunOption{llb.Shlex("make")}, opts...)...).Root()
	}
	for name, test := range map[string]struct {
		a, b llb.State
		same bool
	}{
		"equal":              {a: run(), b: run(), same: true},
		"names":              {a: run(llb.WithCustomName("x")), b: run(llb.WithCustomName("y")), same: true},
		"resource limits":    {a: run(llb.WithLinuxResources(llb.LinuxResources{Memory: 1})), b: run(), same: true},
		"command":            {a: run(), b: run(llb.Shlex("make test"))},
		"network":            {a: run(), b: run(llb.Network(llb.NetModeHost))},
		"security":           {a: run(), b: run(llb.Security(llb.SecurityModeInsecure))},
		"platform":           {a: run(), b: run(llb.LinuxArm64)},
		"cache mount id":     {a: run(cacheMount("x", llb.CacheMountShared)), b: run(cacheMount("y", llb.CacheMountShared))},
		"cache mount locked": {a: run(cacheMount("x", llb.CacheMountShared)), b: run(cacheMount("x", llb.CacheMountLocked))},
		"ignore cache":       {a: run(), b: run(llb.IgnoreCache)},
		"both ignore cache":  {a: run(llb.IgnoreCache), b: run(llb.IgnoreCache), same: true},
		"secret":             {a: run(llb.AddSecret("/s", llb.SecretID("s"))), b: run(llb.AddSecret("/s", llb.SecretID("s"))), same: true},
		"secret of another id": {
			a: run(llb.AddSecret("/s", llb.SecretID("s"))), b: run(llb.AddSecret("/s", llb.SecretID("s2"))),
		},
		"agent of another id": {a: run(llb.AddSSHSocket()), b: run(llb.AddSSHSocket(llb.SSHID("x")))},
		"layout of another session": {
			a: llb.OCILayout("x@"+digest.FromString("x").String(), llb.OCIStore("s1", "store")),
			b: llb.OCILayout("x@"+digest.FromString("x").String(), llb.OCIStore("s2", "store")), same: true,
		},
		"layout of another store": {
			a: llb.OCILayout("x@"+digest.FromString("x").String(), llb.OCIStore("s", "store1")),
			b: llb.OCILayout("x@"+digest.FromString("x").String(), llb.OCIStore("s", "store2")),
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := marshal(t, "a", test.a), marshal(t, "b", test.b)
			g := merge(t, []Unit{a, b})
			checkGraph(t, g)
			ra, _ := g.Root("a")
			rb, _ := g.Root("b")
			require.Equal(t, test.same, ra == rb)
			def, err := g.Slice("a", "b")
			require.NoError(t, err)
			checkDefinition(t, g, def, []string{"a", "b"})
		})
	}
}

func cacheMount(id string, sharing llb.CacheMountSharingMode) llb.RunOption {
	return llb.AddMount("/cache", llb.Scratch(), llb.AsPersistentCacheDir(id, sharing))
}

// What keeps an op that ignores the cache apart from its twin is no part of the
// cache key, whether or not there are constraints.
func TestIgnoreCacheKeepsCacheKey(t *testing.T) {
	image := llb.Image("docker.io/library/alpine:latest")
	for name, st := range map[string]func(...llb.ConstraintsOpt) llb.State{
		"exec": func(o ...llb.ConstraintsOpt) llb.State {
			return image.Run(llb.Shlex("make"), constraintsOpts(o)).Root()
		},
		"file": func(o ...llb.ConstraintsOpt) llb.State { return image.File(llb.Mkdir("/x", 0o755), o...) },
		"merge": func(o ...llb.ConstraintsOpt) llb.State {
			return llb.Merge([]llb.State{image, image.File(llb.Mkdir("/x", 0o755))}, o...)
		},
	} {
		for _, filter := range [][]string{nil, {"label.zone==a"}, {"b", "b", "a"}} {
			t.Run(fmt.Sprint(name, filter), func(t *testing.T) {
				plain := marshal(t, "a", st())
				fresh := marshal(t, "b", st(llb.IgnoreCache))
				setFilter(t, &plain, filter)
				setFilter(t, &fresh, filter)
				g := merge(t, []Unit{plain, fresh})
				ra, _ := g.Root("a")
				rb, _ := g.Root("b")
				require.NotEqual(t, ra, rb)
				va, _ := g.Vertex(ra.Digest)
				vb, _ := g.Vertex(rb.Digest)
				require.False(t, va.IgnoreCache)
				require.True(t, vb.IgnoreCache)
				require.Equal(t, va.Inputs, vb.Inputs)
				require.Equal(t, va.Step, vb.Step)
				require.Equal(t, cacheKey(t, g, "a"), cacheKey(t, g, "b"))
				def, err := g.Slice("b")
				require.NoError(t, err)
				require.True(t, def.Metadata[string(vb.Digest)].IgnoreCache)
				// The mark is not set twice.
				require.Equal(t, describe(g), describe(merge(t, cut(t, g, "a", "b"))))
			})
		}
	}
}

type constraintsOpts []llb.ConstraintsOpt

func (o constraintsOpts) SetRunOption(ei *llb.ExecInfo) {
	for _, opt := range o {
		opt.SetRunOption(ei)
	}
}

// setFilter gives the root of a unit worker constraints.
func setFilter(t *testing.T, u *Unit, filter []string) {
	def := u.Definition
	n := len(def.Def)
	var op pb.Op
	require.NoError(t, op.UnmarshalVT(def.Def[n-2]))
	md := def.Metadata[string(digest.FromBytes(def.Def[n-2]))]
	op.Constraints = &pb.WorkerConstraints{Filter: filter}
	var err error
	def.Def[n-2], err = deterministic.Marshal(&op)
	require.NoError(t, err)
	name := string(digest.FromBytes(def.Def[n-2]))
	def.Metadata[name] = md
	def.Def[n-1], err = deterministic.Marshal(&pb.Op{Inputs: []*pb.Input{{Digest: name}}})
	require.NoError(t, err)
}

// cacheKey returns what BuildKit computes for the root of a unit.
func cacheKey(t *testing.T, g *Graph, id string) digest.Digest {
	def, err := g.Slice(id)
	require.NoError(t, err)
	edge, err := llbsolver.Load(context.Background(), def, nil)
	require.NoError(t, err)
	v := edge.Vertex
	op := v.Sys().(*pb.Op)
	var so solver.Op
	switch o := op.Op.(type) {
	case *pb.Op_Exec:
		so, err = ops.NewExecOp(v, o, op.Platform, nil, nil, nil, nil, nil, nil, false)
	case *pb.Op_File:
		so, err = ops.NewFileOp(v, o, nil, nil, nil)
	case *pb.Op_Merge:
		so, err = ops.NewMergeOp(v, o, nil)
	default:
		require.Failf(t, "no cache key", "%T", o)
	}
	require.NoError(t, err)
	cm, _, err := so.CacheMap(context.Background(), nil, 0)
	require.NoError(t, err)
	return cm.Digest
}

func TestJoinedMetadata(t *testing.T) {
	run := func(name string, md *pb.OpMetadata) Unit {
		u := marshal(t, name, llb.Image("x").Run(llb.Shlex("make")).Root())
		md.Description = map[string]string{"llb.customname": "[build 2/3] RUN make for " + name, name: "x"}
		d := string(digest.FromBytes(u.Definition.Def[1]))
		md.Caps = map[string]bool{"cap." + name: true}
		u.Definition.Metadata[d] = md
		return u
	}
	yes, no := &pb.ExportCache{Value: true}, &pb.ExportCache{}
	units := []Unit{
		run("a", &pb.OpMetadata{ExportCache: no, LinuxResources: &pb.LinuxResources{Memory: 1, MemorySwap: 7, CpuQuota: 10, CpusetCpus: "0-1", CpusetMems: "1"}, ProgressGroup: &pb.ProgressGroup{Id: "random1", Name: "p"}}),
		run("b", &pb.OpMetadata{ExportCache: yes, LinuxResources: &pb.LinuxResources{Memory: 2, MemorySwap: -1, CpuQuota: 5, CpuPeriod: 1000, CpuShares: 5, CpusetCpus: "2"}}),
		run("c", &pb.OpMetadata{}),
		run("d", &pb.OpMetadata{ExportCache: no, ProgressGroup: &pb.ProgressGroup{Id: "random2", Name: "p", Weak: true}}),
		run("e", &pb.OpMetadata{ExportCache: no, LinuxResources: &pb.LinuxResources{}}),
	}
	g := merge(t, units)
	r, _ := g.Root("a")
	metadata := func(ids ...string) *pb.OpMetadata {
		def, err := g.Slice(ids...)
		require.NoError(t, err)
		return def.Metadata[string(r.Digest)]
	}

	require.Equal(t, "[build 2/3] RUN make for a", metadata("a").Description["llb.customname"])

	md := metadata("a", "b")
	require.Equal(t, map[string]string{"llb.customname": "[build 2/3] RUN make for a", "a": "x", "b": "x"}, md.Description)
	require.Equal(t, map[string]bool{"cap.a": true, "cap.b": true}, md.Caps)
	require.True(t, md.ExportCache.Value)
	require.Equal(t, "memory:2 memorySwap:-1 cpuShares:5 cpuPeriod:1000 cpuQuota:5 cpusetCpus:\"0-1,2\"", text(md.LinuxResources))

	md = metadata("a", "c")
	require.Nil(t, md.ExportCache)
	require.EqualValues(t, 1, md.LinuxResources.Memory, "no limits are those of the others")
	md = metadata("a", "d", "e")
	require.False(t, md.ExportCache.Value)
	require.EqualValues(t, 0, md.LinuxResources.Memory)

	ids := map[string]bool{}
	for _, id := range []string{"a", "d"} {
		pg := metadata(id).ProgressGroup
		require.NotContains(t, pg.Id, "random")
		require.Equal(t, "p", pg.Name)
		ids[pg.Id] = true
	}
	require.Len(t, ids, 2, "a group is of one unit")
	require.True(t, ids[metadata("a", "d").ProgressGroup.Id])

	require.Equal(t, "[build 2/3] RUN make for a", metadata(g.Units()...).Description["llb.customname"])
	require.Equal(t, "[build 2/3] RUN make for b", metadata("b", "c", "d", "e").Description["llb.customname"])
}

func text(r *pb.LinuxResources) string {
	var s string
	add := func(name string, v any) {
		if v != int64(0) && v != uint64(0) && v != "" {
			if t, ok := v.(string); ok {
				v = fmt.Sprintf("%q", t)
			}
			if s != "" {
				s += " "
			}
			s += fmt.Sprintf("%s:%v", name, v)
		}
	}
	add("memory", r.Memory)
	add("memorySwap", r.MemorySwap)
	add("cpuShares", r.CpuShares)
	add("cpuPeriod", r.CpuPeriod)
	add("cpuQuota", r.CpuQuota)
	add("cpusetCpus", r.CpusetCpus)
	add("cpusetMems", r.CpusetMems)
	return s
}

func TestNames(t *testing.T) {
	for name, stage := range map[string]string{
		"[build 2/3] RUN make":                      "build",
		"[build  2/13] RUN make":                    "build",
		"[linux/amd64 build 2/3] RUN make":          "build",
		"[linux/amd64->arm64 stage-1 1/1] RUN make": "stage-1",
		"[linux/arm/v7 1/2] FROM alpine":            "",
		"[1/2] FROM alpine":                         "",
		"[internal] load build context":             "",
		"[context lib] load from client":            "",
		"make":                                      "",
		"[build 2/3":                                "",
	} {
		require.Equal(t, stage, placeOf(name).Stage, name)
	}
	require.Equal(t, Place{"linux/amd64->arm64", "build", 2, "RUN", "RUN make"}, placeOf("[linux/amd64->arm64 build  2/13] RUN make"))
	require.Equal(t, Place{"linux/arm/v7", "", 1, "FROM", "FROM alpine"}, placeOf("[linux/arm/v7 1/2] FROM alpine"))
	require.Equal(t, Place{}, placeOf("[build +2/3] RUN make"))
	require.Equal(t, Place{}, placeOf("[build 0/3] RUN make"))
	scratch := llb.Scratch()
	g := merge(t, []Unit{marshal(t, "a", scratch.
		File(llb.Mkdir("/a", 0o755).Mkfile("/b", 0o600, nil).Symlink("/b", "/c").Rm("/b")).
		File(llb.Copy(llb.HTTP("https://example.com/x"), "x", "/d")))})
	var steps, kinds []string
	for _, v := range g.Vertices {
		steps = append(steps, v.Step)
		kinds = append(kinds, v.Kind.String())
	}
	require.Equal(t, []string{"mkdir /a, mkfile /b, symlink /b /c, rm /b", "https://example.com/x", "copy /x /d"}, steps)
	require.Equal(t, []string{"file", "http", "file"}, kinds)
}

func TestKinds(t *testing.T) {
	source := func(id string) *pb.Op { return &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: id}}} }
	for want, op := range map[Kind]*pb.Op{
		KindImage:       source("docker-image://docker.io/library/alpine:latest"),
		KindLocal:       source("local://context"),
		KindGit:         source("git://github.com/x/y"),
		KindHTTP:        source("https://example.com"),
		KindOCILayout:   source("oci-layout://x@sha256:y"),
		KindBlob:        source("docker-image+blob://x@sha256:y"),
		KindExec:        {Op: &pb.Op_Exec{}},
		KindFile:        {Op: &pb.Op_File{}},
		KindMerge:       {Op: &pb.Op_Merge{}},
		KindDiff:        {Op: &pb.Op_Diff{}},
		KindBuild:       {Op: &pb.Op_Build{}},
		KindPassthrough: {Op: &pb.Op_Passthrough{}},
		KindUnknown:     source("ftp://x"),
	} {
		require.Equal(t, want, kindOf(op))
		require.Equal(t, op.GetSource() != nil && want != KindUnknown, want.IsSource(), want)
		step := want >= KindExec && want != KindPassthrough
		require.Equal(t, step, want.IsStep(), want)
		require.NotEmpty(t, want.String())
	}
	require.Equal(t, "unknown", Kind(200).String())
}

func TestSlicePassthrough(t *testing.T) {
	image := llb.Image("x")
	g := merge(t, []Unit{
		marshal(t, "a", image.Run(llb.Shlex("a")).Root()),
		marshal(t, "b", image.Run(llb.Shlex("b"), llb.IgnoreCache).Root()),
		marshal(t, "c", image.Run(llb.Shlex("a")).Root()),
		{ID: "empty"},
	})
	def, err := g.Slice("c", "empty", "b", "a", "b")
	require.NoError(t, err)
	n := len(def.Def)
	require.Equal(t, 3+2, n)
	var join, pointer pb.Op
	require.NoError(t, join.UnmarshalVT(def.Def[n-2]))
	require.NoError(t, pointer.UnmarshalVT(def.Def[n-1]))
	p := join.GetPassthrough()
	require.NotEmpty(t, p.Id)
	require.Equal(t, []int64{0, 1, 0}, p.Outputs, "a, b and c; a and c are the same")
	for i, id := range []string{"a", "b"} {
		r, ok := g.Root(id)
		require.True(t, ok)
		require.Equal(t, r.Digest.String(), join.Inputs[i].Digest)
	}
	d := string(digest.FromBytes(def.Def[n-2]))
	require.Equal(t, []*pb.Input{{Digest: d}}[0].Digest, pointer.Inputs[0].Digest)
	require.True(t, def.Metadata[d].Caps[string(pb.CapPassthroughOp)])
	require.True(t, def.Metadata[string(digest.FromBytes(def.Def[n-1]))].Caps[string(pb.CapMetaIgnoreCache)])

	// BuildKit's own marshaller makes the same op of it.
	states := map[string]llb.PassthroughInput{}
	for _, id := range []string{"a", "b"} {
		def, err := g.Slice(id)
		require.NoError(t, err)
		op, err := llb.NewDefinitionOp(def)
		require.NoError(t, err)
		states[id] = llb.PassthroughInput{State: llb.NewState(op.Output()), Output: true}
	}
	ref, err := llb.NewPassthrough(p.Id, []llb.PassthroughInput{states["a"], states["b"]}).Marshal(context.Background())
	require.NoError(t, err)
	two, err := g.Slice("a", "b")
	require.NoError(t, err)
	require.Equal(t, ref.Def, two.Def)

	_, ok := g.Root("empty")
	require.False(t, ok)
	def, err = g.Slice("empty")
	require.NoError(t, err)
	require.Empty(t, def.Def)
	require.Equal(t, describe(g), describe(merge(t, cut(t, g, g.Units()...))))
}

func TestErrors(t *testing.T) {
	good := marshal(t, "x", llb.Image("x").Run(llb.Shlex("make")).Root())
	encode := func(op *pb.Op) []byte {
		dt, err := deterministic.Marshal(op)
		require.NoError(t, err)
		return dt
	}
	base := encode(&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "docker-image://x"}}})
	name := string(digest.FromBytes(base))
	pointer := encode(&pb.Op{Inputs: []*pb.Input{{Digest: name}}})
	localUnit := func(attr, value string) Unit {
		local := encode(&pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://context", Attrs: map[string]string{attr: value}}}})
		return Unit{Definition: &pb.Definition{Def: [][]byte{local, encode(&pb.Op{Inputs: []*pb.Input{{Digest: string(digest.FromBytes(local))}}})}}}
	}
	for want, u := range map[string]Unit{
		`decode op 1 of 2`:                          {Definition: &pb.Definition{Def: [][]byte{{0xff}, pointer}}},
		`decode op 2 of 2`:                          {Definition: &pb.Definition{Def: [][]byte{base, {0xff}}}},
		`input "sha256:x" is not in the definition`: {Definition: &pb.Definition{Def: [][]byte{base, encode(&pb.Op{Inputs: []*pb.Input{{Digest: "sha256:x"}}})}}},
		`has output index -1`:                       {Definition: &pb.Definition{Def: [][]byte{base, encode(&pb.Op{Inputs: []*pb.Input{{Digest: name, Index: -1}}})}}},
		`input "sha256:y" is not in the definition`: {Definition: func() *pb.Definition {
			op := encode(&pb.Op{Inputs: []*pb.Input{{Digest: "sha256:y"}}, Op: &pb.Op_Merge{Merge: &pb.MergeOp{}}})
			return &pb.Definition{Def: [][]byte{op, encode(&pb.Op{Inputs: []*pb.Input{{Digest: string(digest.FromBytes(op))}}})}}
		}()},
		`source "local://context" has inputs`: {Definition: func() *pb.Definition {
			op := encode(&pb.Op{Inputs: []*pb.Input{{Digest: name}}, Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://context"}}})
			return &pb.Definition{Def: [][]byte{base, op, encode(&pb.Op{Inputs: []*pb.Input{{Digest: string(digest.FromBytes(op))}}})}}
		}()},
		`encode op`: {Definition: func() *pb.Definition {
			op := []byte("\x12\x05\x0a\x03\x0a\x01\xff") // an exec with an argument that is no text
			return &pb.Definition{Def: [][]byte{op, encode(&pb.Op{Inputs: []*pb.Input{{Digest: string(digest.FromBytes(op))}}})}}
		}()},
		`the last op of the definition does not point at one result`: {Definition: &pb.Definition{Def: [][]byte{base}}},
		`local source "context" has no identity`:                     {Definition: localUnit("", "").Definition, Locals: map[string]string{"other": "x"}},
		`attribute local.followpaths`:                                localUnit(pb.AttrFollowPaths, "{"),
		`attribute local.excludepatterns`:                            localUnit(pb.AttrExcludePatterns, "1"),
		`attribute local.metadatatransfer`:                           localUnit(pb.AttrMetadataTransfer, "perhaps"),
		`is in no file of the source map`: {Definition: &pb.Definition{Def: [][]byte{base, pointer}, Source: &pb.Source{
			Locations: map[string]*pb.Locations{name: {Locations: []*pb.Location{{SourceIndex: 3}}}},
		}}},
		`file 0 of the source map is missing`: {Definition: &pb.Definition{Def: [][]byte{base, pointer}, Source: &pb.Source{Infos: []*pb.SourceInfo{nil}}}},
		`encode local source`:                 {Definition: localUnit("", "").Definition, Locals: map[string]string{"context": "\xff"}},
	} {
		u.ID = "broken"
		_, err := Merge([]Unit{good, u})
		require.ErrorContains(t, err, want)
		require.ErrorContains(t, err, `unit "broken"`)
	}
	_, err := Merge([]Unit{good, good})
	require.EqualError(t, err, `unit "x" is there twice`)

	g := merge(t, []Unit{good})
	_, err = g.Slice()
	require.Error(t, err)
	_, err = g.Slice("x", "nobody")
	require.ErrorIs(t, err, ErrUnknownUnit)
	require.ErrorContains(t, err, `"nobody"`)
	_, ok := g.Vertex("sha256:x")
	require.False(t, ok)
}

func TestMergeLeavesInputAlone(t *testing.T) {
	units := services(t, 3)
	var before []string
	for _, u := range units {
		before = append(before, encode(t, u.Definition))
	}
	merge(t, units)
	for i, u := range units {
		require.Equal(t, before[i], encode(t, u.Definition))
	}
}

// Depth must not matter.
func TestDeepGraph(t *testing.T) {
	u := chain(t, "deep", 20_000)
	g := merge(t, []Unit{u})
	require.Len(t, g.Vertices, 20_000)
	def, err := g.Slice("deep")
	require.NoError(t, err)
	require.Len(t, def.Def, 20_001)
}

// chain returns a unit of n ops in a row.
func chain(t testing.TB, id string, n int) Unit {
	def := &pb.Definition{}
	var last string
	for i := range n {
		op := &pb.Op{Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: "docker-image://x"}}}
		if i > 0 {
			op = &pb.Op{Inputs: []*pb.Input{{Digest: last}}, Op: &pb.Op_Exec{Exec: &pb.ExecOp{Meta: &pb.Meta{Args: []string{fmt.Sprint(i)}}}}}
		}
		dt, err := deterministic.Marshal(op)
		require.NoError(t, err)
		last = string(digest.FromBytes(dt))
		def.Def = append(def.Def, dt)
	}
	dt, err := deterministic.Marshal(&pb.Op{Inputs: []*pb.Input{{Digest: last}}})
	require.NoError(t, err)
	def.Def = append(def.Def, dt)
	return Unit{ID: id, Definition: def}
}
