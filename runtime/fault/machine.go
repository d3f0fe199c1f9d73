package fault

import (
	"errors"
	"fmt"
	"strings"
)

// InputError reports that a file of this machine could not be sent to a node. No node is to
// blame.
type InputError struct {
	Path string
	Err  error
}

func (e *InputError) Error() string {
	return fmt.Sprintf(inputSign+"%s: %v", strings.ToValidUTF8(e.Path, "\uFFFD"), e.Err)
}

// Unwrap returns the cause.
func (e *InputError) Unwrap() error { return e.Err }

// inputSign begins the text of every InputError, which nodes report as their own.
const inputSign = "this machine cannot read "

// ErrWentAway is why a file that was there a moment ago was not sent.
var ErrWentAway = errors.New("it was replaced or removed while it was sent")

// OfInput reports whether err is an [InputError], or its text as a node reports it.
func OfInput(err error) bool { return strings.Contains(err.Error(), inputSign) }

// OutputError is a failure to write, on this machine, what a node sent. No node is
// to blame, and another one would fare no better.
type OutputError struct {
	Place string // the file or directory; "" when Err names it
	Err   error
}

func (e *OutputError) Error() string {
	if e.Place == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("write %s: %v", e.Place, e.Err)
}

// Unwrap returns the cause.
func (e *OutputError) Unwrap() error { return e.Err }
