package cachestore

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/buildkit/cache/remotecache/v1/types"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/runtime/registry"
)

// Kind is the purpose of a tag of the repository.
type Kind string

// The kinds of tags.
const (
	Cluster Kind = "cache"    // the cache of a group of targets that share steps, or a part of it
	Step    Kind = "transfer" // the result of one step, on its way from node to node
	Marked  Kind = "marked"   // unwanted, and deleted when its grace period is over
	Other   Kind = "other"    // not made by dbake, or not a cache: never removed
)

// Entry is one tag.
type Entry struct {
	Tag    string        `json:"tag"`
	Kind   Kind          `json:"kind"`
	Prefix string        `json:"prefix,omitempty"` // "dbake", or the tag that was given with --cache-registry
	Target string        `json:"target,omitempty"` // the first target of the group
	Digest digest.Digest `json:"digest"`
	Bytes  int64         `json:"bytes"` // of all layers, as they are in the registry
	Own    int64         `json:"own"`   // of the layers that no other digest of the repository names
	Steps  int           `json:"steps"` // steps with a result in the cache
	// Newest is when the newest result in the cache was made; zero when it is not known.
	Newest time.Time `json:"newest,omitzero"`
	// Since is when the tag was marked; zero for all others.
	Since time.Time `json:"since,omitzero"`
	// Problem says why the content could not be read; "" = it was.
	Problem string `json:"problem,omitempty"`

	group  string // the cache that a part belongs to
	media  string
	raw    []byte
	layers []ocispecs.Descriptor
}

// descriptor is that of the entry's manifest.
func (e Entry) descriptor() ocispecs.Descriptor {
	return ocispecs.Descriptor{MediaType: e.media, Digest: e.Digest, Size: int64(len(e.raw))}
}

// Registry is the access to the registry that holds the repository.
type Registry interface {
	Tags(ctx context.Context, ref string) ([]string, error)
	Manifest(ctx context.Context, ref string) ([]byte, ocispecs.Descriptor, error)
	Blob(ctx context.Context, ref string, desc ocispecs.Descriptor, limit int64) ([]byte, error)
	Push(ctx context.Context, ref string, desc ocispecs.Descriptor, data []byte) error
	Copy(ctx context.Context, from, to string, desc ocispecs.Descriptor) error
	Delete(ctx context.Context, ref string) error
}

// parallel bounds the manifests that are read at once.
const parallel = 8

// markTag matches the marks that replace the tags of unwanted caches.
var markTag = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9_.-]*)\.pruned-([0-9]{1,12})-[0-9a-f]{12}$`)

// List returns the tags of a repository, sorted: those with the prefix, or all when it is
// "". A tag that cannot be read is an entry with a Problem.
func List(ctx context.Context, reg Registry, repo, prefix string) ([]Entry, error) {
	all, err := list(ctx, reg, repo, prefix)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(e Entry) bool { return prefix != "" && e.Prefix != prefix }), nil
}

// list returns all tags: those of other prefixes count as users of layers.
func list(ctx context.Context, reg Registry, repo, prefix string) ([]Entry, error) {
	tags, err := reg.Tags(ctx, repo)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(tags))
	eg, ctx := errgroup.WithContext(ctx)
	eg.SetLimit(parallel)
	for i, tag := range tags {
		entries[i] = parseTag(tag, prefix)
		eg.Go(func() error { return entries[i].read(ctx, reg, repo) })
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	// A tag that was deleted meanwhile is left out.
	entries = slices.DeleteFunc(entries, func(e Entry) bool { return e.Digest == "" && e.Problem == "" })
	divideTags(entries, prefix)
	countOwn(entries)
	return entries, nil
}

// divideTags finds out where the prefix of a tag ends and its target begins, as both may
// hold a "-". Caches of one group of targets end with the same name, so what differs
// before it are prefixes: the target is what the tags of a group have in common at their
// end, and of a group with one tag, a target that is known by then.
func divideTags(entries []Entry, known string) {
	const hash = 8 // characters at the end of a cluster's name
	words := func(e Entry) []string { return strings.Split(e.Prefix+"-"+e.Target, "-") }
	common := map[string][]string{} // by group of targets: the words that all tags end with
	several := map[string]bool{}
	free := func(e Entry) bool { return e.Kind == Cluster && (known == "" || e.Prefix != known) }
	for _, e := range entries {
		if !free(e) {
			continue
		}
		of, w := e.group[len(e.group)-hash:], words(e)
		before, seen := common[of]
		if !seen {
			common[of] = w
			continue
		}
		n := 0
		for n < len(w)-1 && n < len(before) && w[len(w)-1-n] == before[len(before)-1-n] {
			n++
		}
		several[of] = several[of] || n < len(w)-1 || n < len(before)
		common[of] = before[len(before)-n:]
	}
	var targets []string
	for of, w := range common {
		if several[of] && len(w) > 0 {
			targets = append(targets, strings.Join(w, "-"))
		}
	}
	slices.SortFunc(targets, func(x, y string) int { return cmp.Or(cmp.Compare(len(y), len(x)), cmp.Compare(x, y)) })
	for i, e := range entries {
		if !free(e) {
			continue
		}
		body := e.Prefix + "-" + e.Target
		for _, t := range targets {
			if p, ok := strings.CutSuffix(body, "-"+t); ok && p != "" {
				entries[i].Prefix, entries[i].Target = p, t
				break
			}
		}
	}
}

// parseTag returns the purpose of a tag. A known prefix decides where the name of the
// cluster begins.
func parseTag(tag, prefix string) Entry {
	e := Entry{Tag: tag, Kind: Other, group: tag}
	if m := markTag.FindStringSubmatch(tag); m != nil {
		seconds, err := strconv.ParseInt(m[2], 10, 64)
		if err == nil {
			e.Kind, e.Prefix, e.Since = Marked, m[1], time.Unix(seconds, 0).UTC()
			return e
		}
	}
	if p, ok := cachepolicy.CutStepTag(tag); ok {
		e.Kind, e.Prefix = Step, p
		return e
	}
	if p, cluster, ok := cachepolicy.CutClusterTag(tag, prefix); ok {
		e.Kind, e.Prefix, e.Target = Cluster, p, cachepolicy.Target(cluster)
		e.group = p + "-" + cluster
	}
	return e
}

// read fills in the registry's facts about a tag.
func (e *Entry) read(ctx context.Context, reg Registry, repo string) error {
	ref := repo + ":" + e.Tag
	data, desc, err := reg.Manifest(ctx, ref)
	if errors.Is(err, registry.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	e.Digest, e.media, e.raw = desc.Digest, desc.MediaType, data
	var m struct {
		Config    *ocispecs.Descriptor
		Layers    []ocispecs.Descriptor
		Manifests []ocispecs.Descriptor
	}
	if err := json.Unmarshal(data, &m); err != nil {
		e.spoil(fmt.Sprintf("its manifest cannot be decoded: %v", err))
		return nil
	}
	// A cache is a manifest, or in the older form an index whose entries are layers and
	// the config.
	config := m.Config
	for _, d := range m.Manifests {
		if d.MediaType == cacheimporttypes.CacheConfigMediaTypeV0 {
			config = &d
			continue
		}
		m.Layers = append(m.Layers, d)
	}
	for _, l := range m.Layers {
		e.layers = append(e.layers, l)
		e.Bytes += l.Size
	}
	if config == nil || config.MediaType != cacheimporttypes.CacheConfigMediaTypeV0 {
		if e.Kind != Marked {
			e.Kind, e.Target = Other, ""
		}
		return nil
	}
	return e.readConfig(ctx, reg, ref, *config)
}

// spoil notes that the content is useless, and why.
func (e *Entry) spoil(problem string) { e.Problem = problem }

// maxConfig bounds the list of records that is read; an importer reads 1 MiB.
const maxConfig = 16 << 20

func (e *Entry) readConfig(ctx context.Context, reg Registry, ref string, config ocispecs.Descriptor) error {
	data, err := reg.Blob(ctx, ref, config, maxConfig)
	switch {
	case errors.Is(err, registry.ErrNotFound), errors.Is(err, registry.ErrTooLarge):
		e.spoil(fmt.Sprintf("its list of steps cannot be read: %s", registry.Reason(err)))
		return nil
	case err != nil:
		return err
	}
	var list cacheimporttypes.CacheConfig
	if err := json.Unmarshal(data, &list); err != nil {
		e.spoil(fmt.Sprintf("its list of steps cannot be decoded: %v", err))
		return nil
	}
	newest := func(at time.Time) {
		if at.After(e.Newest) {
			e.Newest = at.UTC()
		}
	}
	for _, r := range list.Records {
		if len(r.Results) > 0 || len(r.ChainedResults) > 0 {
			e.Steps++
		}
		for _, res := range r.Results {
			newest(res.CreatedAt)
		}
		for _, res := range r.ChainedResults {
			newest(res.CreatedAt)
		}
	}
	return nil
}

// countOwn counts for each entry the layers that no other digest names.
func countOwn(entries []Entry) {
	users := map[digest.Digest]digest.Digest{} // layer -> its only user, "" when there are several
	for _, e := range entries {
		for _, l := range e.layers {
			if user, ok := users[l.Digest]; ok && user != e.Digest {
				users[l.Digest] = ""
				continue
			}
			users[l.Digest] = e.Digest
		}
	}
	for i := range entries {
		seen := map[digest.Digest]bool{}
		for _, l := range entries[i].layers {
			if users[l.Digest] == entries[i].Digest && !seen[l.Digest] {
				entries[i].Own += l.Size
			}
			seen[l.Digest] = true
		}
	}
}

// layerBytes is the size of the distinct layers of entries.
func layerBytes(entries []Entry) (sum int64) {
	seen := map[digest.Digest]bool{}
	for _, e := range entries {
		for _, l := range e.layers {
			if !seen[l.Digest] {
				seen[l.Digest] = true
				sum += l.Size
			}
		}
	}
	return sum
}

// byAge sorts the newest first.
func byAge(x, y Entry) int {
	return cmp.Or(y.Newest.Compare(x.Newest), cmp.Compare(x.Tag, y.Tag))
}
