package cacheentry

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

func entry(text string) ir.CacheEntry {
	e := ir.CacheEntry{Attrs: map[string]string{}}
	for field := range strings.SplitSeq(text, ",") {
		if k, v, _ := strings.Cut(field, "="); k == "type" {
			e.Type = v
		} else {
			e.Attrs[k] = v
		}
	}
	return e
}

// The cache of GitHub Actions takes its address and token from the environment,
// where the entry does not give them, and is left out without them.
func TestActionsCache(t *testing.T) {
	v1 := map[string]string{"ACTIONS_RUNTIME_TOKEN": "tok", "ACTIONS_CACHE_URL": "http://v1/"}
	v2 := map[string]string{"ACTIONS_RUNTIME_TOKEN": "tok", "ACTIONS_CACHE_URL": "http://v1/", "ACTIONS_RESULTS_URL": "http://v2/", "ACTIONS_CACHE_SERVICE_V2": "True"}
	results := map[string]string{"ACTIONS_RUNTIME_TOKEN": "tok", "ACTIONS_RESULTS_URL": "http://v2/"}
	for _, tt := range []struct {
		entry string
		env   map[string]string
		want  string // "" when the entry is left out
	}{
		{"type=gha,scope=x", nil, ""},
		{"type=gha", map[string]string{"ACTIONS_RUNTIME_TOKEN": "tok"}, ""},
		{"type=gha", map[string]string{"ACTIONS_CACHE_URL": "http://v1/"}, ""},
		{"type=gha", map[string]string{"ACTIONS_RUNTIME_TOKEN": "", "ACTIONS_CACHE_URL": "http://v1/"}, ""},
		{"type=gha,token=own,url=http://own/", nil, "type=gha,token=own,url=http://own/"},
		{"type=gha,token=own,url_v2=http://own/", nil, "type=gha,token=own,url_v2=http://own/"},
		{"type=gha,scope=x", v1, "type=gha,scope=x,token=tok,url=http://v1/"},
		{"type=gha", v2, "type=gha,token=tok,url=http://v1/,url_v2=http://v2/"},
		{"type=gha", results, "type=gha,token=tok,url=http://v2/"},
		{"type=gha,version=1", v2, "type=gha,version=1,token=tok,url=http://v1/"},
		{"type=gha,version=2", results, "type=gha,version=2,token=tok,url=http://v2/,url_v2=http://v2/"},
		{"type=gha,token=own", v2, "type=gha,token=own,url=http://v1/,url_v2=http://v2/"},
		{"type=registry,ref=x", nil, "type=registry,ref=x"},
	} {
		p := &ir.Project{Targets: []*ir.Target{{Name: "t", CacheFrom: []ir.CacheEntry{entry(tt.entry)}, CacheTo: []ir.CacheEntry{entry(tt.entry)}}}}
		usable := Usable(p, tt.env).Targets[0]
		require.Len(t, p.Targets[0].CacheFrom, 1, "what is printed does not change")
		c := NewCredentials(t.Context(), p, tt.env)
		if tt.want == "" {
			require.Empty(t, usable.CacheFrom, tt.entry)
			require.Empty(t, usable.CacheTo, tt.entry)
			continue
		}
		require.Len(t, usable.CacheFrom, 1, tt.entry)
		require.Len(t, usable.CacheTo, 1, tt.entry)
		require.Equal(t, entry(tt.want), c.Complete(usable.CacheTo[0]), tt.entry)
		require.Equal(t, entry(tt.entry), usable.CacheTo[0], "tokens are added for nodes only")
	}
}

// A build argument asks for an inline cache, once.
func TestInlineCacheArgument(t *testing.T) {
	inline := ir.CacheEntry{Type: "inline"}
	for value, want := range map[string][]ir.CacheEntry{"1": {inline}, "true": {inline}, "0": nil, "maybe": nil} {
		p := &ir.Project{Targets: []*ir.Target{{Name: "t", Args: map[string]string{"BUILDKIT_INLINE_CACHE": value}}}}
		require.ElementsMatch(t, want, Usable(p, nil).Targets[0].CacheTo, value)
		p.Targets[0].CacheTo = []ir.CacheEntry{inline}
		require.Len(t, Usable(p, nil).Targets[0].CacheTo, 1, value)
	}
}

// S3 takes the credentials of the AWS configuration, but no session token for keys
// that the definition gives.
func TestAWSCredentials(t *testing.T) {
	file := filepath.Join(t.TempDir(), "credentials")
	require.NoError(t, os.WriteFile(file, []byte("[ci]\naws_access_key_id = ID\naws_secret_access_key = KEY\naws_session_token = SESSION\n"), 0o600))
	for k, v := range map[string]string{
		"AWS_SHARED_CREDENTIALS_FILE": file, "AWS_CONFIG_FILE": filepath.Join(t.TempDir(), "none"), "AWS_PROFILE": "ci",
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(k, v)
	}
	project := func(text string) *ir.Project {
		return &ir.Project{Targets: []*ir.Target{{Name: "t", CacheTo: []ir.CacheEntry{entry(text)}}}}
	}
	for text, want := range map[string]string{
		"type=s3,bucket=b":                            "type=s3,bucket=b,access_key_id=ID,secret_access_key=KEY,session_token=SESSION",
		"type=s3,access_key_id=own":                   "type=s3,access_key_id=own,secret_access_key=KEY,session_token=SESSION",
		"type=s3,access_key_id=a,secret_access_key=b": "type=s3,access_key_id=a,secret_access_key=b",
		"type=azblob,name=x":                          "type=azblob,name=x",
	} {
		c := NewCredentials(t.Context(), project(text), nil)
		require.Equal(t, entry(want), c.Complete(entry(text)), text)
	}

	// With none to be found, the node has to have its own.
	t.Setenv("AWS_PROFILE", "other")
	c := NewCredentials(t.Context(), project("type=s3,bucket=b"), nil)
	require.Equal(t, entry("type=s3,bucket=b"), c.Complete(entry("type=s3,bucket=b")))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	c = NewCredentials(ended, project("type=s3,bucket=b"), nil)
	require.Equal(t, entry("type=s3,bucket=b"), c.Complete(entry("type=s3,bucket=b")))
}
