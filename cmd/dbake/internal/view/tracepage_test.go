package view

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/runs"
)

// fixedRun is a run with everything that a page has to show.
func fixedRun() *runs.Run {
	return &runs.Run{
		ID: "20260102T000000.000-bbbbbb", Project: "/src/shop", Started: time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC),
		Wall: 22.4, Outcome: runs.Failed, Predicted: 18, Bound: 15, Lead: 0.4,
		Nodes: []runs.Node{{Name: "n1", Ran: 3, Cached: 3, Busy: 19}, {Name: "n2", Ran: 3, Cached: 1, Busy: 15}, {Name: "n3", Lost: "it does not answer"}},
		Targets: []runs.Target{
			{Name: "api", State: "done", Nodes: []string{"n1"}}, {Name: `web "<b>"`, State: "done", Nodes: []string{"n2"}},
			{Name: "docs", State: "failed", Reason: "exit code: 2", Nodes: []string{"n2"}}, {Name: "site", State: "skipped", Reason: "docs failed"},
		},
		Steps: []runs.Step{
			{Name: "[base 2/3] COPY . .", Targets: []string{"api", `web "<b>"`}, Node: "n1", Cached: true},
			{Name: "[base 2/3] COPY . .", Targets: []string{"api", `web "<b>"`}, Node: "n2", Cached: true},
			{Name: "[docs 1/3] RUN true", Targets: []string{"docs"}, Node: "n1", Cached: true, Start: 0.01},
			{Name: "[docs 2/3] RUN true", Targets: []string{"docs"}, Node: "n1", Cached: true, Start: 9},
			{Name: "[base 3/3] RUN make deps", Targets: []string{"api", `web "<b>"`}, Node: "n1", Took: 9, Inputs: []int{0}},
			{Name: "[api 1/2] RUN make api </script>", Targets: []string{"api"}, Node: "n1", Start: 9, Took: 12, Inputs: []int{4}},
			{Name: "[api 2/2] RUN make check", Targets: []string{"api"}, Node: "n1", Start: 9, Took: 3, Inputs: []int{4}},
			{Name: "[web 1/1] RUN make web", Targets: []string{`web "<b>"`}, Node: "n2", Start: 11, Took: 6},
			{Name: "[docs 3/3] RUN make docs", Targets: []string{"docs"}, Node: "n2", Took: 4, Error: "exit code: 2"},
			{Name: "[web 0/1] RUN quick", Targets: []string{`web "<b>"`}, Node: "n2", Start: 4, Took: 0.004},
		},
		Tasks: []runs.Task{
			{Kind: runs.Pull, Name: "[base 1/3] FROM docker.io/library/debian:13", Targets: []string{"api"}, Node: "n1", Took: 2},
			{Kind: runs.Fetch, Name: "importing cache manifest from registry/x", Node: "n2", Start: 9, Took: 2},
			{Kind: runs.Export, Name: "exporting to image", Targets: []string{"api"}, Node: "n1", Start: 21, Took: 1},
		},
		Moves: []runs.Move{{At: 10, Targets: []string{`web "<b>"`}, Node: "n2", From: "n1", Why: "n2 is idle"}},
	}
}

// earlierRun is a run to compare it with.
func earlierRun() *runs.Run {
	return &runs.Run{
		ID: "20260101T000000.000-aaaaaa", Project: "/src/shop", Started: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), Wall: 17, Outcome: runs.Done,
		Nodes:   []runs.Node{{Name: "n1", Ran: 3, Busy: 17}},
		Targets: []runs.Target{{Name: "api", State: "done", Nodes: []string{"n1"}}},
		Steps: []runs.Step{
			{Name: "[base 2/3] COPY . .", Targets: []string{"api", `web "<b>"`}, Node: "n1", Took: 1},
			{Name: "[base 3/3] RUN make deps", Targets: []string{"api", `web "<b>"`}, Node: "n1", Start: 1, Took: 10, Inputs: []int{0}},
			{Name: "[api 1/2] RUN make api </script>", Targets: []string{"api"}, Node: "n1", Start: 11, Took: 6, Inputs: []int{1}},
		},
	}
}

// largeRun has 500 targets on six nodes.
func largeRun() *runs.Run {
	r := &runs.Run{ID: "20260103T000000.000-cccccc", Project: "/src/many", Wall: 300, Outcome: runs.Done, Started: time.Date(2026, 1, 3, 0, 0, 0, 0, time.UTC)}
	ends := make([][]float64, 6)
	for n := range ends {
		ends[n] = make([]float64, 4)
		r.Nodes = append(r.Nodes, runs.Node{Name: fmt.Sprintf("node%d", n+1), Ran: 500, Cached: 83, Busy: 900})
	}
	for i := range 500 {
		name := fmt.Sprintf("service-%03d", i)
		n := i % len(ends)
		r.Targets = append(r.Targets, runs.Target{Name: name, State: "done", Nodes: []string{r.Nodes[n].Name}})
		r.Steps = append(r.Steps, runs.Step{Name: "[1/7] COPY . .", Targets: []string{name}, Node: r.Nodes[n].Name, Cached: true, Start: ends[n][i/6%4]})
		for k := range 6 {
			at := &ends[n][i/6%4]
			took := 0.3 + float64((i*7+k*13)%29)/10
			step := runs.Step{Name: fmt.Sprintf("[%d/7] RUN make part%d", k+2, k), Targets: []string{name}, Node: r.Nodes[n].Name, Start: *at, Took: took}
			if k > 0 {
				step.Inputs = []int{len(r.Steps) - 1}
			}
			r.Steps = append(r.Steps, step)
			*at += took
		}
	}
	return r
}

func TestRunPage(t *testing.T) {
	for name, write := range map[string]func(io.Writer) error{
		"trace.html":         func(w io.Writer) error { return RunPage(w, fixedRun(), nil) },
		"trace-compare.html": func(w io.Writer) error { return RunPage(w, fixedRun(), earlierRun()) },
	} {
		page := golden(t, name, write)
		require.False(t, address.MatchString(page), "the page needs nothing else")
		require.Equal(t, 1, strings.Count(page, "</script>"), "names are escaped")
		require.NotContains(t, page, "ZgotmplZ")
		require.NotContains(t, page, "<b>\"")
	}
	require.NoError(t, RunPage(io.Discard, &runs.Run{}, nil))
	require.NoError(t, RunPage(io.Discard, &runs.Run{}, &runs.Run{}))
}
