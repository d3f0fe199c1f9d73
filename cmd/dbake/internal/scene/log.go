package scene

import (
	"strings"

	"github.com/dbake/dbake/internal/printable"
	"github.com/dbake/dbake/internal/redact"
)

// The bounds of what is kept of the output of steps, in bytes: of one step, and of one
// once all steps together hold more than maxLogs. The first headLog bytes always stay.
const (
	maxStepLog = 4 << 20
	minStepLog = 256 << 10
	headLog    = 64 << 10
	maxLogs    = 64 << 20
	// maxLine bounds one line, which is broken there.
	maxLine = 8 << 10
)

// Log is what a step has printed.
type Log struct {
	lines   []string
	bytes   int
	head    int // number of lines that always stay
	dropped int // lines that were left out behind those
	drops   int // how often lines were left out
	streams map[int]*stream
}

// stream is one of the outputs of a step: what it printed last may be half a line.
type stream struct {
	filter  printable.Filter
	partial string
}

// Lines are the complete lines, in order; not to be changed.
func (l *Log) Lines() []string { return l.lines }

// Gap says where lines were left out: how many, and before which of Lines; the number
// of times is another one whenever more were.
func (l *Log) Gap() (before, lines, times int) { return l.head, l.dropped, l.drops }

// write takes output in and returns the lines that it completes.
func (l *Log) write(number int, data []byte) []string {
	if l.streams == nil {
		l.streams = map[int]*stream{}
	}
	s := l.streams[number]
	if s == nil {
		s = &stream{}
		l.streams[number] = s
	}
	return l.add(s, string(s.filter.Write(data)))
}

// close completes the lines that have no end.
func (l *Log) close() []string {
	var done []string
	for number := range 3 { // in a fixed order; a step has outputs 1 and 2
		if s := l.streams[number]; s != nil {
			done = append(done, l.add(s, string(s.filter.Close()))...)
			if s.partial != "" {
				done = append(done, l.add(s, "\n")...)
			}
		}
	}
	return done
}

func (l *Log) add(s *stream, text string) []string {
	from := len(l.lines)
	for text != "" {
		line, rest, whole := strings.Cut(text, "\n")
		s.partial, text = s.partial+line, rest
		for len(s.partial) > maxLine {
			cut := maxLine
			for cut > maxLine-4 && s.partial[cut]&0xc0 == 0x80 {
				cut-- // not within a character
			}
			l.line(s.partial[:cut])
			s.partial = s.partial[cut:]
		}
		if whole {
			l.line(s.partial)
			s.partial = ""
		}
	}
	return l.lines[from:len(l.lines):len(l.lines)]
}

func (l *Log) line(text string) {
	text = redact.Text(text) // what was redacted in pieces may be a secret as a whole
	l.lines = append(l.lines, text)
	if l.bytes += len(text) + 1; l.bytes <= headLog {
		l.head = len(l.lines)
	}
}

// Forget leaves all complete lines out.
func (l *Log) Forget() {
	if len(l.lines) > 0 {
		l.dropped += len(l.lines)
		l.drops++
		l.lines, l.bytes, l.head = nil, 0, 0
	}
}

// trim leaves lines out until no more than limit bytes are kept, and some room beyond.
func (l *Log) trim(limit int) {
	if l.bytes <= limit {
		return
	}
	n := l.head
	for n < len(l.lines) && l.bytes > limit-limit/4 {
		l.bytes -= len(l.lines[n]) + 1
		n++
	}
	l.dropped += n - l.head
	l.drops++
	// A copy, so that the memory of what is left out becomes free.
	kept := make([]string, 0, l.head+len(l.lines)-n)
	l.lines = append(append(kept, l.lines[:l.head]...), l.lines[n:]...)
}
