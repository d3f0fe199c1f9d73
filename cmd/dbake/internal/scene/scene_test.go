package scene

import (
	"fmt"
	"strings"
	"testing"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime"
)

var step = digest.FromString("step")

// event is the status of a step of target web on a node.
func event(node string, st *bkclient.SolveStatus) runtime.StatusEvent {
	return runtime.StatusEvent{Node: node, Status: st, Targets: map[digest.Digest][]string{step: {"web"}}, Steps: map[digest.Digest]int{step: 0}}
}

func vertex(took time.Duration, cached bool, failure string) *bkclient.SolveStatus {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	v := &bkclient.Vertex{Digest: step, Name: "[1/1] RUN make", Started: &start, Cached: cached, Error: failure}
	if took >= 0 {
		end := start.Add(took)
		v.Completed = &end
	}
	return &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{v}}
}

func logOf(text string) *bkclient.SolveStatus {
	return &bkclient.SolveStatus{Logs: []*bkclient.VertexLog{{Vertex: step, Stream: 1, Data: []byte(text)}}}
}

func TestSteps(t *testing.T) {
	s := New(Outlook{
		Nodes: []PlannedNode{{"n1", 2}}, Jobs: []PlannedJob{{Target: "web", Node: "n1", Steps: 1}},
		Steps: []Planned{{Work: true, Cost: 10 * time.Second, Measured: true}}, Makespan: time.Minute,
	})
	node, place := s.Waits(s.Target("web"))
	require.Equal(t, "n1", node)
	require.Equal(t, 1, place)

	s.Apply(time.Second, runtime.JobEvent{Job: "web", Target: "web", Node: "n1", Stage: "submitted"})
	c := s.Apply(2*time.Second, event("n1", vertex(-1, false, "")))
	require.Len(t, c.Began, 1)
	st := c.Began[0]
	require.Equal(t, 5*time.Second, st.Expected, "the node is twice as fast")
	require.Equal(t, 3*time.Second, st.RunTime(5*time.Second), "by our clock while it runs")
	require.Same(t, st, s.Target("web").Doing())

	c = s.Apply(3*time.Second, event("n1", logOf("a\nhalf")))
	require.Equal(t, []string{"a"}, c.Printed[0].Lines)
	c = s.Apply(9*time.Second, event("n1", vertex(4*time.Second, false, "")))
	require.Equal(t, []*Step{st}, c.Ended)
	require.Equal(t, []string{"half"}, c.Printed[0].Lines, "the end of a step ends its last line")
	require.Equal(t, 4*time.Second, st.RunTime(time.Hour), "by the clock of the node when it has ended")
	done, cached, all := s.Work()
	require.Equal(t, [3]int{1, 0, 1}, [3]int{done, cached, all})
	require.Equal(t, [3]int{1, 1, 0}, [3]int{s.Nodes[0].Steps, s.Nodes[0].Done, s.Nodes[0].Cached})

	s.Apply(10*time.Second, runtime.JobEvent{Job: "web", Target: "web", Node: "n1", Stage: "built"})
	require.Equal(t, Writing, s.Target("web").State)
	s.Apply(11*time.Second, runtime.JobEvent{Job: "web", Target: "web", Node: "n1", Stage: "exported"})
	require.Equal(t, Done, s.Target("web").State)
	require.Equal(t, Counts{All: 1, Done: 1}, s.Counts())
}

// A target is what the part of it is that has come least far.
// A log reads downwards: BuildKit announces the last step of a target first.
func TestOrderOfSteps(t *testing.T) {
	s := New(Outlook{Nodes: []PlannedNode{{"n1", 1}}, Jobs: []PlannedJob{{Target: "web", Node: "n1", Steps: 3}}})
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	report := func(name string, started, completed *time.Time) {
		d := digest.FromString(name)
		st := &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{{Digest: d, Name: name, Started: started, Completed: completed}}}
		s.Apply(time.Duration(len(s.Steps()))*time.Second, runtime.StatusEvent{Node: "n1", Status: st, Targets: map[digest.Digest][]string{d: {"web"}}})
	}
	for _, name := range []string{"third", "second", "first"} {
		report(name, nil, nil)
	}
	report("first", &start, &start)
	report("context", &start, &start)
	report("second", &start, nil)
	var names []string
	for _, st := range s.Target("web").Steps() {
		names = append(names, st.Name)
	}
	require.Equal(t, []string{"first", "context", "second", "third"}, names)
}

// A target is counted once while a node is between building it and being asked for what it
// has left.
func TestBuiltIsNotOpen(t *testing.T) {
	s := New(Outlook{Nodes: []PlannedNode{{"n1", 1}}, Jobs: []PlannedJob{{Target: "web", Node: "n1", Steps: 1}}})
	s.Apply(0, runtime.QueueEvent{Nodes: []runtime.NodeQueue{{Node: "n1", Up: true, Open: 1}}})
	s.Apply(0, runtime.JobEvent{Job: "web", Target: "web", Node: "n1", Stage: "exported"})
	require.Equal(t, 1, s.Nodes[0].Built)
	require.Zero(t, s.Nodes[0].Open)
}

func TestParts(t *testing.T) {
	s := New(Outlook{Jobs: []PlannedJob{{Target: "app"}, {Target: "app"}}})
	say := func(job, stage string) State {
		s.Apply(0, runtime.JobEvent{Job: job, Target: "app", Node: "n1", Stage: stage})
		return s.Target("app").State
	}
	require.Equal(t, Running, say("amd64", "submitted"))
	require.Equal(t, Running, say("amd64", "exported"), "the other has not begun")
	require.Equal(t, Running, say("arm64", "submitted"))
	require.Equal(t, Writing, say("arm64", "built"))
	require.Equal(t, Failed, say("arm64", "failed"))
}

// What failed on one node and is tried on another has failed once; a step that was
// stopped has not failed.
func TestFailures(t *testing.T) {
	s := New(Outlook{})
	for range 3 {
		s.Apply(0, event("n1", vertex(time.Second, false, "exit code: 1")))
	}
	s.Apply(0, event("n2", vertex(time.Second, false, "context canceled")))
	require.Len(t, s.Failed, 1)
	require.Equal(t, "n1", s.Failed[0].Node.Name)
	require.Len(t, s.News, 1)
}

// The log of a target has the steps that another node ran for it, and of what several
// nodes ran those of its own.
func TestStepsOfOthers(t *testing.T) {
	s := New(Outlook{})
	s.Apply(0, event("n2", vertex(-1, false, "")))
	require.Len(t, s.Target("web").Steps(), 1, "no node has it yet")
	s.Apply(0, runtime.JobEvent{Job: "web", Target: "web", Node: "n1", Stage: "submitted"})
	s.Apply(1, event("n2", vertex(time.Second, false, "")))
	s.Apply(1, event("n1", vertex(0, true, "")))
	var nodes []string
	for _, st := range s.Target("web").Steps() {
		nodes = append(nodes, st.Node.Name)
	}
	require.Equal(t, []string{"n2", "n1"}, nodes, "it was run elsewhere, and fetched")
	done, cached, all := s.Target("web").Counts()
	require.Equal(t, [3]int{1, 1, 1}, [3]int{done, cached, all})

	s = New(Outlook{})
	s.Apply(0, runtime.JobEvent{Job: "web", Target: "web", Node: "n1", Stage: "submitted"})
	for _, node := range []string{"n2", "n1", "n3"} {
		s.Apply(1, event(node, vertex(time.Second, false, "")))
	}
	require.Len(t, s.Target("web").Steps(), 1, "it was run here as well")
	require.Equal(t, "n1", s.Target("web").Steps()[0].Node.Name)
}

// A lost node runs nothing any more.
func TestLost(t *testing.T) {
	s := New(Outlook{})
	s.Apply(0, event("n1", vertex(-1, false, "")))
	s.Apply(time.Second, runtime.NodeEvent{Node: "n1", Err: fmt.Errorf("gone\x1b[2J")})
	require.Equal(t, "gone", s.Nodes[0].Lost)
	require.Nil(t, s.Target("web").Doing())
	s.Apply(2*time.Second, runtime.NodeEvent{Node: "n1", Back: true})
	require.Empty(t, s.Nodes[0].Lost)
}

// The path goes on from what ended last, also over steps that were not run here.
func TestCritical(t *testing.T) {
	s := New(Outlook{})
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	say := func(at int, name string, took int, inputs ...string) {
		v := &bkclient.Vertex{Digest: digest.FromString(name), Name: name, Started: &start}
		if took >= 0 {
			end := start.Add(time.Duration(took) * time.Second)
			v.Completed = &end
		}
		for _, in := range inputs {
			v.Inputs = append(v.Inputs, digest.FromString(in))
		}
		s.Apply(time.Duration(at)*time.Second, runtime.StatusEvent{Node: "n1", Status: &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{v}}})
	}
	say(2, "short", 2)
	say(5, "long", 5)
	say(5, "joined", -1, "short", "long")
	chain, took := s.Critical(8 * time.Second)
	require.Equal(t, 8*time.Second, took)
	require.Len(t, chain, 2)
	require.Equal(t, "long", chain[0].Name)
	require.Equal(t, "joined", chain[1].Name)
}

func TestLog(t *testing.T) {
	s := New(Outlook{})
	say := func(text string) { s.Apply(0, event("n1", logOf(text))) }
	say("one\ntwo https://user:pass")
	say("word@example.com/\n\x1b[31mred\x1b[0m \x1b[2J\xe4\xb8")
	say("\x96\r\n")
	st := s.Steps()[0]
	require.Equal(t, []string{"one", "two https://xxxxx:xxxxx@example.com/", "\x1b[31mred\x1b[0m 世"}[0:2], st.Log.Lines()[0:2], "a password is hidden although it came in pieces")
	require.Contains(t, st.Log.Lines()[2], "世")
	require.NotContains(t, st.Log.Lines()[2], "\x1b[2J")

	// A long line is broken between characters.
	say(strings.Repeat("世", maxLine) + "\n")
	for _, line := range st.Log.Lines()[3:] {
		require.LessOrEqual(t, len(line), maxLine)
		require.Empty(t, strings.Trim(line, "世"))
	}
}

// Of very much output the beginning and the end stay.
func TestLogIsBounded(t *testing.T) {
	s := New(Outlook{})
	lines := 0
	for lines < 200_000 {
		var b strings.Builder
		for range 1000 {
			fmt.Fprintf(&b, "line %d of many, each of which takes its place\n", lines)
			lines++
		}
		s.Apply(0, event("n1", logOf(b.String())))
	}
	log := &s.Steps()[0].Log
	before, gap, times := log.Gap()
	require.Positive(t, times)
	require.Equal(t, lines, len(log.Lines())+gap)
	require.LessOrEqual(t, log.bytes, maxStepLog)
	require.True(t, strings.HasPrefix(log.Lines()[0], "line 0 "))
	require.True(t, strings.HasPrefix(log.Lines()[before-1], fmt.Sprintf("line %d ", before-1)))
	require.True(t, strings.HasPrefix(log.Lines()[before], fmt.Sprintf("line %d ", before+gap)))
	require.Equal(t, log.bytes, s.logBytes)
}

func TestName(t *testing.T) {
	require.Equal(t, "[web 1/2] RUN x", Name([]string{"web"}, "[1/2] RUN x"))
	require.Equal(t, "[web] exporting", Name([]string{"web"}, "exporting"))
	require.Equal(t, "[a,b,c 1/2] RUN x", Name([]string{"a", "b", "c"}, "[1/2] RUN x"))
	require.Equal(t, "[a,b,+2 1/2] RUN x", Name([]string{"a", "b", "c", "d"}, "[1/2] RUN x"))
}
