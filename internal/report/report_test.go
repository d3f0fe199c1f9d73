package report

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/plan/plantest"
	"github.com/dbake/dbake/llbmerge"
	"github.com/dbake/dbake/partition"
)

// project is a project with what it takes to prepare it.
type project struct{ *plantest.Project }

func newProject(t *testing.T, archive string) *project {
	t.Helper()
	return &project{plantest.New(t, archive)}
}

func (p *project) prepare(targets ...string) *plan.Build {
	p.T.Helper()
	b, err := plan.Prepare(context.Background(), p.Compile(targets...), frontend.Options{
		Dir: p.Dir, Resolver: frontend.NewRegistryResolver(frontend.RegistryOptions{Offline: true}),
	}, plan.Memory{History: p.History, Files: filesum.Open("", time.Now())})
	require.NoError(p.T, err)
	return b
}

// holding returns a node that holds all steps of b.
func holding(name string, b *plan.Build) plan.Node {
	n := plan.Node{Name: name, Addr: "tcp://" + name + ":1", Speed: 1, Slots: 2}
	if b == nil {
		return n
	}
	var steps []digest.Digest
	for _, v := range b.Graph.Vertices {
		if v.Kind.IsStep() {
			steps = append(steps, v.Digest)
		}
	}
	n.Holds = warm.NewHoldings(b.Names.Of(steps))
	return n
}

func makePlan(t *testing.T, b *plan.Build, strategy string, nodes ...plan.Node) *Report {
	t.Helper()
	s, err := partition.Lookup(strategy)
	require.NoError(t, err)
	p, err := plan.Make(context.Background(), b, nodes, s, partition.Options{Budget: 10_000})
	require.NoError(t, err)
	r, err := New(context.Background(), b, p)
	require.NoError(t, err)
	return r
}

// cold lists the steps that have to be run, and for each job why.
func cold(p *Report) string {
	var s strings.Builder
	for _, t := range p.Tasks {
		if step := p.Steps[t.Step]; step.Work {
			fmt.Fprintf(&s, "%s\n", step.Name)
		}
	}
	lines := strings.Split(strings.TrimSpace(s.String()), "\n")
	slices.Sort(lines)
	for _, j := range p.Jobs {
		if j.First > 0 {
			lines = append(lines, fmt.Sprintf("%s: %d of %d from %d: %s", j.Name, j.Steps-j.Warm, j.Steps, j.First, j.Why))
		}
	}
	return strings.TrimSpace(strings.Join(lines, "\n"))
}

func TestWhatIsRunAgain(t *testing.T) {
	for name, c := range map[string]struct {
		edit func(*project)
		want string
	}{
		"nothing": {func(*project) {}, ""},
		"a file of one target": {
			func(p *project) { p.Write("app/main.c", "another") },
			"[app 1/2] COPY app /src\n[app 2/2] RUN make app\napp: 2 of 4 from 3: changed files",
		},
		"a file that nobody reads": {func(p *project) { p.Write("notes.txt", "x") }, ""},
		"a shared file": {
			func(p *project) { p.Write("deps.txt", "22") },
			`[app 1/2] COPY app /src
[app 2/2] RUN make app
[deps 2/3] COPY deps.txt /deps.txt
[deps 3/3] RUN make deps
[web 1/2] COPY web /src
[web 2/2] RUN make web
app: 4 of 4 from 1: changed files
web: 4 of 4 from 1: changed files`,
		},
		"a new file in a context": {
			func(p *project) { p.Write("docs/more.md", "more") },
			"[2/3] COPY . /docs\n[3/3] RUN make docs\ndocs: 2 of 2 from 1: changed files",
		},
		"a command": {
			func(p *project) { p.Replace("Dockerfile", "make app", "make app test") },
			"[app 2/2] RUN make app test\napp: 1 of 4 from 4: edited command",
		},
		"the base image": {
			func(p *project) { p.Replace("docs/Dockerfile", "busybox:1", "busybox:2") },
			"[2/3] COPY . /docs\n[3/3] RUN make docs\ndocs: 2 of 2 from 1: changed base or source",
		},
		"a new step at the end": {
			func(p *project) { p.Replace("Dockerfile", "RUN make web", "RUN make web\nRUN make more") },
			"[web 3/3] RUN make more\nweb: 1 of 5 from 5: never built here",
		},
		"a target that reads more of the same directory": {
			func(p *project) {
				p.Write("tool/Dockerfile", "FROM busybox:1\nCOPY tool /tool\n")
				p.Replace("docker-bake.hcl", `"docs"]`, `"docs", "tool"]`)
				p.Replace("docker-bake.hcl", "target \"docs\"", "target \"tool\" {\n  dockerfile = \"tool/Dockerfile\"\n}\ntarget \"docs\"")
			},
			"[2/2] COPY tool /tool\ntool: 1 of 1 from 1: never built here",
		},
		"no cache": {
			func(p *project) {
				p.Replace("docker-bake.hcl", `context = "docs"`, "context = \"docs\"\n  no-cache = true")
			},
			"[2/3] COPY . /docs\n[3/3] RUN make docs\ndocs: 2 of 2 from 1: cache not wanted",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, plantest.Shop)
			node := holding("a", p.prepare())
			c.edit(p)
			require.Equal(t, c.want, cold(makePlan(t, p.prepare(), "single", node)))
		})
	}
}

// What a node compares is what counts: a fresh checkout has other times.
func TestWhatChangesAResult(t *testing.T) {
	for name, c := range map[string]struct {
		change func(path string) error
		cold   bool
	}{
		"time": {func(path string) error { return os.Chtimes(path, time.Unix(1, 0), time.Unix(1, 0)) }, false},
		"content of equal size": {func(path string) error {
			info, err := os.Stat(path)
			if err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte("App\n"), 0o644); err != nil {
				return err
			}
			return os.Chtimes(path, info.ModTime(), info.ModTime())
		}, true},
		"mode": {func(path string) error { return os.Chmod(path, 0o755) }, true},
		"name": {func(path string) error { return os.Rename(path, path+"c") }, true},
		"kind": {func(path string) error { return errors.Join(os.Remove(path), os.Symlink("app", path)) }, true},
		"another link": {func(path string) error {
			link := filepath.Join(filepath.Dir(path), "link")
			return errors.Join(os.Remove(link), os.Symlink("elsewhere", link))
		}, true},
		"a copy of everything": {func(path string) error {
			dir := filepath.Dir(path)
			if err := os.CopyFS(dir+".new", os.DirFS(dir)); err != nil {
				return err
			}
			return errors.Join(os.RemoveAll(dir), os.Rename(dir+".new", dir))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProject(t, plantest.Shop)
			require.NoError(t, os.Symlink("main.c", filepath.Join(p.Dir, "app/link")))
			node := holding("a", p.prepare("app"))
			require.NoError(t, c.change(filepath.Join(p.Dir, "app/main.c")))
			want := ""
			if c.cold {
				want = "[app 1/2] COPY app /src\n[app 2/2] RUN make app\napp: 2 of 4 from 3: changed files"
			}
			require.Equal(t, want, cold(makePlan(t, p.prepare("app"), "single", node)))
		})
	}
}

// The same project elsewhere has the same names.
func TestAnotherCheckoutIsTheSame(t *testing.T) {
	p := newProject(t, plantest.Shop)
	node := holding("a", p.prepare())
	p.Dir = t.TempDir()
	for _, f := range txtar.Parse([]byte(plantest.Shop)).Files {
		p.Write(f.Name, string(f.Data))
	}
	require.Empty(t, cold(makePlan(t, p.prepare(), "single", node)))
}

func TestWhatIsRunForAPart(t *testing.T) {
	p := newProject(t, plantest.Shop)
	node := holding("a", p.prepare())
	require.Empty(t, cold(makePlan(t, p.prepare("app"), "single", node)), "the names do not depend on what else is built")
}

// What a cache in the registry holds is fetched where that is sooner.
func TestWhatTheRegistryHolds(t *testing.T) {
	p := newProject(t, plantest.Shop)
	b := p.prepare("app", "web")
	var list []plan.Measurement
	var results []digest.Digest
	for _, v := range b.Graph.Vertices {
		took := 10 * time.Second
		if strings.Contains(v.Step, "COPY") {
			took = time.Millisecond
		}
		list = append(list, plan.Measurement{Node: "tcp://a:1", Vertex: v.Digest, Took: took})
		if v.Kind.IsStep() && !strings.Contains(v.Step, "make web") {
			results = append(results, v.Digest)
		}
	}
	b.Record(p.History, list, nil, nil, time.Unix(1_700_000_000, 0))
	cached := warm.NewHoldings(b.Names.Of(results)).Results
	made := makePlan(t, p.prepare("app", "web").WithCache(cached), "affinity", holding("a", nil))
	for _, j := range made.Jobs {
		require.Equal(t, []int{int(partition.Registry)}, j.FetchedFrom)
	}
	require.Zero(t, made.Jobs[0].First)
	require.Equal(t, 3, made.Jobs[1].First)
	require.Equal(t, plan.WhyDear, made.Jobs[1].Why, "COPY web is there, too, but takes no time")
	require.Less(t, made.Makespan, 30*time.Second)
	for _, s := range made.Steps {
		require.Equal(t, s.Work && !strings.Contains(s.Name, "make web"), s.Cached, s.Name)
	}

	// An edited file makes the results others.
	p.Write("app/main.c", "another")
	made = makePlan(t, p.prepare("app", "web").WithCache(cached), "affinity", holding("a", nil))
	require.Equal(t, 3, made.Jobs[0].First)
	require.Equal(t, []int{int(partition.Registry)}, made.Jobs[0].FetchedFrom)
}

func TestWhyWithoutMemory(t *testing.T) {
	p := newProject(t, plantest.Shop)
	b := p.prepare("docs")
	require.Contains(t, cold(makePlan(t, b, "single", holding("a", nil))), "node holds nothing yet")
	b.Jobs[0].Target.Platforms = nil
	made := makePlan(t, b, "single", holding("a", b), holding("b", nil))
	require.Equal(t, 0, made.Jobs[0].Node, "where it is warm")
	require.Empty(t, cold(made))
	require.Equal(t, 1.0, made.Shares[0].Warm)
	require.Zero(t, made.Makespan)
	require.Equal(t, plan.WhyElsewhere, b.Why(len(b.Graph.Vertices)-1, 1, made.Nodes))
}

func TestSharesAndStages(t *testing.T) {
	project := newProject(t, plantest.Shop)
	p := makePlan(t, project.prepare(), "single", holding("a", nil))
	require.Equal(t, [][]int{{2}, {0}, {1}}, sortedParts(p, 0), "one solve for each: their own work is longer than a quantum")
	require.Len(t, p.Stages, 1)
	require.Equal(t, Stage{
		Name: "[deps 3/3] RUN make deps", Steps: 2, Cost: p.Stages[0].Cost, Jobs: []string{"app", "web"}, Nodes: []string{"a"},
	}, p.Stages[0])
	require.Equal(t, 8, p.Shares[0].Steps)
	require.Equal(t, 8, p.Shares[0].Executed)
	require.Zero(t, p.Shares[0].Warm)
	require.Zero(t, p.Duplicated)
	require.Equal(t, "a", p.SingleNode)
	require.Equal(t, p.Makespan, p.Single)

	p = makePlan(t, project.prepare("app", "web").WithDuplicates(plan.DuplicatesAny), "round-robin", holding("a", nil), holding("b", nil))
	require.Equal(t, []string{"a", "b"}, p.Stages[0].Nodes)
	require.Empty(t, p.Stages[0].Held)
	require.GreaterOrEqual(t, p.Duplicated, p.Stages[0].Cost)
	require.Equal(t, plan.FreeAny, p.Doubled[0].Why)

	// What may give another result the second time is executed once.
	p = makePlan(t, project.prepare("app", "web"), "round-robin", holding("a", nil), holding("b", nil))
	require.Len(t, p.Stages[0].Nodes, 1)
	require.Len(t, p.Stages[0].Fetched, 1)
	require.Less(t, p.Duplicated, p.Stages[0].Cost)
	require.GreaterOrEqual(t, p.Makespan, p.Bound)

	// What a node is spared and what it runs is all that a job consists of.
	for _, j := range p.Jobs {
		run := 0
		for _, n := range j.From {
			run += n
		}
		require.Equal(t, j.Steps, j.Warm+run, j.Name)
	}
	for _, s := range p.Steps {
		require.NotEmpty(t, s.Jobs, s.Name)
	}

	warm := makePlan(t, project.prepare(), "single", holding("a", project.prepare()))
	require.Empty(t, warm.Stages[0].Nodes)
	require.Equal(t, []string{"a"}, warm.Stages[0].Held)

	require.NotEmpty(t, p.Critical)
	last := p.Tasks[p.Critical[len(p.Critical)-1]]
	require.Equal(t, p.Makespan, last.End)
	for i, k := range p.Critical[1:] {
		require.Equal(t, p.Tasks[p.Critical[i]].End, p.Tasks[k].Start, "no gap on the critical path")
	}
}

func TestHistoryIsFoundAgain(t *testing.T) {
	p := newProject(t, plantest.Shop)
	b := p.prepare()
	var list []plan.Measurement
	for _, v := range b.Graph.Vertices {
		if v.Kind.IsStep() {
			list = append(list, plan.Measurement{Node: "tcp://a:1", Vertex: v.Digest, Took: 7 * time.Second})
		}
	}
	b.Record(p.History, list, nil, nil, time.Unix(1_700_000_000, 0))
	p.Write("app/main.c", "another")
	p.Replace("Dockerfile", "make web", "make web test")
	made := makePlan(t, p.prepare("app", "web"), "single", holding("a", nil))
	sources := map[string]cost.Source{}
	for _, s := range made.Steps {
		if s.Work {
			sources[s.Name] = s.Source
			require.Equal(t, 7*time.Second, s.Cost, s.Name)
		}
	}
	require.Equal(t, map[string]cost.Source{
		"[deps 2/3] COPY deps.txt /deps.txt": cost.Measured,
		"[deps 3/3] RUN make deps":           cost.Measured,
		"[app 1/2] COPY app /src":            cost.Measured,
		"[app 2/2] RUN make app":             cost.Measured,
		"[web 1/2] COPY web /src":            cost.Measured,
		"[web 2/2] RUN make web test":        cost.Similar,
	}, sources)
}

func TestExplain(t *testing.T) {
	b := newProject(t, plantest.Shop).prepare()
	p := makePlan(t, b, "affinity", holding("a", nil), holding("b", nil))
	e, err := p.Explain(context.Background(), "web")
	require.NoError(t, err)
	require.Len(t, e.Alternatives, 2)
	require.True(t, e.Complete)
	var names []string
	for _, s := range e.Steps {
		require.Equal(t, Rebuilt, s.State)
		names = append(names, fmt.Sprintf("%d %s", s.Position, s.Name))
	}
	require.Equal(t, []string{
		"0 [1/3] FROM docker.io/library/busybox:1",
		"1 [deps 2/3] COPY deps.txt /deps.txt", "2 [deps 3/3] RUN make deps", "3 [web 1/2] COPY web /src", "4 [web 2/2] RUN make web",
	}, names)
	_, err = p.Explain(context.Background(), "nobody")
	require.EqualError(t, err, "target nobody is not in the plan")
}

func TestSavedPlan(t *testing.T) {
	project := newProject(t, plantest.Shop)
	b := project.prepare()
	nodes := []plan.Node{holding("a", nil), holding("b", nil)}
	p := makePlan(t, b, "affinity", nodes...)
	require.NoError(t, p.Reasons(context.Background()))
	definitions, err := Definitions(b.Project, "")
	require.NoError(t, err)
	request := Request{Targets: []string{"default"}, Set: []string{"*.tags=<x>"}, Nodes: []string{"a=tcp://a:1"}}

	var buf bytes.Buffer
	require.NoError(t, p.File(request, definitions).Write(&buf))
	text := buf.String()
	f, err := ReadFile(&buf)
	require.NoError(t, err)
	require.Equal(t, p.File(request, definitions), f)
	require.NoError(t, f.Check(definitions))

	// Nodes are found by name, in any order, and new ones get nothing.
	_, again, err := b.Restore([]plan.Node{holding("new", nil), nodes[1], nodes[0]}, f.SavedPlan(), nil)
	require.NoError(t, err)
	require.Empty(t, again.Partitions[0])
	require.Equal(t, p.Partitions[1], again.Partitions[1])
	require.Equal(t, p.Partitions[0], again.Partitions[2])
	require.LessOrEqual(t, again.Bound, again.Makespan)

	// A target with a fault is not built, and the others are built where they were.
	rest := *b
	rest.Jobs = b.Jobs[1:]
	_, _, err = rest.Restore(nodes, f.SavedPlan(), nil)
	require.ErrorIs(t, err, plan.ErrOutdated)
	_, again, err = rest.Restore(nodes, f.SavedPlan(), []plan.Fault{{Target: b.Jobs[0].Name, Err: errors.New("bad")}})
	require.NoError(t, err)
	built := 0
	for _, list := range again.Partitions {
		for _, part := range list {
			built += len(part)
		}
	}
	require.Equal(t, len(rest.Jobs), built)

	for name, c := range map[string]struct {
		change func(*File)
		nodes  []plan.Node
		want   string
	}{
		"a node is gone": {func(*File) {}, nodes[:1], "there is no node b"},
		"a target is twice": {func(f *File) {
			f.Nodes[0].Partitions = append(f.Nodes[0].Partitions, f.Nodes[0].Partitions[0])
		}, nodes, "is there twice"},
		"a target is missing": {func(f *File) { f.Nodes[0].Partitions = nil }, nodes, "is in none of its partitions"},
		"a target is unknown": {func(f *File) { f.Nodes[0].Partitions[0][0] = "who" }, nodes, "target who is not to be built"},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := ReadFile(strings.NewReader(text))
			require.NoError(t, err)
			c.change(f)
			_, _, err = b.Restore(c.nodes, f.SavedPlan(), nil)
			require.ErrorIs(t, err, plan.ErrOutdated)
			require.ErrorContains(t, err, c.want)
		})
	}

	project.Replace("docker-bake.hcl", `target = "web"`, "target = \"web\"\n  tags = [\"web:2\"]")
	changed, err := Definitions(project.Compile("web", "docs"), "")
	require.NoError(t, err)
	changed["more"] = "x"
	err = f.Check(changed)
	require.ErrorIs(t, err, plan.ErrOutdated)
	require.ErrorContains(t, err, "(changed: web; no longer defined: app; not in the plan: more)")
}

func TestDefinitionsForgetTheLocalRegistry(t *testing.T) {
	at := func(registry string) map[string]digest.Digest {
		p := &ir.Project{Targets: []*ir.Target{{Name: "x", Tags: []string{registry + "/x:1"}}}}
		d, err := Definitions(p, registry)
		require.NoError(t, err)
		return d
	}
	require.Equal(t, at("127.0.0.1:5000"), at("127.0.0.1:40123"))
}

func TestReadFileRefusesOthers(t *testing.T) {
	for _, text := range []string{"", "[]", "{}", `{"target": {}}`, `{"format": 1}`, `{"format": "dbake"}`} {
		_, err := ReadFile(strings.NewReader(text))
		require.ErrorIs(t, err, ErrNotPlan, text)
	}
	_, err := ReadFile(strings.NewReader(`{"format": "dbake-plan", "version": 2}`))
	require.ErrorContains(t, err, "version 2")
	_, err = ReadFile(strings.NewReader(`{"format": "dbake-plan", "version": 1, "nodes": 1}`))
	require.Error(t, err)
}

// After a run each node holds what it built. An edited file moves no target that
// does not read it.
func TestAnEditMovesNothingElse(t *testing.T) {
	project := newProject(t, plantest.Shop)
	b := project.prepare()
	before := makePlan(t, b, "affinity", holding("a", nil), holding("b", nil), holding("c", nil))
	nodes := slices.Clone(before.Nodes)
	done := make([][]digest.Digest, len(nodes))
	for _, task := range before.Schedule.Tasks {
		done[task.Node] = append(done[task.Node], b.Graph.Vertices[task.Vertex].Digest)
	}
	for n := range nodes {
		nodes[n].Holds = warm.NewHoldings(b.Names.Of(done[n]))
	}
	for _, file := range []string{"app/main.c", "web/main.c", "docs/index.md"} {
		project.Write(file, "edited: "+file)
		after := makePlan(t, project.prepare(), "affinity", nodes...)
		for i, j := range after.Jobs {
			if j.First == 0 {
				require.Equal(t, before.Jobs[i].Node, j.Node, "%s after an edit of %s", j.Name, file)
			} else {
				require.Equal(t, plan.WhyFiles, j.Why, "%s is rebuilt where it was built", j.Name)
			}
		}
	}
}

func sortedParts(p *Report, node int) [][]int {
	parts := slices.Clone(p.Shares[node].Partitions)
	slices.SortFunc(parts, func(a, b []int) int { return int(p.Jobs[a[0]].Done - p.Jobs[b[0]].Done) })
	return parts
}

// An explanation says what a cache mount means for a step on its node, and counts the time that it
// takes there.
func TestExplainMounts(t *testing.T) {
	p := newProject(t, `
-- docker-bake.hcl --
target "default" {}
-- Dockerfile --
FROM scratch
RUN --mount=type=cache,target=/go ["build"]
`)
	b := p.prepare()
	run := slices.IndexFunc(b.Graph.Vertices, func(v *llbmerge.Vertex) bool { return v.Kind == llbmerge.KindExec })
	var ms []plan.Measurement
	for state, took := range map[cost.Mounts]time.Duration{cost.Cold: time.Minute, cost.Filled: 5 * time.Second} {
		ms = append(ms, plan.Measurement{Node: "tcp://b:1", Vertex: b.Graph.Vertices[run].Digest, Start: time.Unix(1_700_000_000, 0), Took: took, Mounts: state})
	}
	for i := range ms {
		b.Record(p.History, ms[i:i+1], nil, nil, time.Unix(1_700_000_000, 0))
	}
	b = p.prepare()
	filled := holding("b", nil)
	filled.Holds.Mounts = map[warm.MountID]bool{}
	for m := range b.Names.Fills("tcp://b:1", ms) {
		filled.Holds.Mounts[m] = true
	}
	explain := func(r *Report) (*Explanation, JobStep) {
		e, err := r.Explain(context.Background(), "default")
		require.NoError(t, err)
		return e, e.Steps[slices.IndexFunc(e.Steps, func(s JobStep) bool { return s.Kind == "exec" })]
	}
	r := makePlan(t, b, "affinity", holding("a", nil), filled)
	e, step := explain(r)
	require.Equal(t, "b", e.Node)
	require.Equal(t, string(partition.BecauseSooner)+"; the node has filled cache mounts of one of its steps", e.Why)
	require.Equal(t, &Mounts{Places: []string{"/go"}, Here: true, Filled: 5 * time.Second, Cold: time.Minute}, step.Mounts)
	require.Equal(t, 5*time.Second, step.Cost)
	require.Equal(t, 5*time.Second, r.Steps[run].Cost)

	r = makePlan(t, b, "affinity", holding("a", nil))
	_, step = explain(r)
	require.Nil(t, step.Mounts, "no node has filled it")
	require.Equal(t, time.Minute, step.Cost)
}
