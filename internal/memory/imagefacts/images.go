// Package imagefacts remembers what registries said about images:
//
//	blobs/sha256/DIGEST  manifests, indexes and configs
//	tags/DIGEST.json     what a reference meant, and when; DIGEST is that of the reference
//	nodes/DIGEST.json    what a node said about a reference that only nodes could resolve
package imagefacts

import (
	"encoding/json"
	"fmt"
	"path"
	"sync"
	"time"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/memory/folder"
)

// maxBlob bounds a file in bytes: an image's config with a long history.
const maxBlob = 8 << 20

// Store is a directory of such files. A file that cannot be read counts as absent, one that
// cannot be written is not kept; the first such failure is a warning.
type Store struct {
	folder folder.Folder
	warn   func(error) // nil = nobody is warned
	warned sync.Once
}

// Open returns the store in dir, which need not exist; "" is one that keeps nothing.
// warn, which may be nil, is called once at most. now is the clock.
func Open(dir string, warn func(error), now func() time.Time) *Store {
	return &Store{folder: folder.Folder{Dir: dir, Limit: maxBlob, Now: now}, warn: warn}
}

// trouble warns of the first thing that went wrong.
func (s *Store) trouble(err error) {
	if s.warn == nil {
		return
	}
	s.warned.Do(func() { s.warn(fmt.Errorf("what is remembered about images: %w", err)) })
}

// read returns a file, nil when there is none that can be read.
func (s *Store) read(name string) []byte {
	data, err := s.folder.Read(name)
	if err != nil {
		s.trouble(err)
	}
	return data
}

// tagEntry is the file for one reference.
type tagEntry struct {
	Ref        string              `json:"ref"`
	Descriptor ocispecs.Descriptor `json:"descriptor"`
	Time       time.Time           `json:"time"`
}

func tagName(ref string) string { return path.Join("tags", digest.FromString(ref).Encoded()+".json") }

func blobName(d digest.Digest) string { return path.Join("blobs", d.Algorithm().String(), d.Encoded()) }

// Tag returns what ref meant when it was last asked for.
func (s *Store) Tag(ref string) (ocispecs.Descriptor, time.Time, bool) {
	var e tagEntry
	if s.folder.Dir == "" {
		return e.Descriptor, e.Time, false
	}
	data := s.read(tagName(ref))
	if data == nil {
		return e.Descriptor, e.Time, false
	}
	if err := json.Unmarshal(data, &e); err != nil || e.Ref != ref || e.Descriptor.Digest.Validate() != nil {
		s.trouble(fmt.Errorf("%s is damaged", s.folder.Path(tagName(ref))))
		return ocispecs.Descriptor{}, time.Time{}, false
	}
	return e.Descriptor, e.Time, true
}

// PutTag notes what ref means now.
func (s *Store) PutTag(ref string, desc ocispecs.Descriptor, now time.Time) {
	if s.folder.Dir == "" {
		return
	}
	data, err := json.Marshal(tagEntry{Ref: ref, Descriptor: desc, Time: now.UTC()})
	if err == nil {
		s.write(tagName(ref), data)
	}
}

// Blob returns a blob whose content is what its digest says.
func (s *Store) Blob(d digest.Digest) ([]byte, bool) {
	if s.folder.Dir == "" || d.Validate() != nil {
		return nil, false
	}
	data := s.read(blobName(d))
	if data == nil {
		return nil, false
	}
	if d.Algorithm().FromBytes(data) != d {
		s.trouble(fmt.Errorf("%s is damaged", s.folder.Path(blobName(d))))
		return nil, false
	}
	return data, true
}

// PutBlob keeps a blob.
func (s *Store) PutBlob(d digest.Digest, data []byte) {
	if s.folder.Dir != "" {
		s.write(blobName(d), data)
	}
}

// write replaces a file, if it can be.
func (s *Store) write(name string, data []byte) {
	if err := s.folder.Write(name, data); err != nil {
		s.trouble(err)
	}
}
