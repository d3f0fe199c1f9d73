package compiler

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v4"

	"github.com/dbake/dbake/compiler/ir"
)

// A mapping that merges itself has no finite value. compose-go notices a mapping
// that contains itself by the path that leads to it; merging makes no path, and so
// it merges on until it has counted too many nodes, which takes a minute. Such files
// are refused before, in its words.

// checkAnchors returns an error for the first mapping that merges itself, in the
// files and those they name.
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
		if bytes.Contains(doc.data, []byte("<<")) {
			if node := selfMerging(doc.root, map[*yaml.Node]visit{}); node != nil {
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

// anchorError is a mapping that merges itself.
type anchorError struct {
	doc  *composeDoc
	node *yaml.Node
}

func (e *anchorError) Error() string {
	return fmt.Sprintf("failed to parse %s: yaml: construct errors:\n  line %d: compose file exceeds maximum node visit limit (100000)", e.doc.file, e.doc.root.Line)
}

// visit tells how far a mapping has been followed.
type visit int

const (
	visiting visit = iota + 1
	visited
)

// selfMerging returns the first mapping below node that merges itself.
func selfMerging(node *yaml.Node, state map[*yaml.Node]visit) *yaml.Node {
	if found := followMerges(node, state); found != nil {
		return found
	}
	for _, child := range node.Content {
		if found := selfMerging(child, state); found != nil {
			return found
		}
	}
	return nil
}

// followMerges returns a mapping that merges itself among those that node merges.
// A list of mappings to merge is not followed: its items have paths.
func followMerges(node *yaml.Node, state map[*yaml.Node]visit) *yaml.Node {
	switch {
	case node.Kind == yaml.AliasNode:
		return followMerges(node.Alias, state)
	case node.Kind != yaml.MappingNode || state[node] == visited:
		return nil
	case state[node] == visiting:
		return node
	}
	state[node] = visiting
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value != "<<" {
			continue
		}
		if found := followMerges(node.Content[i+1], state); found != nil {
			return found
		}
	}
	state[node] = visited
	return nil
}
