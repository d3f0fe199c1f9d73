package cachepolicy

import (
	"fmt"
	"regexp"
	"strings"
)

// DefaultPrefix starts the tags of clusters when the user gave no tag.
const DefaultPrefix = "dbake"

// Repo is a repository of caches: the value of --cache-registry.
type Repo struct {
	Name   string // without tag, as host:5000/team/cache
	Prefix string // start of every tag
}

var (
	repoName = regexp.MustCompile(`^(([A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(:[0-9]+)?/)?[a-z0-9]+([._/-]+[a-z0-9]+)*$`)
	tagName  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
)

// maxPrefix leaves room for the cluster's name: a tag has at most 128 characters.
const maxPrefix = 64

// ParseRepo returns the repository that ref names. A tag becomes the prefix.
func ParseRepo(ref string) (Repo, error) {
	const want = "as in registry.example.com/team/cache or registry.example.com/team/cache:main"
	name, prefix := ref, DefaultPrefix
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		name, prefix = ref[:i], ref[i+1:]
	}
	switch {
	case ref == "":
		return Repo{}, fmt.Errorf("the cache registry is empty; name a repository, %s", want)
	case strings.Contains(ref, "://"):
		return Repo{}, fmt.Errorf("cache registry %q: leave the scheme out, %s", ref, want)
	case strings.Contains(ref, "="):
		return Repo{}, fmt.Errorf("cache registry %q: give the repository alone, without type= or ref=, %s", ref, want)
	case strings.Contains(ref, "@"):
		return Repo{}, fmt.Errorf("cache registry %q: a digest cannot be written to; name a repository, %s", ref, want)
	case !strings.Contains(ref, "/"):
		return Repo{}, fmt.Errorf("cache registry %q: name a repository in the registry, %s", ref, want)
	case !repoName.MatchString(name):
		return Repo{}, fmt.Errorf("cache registry %q: not the name of a repository (its path is in lower case), %s", ref, want)
	case !tagName.MatchString(prefix) || len(prefix) > maxPrefix:
		return Repo{}, fmt.Errorf("cache registry %q: %q cannot start a tag of at most %d letters, digits, '_', '.' and '-'", ref, prefix, maxPrefix)
	}
	return Repo{Name: name, Prefix: prefix}, nil
}

// IsZero reports whether there is no repository.
func (r Repo) IsZero() bool { return r.Name == "" }

// tag returns the tag of a cluster, or of its part when part >= 0.
func (r Repo) tag(cluster string, part int) string {
	t := r.Prefix + "-" + cluster
	if part >= 0 {
		t = fmt.Sprintf("%s-%d", t, part)
	}
	return t
}

// StepTag returns the tag under which the result of the named step is handed from
// node to node. It is no tag of a cluster: later builds do not read it.
func (r Repo) StepTag(step string) string { return r.Prefix + ".step-" + step }

// cutTag splits a tag of this repository into cluster and part; ok is false when
// it is no such tag.
func (r Repo) cutTag(tag string) (cluster string, ok bool) {
	rest, ok := strings.CutPrefix(tag, r.Prefix+"-")
	if !ok {
		return "", false
	}
	m := clusterTag.FindStringSubmatch(rest)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// clusterTag matches a name made by Name and the number of a part.
var clusterTag = regexp.MustCompile(`^([a-z0-9_.-]+-[0-9a-f]{8})(-[0-9]+)?$`)
