package compiler

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/compose-spec/compose-go/v2/template"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v4"

	"github.com/dbake/dbake/compiler/ir"
)

// compose-go returns values, not their places. composePlaces reads the YAML a
// second time to find the lines; it follows what files name each other by, but it
// does not repeat the merge: a value is looked for where it would win, and a
// place that is not found is the place of what encloses it.

// composePlaces finds the places of values in compose files.
type composePlaces struct {
	base  string            // see composeOptions.base
	env   map[string]string // for the variables in the names of files
	docs  []*composeDoc     // of the files that were given; the one that wins first
	files map[string][]*composeDoc
	index map[*yaml.Node]map[string]composeEntry
}

// composeDoc is one YAML document of a file.
type composeDoc struct {
	file  string
	data  []byte
	lines []int // where each line begins
	root  *yaml.Node
	dir   string // what the files it names are relative to, itself relative to base
}

func newComposeDoc(file string, data []byte) composeDoc {
	lines := []int{0}
	for i, c := range data {
		if c == '\n' {
			lines = append(lines, i+1)
		}
	}
	return composeDoc{file: file, data: data, lines: lines}
}

// composeEntry is an entry of a mapping.
type composeEntry struct{ key, value *yaml.Node }

// composePlace is an entry of a mapping, or an item of a list, in a document.
type composePlace struct {
	doc *composeDoc
	composeEntry
}

func newComposePlaces(files []sourceFile, base string, env map[string]string) *composePlaces {
	p := &composePlaces{
		base:  base,
		env:   env,
		files: map[string][]*composeDoc{},
		index: map[*yaml.Node]map[string]composeEntry{},
	}
	for _, f := range files {
		p.docs = append(p.docs, readComposeDocs(f.Name, f.Data, "")...)
	}
	slices.Reverse(p.docs)
	return p
}

// readComposeDocs parses the documents of a file, as far as they can be.
func readComposeDocs(name string, data []byte, dir string) []*composeDoc {
	var docs []*composeDoc
	file := newComposeDoc(name, data)
	for decoder := yaml.NewDecoder(bytes.NewReader(data)); ; {
		var root yaml.Node
		if err := decoder.Decode(&root); err != nil {
			return docs
		}
		if len(root.Content) == 1 {
			doc := file
			doc.root, doc.dir = root.Content[0], dir
			docs = append(docs, &doc)
		}
	}
}

// open returns the documents of a file that another names, in order of priority,
// or none if it cannot be read: what compose-go says about that is enough. What
// it names is relative to dir, or to its own directory if dir is "".
func (p *composePlaces) open(doc *composeDoc, name, dir string) []*composeDoc {
	name = p.expand(name)
	if name == "" {
		return nil
	}
	name = doc.join(name)
	if dir == "" {
		dir = filepath.Dir(name)
	}
	key := name + "\x00" + dir
	if docs, ok := p.files[key]; ok {
		return docs
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.base, path)
	}
	var docs []*composeDoc
	if data, err := readRegular(path); err == nil {
		docs = readComposeDocs(name, data, dir)
		slices.Reverse(docs)
	}
	p.files[key] = docs
	return docs
}

// join returns a path that the document names, relative to what its own is.
func (d *composeDoc) join(path string) string {
	if filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(d.dir, path)
}

// readRegular reads a file unless it is something that may never end.
func readRegular(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return io.ReadAll(f)
}

// expand replaces the variables of a file name; one it cannot expand names
// nothing.
func (p *composePlaces) expand(s string) string {
	out, err := template.SubstituteWithOptions(s, func(name string) (string, bool) {
		v, ok := p.env[name]
		return v, ok
	}, template.WithoutLogging)
	if err != nil {
		return ""
	}
	return out
}

// entries returns the entries of a mapping by key, those of its merge keys under
// its own.
func (p *composePlaces) entries(node *yaml.Node) map[string]composeEntry {
	node = resolveAlias(node)
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	if m, ok := p.index[node]; ok {
		return m
	}
	m := make(map[string]composeEntry, len(node.Content)/2)
	p.index[node] = m // also ends the search when a node merges itself
	var merged []*yaml.Node
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Value == "<<" {
			merged = append(merged, value)
			continue
		}
		m[key.Value] = composeEntry{key, value}
	}
	for _, from := range merged {
		list := []*yaml.Node{from}
		if n := resolveAlias(from); n != nil && n.Kind == yaml.SequenceNode {
			list = n.Content
		}
		for _, n := range list {
			for key, e := range p.entries(n) {
				if _, own := m[key]; !own {
					m[key] = e
				}
			}
		}
	}
	return m
}

func resolveAlias(node *yaml.Node) *yaml.Node {
	if node != nil && node.Kind == yaml.AliasNode {
		return node.Alias
	}
	return node
}

// descend returns the entry at a path of keys below a node. The last key may also
// be the name of an item of a list of "name=value" or "name:value".
func (p *composePlaces) descend(node *yaml.Node, path []string) (composeEntry, bool) {
	var e composeEntry
	for i, key := range path {
		next, ok := p.entries(node)[key]
		if !ok && i == len(path)-1 {
			next, ok = listEntry(resolveAlias(node), key)
		}
		if !ok {
			return composeEntry{}, false
		}
		e, node = next, next.value
	}
	return e, len(path) > 0
}

func listEntry(list *yaml.Node, name string) (composeEntry, bool) {
	if list == nil || list.Kind != yaml.SequenceNode {
		return composeEntry{}, false
	}
	for _, item := range list.Content {
		item := resolveAlias(item)
		if item.Kind != yaml.ScalarNode {
			continue
		}
		if rest, ok := strings.CutPrefix(item.Value, name); ok && (rest == "" || rest[0] == '=' || rest[0] == ':') {
			return composeEntry{item, item}, true
		}
	}
	return composeEntry{}, false
}

// maxComposeNesting bounds how far extends and include are followed; cycles are
// compose-go's to report.
const maxComposeNesting = 16

// find returns the place of the value at a path: in the documents themselves,
// the last that has it; for a service, in those it extends; then in the files
// that are included.
func (p *composePlaces) find(docs []*composeDoc, depth int, path ...string) (composePlace, bool) {
	if depth > maxComposeNesting {
		return composePlace{}, false
	}
	for _, doc := range docs {
		if e, ok := p.descend(doc.root, path); ok {
			return composePlace{doc, e}, true
		}
	}
	if len(path) > 2 && path[0] == "services" {
		for _, doc := range docs {
			e, ok := p.descend(doc.root, []string{"services", path[1], "extends"})
			if !ok {
				continue
			}
			var service string
			in := docs
			if n := resolveAlias(e.value); n.Kind == yaml.ScalarNode {
				service = p.expand(n.Value)
			} else {
				service = p.expand(scalar(p.entries(n)["service"].value))
				if file := scalar(p.entries(n)["file"].value); file != "" {
					in = p.open(doc, file, "")
				}
			}
			target := append([]string{"services", service}, path[2:]...)
			if slices.Equal(target, path) && len(in) == len(docs) && (len(in) == 0 || in[0] == docs[0]) {
				continue
			}
			if place, ok := p.find(in, depth+1, target...); ok {
				return place, true
			}
		}
	}
	for _, doc := range docs {
		for _, in := range p.includes(doc) {
			if place, ok := p.find(in, depth+1, path...); ok {
				return place, true
			}
		}
	}
	return composePlace{}, false
}

// includes returns the documents of each entry of the include section.
func (p *composePlaces) includes(doc *composeDoc) [][]*composeDoc {
	section := resolveAlias(p.entries(doc.root)["include"].value)
	if section == nil || section.Kind != yaml.SequenceNode {
		return nil
	}
	var out [][]*composeDoc
	for _, item := range section.Content {
		item = resolveAlias(item)
		names := []*yaml.Node{item}
		var dir string
		if item.Kind == yaml.MappingNode {
			m := p.entries(item)
			if project := p.expand(scalar(m["project_directory"].value)); project != "" {
				dir = doc.join(project)
			}
			names = []*yaml.Node{resolveAlias(m["path"].value)}
			if n := names[0]; n != nil && n.Kind == yaml.SequenceNode {
				names = n.Content
			}
		}
		var docs []*composeDoc
		for _, n := range names {
			more := p.open(doc, scalar(n), dir)
			if dir == "" && len(more) > 0 {
				dir = more[0].dir // the directory of the first is that of them all
			}
			docs = append(slices.Clone(more), docs...)
		}
		out = append(out, docs)
	}
	return out
}

func scalar(node *yaml.Node) string {
	if node = resolveAlias(node); node != nil && node.Kind == yaml.ScalarNode {
		return node.Value
	}
	return ""
}

// top returns the range of a top-level section.
func (p *composePlaces) top(section string) ir.Range {
	if place, ok := p.find(p.docs, 0, section); ok {
		return place.keyRange()
	}
	return ir.Range{}
}

// keyRange is the range of the name of an entry.
func (p composePlace) keyRange() ir.Range { return p.doc.nodeRange(p.key) }

// valueRange is the range of the value of an entry if it is a scalar, and of its
// name otherwise: where a list or mapping begins says little.
func (p composePlace) valueRange() ir.Range {
	if p.value.Kind == yaml.ScalarNode && p.value.Value != "" {
		return p.doc.nodeRange(p.value)
	}
	return p.keyRange()
}

// nodeRange returns the range of a scalar, as far as it stands on its first line.
func (d *composeDoc) nodeRange(node *yaml.Node) ir.Range {
	r := ir.Range{Filename: d.file, Start: ir.Pos{Line: node.Line, Column: node.Column}}
	line, offset := d.line(node.Line)
	rest := line
	for i := 1; i < node.Column && len(rest) > 0; i++ {
		_, size := utf8.DecodeRuneInString(rest)
		rest = rest[size:]
	}
	r.Start.Byte = offset + len(line) - len(rest)

	width := utf8.RuneCountInString(node.Value)
	if node.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle) != 0 {
		width += 2
	}
	if node.Style&(yaml.LiteralStyle|yaml.FoldedStyle) != 0 {
		width = 1 // the indicator
	}
	if node.Style&yaml.TaggedStyle != 0 {
		width = utf8.RuneCountInString(rest)
	}
	r.End = r.Start
	for ; width > 0 && len(rest) > 0; width-- {
		_, size := utf8.DecodeRuneInString(rest)
		rest = rest[size:]
		r.End.Column++
		r.End.Byte += size
	}
	return r
}

// line returns a line of the document without its end, and where it begins.
func (d *composeDoc) line(number int) (line string, offset int) {
	if number < 1 || number > len(d.lines) {
		return "", len(d.data)
	}
	offset = d.lines[number-1]
	data := d.data[offset:]
	if number < len(d.lines) {
		data = d.data[offset : d.lines[number]-1]
	}
	return strings.TrimSuffix(string(data), "\r"), offset
}

// origins returns where the attributes of a target were set, in the form that
// [ir.Target.Origins] documents.
func (p *composePlaces) origins(service types.ServiceConfig, d *definition) map[string]ir.Range {
	at := func(path ...string) (composePlace, bool) {
		return p.find(p.docs, 0, append([]string{"services", service.Name}, path...)...)
	}
	out := map[string]ir.Range{}
	if place, ok := p.find(p.docs, 0, "services", service.Name); ok {
		out[""] = place.keyRange()
	}

	// note notes the first of some places that exists as that of an attribute.
	note := func(attribute string, set bool, candidates ...[]string) {
		if !set {
			return
		}
		for _, path := range candidates {
			if place, ok := at(path...); ok {
				out[attribute] = place.valueRange()
				return
			}
		}
	}
	for _, a := range attributes {
		if a.compose == nil {
			continue
		}
		note(a.name, a.isSet(d), a.compose...)
		if a.names == nil {
			continue
		}
		for _, name := range a.names(d) {
			candidates := make([][]string, len(a.compose))
			for i, path := range a.compose {
				candidates[i] = append(slices.Clone(path), name)
			}
			note(a.name+"."+name, true, candidates...)
		}
	}
	return out
}

var (
	// composePath finds the path of a value in a message of compose-go.
	composePath = pattern(`(?:services|secrets)(?:\.[A-Za-z0-9_.-]+)`)
	// composeUnknown finds the key that such a message says is not allowed.
	composeUnknown = pattern(`additional properties '([^']+)'`)
	// composeService finds the name of a service in such a message.
	composeService = pattern(`\bservice "([^"]+)"|Circular reference:\n  (\S+) in `)
	// yamlLine finds the line in a message of the YAML parser.
	yamlLine = pattern(`\b(?:line \d+: )?line (\d+)(?:, column (\d+))?`)
)

// explainCompose adds to an error, which may be nil, the place in the files that
// its text speaks of.
func explainCompose(ctx context.Context, err error, files []sourceFile, opt composeOptions, env map[string]string) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	base := opt.base()
	text := err.Error()
	if base != "" {
		text = strings.ReplaceAll(text, base+string(filepath.Separator), "")
		// A file outside of the working directory was named from there too, unless
		// the user gave it in full.
		var missing *fs.PathError
		if errors.As(err, &missing) && filepath.IsAbs(missing.Path) && !writes(files, missing.Path) {
			if rel, relErr := filepath.Rel(base, missing.Path); relErr == nil {
				text = strings.ReplaceAll(text, missing.Path, rel)
			}
		}
	}
	e := &ir.SourceError{Summary: text, Err: err}
	if len(files) == 1 {
		e.Range.Filename = files[0].Name
	}

	var fault *composeFault
	if errors.As(err, &fault) {
		e.Range = fault.doc.lineRange(strconv.Itoa(fault.node.Line), "")
		if e.Range.Filename == "" { // as it is while a file is checked on its own
			e.Range.Filename = files[0].Name
		}
		e.Excerpt = excerpt(fault.doc.data, e.Range)
		return e
	}
	places := newComposePlaces(files, base, env)
	if place, ok := places.ofError(err, text); ok {
		e.Range = place.keyRange()
		e.Excerpt = excerpt(place.doc.data, e.Range)
		return e
	}
	// A syntax error has its line, of the file it names or of the only one.
	if m := yamlLine().FindStringSubmatch(text); m != nil {
		for _, f := range files {
			if len(files) > 1 && !strings.Contains(text, f.Name) {
				continue
			}
			doc := newComposeDoc(f.Name, f.Data)
			e.Range = doc.lineRange(m[1], m[2])
			e.Excerpt = excerpt(f.Data, e.Range)
			break
		}
	}
	return e
}

// writes reports whether one of the files has the text in it.
func writes(files []sourceFile, text string) bool {
	return slices.ContainsFunc(files, func(f sourceFile) bool { return bytes.Contains(f.Data, []byte(text)) })
}

// lineRange returns a line of a document as a range, from a column if there is
// one; both come as text.
func (d *composeDoc) lineRange(line, column string) ir.Range {
	r := ir.Range{Filename: d.file}
	number, err := strconv.Atoi(line)
	if err != nil || number < 1 {
		return r
	}
	node := &yaml.Node{Line: number, Column: 1, Style: yaml.TaggedStyle}
	if c, err := strconv.Atoi(column); err == nil && c > 0 {
		node.Column = c
	}
	return d.nodeRange(node)
}

// ofError returns the place of the innermost value that an error carries the path
// of or names in its text.
func (p *composePlaces) ofError(err error, text string) (composePlace, bool) {
	var path []string
	for e := (*composeError)(nil); errors.As(err, &e); err = e.err {
		path = append(path, e.path...)
	}
	candidates := [][]string{path}
	for _, match := range composePath().FindAllString(text, -1) {
		path := strings.Split(strings.Trim(match, ".:"), ".")
		if unknown := composeUnknown().FindStringSubmatch(text); unknown != nil {
			candidates = append(candidates, append(slices.Clone(path), unknown[1]))
		}
		candidates = append(candidates, path)
	}
	for _, match := range composeService().FindAllStringSubmatch(text, -1) {
		candidates = append(candidates, []string{"services", match[1] + match[2]})
	}
	for _, path := range candidates {
		// What a message says about the value may look like a part of its path.
		for n := len(path); n > 1; n-- {
			if place, ok := p.find(p.docs, 0, path[:n]...); ok {
				return place, true
			}
		}
	}
	return composePlace{}, false
}
