package llbmerge

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

const (
	// customName is the key of the description that nodes show for an op.
	customName = "llb.customname"
	// groupPrefix starts the ids of progress groups that have been made stable.
	groupPrefix = "dbake:"
)

// metadataOf returns md, which may be nil, as the graph has it: it is md itself where nothing
// is to be replaced, since many ops and units share it.
func metadataOf(md *pb.OpMetadata) *pb.OpMetadata {
	switch {
	case md == nil:
		return &pb.OpMetadata{}
	case md.ProgressGroup == nil && (md.Description == nil || len(md.Description) > 0):
		return md
	}
	return ownMetadata(md)
}

// ownMetadata returns a copy of md whose fields may be replaced. Its maps
// are those of md: as copies for each op and unit they were the largest part of a graph.
func ownMetadata(md *pb.OpMetadata) *pb.OpMetadata {
	if len(md.ProtoReflect().GetUnknown()) > 0 {
		md = md.CloneVT()
	} else {
		md = &pb.OpMetadata{
			IgnoreCache: md.IgnoreCache, Description: md.Description, ExportCache: md.ExportCache,
			Caps: md.Caps, ProgressGroup: md.ProgressGroup.CloneVT(), LinuxResources: md.LinuxResources,
		}
	}
	if len(md.Description) == 0 {
		md.Description = nil
	}
	return md
}

// nameGroups replaces the random ids of the progress groups of a unit.
func nameGroups(u Unit, g *unitGraph) {
	names := map[string]string{} // by id: the least name
	for _, n := range g.nodes {
		if pg := n.meta.ProgressGroup; pg != nil {
			if name, ok := names[pg.Id]; !ok || pg.Name < name {
				names[pg.Id] = pg.Name
			}
		}
	}
	for _, n := range g.nodes {
		pg := n.meta.ProgressGroup
		if pg == nil || strings.HasPrefix(pg.Id, groupPrefix) {
			continue
		}
		sum := sha256.Sum256([]byte(u.ID + "\x00" + names[pg.Id]))
		pg.Id = groupPrefix + hex.EncodeToString(sum[:8])
	}
}

// joinMetadata returns what holds for an op that has metadata y besides x. It
// changes x. The order of joining makes no difference.
func joinMetadata(x, y *pb.OpMetadata) {
	// Equal ops agree on IgnoreCache; see constraints.
	for k, v := range y.Description {
		if have, ok := x.Description[k]; ok && have <= v {
			continue
		}
		if x.Description == nil {
			x.Description = map[string]string{}
		}
		x.Description[k] = v
	}
	for k, v := range y.Caps {
		if x.Caps == nil {
			x.Caps = map[string]bool{}
		}
		x.Caps[k] = x.Caps[k] || v
	}
	x.ExportCache = joinExport(x.ExportCache, y.ExportCache)
	if pg := y.ProgressGroup; pg != nil && (x.ProgressGroup == nil || compareGroups(pg, x.ProgressGroup) < 0) {
		x.ProgressGroup = pg.CloneVT()
	}
	x.LinuxResources = joinResources(x.LinuxResources, y.LinuxResources)
}

func compareGroups(a, b *pb.ProgressGroup) int {
	if c := strings.Compare(a.Id, b.Id); c != 0 {
		return c
	}
	if c := strings.Compare(a.Name, b.Name); c != 0 || a.Weak == b.Weak {
		return c
	}
	if b.Weak {
		return -1
	}
	return 1
}

// joinExport prefers a result that is exported to the cache to one that is
// exported if that is found useful, and that to one that is not.
func joinExport(x, y *pb.ExportCache) *pb.ExportCache {
	switch {
	case x.GetValue() || y.GetValue():
		return &pb.ExportCache{Value: true}
	case x == nil || y == nil:
		return nil
	}
	return &pb.ExportCache{}
}

// joinResources returns the looser of two limits, as nodes do for one step of
// several builds. They take no limits at all for "whatever the others have".
func joinResources(x, y *pb.LinuxResources) *pb.LinuxResources {
	if x == nil || y == nil {
		if x == nil {
			x = y
		}
		return x.CloneVT()
	}
	r := &pb.LinuxResources{
		CpuShares:  max(x.CpuShares, y.CpuShares),
		CpusetCpus: joinSets(x.CpusetCpus, y.CpusetCpus),
		CpusetMems: joinSets(x.CpusetMems, y.CpusetMems),
	}
	if x.Memory != 0 && y.Memory != 0 { // 0 is no limit
		r.Memory = max(x.Memory, y.Memory)
	}
	switch { // 0 is unset, -1 no limit
	case x.MemorySwap == -1 || y.MemorySwap == -1:
		r.MemorySwap = -1
	default:
		r.MemorySwap = max(x.MemorySwap, y.MemorySwap)
	}
	if x.CpuQuota > 0 && y.CpuQuota > 0 { // 0 is no limit
		if compareBandwidth(x, y) < 0 {
			x = y
		}
		r.CpuQuota, r.CpuPeriod = x.CpuQuota, x.CpuPeriod
	}
	return r
}

// compareBandwidth orders by quota/period, then by how often it is granted.
func compareBandwidth(x, y *pb.LinuxResources) int {
	const defaultPeriod = 100_000 // microseconds
	px, py := x.CpuPeriod, y.CpuPeriod
	if px == 0 {
		px = defaultPeriod
	}
	if py == 0 {
		py = defaultPeriod
	}
	hx, lx := bits.Mul64(uint64(x.CpuQuota), py)
	hy, ly := bits.Mul64(uint64(y.CpuQuota), px)
	switch {
	case hx != hy:
		return cmp.Compare(hx, hy)
	case lx != ly:
		return cmp.Compare(lx, ly)
	case px != py:
		return cmp.Compare(py, px)
	}
	return cmp.Compare(y.CpuPeriod, x.CpuPeriod)
}

// joinSets joins two lists of CPU or memory numbers; an empty one is all.
func joinSets(x, y string) string {
	if x == "" || y == "" {
		return ""
	}
	list := strings.Split(x+","+y, ",")
	slices.Sort(list)
	return strings.Join(slices.Compact(list), ",")
}

// opName describes an op that brings no name.
func opName(op *pb.Op) string {
	switch o := op.Op.(type) {
	case *pb.Op_Source:
		return o.Source.GetIdentifier()
	case *pb.Op_Exec:
		return command(op)
	case *pb.Op_File:
		var names []string
		for _, a := range o.File.GetActions() {
			switch x := a.Action.(type) {
			case *pb.FileAction_Copy:
				names = append(names, "copy "+x.Copy.GetSrc()+" "+x.Copy.GetDest())
			case *pb.FileAction_Mkfile:
				names = append(names, "mkfile "+x.Mkfile.GetPath())
			case *pb.FileAction_Mkdir:
				names = append(names, "mkdir "+x.Mkdir.GetPath())
			case *pb.FileAction_Symlink:
				names = append(names, "symlink "+x.Symlink.GetOldpath()+" "+x.Symlink.GetNewpath())
			case *pb.FileAction_Rm:
				names = append(names, "rm "+x.Rm.GetPath())
			}
		}
		if len(names) > 0 {
			return strings.Join(names, ", ")
		}
	case *pb.Op_Passthrough:
		return "passthrough " + o.Passthrough.GetId()
	}
	return kindOf(op).String()
}

// command returns the text that an exec op runs.
func command(op *pb.Op) string {
	return strings.Join(op.GetExec().GetMeta().GetArgs(), " ")
}

// Place is where in a Dockerfile a step stands. The zero Place is not known.
type Place struct {
	Platform string // as the frontend writes it; "" where it is that of the whole build
	Stage    string // "" where there is only one
	Position int    // in the stage, from 1
	// Instruction is the first word of the step, such as "RUN", Text all of its words.
	Instruction string
	Text        string
}

// placeOf reads the name that the Dockerfile frontend gives to a step:
// "[PLATFORM STAGE 2/3] RUN make". The platform may be missing, and the stage where there
// is only one. It is the only place where such a name is read.
func placeOf(name string) Place {
	prefix, text, ok := strings.Cut(name, "]")
	if !ok || !strings.HasPrefix(prefix, "[") {
		return Place{}
	}
	words := strings.Fields(prefix[1:])
	if len(words) == 0 || len(words) > 3 {
		return Place{}
	}
	var p Place
	n, total, ok := strings.Cut(words[len(words)-1], "/")
	if p.Position = number(n); !ok || p.Position == 0 || number(total) == 0 {
		return Place{}
	}
	for _, w := range words[:len(words)-1] {
		if strings.Contains(w, "/") {
			p.Platform = w
		} else {
			p.Stage = w
		}
	}
	if words := strings.Fields(text); len(words) > 0 {
		p.Instruction, p.Text = words[0], strings.TrimSpace(text)
	}
	return p
}

// number returns the positive number that s is, 0 when it is none.
func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || strings.Trim(s, "0123456789") != "" {
		return 0
	}
	return n
}
