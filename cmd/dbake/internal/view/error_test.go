package view

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestErrorIsBounded: nobody reads ten thousand problems, or a megabyte of one.
func TestErrorIsBounded(t *testing.T) {
	t.Parallel()
	var list []error
	for i := range 10_000 {
		list = append(list, fmt.Errorf("problem %d", i))
	}
	var out bytes.Buffer
	Error(&out, errors.Join(list...), false)
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, maxProblems+1)
	require.Equal(t, "ERROR: problem 0", lines[0])
	require.Equal(t, "ERROR: 9980 more problems", lines[maxProblems-1])
	require.Equal(t, "ERROR: problem 9999", lines[maxProblems])

	out.Reset()
	Error(&out, errors.New("begin"+strings.Repeat("ä", 1<<20)+"end"), false)
	require.Less(t, out.Len(), maxHead+maxTail+100)
	require.Regexp(t, `^ERROR: beginä+\n\.\.\. \(\d+ bytes left out\) \.\.\.\nä+end\n$`, out.String())
}
