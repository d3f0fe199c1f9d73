package frontend

import (
	"testing"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

// memories are what others know.
type memories struct {
	images map[string]Recollection
	blobs  map[digest.Digest][]byte
}

func (m *memories) Image(ref string) (Recollection, bool) { one, ok := m.images[ref]; return one, ok }

func (m *memories) Blob(d digest.Digest) ([]byte, bool) { data, ok := m.blobs[d]; return data, ok }

// Who has never seen an image asks for its tag only, if others remember the rest; and for
// nothing where nobody can be asked and that is to do.
func TestOthersRemember(t *testing.T) {
	s := newStubRegistry(t)
	node := &nodeImages{}
	o := s.options(t)
	o.CacheDir, o.Node = t.TempDir(), node.resolve
	pinned := ImageRequest{Ref: parseNamed(t, "alpine"), Platform: amd64}
	inside := ImageRequest{Ref: parseNamed(t, s.host()+"/missing:1"), Platform: amd64}
	r := NewRegistryResolver(o)
	first, err := r.Resolve(t.Context(), pinned)
	require.NoError(t, err)
	onNode, err := r.Resolve(t.Context(), inside)
	require.NoError(t, err)
	list, blobs := r.Recollect()
	require.Len(t, list, 2)
	others := &memories{map[string]Recollection{}, blobs}
	for _, one := range list {
		others.images[one.Ref] = one
	}

	fresh := func() *RegistryResolver {
		o.CacheDir, o.Others, o.Recall = t.TempDir(), others, true
		return NewRegistryResolver(o)
	}
	gets, heads := s.count("GET "), s.count("HEAD ")
	r = fresh()
	img, err := r.Resolve(t.Context(), pinned)
	require.NoError(t, err)
	require.Equal(t, first, img)
	require.Equal(t, gets, s.count("GET "))
	require.Equal(t, heads+1, s.count("HEAD "))
	require.False(t, r.Recalled())
	node.err = ErrNodesAway
	img, err = r.Resolve(t.Context(), inside)
	require.NoError(t, err)
	require.Equal(t, onNode, img)
	require.True(t, r.Recalled())

	// The tag has moved: what others knew of it is of no use.
	s.moveTags("v2")
	img, err = fresh().Resolve(t.Context(), pinned)
	require.NoError(t, err)
	require.NotEqual(t, first.Digest, img.Digest)
	require.Less(t, gets, s.count("GET "))

	// What is not what its digest says is none.
	s.moveTags("")
	for d := range blobs {
		blobs[d] = []byte("{}")
	}
	gets = s.count("GET ")
	img, err = fresh().Resolve(t.Context(), pinned)
	require.NoError(t, err)
	require.Equal(t, first, img)
	require.Less(t, gets, s.count("GET "))
	_, err = fresh().Resolve(t.Context(), inside)
	require.ErrorIs(t, err, ErrNodesAway)

	s.Close()
	_, err = fresh().Resolve(t.Context(), pinned)
	require.Error(t, err, "the tag is recalled, and what it stands for is not there")
	o.Others = nil
	list, _ = r.Recollect()
	require.Len(t, list, 1, "what was recalled is not passed on as news")
}
