package filesum

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"slices"
	"time"

	"github.com/dbake/dbake/internal/memory/folder"
)

// maxFile bounds the file of a root: some two million entries.
const maxFile = 256 << 20

// A file of the cache is this line, the root, the entries by name, and the SHA-256
// of all that. Texts have their length before them; integers are varints.
const format = "dbake-filesum/1\n"

func (c *Cache) folder() folder.Folder {
	return folder.Folder{Dir: c.dir, Limit: maxFile, Now: func() time.Time { return c.now }}
}

func fileName(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return hex.EncodeToString(sum[:12])
}

// load returns the remembered digests of the files below dir; none if they cannot be read.
func (c *Cache) load(dir string) map[string]entry {
	if c.dir != "" {
		if b, err := c.folder().Read(fileName(dir)); err == nil {
			if files, ok := decode(b, dir); ok {
				return files
			}
		}
	}
	return map[string]entry{}
}

// save replaces the file of a root. Another process may do so at the same time: the
// last one wins, and both are right.
func (c *Cache) save(dir string, r *root) error {
	lasting := map[string]entry{}
	for name, e := range r.files {
		if !e.fresh && e.seen >= c.day()-kept {
			lasting[name] = e
		}
	}
	return c.folder().Write(fileName(dir), encode(dir, lasting))
}

func encode(dir string, files map[string]entry) []byte {
	b := make([]byte, 0, len(format)+len(dir)+128*len(files))
	b = append(b, format...)
	text := func(s string) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	text(dir)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		e := files[name]
		text(name)
		for _, x := range []int64{e.id.size, e.id.modified, e.id.changed, e.seen} {
			b = binary.AppendVarint(b, x)
		}
		b = binary.AppendUvarint(b, e.id.inode)
		b = append(b, e.sum[:]...)
	}
	sum := sha256.Sum256(b)
	return append(b, sum[:]...)
}

// decode reads what encode wrote for dir.
func decode(b []byte, dir string) (map[string]entry, bool) {
	body, ok := bytes.CutPrefix(b, []byte(format))
	if !ok || len(body) < sha256.Size {
		return nil, false
	}
	end := len(b) - sha256.Size
	if sha256.Sum256(b[:end]) != [sha256.Size]byte(b[end:]) {
		return nil, false
	}
	d := decoder{b: body[:len(body)-sha256.Size]}
	if d.text() != dir {
		return nil, false
	}
	files := map[string]entry{}
	for len(d.b) > 0 && !d.bad {
		var e entry
		name := d.text()
		for _, x := range []*int64{&e.id.size, &e.id.modified, &e.id.changed, &e.seen} {
			*x = d.int()
		}
		e.id.inode = d.uint()
		copy(e.sum[:], d.take(sha256.Size))
		files[name] = e
	}
	return files, !d.bad
}

// decoder takes values off the front of b.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) take(n uint64) []byte {
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) text() string { return string(d.take(d.uint())) }

func (d *decoder) uint() uint64 {
	x, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return x
}

func (d *decoder) int() int64 {
	x, n := binary.Varint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return x
}
