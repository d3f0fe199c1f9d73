package view

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/printable"
	"github.com/dbake/dbake/runtime"
)

// service is a CI service that reads the progress, and acts on some of it.
type service int

const (
	nobody  service = iota
	github          // GitHub Actions, and what works like it
	gitlab          // GitLab CI
	another         // one that gets no notes, but acts on commands
)

// serviceOf recognises the service by the variables that it sets.
func serviceOf(env map[string]string) service {
	on := func(name string) bool {
		v, err := strconv.ParseBool(env[name])
		return err == nil && v
	}
	switch {
	case on("GITHUB_ACTIONS"):
		return github
	case on("GITLAB_CI"):
		return gitlab
	case on("TF_BUILD"), env["TEAMCITY_VERSION"] != "":
		return another
	}
	return nobody
}

// annotations mark the places of problems for GitHub Actions, which shows them beside the
// lines of the files. Elsewhere they are empty.
type annotations struct{ Options }

// maxAnnotation bounds the text of an annotation, in bytes.
const maxAnnotation = 4000

// errors annotates the parts of an error.
func (a annotations) errors(o *outlet, err error) {
	for _, p := range split(err) {
		title := ""
		for _, e := range rawErrors(p) {
			if len(e.Targets) > 0 {
				title = "target " + strings.Join(e.Targets, ", ")
			}
		}
		a.write(o, "error", placeOf(p), title, p.Error())
	}
}

// remarks annotates the warnings of the Dockerfile frontend.
func (a annotations) remarks(o *outlet, list []plan.Remark) {
	for _, r := range list {
		var at *place
		if r.Range.Filename != "" {
			at = &place{r.Range.Filename, r.Range.Start.Line, r.Range.Start.Column}
		}
		a.write(o, "warning", at, "", r.Message)
	}
}

func (a annotations) write(o *outlet, kind string, at *place, title, text string) {
	if serviceOf(a.Env) != github {
		return
	}
	var properties []string
	add := func(name, value string) {
		value = strings.NewReplacer(":", "%3A", ",", "%2C").Replace(escape(printable.Line(value)))
		properties = append(properties, name+"="+value)
	}
	if at != nil {
		add("file", a.file(at.File))
		if at.Line > 0 {
			add("line", strconv.Itoa(at.Line))
		}
		if at.Column > 0 {
			add("col", strconv.Itoa(at.Column))
		}
	}
	if title != "" {
		add("title", title)
	}
	text = printable.Text(text)
	if len(text) > maxAnnotation {
		text = strings.ToValidUTF8(text[:maxAnnotation], "") + "…"
	}
	command := "::" + kind
	if len(properties) > 0 {
		command += " " + strings.Join(properties, ",")
	}
	_, _ = fmt.Fprintf(commands{o}, "%s::%s\n", command, escape(text)) // nothing can be done about a stream that takes no text
}

// file is a name as the service knows it: from the top of what it checked out.
func (a annotations) file(name string) string {
	top := a.Env["GITHUB_WORKSPACE"]
	if top == "" {
		return name
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(a.Dir, path)
	}
	if rel, err := filepath.Rel(top, path); err == nil && filepath.IsLocal(rel) {
		return filepath.ToSlash(rel)
	}
	return name
}

// escape is text as the value of a command to GitHub Actions.
func escape(text string) string {
	text = printable.StripCommands(text)
	return strings.NewReplacer("%", "%25", "\r", "%0D", "\n", "%0A").Replace(text)
}

// commands writes commands to a CI service, past the guard against text that only looks
// like one. The caller must escape all foreign text in them.
type commands struct{ *outlet }

func (c commands) Write(p []byte) (int, error) { return c.put(p) }

// resultLine is the result of a job, such as "built" or "failed"; "" for none.
func resultLine(e runtime.JobEvent) string {
	switch e.Stage {
	case "exported":
		return "built"
	case "failed":
		return "failed"
	case "skipped":
		return "skipped: what it needs failed"
	}
	return ""
}
