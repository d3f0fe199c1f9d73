package view

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/docker/go-units"
)

// Stored is one kind of state that dbake keeps on this machine.
type Stored struct {
	Name    string    `json:"name"`
	Path    string    `json:"path"`
	Bytes   int64     `json:"bytes"`
	Changed time.Time `json:"changed,omitzero"`
	Help    string    `json:"help"`
}

// State lists the state that dbake keeps on this machine, then where it is.
func State(w io.Writer, rows []Stored, now time.Time) error {
	t := newTable(1, 2)
	t.row("NAME", "SIZE", "CHANGED", "WHAT")
	var sum int64
	for _, k := range rows {
		changed := "never"
		if !k.Changed.IsZero() {
			changed = ago(now.Sub(k.Changed))
		}
		t.row(k.Name, Size(k.Bytes), changed, k.Help)
		sum += k.Bytes
	}
	if err := t.write(w); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "\n%s in all; 'dbake state prune NAME...' deletes it. It is in\n", Size(sum)); err != nil {
		return err
	}
	t = newTable()
	for _, k := range rows {
		t.row("  "+k.Name, k.Path)
	}
	return t.write(w)
}

// ago writes how long ago something was.
func ago(d time.Duration) string {
	if d < time.Second {
		return "just now"
	}
	return strings.ToLower(units.HumanDuration(d)) + " ago"
}

// Size writes bytes for people.
func Size(bytes int64) string { return units.HumanSizeWithPrecision(float64(bytes), 3) }
