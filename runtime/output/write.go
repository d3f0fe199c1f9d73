package output

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/internal/localfile"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/layout"
	"github.com/dbake/dbake/runtime/publish"
)

// errBegun is why an archive is not written once more.
var errBegun = errors.New("a part of the archive was written before the node failed, and cannot be taken back")

// Writing is one attempt to write an output. The node sends to it from another
// goroutine, which may go on for a moment after the attempt has ended.
type Writing struct {
	Output
	ctx context.Context // ends what is waited for
	// notice takes what the user should know while something is waited for.
	notice func(text string)

	// tree takes the files of a directory that is withheld; nil for none.
	tree *heldTree

	mu      sync.Mutex      // guards what follows
	file    *localfile.File // nil until the node sends something
	archive *heldArchive    // of an output that is withheld; nil until the node sends something
	ended   bool
}

// Begin returns an attempt to write o, which ctx ends. notice is called with what is waited
// for.
func (o Output) Begin(ctx context.Context, notice func(string)) *Writing {
	return &Writing{Output: o, ctx: ctx, notice: notice}
}

// Prepare makes what an output that is withheld needs to be written.
func (w *Writing) Prepare() (err error) {
	if w.Withheld == nil || w.Entry.Type != bkclient.ExporterLocal {
		return nil
	}
	if w.tree, err = newHeldTree(w.Entry.OutputDir, w.Entry.Attrs["mode"]); err != nil {
		return &fault.Rejected{Err: &fault.OutputError{Place: w.Place(), Err: err}}
	}
	return nil
}

// Place is what takes the output on this machine.
func (w *Writing) Place() string {
	switch {
	case w.Output.file != "":
		return w.Output.file
	case w.stdout != nil:
		return "standard output"
	}
	return w.Entry.OutputDir
}

// Export returns the entry as a client takes it.
func (w *Writing) Export() *bkclient.ExportEntry {
	entry := w.Entry
	switch {
	case w.tree != nil:
		entry.OutputDir = w.tree.dir
	case w.Load != nil && w.Withheld != nil:
		entry.Output = func(map[string]string) (io.WriteCloser, error) { return w.spool() }
	case w.Load != nil:
		entry.Output = func(map[string]string) (io.WriteCloser, error) { return w.Load(w.ctx) }
	case w.stdout != nil:
		entry.Output = func(map[string]string) (io.WriteCloser, error) {
			if w.begun.Load() {
				return nil, errBegun
			}
			return &stream{Writer: w.stdout, begun: w.begun}, nil
		}
	case w.Output.file != "":
		entry.Output = func(map[string]string) (io.WriteCloser, error) { return w.create() }
	}
	return &entry
}

// create opens the file that takes the archive.
func (w *Writing) create() (io.WriteCloser, error) {
	if w.begun.Load() {
		return nil, errBegun
	}
	name := w.Output.file
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	var f *localfile.File
	var err error
	if w.Withheld != nil {
		f, err = localfile.CreateBeside(w.ctx, name)
	} else {
		f, err = localfile.Create(w.ctx, name, func() { w.notice(fmt.Sprintf("waits for a reader of the pipe %s", name)) })
	}
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return nil, errors.Join(context.Canceled, f.Discard())
	}
	w.file = f
	if f.IsStream() {
		return &stream{Writer: f, Closer: f, begun: w.begun}, nil
	}
	return f, nil
}

// spool opens the file that keeps an archive for an engine.
func (w *Writing) spool() (io.WriteCloser, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return nil, context.Canceled
	}
	f, err := os.CreateTemp("", "dbake-load-")
	if err != nil {
		return nil, err
	}
	w.archive = &heldArchive{name: f.Name(), load: w.Load}
	return f, nil
}

// Hold ends the writing of an output that is withheld, and returns what is to be put in its
// place; nil for an image that was pushed. resp is the response of the node, dirs keep
// images apart that go into one layout.
func (w *Writing) Hold(resp map[string]string, dirs *layout.Locks) (publish.Held, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	switch {
	case w.tree != nil:
		return w.tree, nil
	case w.Load != nil && w.archive == nil:
		return nil, errors.New("the node sent nothing to be loaded")
	case w.Load != nil:
		return w.archive, nil
	case w.Output.file != "" && w.file == nil:
		return nil, fmt.Errorf("the node sent nothing for %s", w.Output.file)
	case w.Output.file != "":
		if err := w.file.Close(); err != nil {
			return nil, &fault.Rejected{Err: &fault.OutputError{Place: w.Place(), Err: err}}
		}
		return &heldFile{file: w.file, place: w.Output.file}, nil
	case w.Entry.OutputDir != "":
		return &heldLayout{dir: w.Entry.OutputDir, resp: resp, lock: dirs}, nil
	}
	return nil, nil
}

// Commit makes a written file visible under its name.
func (w *Writing) Commit() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.Output.file == "" {
		return nil
	}
	if w.file == nil {
		return fmt.Errorf("the node sent nothing for %s", w.Output.file)
	}
	if err := w.file.Commit(); err != nil {
		return &fault.Rejected{Err: &fault.OutputError{Place: w.Place(), Err: err}}
	}
	return nil
}

// Discard removes what was written.
func (w *Writing) Discard() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	var errs []error
	if w.tree != nil {
		errs = append(errs, w.tree.Discard())
	}
	if w.archive != nil {
		errs = append(errs, w.archive.Discard())
	}
	if w.file != nil {
		errs = append(errs, w.file.Discard())
	}
	return errors.Join(errs...)
}

// stream is a writer to where nothing can be taken back. Without a Closer, Close
// leaves it open.
type stream struct {
	io.Writer
	io.Closer
	begun *atomic.Bool
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.Writer.Write(p)
	if n > 0 {
		s.begun.Store(true)
	}
	return n, err
}

func (s *stream) Close() error {
	if s.Closer == nil {
		return nil
	}
	return s.Closer.Close()
}
