package compiler

import (
	"bytes"
	"fmt"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/dbake/dbake/compiler/ir"
)

// A value that contains itself is endless. compose-go notices it by the path that
// leads to it again; but a merge adds nothing to the path, and a path with a key
// that has the merge sign in it is taken for a merge. It then goes on until it has
// counted too many nodes, which takes a minute and all memory. Such files are
// refused before, in its words.

// checkAnchors returns an error for the first value that contains itself unnoticed,
// in the files and those they name.
func checkAnchors(files []sourceFile, base string, env map[string]string) error {
	worth := false
	for _, f := range files {
		anchors := bytes.ContainsRune(f.Data, '&') && bytes.ContainsRune(f.Data, '*')
		names := bytes.Contains(f.Data, []byte("include")) || bytes.Contains(f.Data, []byte("extends"))
		worth = worth || anchors || names
	}
	if !worth {
		return nil
	}
	p := newComposePlaces(files, base, env)
	return p.checkAnchors(p.docs, map[*composeDoc]bool{})
}

func (p *composePlaces) checkAnchors(docs []*composeDoc, seen map[*composeDoc]bool) error {
	for _, doc := range docs {
		if seen[doc] {
			continue
		}
		seen[doc] = true
		if bytes.Contains(doc.data, []byte(mergeKey)) {
			s := &endlessSearch{state: map[*yaml.Node]visit{}, all: hasOddKey(doc.root)}
			if node := s.below(doc.root); node != nil {
				return &anchorError{doc: doc, node: node}
			}
		}
		named := p.included(doc)
		services := p.entries(p.entries(doc.root)["services"].value)
		for _, name := range ir.SortedKeys(services) {
			extends := p.entries(p.entries(services[name].value)["extends"].value)
			if file := scalar(extends["file"].value); file != "" {
				named = append(named, p.open(doc, file, ""))
			}
		}
		for _, docs := range named {
			if err := p.checkAnchors(docs, seen); err != nil {
				return err
			}
		}
	}
	return nil
}

// mergeKey is the key whose value is merged into the mapping that has it.
const mergeKey = "<<"

// anchorError is a value that contains itself.
type anchorError struct {
	doc  *composeDoc
	node *yaml.Node
}

func (e *anchorError) Error() string {
	return fmt.Sprintf("failed to parse %s: yaml: construct errors:\n  line %d: compose file exceeds maximum node visit limit (100000)", e.doc.file, e.doc.root.Line)
}

// visit tells how far a node has been followed.
type visit int

const (
	visiting visit = iota + 1
	visited
)

// endlessSearch looks for a node that leads back to itself through merges, or
// through anything. A list of mappings to merge counts as anything: its items have
// paths.
type endlessSearch struct {
	state map[*yaml.Node]visit
	all   bool
}

// below returns the first such node in a tree.
func (s *endlessSearch) below(node *yaml.Node) *yaml.Node {
	if found := s.follow(node); found != nil {
		return found
	}
	for _, child := range node.Content {
		if found := s.below(child); found != nil {
			return found
		}
	}
	return nil
}

func (s *endlessSearch) follow(node *yaml.Node) *yaml.Node {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch s.state[node] {
	case visiting:
		return node
	case visited:
		return nil
	}
	s.state[node] = visiting
	for i, child := range node.Content {
		merged := node.Kind == yaml.MappingNode && i%2 == 1 && node.Content[i-1].Value == mergeKey
		if !merged && !s.all {
			continue
		}
		if found := s.follow(child); found != nil {
			return found
		}
	}
	s.state[node] = visited
	return nil
}

// hasOddKey reports whether a mapping below node has a key with the merge sign in
// it that does not merge.
func hasOddKey(node *yaml.Node) bool {
	for i, child := range node.Content {
		key := node.Kind == yaml.MappingNode && i%2 == 0
		if key && child.Value != mergeKey && strings.Contains(child.Value, mergeKey) || hasOddKey(child) {
			return true
		}
	}
	return false
}
