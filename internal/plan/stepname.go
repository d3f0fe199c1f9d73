package plan

import (
	"strings"
	"unicode/utf8"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/llbmerge"
)

// maxText bounds the text of a step in the name that is kept, in bytes.
const maxText = 400

// StepNames returns the names of the vertices of a build in a form that may be kept. Where the
// frontend has put in the values of arguments and variables, they have the lines of the
// Dockerfile, which only name these.
func StepNames(b *Build) []string {
	units := map[string]*frontend.Unit{}
	for _, u := range b.Units {
		units[string(u.ID)] = u
	}
	list := make([]string, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		list[i] = redact.Text(nameOf(v, units))
	}
	return list
}

// nameOf is the name of a step without values of variables. Sources are images and the
// like, which are reported wherever they are used.
func nameOf(v *llbmerge.Vertex, units map[string]*frontend.Unit) string {
	if v.Place.Text == "" || v.Kind.IsSource() {
		return v.Step
	}
	prefix := strings.TrimSuffix(v.Step, v.Place.Text)
	for _, l := range v.Locations {
		if l.File == nil {
			continue
		}
		if text := sourceText(l); strings.HasPrefix(strings.ToUpper(text), v.Place.Instruction) {
			if !strings.Contains(text, "$") {
				return v.Step
			}
			return prefix + shorten(text)
		}
	}
	// It stands in no file of ours, like the triggers of a base image.
	text := v.Place.Text
	for _, id := range v.Users {
		for name, value := range units[id].FrontendAttrs {
			if arg, ok := strings.CutPrefix(name, "build-arg:"); ok && len(value) >= 4 {
				text = strings.ReplaceAll(text, value, "$"+arg)
			}
		}
	}
	return prefix + text
}

// sourceText is a step as it stands in a file, in one line.
func sourceText(l llbmerge.Location) string {
	return strings.Join(strings.Fields(strings.ReplaceAll(linesOf(l), "\\\n", " ")), " ")
}

// shorten cuts a text that is too long.
func shorten(text string) string {
	if len(text) <= maxText {
		return text
	}
	cut := maxText
	for !utf8.RuneStart(text[cut]) {
		cut--
	}
	return text[:cut] + "…"
}
