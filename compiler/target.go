package compiler

import (
	"maps"
	"slices"

	"github.com/dbake/dbake/compiler/ir"
)

// definition is one target as a file wrote it, or a stack of such definitions
// merged: the form every family of files is reduced to before inheritance.
//
// A nil pointer, slice or map is an attribute that was not set; an empty but
// non-nil slice was set to nothing, which for the attributes that replace
// (tags, platforms, cache-to, output) empties what was inherited.
//
// Elements of the lists held by pointer are shared between a definition and
// those that inherit from it, as they are in docker buildx: an override that
// changes an inherited secret or output is seen by every holder of the element,
// and what a child adds to an inherited cache-from may land in spare room of the
// list that its siblings hold too. Both show in what is printed, so the lists are
// appended to and deduplicated in place, never copied.
type definition struct {
	name             string
	description      string // "" is unset
	inherits         []string
	annotations      []string
	attest           []ir.Attest
	context          *string
	contexts         map[string]string
	dockerfile       *string
	dockerfileInline *string
	args             map[string]*string // a nil value is a null, which sets nothing
	labels           map[string]*string // as args
	tags             []string
	cacheFrom        []*ir.CacheEntry
	cacheTo          []ir.CacheEntry
	stage            *string // the attribute "target"
	secrets          []*ir.Secret
	ssh              []ir.SSH
	platforms        []string
	outputs          []*ir.Output
	pull             *bool
	noCache          *bool
	network          *string
	noCacheFilter    []string
	shmSize          *string
	ulimits          []string
	resources        *ir.Resources
	call             *string
	entitlements     []string
	extraHosts       map[string]*string // as args
	policy           []ir.Policy
	dependsOn        []string // extension of dbake
	builtWith        []string // by depends_on of compose, which orders nothing

	// Set on resolved targets only.
	linked        bool    // built for those that read it
	remoteContext *string // directory of the remote definition that is the context

	// origins holds the place of each attribute, in the form that
	// [ir.Target.Origins] documents.
	origins map[string]ir.Range
	// base tells where relative local paths of the definition start when they
	// are read relative to the files that hold them.
	base pathBase
}

// pathBase remembers the directories of the files that set the context and the
// contexts of a definition.
type pathBase struct {
	file       *string           // directory of the file of the last block
	context    *string           // directory of the file that set "context"
	contextRef string            // target whose context the attribute repeats: target.NAME.context
	contexts   map[string]string // by name, the directory of the file that set the entry
	useFile    bool              // no context was set: the default is base.file
}

// merge lays d over t, attribute by attribute: what d sets replaces what t has,
// or is added to it, as the language has it for that attribute.
func (t *definition) merge(d *definition) {
	t.base.merge(d)
	if d.description != "" {
		t.description = d.description
	}
	t.inherits = append(t.inherits, d.inherits...)

	replace(&t.context, d.context)
	replace(&t.dockerfile, d.dockerfile)
	replace(&t.dockerfileInline, d.dockerfileInline)
	replace(&t.stage, d.stage)
	replace(&t.call, d.call)
	replace(&t.pull, d.pull)
	replace(&t.noCache, d.noCache)
	replace(&t.network, d.network)
	replace(&t.shmSize, d.shmSize)

	replaceList(&t.tags, d.tags)
	replaceList(&t.platforms, d.platforms)
	replaceList(&t.cacheTo, d.cacheTo)
	replaceList(&t.outputs, d.outputs)

	t.annotations = append(t.annotations, d.annotations...)
	t.noCacheFilter = append(t.noCacheFilter, d.noCacheFilter...)
	t.ulimits = append(t.ulimits, d.ulimits...)
	t.entitlements = append(t.entitlements, d.entitlements...)
	t.policy = append(t.policy, d.policy...)
	t.dependsOn = append(t.dependsOn, d.dependsOn...)
	t.builtWith = append(t.builtWith, d.builtWith...)

	t.attest = dedupeAttests(append(slices.Clip(t.attest), d.attest...))
	t.secrets = dedupeSecrets(append(slices.Clip(t.secrets), d.secrets...))
	t.ssh = dedupeSSH(append(slices.Clip(t.ssh), d.ssh...))
	t.cacheFrom = mergeCacheFrom(t.cacheFrom, d.cacheFrom)

	setEntries(&t.args, d.args)
	setEntries(&t.labels, d.labels)
	setEntries(&t.extraHosts, d.extraHosts)
	if len(d.contexts) > 0 && t.contexts == nil {
		t.contexts = make(map[string]string, len(d.contexts))
	}
	maps.Copy(t.contexts, d.contexts)
	if d.resources != nil {
		t.resources = mergeResources(t.resources, d.resources)
	}

	if len(d.origins) > 0 && t.origins == nil {
		t.origins = make(map[string]ir.Range, len(d.origins))
	}
	maps.Copy(t.origins, d.origins)
}

func (b *pathBase) merge(d *definition) {
	if d.base.file != nil {
		b.file, b.useFile = d.base.file, d.base.useFile
	}
	if d.context != nil {
		b.context, b.contextRef = d.base.context, d.base.contextRef
	}
	if len(d.contexts) > 0 && b.contexts == nil {
		b.contexts = make(map[string]string, len(d.contexts))
	}
	for name := range d.contexts {
		if dir, ok := d.base.contexts[name]; ok {
			b.contexts[name] = dir
		} else {
			delete(b.contexts, name)
		}
	}
}

// normalize drops what says nothing: duplicates, empty strings in lists, and
// contexts set to "". It runs once for every target and every parent, after
// the overrides.
func (t *definition) normalize() {
	t.annotations = dedupeStrings(t.annotations)
	t.tags = dedupeStrings(t.tags)
	t.platforms = dedupeStrings(t.platforms)
	t.noCacheFilter = dedupeStrings(t.noCacheFilter)
	t.ulimits = dedupeStrings(t.ulimits)
	if t.network != nil && *t.network == "host" {
		t.entitlements = append(slices.Clip(t.entitlements), "network.host")
	}
	t.entitlements = dedupeStrings(t.entitlements)
	t.dependsOn = dedupeStrings(t.dependsOn)
	t.builtWith = dedupeStrings(t.builtWith)

	t.attest = dedupeAttests(t.attest)
	t.secrets = dedupeSecrets(t.secrets)
	t.ssh = dedupeSSH(t.ssh)
	t.cacheFrom = dedupeCacheFrom(t.cacheFrom)
	t.cacheTo = dedupeCache(t.cacheTo)
	t.outputs = dedupeOutputs(t.outputs)

	maps.DeleteFunc(t.contexts, func(_, v string) bool { return v == "" })
	if len(t.contexts) == 0 {
		t.contexts = nil
	}
}

// maxInherited bounds a list of which nothing is dropped when it is inherited twice.
const maxInherited = 100_000

func (t *definition) tooLong() bool {
	return max(len(t.policy), len(t.cacheFrom), len(t.annotations), len(t.entitlements), len(t.ulimits), len(t.noCacheFilter)) > maxInherited
}

func replace[T any](dst **T, v *T) {
	if v != nil {
		*dst = v
	}
}

func replaceList[T any](dst *[]T, v []T) {
	if v != nil {
		*dst = v
	}
}

// setEntries copies the entries of src that are not null.
func setEntries(dst *map[string]*string, src map[string]*string) {
	for k, v := range src {
		if v == nil {
			continue
		}
		if *dst == nil {
			*dst = make(map[string]*string, len(src))
		}
		(*dst)[k] = v
	}
}

// mergeResources returns a with the fields that b sets replaced.
func mergeResources(a, b *ir.Resources) *ir.Resources {
	var r ir.Resources
	if a != nil {
		r = *a
	}
	replace(&r.Memory, b.Memory)
	replace(&r.MemorySwap, b.MemorySwap)
	replace(&r.CPUShares, b.CPUShares)
	replace(&r.CPUPeriod, b.CPUPeriod)
	replace(&r.CPUQuota, b.CPUQuota)
	replace(&r.CpusetCPUs, b.CpusetCPUs)
	replace(&r.CpusetMems, b.CpusetMems)
	return &r
}

// dedupeStrings returns the first occurrences of the strings of s that are not
// empty, in a new slice.
func dedupeStrings(s []string) []string {
	if len(s) == 0 {
		return s
	}
	seen := make(map[string]struct{}, len(s))
	out := make([]string, 0, len(s))
	for _, v := range s {
		if _, dup := seen[v]; v == "" || dup {
			continue
		}
		seen[v] = struct{}{}
		out = append(out, v)
	}
	return out
}
