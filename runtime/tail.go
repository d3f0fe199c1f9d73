package runtime

import (
	"slices"
	"strings"

	"github.com/dbake/dbake/internal/printable"
)

const (
	// tailLines is how many of the last log lines of a step an error shows.
	tailLines = 20
	// errorLines is how many of these are kept for standard error when the node repeats
	// the end of standard output after it.
	errorLines = 10
	// maxLine bounds a line of output that is kept, in bytes; its end is kept.
	maxLine = 16 << 10
	// standardError is the number that nodes give that stream of a step.
	standardError = 2
	// clippedOutput begins the line by which a node says that it left output out.
	clippedOutput = "[output clipped, log limit "
)

// outputTail is the end of what a step printed.
//
// A node limits the output of a step that it passes on, in all and per second. When the step
// fails, it sends what it left out: the end of standard output, and only then that of standard
// error. A short message on standard error was not left out, so it stands before the end of
// standard output, although it was the last word of the step.
type outputTail struct {
	all, errors lastLines
	clipped     bool
	stream      int // of the newest output
}

// add appends output of a stream.
func (t *outputTail) add(stream int, data string) {
	t.stream = stream
	t.clipped = t.clipped || strings.Contains(data, clippedOutput)
	t.all.add(data)
	if stream == standardError {
		t.errors.add(data)
	}
}

// lines are the last ones, fit to be shown anywhere.
func (t *outputTail) lines() []string {
	lines := t.all.list()
	errors := t.errors.list()
	errors = errors[max(0, len(errors)-errorLines):]
	if t.clipped && t.stream != standardError && len(errors) > 0 && !slices.Contains(lines, errors[len(errors)-1]) {
		lines = append(lines[max(0, min(len(lines), len(lines)+len(errors)-tailLines)):], errors...)
	}
	for i, line := range lines {
		lines[i] = printable.Line(line)
	}
	return lines
}

// lastLines are the last lines of a text that grows.
type lastLines struct {
	whole   []string // at most tailLines
	partial string   // the line still being written
}

func (l *lastLines) add(data string) {
	for {
		line, rest, ok := strings.Cut(data, "\n")
		l.partial += line
		if over := len(l.partial) - maxLine; over > 0 {
			l.partial = l.partial[over:]
		}
		if !ok {
			return
		}
		l.whole = append(l.whole, strings.TrimSuffix(l.partial, "\r"))
		if len(l.whole) > tailLines {
			l.whole = l.whole[1:]
		}
		l.partial, data = "", rest
	}
}

func (l *lastLines) list() []string {
	lines := slices.Clone(l.whole)
	if l.partial != "" {
		lines = append(lines, l.partial)
	}
	return lines
}
