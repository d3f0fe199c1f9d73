package daemon

import (
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	"github.com/moby/buildkit/identity"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func TestRefs(t *testing.T) {
	l, other := &link{tag: newTag()}, &link{tag: newTag()}
	require.Len(t, l.newRef(), len(identity.NewID()))
	require.NotEqual(t, l.newRef(), l.newRef())
	require.Equal(t, l.tag, tagOf(l.newRef()))
	require.NotEqual(t, l.tag, tagOf(other.newRef()))
	require.Regexp(t, "^[a-z0-9]+$", l.newRef())
	require.Len(t, (&link{}).newRef(), len(identity.NewID()))
	for _, ref := range []string{"", "dbake", "dbake1234567", "dbake12345678", "ab1dbake1234567890123456"} {
		require.Empty(t, tagOf(ref), ref)
	}
}

func TestCountTenants(t *testing.T) {
	run := func(tag string) *controlapi.BuildHistoryRecord {
		return &controlapi.BuildHistoryRecord{Ref: (&link{tag: tag}).newRef(), CreatedAt: timestamppb.Now()}
	}
	at := func(ms int) *controlapi.BuildHistoryRecord {
		return &controlapi.BuildHistoryRecord{Ref: identity.NewID(), CreatedAt: timestamppb.New(time.UnixMilli(int64(ms)))}
	}
	for _, tc := range []struct {
		name    string
		records []*controlapi.BuildHistoryRecord
		want    int
	}{
		{"nobody", nil, 0},
		{"the run itself", []*controlapi.BuildHistoryRecord{run("ownownow"), run("ownownow")}, 0},
		{"another run with three builds", []*controlapi.BuildHistoryRecord{run("otherrun"), run("otherrun"), run("ownownow"), run("otherrun")}, 1},
		{"two more runs", []*controlapi.BuildHistoryRecord{run("otherrun"), run("thirdrun")}, 2},
		{"a bake that began three targets at once", []*controlapi.BuildHistoryRecord{at(5900), at(5000), at(5300)}, 1},
		{"two that began at other times", []*controlapi.BuildHistoryRecord{at(9000), at(5000), run("otherrun")}, 3},
		{"a record without a time", []*controlapi.BuildHistoryRecord{{Ref: identity.NewID()}}, 1},
	} {
		require.Equal(t, tc.want, countTenants(tc.records, "ownownow"), tc.name)
	}
	require.Equal(t, 1, countTenants([]*controlapi.BuildHistoryRecord{run("otherrun")}, "")) // who asks without a run
}
