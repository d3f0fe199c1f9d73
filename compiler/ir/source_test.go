package ir

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseContext(t *testing.T) {
	dirs := func(name string) bool { return name == "github.com/a/b" || name == "https://x" }
	for text, want := range map[string]Source{
		"":                           {Path: "."},
		"sub/dir":                    {Path: "sub/dir"},
		"cwd://sub":                  {Path: "sub"},
		"target:base":                {Path: "target:base"},
		"docker-image://x":           {Path: "docker-image://x"},
		"https://example.com/a.tar":  {Kind: SourceHTTP},
		"https://x":                  {Path: "https://x"},
		"github.com/a/b":             {Path: "github.com/a/b"},
		"github.com/a/c":             {Kind: SourceGit, Git: &Git{Scheme: "https", Host: "github.com", Path: "/a/c"}},
		"git@example.com:a.git#x:/d": {Kind: SourceGit, Git: &Git{Scheme: "ssh", Host: "example.com", Path: "a.git", Subdir: "d"}},
	} {
		want.Text = text
		require.Equal(t, want, ParseContext(text, dirs), text)
	}
}

func TestParseNamedContext(t *testing.T) {
	for text, want := range map[string]Source{
		"dir":                          {Path: "dir"},
		"cwd://dir":                    {Path: "dir"},
		"target:base":                  {Kind: SourceTarget, Ref: "base"},
		"cwd://target:base":            {Path: "target:base"},
		"docker-image://alpine:3":      {Kind: SourceImage, Ref: "alpine:3"},
		"docker-image:/../../etc":      {Path: "docker-image:/../../etc"},
		"oci-layout://dir":             {Kind: SourceLayout, Path: "dir", Ref: "latest"},
		"oci-layout://a:b/dir:v1":      {Kind: SourceLayout, Path: "a:b/dir", Ref: "v1"},
		"oci-layout://dir:v@sha256:12": {Kind: SourceLayout, Path: "dir", Ref: "v", Digest: "sha256:12", HasDigest: true},
		"oci-layout://c:/dir":          {Kind: SourceLayout, Path: "c:/dir", Ref: "latest"},
		"http://example.com/x":         {Kind: SourceHTTP},
		"ssh://example.com/x":          {Kind: SourceGit, Git: &Git{Scheme: "ssh", Host: "example.com", Path: "/x"}},
	} {
		want.Text = text
		require.Equal(t, want, ParseNamedContext(text), text)
	}
	require.Equal(t, "https://x/y.git", ParseNamedContext("cwd://https://x/y.git").URL())
}
