package compiler

import (
	"bytes"
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/dbake/dbake/compiler/ir"
)

// An anchor whose value merges an alias of itself has no finite value. The parser
// beneath compose-go follows it until the stack is full, which nothing can recover
// from; so such files are refused before it sees them. In a file without merge keys
// compose-go notices, and says it better.

// checkAnchors returns an error for the first anchor that contains itself in the
// files, and those they name, that have merge keys.
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
			if node := selfContaining(doc.root, map[*yaml.Node]visit{}); node != nil {
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

// anchorError is an anchor that contains itself.
type anchorError struct {
	doc  *composeDoc
	node *yaml.Node
}

func (e *anchorError) Error() string {
	return fmt.Sprintf("failed to parse %s: yaml: line %d: anchor '%s' value contains itself", e.doc.file, e.node.Line, e.node.Anchor)
}

// visit tells how far a node has been searched.
type visit int

const (
	visiting visit = iota + 1
	visited
)

// selfContaining returns the first node below one that contains an alias of
// itself.
func selfContaining(node *yaml.Node, state map[*yaml.Node]visit) *yaml.Node {
	switch state[node] {
	case visiting:
		return node
	case visited:
		return nil
	}
	state[node] = visiting
	children := node.Content
	if node.Kind == yaml.AliasNode {
		children = []*yaml.Node{node.Alias}
	}
	for _, child := range children {
		if found := selfContaining(child, state); found != nil {
			return found
		}
	}
	state[node] = visited
	return nil
}
