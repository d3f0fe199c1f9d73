package compiler

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/zclconf/go-cty/cty"
)

// hint returns what a user probably means by a mistake that other languages teach,
// "" when nothing comes to mind.
func (s sources) hint(d *hcl.Diagnostic) string {
	switch d.Summary {
	case "Invalid character encoding", "Invalid character":
		if d.Subject != nil && !isText(s[d.Subject.Filename]) {
			return encodingHint(s[d.Subject.Filename])
		}
	case "Unknown variable":
		return variableHint(d)
	case "Call to unknown function":
		return functionHint(d)
	}
	return ""
}

// variableHint is for the namespaces that other languages put variables in.
func variableHint(d *hcl.Diagnostic) string {
	if d.Expression == nil {
		return ""
	}
	for _, v := range d.Expression.Variables() {
		steps := v.SimpleSplit().Rel
		if len(steps) == 0 {
			continue
		}
		attr, ok := steps[0].(hcl.TraverseAttr)
		if !ok {
			continue
		}
		switch v.RootName() {
		case "var", "vars", "variable", "variables", "local", "locals":
			return fmt.Sprintf("Variables are named without a prefix: write %s instead of %s.%[1]s", attr.Name, v.RootName())
		case "env", "ENV", "environ":
			return environmentHint(attr.Name)
		}
	}
	return ""
}

// functionHint is for functions that read the environment elsewhere.
func functionHint(d *hcl.Diagnostic) string {
	call, ok := d.Expression.(*hclsyntax.FunctionCallExpr)
	if !ok {
		return ""
	}
	switch strings.ToLower(call.Name) {
	case "env", "getenv", "get_env", "environ":
	default:
		return ""
	}
	if len(call.Args) > 0 {
		if v, diags := call.Args[0].Value(nil); !diags.HasErrors() && v.IsKnown() && !v.IsNull() && v.Type() == cty.String {
			return environmentHint(v.AsString())
		}
	}
	return environmentHint("NAME")
}

func environmentHint(name string) string {
	return fmt.Sprintf("A variable takes its value from the environment: declare variable %q {} and write %[2]s", name, name)
}

// isText reports whether a file can be text in UTF-8.
func isText(data []byte) bool { return utf8.Valid(data) && bytes.IndexByte(data, 0) < 0 }

// encodingHint names the encoding that a file seems to have if it is not UTF-8.
func encodingHint(data []byte) string {
	zeros := bytes.Count(data[:min(len(data), 1<<16)], []byte{0})
	switch {
	case bytes.HasPrefix(data, []byte{0xff, 0xfe}):
		return "The file is UTF-16 (little-endian), as some Windows programs write it: save it as UTF-8"
	case bytes.HasPrefix(data, []byte{0xfe, 0xff}):
		return "The file is UTF-16 (big-endian): save it as UTF-8"
	case zeros > 0 && zeros*3 > min(len(data), 1<<16):
		return "The file looks like UTF-16: save it as UTF-8"
	case zeros > 0:
		return "The file holds zero bytes: it is not text"
	}
	for i, line := 0, 1; i < len(data); {
		r, size := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && size == 1 {
			return fmt.Sprintf("Byte 0x%02X in line %d is not UTF-8; the file may be Latin-1 (ISO 8859-1, Windows-1252): save it as UTF-8", data[i], line)
		}
		if r == '\n' {
			line++
		}
		i += size
	}
	return ""
}

// inFile returns the place in the file of a range that lies inside of a string in
// JSON: the HCL library counts characters after escapes have been replaced.
func (s sources) inFile(rng hcl.Range) hcl.Range {
	data := s[rng.Filename]
	if !strings.HasSuffix(rng.Filename, ".json") || rng.Start.Byte > len(data) || !bytes.Contains(data, []byte{'\\'}) {
		return rng
	}
	open, end := stringAt(data, rng.Start.Byte)
	if open < 0 || bytes.IndexByte(data[open:end], '\\') < 0 {
		return rng
	}
	out := rng
	out.Start = filePos(data, open, end, rng.Start.Byte)
	out.End = filePos(data, open, end, max(rng.Start.Byte, rng.End.Byte))
	return out
}

// stringAt returns where the string in JSON begins and ends, quotes included, that
// the byte lies in; -1 when it lies in none.
func stringAt(data []byte, at int) (open, end int) {
	for i := 0; i < len(data) && i < at; i++ {
		if data[i] != '"' {
			continue
		}
		open = i
		for i++; i < len(data) && data[i] != '"'; i++ {
			if data[i] == '\\' {
				i++
			}
		}
		if i = min(i, len(data)-1); at <= i {
			return open, i + 1
		}
	}
	return -1, -1
}

// filePos returns the place in the file of a byte that was counted in the decoded
// text of the string between open and end.
func filePos(data []byte, open, end, at int) hcl.Pos {
	decoded := open + 1
	i := open + 1
	for i < end-1 && decoded < at {
		size := 1
		if data[i] == '\\' {
			size = 2
			if i+1 < end && data[i+1] == 'u' {
				size = 6
				if i+12 <= end && data[i+6] == '\\' && data[i+7] == 'u' && utf8.RuneCount(unquote(data[i:i+12])) == 1 {
					size = 12 // two halves of one character
				}
			}
		}
		if i+size > end-1 {
			break
		}
		if size == 1 {
			decoded++
		} else {
			decoded += len(unquote(data[i : i+size]))
		}
		i += size
	}
	before := data[:i]
	start := bytes.LastIndexByte(before, '\n') + 1
	return hcl.Pos{Byte: i, Line: bytes.Count(before, []byte{'\n'}) + 1, Column: utf8.RuneCount(before[start:]) + 1}
}

// unquote returns the text that escapes stand for.
func unquote(escapes []byte) []byte {
	var text string
	if err := json.Unmarshal([]byte(`"`+string(escapes)+`"`), &text); err != nil {
		return escapes
	}
	return []byte(text)
}
