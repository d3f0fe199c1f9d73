package plan

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/transfer"
	"github.com/dbake/dbake/internal/plan/plantest"
	"github.com/dbake/dbake/partition"
)

// sendings are n transfers of 100 MB at so many bytes per second, with so many others beside each.
func sendings(n int, bandwidth, beside float64) transfer.Past {
	var p transfer.Past
	for i := range n {
		p = p.Add(transfer.Sample{
			Bytes: 100e6, Took: time.Duration(1e9 + 100e6/bandwidth*1e9), Beside: beside, When: time.Unix(int64(i), 0),
		})
	}
	return p
}

func TestTransfers(t *testing.T) {
	now := time.Unix(100, 0)
	for _, c := range []struct {
		way  Way
		want partition.Network
		text string
	}{
		{Way{}, partition.Network{Bandwidth: 40e6, Latency: 1, Links: 2},
			"assumed: results go from node to node through this machine, at 40 MB/s after 1 s each, 2 at once in each direction"},
		{Way{Registry: "r.example.com"}, partition.Network{Bandwidth: 40e6, Latency: 1},
			"assumed: results go from node to node through r.example.com, at 40 MB/s after 1 s each, however many at once"},
		{Way{Past: sendings(1, 80e6, 0)}, partition.Network{Bandwidth: 48e6, Latency: 1, Links: 2},
			"measured 1×: results go from node to node through this machine, at 48 MB/s after 1 s each; that it carries 2 at once in each direction is assumed"},
		{Way{Registry: "r.example.com", Past: sendings(30, 80e6, 0)}, partition.Network{Bandwidth: 72e6, Latency: 1},
			"measured 30×: results go from node to node through r.example.com, at 72 MB/s after 1 s each, however many at once"},
		{Way{Registry: "r.example.com", Past: append(sendings(10, 80e6, 0), sendings(10, 10e6, 7)...)}, partition.Network{Bandwidth: 71e6, Latency: 1, Links: 1},
			"measured 20×: results go from node to node through r.example.com, at 71 MB/s after 1 s each, 1 at once in each direction"},
		{Way{Past: append(sendings(10, 40e6, 0), sendings(10, 40e6, 4)...)}, partition.Network{Bandwidth: 40e6, Latency: 1, Links: 5},
			"measured 20×: results go from node to node through this machine, at 40 MB/s after 1 s each, 5 at once in each direction"},
	} {
		c.way.Now = now
		got := c.way.transfers()
		require.Equal(t, c.text, got.String())
		require.Equal(t, c.want, got.network(), c.text)
		require.NoError(t, partition.Problem{Nodes: []partition.Node{{Speed: 1, Slots: 1}}, Network: got.network()}.Validate())
	}
}

// Plans reckon with what was measured.
func TestPlansReckonWithTheWay(t *testing.T) {
	b := newProject(t, plantest.Shop).prepare("app", "web")
	nodes := []Node{{Name: "a", Speed: 1, Slots: 1}, {Name: "b", Speed: 1, Slots: 1}, {Name: "c", Speed: 1, Slots: 1}}
	p := makePlan(t, b, "affinity", nodes...)
	require.Equal(t, partition.Network{Bandwidth: 40e6, Latency: 1, Links: 2}, p.Problem.Network)
	require.Zero(t, p.Transfers.Samples)
	through := Through(b, Way{Registry: "r.example.com", Past: sendings(30, 80e6, 0), Now: time.Unix(100, 0)})
	p = makePlan(t, through, "affinity", nodes...)
	require.Equal(t, partition.Network{Bandwidth: 72e6, Latency: 1}, p.Problem.Network)
	require.Equal(t, 30, p.Transfers.Samples)
	require.Empty(t, b.way, "the build itself is as it was")
}
