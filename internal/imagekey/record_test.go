package imagekey

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/runtime/registry"
)

// shelf is a registry in memory.
type shelf struct {
	mu    sync.Mutex
	tags  map[string]digest.Digest
	blobs map[digest.Digest][]byte
	// between is called before a manifest is written, when the lock is not held.
	between func()
	reads   int
	// refuse says why a manifest is not taken; nil takes all.
	refuse func(ocispecs.Manifest) error
}

func (s *shelf) ReadTag(_ context.Context, ref string) ([]byte, ocispecs.Descriptor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	d, ok := s.tags[ref]
	if !ok {
		return nil, ocispecs.Descriptor{}, registry.ErrNotFound
	}
	return s.blobs[d], ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: d}, nil
}

func (s *shelf) Blob(_ context.Context, _ string, desc ocispecs.Descriptor, _ int64) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.blobs[desc.Digest]
	if !ok {
		return nil, registry.ErrNotFound
	}
	return data, nil
}

func (s *shelf) Push(_ context.Context, ref string, desc ocispecs.Descriptor, data []byte) error {
	if desc.MediaType == ocispecs.MediaTypeImageManifest && s.between != nil {
		s.between()
	}
	if desc.MediaType == ocispecs.MediaTypeImageManifest && s.refuse != nil {
		var m ocispecs.Manifest
		if err := json.Unmarshal(data, &m); err != nil {
			return err
		}
		if err := s.refuse(m); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.blobs == nil {
		s.blobs, s.tags = map[digest.Digest][]byte{}, map[string]digest.Digest{}
	}
	s.blobs[desc.Digest] = data
	if desc.MediaType == ocispecs.MediaTypeImageManifest {
		s.tags[ref] = desc.Digest
	}
	return nil
}

// record returns one of many records.
func record(i int, at int64) Record {
	return Record{
		Key: digest.FromString(fmt.Sprint("key", i)), Target: fmt.Sprint("t", i), Time: at,
		Image:  ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageIndex, Digest: digest.FromString(fmt.Sprint("image", i)), Size: 3},
		Repos:  []string{"example.com/a"},
		Values: map[string]string{"containerimage.digest": "x"},
	}
}

func of(list ...Record) Records {
	var r Records
	r.Add(list...)
	return r
}

func TestRecordsKeepTheNewest(t *testing.T) {
	var r Records
	for i := range maxRecords + 10 {
		r.Add(record(i, int64(i)))
	}
	data, err := r.Encode()
	require.NoError(t, err)
	got, err := Decode(data)
	require.NoError(t, err)
	require.Equal(t, maxRecords, got.Len())
	_, ok := got.Find(Key{Digest: record(9, 0).Key}, false)
	require.False(t, ok)
	one, ok := got.Find(Key{Digest: record(10, 0).Key}, false)
	require.True(t, ok)
	require.Equal(t, record(10, 10), one)
}

// The newest image of a key counts, and where one image is, is gathered.
func TestAdd(t *testing.T) {
	old, moved, other := record(1, 1), record(1, 2), record(1, 3)
	moved.Repos = []string{"example.com/b"}
	other.Image.Digest = digest.FromString("rebuilt")
	r := of(old, moved)
	got, _ := r.Find(Key{Digest: old.Key}, false)
	require.Equal(t, []string{"example.com/a", "example.com/b"}, got.Repos)
	r.Add(other, old)
	got, _ = r.Find(Key{Digest: old.Key}, false)
	require.Equal(t, other, got)

	// What attestations say counts unless it is not to.
	asked := Key{Digest: old.Key, Attested: digest.FromString("revision 2")}
	_, ok := r.Find(asked, false)
	require.False(t, ok)
	_, ok = r.Find(asked, true)
	require.True(t, ok)
}

// What is foreign, damaged or made up is no record.
func TestDecodeBelievesLittle(t *testing.T) {
	pack := func(text string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err := z.Write([]byte(text))
		require.NoError(t, err)
		require.NoError(t, z.Close())
		return b.Bytes()
	}
	whole, err := (&Records{list: of(record(1, 1)).list}).Encode()
	require.NoError(t, err)
	for name, data := range map[string][]byte{
		"nothing": nil, "text": []byte("x"), "cut": whole[:len(whole)-9], "not JSON": pack("x"),
		"another format": pack(`{"format":"x","version":1}`), "another version": pack(`{"format":"dbake-images","version":2}`),
	} {
		_, err := Decode(data)
		require.ErrorIs(t, err, ErrForeign, name)
	}
	for name, spoil := range map[string]func(*Record){
		"key":        func(r *Record) { r.Key = "sha256:x" },
		"attested":   func(r *Record) { r.Attested = "x" },
		"digest":     func(r *Record) { r.Image.Digest = "latest" },
		"type":       func(r *Record) { r.Image.MediaType = "text/html" },
		"size":       func(r *Record) { r.Image.Size = -1 },
		"repository": func(r *Record) { r.Repos = []string{"https://evil.example.com/x"} },
		"tag":        func(r *Record) { r.Repos = []string{"example.com/x:tag"} },
		"value":      func(r *Record) { r.Values = map[string]string{"image.name": "evil"} },
		"long value": func(r *Record) { r.Values = map[string]string{"containerimage.x": string(make([]byte, maxText))} },
	} {
		bad := record(1, 1)
		spoil(&bad)
		text, err := json.Marshal(archive{Format: recordFormat, Version: recordVersion, Images: []Record{bad, record(2, 2)}})
		require.NoError(t, err)
		got, err := Decode(pack(string(text)))
		require.NoError(t, err)
		require.Equal(t, 1, got.Len(), name)
	}
}

// Base images come with records: the newest, proven by their digests, within a bound.
func TestBases(t *testing.T) {
	image := func(i int) (frontend.Recollection, []byte) {
		data := fmt.Appendf(nil, "%d %s", i, strings.Repeat("x", maxDocuments/100))
		d := digest.FromBytes(data)
		return frontend.Recollection{Ref: fmt.Sprintf("docker.io/library/a:%d", i), Image: ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageIndex, Digest: d, Size: 1}}, data
	}
	var r Records
	for i := range maxBases + 10 {
		one, data := image(i)
		r.Bases.Add(int64(i), []frontend.Recollection{one}, map[digest.Digest][]byte{one.Image.Digest: data})
	}
	moved, data := image(maxBases + 20)
	moved.Ref = "docker.io/library/a:509"
	r.Bases.Add(1000, []frontend.Recollection{moved}, map[digest.Digest][]byte{moved.Image.Digest: data})
	packed, err := r.Encode()
	require.NoError(t, err)
	got, err := Decode(packed)
	require.NoError(t, err)
	_, ok := got.Bases.Image("docker.io/library/a:9")
	require.False(t, ok)
	oldest, _ := image(10)
	one, ok := got.Bases.Image(oldest.Ref)
	require.True(t, ok)
	require.Equal(t, oldest, one)
	_, ok = got.Bases.Blob(oldest.Image.Digest)
	require.False(t, ok, "of the oldest the documents are not kept")
	one, _ = got.Bases.Image("docker.io/library/a:509")
	require.Equal(t, moved, one)
	kept, ok := got.Bases.Blob(moved.Image.Digest)
	require.True(t, ok)
	require.Equal(t, data, kept)
	require.True(t, r.Holds(got))
	require.False(t, (&Records{}).Holds(got))

	got.Bases.images["docker.io/library/b:1"] = base{Recollection: moved}
	got.Bases.images["https://b"] = base{Recollection: frontend.Recollection{Ref: "https://b", Image: moved.Image}}
	got.Bases.documents[digest.FromString("x")] = document{Data: []byte("y")}
	n := len(got.Bases.sane().images)
	require.Equal(t, maxBases, n)
	_, ok = got.Bases.Blob(digest.FromString("x"))
	require.False(t, ok)

	l := Ledger{Dir: t.TempDir()}
	require.NoError(t, l.Add(Records{list: of(record(1, 1)).list, Bases: r.Bases}))
	own, err := l.Load()
	require.NoError(t, err)
	require.Empty(t, own.Bases.images, "this machine remembers them elsewhere")
}

// Writers that come between each other all find their records in the end.
func TestPushMerges(t *testing.T) {
	s := &shelf{}
	ref := Ref("example.com/cache", "dbake")
	require.Equal(t, "example.com/cache:dbake.images", ref)
	n := 0
	s.between = func() {
		if n++; n == 1 {
			// Another one has read what was there before and writes first.
			require.NoError(t, Push(t.Context(), s, ref, of(record(1, 1))))
		}
	}
	require.NoError(t, Push(t.Context(), s, ref, of(record(2, 2))))
	// The first writer is overwritten, looks, and writes again in its own run; here the
	// second one has not seen it.
	require.NoError(t, Push(t.Context(), s, ref, of(record(1, 1))))
	s.reads = 0
	got, err := Pull(t.Context(), s, ref)
	require.NoError(t, err)
	require.Equal(t, 2, got.Len())
	require.Equal(t, 1, s.reads)

	var wg sync.WaitGroup
	s.between = nil
	for i := range 4 {
		wg.Go(func() {
			if err := Push(t.Context(), s, ref, of(record(10+i, 10))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// Each has seen its own after it had written; the last one has all that it read.
	got, err = Pull(t.Context(), s, ref)
	require.NoError(t, err)
	require.GreaterOrEqual(t, got.Len(), 3)
}

// Something else under the tag is neither believed nor overwritten.
func TestForeignArtifact(t *testing.T) {
	s := &shelf{}
	ref := "example.com/cache:dbake.images"
	data := []byte(`{"schemaVersion":2,"layers":[]}`)
	require.NoError(t, s.Push(t.Context(), ref, ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageManifest, Digest: digest.FromBytes(data)}, data))
	_, err := Pull(t.Context(), s, ref)
	require.ErrorIs(t, err, ErrForeign)
	require.ErrorIs(t, Push(t.Context(), s, ref, of(record(1, 1))), ErrForeign)
	require.Equal(t, digest.FromBytes(data), s.tags[ref])

	// Data that is not what its digest says.
	require.NoError(t, Push(t.Context(), s, "b", of(record(1, 1))))
	var m ocispecs.Manifest
	require.NoError(t, json.Unmarshal(s.blobs[s.tags["b"]], &m))
	m.Layers[0].Data = append(m.Layers[0].Data, 'x')
	spoilt, err := json.Marshal(m)
	require.NoError(t, err)
	s.blobs[s.tags["b"]] = spoilt
	_, err = Pull(t.Context(), s, "b")
	require.ErrorIs(t, err, ErrForeign)
}

// A registry that takes only images gets records in the form of one.
func TestPlainForm(t *testing.T) {
	s := &shelf{refuse: func(m ocispecs.Manifest) error {
		if m.ArtifactType != "" || m.Config.MediaType != ocispecs.MediaTypeImageConfig || m.Layers[0].MediaType != ocispecs.MediaTypeImageLayerGzip {
			return &registry.Error{Op: "write", Ref: "x", Err: errors.New("MANIFEST_INVALID")}
		}
		return nil
	}}
	require.NoError(t, Push(t.Context(), s, "x", of(record(1, 1))))
	require.NoError(t, Push(t.Context(), s, "x", of(record(2, 2))))
	s.reads = 0
	got, err := Pull(t.Context(), s, "x")
	require.NoError(t, err)
	require.Equal(t, 2, got.Len())
	require.Equal(t, 1, s.reads)

	// Without the right to write, or an answer, nothing else is tried.
	for _, kind := range []error{registry.ErrDenied, registry.ErrUnreachable, registry.ErrBusy} {
		tried := 0
		s.refuse = func(ocispecs.Manifest) error {
			tried++
			return &registry.Error{Op: "write", Ref: "x", Kind: kind, Err: errors.New("no")}
		}
		require.ErrorIs(t, Push(t.Context(), s, "y", of(record(1, 1))), kind)
		require.Equal(t, 1, tried)
	}
}

func TestPullErrors(t *testing.T) {
	_, err := Pull(t.Context(), &mute{}, "x")
	require.ErrorIs(t, err, registry.ErrUnreachable)
}

// mute is a registry that does not answer.
type mute struct{ shelf }

func (*mute) ReadTag(context.Context, string) ([]byte, ocispecs.Descriptor, error) {
	return nil, ocispecs.Descriptor{}, &registry.Error{Op: "read", Ref: "x", Kind: registry.ErrUnreachable, Err: errors.New("mute")}
}

func TestLedger(t *testing.T) {
	l := Ledger{Dir: t.TempDir()}
	none, err := l.Load()
	require.NoError(t, err)
	require.Zero(t, none.Len())
	require.NoError(t, l.Add(of(record(1, 1))))
	require.NoError(t, l.Add(of(record(2, 2))))
	got, err := l.Load()
	require.NoError(t, err)
	require.Equal(t, 2, got.Len())

	k := Key{Target: "a", Lines: []Line{{Label: "arg TOKEN", Value: "hunter2"}, {Label: "steps", Value: digest.FromString("x").String()}, {Label: "step [2/2] RUN curl -u me:pw", Value: "x"}}}
	require.NoError(t, l.SetLast("/project", map[string]Key{"a": k}))
	last, err := l.Last("/project")
	require.NoError(t, err)
	require.Equal(t, hash("hunter2"), last["a"].Lines[0].Value, "values are not kept")
	require.Equal(t, k.Lines[1], last["a"].Lines[1])
	require.Equal(t, "step [2/2] RUN", last["a"].Lines[2].Label)
	require.Empty(t, Compare(last["a"].Lines, k.Hash().Lines))
	require.NoError(t, Ledger{}.Add(of(record(1, 1))))
}

func TestCompare(t *testing.T) {
	then := []Line{{Label: "a", Value: "1"}, {Label: "b", Value: "1"}, {Label: "gone", Value: "1"}, {Label: "same", Value: "1"}}
	now := []Line{{Label: "same", Value: "1"}, {Label: "a", Value: "2"}, {Label: "b", Value: "1"}, {Label: "new", Value: "1"}}
	require.Equal(t, []Difference{{"a", "1", "2"}, {"new", "", "1"}, {"gone", "1", ""}}, Compare(then, now))
	require.Empty(t, Compare(now, now))
}
