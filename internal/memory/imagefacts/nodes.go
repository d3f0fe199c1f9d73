package imagefacts

import (
	"encoding/json"
	"fmt"
	"path"

	digest "github.com/opencontainers/go-digest"
)

// NodeEntry is what a node said about one reference that this machine could not resolve.
type NodeEntry struct {
	Ref    string        `json:"ref"`
	Digest digest.Digest `json:"digest"`
	// Configs are the digests of the configs in the store, by platform.
	Configs map[string]digest.Digest `json:"configs"`
}

func nodeName(ref string) string { return path.Join("nodes", digest.FromString(ref).Encoded()+".json") }

// OnNode returns what a node last said about ref.
func (s *Store) OnNode(ref string) (e NodeEntry, ok bool) {
	if s.folder.Dir == "" {
		return e, false
	}
	data := s.read(nodeName(ref))
	if data == nil {
		return e, false
	}
	if err := json.Unmarshal(data, &e); err != nil || e.Ref != ref || e.Digest.Validate() != nil {
		s.trouble(fmt.Errorf("%s is damaged", s.folder.Path(nodeName(ref))))
		return NodeEntry{}, false
	}
	return e, true
}

// PutOnNode keeps what a node said about ref on a platform.
func (s *Store) PutOnNode(ref string, is digest.Digest, platform string, config []byte) {
	if s.folder.Dir == "" {
		return
	}
	e, ok := s.OnNode(ref)
	if !ok || e.Digest != is {
		e = NodeEntry{Ref: ref, Digest: is}
	}
	d := digest.FromBytes(config)
	if e.Configs[platform] == d {
		return
	}
	if e.Configs == nil {
		e.Configs = map[string]digest.Digest{}
	}
	e.Configs[platform] = d
	s.PutBlob(d, config)
	if data, err := json.Marshal(e); err == nil {
		s.write(nodeName(ref), data)
	}
}
