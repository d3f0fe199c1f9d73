package llbmerge

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// plot is a random project: ops, and every unit takes some.
type plot struct {
	rng *rand.Rand
	ops []plotOp
}

type plotOp struct {
	op     *pb.Op // inputs are filled in for each unit
	inputs []int
	local  string   // directory, for local sources
	paths  []string // that it selects of each input, for file ops
	name   string
}

var (
	directories = []string{"app", "lib", "docs"}
	ignores     = [][]string{nil, {"*.md"}, {"*.md", "!README.md"}}
	files       = []string{"go.mod", "src", "src/main.go", "*.js", "package.json"}
)

// newPlot returns a project of n ops.
func newPlot(seed uint64, n int) *plot {
	p := &plot{rng: rand.New(rand.NewPCG(seed, 1))}
	for i := range n {
		p.ops = append(p.ops, p.newOp(i))
	}
	return p
}

func (p *plot) newOp(i int) plotOp {
	pick := func() int { return max(0, i-1-p.rng.IntN(min(i, 20))) }
	platform := &pb.Platform{OS: "linux", Architecture: "amd64"}
	if i < 3 || p.rng.IntN(12) == 0 {
		if p.rng.IntN(2) == 0 {
			return plotOp{local: directories[p.rng.IntN(len(directories))], op: &pb.Op{}}
		}
		return plotOp{
			op:   &pb.Op{Platform: platform, Op: &pb.Op_Source{Source: &pb.SourceOp{Identifier: fmt.Sprintf("docker-image://docker.io/library/base%d:latest", i), Attrs: map[string]string{"image.resolvemode": "local", "image.recordtype": "x", "image.layerlimit": "3"}}}},
			name: fmt.Sprintf("[base 1/3] FROM base%d", i),
		}
	}
	switch p.rng.IntN(10) {
	case 0:
		in, op := []int{i - 1}, &pb.MergeOp{Inputs: []*pb.MergeInput{{Input: 0}}}
		for len(in) < 5 {
			op.Inputs = append(op.Inputs, &pb.MergeInput{Input: int64(len(in))})
			in = append(in, pick())
		}
		return plotOp{inputs: in, op: &pb.Op{Op: &pb.Op_Merge{Merge: op}}}
	case 1, 2, 3, 4:
		src := files[p.rng.IntN(len(files))]
		return plotOp{
			inputs: []int{pick(), pick()},
			paths:  []string{"", src},
			name:   fmt.Sprintf("[stage-%d 2/3] COPY %s", i%7, src),
			op: &pb.Op{Platform: platform, Op: &pb.Op_File{File: &pb.FileOp{Actions: []*pb.FileAction{{
				Input: 0, SecondaryInput: 1,
				Action: &pb.FileAction_Copy{Copy: &pb.FileActionCopy{Src: "/" + src, Dest: "/", AllowWildcard: true, Timestamp: int64(i)}},
			}}}}},
		}
	}
	exec := &pb.ExecOp{
		Meta: &pb.Meta{Args: []string{"/bin/sh", "-c", fmt.Sprintf("make step%d", i)}, Cwd: "/"},
		Mounts: []*pb.Mount{
			{Dest: "/", Input: 0, Output: 0},
			{Dest: "/run/secrets/token", Input: -1, Output: -1, MountType: pb.MountType_SECRET, SecretOpt: &pb.SecretOpt{ID: "token"}},
			{Dest: "/cache", Input: -1, Output: -1, MountType: pb.MountType_CACHE, CacheOpt: &pb.CacheOpt{ID: "go"}},
		},
	}
	return plotOp{inputs: []int{pick()}, op: &pb.Op{Platform: platform, Op: &pb.Op_Exec{Exec: exec}}, name: fmt.Sprintf("[build 3/%d] RUN make step%d", i%9+3, i)}
}

// unit returns what is below op root as a unit, with everything in it that
// differs between units in a real build.
func (p *plot) unit(id string, root int) Unit {
	rng := p.rng
	u := Unit{ID: id, Locals: map[string]string{}}
	// What the unit needs and what it selects of its directories.
	need := make([]bool, len(p.ops))
	whole := make([]bool, len(p.ops))
	follow := make([]map[string]bool, len(p.ops))
	need[root], whole[root] = true, true
	for i := root; i >= 0; i-- {
		if !need[i] {
			continue
		}
		for j, in := range p.ops[i].inputs {
			need[in] = true
			if follow[in] == nil {
				follow[in] = map[string]bool{}
			}
			if paths := p.ops[i].paths; j < len(paths) && paths[j] != "" {
				follow[in][paths[j]] = true
			} else {
				whole[in] = true
			}
		}
	}
	def := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}, Source: &pb.Source{
		Locations: map[string]*pb.Locations{},
		Infos:     []*pb.SourceInfo{{Filename: "unused"}, {Filename: "Dockerfile", Data: []byte("FROM " + id[:1])}},
	}}
	names := make([]string, len(p.ops))
	excludes := ignores[rng.IntN(len(ignores))]
	for i := range p.ops[:root+1] {
		if !need[i] {
			continue
		}
		po := p.ops[i]
		op := po.op.CloneVT()
		op.Constraints = &pb.WorkerConstraints{}
		md := &pb.OpMetadata{Caps: map[string]bool{"constraints": true}}
		if po.local != "" {
			// Sometimes a frontend narrows a directory that it takes all of.
			op.Op = localOp(u, "context", po.local, excludes, follow[i], whole[i] && rng.IntN(4) > 0, rng)
			md.Caps["source.local"], md.Caps["source.local.unique"] = true, true
			md.Description = map[string]string{customName: "[internal] load build context"}
		}
		for _, in := range po.inputs {
			op.Inputs = append(op.Inputs, &pb.Input{Digest: names[in]})
		}
		if po.name != "" {
			md.Description = map[string]string{customName: po.name}
			if rng.IntN(5) == 0 {
				md.Description[customName] += " as " + id
			}
		}
		if len(po.inputs) > 0 {
			md.IgnoreCache = rng.IntN(25) == 0
			if rng.IntN(10) == 0 {
				md.ProgressGroup = &pb.ProgressGroup{Id: fmt.Sprint(rng.Uint64()), Name: "COPY --link"}
			}
			if rng.IntN(10) == 0 {
				md.ExportCache = &pb.ExportCache{Value: rng.IntN(2) == 0}
			}
			if rng.IntN(10) == 0 {
				md.LinuxResources = &pb.LinuxResources{Memory: int64(rng.IntN(3)), CpuQuota: int64(rng.IntN(3)), CpuPeriod: 10, CpusetCpus: "0-1"}
			}
		}
		var dt []byte
		var err error
		if rng.IntN(2) == 0 {
			dt, err = op.MarshalVT() // whatever order the attributes come in
		} else {
			dt, err = deterministic.Marshal(op)
		}
		if err != nil {
			panic(err)
		}
		names[i] = string(digest.FromBytes(dt))
		def.Def = append(def.Def, dt)
		def.Metadata[names[i]] = md
		def.Source.Locations[names[i]] = &pb.Locations{Locations: []*pb.Location{{
			SourceIndex: 1,
			Ranges:      []*pb.Range{{Start: &pb.Position{Line: int32(i)}, End: &pb.Position{Line: int32(i)}}},
		}}}
	}
	dt, err := (&pb.Op{Inputs: []*pb.Input{{Digest: names[root]}}}).MarshalVT()
	if err != nil {
		panic(err)
	}
	def.Def = append(def.Def, dt)
	u.Definition = def
	return u
}

// localOp returns a local source as a frontend writes it.
func localOp(u Unit, name, dir string, excludes []string, follow map[string]bool, whole bool, rng *rand.Rand) *pb.Op_Source {
	name += "-" + dir
	u.Locals[name] = "dir-" + dir
	attrs := map[string]string{
		pb.AttrLocalUniqueID: fmt.Sprint(rng.Uint64()),
		pb.AttrSharedKeyHint: fmt.Sprint(rng.Uint64()),
	}
	if len(excludes) > 0 {
		attrs[pb.AttrExcludePatterns] = list(excludes...)
	}
	if !whole && len(follow) > 0 {
		var paths []string
		for p := range follow {
			paths = append(paths, p)
		}
		attrs[pb.AttrFollowPaths] = list(paths...)
	}
	return &pb.Op_Source{Source: &pb.SourceOp{Identifier: "local://" + name, Attrs: attrs}}
}

func list(s ...string) string {
	dt, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(dt)
}

// units returns n units of the project.
func (p *plot) units(n int) []Unit {
	units := make([]Unit, n)
	for i := range units {
		root := len(p.ops) - 1 - p.rng.IntN((len(p.ops)+1)/2)
		units[i] = p.unit(fmt.Sprintf("%c%d", 'a'+i%5, i), root)
	}
	return units
}

// describe returns everything that can be seen of a graph.
func describe(g *Graph) string {
	var w strings.Builder
	for i, v := range g.Vertices {
		fmt.Fprintf(&w, "%d %s %s %q stage=%q users=%v ignore=%v local=%v in=%v bytes=%x\n",
			i, v.Digest, v.Kind, v.Step, v.Stage, v.Users, v.IgnoreCache, v.Local, v.Inputs, v.Bytes)
		for _, l := range v.Locations {
			fmt.Fprintf(&w, "  %s %s %q %v\n", l.Unit, l.File.Filename, l.File.Data, l.Ranges)
		}
	}
	for _, id := range g.Units() {
		r, ok := g.Root(id)
		fmt.Fprintf(&w, "root %s %v %v\n", id, r, ok)
	}
	fmt.Fprintln(&w, g.Groups())
	return w.String()
}

// slices cuts every unit out of g.
func cut(t testing.TB, g *Graph, ids ...string) []Unit {
	var units []Unit
	for _, id := range ids {
		def, err := g.Slice(id)
		require.NoError(t, err)
		units = append(units, Unit{ID: id, Definition: def})
	}
	return units
}

func encode(t testing.TB, def *pb.Definition) string {
	dt, err := deterministic.Marshal(def)
	require.NoError(t, err)
	return string(dt)
}

func merge(t testing.TB, units []Unit) *Graph {
	g, err := Merge(units)
	require.NoError(t, err)
	return g
}
