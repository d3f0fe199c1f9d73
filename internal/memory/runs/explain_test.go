package runs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// makeRun returns a run of target t whose recipes have the given stage, text and hash, each
// made of the one before, and on node ran what is listed.
func makeRun(id string, recipes []Recipe, steps ...Step) *Run {
	r := &Run{ID: id, Targets: []Target{{Name: "t", State: "done"}}, Nodes: []Node{{Name: "n1", State: "one"}, {Name: "n2", State: "two"}}, Recipes: recipes, Steps: steps}
	for i := range r.Recipes {
		r.Recipes[i].Targets = []string{"t"}
		if i > 0 {
			r.Recipes[i].Inputs = []int{i - 1}
		}
	}
	return r
}

func ranOn(node string, recipe int) Step { return Step{Node: node, Recipe: recipe, Took: 1} }

func TestExplainWhatIsLost(t *testing.T) {
	recipes := func() []Recipe {
		return []Recipe{{Name: "a", Text: "RUN a", Hash: "1"}, {Name: "b", Text: "RUN b", Hash: "2"}}
	}
	cached := func(node string, recipe int) Step {
		s := ranOn(node, recipe)
		s.Cached = true
		return s
	}
	failed := ranOn("n1", 2)
	failed.Error = "no"
	for name, c := range map[string]struct {
		then, now []Step
		state     string // of n1 now
		want      []Cause
	}{
		"pruned":       {then: []Step{ranOn("n1", 2)}, now: []Step{ranOn("n1", 2)}, want: []Cause{{Kind: CauseLost, Name: "n1"}}},
		"new state":    {then: []Step{ranOn("n1", 2)}, now: []Step{ranOn("n1", 2)}, state: "other", want: []Cause{{Kind: CauseRenewed, Name: "n1"}}},
		"another node": {then: []Step{ranOn("n1", 2)}, now: []Step{ranOn("n2", 2)}, want: []Cause{{Kind: CauseNode, Then: "n1", Now: "n2"}}},
		"failed":       {then: []Step{failed}, now: []Step{ranOn("n1", 2)}, want: []Cause{{Kind: CauseFailed}}},
		"not reached":  {now: []Step{ranOn("n1", 2)}, want: []Cause{{Kind: CauseUnasked}}},
		"above again":  {then: []Step{ranOn("n1", 1), ranOn("n1", 2)}, now: []Step{ranOn("n1", 1), ranOn("n1", 2)}, want: []Cause{{Kind: CauseAgain, Name: "a"}}},
		"cached":       {then: []Step{ranOn("n1", 2)}, now: []Step{cached("n1", 2)}},
		"run counts":   {then: []Step{ranOn("n1", 2)}, now: []Step{cached("n2", 2), ranOn("n1", 2)}, want: []Cause{{Kind: CauseLost, Name: "n1"}}},
	} {
		now := makeRun("2", recipes(), c.now...)
		if c.state != "" {
			now.Nodes[0].State = c.state
		}
		e := Explain(makeRun("1", recipes(), c.then...), now, "t")
		require.Equal(t, c.want, e.Steps[1].Causes, name)
	}
}

// Steps are recognised although others were added, removed and edited around them.
func TestExplainMatchesSteps(t *testing.T) {
	then := makeRun("1", []Recipe{
		{Name: "1", Stage: "s", Text: "RUN one", Hash: "1"}, {Name: "2", Stage: "s", Text: "RUN two", Hash: "2", Parts: []Part{{Kind: PartCommand, Hash: "2"}}},
		{Name: "3", Stage: "s", Text: "COPY x", Hash: "3"}, {Name: "4", Stage: "s", Text: "RUN four", Hash: "4"},
	})
	now := makeRun("2", []Recipe{
		{Name: "0", Stage: "s", Text: "RUN zero", Hash: "0"}, {Name: "1", Stage: "s", Text: "RUN one", Hash: "11"},
		{Name: "2", Stage: "s", Text: "RUN two!", Hash: "22", Parts: []Part{{Kind: PartCommand, Hash: "22"}}},
		{Name: "4", Stage: "s", Text: "RUN four", Hash: "44"}, {Name: "5", Stage: "other", Text: "RUN two", Hash: "2"},
	}, ranOn("n1", 1), ranOn("n1", 2), ranOn("n1", 3), ranOn("n1", 4), ranOn("n1", 5))
	e := Explain(then, now, "t")
	require.Equal(t, []Cause{{Kind: CauseNew}}, e.Steps[0].Causes)
	require.Equal(t, []Cause{{Kind: CauseAbove, Name: "0"}}, e.Steps[1].Causes)
	require.Equal(t, []Cause{{Kind: CauseKind(PartCommand), How: "edited", Then: "RUN two", Now: "RUN two!"}, {Kind: CauseAbove, Name: "1"}}, e.Steps[2].Causes)
	require.Equal(t, []Cause{{Kind: CauseAbove, Name: "2"}}, e.Steps[3].Causes)
	require.Equal(t, []Cause{{Kind: CauseNew}}, e.Steps[4].Causes, "another stage is another step")
}

func TestExplainUnknown(t *testing.T) {
	r := func(key string) *Run {
		r := makeRun("1", []Recipe{{Name: "a", Hash: "1"}})
		r.Key = key
		return r
	}
	require.NotEmpty(t, Explain(r("a"), r("b"), "t").Unknown)
	require.Empty(t, Explain(r("a"), r("a"), "t").Unknown)
	require.Empty(t, Explain(nil, r("a"), "t").Unknown)
	require.NotEmpty(t, Explain(nil, r("a"), "other").Unknown)
}

// Files that were too many to be named are known to differ, and no more.
func TestChangedFiles(t *testing.T) {
	run := func(hash string, files map[string]string) *Run {
		return &Run{Files: []FileSet{{Dir: "../lib", Files: files, Count: 2, Hash: hash}}}
	}
	p := Recipe{Files: []int{0}}
	list, named := changedFiles(run("1", map[string]string{"a": "1.m", "b": "1.m", "c": "1.m"}), p, run("2", map[string]string{"a": "1.n", "b": "2.m", "d": "1.m"}), p)
	require.True(t, named)
	require.Equal(t, []FileChange{{"../lib/a", "mode"}, {"../lib/b", "edited"}, {"../lib/c", "removed"}, {"../lib/d", "added"}}, list)
	_, named = changedFiles(run("1", nil), p, run("2", nil), p)
	require.False(t, named)
	list, named = changedFiles(run("1", nil), p, run("1", nil), p)
	require.True(t, named)
	require.Empty(t, list)
}

// A hash says nothing without the key, and the key stays on the machine.
func TestHasher(t *testing.T) {
	s := Store{Dir: filepath.Join(t.TempDir(), "runs")}
	h, err := s.Hasher()
	require.NoError(t, err)
	again, err := s.Hasher()
	require.NoError(t, err)
	require.Equal(t, h.Sum("x"), again.Sum("x"))
	require.Equal(t, h.ID(), again.ID())
	require.NotEqual(t, h.Sum("ab", "c"), h.Sum("a", "bc"))
	other, err := Store{Dir: t.TempDir()}.Hasher()
	require.NoError(t, err)
	require.NotEqual(t, h.Sum("x"), other.Sum("x"))
	require.NotEqual(t, h.ID(), other.ID())
	info, err := os.Stat(filepath.Join(s.Dir, keyFile))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	ids, err := s.List()
	require.NoError(t, err)
	require.Empty(t, ids, "the key is no run")
}

// The oldest runs go when all of them are too large, and never the newest.
func TestMaxSize(t *testing.T) {
	s := Store{Dir: t.TempDir(), MaxSize: 3000}
	for _, id := range []string{"1", "2", "3", "4"} {
		require.NoError(t, s.Add(&Run{ID: id, Project: strings.Repeat("x", 1200)}))
	}
	ids, err := s.List()
	require.NoError(t, err)
	require.Equal(t, []string{"4", "3"}, ids)
	require.NoError(t, s.Add(&Run{ID: "5", Project: strings.Repeat("x", 9000)}))
	ids, err = s.List()
	require.NoError(t, err)
	require.Equal(t, []string{"5"}, ids)
}

func TestLatest(t *testing.T) {
	s := Store{Dir: t.TempDir()}
	for _, r := range []struct{ id, project, target string }{{"1", "/a", "t"}, {"2", "/b", "t"}, {"3", "/a", "t"}, {"4", "/a", "u"}, {"5", "/b", "t"}} {
		run := makeRun(r.id, []Recipe{{Name: "x", Hash: "1"}})
		run.Project, run.Targets[0].Name, run.Recipes[0].Targets[0] = r.project, r.target, r.target
		require.NoError(t, s.Add(run))
	}
	for _, c := range []struct{ project, target, now, before string }{
		{"/a", "t", "3", "1"}, {"/a", "u", "4", ""}, {"/a", "", "4", "3"}, {"/elsewhere", "t", "5", "2"}, {"/b", "u", "4", ""},
	} {
		now, before, err := s.Latest(c.project, c.target)
		require.NoError(t, err)
		require.Equal(t, c.now, now.ID, c)
		if c.before == "" {
			require.Nil(t, before, c)
		} else {
			require.Equal(t, c.before, before.ID, c)
		}
	}
	_, _, err := s.Latest("/a", "none")
	require.ErrorIs(t, err, ErrNone)
}
