package local

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// damages are ways in which a file that was there may be found.
var damages = map[string]func(t *testing.T, path string){
	"empty": func(t *testing.T, path string) { require.NoError(t, os.WriteFile(path, nil, 0o600)) },
	"truncated": func(t *testing.T, path string) {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, b[:len(b)/2], 0o600))
	},
	"binary": func(t *testing.T, path string) {
		require.NoError(t, os.WriteFile(path, []byte("\x00\xff\x7f{"), 0o600))
	},
	"foreign": func(t *testing.T, path string) {
		require.NoError(t, os.WriteFile(path, []byte(`{"registry": 5}`), 0o600))
	},
	"large": func(t *testing.T, path string) {
		require.NoError(t, os.WriteFile(path, []byte(strings.Repeat(" ", maxState+1)), 0o600))
	},
	"path": func(t *testing.T, path string) {
		require.NoError(t, os.WriteFile(path, []byte(`{"nodes": [{"name": "../../x"}]}`), 0o600))
	},
	"elsewhere": func(t *testing.T, path string) {
		require.NoError(t, os.WriteFile(path, []byte(`{"registry": "0.0.0.0:80"}`), 0o600))
	},
	"directory": func(t *testing.T, path string) {
		require.NoError(t, os.RemoveAll(path))
		require.NoError(t, os.MkdirAll(filepath.Join(path, "x"), 0o700))
	},
	"pipe": func(t *testing.T, path string) {
		require.NoError(t, os.RemoveAll(path))
		require.NoError(t, unix.Mkfifo(path, 0o600))
	},
}

// Whatever is damaged in a state directory costs one warning, once.
func TestDamagedState(t *testing.T) {
	for _, tt := range []struct {
		name    string
		damages []string
	}{
		{"cluster.json", []string{"empty", "truncated", "binary", "foreign", "large", "path", "elsewhere", "directory", "pipe"}},
		{"cluster.lock", []string{"directory", "pipe"}},
		{"supervisor.log", []string{"directory", "pipe"}},
		{"registry", []string{"pipe"}},
		{"registry/registry.log", []string{"directory", "pipe"}},
		{"nodes", []string{"pipe"}},
		{"nodes/n2", []string{"pipe"}},
		{"nodes/n2/root", []string{"pipe"}},
		{"nodes/n2/tmp", []string{"pipe"}},
		{"nodes/n2/buildkitd.toml", []string{"directory", "pipe"}},
		{"nodes/n2/buildkitd.log", []string{"directory", "pipe"}},
		{"run", []string{"pipe"}},
	} {
		for _, kind := range tt.damages {
			t.Run(tt.name+"/"+kind, func(t *testing.T) {
				dir, err := os.MkdirTemp("", "dbake-damage-") // the path of a test is too long for sockets
				require.NoError(t, err)
				t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
				var said []string
				open := func() {
					t.Helper()
					_, err := Open(t.Context(), Options{StateDir: dir, Nodes: 2, Notify: func(line string) { said = append(said, line) }})
					require.NoError(t, err)
				}
				open()
				require.Empty(t, said)
				require.NoError(t, os.MkdirAll(filepath.Join(dir, "nodes", "n2"), 0o700))
				path := filepath.Join(dir, tt.name)
				damages[kind](t, path)
				open()
				require.Len(t, said, 1)
				require.Contains(t, said[0], "WARNING: "+path+" is ")
				require.Contains(t, said[0], "moved to "+path+asideSuffix)
				open()
				require.Len(t, said, 1)

				// The nodes keep what they have built, and their leftovers are found.
				st, err := loadState(dir)
				require.NoError(t, err)
				require.NotEmpty(t, st.Registry)
				if tt.name == "cluster.json" {
					require.Equal(t, []nodeState{{Name: "n1"}, {Name: "n2"}}, st.Nodes)
				}
			})
		}
	}
}

// Others than those who start nodes change nothing.
func TestDamagedStateIsRead(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "cluster.json")
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err := CountKept(t.Context(), dir)
	require.EqualError(t, err, path+" is damaged: unexpected end of JSON input")
	_, err = ReadStatus(t.Context(), dir)
	require.ErrorContains(t, err, "is damaged")
	require.FileExists(t, path)
	require.ErrorIs(t, Down(t.Context(), dir), ErrNotRunning)
	require.NoError(t, Remove(t.Context(), dir, true))
}

// A store is set aside after two starts that ended by themselves, and comes back when a
// start without it ends, too.
func TestSuspicion(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	content := filepath.Join(root, "cache.db")
	fill := func() {
		require.NoError(t, os.MkdirAll(root, 0o700))
		require.NoError(t, os.WriteFile(content, []byte("x"), 0o600))
	}
	failed := &fs.PathError{Op: "open", Path: "x", Err: fs.ErrInvalid}
	fill()
	s := &suspicion{root: root}
	for range withStore {
		require.NoError(t, s.examine())
		require.FileExists(t, content)
		require.True(t, s.blame(failed))
		require.NoError(t, s.acquit())
	}
	require.NoError(t, s.examine())
	require.NoDirExists(t, root)
	require.NoError(t, os.MkdirAll(root, 0o700)) // as the start does
	require.NoError(t, s.acquit())
	require.FileExists(t, content)
	require.False(t, s.blame(failed))
	require.NoError(t, s.examine())
	require.FileExists(t, content)

	s = &suspicion{root: root, ends: withStore, why: failed}
	require.NoError(t, s.examine())
	cause, err := s.convict()
	require.NoError(t, err)
	require.Equal(t, "open x: invalid argument", cause)
	require.NoDirExists(t, root+asideSuffix)

	// The database of snapshots is looked at: BuildKit opens it too late.
	fill()
	db := filepath.Join(root, "runc-overlayfs", "snapshots", "metadata.db")
	require.NoError(t, os.MkdirAll(filepath.Dir(db), 0o700))
	require.NoError(t, os.WriteFile(db, []byte("no database"), 0o600))
	s = &suspicion{root: root}
	require.NoError(t, s.examine())
	require.NoDirExists(t, root)
	cause, err = s.convict()
	require.NoError(t, err)
	require.Equal(t, "containerdmeta.db: it is missing", cause)
	require.NoError(t, os.MkdirAll(filepath.Dir(db), 0o700))
	require.NoError(t, os.WriteFile(db, []byte("no database"), 0o600))
	require.ErrorContains(t, openDatabase(db), "invalid database")
	require.NoError(t, os.Truncate(db, 0))
	require.EqualError(t, openDatabase(db), "it is empty")

	// Nothing is to blame where nothing was built.
	require.NoError(t, os.RemoveAll(root))
	s = &suspicion{root: root, ends: withStore, why: failed}
	require.NoError(t, s.examine())
	require.Empty(t, s.aside)
}
