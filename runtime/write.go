package runtime

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
	"github.com/dbake/dbake/runtime/publish"
)

// OutputError is a failure to write, on this machine, what a node sent. No node is
// to blame, and another one would fare no better.
type OutputError struct {
	Place string // the file or directory; "" when Err names it
	Err   error
}

func (e *OutputError) Error() string {
	if e.Place == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("write %s: %v", e.Place, e.Err)
}

// Unwrap returns the cause.
func (e *OutputError) Unwrap() error { return e.Err }

// errBegun is why an archive is not written once more.
var errBegun = errors.New("a part of the archive was written before the node failed, and cannot be taken back")

// writing is one attempt to write an output. The node sends to it from another
// goroutine, which may go on for a moment after the attempt has ended.
type writing struct {
	output
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

func (o output) begin(ctx context.Context, notice func(string)) *writing {
	return &writing{output: o, ctx: ctx, notice: notice}
}

// prepare makes what an output that is withheld needs to be written.
func (w *writing) prepare() (err error) {
	if w.withheld == nil || w.entry.Type != bkclient.ExporterLocal {
		return nil
	}
	if w.tree, err = newHeldTree(w.entry.OutputDir, w.entry.Attrs["mode"]); err != nil {
		return &Rejected{&OutputError{Place: w.place(), Err: err}}
	}
	return nil
}

// place is what takes the output on this machine.
func (w *writing) place() string {
	switch {
	case w.output.file != "":
		return w.output.file
	case w.stdout != nil:
		return "standard output"
	}
	return w.entry.OutputDir
}

// export returns the entry as a client takes it.
func (w *writing) export() *bkclient.ExportEntry {
	entry := w.entry
	switch {
	case w.tree != nil:
		entry.OutputDir = w.tree.dir
	case w.load != nil && w.withheld != nil:
		entry.Output = func(map[string]string) (io.WriteCloser, error) { return w.spool() }
	case w.load != nil:
		entry.Output = func(map[string]string) (io.WriteCloser, error) { return w.load(w.ctx) }
	case w.stdout != nil:
		entry.Output = func(map[string]string) (io.WriteCloser, error) {
			if w.begun.Load() {
				return nil, errBegun
			}
			return &stream{Writer: w.stdout, begun: w.begun}, nil
		}
	case w.output.file != "":
		entry.Output = func(map[string]string) (io.WriteCloser, error) { return w.create() }
	}
	return &entry
}

// create opens the file that takes the archive.
func (w *writing) create() (io.WriteCloser, error) {
	if w.begun.Load() {
		return nil, errBegun
	}
	name := w.output.file
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return nil, err
	}
	var f *localfile.File
	var err error
	if w.withheld != nil {
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
func (w *writing) spool() (io.WriteCloser, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return nil, context.Canceled
	}
	f, err := os.CreateTemp("", "dbake-load-")
	if err != nil {
		return nil, err
	}
	w.archive = &heldArchive{name: f.Name(), load: w.load}
	return f, nil
}

// hold ends the writing of an output that is withheld, and returns what is to be put in its
// place; nil for an image that was pushed. resp is the response of the node, dirs keep
// images apart that go into one layout.
func (w *writing) hold(resp map[string]string, dirs *dirLocks) (publish.Held, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	switch {
	case w.tree != nil:
		return w.tree, nil
	case w.load != nil && w.archive == nil:
		return nil, errors.New("the node sent nothing to be loaded")
	case w.load != nil:
		return w.archive, nil
	case w.output.file != "" && w.file == nil:
		return nil, fmt.Errorf("the node sent nothing for %s", w.output.file)
	case w.output.file != "":
		if err := w.file.Close(); err != nil {
			return nil, &Rejected{&OutputError{Place: w.place(), Err: err}}
		}
		return &heldFile{file: w.file, place: w.output.file}, nil
	case w.entry.OutputDir != "":
		return &heldLayout{dir: w.entry.OutputDir, resp: resp, lock: dirs}, nil
	}
	return nil, nil
}

// commit makes a written file visible under its name.
func (w *writing) commit() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	if w.output.file == "" {
		return nil
	}
	if w.file == nil {
		return fmt.Errorf("the node sent nothing for %s", w.output.file)
	}
	if err := w.file.Commit(); err != nil {
		return &Rejected{&OutputError{Place: w.place(), Err: err}}
	}
	return nil
}

// discard removes what was written.
func (w *writing) discard() error {
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
