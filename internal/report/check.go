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
	var buf bytes.Buffer
	if err := compiler.WriteJSON(&buf, p); err != nil {
		return nil, err
	}
	text := buf.Bytes()
	if registry != "" {
		text = bytes.ReplaceAll(text, []byte(registry), []byte("LOCAL-REGISTRY"))
	}
	var doc struct {
		Target map[string]json.RawMessage `json:"target"`
	}
	if err := json.Unmarshal(text, &doc); err != nil {
		return nil, fmt.Errorf("read the definition: %w", err)
	}
	digests := make(map[string]digest.Digest, len(doc.Target))
	for name, def := range doc.Target {
		digests[name] = digest.FromBytes(def)
	}
	return digests, nil
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
