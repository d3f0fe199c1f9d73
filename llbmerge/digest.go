package llbmerge

import (
	"crypto/sha256"
	"encoding/hex"

	digest "github.com/opencontainers/go-digest"
)

// Digest is [digest.FromBytes] without its reflection, which takes longer than the sum of
// something as small as an op.
func Digest(data []byte) digest.Digest {
	const prefix = string(digest.SHA256) + ":"
	sum := sha256.Sum256(data)
	text := make([]byte, 0, len(prefix)+2*len(sum))
	return digest.Digest(hex.AppendEncode(append(text, prefix...), sum[:]))
}
