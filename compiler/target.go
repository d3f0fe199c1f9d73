package compiler

import (
	"maps"
	"slices"

	"github.com/dbake/dbake/compiler/ir"
)

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
// or is added to it, as the table has it for that attribute.
func (t *definition) merge(d *definition) {
	t.base.merge(d)
	for _, a := range attributes {
		a.merge(t, d)
	}
	t.builtWith = append(t.builtWith, d.builtWith...)
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
	for _, a := range attributes {
		if a.normalize != nil {
			a.normalize(t)
		}
	}
	t.builtWith = dedupeStrings(t.builtWith)
}

// maxInherited bounds a list that keeps what is inherited twice.
const maxInherited = 100_000

func (t *definition) tooLong() bool {
	return slices.ContainsFunc(attributes, func(a targetAttr) bool { return a.grows != nil && a.grows(t) > maxInherited })
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
