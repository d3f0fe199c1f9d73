package engine

import (
	"testing"
	"time"

	bkclient "github.com/moby/buildkit/client"
	"github.com/stretchr/testify/require"
)

// What a node says of a step before its end is not what became of it.
func TestJournalStep(t *testing.T) {
	at := func(s int) *time.Time {
		v := time.Unix(int64(s), 0)
		return &v
	}
	type report struct {
		started, completed int // 0 is nil
		cached             bool
		err                string
	}
	for _, c := range []struct {
		name        string
		reports     []report
		cached      bool
		start, took float64
		err         string
	}{
		{"ran", []report{{started: 2}, {started: 2, completed: 5}}, false, 1, 3, ""},
		{"found in a cache after it had begun", []report{{started: 2}, {started: 2, completed: 3, cached: true}, {started: 4, completed: 6, cached: true}}, true, 3, 2, ""},
		{"ran, then found", []report{{started: 2, completed: 5}, {started: 6, completed: 6, cached: true}}, false, 1, 3, ""},
		{"ran, its layers wanted when the run ended", []report{{started: 2, completed: 5}, {started: 6}}, false, 1, 3, ""},
		{"found, then ran", []report{{started: 2, completed: 2, cached: true}, {started: 4, completed: 6}}, false, 3, 2, ""},
		{"tried again", []report{{started: 2, completed: 3, err: "exit code: 1"}, {started: 4}, {started: 4, completed: 8}}, false, 3, 4, ""},
		{"interrupted while it was tried again", []report{{started: 2, completed: 3, err: "exit code: 1"}, {started: 4}}, false, 1, 1, "exit code: 1"},
		{"interrupted", []report{{started: 2}}, false, 1, 0, ""},
	} {
		s := &journalStep{cached: true}
		for _, r := range c.reports {
			v := &bkclient.Vertex{Started: at(r.started), Cached: r.cached, Error: r.err}
			if r.completed > 0 {
				v.Completed = at(r.completed)
			}
			s.take(v, nil)
		}
		start, took := s.times(*at(1))
		require.Equal(t, []any{c.cached, c.start, c.took, c.err}, []any{s.cached, start, took, s.err}, c.name)
	}
}
