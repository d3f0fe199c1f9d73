package ir

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestOutput(t *testing.T) {
	attrs := func(k, v string) map[string]string { return map[string]string{k: v} }
	for _, tt := range []struct {
		o      Output
		form   OutputForm
		path   string
		pushes bool
	}{
		{Output{Type: "registry"}, FormImage, "", true},
		{Output{Type: "registry", Attrs: attrs("push-by-digest", "true")}, FormImage, "", false},
		{Output{Type: "image", Attrs: attrs("push", "1")}, FormImage, "", true},
		{Output{Type: "image", Attrs: attrs("push", "false")}, FormImage, "", false},
		{Output{Type: "local", Dest: "out"}, FormFiles, "out", false},
		{Output{Type: "tar", Dest: "-"}, FormArchive, "", false},
		{Output{Type: "tar", Dest: "a.tar", Attrs: attrs("tar", "false")}, FormArchive, "a.tar", false},
		{Output{Type: "oci", Dest: "a.tar"}, FormArchive, "a.tar", false},
		{Output{Type: "oci", Dest: "dir", Attrs: attrs("tar", "0")}, FormLayout, "dir", false},
		{Output{Type: "docker"}, FormLoad, "", false},
		{Output{Type: "docker", Attrs: attrs("tar", "what")}, FormLoad, "", false},
		{Output{Type: "docker", Dest: "a.tar"}, FormArchive, "a.tar", false},
		{Output{Type: "cacheonly"}, FormNone, "", false},
		{Output{Type: "floppy", Dest: "a"}, FormUnknown, "", false},
	} {
		require.Equal(t, tt.form, tt.o.Form(), tt.o)
		require.Equal(t, tt.path, tt.o.Path(), tt.o)
		require.Equal(t, tt.pushes, tt.o.Pushes(), tt.o)
	}
	require.Equal(t, "d", CacheEntry{Type: "local", Attrs: attrs("dest", "d")}.Path("dest"))
	require.Empty(t, CacheEntry{Type: "registry", Attrs: attrs("dest", "d")}.Path("dest"))
}
