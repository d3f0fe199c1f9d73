package view

import (
	"bytes"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/partition"
)

var update = flag.Bool("update", false, "rewrite the expected output in testdata")

const second = time.Second

// fixedPlan is a plan with everything that a view has to show: two targets in one
// solve, one that is held, one with an edited command, a node without work, a stage
// whose result is transferred, names that are long or that markup must not swallow.
func fixedPlan() *report.Report {
	long := "[toolchain 2/2] RUN apt-get install -y --no-install-recommends build-essential pkg-config && rm -rf /var/lib/apt/lists/*"
	made := &plan.Plan{
		Strategy: "affinity",
		Nodes:    []plan.Node{{Name: "small", Addr: "tcp://a:1", Speed: 1, Slots: 2}, {Name: "big", Addr: "tcp://b:1", Speed: 2.5, Slots: 8, SlotsAssumed: true, SlotsWhy: "it has 8 processors, and a step uses 1 of one"}, {Name: "idle", Addr: "tcp://c:1", Speed: 1, Slots: 1, Tenants: 2}},
		Makespan: 21 * second, Bound: 20 * second,
		Executed: 51 * second, Duplicated: 10 * second, Effort: 1234,
		Assignment: partition.Assignment{Shares: []partition.Share{{}, {Fetch: []partition.Fetch{{Vertex: 1, From: 0}}}, {}}},
		Problem:    partition.Problem{Targets: []partition.Target{{}, {}, {}, {After: []partition.TargetID{0}}}},
	}
	return &report.Report{
		Plan: made,
		Shares: []report.Share{
			{Partitions: [][]int{{0, 1}}, Busy: 21 * second, Finish: 21 * second, Steps: 4, Executed: 4},
			{Partitions: [][]int{{2}, {3}}, Busy: 12 * second, Finish: 12 * second, Steps: 5, Executed: 2, Warm: 0.375},
			{},
		},
		Jobs: []report.Job{
			{Name: "api", Node: 0, Done: 15 * second, Own: 4 * second, Shared: 11 * second, Steps: 2, From: map[cost.Source]int{cost.Prior: 2}, First: 1, FirstStep: 1, Why: plan.WhyEmpty, Reason: "no node is better"},
			{Name: `web "<b>"`, Node: 0, Done: 21 * second, Own: 6 * second, Shared: 11 * second, Steps: 2, From: map[cost.Source]int{cost.Prior: 1, cost.Measured: 1}, First: 1, FirstStep: 1, Why: plan.WhyNew},
			{Name: "docs", Node: 1, Done: 0, Steps: 2, Warm: 2, From: map[cost.Source]int{}},
			{Name: "tool", Node: 1, Done: 12 * second, Own: 30 * second, Steps: 3, Warm: 1, From: map[cost.Source]int{cost.Similar: 2}, First: 2, FirstStep: 5, Why: plan.WhyCommand, FetchedFrom: []int{0}},
		},
		Stages: []report.Stage{{Name: long, Steps: 1, Cost: 10 * second, Jobs: []string{"api", `web "<b>"`}, Nodes: []string{"small"}, Fetched: []string{"big"}}, {Name: "[base 2/2] RUN true", Steps: 2, Cost: second, Jobs: []string{"docs", "tool"}, Held: []string{"big"}}},
		Steps: []report.Step{
			{Name: "[toolchain 1/2] FROM docker.io/library/debian:13", Kind: "image", Stage: "toolchain", Cost: second, Source: cost.Prior, Jobs: []int{0, 1}},
			{Name: long, Kind: "exec", Stage: "toolchain", Work: true, Cost: 10 * second, Source: cost.Prior, Jobs: []int{0, 1, 3}, Fetched: []report.Fetch{{To: 1, From: 0}}},
			{Name: "[2/2] RUN make api", Kind: "exec", Work: true, Cost: 4 * second, Source: cost.Prior, Jobs: []int{0}},
			{Name: "[2/2] RUN make web </script>", Kind: "exec", Work: true, Cost: 6 * second, Source: cost.Measured, Samples: 3, Spread: 0.1, Cores: 0.85, Memory: 6.1e9, Jobs: []int{1}},
			{Name: "[docs 2/2] RUN make docs", Kind: "exec", Stage: "docs", Work: true, Cost: 8 * second, Source: cost.Measured, Samples: 1, Spread: 1, Jobs: []int{2}, Held: []int{1}},
			{Name: "[tool 2/3] RUN make tool", Kind: "exec", Stage: "tool", Work: true, Cost: 29 * second, Source: cost.Similar, Samples: 1, Spread: 1, Jobs: []int{3}},
			{Name: "[tool 3/3] RUN make check", Kind: "exec", Stage: "tool", Work: true, Cost: second, Source: cost.Similar, Samples: 1, Spread: 1, Jobs: []int{3}},
		},
		Tasks: []report.Task{
			{Kind: report.TaskRun, Step: 0, Node: 0, Start: 0, End: second},
			{Kind: report.TaskRun, Step: 5, Node: 1, Start: 0, End: 11600 * time.Millisecond},
			{Kind: report.TaskRun, Step: 1, Node: 0, Start: second, End: 11 * second},
			{Kind: report.TaskRun, Step: 2, Node: 0, Start: 11 * second, End: 15 * second},
			{Kind: report.TaskRun, Step: 6, Node: 1, Start: 11600 * time.Millisecond, End: 12 * second},
			{Kind: report.TaskRun, Step: 3, Node: 0, Start: 15 * second, End: 21 * second},
			{Kind: report.TaskRun, Step: 4, Node: 0, Start: 21 * second, End: 21*second + time.Millisecond},
			{Kind: report.TaskSend, Step: 1, Node: 0, Start: 11 * second, End: 11400 * time.Millisecond},
			{Kind: report.TaskFetch, Step: 1, Node: 1, Start: 11400 * time.Millisecond, End: 11600 * time.Millisecond},
		},
		Critical: []int{0, 2, 3, 5, 6},
		Single:   45 * second, SingleNode: "big",
		Assumed: []string{"docker.io/library/debian:13"},
	}
}

// golden compares what a view writes with a file.
func golden(t *testing.T, name string, write func(io.Writer) error) string {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, write(&b))
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, b.Bytes(), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), b.String())
	return b.String()
}

func requireFits(t *testing.T, text string) {
	t.Helper()
	for line := range strings.Lines(text) {
		require.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), width, line)
		require.Equal(t, strings.TrimRight(line, " \n")+"\n", line, "no space at the end")
	}
}

func TestPlanTable(t *testing.T) {
	requireFits(t, golden(t, "plan.table", func(w io.Writer) error { return Plan(w, fixedPlan()) }))
	proven := fixedPlan()
	proven.Bound, proven.Proven, proven.Pooled, proven.Stopped = proven.Makespan, true, true, true
	proven.Stages, proven.Critical, proven.Assumed = nil, nil, nil
	requireFits(t, golden(t, "plan-proven.table", func(w io.Writer) error { return Plan(w, proven) }))
}

// fixedCurve is a curve with a number of nodes that cannot build everything, one that has
// nothing to do, and one that does not exist.
func fixedCurve() *report.Curve {
	pool := func(n int) []plan.Node {
		return []plan.Node{{Name: "amd"}, {Name: "arm"}, {Name: "amd+1"}, {Name: "arm+1"}}[:n]
	}
	made := func(ends ...float64) *plan.Plan {
		p := &plan.Plan{}
		for _, end := range ends {
			p.Makespan = max(p.Makespan, time.Duration(end*float64(second)))
			p.Schedule.Nodes = append(p.Schedule.Nodes, partition.Load{Finish: partition.Seconds(end)})
		}
		return p
	}
	return report.NewCurve("affinity", 2, []report.CurvePlan{
		{Nodes: pool(1), Why: plan.ErrNoNode},
		{Nodes: pool(2), Plan: made(40, 30)},
		{Nodes: pool(3), Assumed: 1, Plan: made(25, 20, 24)},
		{Nodes: pool(4), Assumed: 2, Plan: made(26, 10, 10, 10)},
	})
}

func TestCurve(t *testing.T) {
	requireFits(t, golden(t, "curve.table", func(w io.Writer) error { return Curve(w, fixedCurve()) }))
	golden(t, "curve.json", fixedCurve().Write)
	var b bytes.Buffer
	require.NoError(t, Curve(&b, report.NewCurve("affinity", 2, nil)))
	require.Equal(t, "nothing is to be built: no node is needed\n", b.String())
}

func TestPlanFormats(t *testing.T) {
	p := fixedPlan()
	golden(t, "plan.dot", func(w io.Writer) error { return Dot(w, p) })
	golden(t, "plan.mermaid", func(w io.Writer) error { return Mermaid(w, p) })
	golden(t, "plan.json", func(w io.Writer) error {
		return p.File(report.Request{Targets: []string{"default"}, Nodes: []string{"small=tcp://a:1"}}, nil).Write(w)
	})
}

// address is what a browser would fetch.
var address = regexp.MustCompile(`(?i)(src|href)\s*=|url\(|@import|https?://`)

func TestPlanPage(t *testing.T) {
	page := golden(t, "plan.html", func(w io.Writer) error { return HTML(w, fixedPlan()) })
	require.False(t, address.MatchString(page), "the page needs nothing else")
	require.Equal(t, 1, strings.Count(page, "</script>"), "names are escaped")
	require.NotContains(t, page, "ZgotmplZ")
	require.NotContains(t, page, "<b>\"")

	empty := &report.Report{
		Plan:   &plan.Plan{Strategy: "affinity", Nodes: []plan.Node{{Name: "a", Speed: 1, Slots: 1}}},
		Shares: make([]report.Share, 1),
	}
	require.NoError(t, HTML(io.Discard, empty))
	require.NoError(t, Plan(io.Discard, empty))
}

func TestExplainTable(t *testing.T) {
	p := fixedPlan()
	e := &report.Explanation{
		Job: p.Jobs[3], Node: "big", Why: "the build would end later with it on any other node", Complete: true,
		Alternatives: []report.Alternative{
			{Node: "big", Chosen: true, Makespan: 21 * second, Done: 12 * second},
			{Node: "small", Makespan: 36 * second, Done: 36 * second, Work: 10 * second},
			{Node: "idle", Makespan: 40 * second, Done: 40 * second, Work: -3 * second},
		},
		Steps: []report.JobStep{
			{Step: p.Steps[0], State: report.Covered},
			{Step: p.Steps[1], Position: 1, State: report.Taken, From: "small", Others: []string{"docs"}},
			{Step: p.Steps[5], Position: 2, State: report.Rebuilt, Why: plan.WhyCommand, Mounts: &report.Mounts{Places: []string{"/go"}, Here: true, Filled: 3 * second, Cold: 40 * second}},
			{Step: p.Steps[3], Position: 3, State: report.Rebuilt, Others: []string{"docs", "more"}, Mounts: &report.Mounts{Places: []string{"/go", "/npm"}, Filled: 3 * second, Cold: 4 * second}},
		},
	}
	requireFits(t, golden(t, "explain.table", func(w io.Writer) error { return Explain(w, p, e) }))
}

func TestCompareTable(t *testing.T) {
	best, queue, proven := fixedPlan(), fixedPlan(), fixedPlan()
	queue.Strategy, queue.Makespan, queue.Effort = "queue", 30*second, 0
	proven.Strategy, proven.Bound, proven.Proven, proven.Stopped = "exact", proven.Makespan, true, true
	requireFits(t, golden(t, "compare.table", func(w io.Writer) error { return Compare(w, []*report.Report{queue, best, proven}) }))
}

func TestTicks(t *testing.T) {
	for span, want := range map[time.Duration]string{
		3 * time.Millisecond: "0.001s", 9 * second: "1s", 11 * second: "2s", 201 * second: "50s", time.Hour: "500s",
	} {
		require.Equal(t, want, shortTime(tickStep(span)), span)
	}
}

func TestMiddle(t *testing.T) {
	require.Equal(t, "short", middle("short", 5))
	require.Equal(t, 11, utf8.RuneCountInString(middle("RUN go build ./services/cärt", 11)))
	require.Equal(t, "ab…", middle("abcdef", 3))
}

// A plan says which targets are built in parts, and who emulates what.
func TestPlatformNotes(t *testing.T) {
	made := &plan.Plan{
		Nodes: []plan.Node{{Name: "amd"}, {Name: "arm"}}, Makespan: 10 * second, Undivided: 40 * second,
		Problem: partition.Problem{
			Vertices: []partition.Vertex{{Platform: "linux/riscv64", Cost: 1}, {Platform: "linux/arm64", Cost: 1}},
			Nodes:    []partition.Node{{Name: "amd"}, {Name: "arm", Emulates: map[string]float64{"linux/riscv64": 8, "linux/amd64": 8}}},
		},
		Schedule: partition.Schedule{Tasks: []partition.Task{{Kind: partition.Exec, Vertex: 0, Node: 1}, {Kind: partition.Exec, Vertex: 1, Node: 1}}},
	}
	p := &report.Report{Plan: made, Jobs: []report.Job{
		{Name: "app@linux/amd64", Target: "app", Platforms: []string{"linux/amd64"}, Node: 0},
		{Name: "app@linux/arm64,linux/riscv64", Target: "app", Platforms: []string{"linux/arm64", "linux/riscv64"}, Node: 1},
	}}
	require.Equal(t, []string{
		"app is built in parts, by platform, and joined in the registry: undivided the build would take 40.0s",
		"arm emulates linux/riscv64: steps are taken to run 8 times as long there",
	}, platformNotes(p))
	require.Empty(t, platformNotes(fixedPlan()))
}

// Nodes that share a machine are counted on together.
func TestAssumedSlots(t *testing.T) {
	node := func(name, machine string) plan.Node {
		return plan.Node{Name: name, Slots: 4, SlotsAssumed: true, Machine: machine, Shared: 6, SlotsWhy: "why"}
	}
	for name, c := range map[string]struct {
		nodes []plan.Node
		want  string
	}{
		"told":  {nodes: []plan.Node{{Name: "a", Slots: 2}}},
		"alone": {nodes: []plan.Node{node("a", "")}, want: "assumed: a runs 4 steps at once ("},
		"local": {nodes: []plan.Node{node("a", "m"), node("b", "m"), node("x", ""), node("c", "m")}, want: "assumed: a, b and c run 6 steps at once in all, on one machine, x runs 4 steps at once ("},
		"many":  {nodes: []plan.Node{node("a", "m"), node("b", "m"), node("c", "m"), node("d", "m"), node("e", "m")}, want: "assumed: a, b, c and 2 more nodes run 6 steps at once in all, on one machine ("},
	} {
		t.Run(name, func(t *testing.T) {
			made := &plan.Plan{Nodes: c.nodes}
			got := assumedSlots(&report.Report{Plan: made})
			if c.want == "" {
				require.Empty(t, got)
				return
			}
			require.True(t, strings.HasPrefix(got, c.want), got)
		})
	}
}
