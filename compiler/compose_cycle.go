package compiler

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/dbake/dbake/compiler/ir"
)

// A value that contains itself is endless. compose-go notices it by the path that
// leads to it again; but a merge adds nothing to the path, and a path with a key
// that has the merge sign in it is taken for a merge. It then goes on until it has
// counted too many nodes, which takes a minute and all memory. Such files are
// refused before, in its words.
//
// Files that have no end are refused as well, and so are files that name each other
// more than maxComposeDepth deep: compose-go goes through all that is below a file for
// every file above it.

// maxComposeDepth bounds how deep files may name each other.
const maxComposeDepth = 100

// checkEnds returns an error for the first value that contains itself unnoticed, and
// the first file without an end, in the files and those they name.
func checkEnds(files []sourceFile, base string, env map[string]string) error {
	worth := false
	for _, f := range files {
		anchors := bytes.ContainsRune(f.Data, '&') && bytes.ContainsRune(f.Data, '*')
		names := bytes.Contains(f.Data, []byte("include")) || bytes.Contains(f.Data, []byte("extends"))
		worth = worth || anchors || names || bytes.Contains(f.Data, []byte("_file"))
	}
	if !worth {
		return nil
	}
	p := newComposePlaces(files, base, env)
	return p.checkEnds(p.docs, map[*composeDoc]bool{}, 0)
}

func (p *composePlaces) checkEnds(docs []*composeDoc, seen map[*composeDoc]bool, depth int) error {
	for _, doc := range docs {
		if seen[doc] {
			continue
		}
		seen[doc] = true
		if depth > maxComposeDepth {
			return &composeFault{doc: doc, node: doc.root, text: fmt.Sprintf("files include or extend each other more than %d levels deep", maxComposeDepth)}
		}
		if bytes.Contains(doc.data, []byte(mergeKey)) {
			s := &endlessSearch{state: map[*yaml.Node]visit{}, all: hasOddKey(doc.root)}
			if node := s.below(doc.root); node != nil {
				return &composeFault{doc: doc, node: node, text: fmt.Sprintf("failed to parse %s: yaml: construct errors:\n  line %d: compose file exceeds maximum node visit limit (100000)", doc.file, doc.root.Line)}
			}
		}
		if err := p.checkNamed(doc); err != nil {
			return err
		}
		named := p.includes(doc)
		services := p.entries(p.entries(doc.root)["services"].value)
		for _, name := range ir.SortedKeys(services) {
			extends := p.entries(p.entries(services[name].value)["extends"].value)
			if file := scalar(extends["file"].value); file != "" {
				named = append(named, p.open(doc, file, ""))
			}
		}
		for _, docs := range named {
			if err := p.checkEnds(docs, seen, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// mergeKey is the key whose value is merged into the mapping that has it.
const mergeKey = "<<"

// checkNamed returns an error for a file that a document names and that has no end.
func (p *composePlaces) checkNamed(doc *composeDoc) error {
	var names []*yaml.Node
	add := func(node *yaml.Node, key string) {
		for _, item := range items(node) {
			if e, ok := p.entries(item)[key]; ok {
				names = append(names, items(e.value)...)
			} else {
				names = append(names, item)
			}
		}
	}
	root := p.entries(doc.root)
	add(root["include"].value, "path")
	for _, item := range items(root["include"].value) {
		add(p.entries(item)["env_file"].value, "path")
	}
	services := p.entries(root["services"].value)
	for _, name := range ir.SortedKeys(services) {
		service := p.entries(services[name].value)
		add(service["env_file"].value, "path")
		add(service["label_file"].value, "path")
		add(p.entries(service["extends"].value)["file"].value, "")
	}
	for _, node := range names {
		name := p.expand(scalar(node))
		if name == "" {
			continue
		}
		path := doc.join(name)
		if !filepath.IsAbs(path) {
			path = filepath.Join(p.base, path)
		}
		if problem := endless(path); problem != "" {
			return &composeFault{doc: doc, node: node, text: name + problem}
		}
	}
	return nil
}

// items are those of a list, or the node alone.
func items(node *yaml.Node) []*yaml.Node {
	switch node = resolveAlias(node); {
	case node == nil:
		return nil
	case node.Kind == yaml.SequenceNode:
		return node.Content
	default:
		return []*yaml.Node{node}
	}
}

// endless says in what way a file has no end that could be waited for, "" if it has
// one or is not there. A pipe may have one.
func endless(path string) string {
	st, err := os.Stat(path)
	if err != nil {
		return ""
	}
	switch {
	case st.Mode()&fs.ModeDevice != 0:
		if null, err := os.Stat(os.DevNull); err == nil && os.SameFile(st, null) {
			return ""
		}
		return " is a device and not a file"
	case st.Mode().IsRegular() && st.Size() > maxFileSize:
		return fmt.Sprintf(" is larger than %d MiB", maxFileSize>>20)
	}
	return ""
}

// composeFault is why a compose file is not read.
type composeFault struct {
	doc  *composeDoc
	node *yaml.Node
	text string
}

func (e *composeFault) Error() string { return e.text }

// visit is how far a node has been followed.
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
