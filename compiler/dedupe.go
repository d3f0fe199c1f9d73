package compiler

import (
	"slices"
	"strconv"

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
	return dedupeExact(slices.Clone(list), func(c ir.CacheEntry) string { return cacheKey(&c) })
}

// dedupeCacheFrom drops cache imports that equal an earlier one, in place.
func dedupeCacheFrom(list []*ir.CacheEntry) []*ir.CacheEntry {
	return dedupeExact(list, cacheKey)
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

func cacheKey(c *ir.CacheEntry) string {
	return string(appendAttrs(strconv.AppendQuote(nil, c.Type), c.Attrs))
}

// appendAttrs appends text that is the same for equal attributes only.
func appendAttrs(text []byte, attrs map[string]string) []byte {
	for _, k := range ir.SortedKeys(attrs) {
		text = strconv.AppendQuote(strconv.AppendQuote(text, k), attrs[k])
	}
	return text
}

// dedupeOutputs drops outputs that equal an earlier one.
func dedupeOutputs(list []*ir.Output) []*ir.Output {
	return dedupeExact(slices.Clone(list), func(o *ir.Output) string {
		return string(appendAttrs(strconv.AppendQuote(strconv.AppendQuote(nil, o.Type), o.Dest), o.Attrs))
	})
}

// dedupeExact drops from list, in place, every element that has the key of an earlier
// one. The order of what remains is the order of docker buildx, which shows in
// what is printed and in which cache is asked first: going backwards, the element
// found a second time changes places with the last one, which is cut off.
func dedupeExact[T any](list []T, key func(T) string) []T {
	keys := make([]string, len(list))
	at := make(map[string]int, len(list))
	for i := len(list) - 1; i >= 0; i-- {
		k := key(list[i])
		if j, ok := at[k]; ok {
			last := len(list) - 1
			list[j], keys[j] = list[last], keys[last]
			at[keys[j]] = j
			list = list[:last]
		}
		keys[i], at[k] = k, i
	}
	if len(list) == 0 {
		return nil
	}
	return list
}
