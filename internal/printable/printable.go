// Package printable makes foreign text, such as the output of build steps, safe to
// show on a terminal and in the log of a CI service.
//
// Tokens and passwords in URLs are hidden, see package redact. Colours stay. Everything else that a terminal would act on is left out: movement of
// the cursor, titles, bells, NUL. What is not UTF-8 becomes U+FFFD. A lone carriage
// return ends a line, because some readers of logs take it for one: after that the
// reader of a display sees each line where the display puts it, behind its prefix.
package printable

import (
	"bytes"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/dbake/dbake/internal/redact"
)

const (
	escape = 0x1b
	// maxSequence bounds an escape sequence that has no end.
	maxSequence = 4096
	reset       = "\x1b[0m"
)

// Text returns s made safe. Lines stay lines.
func Text(s string) string {
	s = redact.Text(s)
	if plain(s) {
		return s
	}
	var f Filter
	return string(f.Write([]byte(s))) + string(f.Close())
}

// Line returns s made safe, as one line without colours.
func Line(s string) string {
	s = redact.Text(s)
	if plain(s) && !strings.ContainsAny(s, "\n\t") {
		return s
	}
	f := Filter{noColour: true}
	s = string(f.Write([]byte(s))) + string(f.Close())
	return strings.TrimRight(strings.NewReplacer("\n", " ", "\t", " ").Replace(s), " ")
}

// Lines returns s made safe, such that no line of it is a command to a CI service,
// as "::error::text" is to GitHub Actions.
func Lines(s string) string {
	lines := strings.Split(StripCommands(Text(s)), "\n")
	for i, line := range lines {
		// The service leaves out white space of every kind.
		if bare := strings.TrimLeftFunc(line, unicode.IsSpace); strings.HasPrefix(bare, "::") {
			lines[i] = line[:len(line)-len(bare)] + "| " + bare
		}
	}
	return strings.Join(lines, "\n")
}

// command begins what a CI service takes for a command wherever it stands in a line:
// "##[error]" is one to GitHub Actions and Azure Pipelines, "##vso[" to the latter, and
// "##teamcity[" to TeamCity.
var command = regexp.MustCompile(`##(vso|teamcity)?\[`)

// StripCommands returns s without commands to CI services that stand within lines.
func StripCommands(s string) string {
	if !strings.Contains(s, "##") {
		return s
	}
	return command.ReplaceAllString(s, "## ${1}[")
}

// plain reports whether there is nothing in s to be changed.
func plain(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' && c != '\n' && c != '\t' || c >= 0x7f {
			return c >= 0x80 && utf8.ValidString(s) && !strings.ContainsFunc(s, control)
		}
	}
	return true
}

// control reports whether a terminal acts on r.
func control(r rune) bool {
	return r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0
}

// Filter makes a stream safe that comes in pieces: characters and sequences may be
// cut anywhere. The zero Filter is ready.
type Filter struct {
	pending  []byte // the start of a character or sequence
	styled   bool   // a colour is on
	noColour bool
}

// Write returns what is to be shown once data has come in.
func (f *Filter) Write(data []byte) []byte {
	in := append(f.pending, data...)
	f.pending = nil
	var out bytes.Buffer
	for i := 0; i < len(in); {
		n, complete := f.next(&out, in[i:])
		if !complete && len(in)-i <= maxSequence {
			f.pending = bytes.Clone(in[i:])
			break
		}
		i += n
	}
	return []byte(redact.Text(out.String()))
}

// Close returns what is left to be shown at the end of the stream.
func (f *Filter) Close() []byte {
	var out bytes.Buffer
	if len(f.pending) > 0 && f.pending[0] >= 0x80 {
		out.WriteRune(utf8.RuneError)
	}
	if len(f.pending) > 0 && f.pending[0] == '\r' {
		f.newline(&out)
	}
	if f.styled {
		out.WriteString(reset)
	}
	*f = Filter{noColour: f.noColour}
	return out.Bytes()
}

// next writes the character or sequence that in begins with and returns its length;
// complete is false when more of it may come.
func (f *Filter) next(out *bytes.Buffer, in []byte) (n int, complete bool) {
	switch c := in[0]; {
	case c == '\n':
		f.newline(out)
		return 1, true
	case c == '\r':
		if len(in) == 1 {
			return 1, false
		}
		if in[1] != '\n' {
			f.newline(out)
		}
		return 1, true
	case c == '\t':
		out.WriteByte(c)
		return 1, true
	case c == escape:
		return f.sequence(out, in)
	case c < ' ' || c == 0x7f:
		return 1, true
	case c < utf8.RuneSelf:
		out.WriteByte(c)
		return 1, true
	}
	if !utf8.FullRune(in) {
		return 1, false
	}
	r, n := utf8.DecodeRune(in)
	if !control(r) {
		out.WriteRune(r)
	}
	return n, true
}

// newline ends a line. No colour goes beyond it: what comes next is of somebody else.
func (f *Filter) newline(out *bytes.Buffer) {
	if f.styled {
		out.WriteString(reset)
		f.styled = false
	}
	out.WriteByte('\n')
}

// sequence reads an escape sequence. Only colours are written.
func (f *Filter) sequence(out *bytes.Buffer, in []byte) (n int, complete bool) {
	if len(in) < 2 {
		return 1, false
	}
	switch in[1] {
	case '[': // control sequence: parameters, then one final byte
		for i := 2; i < len(in); i++ {
			switch c := in[i]; {
			case c >= 0x40 && c <= 0x7e:
				if c == 'm' && !f.noColour && colour(in[2:i]) {
					out.Write(in[:i+1])
					f.styled = true
				}
				return i + 1, true
			case c < 0x20 || c > 0x7e:
				return i, true // broken off
			}
		}
		return 2, false
	case ']', 'P', 'X', '^', '_': // a string that ends with BEL or ESC \
		for i := 2; i < len(in); i++ {
			switch {
			case in[i] == 0x07:
				return i + 1, true
			case in[i] == escape && i+1 < len(in):
				if in[i+1] == '\\' {
					return i + 2, true
				}
				return i, true
			case in[i] == '\n':
				return i, true
			}
		}
		return 2, false
	case '(', ')', '*', '+', '-', '.', '/', '#', '%', ' ': // one more byte follows
		if len(in) < 3 {
			return 2, false
		}
		if in[2] < ' ' {
			return 2, true
		}
		return 3, true
	}
	if in[1] < ' ' || in[1] >= 0x7f {
		return 1, true
	}
	return 2, true
}

// colour reports whether the parameters of a sequence can be those of a colour.
func colour(params []byte) bool {
	return len(bytes.Trim(params, "0123456789;:")) == 0
}
