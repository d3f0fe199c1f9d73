package output

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/exporter/containerimage/exptypes"
	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/localfile"
	"github.com/dbake/dbake/runtime/fault"
	"github.com/dbake/dbake/runtime/layout"
	"github.com/dbake/dbake/runtime/publish"
)

// Nothing of an output that is withheld is where anybody takes it for a result: images are
// pushed by digest, files and directories are written beside their places, archives for an
// engine into temporary files, and images into layouts without an entry in the index. A
// [publish.Batch] holds what is left to be done.

// Withholding is how one output is withheld; nil is published at once.
type Withholding struct {
	// Names are those that an image gets when it is published.
	Names []string
	// Insecure registries need not speak TLS.
	Insecure bool
}

// Withheld is what a job has written that is yet to be published.
type Withheld struct {
	Tags []publish.Tag
	Held []publish.Held
	// Images and responses take the place of those of the job then.
	Images    []Image
	Responses []Response
}

// Discard removes what is held on this machine.
func (w *Withheld) Discard() error {
	if w == nil {
		return nil
	}
	b := publish.Batch{Held: w.Held}
	w.Held = nil
	return b.Discard()
}

// CheckWithheld refuses a project with an output that cannot be withheld.
func CheckWithheld(p *ir.Project, load bool) error {
	var take func(context.Context) (io.WriteCloser, error)
	if load {
		take = func(context.Context) (io.WriteCloser, error) { return nil, errors.ErrUnsupported }
	}
	for _, t := range p.Targets {
		if t.Linked {
			continue
		}
		outs, err := All(t, p.Dir, io.Discard, take)
		if err != nil {
			continue // the run says so, in its own words
		}
		if _, err := Withhold(t, outs); err != nil {
			return err
		}
	}
	return nil
}

// Withhold makes outputs of t such that they can be published later.
func Withhold(t *ir.Target, outs []Output) ([]Output, error) {
	for i := range outs {
		if err := outs[i].withhold(); err != nil {
			return nil, &ir.SourceError{
				Range: t.Origin("output"), Summary: fmt.Sprintf("target %s: an output cannot be held back until all targets are built: %v", t.Name, err), Err: err,
				Detail: "write something else, or leave out --execution atomic",
			}
		}
	}
	return outs, nil
}

func (o *Output) withhold() error {
	w := &Withholding{}
	switch {
	case o.stdout != nil:
		return errors.New("it goes to standard output")
	case o.file != "":
		place, err := localfile.Locate(o.file)
		if err != nil {
			return err
		}
		if place.IsStream() {
			return fmt.Errorf("%s is no file, but a pipe or a device", o.file)
		}
	case o.Entry.Type == bkclient.ExporterImage:
		if err := o.withholdImage(w); err != nil {
			return err
		}
	}
	o.Withheld = w
	return nil
}

// withholdImage has an image pushed by its digest alone, and kept by no node under a name.
func (o *Output) withholdImage(w *Withholding) error {
	attrs := o.Entry.Attrs
	if !o.Pushed {
		return errors.New("an image that is not pushed gets its name on its node at once")
	}
	for _, key := range []string{"store", "unpack"} {
		if on, err := ir.Switch(attrs, key); err != nil {
			return err
		} else if on {
			return fmt.Errorf("%s=true gives the image its name on its node at once", key)
		}
		attrs[key] = "false"
	}
	byDigest, err := ir.Switch(attrs, string(exptypes.OptKeyPushByDigest))
	if err != nil || byDigest {
		return err // then it has no name to be given
	}
	if w.Insecure, err = ir.Switch(attrs, string(exptypes.OptKeyInsecure)); err != nil {
		return err
	}
	var repos []string
	for name := range strings.SplitSeq(attrs["name"], ",") {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return fmt.Errorf("name %q: %w", name, err)
		}
		w.Names = append(w.Names, reference.TagNameOnly(ref).String())
		if !slices.Contains(repos, ref.Name()) {
			repos = append(repos, ref.Name())
		}
	}
	attrs["name"] = strings.Join(repos, ",")
	attrs[string(exptypes.OptKeyPushByDigest)] = "true"
	return nil
}

// Withheld returns e as nodes read it when it is withheld. What cannot be withheld stays.
func (e Export) Withheld() Export {
	if !e.Pushed {
		return e
	}
	o := Output{Entry: bkclient.ExportEntry{Type: e.Type, Attrs: maps.Clone(e.Attrs)}, Pushed: true}
	if o.withhold() == nil {
		e.Attrs = o.Entry.Attrs
	}
	return e
}

// tags are the names that an image is to get when it is published, of a node's response.
func (w *Withholding) tags(target string, resp map[string]string) []publish.Tag {
	var list []publish.Tag
	for _, name := range w.Names {
		list = append(list, publish.Tag{Target: target, Name: name, Image: digest.Digest(resp[exptypes.ExporterImageDigestKey]), Insecure: w.Insecure})
	}
	return list
}

// rename returns a node's response as it is when the image has its names.
func (w *Withholding) rename(resp map[string]string) map[string]string {
	if len(w.Names) == 0 {
		return resp
	}
	named := maps.Clone(resp)
	named[exptypes.ExporterImageNameKey] = strings.Join(w.Names, ",")
	return named
}

// Add notes what one output of a target has come to.
func (w *Withheld) Add(target string, o Output, resp map[string]string, held publish.Held) {
	named := resp
	if o.Withheld != nil {
		w.Tags = append(w.Tags, o.Withheld.tags(target, resp)...)
		named = o.Withheld.rename(resp)
	}
	if held != nil {
		w.Held = append(w.Held, held)
	}
	w.Images = append(w.Images, o.Images(named)...)
	w.Responses = append(w.Responses, Response{Pushed: o.Pushed, File: o.Dest, Values: named})
}

// heldFile is a file beside its place.
type heldFile struct {
	file  *localfile.File
	place string
}

func (h *heldFile) Place() string { return h.place }

func (h *heldFile) Publish(context.Context) error {
	if err := h.file.Commit(); err != nil {
		return &fault.OutputError{Place: h.place, Err: err}
	}
	return nil
}

func (h *heldFile) Discard() error { return h.file.Discard() }

// heldArchive is an archive that an engine of this machine is to read.
type heldArchive struct {
	name string // of the temporary file
	load func(context.Context) (io.WriteCloser, error)
}

func (h *heldArchive) Place() string { return "the image that is loaded" }

func (h *heldArchive) Publish(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, h.Discard()) }()
	r, err := os.Open(h.name)
	if err != nil {
		return &fault.OutputError{Err: err}
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	w, err := h.load(ctx)
	if err != nil {
		return err
	}
	_, err = io.Copy(w, r)
	return errors.Join(err, w.Close())
}

func (h *heldArchive) Discard() error {
	if err := os.Remove(h.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// heldLayout is an image in a layout that has no entry in its index.
type heldLayout struct {
	dir  string
	resp map[string]string
	lock *layout.Locks
}

func (h *heldLayout) Place() string { return h.dir }

func (h *heldLayout) Publish(ctx context.Context) error {
	unlock, err := h.lock.Lock(ctx, []string{filepath.Clean(h.dir)})
	if err != nil {
		return err
	}
	defer unlock()
	return layout.Enter(ctx, h.dir, h.resp)
}

// Discard leaves the blobs: others of the layout may be the same.
func (h *heldLayout) Discard() error { return nil }
