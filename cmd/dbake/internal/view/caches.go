package view

import (
	"fmt"
	"io"
	"time"

	"github.com/docker/go-units"

	"github.com/dbake/dbake/internal/cachestore"
)

// Caches prints what a cache repository holds. OWN is what the removal of one entry
// alone would free.
func Caches(w io.Writer, entries []cachestore.Entry, now time.Time) error {
	if len(entries) == 0 {
		_, err := fmt.Fprintln(w, "no caches")
		return err
	}
	t := newTable(3, 4, 5, 6)
	t.row("KIND", "PREFIX", "TARGET", "STEPS", "SIZE", "OWN", "AGE", "TAG")
	for _, e := range entries {
		age := ""
		if !e.Newest.IsZero() {
			age = units.HumanDuration(now.Sub(e.Newest))
		}
		kind := string(e.Kind)
		if e.Problem != "" {
			kind = "unreadable"
		}
		t.row(kind, e.Prefix, e.Target, fmt.Sprint(e.Steps), Size(e.Bytes), Size(e.Own), age, e.Tag)
	}
	if err := t.write(w); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Problem != "" {
			if _, err := fmt.Fprintf(w, "%s: %s\n", e.Tag, e.Problem); err != nil {
				return err
			}
		}
	}
	return nil
}

// PruneReport prints what was removed, or would be.
func PruneReport(w io.Writer, r *cachestore.Report, dry bool) error {
	marked, deleted := "marked", "deleted"
	if dry {
		marked, deleted = "would mark", "would delete"
	}
	for _, e := range r.Marked {
		if _, err := fmt.Fprintf(w, "%s %s (%s)\n", marked, e.Tag, Size(e.Own)); err != nil {
			return err
		}
	}
	for _, e := range r.Deleted {
		if _, err := fmt.Fprintf(w, "%s %s\n", deleted, e.Tag); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintf(w, "%d kept, %d %s, %s freed by the registry's next garbage collection\n",
		len(r.Kept), len(r.Deleted), deleted, Size(r.Freed)); err != nil {
		return err
	}
	if len(r.Waiting) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "%d marked: the next prune after %s deletes them (--grace 0s: at once)\n",
		len(r.Waiting), r.Due.Local().Format("2006-01-02 15:04"))
	return err
}
