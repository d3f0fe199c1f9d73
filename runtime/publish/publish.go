package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/distribution/reference"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/runtime/registry"
)

const (
	// parallel is how many tags are read or set at once.
	parallel = 8
	// restoreTimeout bounds how long a failed sweep puts tags back. A second signal ends it
	// at once.
	restoreTimeout = 30 * time.Second
	// answerTimeout bounds how long a request that was sent may go on when another has
	// failed, or the build was interrupted.
	answerTimeout = 2 * time.Second
)

// Tag is a name that an image in a registry is to get.
type Tag struct {
	Target string
	// Name has a tag; one without makes the image available in a repository by its digest.
	Name string
	// From is a repository of the same registry that holds the image; "" is that of Name.
	From     string
	Image    digest.Digest
	Insecure bool // the registry need not speak TLS
}

// Held is an output on this machine that waits to be put in its place.
type Held interface {
	// Place is the place, for people.
	Place() string
	// Publish puts the output there. Nothing of it is left elsewhere, whatever happens.
	Publish(ctx context.Context) error
	// Discard removes what was written.
	Discard() error
}

// Batch is what is published together. The zero value is nothing.
type Batch struct {
	Tags []Tag
	Held []Held
}

// Discard removes the outputs of this machine that were not published.
func (b *Batch) Discard() error {
	var errs []error
	for _, h := range b.Held {
		errs = append(errs, h.Discard())
	}
	b.Held = nil
	return errors.Join(errs...)
}

// Registry is a registry as far as tags go.
type Registry interface {
	Manifest(ctx context.Context, ref string) ([]byte, ocispecs.Descriptor, error)
	Resolve(ctx context.Context, ref string) (ocispecs.Descriptor, error)
	Copy(ctx context.Context, from, to string, desc ocispecs.Descriptor) error
	Push(ctx context.Context, ref string, desc ocispecs.Descriptor, data []byte) error
	Delete(ctx context.Context, ref string) error
	Close()
}

var _ Registry = (*registry.Client)(nil)

// Error says that not everything was published, and what is visible all the same.
type Error struct {
	// Err is what failed first.
	Err error
	// Restored are the tags that were set and stand again for what they stood for, or are
	// gone again. Unset were not touched.
	Restored, Unset []string
	// Kept are the tags that stand for the new images, and the outputs that are in their
	// places, all the same.
	Kept []Kept
}

// Kept is what a failed publication has left visible.
type Kept struct {
	Place string // a tag, a file, a directory or an engine
	Err   error  // why a tag was not put back; nil for what cannot be
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

func (e *Error) Error() string {
	text := fmt.Sprintf("nothing is published: %v", e.Err)
	if len(e.Kept) > 0 {
		text = fmt.Sprintf("not everything is published: %v", e.Err)
	}
	for _, k := range e.Kept {
		if k.Err == nil {
			text += fmt.Sprintf("\n%s is published, and cannot be taken back", k.Place)
			continue
		}
		text += fmt.Sprintf("\n%s could not be put back: %v", k.Place, k.Err)
	}
	for _, name := range e.Restored {
		text += fmt.Sprintf("\n%s was set, and is as it was before", name)
	}
	for _, name := range e.Unset {
		text += fmt.Sprintf("\n%s was not set", name)
	}
	return text
}

// entry is a tag on its way.
type entry struct {
	Tag
	reg  Registry
	data []byte // the new manifest
	desc ocispecs.Descriptor
	// before is what the tag stood for; nil for nothing.
	before     []byte
	beforeDesc ocispecs.Descriptor
	// done says that there is nothing to be set; tried and set, that the tag may have been
	// set, and that it was.
	done, tried, set bool
}

// Publish publishes everything, or fails with an [Error]. open returns the access to
// registries; the insecure ones need not speak TLS.
func (b *Batch) Publish(ctx context.Context, open func(insecure []string) Registry) (err error) {
	defer func() { err = errors.Join(err, b.Discard()) }()
	secure, insecure := open(nil), Registry(nil)
	defer secure.Close()
	if hosts := b.insecureHosts(); len(hosts) > 0 {
		insecure = open(hosts)
		defer insecure.Close()
	}
	var entries []*entry
	for _, t := range b.distinct() {
		e := &entry{Tag: t, reg: secure}
		if t.Insecure {
			e.reg = insecure
		}
		entries = append(entries, e)
	}
	if err := each(ctx, entries, (*entry).look); err != nil {
		return &Error{Err: err, Unset: names(entries, func(*entry) bool { return true })}
	}
	err = each(ctx, entries, (*entry).put)
	var placed []Kept
	if err == nil {
		placed, err = b.place(ctx)
	}
	if err == nil {
		return nil
	}
	return restore(ctx, err, entries, placed)
}

// distinct are the tags, each once: the last that asks for a name has it, as with pushes one
// after the other.
func (b *Batch) distinct() []Tag {
	var list []Tag
	for _, t := range b.Tags {
		if i := slices.IndexFunc(list, func(o Tag) bool { return o.Name == t.Name }); i >= 0 {
			list[i] = t
			continue
		}
		list = append(list, t)
	}
	return list
}

// insecureHosts are the registries that need not speak TLS.
func (b *Batch) insecureHosts() []string {
	var hosts []string
	for _, t := range b.Tags {
		if ref, err := reference.ParseNormalizedNamed(t.Name); err == nil && t.Insecure {
			hosts = append(hosts, reference.Domain(ref))
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// place puts the outputs of this machine in their places, in order. It returns those that
// are there, until one failed.
func (b *Batch) place(ctx context.Context) (placed []Kept, err error) {
	for len(b.Held) > 0 {
		if ctx.Err() != nil {
			return placed, context.Cause(ctx)
		}
		h := b.Held[0]
		b.Held = b.Held[1:]
		if err := h.Publish(ctx); err != nil {
			return placed, errors.Join(err, h.Discard())
		}
		placed = append(placed, Kept{Place: h.Place()})
	}
	return placed, nil
}

// each calls do for all entries, several at once, until one fails. The cause of the end of
// ctx goes before what follows from it.
func each(ctx context.Context, list []*entry, do func(*entry, context.Context) error) error {
	eg, limited := errgroup.WithContext(ctx)
	eg.SetLimit(parallel)
	for _, e := range list {
		eg.Go(func() error {
			if limited.Err() != nil {
				return context.Cause(limited)
			}
			return do(e, limited)
		})
	}
	err := eg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// look finds out what the tag stands for and that its image is where it can be named.
func (e *entry) look(ctx context.Context) error {
	ref, err := reference.ParseNormalizedNamed(e.Name)
	if err != nil {
		return fmt.Errorf("target %s: name %q: %w", e.Target, e.Name, err)
	}
	from := e.From
	if from == "" {
		from = ref.Name()
	}
	if e.data, e.desc, err = e.reg.Manifest(ctx, from+"@"+e.Image.String()); err != nil {
		return fmt.Errorf("target %s: %w", e.Target, err)
	}
	if from != ref.Name() {
		if err := e.reg.Copy(ctx, from, ref.Name(), e.desc); err != nil {
			return fmt.Errorf("target %s: %w", e.Target, err)
		}
	}
	if _, tagged := ref.(reference.Tagged); !tagged {
		e.done = true
		return nil
	}
	e.before, e.beforeDesc, err = e.reg.Manifest(ctx, e.Name)
	if err != nil && !errors.Is(err, registry.ErrNotFound) {
		return fmt.Errorf("target %s: %w", e.Target, err)
	}
	e.done = err == nil && e.beforeDesc.Digest == e.Image
	return nil
}

// put sets the tag. A request that was given up may still be obeyed, after restore has
// looked at the tag. So it has a moment more than ctx to be answered.
func (e *entry) put(ctx context.Context) error {
	if e.done {
		return nil
	}
	e.tried = true
	ctx, stop := outlast(ctx, answerTimeout)
	defer stop()
	if err := e.reg.Push(ctx, e.Name, e.desc, e.data); err != nil {
		return fmt.Errorf("target %s: set %s: %w", e.Target, e.Name, err)
	}
	e.set = true
	return nil
}

// outlast returns a context that ends d after ctx, for the same cause, or with stop.
func outlast(ctx context.Context, d time.Duration) (later context.Context, stop func()) {
	later, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	ended := context.AfterFunc(ctx, func() {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-later.Done():
		}
		cancel(context.Cause(ctx))
	})
	return later, func() { ended(); cancel(nil) }
}

// restore puts back the tags that were set, and returns the error for people.
func restore(ctx context.Context, cause error, entries []*entry, placed []Kept) error {
	ctx, stop := context.WithTimeoutCause(context.WithoutCancel(ctx), restoreTimeout, fmt.Errorf("no end within %s", restoreTimeout))
	defer stop()
	failed := &Error{Err: cause, Kept: placed}
	var mu sync.Mutex // guards failed
	var eg errgroup.Group
	eg.SetLimit(parallel)
	for _, e := range entries {
		if !e.tried {
			continue
		}
		eg.Go(func() error {
			moved, err := e.restore(ctx)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				failed.Kept = append(failed.Kept, Kept{e.Name, err})
			case moved || e.set:
				failed.Restored = append(failed.Restored, e.Name)
			default:
				e.tried = false
			}
			return nil
		})
	}
	_ = eg.Wait() // they report through failed
	failed.Unset = names(entries, func(e *entry) bool { return !e.tried && !e.done })
	slices.Sort(failed.Restored)
	slices.SortStableFunc(failed.Kept[len(placed):], func(x, y Kept) int { return strings.Compare(x.Place, y.Place) })
	return failed
}

// restore gives the tag what it stood for before, if it stands for the new image. moved
// says that it did.
func (e *entry) restore(ctx context.Context) (moved bool, err error) {
	now, err := e.reg.Resolve(ctx, e.Name)
	switch {
	case errors.Is(err, registry.ErrNotFound):
		return false, nil
	case err != nil && !e.set:
		return false, fmt.Errorf("whether it was set is not known: %w", err)
	case err != nil:
		return false, err
	case now.Digest != e.Image:
		return false, nil // it was not set, or somebody else has it now
	case e.before == nil:
		return true, e.reg.Delete(ctx, e.Name)
	}
	return true, e.reg.Push(ctx, e.Name, e.beforeDesc, e.before)
}

// names are the tags for which which is true.
func names(list []*entry, which func(*entry) bool) []string {
	var all []string
	for _, e := range list {
		if which(e) {
			all = append(all, e.Name)
		}
	}
	return all
}
