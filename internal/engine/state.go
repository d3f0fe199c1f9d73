package engine

import (
	"maps"
	"path/filepath"
	"strings"

	"github.com/dbake/dbake/compiler/ir"
)

// State returns the state in which the project was built, by which a later session can
// tell what has changed since. name is what the user calls it. Targets that were not
// built count as changed. The stage [Reuse] must have been done, of a request for all
// keys.
func (s *Session) State(name string) *Since {
	keys := maps.Clone(s.keys)
	if s.result != nil {
		for _, j := range s.result.Jobs {
			if !j.State.Good() {
				delete(keys, j.Target)
			}
		}
	}
	return &Since{name: name, now: &past{keys: keys, build: s.full}}
}

// Reads are the directories of this machine that the targets read. The stage [Prepare]
// must have been done.
func (s *Session) Reads() []string {
	var dirs []string
	for _, dir := range s.full.Locals() {
		dirs = append(dirs, Path(s.engine.Dir, dir))
	}
	return dirs
}

// Dockerfiles are the Dockerfiles of the targets that are files of this machine. The
// stage [Compile] must have been done.
func (s *Session) Dockerfiles() []string {
	var files []string
	for _, t := range s.whole.Targets {
		name := strings.TrimPrefix(t.Dockerfile, "cwd://")
		switch {
		case t.DockerfileInline != nil || strings.Contains(name, "://"):
			continue
		case filepath.IsAbs(name):
		case name != t.Dockerfile:
			name = Path(s.engine.Dir, name)
		case t.Context.Kind != ir.SourceDir:
			continue
		default:
			name = filepath.Join(Path(s.engine.Dir, t.Context.Path), name)
		}
		files = append(files, name)
	}
	return files
}

// Writes are the files and directories of this machine that the targets write. The stage
// [Compile] must have been done.
func (s *Session) Writes() []string {
	var list []string
	for _, t := range s.whole.Targets {
		for _, o := range t.Outputs {
			if o.Dest != "" && o.Dest != "-" {
				list = append(list, Path(s.engine.Dir, o.Dest))
			}
		}
		for _, c := range t.CacheTo {
			if c.Type == "local" && c.Attrs["dest"] != "" {
				list = append(list, Path(s.engine.Dir, c.Attrs["dest"]))
			}
		}
	}
	return list
}

// Idle reports whether nothing is left to build. The stage [Reuse] must have been done.
func (s *Session) Idle() bool { return s.idle }
