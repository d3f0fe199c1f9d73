package compiler

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/distribution/reference"
	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"

	"github.com/dbake/dbake/compiler/ir"
)

// warnings returns the objections of a strict reading, in order of place: things that the
// language allows although they are most likely mistakes.
func (l *loaded) warnings(p *ir.Project) ([]*ir.SourceError, error) {
	w := &warner{sources: l.sources}
	for _, message := range l.composed {
		w.warn(ir.Range{}, message, "")
	}
	for _, f := range l.files.hcl {
		w.unknownBlocks(f.body)
	}
	w.unknownContent(l.evaluator)
	w.unusedVariables(l.evaluator)
	w.findUndeclared(l)
	w.numbers(l.evaluator)
	if err := w.composeFiles(l.files.compose); err != nil {
		return nil, err
	}
	for _, d := range l.evaluator.ignored {
		if d.Subject != nil {
			w.warn(sourceRange(*d.Subject), "Ignored "+dependsOnAttribute, d.Summary+": "+d.Detail)
		}
	}
	for _, t := range l.config.targets {
		for _, name := range t.dependsOn {
			if _, ok := l.config.byName[name]; !ok && name != "" {
				w.warn(t.origin(dependsOnAttribute), "Unknown target in "+dependsOnAttribute,
					fmt.Sprintf("There is no target %q.%s", name, suggest(name, ir.SortedKeys(l.config.byName))))
			}
		}
	}
	w.sharedExports(p)

	order := map[string]int{}
	for i, f := range l.files.hcl {
		order[f.Name] = i + 1
	}
	slices.SortStableFunc(w.list, func(a, b *ir.SourceError) int {
		return cmp.Or(
			cmp.Compare(order[a.Range.Filename], order[b.Range.Filename]),
			cmp.Compare(a.Range.Filename, b.Range.Filename),
			cmp.Compare(a.Range.Start.Byte, b.Range.Start.Byte),
		)
	})
	return w.list, nil
}

type warner struct {
	sources sources
	list    []*ir.SourceError
}

func (w *warner) warn(r ir.Range, summary, detail string) {
	w.list = append(w.list, &ir.SourceError{
		Range: r, Summary: summary, Detail: detail, Excerpt: excerpt(w.sources[r.Filename], r),
	})
}

// unknownBlocks finds top-level blocks of types that do not exist. In JSON there
// is no telling them from global attributes.
func (w *warner) unknownBlocks(body hcl.Body) {
	native, ok := body.(*hclsyntax.Body)
	if !ok {
		return
	}
	known := []string{blockFunction, blockGroup, blockTarget, blockVariable}
	for _, b := range native.Blocks {
		if !slices.Contains(known, b.Type) {
			w.warn(sourceRange(b.TypeRange), "Unknown block",
				fmt.Sprintf("Blocks of type %q are ignored.%s", b.Type, suggest(b.Type, known)))
		}
	}
}

// unknownContent finds attributes and blocks inside of blocks that mean nothing
// there.
func (w *warner) unknownContent(e *evaluator) {
	for _, b := range e.blocks {
		schema := targetSchema
		if b.Type == blockGroup {
			schema = groupSchema
		}
		w.unknownIn(b.Block, schema)
	}
	for _, name := range e.variables.names {
		w.unknownIn(e.variables.byKey[name].block, variableSchema)
	}
}

func (w *warner) unknownIn(b *hcl.Block, schema *hcl.BodySchema) {
	var attrs, blocks []string
	for _, a := range schema.Attributes {
		attrs = append(attrs, a.Name)
	}
	for _, n := range schema.Blocks {
		blocks = append(blocks, n.Type)
	}
	// The diagnostics are about nested blocks, which follow.
	content, _ := b.Body.JustAttributes()
	for _, a := range sortedAttributes(content) {
		if !slices.Contains(attrs, a.Name) && !slices.Contains(blocks, a.Name) {
			w.warn(sourceRange(a.NameRange), "Unknown attribute",
				fmt.Sprintf("A %s has no attribute %q.%s", b.Type, a.Name, suggest(a.Name, attrs)))
		}
	}
	native, ok := b.Body.(*hclsyntax.Body)
	if !ok {
		return
	}
	for _, n := range native.Blocks {
		switch {
		case slices.Contains(blocks, n.Type):
		case slices.Contains(attrs, n.Type):
			w.warn(sourceRange(n.TypeRange), "Unknown block",
				fmt.Sprintf("%q is an attribute of a %s: write it with an equals sign.", n.Type, b.Type))
		default:
			w.warn(sourceRange(n.TypeRange), "Unknown block",
				fmt.Sprintf("A %s has no block %q.%s", b.Type, n.Type, suggest(n.Type, append(blocks, attrs...))))
		}
	}
}

// findUndeclared finds values of --var that no file asks for.
func (w *warner) findUndeclared(l *loaded) {
	known := l.evaluator.variables.byKey
	for _, name := range ir.SortedKeys(l.vars) {
		if _, ok := known[name]; ok {
			continue
		}
		if base, ok := strings.CutSuffix(name, jsonSuffix); ok && known[base] != nil {
			continue
		}
		used := slices.ContainsFunc(l.files.compose, func(f sourceFile) bool {
			return bytes.Contains(f.Data, []byte("$"+name)) || bytes.Contains(f.Data, []byte("${"+name))
		})
		if !used {
			w.warn(ir.Range{Filename: "--var " + name}, "Unknown variable",
				fmt.Sprintf("No file declares a variable %q.%s", name, suggest(name, l.evaluator.variables.names)))
		}
	}
}

// unusedVariables finds variables that no expression but their own refers to.
func (w *warner) unusedVariables(e *evaluator) {
	used := map[string]struct{}{}
	note := func(owner string, traversals []hcl.Traversal) {
		for _, v := range traversals {
			if name := v.RootName(); name != owner {
				used[name] = struct{}{}
			}
		}
	}
	for _, b := range e.blocks {
		for _, a := range b.attributes {
			note("", a.expr.variables)
		}
	}
	for _, name := range e.globals.names {
		note(name, e.globals.byKey[name].expr.variables)
	}
	for _, name := range e.functions.names {
		if f := e.functions.byKey[name]; f.result != nil {
			note("", f.result.variables)
		}
	}
	for _, name := range e.variables.names {
		v := e.variables.byKey[name]
		if v.fallback != nil {
			note(name, v.fallback.variables)
		}
		for _, rule := range v.validations {
			for _, x := range []hcl.Expression{rule.condition, rule.message} {
				if x != nil {
					note(name, x.Variables())
				}
			}
		}
	}
	for _, name := range e.variables.names {
		if _, ok := used[name]; !ok {
			rng := e.variables.byKey[name].block.LabelRanges[0]
			w.warn(sourceRange(rng), "Unused variable", fmt.Sprintf("Nothing refers to %q.", name))
		}
	}
}

// cachePlaces are the attributes that say where an export of a type goes. Types
// that are not listed go along with the image.
var cachePlaces = map[string][]string{
	"azblob":   {"account_url", "container", "name"},
	"gha":      {"url", "scope"},
	"local":    {"dest"},
	"registry": {"ref"},
	"s3":       {"bucket", "prefix", "name"},
}

// sharedExports finds caches and images that several targets write: what the last
// one leaves is left to chance.
func (w *warner) sharedExports(p *ir.Project) {
	caches, images := map[string]string{}, map[string]string{}
	for _, t := range p.Targets {
		for _, c := range t.CacheTo {
			attrs, ok := cachePlaces[c.Type]
			if !ok {
				continue
			}
			place := c.Type
			for _, a := range attrs {
				v := c.Attrs[a]
				if a == "ref" {
					v = imageName(v)
				}
				if v != "" {
					place += "," + a + "=" + v
				}
			}
			if other, ok := caches[place]; ok && other != t.Name {
				w.warn(t.Origin("cache-to"), "Cache exported twice",
					fmt.Sprintf("Targets %q and %q both export to %s: one overwrites the other.", other, t.Name, place))
			} else {
				caches[place] = t.Name
			}
		}
		if t.Linked {
			continue // exports nothing
		}
		for _, tag := range t.Tags {
			image := imageName(tag)
			if other, ok := images[image]; ok && other != t.Name {
				w.warn(t.Origin("tags"), "Tag built twice",
					fmt.Sprintf("Targets %q and %q both build %s: one overwrites the other.", other, t.Name, tag))
			} else {
				images[image] = t.Name
			}
		}
	}
}

// imageName returns an image reference in full, as "docker.io/library/a:latest" for
// "a", so that two spellings of one image are seen to be the same.
func imageName(ref string) string {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return ref
	}
	return reference.TagNameOnly(named).String()
}

// suggest returns a sentence that names the most similar of the known names, ""
// if none is.
func suggest(name string, known []string) string {
	best, distance := "", max(2, len(name)/3)+1
	for _, k := range known {
		if d := editDistance(name, k); d < distance {
			best, distance = k, d
		}
	}
	if best == "" || distance >= len(name) {
		return ""
	}
	return fmt.Sprintf(" Did you mean %q?", best)
}

// editDistance is the number of insertions, deletions and substitutions that turn
// a into b (Levenshtein).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substituted := diagonal
			if a[i] != b[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
