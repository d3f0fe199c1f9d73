package plan

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/solver/pb"
	"github.com/tonistiigi/fsutil"
	"github.com/tonistiigi/fsutil/types"

	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/llbmerge"
)

// content summarises the files that a vertex reads from the user's directories.
type content struct {
	// key changes when a file that is read is changed; "" when none is. It covers what a
	// node compares: names, modes and contents, but not owners and times.
	key   string
	bytes int64
	// sets are the files that are read, if they are to be listed: vertices that read the
	// same share one set.
	sets [][]found
	// fault is why a node cannot be sent these files; nil when it can.
	fault error
}

// reader looks at the files that vertices read, each set of files once.
type reader struct {
	dirs map[string]string // of local sources
	seen map[string]content
	sums *filesum.Cache
	list bool // whether files are to be listed
}

// read returns what v reads of the local sources among its inputs. The error is that
// of ctx.
func (r *reader) read(ctx context.Context, v *llbmerge.Vertex, input func(int) *llbmerge.Vertex) (content, error) {
	var all content
	for _, part := range reads(v) {
		local := input(part.input).Local
		if local == nil {
			continue
		}
		if err := r.add(ctx, &all, local, part); err != nil {
			return content{}, err
		}
	}
	return all, nil
}

// whole returns everything that there is of a local source.
func (r *reader) whole(ctx context.Context, local *llbmerge.Local) (all content, err error) {
	err = r.add(ctx, &all, local, read{})
	return all, err
}

// add adds a part of a local source to what is read.
func (r *reader) add(ctx context.Context, all *content, local *llbmerge.Local, part read) error {
	dir := r.dirs[local.Name]
	id := fmt.Sprintf("%q %q %q %q %q", dir, part.path, part.includes, part.excludes, local.ExcludePatterns)
	c, ok := r.seen[id]
	if !ok {
		// Files that a step leaves out are read all the same: a change of them counts once
		// too often, never too rarely. Only their faults do not count.
		all := part
		all.excludes = nil
		var err error
		if c, err = readContent(ctx, r.sums, dir, all, local.ExcludePatterns, r.list); err != nil {
			return err
		}
		if c.fault != nil && len(part.excludes) > 0 {
			if c, err = readContent(ctx, r.sums, dir, part, local.ExcludePatterns, r.list); err != nil {
				return err
			}
		}
		r.seen[id] = c
	}
	all.key += c.key
	all.bytes += c.bytes
	all.sets = append(all.sets, c.sets...)
	if all.fault == nil {
		all.fault = c.fault
	}
	return nil
}

// read is a part of an input that a vertex reads.
type read struct {
	input    int // index into Vertex.Inputs
	path     string
	includes []string // patterns below path; nil is everything
	excludes []string // patterns below path of what is not read
}

// reads returns what a vertex may read of its inputs: what copies and mounts select,
// and all of what it uses in another way, as a directory that it works on.
func reads(v *llbmerge.Vertex) []read {
	var list []read
	add := func(input int64, path string, includes, excludes []string) {
		if input >= 0 && int(input) < len(v.Inputs) {
			list = append(list, read{int(input), path, includes, excludes})
		}
	}
	switch op := v.Op.Op.(type) {
	case *pb.Op_File:
		for _, a := range op.File.GetActions() {
			add(a.GetInput(), "", nil, nil) // inputs beyond those of the op are results of other actions
			if c := a.GetCopy(); c != nil {
				add(a.GetSecondaryInput(), c.GetSrc(), c.GetIncludePatterns(), c.GetExcludePatterns())
			} else {
				add(a.GetSecondaryInput(), "", nil, nil)
			}
		}
	case *pb.Op_Exec:
		for _, m := range op.Exec.GetMounts() {
			add(m.GetInput(), m.GetSelector(), nil, nil)
		}
	default:
		for i := range v.Inputs {
			add(int64(i), "", nil, nil)
		}
	}
	return list
}

// Reads returns the first of some files and directories that a vertex of g reads, ""
// when it reads none that is still there. They are given by their paths below dir, the
// directory of a local source; "." is the directory itself.
func Reads[V any](g *llbmerge.Graph, v *llbmerge.Vertex, source, dir string, paths map[string]V) string {
	for _, part := range reads(v) {
		in, ok := g.Vertex(v.Inputs[part.input])
		if !ok || in.Local == nil || in.Local.Name != source {
			continue
		}
		if _, ok := paths["."]; ok {
			return "."
		}
		files, start, err := part.files(dir, in.Local.ExcludePatterns)
		if err != nil {
			continue
		}
		first := ""
		err = files.Walk(context.Background(), start, func(p string, _ fs.DirEntry, _ error) error {
			if _, ok := paths[p]; ok {
				first = p
				return fs.SkipAll
			}
			return nil
		})
		// Files that cannot be read are not passed to the function.
		if named := (*fs.PathError)(nil); first == "" && errors.As(err, &named) {
			if root, rootErr := filepath.EvalSymlinks(dir); rootErr == nil {
				p, relErr := filepath.Rel(root, named.Path)
				if _, ok := paths[p]; ok && relErr == nil {
					first = p
				}
			}
		}
		if first != "" {
			return first
		}
	}
	return ""
}

// readContent summarises the files that r means; its path may hold wildcards. With keep it
// lists them. The error is that of ctx.
func readContent(ctx context.Context, sums *filesum.Cache, dir string, r read, excludes []string, keep bool) (content, error) {
	l, ok, err := listPlain(ctx, dir, r, excludes)
	if err != nil {
		return content{}, err
	}
	if !ok {
		var fault error
		l, fault = listAny(ctx, dir, r, excludes)
		if ctx.Err() != nil {
			return content{}, context.Cause(ctx)
		}
		if fault != nil {
			return content{fault: fault}, nil
		}
	}
	c := content{bytes: l.bytes}
	if c.key, c.fault, err = l.sum(ctx, sums, dir); err != nil {
		return content{}, err
	}
	if keep {
		for i := range l.files {
			l.files[i].dir = dir
		}
		c.sets = [][]found{l.files}
	}
	return c, nil
}

// listAny lists the files that r means.
func listAny(ctx context.Context, dir string, r read, excludes []string) (listing, error) {
	files, start, err := r.files(dir, excludes)
	if err != nil {
		return listing{}, err
	}
	var l listing
	err = files.Walk(ctx, start, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		f := found{path: p, mode: info.Mode()}
		if st, ok := info.Sys().(*types.Stat); ok {
			f.extra = extraOf(st)
			if f.mode&fs.ModeSymlink != 0 {
				f.link = st.Linkname
			}
		}
		if !info.IsDir() {
			l.bytes += info.Size()
		}
		l.files = append(l.files, f)
		return nil
	})
	return l, err
}

// sum finds the digests of the files and returns one of all. fault is why a node cannot be
// sent them. The error is that of ctx.
func (l *listing) sum(ctx context.Context, sums *filesum.Cache, dir string) (key string, fault, err error) {
	regular := make([]filesum.File, 0, len(l.files))
	for i := range l.files {
		if l.files[i].mode.IsRegular() {
			f := filesum.File{Name: l.files[i].path}
			if l.infos != nil {
				f.Info = l.infos[len(regular)]
			}
			regular = append(regular, f)
		}
	}
	digests, fault, err := sums.Sums(ctx, dir, regular)
	if err != nil {
		return "", nil, err
	}
	h := sha256.New()
	var line []byte
	for i := range l.files {
		f := &l.files[i]
		if f.mode.IsRegular() {
			f.sum = digests[0]
			digests = digests[1:]
		}
		line = append(strconv.AppendQuote(line[:0], f.path), ' ')
		h.Write(append(f.appendState(line), '\n'))
	}
	return hex.EncodeToString(h.Sum(nil)), fault, nil
}

// files returns the files of dir that r means, and where a walk of them starts.
func (r read) files(dir string, excludes []string) (files fsutil.FS, start string, err error) {
	plain, err := fsutil.NewFS(dir)
	if err != nil {
		return nil, "", err
	}
	opt := &fsutil.FilterOpt{ExcludePatterns: excludes}
	switch p := path.Clean(strings.Trim(r.path, "/")); {
	case p == ".":
		opt.IncludePatterns = r.includes
		opt.ExcludePatterns = slices.Concat(excludes, r.excludes)
	case isPlain(dir, p):
		// Only what is below p is looked at: when thousands of targets copy a
		// directory each, looking into their parent for each of them would take
		// quadratic time.
		opt.IncludePatterns = []string{p}
		start = p
		for _, pattern := range r.excludes {
			not := ""
			if rest, ok := strings.CutPrefix(pattern, "!"); ok {
				not, pattern = "!", rest
			}
			opt.ExcludePatterns = append(slices.Clone(opt.ExcludePatterns), not+path.Join(p, pattern))
		}
	default:
		opt.FollowPaths = []string{p}
	}
	files, err = fsutil.NewFilterFS(plain, opt)
	return files, start, err
}

// found is a file that a vertex reads.
type found struct {
	dir, path string
	mode      fs.FileMode
	link      string // where a symbolic link leads
	sum       filesum.Sum
	extra     string // what else a node compares; "" for most files
}

// state is what a node compares of a file besides its path.
func (f *found) state() string { return string(f.appendState(nil)) }

// appendState appends [found.state] to b.
func (f *found) appendState(b []byte) []byte {
	switch {
	case f.mode&fs.ModeSymlink != 0:
		// Systems differ in the permissions of links, and nobody asks for them.
		b = strconv.AppendQuote(append(b, "link "...), f.link)
	case f.mode.IsRegular():
		b = append(strconv.AppendUint(b, uint64(f.mode), 10), ' ')
		b = hex.AppendEncode(b, f.sum[:])
	default:
		b = strconv.AppendUint(b, uint64(f.mode), 10)
	}
	return append(b, f.extra...)
}

// extraOf returns the extended attributes of a file and the numbers of a device.
func extraOf(st *types.Stat) string {
	var b strings.Builder
	if st.Devmajor != 0 || st.Devminor != 0 {
		fmt.Fprintf(&b, " device %d:%d", st.Devmajor, st.Devminor)
	}
	for _, name := range slices.Sorted(maps.Keys(st.Xattrs)) {
		fmt.Fprintf(&b, " %q=%q", name, st.Xattrs[name])
	}
	return b.String()
}

// isPlain reports whether p is the name of something below dir: no wildcard, no
// symbolic link on the way.
func isPlain(dir, p string) bool {
	_, ok := lookPlain(dir, p)
	return ok
}

// lookPlain is isPlain, and returns what p is.
func lookPlain(dir, p string) (info fs.FileInfo, ok bool) {
	if strings.ContainsAny(p, `*?[\^`) {
		return nil, false
	}
	at := dir
	for part := range strings.SplitSeq(p, "/") {
		at = filepath.Join(at, part)
		var err error
		if info, err = os.Lstat(at); part == ".." || err != nil || info.Mode()&fs.ModeSymlink != 0 {
			return nil, false
		}
	}
	return info, true
}
