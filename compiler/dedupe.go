package compiler

import (
	"maps"

	"github.com/dbake/dbake/compiler/ir"
)

// dedupeAttests keeps one attestation of each type: the last value, in the
// place of the first.
func dedupeAttests(list []ir.Attest) []ir.Attest {
	return dedupeByKey(list, func(a ir.Attest) string { return a.Type })
}

// dedupeSecrets keeps one secret of each ID, as dedupeAttests does.
func dedupeSecrets(list []ir.Secret) []ir.Secret {
	return dedupeByKey(list, func(s ir.Secret) string { return s.ID })
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

// dedupeCache drops entries that equal an earlier one.
func dedupeCache(list []ir.CacheEntry) []ir.CacheEntry {
	return dedupeExact(list, func(a, b ir.CacheEntry) bool {
		return a.Type == b.Type && maps.Equal(a.Attrs, b.Attrs)
	})
}

// dedupeOutputs drops entries that equal an earlier one.
func dedupeOutputs(list []ir.Output) []ir.Output {
	return dedupeExact(list, func(a, b ir.Output) bool {
		return a.Type == b.Type && a.Dest == b.Dest && maps.Equal(a.Attrs, b.Attrs)
	})
}

// dedupeExact drops from list, in a new slice, every element that equals an
// earlier one. The order of what remains is the order of docker buildx, which
// shows in what is printed and in which cache is asked first: going backwards,
// the element found a second time makes room for the last one.
func dedupeExact[T any](list []T, equal func(a, b T) bool) []T {
	if len(list) == 0 {
		return nil
	}
	out := append([]T(nil), list...)
	for i := len(out) - 2; i >= 0; i-- {
		for j := i + 1; j < len(out); j++ {
			if equal(out[i], out[j]) {
				last := len(out) - 1
				out[j] = out[last]
				out = out[:last]
				break
			}
		}
	}
	return out
}
