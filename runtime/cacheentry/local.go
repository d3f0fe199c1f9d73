package cacheentry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/cachepolicy"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/runtime/layout"
)

// LocalImports makes imports of caches in directories ready to be sent: each is
// named by its digest, and its store is among those returned. A cache that is not
// there is left out with a warning, as before the first build that writes it.
func LocalImports(imports []cachepolicy.Import, dir string) (kept []cachepolicy.Import, stores map[string]content.Store, warnings []string, err error) {
	stores = map[string]content.Store{}
	for _, im := range imports {
		e := &im.Entry
		e.Attrs = maps.Clone(e.Attrs)
		if e.Type != ir.TypeLocal {
			kept = append(kept, im)
			continue
		}
		src := e.Attrs["src"]
		if src == "" {
			return nil, nil, nil, errors.New("cache-from of type local: src is required")
		}
		if !filepath.IsAbs(src) {
			src = filepath.Join(dir, src)
		}
		e.Attrs["src"] = src
		if err := findCache(e.Attrs); err != nil {
			warnings = append(warnings, fmt.Sprintf("cache in %s is not used: %v", src, err))
			continue
		}
		stores[StoreID(src)] = layout.Store(src)
		kept = append(kept, im)
	}
	return kept, stores, warnings, nil
}

// LocalExport makes an export of a cache into a directory ready to be sent.
func LocalExport(e ir.CacheEntry, dir string) (ir.CacheEntry, error) {
	if e.Type != ir.TypeLocal {
		return e, nil
	}
	dest := e.Attrs["dest"]
	if dest == "" {
		return e, errors.New("cache-to of type local: dest is required")
	}
	e.Attrs = maps.Clone(e.Attrs)
	if !filepath.IsAbs(dest) {
		e.Attrs["dest"] = filepath.Join(dir, dest)
	}
	return e, nil
}

// StoreID is the id under which a node asks for the cache in a directory.
func StoreID(dir string) string { return "local:" + dir }

// findCache sets the digest of the cache that the attributes name by tag, and
// checks that it is there.
func findCache(attrs map[string]string) error {
	src := attrs["src"]
	if attrs["digest"] == "" {
		tag, ok := attrs["tag"]
		if !ok {
			tag = "latest"
		}
		dt, err := os.ReadFile(filepath.Join(src, ocispecs.ImageIndexFile))
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("there is none")
		}
		if err != nil {
			return err
		}
		var index ocispecs.Index
		if err := json.Unmarshal(dt, &index); err != nil {
			return fmt.Errorf("%s: %w", ocispecs.ImageIndexFile, err)
		}
		for _, m := range index.Manifests {
			if m.Annotations[ocispecs.AnnotationRefName] == tag {
				attrs["digest"] = m.Digest.String()
				break
			}
		}
		if attrs["digest"] == "" {
			return fmt.Errorf("it has no tag %q", tag)
		}
	}
	blob, err := layout.Store(src).Path(digest.Digest(attrs["digest"]))
	if err != nil {
		return err
	}
	if _, err := os.Stat(blob); err != nil {
		return fmt.Errorf("%s is missing", attrs["digest"])
	}
	return nil
}
