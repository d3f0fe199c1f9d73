package frontend

import (
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/dfgitutil"
	"github.com/moby/buildkit/util/gitutil"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
)

var gitURLs = []string{
	"", ".", "./x.git", "../x.git", "github.com/moby/buildkit", "github.com/a/b.git#main:dir", "github.com", "github.com/a%zz",
	"https://example.com/x", "https://example.com/x.git", "HTTPS://example.com/x.git", "http://example.com/x.git#ref", "https://example.com/x.git/",
	"https://user:pw@example.com:8443/x.git#ref:a/../b", "https://example.com/x.git?ref=v1", "https://example.com/x.git?ref=v1#v2", "https://example.com/x.git?tag=v1#refs/tags/v1",
	"https://example.com/x.git?tag=a&branch=b", "https://example.com/x.git?subdir=a#:a", "https://example.com/x.git?subdir=b#:a", "https://example.com/x.git?subdir=a/../b",
	"https://example.com/x.git?bogus=1", "https://example.com/x.git?ref=", "https://example.com/x.git?ref=a&ref=b", "https://example.com/x.git?submodules", "https://example.com/x.git?submodules=maybe",
	"https://example.com/x.git?mtime=commit", "https://example.com/x.git?mtime=never", "https://example.com/x.git?checksum=abc&keep-git-dir=1&fetch-by-commit=0",
	"git@github.com:a/b.git", "git@github.com:a/b", "git@github.com:a/b.git?ref=x#y", "git@github.com:a/b.git#main:sub", "git@github.com", "a b@c:d", "git@github.com:a?bogus=1",
	"ssh://git@example.com/a", "ssh://git@example.com:22/a.git#x", "git://example.com/a", "ftp://example.com/a.git", "1x://y", "docker-image://alpine", "target:base", "https://[::1", "git@host:~/x?%zz",
}

// requireSameGit compares what the compiler takes a text for with what BuildKit does,
// which will be asked to read it.
func requireSameGit(t *testing.T, text string) {
	t.Helper()
	want, isGit, err := dfgitutil.ParseGitRef(text)
	got := ir.ParseGit(text)
	if !isGit || err != nil {
		require.Nil(t, got, text)
		return
	}
	require.NotNil(t, got, text)
	require.Equal(t, want.SubDir, got.Subdir, text)
	remote := want.Remote
	if want.IndistinguishableFromLocal {
		remote = "https://" + remote
	}
	u, err := gitutil.ParseURL(remote)
	if err != nil {
		return // what was cut off made it one
	}
	require.Equal(t, u.Scheme, got.Scheme, text)
	require.Equal(t, u.Host, got.Host, text)
}

func TestGitURLsAreReadAsBuildKitDoes(t *testing.T) {
	for _, text := range gitURLs {
		requireSameGit(t, text)
	}
}

func FuzzGitURL(f *testing.F) {
	for _, text := range gitURLs {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) { requireSameGit(t, text) })
}
