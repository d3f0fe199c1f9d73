package targetlog

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// vertex reports a step: it runs while took is negative.
func vertex(s *Set, at float64, name string, took float64, failure string, targets ...string) {
	v := &bkclient.Vertex{Digest: digest.FromString(name), Name: name, Started: &start, Error: failure, Cached: failure == "cached"}
	if v.Cached {
		v.Error = ""
	}
	if took >= 0 {
		end := start.Add(time.Duration(took * float64(time.Second)))
		v.Completed = &end
	}
	s.apply(seconds(at), runtime.StatusEvent{Node: "n1", Status: &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{v}}, Targets: map[digest.Digest][]string{v.Digest: targets}})
}

func say(s *Set, at float64, name, text string) {
	s.apply(seconds(at), runtime.StatusEvent{Node: "n1", Status: &bkclient.SolveStatus{Logs: []*bkclient.VertexLog{{Vertex: digest.FromString(name), Stream: 1, Data: []byte(text)}}}})
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(data)
}

func TestSet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "logs")
	s, err := Open(dir)
	require.NoError(t, err)
	require.Equal(t, dir, s.Dir())
	vertex(s, 1, "[base 1/2] RUN base", 0, "cached", "api", "web")
	vertex(s, 2, "[2/2] RUN make", -1, "", "web")
	say(s, 2.5, "[2/2] RUN make", "one https://user:pass")
	say(s, 3, "[2/2] RUN make", "word@example.com/x\nha\x1b[2Jlf")
	vertex(s, 4, "[2/2] RUN make", 2, "exit code: 1", "web")
	s.apply(seconds(4), runtime.JobEvent{Job: "web", Target: "web", Node: "n1", Stage: "failed"})
	s.apply(seconds(5), runtime.MoveEvent{Jobs: []string{"api"}, Targets: []string{"api"}, Node: "n2", From: "n1", Why: "stolen"})
	s.apply(seconds(6), runtime.JobEvent{Job: "api", Target: "api", Node: "n2", Stage: "exported"})
	require.NoError(t, s.Close())

	require.Equal(t, `#1 n1 [base 1/2] RUN base
#1 CACHED
#2 n1 [2/2] RUN make
#2 1.000 one https://xxxxx:xxxxx@example.com/x
#2 2.000 half
#2 ERROR: exit code: 1
web failed
`, read(t, s.Path("web")))
	require.Equal(t, `#1 n1 [base 1/2] RUN base
#1 CACHED
n2 takes over api from n1 (stolen)
api was built on n2
`, read(t, filepath.Join(dir, "api.log")))
	require.Empty(t, s.Path("other"))
}

// A step that a node reports twice is written once, unless it prints more or fails.
func TestSetTwice(t *testing.T) {
	s, err := Open(t.TempDir())
	require.NoError(t, err)
	for range 2 {
		vertex(s, 1, "load", -1, "", "web")
		vertex(s, 2, "load", 1, "", "web")
	}
	say(s, 3, "load", "more\n")
	vertex(s, 4, "load", -1, "", "web")
	vertex(s, 5, "load", 1, "", "web")
	for range 2 {
		vertex(s, 6, "make", -1, "", "web")
		vertex(s, 7, "make", 1, "exit code: 1", "web")
	}
	require.NoError(t, s.Close())
	require.Equal(t, `#1 n1 load
#1 DONE 1.0s
#1 2.000 more
#1 DONE 1.0s
#2 n1 make
#2 ERROR: exit code: 1
#2 n1 make
#2 ERROR: exit code: 1
`, read(t, s.Path("web")))
}

// A run replaces the logs of its own targets, and follows no link.
func TestSetReplaces(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(t.TempDir(), "victim")
	require.NoError(t, os.WriteFile(victim, []byte("mine"), 0o644))
	require.NoError(t, os.Symlink(victim, filepath.Join(dir, "web.log")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "old.log"), []byte("of before"), 0o644))
	s, err := Open(dir)
	require.NoError(t, err)
	vertex(s, 1, "step", 1, "", "web")
	require.NoError(t, s.Close())
	require.Equal(t, "mine", read(t, victim))
	require.Contains(t, read(t, filepath.Join(dir, "web.log")), "#1 DONE 1.0s")
	require.Equal(t, "of before", read(t, filepath.Join(dir, "old.log")))
}

// Several at once do not write to the same files; when they are done, the next one has
// the first place again.
func TestSeveral(t *testing.T) {
	dir := t.TempDir()
	var sets []*Set
	for i := range 3 {
		s, err := Open(dir)
		require.NoError(t, err)
		sets = append(sets, s)
		vertex(s, 1, fmt.Sprintf("step %d", i), 1, "", "web")
	}
	require.Equal(t, dir, sets[0].Dir())
	require.Equal(t, filepath.Join(dir, "2"), sets[1].Dir())
	require.Equal(t, filepath.Join(dir, "3"), sets[2].Dir())
	for i, s := range sets {
		require.NoError(t, s.Close())
		require.Contains(t, read(t, filepath.Join(s.Dir(), "web.log")), fmt.Sprintf("step %d", i))
	}
	s, err := Open(dir)
	require.NoError(t, err)
	require.Equal(t, dir, s.Dir())
	require.NoError(t, s.Close())
}

// Of a log that is too long the beginning and the end are kept.
func TestBounded(t *testing.T) {
	s, err := Open(t.TempDir())
	require.NoError(t, err)
	vertex(s, 1, "step", -1, "", "web")
	n := 0
	for range 40 {
		var b strings.Builder
		for b.Len() < 1<<20 {
			fmt.Fprintf(&b, "line %d%0200d\n", n, 0)
			n++
		}
		say(s, 2, "step", b.String())
	}
	vertex(s, 3, "step", 2, "exit code: 1", "web")
	require.NoError(t, s.Close())
	text := read(t, s.Path("web"))
	require.Less(t, len(text), maxHead+maxTail+2<<20)
	require.Contains(t, text, "#1 1.000 line 00000")
	require.Regexp(t, `\n\.\.\. \d+ bytes left out \.\.\.\n`, text)
	require.True(t, strings.HasSuffix(text, fmt.Sprintf("line %d%0200d\n#1 ERROR: exit code: 1\n", n-1, 0)))
}

// A directory that cannot be written to costs the logs, and says so.
func TestUnwritable(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "web.log"), 0o755))
	s, err := Open(dir)
	require.NoError(t, err)
	vertex(s, 1, "step", 1, "", "web", "api")
	require.ErrorContains(t, s.Close(), "web.log is not a regular file")
	require.Contains(t, read(t, filepath.Join(dir, "api.log")), "DONE", "others are written")

	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	_, err = Open(file)
	require.ErrorContains(t, err, "not a directory")
}

func TestFileNames(t *testing.T) {
	names := fileNames([]string{"web", "Web", "a/b", "a_b", "..", ".hidden", "支", strings.Repeat("x", 300), "", "web"})
	require.Equal(t, "web.log", names["web"])
	require.Equal(t, "a_b.log", names["a_b"])
	seen := map[string]bool{}
	for target, name := range names {
		require.False(t, seen[strings.ToLower(name)], name)
		seen[strings.ToLower(name)] = true
		require.Regexp(t, `^[A-Za-z0-9_-][A-Za-z0-9._-]*\.log$`, name, target)
		require.LessOrEqual(t, len(name), 140)
	}
}

func TestDefault(t *testing.T) {
	temporary := t.TempDir()
	dir, err := Default(temporary)
	require.NoError(t, err)
	require.Equal(t, filepath.Join(temporary, "dbake-logs"), dir)
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o700), info.Mode().Perm())

	// Old logs are removed, others stay.
	old, fresh := filepath.Join(dir, "old.log"), filepath.Join(dir, "fresh.log")
	for _, path := range []string{old, fresh} {
		require.NoError(t, os.WriteFile(path, nil, 0o644))
	}
	before := time.Now().Add(-2 * maxAge)
	require.NoError(t, os.Chtimes(old, before, before))
	again, err := Default(temporary)
	require.NoError(t, err)
	require.Equal(t, dir, again)
	require.NoFileExists(t, old)
	require.FileExists(t, fresh)

	// What others may write to, or leads elsewhere, is not used.
	for name, spoil := range map[string]func(dir string) error{
		"open": func(dir string) error { return os.Mkdir(dir, 0o777) },
		"link": func(dir string) error { return os.Symlink(t.TempDir(), dir) },
		"file": func(dir string) error { return os.WriteFile(dir, nil, 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			temporary := t.TempDir()
			taken := filepath.Join(temporary, "dbake-logs")
			require.NoError(t, spoil(taken))
			if name == "open" {
				require.NoError(t, os.Chmod(taken, 0o777))
			}
			dir, err := Default(temporary)
			require.NoError(t, err)
			require.Equal(t, filepath.Join(temporary, fmt.Sprintf("dbake-logs-%d", os.Getuid())), dir)
		})
	}
	_, err = Default(filepath.Join(temporary, "nowhere"))
	require.Error(t, err)
}
