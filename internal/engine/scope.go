package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/runtime/cacheentry"
	"github.com/dbake/dbake/runtime/output"
)

// scope is what is asked for: the definition, and the part of it that is to be built.
type scope struct {
	engine  *Engine
	request *Request

	// After Compile.
	whole *ir.Project

	// After Access.
	definition *ir.Project // what is built, as it is defined
	project    *ir.Project // what is built, in the form in which it is
	questions  []*ir.Target
	load       func(context.Context) (io.WriteCloser, error)
}

// options say how the definition is resolved for nodes that were chosen.
func (s *scope) options(n *standby) compiler.Options {
	o := s.request.Definition
	o.Env = n.nodes.environment(s.engine.Env)
	if s.request.Reach != Offline {
		o.Remote = n
	}
	s.request.Moment.apply(&o)
	return o
}

// compile resolves the definition.
func (s *scope) compile(ctx context.Context, n *standby) (err error) {
	s.whole, err = compiler.Compile(ctx, s.options(n))
	if s.request.Saved != nil && (errors.Is(err, compiler.ErrNoDefinition) || errors.Is(err, fs.ErrNotExist)) {
		err = fmt.Errorf("%w; a plan is built in the directory in which it was made", err)
	}
	if err != nil || s.request.Judge == nil {
		return err
	}
	return s.request.Judge(s.whole.Warnings)
}

// admit refuses what cannot be done or was not granted.
func (s *scope) admit(ctx context.Context, n *standby) error {
	if err := s.engine.checkSwitches(); err != nil {
		return err
	}
	if err := s.engine.refusePolicies(s.whole); err != nil || s.request.Admit == nil {
		return err
	}
	questions, build := split(s.whole)
	return s.request.Admit(ctx, Admission{Project: s.whole, Build: s.buildable(build, n), Questions: questions})
}

// access gives targets what it takes to read and write where they say.
func (s *scope) access(ctx context.Context, n *standby) (err error) {
	s.whole = n.withAccess(s.whole)
	s.questions, s.definition = split(s.whole)
	if err := s.checkSaved(n); err != nil {
		return err
	}
	if s.project, s.load, err = s.loadable(ctx, s.buildable(s.definition, n)); err != nil || !s.request.Atomic {
		return err
	}
	return output.CheckWithheld(s.project, s.load != nil)
}

// buildable returns p as it is planned and built.
func (s *scope) buildable(p *ir.Project, n *standby) *ir.Project {
	return s.engine.withArtifactSwitch(n.nodes.withImages(cacheentry.Usable(p, s.engine.Env)))
}

// loadable returns p as it is built when images are loaded into an engine of this
// machine, and what takes them there.
func (s *scope) loadable(ctx context.Context, p *ir.Project) (*ir.Project, func(context.Context) (io.WriteCloser, error), error) {
	if s.request.Load == nil || len(p.Targets) == 0 {
		return p, nil, nil
	}
	return s.request.Load(ctx, p)
}

// builds reports whether there is something to build.
func (s *scope) builds() bool { return len(s.project.Targets) > 0 }

// checkSaved refuses a saved plan whose targets are defined in another way now.
func (s *scope) checkSaved(n *standby) error {
	saved := s.request.Saved
	if saved == nil {
		return nil
	}
	definitions, err := s.definitions(n)
	if err != nil {
		return err
	}
	err = saved.Check(definitions)
	if w := saved.World; err != nil && w != nil && len(w.Withheld) > 0 {
		err = fmt.Errorf("%w, or set the variables that may be secret and are not in the plan as they were: %s", err, strings.Join(w.Withheld, ", "))
	}
	return err
}

// definitions returns the digests of the definitions of what is built, wherever the local
// registry is.
func (s *scope) definitions(n *standby) (map[string]digest.Digest, error) {
	registry := ""
	if n.nodes != nil && n.nodes.cluster != nil {
		registry = n.nodes.cluster.Registry()
	}
	return report.Definitions(s.definition, registry)
}

// Footprint is what the targets of a definition touch on this machine.
type Footprint struct {
	// Reads are the directories that they read, Dockerfiles the Dockerfiles that are
	// files here.
	Reads, Dockerfiles []string
	// Writes are the files and directories that they write.
	Writes []string
}

// footprint returns what the whole definition touches; b is the build of it.
func (s *scope) footprint(b *plan.Build) Footprint {
	f := Footprint{Dockerfiles: s.dockerfiles(), Writes: s.writes()}
	for _, dir := range b.Locals() {
		f.Reads = append(f.Reads, s.engine.path(dir))
	}
	return f
}

func (s *scope) dockerfiles() []string {
	var files []string
	for _, t := range s.whole.Targets {
		name := strings.TrimPrefix(t.Dockerfile, "cwd://")
		switch {
		case t.DockerfileInline != nil || strings.Contains(name, "://"):
			continue
		case filepath.IsAbs(name):
		case name != t.Dockerfile:
			name = s.engine.path(name)
		case t.Context.Kind != ir.SourceDir:
			continue
		default:
			name = filepath.Join(s.engine.path(t.Context.Path), name)
		}
		files = append(files, name)
	}
	return files
}

func (s *scope) writes() []string {
	var list []string
	for _, t := range s.whole.Targets {
		for _, o := range t.Outputs {
			if o.Dest != "" && o.Dest != "-" {
				list = append(list, s.engine.path(o.Dest))
			}
		}
		for _, c := range t.CacheTo {
			if c.Type == "local" && c.Attrs["dest"] != "" {
				list = append(list, s.engine.path(c.Attrs["dest"]))
			}
		}
	}
	return list
}
