package compiler

import (
	"maps"
	"slices"

	"github.com/dbake/dbake/compiler/ir"
)

// dedupeAttests keeps one attestation of each type: the last value, in the
// place of the first.
func dedupeAttests(list []ir.Attest) []ir.Attest {
	return dedupeByKey(list, func(a ir.Attest) string { return a.Type })
}

// dedupeSecrets keeps one secret of each ID, as dedupeAttests does.
func dedupeSecrets(list []*ir.Secret) []*ir.Secret {
	return dedupeByKey(list, func(s *ir.Secret) string { return s.ID })
}

// dedupeSSH keeps one entry of each ID, as dedupeAttests does.
func dedupeSSH(list []ir.SSH) []ir.SSH {
	return dedupeByKey(list, func(s ir.SSH) string { return s.ID })
}

func dedupeByKey[T any](list []T, key func(T) string) []T {
	if len(list) == 0 {
		return nil
	}
	at := make(map[string]int, len(list))
	out := make([]T, 0, len(list))
	for _, v := range list {
		k := key(v)
		if i, ok := at[k]; ok {
			out[i] = v
			continue
		}
		at[k] = len(out)
		out = append(out, v)
	}
	return out
}

// dedupeCache drops cache exports that equal an earlier one.
func dedupeCache(list []ir.CacheEntry) []ir.CacheEntry {
	return dedupeExact(slices.Clone(list), func(a, b ir.CacheEntry) bool { return equalCache(&a, &b) })
}

// dedupeCacheFrom drops cache imports that equal an earlier one, in place.
func dedupeCacheFrom(list []*ir.CacheEntry) []*ir.CacheEntry {
	return dedupeExact(list, equalCache)
}

// mergeCacheFrom appends b to a, in the room a has if that is enough, and drops
// duplicates.
func mergeCacheFrom(a, b []*ir.CacheEntry) []*ir.CacheEntry {
	switch {
	case b == nil:
		return dedupeCacheFrom(a)
	case a == nil:
		return dedupeCacheFrom(b)
	}
	return dedupeCacheFrom(append(a, b...))
}

func equalCache(a, b *ir.CacheEntry) bool {
	return a.Type == b.Type && maps.Equal(a.Attrs, b.Attrs)
}

// dedupeOutputs drops outputs that equal an earlier one.
func dedupeOutputs(list []*ir.Output) []*ir.Output {
	return dedupeExact(slices.Clone(list), func(a, b *ir.Output) bool {
		return a.Type == b.Type && a.Dest == b.Dest && maps.Equal(a.Attrs, b.Attrs)
	})
}

// dedupeExact drops from list, in place, every element that equals an earlier
// one. The order of what remains is the order of docker buildx, which shows in
// what is printed and in which cache is asked first: going backwards, the element
// found a second time changes places with the last one, which is cut off.
func dedupeExact[T any](list []T, equal func(a, b T) bool) []T {
	if len(list) == 0 {
		return nil
	}
	for i := len(list) - 2; i >= 0; i-- {
		for j := i + 1; j < len(list); j++ {
			if equal(list[i], list[j]) {
				last := len(list) - 1
				list[j], list[last] = list[last], list[j]
				list = list[:last]
				break
			}
		}
	}
	return list
}
