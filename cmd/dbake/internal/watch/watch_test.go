package watch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func write(t *testing.T, name string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
	require.NoError(t, os.WriteFile(name, []byte("x"), 0o644))
	return name
}

func TestNext(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	write(t, filepath.Join(dir, "src", "a"))
	write(t, filepath.Join(dir, "out", "x"))
	write(t, filepath.Join(dir, ".git", "HEAD"))
	w, err := New()
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	require.NoError(t, w.Set([]Root{{Dir: dir}, {Dir: other, Only: []string{"bake.hcl"}}, {Dir: filepath.Join(dir, "none"), Only: []string{"x"}}}, []string{filepath.Join(dir, "out")}))

	// Only what counts is a change: the last one ends the wait.
	write(t, filepath.Join(dir, "out", "x"))
	write(t, filepath.Join(dir, ".git", "HEAD"))
	write(t, filepath.Join(other, "README"))
	a, b := write(t, filepath.Join(dir, "src", "a")), write(t, filepath.Join(other, "bake.hcl"))
	got, err := w.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, names(map[string]bool{a: true, b: true}), got)

	// A directory that is new is watched, too.
	sub := filepath.Join(dir, "src", "new")
	require.NoError(t, os.Mkdir(sub, 0o755))
	got, err = w.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{sub}, got)
	c := write(t, filepath.Join(sub, "c"))
	got, err = w.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{c}, got)

	// What is removed is a change, too.
	require.NoError(t, os.Remove(a))
	got, err = w.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{a}, got)

	// What is watched can be replaced.
	require.NoError(t, w.Set([]Root{{Dir: other, Only: []string{"bake.hcl"}}}, nil))
	write(t, filepath.Join(dir, "src", "a"))
	write(t, b)
	got, err = w.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, []string{b}, got)
}

func TestNextEnds(t *testing.T) {
	w, err := New()
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	stop := errors.New("stop")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(stop)
	_, err = w.Next(ctx)
	require.ErrorIs(t, err, stop)
}

func TestInside(t *testing.T) {
	require.True(t, inside("/a", "/a"))
	require.True(t, inside("/a", "/a/b"))
	require.False(t, inside("/a", "/ab"))
	require.True(t, inside("/", "/ab"))
}
