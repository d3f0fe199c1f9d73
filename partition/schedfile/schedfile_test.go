package schedfile

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/partition"
)

// What is written is read back, and links that have no limit are not mentioned.
func TestLinks(t *testing.T) {
	for links, mentioned := range map[int]bool{0: false, 1: true, 7: true} {
		in := Instance{Name: "x", Problem: partition.Problem{
			Nodes:    []partition.Node{{Name: "n", Speed: 1, Slots: 1}},
			Vertices: []partition.Vertex{{Name: "v", Cost: 1}},
			Targets:  []partition.Target{{Name: "t"}},
			Network:  partition.Network{Bandwidth: 1, Links: links},
		}}
		var b bytes.Buffer
		require.NoError(t, Write(&b, in))
		require.Equal(t, mentioned, bytes.Contains(b.Bytes(), []byte(`"links"`)))
		got, err := Read(&b)
		require.NoError(t, err)
		require.Equal(t, in.Problem.Network.Links, got.Problem.Network.Links)
	}
	_, err := Read(bytes.NewBufferString(`{"format": "dbake-sched/1", "network": {"bandwidth_bytes_per_s": 1, "links": -1}, "nodes": [{"name": "n", "speed": 1, "slots": 1}]}`))
	require.ErrorContains(t, err, "number of links out of range")
}
