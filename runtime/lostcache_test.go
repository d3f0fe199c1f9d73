package runtime

import (
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/moby/buildkit/solver/pb"
	"github.com/stretchr/testify/require"
)

func TestLost(t *testing.T) {
	one, two := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	for text, want := range map[string]string{
		"failed to push x/a:1: failed to copy: httpReadSeeker: failed open: could not fetch content descriptor " + one + " (application/vnd.oci.image.layer.v1.tar+gzip) from remote: not found": one,
		`failed commit on ref "layer-` + one + `": unexpected commit digest ` + two + `, expected ` + one + `: failed precondition`:                                                              one,
		`failed commit on ref "layer-` + two + `": "layer-` + two + `" failed size validation: 1 != 2: failed precondition`:                                                                      two,
		"failed to push x/a:1: unexpected status from POST request: 401 Unauthorized":                                                                                                            "",
		"process \"/bin/sh -c false\" did not complete successfully: exit code: 1":                                                                                                               "",
	} {
		blob, ok := findLostBlob(errors.New(text))
		require.Equal(t, want, blob, text)
		require.Equal(t, want != "", ok, text)
	}
	_, ok := findLostBlob(nil)
	require.False(t, ok)
}

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

func TestSearchLost(t *testing.T) {
	for n := range 20 {
		for from := range n + 1 {
			asked := 0
			require.Equal(t, from, searchLost(n, func(i int) bool {
				asked++
				return i >= from
			}))
			require.LessOrEqual(t, asked, 5)
		}
	}
}
