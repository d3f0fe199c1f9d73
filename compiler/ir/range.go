package ir

import (
	"fmt"
)

// Pos is a place in a file. Line and Column count from 1 (columns in characters),
// Byte from 0.
type Pos struct {
	Line, Column, Byte int
}

// Range is where a value comes from: a stretch of a file, or a flag. The zero Range is
// "nowhere".
type Range struct {
	Filename   string // or the flag, for people
	Start, End Pos
	// Set is the key of --set that gave the value, as "cache-to" or "args.FOO"; ""
	// for one from a file. The user who wrote it grants what it names.
	Set string
}

// IsZero reports whether r points nowhere.
func (r Range) IsZero() bool { return r.Filename == "" && r.Start.Line == 0 }

// String returns "file:line,col-col", or "file:line,col-line,col" for a range of
// several lines, or "file" when no line is known.
func (r Range) String() string {
	switch {
	case r.Start.Line == 0:
		return r.Filename
	case r.Start.Line == r.End.Line:
		return fmt.Sprintf("%s:%d,%d-%d", r.Filename, r.Start.Line, r.Start.Column, r.End.Column)
	default:
		return fmt.Sprintf("%s:%d,%d-%d,%d", r.Filename, r.Start.Line, r.Start.Column, r.End.Line, r.End.Column)
	}
}

// SourceError is a problem in the user's files: what is wrong, where, and what to
// do about it. Views print Excerpt before the error line.
type SourceError struct {
	Range   Range
	Summary string // terse and stable
	Detail  string // what to do; may be empty
	Excerpt string // the lines concerned, marked, ready to print; may be empty
	Err     error  // the cause, if there is one beyond the text
}

// Error returns "RANGE: SUMMARY; DETAIL".
func (e *SourceError) Error() string {
	s := e.Summary
	if e.Detail != "" {
		s += "; " + e.Detail
	}
	if e.Range.IsZero() {
		return s
	}
	return e.Range.String() + ": " + s
}

// Unwrap returns the cause.
func (e *SourceError) Unwrap() error { return e.Err }
