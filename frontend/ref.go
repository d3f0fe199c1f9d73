package frontend

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	contfs "github.com/containerd/continuity/fs"
	"github.com/moby/buildkit/client/llb"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/patternmatcher"
	"github.com/tonistiigi/fsutil/types"
)

// recordedRef stands for the result of a definition that nobody has built.
type recordedRef struct {
	recorder *recorder
	def      *pb.Definition

	once   sync.Once
	remote gateway.Reference
	err    error
}

var _ gateway.Reference = (*recordedRef)(nil)

// ToState implements gateway.Reference.
func (r *recordedRef) ToState() (llb.State, error) { return defState(r.def) }

// defState returns the state that a definition describes; one without ops is
// scratch.
func defState(def *pb.Definition) (llb.State, error) {
	if len(def.GetDef()) == 0 {
		return llb.Scratch(), nil
	}
	op, err := llb.NewDefinitionOp(def)
	if err != nil {
		return llb.State{}, err
	}
	return llb.NewState(op), nil
}

// Evaluate implements gateway.Reference.
func (r *recordedRef) Evaluate(ctx context.Context) error {
	ref, err := r.solve(ctx)
	if err != nil {
		return err
	}
	return ref.Evaluate(ctx)
}

// ReadFile implements gateway.Reference.
func (r *recordedRef) ReadFile(ctx context.Context, req gateway.ReadRequest) ([]byte, error) {
	ref, err := r.solve(ctx)
	if err != nil {
		return nil, err
	}
	data, err := ref.ReadFile(ctx, req)
	if err == nil && req.Filename == r.recorder.in.attrs["filename"] {
		r.recorder.readDockerfile(r)
	}
	return data, err
}

// StatFile implements gateway.Reference.
func (r *recordedRef) StatFile(ctx context.Context, req gateway.StatRequest) (*types.Stat, error) {
	ref, err := r.solve(ctx)
	if err != nil {
		return nil, err
	}
	return ref.StatFile(ctx, req)
}

// ReadDir implements gateway.Reference.
func (r *recordedRef) ReadDir(ctx context.Context, req gateway.ReadDirRequest) ([]*types.Stat, error) {
	ref, err := r.solve(ctx)
	if err != nil {
		return nil, err
	}
	return ref.ReadDir(ctx, req)
}

// solve has the node build what is about to be read.
func (r *recordedRef) solve(ctx context.Context) (gateway.Reference, error) {
	node, err := r.recorder.nodeOr("context", "the content of %s has to be read", describe(r.def))
	if err != nil {
		return nil, err
	}
	r.once.Do(func() {
		// What is read is of the commit that is built.
		var def *pb.Definition
		if def, r.err = r.recorder.pin(ctx, r.def); r.err != nil {
			return
		}
		var res *gateway.Result
		if res, r.err = node.Solve(ctx, gateway.SolveRequest{Definition: def}); r.err == nil {
			r.remote, r.err = res.SingleRef()
		}
	})
	return r.remote, r.err
}

// describe names the first source of a definition.
func describe(def *pb.Definition) string {
	for _, dt := range def.Def {
		var op pb.Op
		if err := op.UnmarshalVT(dt); err != nil {
			continue
		}
		if src := op.GetSource(); src != nil {
			if full := src.Attrs[pb.AttrFullRemoteURL]; full != "" {
				return full
			}
			return src.Identifier
		}
	}
	return "a build result"
}

// dirRef reads a local source from where it lies. It shows what a node would have
// been sent: paths that the source does not follow do not exist, and symbolic
// links are resolved inside the directory.
type dirRef struct {
	source
	def     *pb.Definition
	follow  []string
	exclude *patternmatcher.PatternMatcher
}

var _ gateway.Reference = (*dirRef)(nil)

func newDirRef(s source, def *pb.Definition, attrs map[string]string) (*dirRef, error) {
	d := &dirRef{source: s, def: def}
	if attrs[pb.AttrIncludePatterns] != "" {
		return nil, errors.New("include patterns cannot be read while compiling")
	}
	if v := attrs[pb.AttrFollowPaths]; v != "" {
		if err := json.Unmarshal([]byte(v), &d.follow); err != nil {
			return nil, fmt.Errorf("follow paths: %w", err)
		}
	}
	if v := attrs[pb.AttrExcludePatterns]; v != "" {
		var patterns []string
		if err := json.Unmarshal([]byte(v), &patterns); err != nil {
			return nil, fmt.Errorf("exclude patterns: %w", err)
		}
		var err error
		if d.exclude, err = patternmatcher.New(patterns); err != nil {
			return nil, fmt.Errorf("exclude patterns: %w", err)
		}
	}
	return d, nil
}

// ToState implements gateway.Reference.
func (d *dirRef) ToState() (llb.State, error) { return defState(d.def) }

// Evaluate implements gateway.Reference.
func (d *dirRef) Evaluate(context.Context) error { return nil }

// visible reports whether a node would have been sent the file.
func (d *dirRef) visible(name string) bool {
	if d.exclude != nil {
		if excluded, err := d.exclude.MatchesOrParentMatches(name); err != nil || excluded {
			return false
		}
	}
	if len(d.follow) == 0 {
		return true
	}
	for _, pattern := range d.follow {
		pattern = clean(pattern)
		for n := name; n != "."; n = path.Dir(n) {
			if ok, err := path.Match(pattern, n); n == pattern || ok && err == nil {
				return true
			}
		}
	}
	return false
}

// clean returns name relative to the root of the source.
func clean(name string) string {
	return strings.TrimPrefix(path.Join("/", filepath.ToSlash(name)), "/")
}

// locate returns the place of name on this machine.
func (d *dirRef) locate(op, name string) (string, error) {
	rel := clean(name)
	if rel == "" {
		rel = "."
	}
	if rel != "." && !d.visible(rel) {
		return "", &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist}
	}
	p, err := contfs.RootPath(d.dir, rel)
	if err != nil {
		return "", &fs.PathError{Op: op, Path: name, Err: cause(err)}
	}
	return p, nil
}

// ReadFile implements gateway.Reference.
func (d *dirRef) ReadFile(_ context.Context, req gateway.ReadRequest) ([]byte, error) {
	missing := &fs.PathError{Op: "open", Path: req.Filename, Err: fs.ErrNotExist}
	if d.files != nil {
		data, ok := d.files[clean(req.Filename)]
		if !ok {
			return nil, missing
		}
		if r := req.Range; r != nil {
			data = data[min(r.Offset, len(data)):]
			if r.Length > 0 {
				data = data[:min(r.Length, len(data))]
			}
		}
		return data, nil
	}
	p, err := d.locate("open", req.Filename)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(p)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: req.Filename, Err: cause(err)}
	}
	// Never wait for the other end of a pipe.
	if !st.Mode().IsRegular() {
		return nil, &fs.PathError{Op: "read", Path: req.Filename, Err: errors.New("not a regular file")}
	}
	f, err := os.Open(p)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: req.Filename, Err: cause(err)}
	}
	defer f.Close()
	var rd io.Reader = f
	if r := req.Range; r != nil {
		n := st.Size()
		if r.Length > 0 {
			n = int64(r.Length)
		}
		rd = io.NewSectionReader(f, int64(r.Offset), n)
	}
	data, err := io.ReadAll(rd)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: req.Filename, Err: cause(err)}
	}
	return data, nil
}

// StatFile implements gateway.Reference.
func (d *dirRef) StatFile(_ context.Context, req gateway.StatRequest) (*types.Stat, error) {
	if d.files != nil {
		data, ok := d.files[clean(req.Path)]
		if !ok {
			return nil, &fs.PathError{Op: "stat", Path: req.Path, Err: fs.ErrNotExist}
		}
		return &types.Stat{Path: path.Base(req.Path), Mode: 0o644, Size: int64(len(data))}, nil
	}
	p, err := d.locate("stat", req.Path)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(p)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: req.Path, Err: cause(err)}
	}
	return fileStat(path.Base(clean(req.Path)), st), nil
}

// ReadDir implements gateway.Reference.
func (d *dirRef) ReadDir(_ context.Context, req gateway.ReadDirRequest) ([]*types.Stat, error) {
	var stats []*types.Stat
	match := func(name string) bool {
		if req.IncludePattern == "" {
			return true
		}
		ok, err := path.Match(req.IncludePattern, name)
		return ok && err == nil
	}
	if d.files != nil {
		for name, data := range d.files {
			if match(name) {
				stats = append(stats, &types.Stat{Path: name, Mode: 0o644, Size: int64(len(data))})
			}
		}
		slices.SortFunc(stats, func(a, b *types.Stat) int { return strings.Compare(a.Path, b.Path) })
		return stats, nil
	}
	p, err := d.locate("readdir", req.Path)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(p)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: req.Path, Err: cause(err)}
	}
	for _, e := range entries {
		if !d.visible(clean(path.Join(req.Path, e.Name()))) || !match(e.Name()) {
			continue
		}
		st, err := e.Info()
		if err != nil {
			continue // gone since
		}
		stats = append(stats, fileStat(e.Name(), st))
	}
	return stats, nil
}

func fileStat(name string, st fs.FileInfo) *types.Stat {
	return &types.Stat{
		Path:    name,
		Mode:    uint32(st.Mode()),
		Size:    st.Size(),
		ModTime: st.ModTime().UnixNano(),
	}
}
