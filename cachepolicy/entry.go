package cachepolicy

import (
	"maps"
	"strconv"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// tuning are the attributes that change how a cache is written, not where.
var tuning = map[string]bool{
	"mode": true, "ignore-error": true, "image-manifest": true, "oci-mediatypes": true,
	"compression": true, "compression-level": true, "force-compression": true, "registry.insecure": true,
	"timeout": true, "reset": true, "upload_parallelism": true, "touch_refresh": true,
}

// exportEntry returns the cache of a tag as BuildKit writes it.
func (s Store) exportEntry(tag string) ir.CacheEntry {
	e := s.Entry(s.Name + ":" + tag)
	e.Attrs["mode"] = "max"
	maps.Copy(e.Attrs, s.Attrs)
	e.Attrs["image-manifest"] = "true"
	e.Attrs["oci-mediatypes"] = "true"
	return e
}

// importEntry returns the cache of a tag as BuildKit reads it.
func (s Store) importEntry(tag string) ir.CacheEntry { return s.Entry(s.Name + ":" + tag) }

// Entry returns a cache of the store under a name, with what a node must know to reach it.
func (s Store) Entry(ref string) ir.CacheEntry {
	e := ir.CacheEntry{Type: ir.TypeRegistry, Attrs: map[string]string{"ref": ref}}
	if s.Insecure {
		e.Attrs["registry.insecure"] = "true"
	}
	return e
}

func clone(e ir.CacheEntry) ir.CacheEntry {
	attrs := maps.Clone(e.Attrs)
	if attrs == nil {
		attrs = map[string]string{}
	}
	return ir.CacheEntry{Type: e.Type, Attrs: attrs}
}

// display names the place of an entry for people.
func display(e ir.CacheEntry) string {
	if v := e.Attrs[placeAttr(e.Type, true)]; v != "" {
		return e.Type + " " + v
	}
	if v := e.Attrs[placeAttr(e.Type, false)]; v != "" {
		return e.Type + " " + v
	}
	return e.Type
}

// importKey is equal for two imports that BuildKit takes for one.
func importKey(e ir.CacheEntry) string {
	if e.Type == ir.TypeRegistry && e.Attrs["ref"] != "" {
		return ir.TypeRegistry + "\n" + withTag(e.Attrs["ref"])
	}
	return e.Type + "\n" + attrLines(e, nil)
}

// exportKey is equal for two exports that write to one place.
func exportKey(e ir.CacheEntry) string {
	switch e.Type {
	case ir.TypeRegistry:
		return ir.TypeRegistry + "\n" + withTag(e.Attrs["ref"])
	case ir.TypeLocal:
		return ir.TypeLocal + "\n" + strings.TrimRight(e.Attrs["dest"], "/") + "\n" + e.Attrs["tag"]
	}
	return e.Type + "\n" + attrLines(e, tuning)
}

func attrLines(e ir.CacheEntry, without map[string]bool) string {
	var b strings.Builder
	for _, k := range ir.SortedKeys(e.Attrs) {
		if !without[k] {
			b.WriteString(strconv.Quote(k) + "=" + strconv.Quote(e.Attrs[k]) + "\n")
		}
	}
	return b.String()
}

// withTag completes a reference as BuildKit does.
func withTag(ref string) string {
	if _, tag := cutRef(ref); tag != "" || strings.Contains(ref, "@") {
		return ref
	}
	return ref + ":latest"
}

// cutRef splits REPOSITORY:TAG; tag is "" when there is none, or a digest.
func cutRef(ref string) (repo, tag string) {
	if strings.Contains(ref, "@") {
		return ref, ""
	}
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		return ref[:i], ref[i+1:]
	}
	return ref, ""
}

// placeAttr returns the attribute that distinguishes two caches of one type; "" when the type
// has none that is known here.
func placeAttr(typ string, export bool) string {
	switch typ {
	case ir.TypeRegistry:
		return "ref"
	case ir.TypeGHA:
		return "scope"
	case ir.TypeS3, ir.TypeAzblob:
		return "name"
	case ir.TypeLocal:
		if export {
			return "dest"
		}
		return "src"
	}
	return ""
}

// withPart returns e with another place: that of part n of a cache that is
// written by several nodes. ok is false when e has no place that could be changed.
func withPart(e ir.CacheEntry, n int, export bool) (_ ir.CacheEntry, ok bool) {
	attr := placeAttr(e.Type, export)
	if attr == "" {
		return e, false
	}
	suffix := "-" + strconv.Itoa(n)
	value := e.Attrs[attr]
	switch e.Type {
	case ir.TypeRegistry:
		if value == "" || strings.Contains(value, "@") {
			return e, false
		}
		value = withTag(value) + suffix
	case ir.TypeS3, ir.TypeAzblob:
		if value == "" {
			value = "buildkit" // the type's default
		}
		value = strings.ReplaceAll(value, ";", suffix+";") + suffix // s3 takes a list
	case ir.TypeGHA:
		if value == "" {
			value = "buildkit"
		}
		value += suffix
	default:
		if value == "" {
			return e, false
		}
		value = strings.TrimRight(value, "/") + suffix
	}
	e = clone(e)
	e.Attrs[attr] = value
	return e, true
}
