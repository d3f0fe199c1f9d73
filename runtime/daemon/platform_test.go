package daemon

import (
	"testing"

	"github.com/containerd/platforms"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/nodeset"
)

// The platforms that a builder names for its nodes decide which node builds what.
func TestAllot(t *testing.T) {
	info := func(prefers []string, found ...string) NodeInfo {
		n := NodeInfo{Spec: nodeset.Spec{Prefers: prefers}}
		for _, name := range found {
			n.Platforms = append(n.Platforms, platforms.MustParse(name))
		}
		n.Native = n.Platforms[0]
		n.Platforms = with(n.Platforms, n.prefers())
		return n
	}
	amd, arm := []string{"linux/amd64"}, []string{"linux/arm64"}
	for _, tt := range []struct {
		name string
		list []NodeInfo
		want [][]string
	}{
		{"nothing named", []NodeInfo{info(nil, "linux/amd64", "linux/arm64"), info(nil, "linux/arm64")}, [][]string{{"linux/amd64", "linux/arm64"}, {"linux/arm64"}}},
		{"each its own", []NodeInfo{info(amd, "linux/amd64", "linux/arm64"), info(arm, "linux/arm64", "linux/amd64")}, [][]string{{"linux/amd64"}, {"linux/arm64"}}},
		{"two machines of one kind", []NodeInfo{info(amd, "linux/amd64", "linux/arm64"), info(arm, "linux/amd64", "linux/arm64")}, [][]string{{"linux/amd64"}, {"linux/arm64"}}},
		{"more than it knows", []NodeInfo{info(arm, "linux/amd64")}, [][]string{{"linux/amd64", "linux/arm64"}}},
		{"named for nobody", []NodeInfo{info(amd, "linux/amd64", "linux/riscv64"), info(nil, "linux/amd64")}, [][]string{{"linux/amd64", "linux/riscv64"}, {"linux/amd64"}}},
		{"emulated beside a named one", []NodeInfo{info(arm, "linux/arm64"), info(nil, "linux/amd64", "linux/arm64")}, [][]string{{"linux/arm64"}, {"linux/amd64"}}},
		{"native beside a named one", []NodeInfo{info(arm, "linux/arm64"), info(nil, "linux/arm64", "linux/amd64")}, [][]string{{"linux/arm64"}, {"linux/arm64", "linux/amd64"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			allot(tt.list)
			for i, n := range tt.list {
				var names []string
				for _, p := range n.Platforms {
					names = append(names, platforms.Format(p))
				}
				require.Equal(t, tt.want[i], names)
			}
		})
	}
}
