package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/distribution/reference"
	bkclient "github.com/moby/buildkit/client"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/localfile"
)

// claimKind is the kind of output that is written to a place of this machine.
type claimKind int

const (
	claimFile   claimKind = iota // the whole of a file
	claimFiles                   // files into a directory, beside others
	claimMirror                  // a directory from which everything else is removed
	claimLayout                  // an image into an OCI layout, beside others
	claimCache                   // a cache in a directory
)

// claim is a place that an output will be written to.
type claim struct {
	kind  claimKind
	by    string // "target app", or the flag
	at    ir.Range
	name  string // as the user wrote it
	place localfile.Place
	names []string // of the image in a layout
}

// flagFile is a file that is written because of a flag.
type flagFile struct{ flag, name string }

const metadataFlag = "--metadata-file"

// placeCheck finds places that would be written twice.
type placeCheck struct {
	dir      string
	stdout   localfile.Place
	byPath   map[string][]*claim // those that are no streams
	streams  []*claim
	mirrors  []*claim
	all      []*claim
	errs     []error
	warnings []*ir.SourceError
}

// checkPlaces refuses a project in which two outputs go to one place and one of them
// would be lost, and warns where the last to finish wins. files are those that flags
// name, by flag, "" for none.
func (a *app) checkPlaces(p *ir.Project, files ...flagFile) error {
	c := &placeCheck{dir: p.Dir, byPath: map[string][]*claim{}}
	if a.stdout == os.Stdout {
		// Where it leads may have a name, too, as in "> out.tar".
		if place, err := localfile.Locate("/dev/stdout"); err == nil {
			c.stdout = place
		}
	}
	for _, f := range files {
		switch {
		case f.name == "":
		case f.name == "-" && f.flag != metadataFlag: // which docker buildx takes for a name
			c.standard(&claim{kind: claimFile, by: f.flag})
		default:
			c.add(&claim{kind: claimFile, by: f.flag, name: f.name}, a.path(f.name))
		}
	}
	for _, t := range p.Targets {
		for i, o := range t.Outputs {
			if !t.Linked {
				c.output(t, o, t.Origin(fmt.Sprintf("output.%d", i)))
			}
		}
		for _, e := range t.CacheTo {
			if dest := e.Path("dest"); dest != "" {
				c.add(&claim{kind: claimCache, by: "target " + t.Name, at: t.Origin("cache-to"), name: dest}, c.path(dest))
			}
		}
	}
	c.findRemovals()
	c.tags(p)
	a.warn(c.warnings)
	return errors.Join(c.errs...)
}

func (c *placeCheck) path(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.dir, name)
}

// output adds the place of an output, if it is on this machine.
func (c *placeCheck) output(t *ir.Target, o ir.Output, at ir.Range) {
	cl := &claim{by: "target " + t.Name, at: at, name: o.Dest}
	switch o.Form() {
	case ir.FormFiles:
		cl.kind = claimFiles
		if mode, err := bkclient.ParseLocalExporterMode(o.Attrs["mode"]); err == nil && mode == bkclient.LocalExporterModeDelete {
			cl.kind = claimMirror
		}
	case ir.FormLayout:
		cl.kind, cl.names = claimLayout, imageNames(t, o)
	case ir.FormArchive, ir.FormLoad:
	default:
		return
	}
	switch o.Dest {
	case "": // loaded, or refused
	case "-":
		c.standard(cl)
	default:
		c.add(cl, c.path(o.Dest))
	}
}

// add notes a claim and its faults. A place that cannot be examined is left to its writer.
func (c *placeCheck) add(cl *claim, path string) {
	place, err := localfile.Locate(path)
	switch {
	case err != nil && cl.at.IsZero():
		c.errs = append(c.errs, usageError{fmt.Errorf("%s: %w", cl.by, err)})
		return
	case err != nil:
		return
	}
	cl.place = place
	c.warnLost(cl)
	if place.IsSink() {
		return
	}
	if cl.at.IsZero() { // of a flag: nobody makes directories for it
		if place.IsDir() {
			c.errs = append(c.errs, usageError{fmt.Errorf("%s: %s is a directory", cl.by, cl.name)})
		} else if info, err := os.Stat(filepath.Dir(place.Path())); err != nil || !info.IsDir() {
			c.errs = append(c.errs, usageError{fmt.Errorf("%s: there is no directory %s", cl.by, filepath.Dir(cl.name))})
		}
	}
	if place.IsStream() {
		c.stream(cl)
		return
	}
	for _, other := range c.byPath[place.Path()] {
		c.both(other, cl)
	}
	c.byPath[place.Path()] = append(c.byPath[place.Path()], cl)
	c.all = append(c.all, cl)
	if cl.kind == claimMirror {
		c.mirrors = append(c.mirrors, cl)
	}
}

// standard notes an output to standard output.
func (c *placeCheck) standard(cl *claim) {
	cl.name, cl.place = "standard output", c.stdout
	c.warnLost(cl)
	c.stream(cl)
}

// warnLost warns of an output to a standard stream that the caller may have closed.
func (c *placeCheck) warnLost(cl *claim) {
	if cl.place.MayBeClosed() {
		c.warnings = append(c.warnings, &ir.SourceError{
			Range: cl.at, Summary: fmt.Sprintf("%s writes %s, which is closed, or /dev/null opened for reading and writing: what is written there is lost", cl.by, cl.name),
		})
	}
}

// stream notes an output to a stream, which cannot be overwritten.
func (c *placeCheck) stream(cl *claim) {
	for _, other := range c.streams {
		if other.name == "standard output" && cl.name == other.name || other.place.Exists() && cl.place.Exists() && other.place.Same(cl.place) {
			c.refuse(other, cl, "one would be in the middle of the other")
			return
		}
	}
	c.streams = append(c.streams, cl)
}

// both judges two claims on one place.
func (c *placeCheck) both(a, b *claim) {
	switch {
	case a.kind == claimFile && b.kind == claimFile:
		c.refuse(a, b, "only one of them would be there")
	case a.kind == claimFile || b.kind == claimFile:
		c.refuse(a, b, "it cannot be a file and a directory")
	case a.kind == claimMirror || b.kind == claimMirror:
		c.refuse(a, b, "mode=delete removes what it did not write")
	case a.kind == claimCache && b.kind == claimCache:
		// Reported with the other places of caches.
	case a.kind == claimLayout && b.kind == claimLayout:
		for _, name := range a.names {
			if slices.Contains(b.names, name) {
				c.warn(a, b, fmt.Sprintf("both enter %s there, and the last to finish overwrites the other", name))
				return
			}
		}
	default:
		c.warn(a, b, "of a file that both have, that of the last to finish stays")
	}
}

// findRemovals finds outputs that a mirror would remove, and those around a mirror.
func (c *placeCheck) findRemovals() {
	for _, m := range c.mirrors {
		for _, cl := range c.all {
			switch {
			case cl.at.IsZero(): // written when all mirrors are
			case m.place.Holds(cl.place):
				c.refuse(m, cl, fmt.Sprintf("mode=delete removes what it did not write in %s", m.name))
			case cl.kind != claimFile && cl.place.Holds(m.place):
				c.warn(cl, m, fmt.Sprintf("the second is within the first, and mode=delete removes what it did not write in %s", m.name))
			}
		}
	}
}

func (c *placeCheck) refuse(a, b *claim, why string) {
	c.errs = append(c.errs, conflict(a, b, why, "give each a place of its own"))
}

func (c *placeCheck) warn(a, b *claim, why string) {
	c.warnings = append(c.warnings, conflict(a, b, why, ""))
}

// conflict names both claims with where they were made.
func conflict(a, b *claim, why, what string) *ir.SourceError {
	if b.at.IsZero() {
		a, b = b, a
	}
	place := b.name
	if filepath.Clean(a.name) != filepath.Clean(b.name) {
		place = fmt.Sprintf("%s and %s", a.name, b.name)
	}
	summary := fmt.Sprintf("%s and %s both write %s", a.by, b.by, place)
	if a.by == b.by {
		summary = fmt.Sprintf("%s writes %s twice", a.by, place)
	}
	detail := why
	if !a.at.IsZero() && a.by != b.by {
		detail += fmt.Sprintf(" (%s: %s)", a.by, a.at)
	}
	if what != "" {
		detail += "; " + what
	}
	return &ir.SourceError{Range: b.at, Summary: summary, Detail: detail}
}

// imageNames returns the full names of the image that an output makes.
func imageNames(t *ir.Target, o ir.Output) []string {
	list := t.Tags
	if o.Attrs["name"] != "" {
		list = strings.Split(o.Attrs["name"], ",")
	}
	var names []string
	for _, name := range list {
		if ref, err := reference.ParseNormalizedNamed(name); err == nil {
			names = append(names, reference.TagNameOnly(ref).String())
		}
	}
	return names
}

// tags warns of images that two targets push, or load, under one name.
func (c *placeCheck) tags(p *ir.Project) {
	type image struct{ where, name string }
	first := map[image]*ir.Target{}
	for _, t := range p.Targets {
		if t.Linked {
			continue
		}
		for _, o := range t.Outputs {
			where := sentTo(o)
			if where == "" {
				continue
			}
			for _, name := range imageNames(t, o) {
				other := first[image{where, name}]
				if other == nil {
					first[image{where, name}] = t
				}
				if other == nil || other == t {
					continue
				}
				c.warnings = append(c.warnings, &ir.SourceError{
					Range:   t.Origin("tags"),
					Summary: fmt.Sprintf("targets %s and %s both %s %s", other.Name, t.Name, where, name),
					Detail:  fmt.Sprintf("the last to finish overwrites the other (target %s: %s)", other.Name, other.Origin("tags")),
				})
			}
		}
	}
}

// sentTo returns how an output publishes its image under a name: "push", "load", or "" when it
// does not.
func sentTo(o ir.Output) string {
	switch {
	case isLoad(o):
		return "load"
	case o.Pushes():
		return "push"
	}
	return ""
}
