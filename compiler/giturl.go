package compiler

import (
	"net/url"
	"path"
	"regexp"
	"strings"
)

// gitRef is a reference to a git repository, as contexts and definitions may have.
type gitRef struct {
	scheme string // "https", "ssh", ...; lower case
	host   string
	subdir string
}

var (
	urlScheme = regexp.MustCompile(`^[a-zA-Z0-9]+://`)
	// scpStyle is USER@HOST:PATH[?QUERY][#FRAGMENT], how ssh users write it.
	scpStyle = regexp.MustCompile(`^([a-zA-Z0-9-_]+)@([a-zA-Z0-9-.]+):(.*?)(?:\?(.*?))?(?:#(.*))?$`)
)

// parseGitURL splits a URL that git could be asked for.
func parseGitURL(s string) (ref gitRef, path string, ok bool) {
	if m := scpStyle.FindStringSubmatch(s); m != nil && !urlScheme.MatchString(s) {
		query, err := url.ParseQuery(m[4])
		if err != nil {
			return gitRef{}, "", false
		}
		return gitRef{scheme: "ssh", host: m[2], subdir: gitSubdir(m[5], query)}, m[3], true
	}
	switch strings.ToLower(strings.TrimSuffix(urlScheme.FindString(s), "://")) {
	case "http", "https", "ssh", "git":
	default:
		return gitRef{}, "", false
	}
	u, err := url.Parse(s)
	if err != nil {
		return gitRef{}, "", false
	}
	return gitRef{scheme: u.Scheme, host: u.Host, subdir: gitSubdir(u.Fragment, u.Query())}, u.Path, true
}

// gitSubdir returns the directory in the repository that a fragment, as
// REF:DIRECTORY, or a query names.
func gitSubdir(fragment string, query url.Values) string {
	if _, dir, ok := strings.Cut(fragment, ":"); ok {
		if dir = strings.TrimPrefix(path.Join("/", dir), "/"); dir != "" {
			return dir
		}
	}
	return query.Get("subdir")
}

// parseGitRef reports whether s names a git repository, and which part of it. An
// HTTP URL does only if its path ends in ".git".
func parseGitRef(s string) (gitRef, bool) {
	switch {
	case strings.HasPrefix(s, "./"), strings.HasPrefix(s, "../"):
		return gitRef{}, false
	case strings.HasPrefix(s, "github.com/"):
		s = "https://" + s
		ref, _, ok := parseGitURL(s)
		return ref, ok
	}
	ref, p, ok := parseGitURL(s)
	if !ok || strings.HasPrefix(ref.scheme, "http") && !strings.HasSuffix(p, ".git") {
		return gitRef{}, false
	}
	return ref, true
}

// isRemoteURL reports whether s is fetched from elsewhere: an HTTP URL or a git
// repository.
func isRemoteURL(s string) bool {
	if strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") {
		return true
	}
	_, ok := parseGitRef(s)
	return ok
}

// remoteSubdir returns the URL of a directory of a git repository that remote
// names, possibly itself by a directory of it. The way in which remote gives its
// directory, as a query or as a fragment, is kept.
func remoteSubdir(remote, dir string) string {
	dir = path.Clean(dir)
	if dir == "." || remote == "" {
		return remote
	}
	ref, ok := parseGitRef(remote)
	if !ok {
		return remote
	}
	if ref.subdir != "" {
		dir = path.Join(ref.subdir, dir)
	}
	if !strings.Contains(remote, "#") {
		if u, err := url.Parse(remote); err == nil {
			if q := u.Query(); q.Has("subdir") {
				q.Set("subdir", dir)
				u.RawQuery = q.Encode()
				return u.String()
			}
		}
	}
	base, fragment, _ := strings.Cut(remote, "#")
	commit, _, _ := strings.Cut(fragment, ":")
	return base + "#" + commit + ":" + dir
}
