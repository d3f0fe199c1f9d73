package runs

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestStore(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "runs")}
	_, err := s.Read("")
	require.ErrorIs(t, err, ErrNone)
	start := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var ids []string
	for i := range Most + 3 {
		id := NewID(start.Add(time.Duration(i) * time.Second))
		ids = append(ids, id)
		require.NoError(t, s.Add(&Run{ID: id, Wall: float64(i)}))
	}
	known, err := s.List()
	require.NoError(t, err)
	require.Len(t, known, Most)
	require.Equal(t, ids[len(ids)-1], known[0])

	r, err := s.Read("")
	require.NoError(t, err)
	require.EqualValues(t, Most+2, r.Wall)
	r, err = s.Read(known[7][:19])
	require.NoError(t, err)
	require.Equal(t, known[7], r.ID)
	_, err = s.Read("2026")
	require.ErrorContains(t, err, "several runs begin with 2026")
	_, err = s.Read(ids[0])
	require.ErrorIs(t, err, ErrNone, "forgotten")

	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, known[0]+suffix), []byte("{"), 0o600))
	_, err = s.Read("")
	require.ErrorContains(t, err, "is damaged")

	none := Store{}
	require.NoError(t, none.Add(r))
	_, err = none.Read("")
	require.ErrorIs(t, err, ErrNone)
}

func TestCriticalPath(t *testing.T) {
	r := &Run{Steps: []Step{
		{Name: "base", Start: 0, Took: 4},
		{Name: "deps", Start: 0, Took: 2},
		{Name: "other", Start: 1, Took: 4},
		{Name: "app", Start: 4, Took: 3, Inputs: []int{0, 1}},
		{Name: "held", Start: 9, Took: 9, Cached: true},
	}}
	require.Equal(t, []int{0, 3}, r.CriticalPath())
	require.Empty(t, (&Run{}).CriticalPath())
}

// A step that two nodes ran took as long as on the slower one.
func TestCompareSeveralNodes(t *testing.T) {
	ran := func(node string, took float64) Step { return Step{Name: "RUN make", Node: node, Took: took} }
	then := &Run{Steps: []Step{ran("n1", 3), ran("n2", 1), {Name: "RUN make", Node: "n3", Took: 9, Cached: true}}}
	now := &Run{Steps: []Step{ran("n1", 1), ran("n2", 2)}}
	changes := Compare(then, now)
	require.Len(t, changes, 1)
	require.EqualValues(t, 3, *changes[0].Then)
	require.EqualValues(t, 2, *changes[0].Now)
}
