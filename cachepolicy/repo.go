package cachepolicy

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"

	"github.com/dbake/dbake/compiler/ir"
)

// DefaultPrefix starts the tags of clusters when the user gave no tag.
const DefaultPrefix = "dbake"

// Repo is a repository of caches.
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

// Store is where clusters are kept: the value of --cache-registry.
type Store struct {
	Repo
	// Attrs are those of BuildKit that every export has besides ours.
	Attrs map[string]string
	// Insecure registries may speak plain HTTP, or have any certificate.
	Insecure bool
	// Required makes a cache that cannot be written an error.
	Required bool
	// Bases lets nodes have base images from the repository: each is copied there once.
	Bases bool
}

// storeAttrs are the attributes that --cache-registry takes, with what they may be.
var storeAttrs = map[string]func(string) bool{
	"compression":       func(v string) bool { return slices.Contains([]string{"uncompressed", "gzip", "estargz", "zstd"}, v) },
	"compression-level": func(v string) bool { _, err := strconv.Atoi(v); return err == nil },
	"force-compression": isBool,
	"ignore-error":      isBool,
	"insecure":          isBool,
	"bases":             isBool,
	"registry.insecure": isBool,
	"type":              func(v string) bool { return v == ir.TypeRegistry },
	"mode":              func(v string) bool { return v == "max" || v == "min" },
	"image-manifest":    isTrue,
	"oci-mediatypes":    isTrue,
}

func isBool(v string) bool { _, err := strconv.ParseBool(v); return err == nil }
func isTrue(v string) bool { b, err := strconv.ParseBool(v); return err == nil && b }

// ParseStore reads "REF[,ATTR=VALUE...]", or "type=registry,ref=REF,..." as in a
// cache-to of docker buildx.
func ParseStore(value string) (Store, error) {
	fields, err := csvvalue.Fields(value, nil)
	if err != nil && value != "" {
		return Store{}, fmt.Errorf("cache registry %q: %w", value, err)
	}
	s := Store{Attrs: map[string]string{}}
	ref, given := "", map[string]bool{}
	for i, f := range fields {
		k, v, ok := strings.Cut(f, "=")
		switch {
		case i == 0 && !ok:
			k, v = "ref", f
		case !ok:
			return Store{}, fmt.Errorf("cache registry %q: %q is not ATTR=VALUE", value, f)
		}
		if k = strings.TrimSpace(strings.ToLower(k)); given[k] {
			return Store{}, fmt.Errorf("cache registry %q: %s is given twice", value, k)
		}
		given[k] = true
		valid, known := storeAttrs[k]
		switch {
		case k == "ref":
			ref = v
			continue
		case !known:
			return Store{}, fmt.Errorf("cache registry %q: unknown attribute %s; known are %s", value, k, strings.Join(ir.SortedKeys(storeAttrs), ", "))
		case !valid(v):
			return Store{}, fmt.Errorf("cache registry %q: %s cannot be %q", value, k, v)
		}
		switch k {
		case "insecure", "registry.insecure":
			b, _ := strconv.ParseBool(v) // it is valid
			s.Insecure = s.Insecure || b
		case "ignore-error":
			b, _ := strconv.ParseBool(v)
			s.Required = !b
		case "bases":
			s.Bases, _ = strconv.ParseBool(v)
		case "compression", "compression-level", "force-compression":
			s.Attrs[k] = v
		case "mode":
			if v != "max" { // which is the default
				s.Attrs[k] = v
			}
		}
	}
	s.Repo, err = ParseRepo(ref)
	return s, err
}

// defaultPath is the repository in a registry that is given alone.
const defaultPath = "dbake/cache"

// registryAlone matches HOST:PORT and hosts that cannot be taken for a repository.
var registryAlone = regexp.MustCompile(`^(localhost|\[[0-9a-fA-F:]+\]|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+|[A-Za-z0-9.-]+:[0-9]+|\[[0-9a-fA-F:]+\]:[0-9]+)$`)

// ParseRepo returns the repository that ref names. A tag becomes the prefix. A registry
// alone, as HOST:PORT, stands for a repository of ours in it.
func ParseRepo(ref string) (Repo, error) {
	const want = "as in registry.example.com/team/cache or registry.example.com/team/cache:main"
	if registryAlone.MatchString(ref) {
		ref += "/" + defaultPath
	}
	name, prefix, ok := CutTag(ref)
	if !ok {
		prefix = DefaultPrefix
	}
	switch {
	case ref == "":
		return Repo{}, fmt.Errorf("the cache registry is empty; name a repository, %s", want)
	case strings.Contains(ref, "://"):
		return Repo{}, fmt.Errorf("cache registry %q: leave the scheme out, %s", ref, want)
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

// CutTag returns the repository of a reference without a digest, and its tag if it has one.
func CutTag(ref string) (repo, tag string, ok bool) {
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i], ref[i+1:], true
	}
	return ref, "", false
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

// stepMark stands between the prefix of a step's tag and its name.
const stepMark = ".step-"

// StepTag returns the tag under which the result of the named step travels from node to node.
// It is no tag of a cluster: later builds do not read it.
func (r Repo) StepTag(step string) string { return r.Prefix + stepMark + step }

// CutStepTag returns the prefix of a tag made by StepTag; ok is false for others.
func CutStepTag(tag string) (prefix string, ok bool) {
	i := strings.LastIndex(tag, stepMark)
	if i < 0 || !tagName.MatchString(tag[:i]) || !hexName.MatchString(tag[i+len(stepMark):]) {
		return "", false
	}
	return tag[:i], true
}

// cutTag returns the cluster that a tag of this repository is of, or a part of; ok is
// false when it is no such tag.
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

// CutClusterTag is cutTag for a repository with any prefix: known is tried
// first, as prefixes and clusters may both hold a "-"; then the shortest counts.
func CutClusterTag(tag, known string) (prefix, cluster string, ok bool) {
	if cluster, ok = (Repo{Prefix: known}).cutTag(tag); ok && known != "" {
		return known, cluster, true
	}
	m := anyClusterTag.FindStringSubmatch(tag)
	if m == nil {
		return "", "", false
	}
	return m[1], m[2], true
}

// Target returns the target that a name made by [Name] begins with.
func Target(cluster string) string { return cluster[:strings.LastIndexByte(cluster, '-')] }

// clusterName matches a name made by Name, and the number of a part.
const clusterName = `([a-z0-9_.-]+-[0-9a-f]{8})(-[0-9]+)?$`

var (
	clusterTag    = regexp.MustCompile(`^` + clusterName)
	anyClusterTag = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]*?)-` + clusterName)
	hexName       = regexp.MustCompile(`^[0-9a-f]+$`)
)
