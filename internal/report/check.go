package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
)

// Definitions returns a digest of the resolved definition of each target. registry
// is the address of the local registry, "" when there is none: it may be another
// one in every run, so it does not count.
func Definitions(p *ir.Project, registry string) (map[string]digest.Digest, error) {
	var text bytes.Buffer
	if err := compiler.WriteJSON(&text, p); err != nil {
		return nil, err
	}
	var doc struct {
		Target map[string]json.RawMessage `json:"target"`
	}
	if err := json.Unmarshal(text.Bytes(), &doc); err != nil {
		return nil, fmt.Errorf("read the definition: %w", err)
	}
	digests := make(map[string]digest.Digest, len(doc.Target))
	for name, def := range doc.Target {
		anywhere, err := cutRegistry(def, registry)
		if err != nil {
			return nil, fmt.Errorf("read the definition of target %s: %w", name, err)
		}
		digests[name] = digest.FromBytes(anywhere)
	}
	return digests, nil
}

// cutRegistry encodes a definition with every text around the address of the local
// registry as the list of its pieces. No text of a user is such a list, so only
// definitions that differ in that address are alike.
func cutRegistry(def json.RawMessage, registry string) (json.RawMessage, error) {
	if registry == "" {
		return def, nil
	}
	var value any
	numbers := json.NewDecoder(bytes.NewReader(def))
	numbers.UseNumber() // they stay as they are written
	if err := numbers.Decode(&value); err != nil {
		return nil, err
	}
	found := false
	var cut func(v any) any
	cut = func(v any) any {
		switch v := v.(type) {
		case string:
			if pieces := around(v, registry); len(pieces) > 1 {
				found = true
				return map[string]any{"around the local registry": pieces}
			}
		case []any:
			for i := range v {
				v[i] = cut(v[i])
			}
		case map[string]any:
			var named []any // entries whose names mention it
			for _, key := range ir.SortedKeys(v) {
				v[key] = cut(v[key])
				if pieces := around(key, registry); len(pieces) > 1 {
					named = append(named, pieces, v[key])
					delete(v, key)
				}
			}
			if named != nil {
				found = true
				return []any{v, named}
			}
		}
		return v
	}
	if value = cut(value); !found {
		return def, nil
	}
	return json.Marshal(value)
}

// around returns what stands before, between and after the mentions of an address. An
// address with more digits or a longer host is another one.
func around(text, address string) []string {
	var pieces []string
	piece := 0 // where it begins
	for at := 0; ; {
		i := strings.Index(text[at:], address)
		if i < 0 {
			return append(pieces, text[piece:])
		}
		begin, end := at+i, at+i+len(address)
		at = begin + 1
		if begin > 0 && partOfHost(text[begin-1]) || end < len(text) && partOfHost(text[end]) {
			continue
		}
		pieces = append(pieces, text[piece:begin])
		piece, at = end, end
	}
}

// partOfHost reports whether a character may stand in the name of a host.
func partOfHost(c byte) bool {
	return c == '.' || c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// Check compares what a saved plan is for with the targets as they are defined now.
// The error says which differ, and wraps [plan.ErrOutdated]. What the targets consist of
// (Dockerfiles, files) may have changed: the plan says where they are built, not
// what they are.
func (f *File) Check(definitions map[string]digest.Digest) error {
	var changed, missing, added []string
	planned := map[string]bool{}
	for _, t := range f.Targets {
		name := t.Name
		if t.Target != "" {
			name = t.Target
		}
		if planned[name] {
			continue // another part of it
		}
		planned[name] = true
		switch now, ok := definitions[name]; {
		case !ok:
			missing = append(missing, name)
		case now != t.Definition:
			changed = append(changed, name)
		}
	}
	for _, name := range ir.SortedKeys(definitions) {
		if !planned[name] {
			added = append(added, name)
		}
	}
	var parts []string
	for _, p := range []struct {
		what  string
		names []string
	}{{"changed", changed}, {"no longer defined", missing}, {"not in the plan", added}} {
		if len(p.names) > 0 {
			slices.Sort(p.names)
			parts = append(parts, p.what+": "+strings.Join(p.names, ", "))
		}
	}
	if len(parts) == 0 {
		return nil
	}
	return fmt.Errorf("%w: since it was made, the definition of targets has changed (%s); make it anew with dbake plan", plan.ErrOutdated, strings.Join(parts, "; "))
}
