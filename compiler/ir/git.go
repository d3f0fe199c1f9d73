package ir

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Git is a reference to a git repository, as contexts and definitions may have.
type Git struct {
	Scheme string // "https", "http", "ssh" or "git"
	Host   string // with the port, where one is named
	Path   string // of the repository on the host
	Subdir string // in the repository; "" is its root
}

// SSH reports whether the repository is read over ssh.
func (g *Git) SSH() bool { return g != nil && g.Scheme == "ssh" }

var (
	urlScheme = regexp.MustCompile(`^[a-zA-Z0-9]+://`)
	// scpStyle is USER@HOST:PATH[?QUERY][#FRAGMENT], how ssh users write it.
	scpStyle = regexp.MustCompile(`^([a-zA-Z0-9-_]+)@([a-zA-Z0-9-.]+):(.*?)(?:\?(.*?))?(?:#(.*))?$`)
)

// ParseGit returns the repository that s names, nil when it names none. It decides as
// BuildKit does, which is asked to read what this says is a repository: an HTTP URL is
// one only if its path ends in ".git", and options that do not exist make it none.
// There is no other reader of such references.
func ParseGit(s string) *Git {
	var g *Git
	var fragment string
	var query url.Values
	switch {
	case strings.HasPrefix(s, "./"), strings.HasPrefix(s, "../"):
		return nil
	case strings.HasPrefix(s, "github.com/"):
		u, err := url.Parse(s)
		if err != nil {
			return nil
		}
		host, repo, _ := strings.Cut(u.Path, "/")
		g, fragment, query = &Git{Scheme: "https", Host: host, Path: "/" + repo}, u.Fragment, u.Query()
	case urlScheme.MatchString(s):
		u, err := url.Parse(s)
		if err != nil || !slices.Contains([]string{"http", "https", "ssh", "git"}, u.Scheme) {
			return nil
		}
		if isHTTP(u.Scheme) && !strings.HasSuffix(u.Path, ".git") {
			return nil
		}
		g, fragment, query = &Git{Scheme: u.Scheme, Host: u.Host, Path: u.Path}, u.Fragment, u.Query()
	default:
		m := scpStyle.FindStringSubmatch(s)
		if m == nil {
			return nil
		}
		var err error
		if query, err = url.ParseQuery(m[4]); err != nil {
			return nil
		}
		g, fragment = &Git{Scheme: "ssh", Host: m[2], Path: m[3]}, m[5]
	}
	ref, dir, _ := strings.Cut(fragment, ":")
	g.Subdir = strings.TrimPrefix(path.Join("/", dir), "/")
	if !g.options(ref, query) {
		return nil
	}
	return g
}

func isHTTP(scheme string) bool { return scheme == "http" || scheme == "https" }

// options takes in the options of the query, and reports whether they mean something
// together with the ref of the fragment.
func (g *Git) options(ref string, query url.Values) bool {
	for k, v := range query {
		if len(v) > 1 {
			return false
		}
		switch value := v[0]; k {
		case "keep-git-dir", "submodules", "fetch-by-commit":
			if _, err := strconv.ParseBool(value); err != nil && value != "" {
				return false
			}
		case "ref", "tag", "branch", "checksum", "commit":
			if value == "" {
				return false
			}
		case "subdir":
			if value == "" || g.Subdir != "" && g.Subdir != value {
				return false
			}
			g.Subdir = value
		case "mtime":
			if value != "checkout" && value != "commit" {
				return false
			}
		default:
			return false
		}
	}
	return agree(ref, query)
}

// agree reports whether everything that names a ref names the same.
func agree(ref string, query url.Values) bool {
	full := func(key, prefix string) string {
		value := query.Get(key)
		if value == "" || strings.HasPrefix(value, prefix) {
			return value
		}
		return prefix + value
	}
	tag, branch := full("tag", "refs/tags/"), full("branch", "refs/heads/")
	if tag != "" && branch != "" {
		return false
	}
	for _, named := range []string{query.Get("ref"), tag, branch} {
		if named == "" {
			continue
		}
		if ref != "" && ref != named {
			return false
		}
		ref = named
	}
	return true
}

// IsRemote reports whether s is fetched from elsewhere: an HTTP URL or a repository.
func IsRemote(s string) bool {
	return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") || ParseGit(s) != nil
}
