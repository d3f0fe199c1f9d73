package plan

import (
	"cmp"
	"slices"

	"github.com/containerd/platforms"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/partition"
)

// Emulation is the factor by which a step takes longer on a node that only emulates
// its platform, until the history knows better. Compilers under QEMU's user mode, which
// nodes use, are reported to take from 4 to 20 times as long; this is about the
// geometric mean.
const Emulation = 8.0

// emulates reports whether the node runs steps of a platform by emulation only. A node
// whose machine is not known emulates nothing.
func (n Node) emulates(p ocispecs.Platform) bool { return Emulates(n.Native, p) }

// Emulates reports whether a machine of the native platform runs steps of platform p by
// emulation. It runs those of its own architecture, whatever their variant, and of its 32-bit
// predecessor itself.
func Emulates(native, p ocispecs.Platform) bool {
	if native.Architecture == "" {
		return false
	}
	native, p = platforms.Normalize(native), platforms.Normalize(p)
	own := native.OS == p.OS && native.Architecture == p.Architecture || platforms.Only(native).Match(p)
	return !own
}

// emulator is the name under which the history knows a node as far as it emulates a
// platform. Samples are kept divided by [Emulation], so that the speed of an emulator,
// compared with that of its node, says how far the constant is off.
func emulator(addr, platform string) string { return addr + " emulating " + platform }

// slower returns how many times longer steps take on a node, by needed platform that it
// emulates; nil when there are none.
func (p *prices) slower(n Node, needs map[string]ocispecs.Platform) map[string]float64 {
	var list map[string]float64
	for name, platform := range needs {
		if !n.emulates(platform) {
			continue
		}
		factor := Emulation
		if p.history != nil {
			if speed, steps := p.history.Speed(emulator(n.Addr, name)); steps > 0 && speed > 0 {
				native, _ := p.history.Speed(n.Addr)
				factor = max(1, Emulation*native/speed)
			}
		}
		if list == nil {
			list = map[string]float64{}
		}
		list[name] = factor
	}
	return list
}

// EmulatedPlatform is a platform that a node runs slower because it emulates it.
type EmulatedPlatform struct {
	Node     string
	Platform string
	Factor   float64
}

// Emulations returns the platforms that nodes emulate for the steps that they run, by
// node and platform.
func (p *Plan) Emulations() []EmulatedPlatform {
	var list []EmulatedPlatform
	for _, t := range p.Schedule.Tasks {
		if t.Kind != partition.Exec {
			continue
		}
		node, platform := p.Problem.Nodes[t.Node], p.Problem.Vertices[t.Vertex].Platform
		if factor := node.Emulates[platform]; factor > 0 {
			list = append(list, EmulatedPlatform{node.Name, platform, factor})
		}
	}
	slices.SortFunc(list, func(x, y EmulatedPlatform) int {
		return cmp.Or(cmp.Compare(x.Node, y.Node), cmp.Compare(x.Platform, y.Platform))
	})
	return slices.Compact(list)
}
