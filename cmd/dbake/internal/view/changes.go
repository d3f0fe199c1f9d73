package view

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/plan"
)

// mostNames is how many files or targets a line names.
const mostNames = 3

// Changes prints what has become of a project since some state: the targets that would
// have other images, and the steps that would run again, with what makes them.
func Changes(w io.Writer, c *engine.Comparison) error {
	if len(c.Changed) == 0 {
		fmt.Fprintf(w, "no target has changed since %s\n", c.Since)
		return nil
	}
	t := newTable(1, 2)
	t.row("TARGET", "STEPS", "COST", "CHANGED BECAUSE OF")
	for _, x := range c.Changed {
		t.row(x.Target, strconv.Itoa(x.Steps), seconds(x.Cost), ChangeReason(c, x))
	}
	if err := t.write(w); err != nil {
		return err
	}
	if len(c.Steps) > 0 {
		fmt.Fprintln(w)
		t = newTable(1)
		t.row("STEP THAT RUNS AGAIN", "COST", "FOR", "BECAUSE OF")
		var total float64
		for _, r := range c.Steps {
			total += r.Cost.Seconds()
			t.row(r.Step, seconds(r.Cost), first(r.Targets), stepReason(r))
		}
		if err := t.write(w); err != nil {
			return err
		}
		fmt.Fprintf(w, "\n%s of %d changed since %s; %s to run again, %.1fs at speed 1\n", count(len(c.Changed), "target"), len(c.Changed)+len(c.Unchanged), c.Since, count(len(c.Steps), "step"), total)
		return nil
	}
	fmt.Fprintf(w, "\n%s of %d changed since %s; no step to run again\n", count(len(c.Changed), "target"), len(c.Changed)+len(c.Unchanged), c.Since)
	return nil
}

// first names the first of a list, and counts the others.
func first(names []string) string {
	if len(names) > mostNames {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:mostNames], ", "), len(names)-mostNames)
	}
	return strings.Join(names, ", ")
}

func files(list []plan.FileChange) string {
	var names []string
	for _, f := range list {
		names = append(names, f.Path+" ("+f.What+")")
	}
	return first(names)
}

func stepReason(r plan.Rerun) string {
	switch {
	case len(r.Files) > 0:
		return files(r.Files)
	case r.Why == "":
		return "the step before"
	case r.Why == plan.WhyNew || r.Why == plan.WhyCommand:
		return "its command"
	}
	return string(r.Why)
}

// ChangeReason says in one line what has changed a target.
func ChangeReason(c *engine.Comparison, t engine.TargetChange) string {
	switch {
	case t.Always != "":
		return "always built: " + t.Always
	case t.Added:
		return "new, or could not be compiled then"
	case len(t.Files) > 0:
		return files(t.Files)
	}
	for _, r := range c.Steps {
		for _, name := range r.Targets {
			if name == t.Target && r.Why != "" {
				return r.Step + ": " + stepReason(r)
			}
		}
	}
	var labels []string
	for _, d := range t.Lines {
		labels = append(labels, d.Label)
	}
	if len(labels) > 0 {
		return first(labels)
	}
	return "what it is made of"
}

// matrixEntry is a changed target as CI systems take it.
type matrixEntry struct {
	Target    string   `json:"target"`
	Platforms string   `json:"platforms,omitempty"`
	Why       string   `json:"why"`
	Files     []string `json:"files,omitempty"`
	Steps     int      `json:"steps"`
	Cost      float64  `json:"cost_s"`
}

// Matrix prints the changed targets that were asked for as a matrix of jobs: an object
// with "include", as GitHub Actions takes it with fromJSON.
func Matrix(w io.Writer, c *engine.Comparison) error {
	doc := struct {
		Include []matrixEntry `json:"include"`
	}{[]matrixEntry{}}
	for _, t := range c.Changed {
		if t.Linked {
			continue
		}
		e := matrixEntry{Target: t.Target, Platforms: strings.Join(t.Platforms, ","), Why: ChangeReason(c, t), Steps: t.Steps, Cost: t.Cost.Seconds()}
		for _, f := range t.Files {
			e.Files = append(e.Files, f.Path)
		}
		doc.Include = append(doc.Include, e)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(doc)
}
