package plan

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"

	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/memory/runs"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/llbmerge"
)

// The bounds of the names in the recipes of one build. Beyond them only hashes of a whole
// are kept.
const (
	maxFiles = 20_000
	maxParts = 60_000
)

// Recipes returns the recipes of a build's steps, for comparisons with later runs: in the
// order of the graph, with the files that they read, and for each vertex the place of its
// recipe, -1 for none. Values are hashes of h.
func Recipes(b *Build, h runs.Hasher) (recipes []runs.Recipe, files []runs.FileSet, places []int, err error) {
	w := &recipeWriter{build: b, hasher: h, names: StepNames(b), sets: map[*found]int{}, args: map[*pb.SourceInfo]map[string]bool{}, units: map[string]*frontend.Unit{}}
	for _, u := range b.Units {
		w.units[string(u.ID)] = u
	}
	places = make([]int, len(b.Graph.Vertices))
	for i, v := range b.Graph.Vertices {
		places[i] = -1
		if !v.Kind.IsStep() && (!v.Kind.IsSource() || v.Local != nil) {
			continue
		}
		recipe, err := w.recipe(i, places)
		if err != nil {
			return nil, nil, nil, fmt.Errorf("find out what %s is made of: %w", v.Step, err)
		}
		places[i] = len(w.recipes)
		w.recipes = append(w.recipes, recipe)
	}
	return w.recipes, w.files, places, nil
}

// recipeWriter writes recipes.
type recipeWriter struct {
	build   *Build
	hasher  runs.Hasher
	units   map[string]*frontend.Unit
	names   []string // by vertex
	recipes []runs.Recipe
	files   []runs.FileSet
	named   int                                // files
	parts   int                                // of all recipes
	sets    map[*found]int                     // by first file: the place of a set
	args    map[*pb.SourceInfo]map[string]bool // that a Dockerfile declares
}

// recipe writes the recipe of vertex i.
func (w *recipeWriter) recipe(i int, places []int) (runs.Recipe, error) {
	v := w.build.Graph.Vertices[i]
	r := runs.Recipe{Name: w.names[i], Source: v.Kind.IsSource(), Stage: v.Place.Stage, Anew: v.IgnoreCache}
	if v.Place.Platform != "" {
		r.Stage = strings.TrimSpace(v.Place.Platform + " " + v.Place.Stage)
	}
	r.Text = r.Name
	if v.Place.Text != "" {
		r.Text = strings.TrimPrefix(r.Name, redact.Text(strings.TrimSuffix(v.Step, v.Place.Text)))
	}
	if r.Source {
		r.Text, _, _ = strings.Cut(r.Text, "@sha256:")
	}
	for _, u := range v.Users {
		if t := w.units[u].Target.Name; !slices.Contains(r.Targets, t) {
			r.Targets = append(r.Targets, t)
		}
	}
	var err error
	if r.Parts, err = w.partsOf(v, plainOp(v.Op, w.build.Secrets)); err != nil {
		return r, err
	}
	for _, set := range w.build.Names.list[i].read.sets {
		r.Files = append(r.Files, w.set(set))
	}
	sum := []string{w.build.Names.list[i].read.key}
	for _, p := range r.Parts {
		sum = append(sum, string(p.Kind), p.Name, p.Hash)
	}
	for k, in := range v.Inputs {
		if at := places[w.build.graph.index[in]]; at >= 0 {
			if !slices.Contains(r.Inputs, at) {
				r.Inputs = append(r.Inputs, at)
			}
			sum = append(sum, fmt.Sprint(v.Op.GetInputs()[k].GetIndex()), w.recipes[at].Hash)
		}
	}
	r.Hash = w.hasher.Sum(sum...)
	if w.parts += len(r.Parts); w.parts > maxParts {
		r.Parts = nil
	}
	return r, nil
}

// part is a part with a value that is kept as a hash.
func (w *recipeWriter) part(kind runs.PartKind, name, value string) runs.Part {
	return runs.Part{Kind: kind, Name: name, Hash: w.hasher.Sum(value)}
}

// plainPart is a part with a value that may be shown.
func (w *recipeWriter) plainPart(kind runs.PartKind, name, value string) runs.Part {
	p := w.part(kind, name, value)
	p.Value = redact.Text(value)
	return p
}

// partsOf takes an op apart. op is the vertex's, without what is of one machine.
func (w *recipeWriter) partsOf(v *llbmerge.Vertex, op *pb.Op) (list []runs.Part, err error) {
	if p := op.GetPlatform(); p != nil && !v.Kind.IsSource() {
		list = append(list, w.plainPart(runs.PartPlatform, "", strings.Trim(p.OS+"/"+p.Architecture+"/"+p.Variant, "/")))
	}
	declared := w.declaredArgs(v)
	switch o := op.Op.(type) {
	case *pb.Op_Source:
		list = append(list, w.plainPart(runs.PartSource, "", strings.TrimPrefix(o.Source.Identifier, "docker-image://")))
		o.Source.Identifier = ""
	case *pb.Op_Exec:
		list = append(list, w.exec(o.Exec, declared)...)
	}
	// An argument is a part of the command, too, where that spells it.
	for name, value := range w.mentionedArgs(v) {
		if !slices.ContainsFunc(list, func(p runs.Part) bool { return p.Kind == runs.PartArg && p.Name == name }) {
			list = append(list, w.part(runs.PartArg, name, value))
		}
	}
	slices.SortFunc(list, func(x, y runs.Part) int {
		return strings.Compare(string(x.Kind)+"\x00"+x.Name, string(y.Kind)+"\x00"+y.Name)
	})
	rest, err := proto.MarshalOptions{Deterministic: true}.Marshal(op)
	if err != nil {
		return nil, err
	}
	kind, name := runs.PartCommand, ""
	if v.Kind == llbmerge.KindExec || v.Kind.IsSource() {
		kind, name = runs.PartSetting, "options"
	}
	return append(list, w.part(kind, name, string(rest))), nil
}

// exec takes the parts out of an exec op, and leaves the rest in it.
func (w *recipeWriter) exec(e *pb.ExecOp, declared map[string]bool) []runs.Part {
	var list []runs.Part
	for _, m := range e.GetMounts() {
		list = append(list, w.mount(m))
	}
	for _, s := range e.GetSecretenv() {
		list = append(list, w.part(runs.PartSecret, s.GetID(), fmt.Sprint("variable ", s.GetName(), s.GetOptional())))
	}
	list = append(list, w.plainPart(runs.PartSetting, "network", e.GetNetwork().String()), w.plainPart(runs.PartSetting, "security", e.GetSecurity().String()))
	e.Mounts, e.Secretenv, e.Network, e.Security = nil, nil, 0, 0
	meta := e.GetMeta()
	if meta == nil {
		return list
	}
	for _, kv := range meta.GetEnv() {
		name, value, _ := strings.Cut(kv, "=")
		kind := runs.PartEnv
		if declared[name] {
			kind = runs.PartArg
		}
		list = append(list, w.part(kind, name, value))
	}
	for _, host := range meta.GetExtraHosts() {
		list = append(list, w.part(runs.PartSetting, "host "+host.GetHost(), host.GetIP()))
	}
	list = append(list,
		w.part(runs.PartCommand, "", strings.Join(meta.GetArgs(), "\x00")),
		// Both may hold the value of an argument.
		w.part(runs.PartSetting, "directory", meta.GetCwd()), w.part(runs.PartSetting, "user", meta.GetUser()))
	meta.Args, meta.Env, meta.Cwd, meta.User, meta.ExtraHosts = nil, nil, "", "", nil
	return list
}

// mount is the part that a mount is. The results that are mounted are inputs.
func (w *recipeWriter) mount(m *pb.Mount) runs.Part {
	m.Input, m.Output, m.ResultID = 0, 0, ""
	dt, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		dt = []byte(m.String())
	}
	switch {
	case m.GetSecretOpt() != nil:
		return w.part(runs.PartSecret, m.GetSecretOpt().GetID(), string(dt))
	case m.GetSSHOpt() != nil:
		return w.part(runs.PartSSH, m.GetDest(), string(dt))
	}
	return w.part(runs.PartMount, m.GetDest(), string(dt))
}

// declaredArgs returns the names of the arguments that the Dockerfiles of a vertex declare.
func (w *recipeWriter) declaredArgs(v *llbmerge.Vertex) map[string]bool {
	all := map[string]bool{}
	for _, l := range v.Locations {
		if l.File == nil {
			continue
		}
		names, ok := w.args[l.File]
		if !ok {
			names = argsOf(l.File.GetData())
			w.args[l.File] = names
		}
		for name := range names {
			all[name] = true
		}
	}
	return all
}

// argsOf returns the arguments that a Dockerfile declares; none for other text.
func argsOf(data []byte) map[string]bool {
	names := map[string]bool{}
	file, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return names
	}
	for _, node := range file.AST.Children {
		if !strings.EqualFold(node.Value, "ARG") {
			continue
		}
		for word := node.Next; word != nil; word = word.Next {
			name, _, _ := strings.Cut(word.Value, "=")
			names[name] = true
		}
	}
	return names
}

// mentionedArgs returns the arguments that were given to the units of a vertex and that its
// lines in the Dockerfile spell.
func (w *recipeWriter) mentionedArgs(v *llbmerge.Vertex) map[string]string {
	list := map[string]string{}
	for _, l := range v.Locations {
		u := w.units[l.Unit]
		if u == nil || l.File == nil {
			continue
		}
		text := ""
		for name, value := range u.FrontendAttrs {
			arg, ok := strings.CutPrefix(name, "build-arg:")
			if !ok {
				continue
			}
			if text == "" {
				text = linesOf(l)
			}
			if strings.Contains(text, "${"+arg) || spells(text, "$"+arg) {
				list[arg] = value
			}
		}
	}
	return list
}

// spells reports whether text has a word that does not go on.
func spells(text, word string) bool {
	for {
		_, after, found := strings.Cut(text, word)
		if !found {
			return false
		}
		if after == "" || !strings.ContainsRune("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_", rune(after[0])) {
			return true
		}
		text = after
	}
}

// linesOf returns the lines of a file that a location means.
func linesOf(l llbmerge.Location) string {
	lines := strings.SplitAfter(string(l.File.GetData()), "\n")
	var text strings.Builder
	for _, r := range l.Ranges {
		first, last := int(r.GetStart().GetLine()), int(r.GetEnd().GetLine())
		for n := max(first, 1); n <= min(last, len(lines)); n++ {
			text.WriteString(lines[n-1])
		}
	}
	return text.String()
}

// set returns the place of a set of files.
func (w *recipeWriter) set(list []found) int {
	if len(list) > 0 {
		if at, ok := w.sets[&list[0]]; ok {
			return at
		}
	}
	s := runs.FileSet{Count: len(list)}
	var sum []string
	if len(list) > 0 {
		s.Dir = list[0].dir
		if rel, err := filepath.Rel(w.build.Names.base, s.Dir); err == nil {
			s.Dir = filepath.ToSlash(rel)
		}
		if w.named += len(list); w.named <= maxFiles {
			s.Files = make(map[string]string, len(list))
		}
	}
	for i := range list {
		f := &list[i]
		state := f.state()
		sum = append(sum, f.path, state)
		if s.Files != nil && !f.mode.IsDir() {
			s.Files[f.path] = w.hasher.File(fmt.Sprintf("%x %s", f.sum, f.link), state)
		}
	}
	s.Hash = w.hasher.Sum(sum...)
	at := len(w.files)
	w.files = append(w.files, s)
	if len(list) > 0 {
		w.sets[&list[0]] = at
	}
	return at
}
