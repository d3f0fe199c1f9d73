package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/internal/imagekey"
	"github.com/dbake/dbake/internal/memory/warm"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/report"
)

// Since is an earlier state of the project: that of a revision, of a saved plan, or of a
// session.
type Since struct {
	name string
	file *report.File
	now  *past // of a session of this process
}

// NewSince returns the state that a revision of the repository names, or, with a file, the
// state that its plan was made for; name is then that of the file.
func NewSince(name string, file *report.File) *Since { return &Since{name: name, file: file} }

// Name is what the user calls it.
func (s *Since) Name() string { return s.name }

// Comparison is what has become of a project since some state.
type Comparison struct {
	Since string
	// Changed are the targets that would have other images, in the order of the
	// project, linked ones included; Unchanged are the names of the others.
	Changed   []TargetChange
	Unchanged []string
	// Steps are those that would run again.
	Steps []plan.Rerun
	// Lines is set when differences of lines are known, and Files those of files.
	Lines, Files bool
}

// TargetChange is what has become of a target.
type TargetChange struct {
	Target    string
	Platforms []string
	// Added is set when it was not there, or could not be compiled.
	Added bool
	// Always says why it is built whatever has changed; "" when it is not.
	Always string
	// Lines are the differences of its key.
	Lines []imagekey.Difference
	// Steps is the number of its steps that would run again, Cost what they take on a
	// node of speed 1.
	Steps int
	Cost  time.Duration
	// Files are the files that make them run again, each once.
	Files []plan.FileChange
	// Linked is set when it is built only for those that read it.
	Linked bool
}

// past is what is known of the project at some state.
type past struct {
	keys  map[string]imagekey.Key
	build *plan.Build   // nil where only names are known
	holds warm.Holdings // these names
}

// Changes compares what a session is to build with earlier states of the project.
type Changes struct {
	engine *Engine
	since  *Since // that the request names; nil for none
	// buildAt compiles the project in another tree as the session does here.
	buildAt func(ctx context.Context, name string, tree *checkout) (*plan.Build, error)

	full *plan.Build // what is compared
	made *Comparison // with since; nil when it has not been made
}

// of makes full the build that is compared.
func (c *Changes) of(full *plan.Build) { c.full, c.made = full, nil }

// Comparison is that of the request, nil without one.
func (c *Changes) Comparison() *Comparison { return c.made }

// findUnchanged returns the targets that are what they were in the state that the request
// names, by name; nil when it names none.
func (c *Changes) findUnchanged(ctx context.Context) (map[string]bool, error) {
	if c.since == nil {
		return nil, nil
	}
	if c.made == nil {
		made, err := c.Compare(ctx, c.since)
		if err != nil {
			return nil, err
		}
		c.made = made
	}
	same := map[string]bool{}
	for _, name := range c.made.Unchanged {
		same[name] = true
	}
	return same, nil
}

// Compare says what has become of the project since some state.
func (c *Changes) Compare(ctx context.Context, since *Since) (*Comparison, error) {
	keys, err := c.engine.imageKeys(ctx, c.full, false)
	if err != nil {
		return nil, err
	}
	old, err := c.past(ctx, since)
	if err != nil {
		return nil, err
	}
	made := &Comparison{Since: since.name, Lines: old.build != nil, Files: old.build != nil}
	if old.build != nil {
		made.Steps = c.full.Compare(old.build)
	} else {
		made.Steps = c.full.CompareHeld(old.holds)
	}
	for _, j := range c.full.Jobs {
		name := j.Target.Name
		k := keys[name]
		then, known := old.keys[name]
		t := TargetChange{Target: name, Platforms: j.Target.PlatformList(), Added: !known, Linked: j.Target.Linked}
		switch {
		case k.Unknown != "":
			t.Always = k.Unknown
		case k.Anew || j.Target.NoCache != nil && *j.Target.NoCache:
			t.Always = "the cache is not wanted"
		case known && then.Same(k):
			made.Unchanged = append(made.Unchanged, name)
			continue
		}
		if known && old.build != nil {
			t.Lines = imagekey.Compare(then.Lines, k.Lines)
		}
		t.steps(made.Steps)
		made.Changed = append(made.Changed, t)
	}
	return made, nil
}

// steps gathers what is known of the steps of t.
func (t *TargetChange) steps(list []plan.Rerun) {
	for _, r := range list {
		if !slices.Contains(r.Targets, t.Target) {
			continue
		}
		t.Steps++
		t.Cost += r.Cost
		for _, f := range r.Files {
			if !slices.Contains(t.Files, f) {
				t.Files = append(t.Files, f)
			}
		}
	}
}

// past finds out what the project was at some state.
func (c *Changes) past(ctx context.Context, since *Since) (*past, error) {
	switch {
	case since.now != nil:
		return since.now, nil
	case since.file != nil:
		return savedPast(since)
	}
	tree, err := c.engine.checkOut(ctx, since.name)
	if err != nil {
		return nil, err
	}
	p := &past{}
	if p.build, err = c.buildAt(ctx, since.name, tree); err == nil {
		p.keys, err = c.engine.imageKeys(ctx, p.build, false)
	}
	return p, errors.Join(err, tree.remove())
}

// savedPast is past for a saved plan.
func savedPast(since *Since) (*past, error) {
	p := &past{keys: map[string]imagekey.Key{}}
	for _, t := range since.file.Targets {
		name := t.Target
		if name == "" {
			name = t.Name
		}
		if t.ImageKey != "" {
			p.keys[name] = imagekey.Key{Target: name, Digest: t.ImageKey, Attested: t.Attested}
		}
	}
	if len(p.keys) == 0 {
		return nil, fmt.Errorf("the plan %s does not say what its images are made of; make it anew with dbake plan", since.name)
	}
	var held []warm.Names
	for _, step := range since.file.Steps {
		held = append(held, warm.Names{Result: cmp.Or(step.Result, warm.ResultID(step.Operation)), Op: step.Operation})
	}
	p.holds = warm.NewHoldings(held)
	return p, nil
}

// buildAt returns the build of the project in another tree, which is called name. It resolves
// and compiles the definition there like the present one, with the same base images. Targets
// whose files cannot be compiled are left out.
func (s *Session) buildAt(ctx context.Context, name string, tree *checkout) (*plan.Build, error) {
	o := s.Options()
	o.Dir = tree.at(o.Dir)
	o.DeferFaults = true
	o.Files = slices.Clone(o.Files)
	for i, file := range o.Files {
		if file == "-" {
			return nil, errors.New("a definition that is read from standard input cannot be compared with a revision")
		}
		if filepath.IsAbs(file) {
			o.Files[i] = tree.at(file)
		}
	}
	whole, err := compiler.Compile(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("the definition at %s: %w", name, err)
	}
	_, project := split(s.standby.withAccess(whole))
	project, _, err = s.scope.loadable(ctx, s.scope.buildable(project, s.standby))
	if err != nil {
		return nil, err
	}
	opts := s.prepared.options(ctx, s.standby, s.facts)
	opts.Dir, opts.VCS = o.Dir, tree.vcs(opts.VCS)
	// What is found out about files is not saved: the tree goes.
	build, _, err := plan.PrepareWhole(ctx, project, opts, s.prepared.planMemory())
	if err != nil {
		return nil, fmt.Errorf("the project at %s: %w", name, err)
	}
	return build, nil
}

// KeysAt returns the keys that the targets had at some state, by target.
func (c *Changes) KeysAt(ctx context.Context, since *Since) (map[string]imagekey.Key, error) {
	p, err := c.past(ctx, since)
	if err != nil {
		return nil, err
	}
	return p.keys, nil
}
