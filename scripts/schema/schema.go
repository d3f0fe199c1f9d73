package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/constant"
	"go/types"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/tools/go/packages"
)

// document is one schema.
type document struct {
	file, title string
	pkg, root   string
	// other is the type of objects that lack the property by; "" when all are of type
	// root.
	other, by string
}

// load reads the packages of all documents, and those of the module that they import.
func load() (map[string]*packages.Package, error) {
	var patterns []string
	for _, d := range documents {
		if !slices.Contains(patterns, d.pkg) {
			patterns = append(patterns, d.pkg)
		}
	}
	loaded, err := packages.Load(&packages.Config{Mode: packages.LoadSyntax}, patterns...)
	if err != nil {
		return nil, err
	}
	byPath := map[string]*packages.Package{}
	for _, p := range loaded {
		for _, e := range p.Errors {
			return nil, errors.New(e.Error())
		}
		byPath[p.PkgPath] = p
	}
	return byPath, nil
}

// object is a JSON object that keeps its order.
type object []member

type member struct {
	key   string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, part := range []any{m.key, m.value} {
			if j > 0 {
				b.WriteByte(':')
			}
			enc := json.NewEncoder(&b)
			enc.SetEscapeHTML(false)
			if err := enc.Encode(part); err != nil {
				return nil, err
			}
		}
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// maker makes one document.
type maker struct {
	pkg  *packages.Package
	defs object
	seen map[string]bool
	keys map[string]string // of fields of the package, by Go name; "" when they differ
}

// names fills in keys.
func (m *maker) names() {
	m.keys = map[string]string{}
	scope := m.pkg.Types.Scope()
	for _, name := range scope.Names() {
		st, ok := scope.Lookup(name).Type().Underlying().(*types.Struct)
		if !ok {
			continue
		}
		for i := range st.NumFields() {
			if reflect.StructTag(st.Tag(i)).Get("json") == "" {
				continue
			}
			f := st.Field(i).Name()
			key, _ := jsonTag(st.Tag(i), f)
			if other, known := m.keys[f]; known && other != key {
				key = ""
			}
			m.keys[f] = key
		}
	}
}

// inJSON names the fields of other types as JSON does, where that is clear.
func (m *maker) inJSON(text string) string { return inJSON(text, m.keys) }

// schema returns the document.
func (d document) schema(loaded map[string]*packages.Package) ([]byte, error) {
	m := &maker{pkg: loaded[d.pkg], seen: map[string]bool{}}
	m.names()
	root, err := m.typeRef(d.root)
	if err != nil {
		return nil, err
	}
	out := object{
		{"$schema", "https://json-schema.org/draft/2020-12/schema"},
		{"title", d.title},
		{"$comment", "Made by scripts/schema; readers must take properties and values that are not listed here, as later versions add some."},
	}
	if d.other == "" {
		out = append(out, member{"$ref", root})
	} else {
		other, err := m.typeRef(d.other)
		if err != nil {
			return nil, err
		}
		out = append(out, member{"if", object{{"required", []string{d.by}}}},
			member{"then", object{{"$ref", root}}}, member{"else", object{{"$ref", other}}})
	}
	out = append(out, member{"$defs", m.defs})
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(out); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// typeRef returns the reference to a type of the document's own package.
func (m *maker) typeRef(name string) (string, error) {
	obj := m.pkg.Types.Scope().Lookup(name)
	if obj == nil {
		return "", fmt.Errorf("%s has no type %s", m.pkg.PkgPath, name)
	}
	s, err := m.of(obj.Type())
	if err != nil {
		return "", err
	}
	return s[0].value.(string), nil
}

// special are the types that are not printed as they are made.
var special = map[string]object{
	"time.Time":                {{"type", "string"}, {"format", "date-time"}},
	"encoding/json.RawMessage": {},
	module + "internal/report.Values": {{"oneOf", []object{
		{{"type", "string"}}, {{"type", "array"}, {"items", object{{"type", "string"}}}},
	}}},
}

// of returns the schema of a type.
func (m *maker) of(t types.Type) (object, error) {
	t = types.Unalias(t)
	if n, ok := t.(*types.Named); ok {
		name := n.Obj().Name()
		if n.Obj().Pkg() != nil {
			name = n.Obj().Pkg().Path() + "." + name
		}
		if s, ok := special[name]; ok {
			return s, nil
		}
		if st, ok := n.Underlying().(*types.Struct); ok {
			return m.define(n, st)
		}
		if method, _, _ := types.LookupFieldOrMethod(n, true, n.Obj().Pkg(), "MarshalJSON"); method != nil {
			return nil, fmt.Errorf("%s prints itself; name it in special", name)
		}
		if values := constants(n); len(values) > 0 {
			return object{{"type", "string"}, {"examples", values}}, nil
		}
	}
	switch t := t.Underlying().(type) {
	case *types.Basic:
		return basic(t)
	case *types.Pointer:
		return m.of(t.Elem())
	case *types.Slice:
		if b, ok := t.Elem().Underlying().(*types.Basic); ok && b.Kind() == types.Byte {
			return object{{"type", "string"}, {"contentEncoding", "base64"}}, nil
		}
		items, err := m.of(t.Elem())
		return object{{"type", "array"}, {"items", items}}, err
	case *types.Map:
		values, err := m.of(t.Elem())
		if _, pointer := t.Elem().Underlying().(*types.Pointer); pointer && err == nil && values[0].key == "type" {
			values = append(object{{"type", []any{values[0].value, "null"}}}, values[1:]...)
		}
		return object{{"type", "object"}, {"additionalProperties", values}}, err
	}
	return nil, fmt.Errorf("no schema for %s", t)
}

func basic(t *types.Basic) (object, error) {
	switch info := t.Info(); {
	case info&types.IsString != 0:
		return object{{"type", "string"}}, nil
	case info&types.IsBoolean != 0:
		return object{{"type", "boolean"}}, nil
	case info&types.IsInteger != 0:
		return object{{"type", "integer"}}, nil
	case info&types.IsFloat != 0:
		return object{{"type", "number"}}, nil
	}
	return nil, fmt.Errorf("no schema for %s", t)
}

// constants are the values that a type of strings has by its package; "" is left out.
func constants(n *types.Named) (values []string) {
	b, ok := n.Underlying().(*types.Basic)
	if !ok || b.Info()&types.IsString == 0 || n.Obj().Pkg() == nil || !strings.HasPrefix(n.Obj().Pkg().Path()+"/", module) {
		return nil
	}
	scope := n.Obj().Pkg().Scope()
	for _, name := range scope.Names() {
		c, ok := scope.Lookup(name).(*types.Const)
		if ok && types.Identical(c.Type(), n) && constant.StringVal(c.Val()) != "" {
			values = append(values, constant.StringVal(c.Val()))
		}
	}
	slices.Sort(values)
	return values
}

// define adds the definition of a struct, and returns a reference to it.
func (m *maker) define(n *types.Named, st *types.Struct) (object, error) {
	name := n.Obj().Name()
	ref := object{{"$ref", "#/$defs/" + name}}
	if m.seen[name] {
		return ref, nil
	}
	m.seen[name] = true
	at := len(m.defs)
	m.defs = append(m.defs, member{key: name})
	def := object{{"type", "object"}}
	if text := m.comment(name); text != "" {
		def = append(object{{"description", text}}, def...)
	}
	var properties object
	var required []string
	if err := m.fields(name, st, &properties, &required); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	def = append(def, member{"properties", properties})
	if len(required) > 0 {
		def = append(def, member{"required", required})
	}
	m.defs[at].value = def
	return ref, nil
}

// fields adds those of a struct, those of embedded ones among them.
func (m *maker) fields(name string, st *types.Struct, properties *object, required *[]string) error {
	texts := m.texts(name)
	for i := range st.NumFields() {
		f := st.Field(i)
		key, omit := jsonTag(st.Tag(i), f.Name())
		if f.Embedded() {
			t := f.Type()
			if p, ok := t.(*types.Pointer); ok {
				t = p.Elem()
			}
			inner, ok := t.Underlying().(*types.Struct)
			if !ok {
				return fmt.Errorf("%s is embedded, and no struct", f.Name())
			}
			if err := m.fields(t.(*types.Named).Obj().Name(), inner, properties, required); err != nil {
				return err
			}
			continue
		}
		if key == "-" || !f.Exported() {
			continue
		}
		s, err := m.of(f.Type())
		if err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
		if last := len(s) - 1; last > 0 && s[last].key == "examples" && !omit {
			s = append(slices.Clone(s[:last]), member{"examples", append([]string{""}, s[last].value.([]string)...)}) // its zero value is printed
		}
		if text := texts[f.Name()]; text != "" {
			if values := quotedValues(key, text); values != nil && s[0] == (member{"type", "string"}) && len(s) == 1 {
				s = append(s, member{"examples", values})
			}
			s = append(object{{"description", m.inJSON(text)}}, s...)
		}
		*properties = append(*properties, member{key, s})
		if !omit {
			*required = append(*required, key)
		}
	}
	return nil
}

var inQuotes = regexp.MustCompile(`"([a-z-]+)"`)

// quotedValues are the values that a text lists for a field that it is about; nil when it lists
// none.
func quotedValues(key, text string) (values []string) {
	if !strings.HasPrefix(text, key+" ") {
		return nil
	}
	for _, found := range inQuotes.FindAllStringSubmatch(text, -1) {
		values = append(values, found[1])
	}
	if len(values) < 2 {
		return nil
	}
	return values
}

// jsonTag reads the name of a field, and whether it can be left out.
func jsonTag(tag, name string) (key string, omit bool) {
	key, rest, _ := strings.Cut(reflect.StructTag(tag).Get("json"), ",")
	if key == "" {
		key = name
	}
	return key, strings.Contains(rest, "omit")
}

// declaration returns the syntax of a type of the document's own package; nil for others.
func (m *maker) declaration(name string) (*ast.GenDecl, *ast.TypeSpec) {
	for _, file := range m.pkg.Syntax {
		for _, d := range file.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok {
				continue
			}
			for _, s := range g.Specs {
				if t, ok := s.(*ast.TypeSpec); ok && t.Name.Name == name {
					return g, t
				}
			}
		}
	}
	return nil, nil
}

// comment is what is said of a type, without its Go name.
func (m *maker) comment(name string) string {
	g, t := m.declaration(name)
	if t == nil {
		return ""
	}
	text := t.Doc.Text()
	if text == "" && len(g.Specs) == 1 {
		text = g.Doc.Text()
	}
	text = strings.TrimPrefix(strings.TrimPrefix(plain(text), name+" is "), name+" are ")
	if text == "" {
		return ""
	}
	return strings.ToUpper(text[:1]) + m.inJSON(text[1:])
}

// texts are what is said of the fields of a type, by their Go names, in which fields are
// named as in JSON. A comment is also that of the fields below it that it names.
func (m *maker) texts(name string) map[string]string {
	_, t := m.declaration(name)
	if t == nil {
		return nil
	}
	st, ok := t.Type.(*ast.StructType)
	if !ok {
		return nil
	}
	keys := map[string]string{}
	for _, f := range st.Fields.List {
		for _, n := range f.Names {
			tag := ""
			if f.Tag != nil {
				tag = strings.Trim(f.Tag.Value, "`")
			}
			keys[n.Name], _ = jsonTag(tag, n.Name)
		}
	}
	texts := map[string]string{}
	last := ""
	for _, f := range st.Fields.List {
		text := plain(f.Doc.Text() + f.Comment.Text())
		if text != "" {
			last = text
		}
		for _, n := range f.Names {
			switch {
			case text != "":
				texts[n.Name] = inJSON(text, keys)
			case word(n.Name).MatchString(last):
				texts[n.Name] = inJSON(last, keys)
			}
		}
	}
	return texts
}

func word(name string) *regexp.Regexp {
	return regexp.MustCompile(`\b` + regexp.QuoteMeta(name) + `\b`)
}

var (
	goName  = regexp.MustCompile(`\b[A-Z][A-Za-z]*\b`)
	seeLink = regexp.MustCompile(`, see \[[^]]*\]`)
	docLink = regexp.MustCompile(`\[\*?([A-Za-z.]+)\]`)
)

// inJSON names fields as JSON does.
func inJSON(text string, keys map[string]string) string {
	return goName.ReplaceAllStringFunc(text, func(name string) string {
		if key := keys[name]; key != "" {
			return key
		}
		return name
	})
}

// plain is a comment in one line, without links.
func plain(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	return docLink.ReplaceAllString(seeLink.ReplaceAllString(text, ""), "$1")
}
