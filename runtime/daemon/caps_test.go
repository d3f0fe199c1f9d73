package daemon

import (
	"testing"

	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	"github.com/stretchr/testify/require"
)

// What one node of several lacks is used on none.
func TestCommonCaps(t *testing.T) {
	all := pb.Caps.CapSet(pb.Caps.All())
	common := commonCaps([]apicaps.CapSet{all, without(pb.CapMergeOp), without(pb.CapExecMetaUlimit)})
	for _, c := range pb.Caps.All() {
		id := apicaps.CapID(c.ID)
		if id == pb.CapMergeOp || id == pb.CapExecMetaUlimit {
			require.Error(t, common.Supports(id))
		} else {
			require.NoError(t, common.Supports(id))
		}
	}
}
