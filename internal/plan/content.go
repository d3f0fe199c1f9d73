package plan

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	digest "github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"

	"github.com/dbake/dbake/llbmerge"
)

// content is what a vertex reads of the user's directories.
type content struct {
	// key changes when a file that is read is changed; "" when none is. It is
	// made from names, sizes, modes and times: reading every file would take
	// longer than the answer is worth.
	key   string
	bytes int64
}

// readContents looks at the files that the vertices of the graph read.
func (b *Build) readContents(ctx context.Context) error {
	b.content = make([]content, len(b.Graph.Vertices))
	b.keys = make([]digest.Digest, len(b.Graph.Vertices))
	dirs := b.Locals()
	index := make(map[digest.Digest]int, len(b.Graph.Vertices))
	seen := map[string]content{}
	for i, v := range b.Graph.Vertices {
		index[v.Digest] = i
		for _, r := range reads(v) {
			local := b.Graph.Vertices[index[v.Inputs[r.input]]].Local
			if local == nil {
				continue
			}
			id := fmt.Sprintf("%q %q %q %q", dirs[local.Name], r.path, r.includes, local.ExcludePatterns)
			c, ok := seen[id]
			if !ok {
				var err error
				if c, err = readContent(ctx, dirs[local.Name], r, local.ExcludePatterns); err != nil {
					return fmt.Errorf("look at the context of %s: %w", v.Step, err)
				}
				seen[id] = c
			}
			b.content[i].key += c.key
			b.content[i].bytes += c.bytes
		}
		b.keys[i] = contentKey(v, b.content[i].key, func(d digest.Digest) digest.Digest { return b.keys[index[d]] })
	}
	return nil
}

// contentKey names the result of a vertex: what it does, to what, with which files.
func contentKey(v *llbmerge.Vertex, files string, key func(digest.Digest) digest.Digest) digest.Digest {
	var s strings.Builder
	s.WriteString(v.Digest.String() + "\n" + files + "\n")
	for _, in := range v.Inputs {
		s.WriteString(key(in).String() + "\n")
	}
	return digest.FromString(s.String())
}

// read is a part of an input that a vertex reads.
type read struct {
	input    int // index into Vertex.Inputs
	path     string
	includes []string // patterns below path; nil is everything
}

// reads returns what a vertex may read of its inputs, apart from the file system
// it works on.
func reads(v *llbmerge.Vertex) []read {
	var list []read
	add := func(input int64, path string, includes []string) {
		if input >= 0 && int(input) < len(v.Inputs) {
			list = append(list, read{int(input), path, includes})
		}
	}
	switch op := v.Op.Op.(type) {
	case *pb.Op_File:
		for _, a := range op.File.GetActions() {
			if c := a.GetCopy(); c != nil {
				add(a.GetSecondaryInput(), c.GetSrc(), c.GetIncludePatterns())
			}
		}
	case *pb.Op_Exec:
		for _, m := range op.Exec.GetMounts() {
			add(m.GetInput(), m.GetSelector(), nil)
		}
	}
	return list
}

// readContent summarises the files that r means; its path may hold wildcards.
func readContent(ctx context.Context, dir string, r read, excludes []string) (content, error) {
	plain, err := fsutil.NewFS(dir)
	if err != nil {
		return content{}, err
	}
	opt := &fsutil.FilterOpt{ExcludePatterns: excludes}
	if p := strings.Trim(r.path, "/"); p != "" && p != "." {
		opt.FollowPaths = []string{p}
	} else {
		opt.IncludePatterns = r.includes
	}
	files, err := fsutil.NewFilterFS(plain, opt)
	if err != nil {
		return content{}, err
	}
	var c content
	h := sha256.New()
	err = files.Walk(ctx, "", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintf(h, "%q %d", p, info.Mode())
		if !info.IsDir() {
			fmt.Fprintf(h, " %d %d", info.Size(), info.ModTime().UnixNano())
			c.bytes += info.Size()
		}
		h.Write([]byte{'\n'})
		return nil
	})
	if err != nil {
		return content{}, err
	}
	c.key = fmt.Sprintf("%x", h.Sum(nil))
	return c, nil
}

// Held returns the content keys of the vertices that are given, for the memory of
// what a node holds.
func (b *Build) Held(vertices []digest.Digest) []digest.Digest {
	index := make(map[digest.Digest]int, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		index[v.Digest] = i
	}
	var keys []digest.Digest
	for _, d := range vertices {
		if i, ok := index[d]; ok {
			keys = append(keys, b.keys[i])
		}
	}
	return keys
}
