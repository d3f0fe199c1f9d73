package runtime

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
	"github.com/dbake/dbake/runtime/publish"
)

// With [Build.Withhold] nothing that a run writes is where anybody takes it for a result:
// images are pushed by digest, files and directories are written beside their places,
// archives for an engine into temporary files, and images into layouts without an entry in
// the index. What is left to be done with it is a [publish.Batch] of the Result.

// withholding is how one output is withheld; nil is published at once.
type withholding struct {
	// names are those that an image gets when it is published.
	names []string
	// insecure registries need not speak TLS.
	insecure bool
}

// withheld is what a job has written that is yet to be published.
type withheld struct {
	tags []publish.Tag
	held []publish.Held
	// images and responses take the place of those of the job then.
	images    []Image
	responses []response
}

// discard removes what is held on this machine.
func (w *withheld) discard() error {
	if w == nil {
		return nil
	}
	b := publish.Batch{Held: w.held}
	w.held = nil
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
		outs, err := outputs(t, p.Dir, io.Discard, take)
		if err != nil {
			continue // the run says so, in its own words
		}
		if _, err := withhold(t, outs); err != nil {
			return err
		}
	}
	return nil
}

// withhold makes outputs of t such that they can be published later.
func withhold(t *ir.Target, outs []output) ([]output, error) {
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

func (o *output) withhold() error {
	w := &withholding{}
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
	case o.entry.Type == bkclient.ExporterImage:
		if err := o.withholdImage(w); err != nil {
			return err
		}
	}
	o.withheld = w
	return nil
}

// withholdImage has an image pushed by its digest alone, and kept by no node under a name.
func (o *output) withholdImage(w *withholding) error {
	attrs := o.entry.Attrs
	if !o.pushed {
		return errors.New("an image that is not pushed gets its name on its node at once")
	}
	for _, key := range []string{"store", "unpack"} {
		if on, err := boolAttr(attrs, key); err != nil {
			return err
		} else if on {
			return fmt.Errorf("%s=true gives the image its name on its node at once", key)
		}
		attrs[key] = "false"
	}
	byDigest, err := boolAttr(attrs, string(exptypes.OptKeyPushByDigest))
	if err != nil || byDigest {
		return err // then it has no name to be given
	}
	if w.insecure, err = boolAttr(attrs, string(exptypes.OptKeyInsecure)); err != nil {
		return err
	}
	var repos []string
	for name := range strings.SplitSeq(attrs["name"], ",") {
		ref, err := reference.ParseNormalizedNamed(name)
		if err != nil {
			return fmt.Errorf("name %q: %w", name, err)
		}
		w.names = append(w.names, reference.TagNameOnly(ref).String())
		if !slices.Contains(repos, ref.Name()) {
			repos = append(repos, ref.Name())
		}
	}
	attrs["name"] = strings.Join(repos, ",")
	attrs[string(exptypes.OptKeyPushByDigest)] = "true"
	return nil
}

// Withheld returns e as nodes read it with [Build.Withhold]. What cannot be withheld stays.
func (e Export) Withheld() Export {
	if !e.Pushed {
		return e
	}
	o := output{entry: bkclient.ExportEntry{Type: e.Type, Attrs: maps.Clone(e.Attrs)}, pushed: true}
	if o.withhold() == nil {
		e.Attrs = o.entry.Attrs
	}
	return e
}

// tags are the names that an image is to get when it is published, of a node's response.
func (w *withholding) tags(target string, resp map[string]string) []publish.Tag {
	var list []publish.Tag
	for _, name := range w.names {
		list = append(list, publish.Tag{Target: target, Name: name, Image: digest.Digest(resp[exptypes.ExporterImageDigestKey]), Insecure: w.insecure})
	}
	return list
}

// rename returns a node's response as it is when the image has its names.
func (w *withholding) rename(resp map[string]string) map[string]string {
	if len(w.names) == 0 {
		return resp
	}
	named := maps.Clone(resp)
	named[exptypes.ExporterImageNameKey] = strings.Join(w.names, ",")
	return named
}

// add notes what one output of a target has come to.
func (w *withheld) add(target string, o output, resp map[string]string, held publish.Held) {
	named := resp
	if o.withheld != nil {
		w.tags = append(w.tags, o.withheld.tags(target, resp)...)
		named = o.withheld.rename(resp)
	}
	if held != nil {
		w.held = append(w.held, held)
	}
	w.images = append(w.images, o.images(named)...)
	w.responses = append(w.responses, response{pushed: o.pushed, file: o.dest, values: named})
}

// heldFile is a file beside its place.
type heldFile struct {
	file  *localfile.File
	place string
}

func (h *heldFile) Place() string { return h.place }

func (h *heldFile) Publish(context.Context) error {
	if err := h.file.Commit(); err != nil {
		return &OutputError{Place: h.place, Err: err}
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
		return &OutputError{Err: err}
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
	lock *dirLocks
}

func (h *heldLayout) Place() string { return h.dir }

func (h *heldLayout) Publish(ctx context.Context) error {
	unlock, err := h.lock.lock(ctx, []string{filepath.Clean(h.dir)})
	if err != nil {
		return err
	}
	defer unlock()
	return enter(ctx, h.dir, h.resp)
}

// Discard leaves the blobs: others of the layout may be the same.
func (h *heldLayout) Discard() error { return nil }
