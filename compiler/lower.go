package compiler

import (
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// lower returns the target, one of those of s, in the words of the ir. What its values
// are is decided here, once.
func (t *definition) lower(s *selection, remote *RemoteDefinition, isDir func(string) bool) *ir.Target {
	out := &ir.Target{
		Name:     t.name,
		Context:  t.source(isDir),
		Contexts: namedSources(t.contexts, remote),
		Linked:   t.linked,
		Origins:  t.origins,
	}
	for _, a := range attributes {
		if a.lower != nil {
			a.lower(t, out)
		}
	}
	for _, name := range t.dependsOn {
		if _, ok := s.targets[name]; ok {
			out.DependsOn = append(out.DependsOn, name)
		}
	}
	return out
}

// isDir reports whether there is a directory of that name.
func (o Options) isDir(name string) bool {
	if !filepath.IsAbs(name) {
		name = filepath.Join(o.Dir, name)
	}
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}

// source returns the context of the target. isDir reports whether a path is one of a
// directory.
func (t *definition) source(isDir func(string) bool) ir.Source {
	if t.remoteContext != nil {
		return ir.Tree(*t.remoteContext, *t.context)
	}
	return ir.ParseContext(*t.context, isDir)
}

// namedSources returns the named contexts; where there is a remote definition that has
// directories, paths are directories of it.
func namedSources(contexts map[string]string, remote *RemoteDefinition) map[string]ir.Source {
	var out map[string]ir.Source
	for name, v := range contexts {
		if out == nil {
			out = make(map[string]ir.Source, len(contexts))
		}
		s := ir.ParseNamedContext(v)
		_, cwd := ir.ParsePath(v)
		if remote != nil && remote.Tree && s.Kind == ir.SourceDir && !cwd && !strings.HasPrefix(v, "docker-image:") {
			s = ir.Source{Kind: ir.SourceTree, Text: v, Path: path.Clean(v)}
		}
		out[name] = s
	}
	return out
}

// entries returns the entries of m that are not null, nil for none.
func entries(m map[string]*string) map[string]string {
	var out map[string]string
	for k, v := range m {
		if v == nil {
			continue
		}
		if out == nil {
			out = make(map[string]string, len(m))
		}
		out[k] = *v
	}
	return out
}
