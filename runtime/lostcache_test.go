package runtime

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// What a node could not read may be there again when it looks for it, as another node has
// written it. That is an attempt that failed, and no failure unless it goes on.
func TestLostAndThereAgain(t *testing.T) {
	gone := errors.New("could not fetch content descriptor sha256:" + strings.Repeat("1", 64) + " (application/vnd.oci.image.layer.v1.tar+gzip) from remote: not found")
	for name, returns := range map[string]bool{"it is there again": true, "it never is": false} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBuild(t, 1, "a")
				f := newFleet(t, b)
				n := f.nodes[0]
				n.fails["a first"] = gone
				looked := 0
				n.unreadable = func(chain []*pb.Definition) int {
					if looked++; returns {
						delete(n.fails, "a first")
					}
					return len(chain)
				}
				res, _, err := f.run(t.Context(), b)
				if !returns {
					require.ErrorContains(t, err, gone.Error())
					require.Equal(t, all(Failed, "a"), states(res))
					require.Equal(t, 3, looked, "attempts")
					return
				}
				require.NoError(t, err)
				require.Equal(t, all(Done, "a"), states(res))
				require.Equal(t, 1, looked)
			})
		})
	}
}

// The status that is given the graph's digests is another one: the daemon waits for what it says,
// by the digests that the node uses.
func TestUnaliasLeavesStatus(t *testing.T) {
	graph, node := digest.FromString("graph"), digest.FromString("node")
	l := &lostResults{aliases: map[digest.Digest]digest.Digest{node: graph}}
	status := func(d digest.Digest) *bkclient.SolveStatus {
		return &bkclient.SolveStatus{
			Vertexes: []*bkclient.Vertex{{Digest: d, Name: "step"}, {Digest: "other"}},
			Statuses: []*bkclient.VertexStatus{{Vertex: d}},
			Logs:     []*bkclient.VertexLog{{Vertex: d}},
			Warnings: []*bkclient.VertexWarning{{Vertex: d}},
		}
	}
	st := status(node)
	require.Equal(t, status(graph), l.unalias(st))
	require.Equal(t, status(node), st)
}
