package llbmerge

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"math/bits"
	"slices"
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

const (
	// customName is the key of the description that nodes show for an op.
	customName = "llb.customname"
	// groupPrefix starts the ids of progress groups that have been made stable.
	groupPrefix = "dbake:"
)

// cloneMetadata returns a copy of md, which may be nil.
func cloneMetadata(md *pb.OpMetadata) *pb.OpMetadata {
	if md == nil {
		return &pb.OpMetadata{}
	}
	md = md.CloneVT()
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

// stepOf returns what an op is called for its own sake.
func stepOf(md *pb.OpMetadata, op *pb.Op) string {
	if name := md.Description[customName]; name != "" {
		return name
	}
	return opName(op)
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

// stageOf returns the stage in a name that the Dockerfile frontend gave:
// "[PLATFORM STAGE 2/3] RUN make", of which the platform, and the stage where
// there is only one, may be missing.
func stageOf(name string) string {
	rest, ok := strings.CutPrefix(name, "[")
	if !ok {
		return ""
	}
	prefix, _, ok := strings.Cut(rest, "]")
	if !ok {
		return ""
	}
	words := strings.Fields(prefix)
	if len(words) < 2 || !isCount(words[len(words)-1]) {
		return ""
	}
	stage := words[len(words)-2]
	if strings.Contains(stage, "/") { // a platform
		return ""
	}
	return stage
}

// isCount reports whether word is of the form "2/3".
func isCount(word string) bool {
	n, m, ok := strings.Cut(word, "/")
	return ok && isNumber(n) && isNumber(m)
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
