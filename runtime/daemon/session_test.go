package daemon

import (
	"os"
	"path/filepath"
	"testing"

	bkclient "github.com/moby/buildkit/client"
	"github.com/moby/buildkit/session"
	"github.com/moby/buildkit/session/filesync"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/layout"
)

// TestSessionServices registers what sessions of all kinds offer: gRPC ends the
// process when a service is registered twice.
func TestSessionServices(t *testing.T) {
	dir := t.TempDir()
	in := Inputs{
		Dirs: map[string]string{"context": dir}, Layouts: map[string]string{"base": dir},
		Secrets: map[string]SecretSource{"token": {Env: "TOKEN"}}, Env: map[string]string{"TOKEN": "x"},
	}
	var sent Transfers
	offer, err := in.services(&sent)
	require.NoError(t, err)
	offer.stores["local:"+dir] = layout.Store(dir)
	for _, req := range []ExportRequest{
		{},
		{Entry: &bkclient.ExportEntry{Type: "local", OutputDir: dir}},
		{Entry: &bkclient.ExportEntry{Type: "local", OutputDir: dir, Attrs: map[string]string{"mode": "delete"}}},
		{Entry: &bkclient.ExportEntry{Type: "tar", Output: filesync.FileOutputFunc(nil)}},
		{Entry: &bkclient.ExportEntry{Type: "oci", OutputDir: filepath.Join(dir, "layout")},
			CacheTo: []bkclient.CacheOptionsEntry{{Type: "local", Attrs: map[string]string{"dest": filepath.Join(dir, "cache")}}}},
	} {
		stores, targets, err := req.receiving(&faults{})
		require.NoError(t, err)
		s, err := session.NewSession(t.Context(), "")
		require.NoError(t, err)
		for _, a := range offer.attachables(stores, targets...) {
			s.Allow(a)
		}
		require.NoError(t, s.Close())
	}
	_, _, err = (&ExportRequest{Entry: &bkclient.ExportEntry{Type: "local", OutputDir: dir, Attrs: map[string]string{"mode": "x"}}}).receiving(&faults{})
	require.Error(t, err)
}

func TestSecretStore(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, []byte("in a file"), 0o600))
	big := filepath.Join(dir, "big")
	require.NoError(t, os.WriteFile(big, make([]byte, 600*1024), 0o600))
	s := &secretStore{
		sources: map[string]SecretSource{"file": {File: file}, "env": {Env: "E"}, "unset": {Env: "U"}, "gone": {File: filepath.Join(dir, "gone")}, "big": {File: big}},
		env:     map[string]string{"E": "in the environment", "other": "x"},
	}
	for id, want := range map[string]string{"file": "in a file", "env": "in the environment"} {
		dt, err := s.GetSecret(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, want, string(dt))
	}
	for _, id := range []string{"unset", "gone", "big", "other", "token.undeclared", "E"} {
		_, err := s.GetSecret(t.Context(), id)
		require.Error(t, err, id)
	}
}
