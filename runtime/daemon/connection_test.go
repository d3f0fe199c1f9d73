package daemon

import (
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/fault"
)

func TestLost(t *testing.T) {
	one, two := "sha256:"+strings.Repeat("1", 64), "sha256:"+strings.Repeat("2", 64)
	for text, want := range map[string]string{
		"failed to push x/a:1: failed to copy: httpReadSeeker: failed open: could not fetch content descriptor " + one + " (application/vnd.oci.image.layer.v1.tar+gzip) from remote: not found": one,
		`failed commit on ref "layer-` + one + `": unexpected commit digest ` + two + `, expected ` + one + `: failed precondition`:                                                              one,
		`failed commit on ref "layer-` + two + `": "layer-` + two + `" failed size validation: 1 != 2: failed precondition`:                                                                      two,
		"could not fetch content descriptor " + one + " (application/vnd.oci.image.layer.v1.tar+gzip) from remote: Canceled: grpc: the client connection is closing: context canceled":           "",
		"could not fetch content descriptor " + one + " (application/vnd.oci.image.layer.v1.tar+gzip) from remote: context canceled":                                                             "",
		"failed to push x/a:1: unexpected status from POST request: 401 Unauthorized":                                                                                                            "",
		"process \"/bin/sh -c false\" did not complete successfully: exit code: 1":                                                                                                               "",
	} {
		blob, ok := fault.LostBlob(errors.New(text))
		require.Equal(t, want, blob, text)
		require.Equal(t, want != "", ok, text)
	}
	_, ok := fault.LostBlob(nil)
	require.False(t, ok)
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
