package llbmerge_test

import (
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/llbmerge"
)

func TestDigest(t *testing.T) {
	for _, text := range []string{"", "x", "a longer text, of more than one block of the sum: 0123456789 0123456789"} {
		require.Equal(t, digest.FromString(text), llbmerge.Digest([]byte(text)))
	}
}

func BenchmarkDigest(b *testing.B) {
	op := make([]byte, 400)
	for b.Loop() {
		llbmerge.Digest(op)
	}
}
