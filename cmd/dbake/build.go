package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"time"

	"github.com/dbake/dbake/cmd/dbake/internal/targetlog"
	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/entitlement"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
)

type buildCmd struct {
	definitionFlags
	nodeFlags
	planFlags

	Print        bool   `help:"Print the resolved definition as JSON and build nothing."`
	List         string `placeholder:"WHAT" help:"List targets or variables and build nothing; type=WHAT,format=json for JSON."`
	Progress     string `default:"auto" placeholder:"MODE" help:"How progress is shown: ${modes} ($$BUILDKIT_PROGRESS replaces auto)."`
	MetadataFile string `placeholder:"FILE" help:"Write the digests and descriptors of what was built, as JSON by target."`
	recordFlags
	Jobs       jobs      `short:"j" placeholder:"N|MODE" help:"Build at most N targets at once over all nodes (default: no limit); MODE is that of --execution; MODE,parallel=N for both."`
	Execution  execution `placeholder:"MODE" help:"What to do when a target fails: fail-fast ends the build (the default), defer-output does too and writes no output before every target is built, defer-error builds all that does not depend on it, atomic ends the build and publishes nothing: tags are set, and files put in their places, when every target is built and pushed."`
	KeepGoing  bool      `short:"k" help:"Same as --execution=defer-error."`
	RetrySteps int       `placeholder:"N" help:"Execute a step that fails again, up to N times, on another node if there is one: shows which steps are flaky."`
	Timings    bool      `help:"Show where the time of the command went, phase by phase, after the summary."`
	NoSteal    bool      `help:"Do not move jobs between nodes."`
	Trace      bool      `help:"Have the nodes record what they do inside of steps, pulls and exports, for dbake trace --format otlp: takes some seconds after the build."`

	ChangedSince string `placeholder:"REV" help:"Build only the targets that would have other images than at a commit, a branch or when a plan was saved, and list them."`
	Format       string `default:"table" enum:"table,json" help:"How --changed-since lists the targets: table, or json for a matrix for CI on standard output."`

	Watch    bool          `help:"Build, then build again what changed files touch, until interrupted."`
	FailFast bool          `help:"Same as --execution=fail-fast, which is the default."`
	Timeout  time.Duration `placeholder:"TIME" help:"End the build with an error when it takes longer than this, for example 20m."`

	ListTargets   bool `hidden:""` // as buildx still has them
	ListVariables bool `hidden:""`

	saved           *report.File // the plan to build; nil makes one
	metadataWritten bool
}

func (c *buildCmd) Run(binding contextBinding, a *app) (err error) {
	limit := c.Timeout
	if c.Watch {
		limit = 0 // it is that of each build
	}
	ctx, stop := a.limit(binding, limit)
	defer func() { err = stop(err) }()
	switch {
	case c.ListTargets:
		c.List = "targets"
	case c.ListVariables:
		c.List = "variables"
	}
	if c.Print && c.List != "" {
		return usageError{errors.New("--print and --list are mutually exclusive")}
	}
	if err := c.checkWatch(); err != nil {
		return usageError{err}
	}
	if c.Timeout < 0 {
		return usageError{fmt.Errorf("invalid value %s for --timeout: it must be longer than 0", c.Timeout)}
	}
	if c.RetrySteps < 0 {
		return usageError{fmt.Errorf("invalid value %d for --retry-steps: it must be 0 or more", c.RetrySteps)}
	}
	if c.Execution, err = oneExecution(c.spellings()); err != nil {
		return usageError{err}
	}
	saved, err := a.planFile(c.Targets)
	if err != nil {
		return err
	}
	if saved != nil && c.Watch {
		return usageError{errors.New("--watch builds what changes, but a saved plan does not change: name the definition")}
	}
	if saved != nil {
		if err := c.useSaved(a, saved); err != nil {
			return err
		}
	}
	if c.Print || c.List != "" {
		return c.describe(ctx, a)
	}
	if err := a.image.begin(a); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.dropMetadata(ctx, a))
		}
	}()
	call, err := c.callFlag()
	if err != nil {
		return usageError{err}
	}
	if call.method != "" {
		return c.callAll(ctx, a, call)
	}
	c.deferFaults = c.Execution == deferError
	if c.Watch {
		return c.watch(ctx, a, call)
	}
	return c.build(ctx, a, call, nil)
}

// spellings returns the given flags that say whether the build goes on when a target fails.
func (c *buildCmd) spellings() []spelling {
	var given []spelling
	if c.Execution != "" {
		given = append(given, spelling{"--execution=" + string(c.Execution), c.Execution})
	}
	if c.Jobs.mode != "" {
		given = append(given, spelling{"--jobs=" + string(c.Jobs.mode), c.Jobs.mode})
	}
	if c.FailFast {
		given = append(given, spelling{"--fail-fast", failFast})
	}
	if c.KeepGoing {
		given = append(given, spelling{"--keep-going", deferError})
	}
	return given
}

// checkWatch refuses flags that mean nothing beside --watch.
func (c *buildCmd) checkWatch() error {
	switch {
	case !c.Watch:
		return nil
	case c.Print || c.List != "" || c.Call != "" || c.Check:
		return errors.New("--watch builds; --print, --list, --call and --check do not")
	case c.ChangedSince != "":
		return errors.New("--watch builds what has changed since the last build: it excludes --changed-since")
	case slices.Contains(c.File, "-"):
		return errors.New("--watch reads the definition again and again: name a file instead of -")
	}
	return nil
}

// build builds the targets that are to be built, then answers for the others. r is the
// round of a watch, nil for none.
func (c *buildCmd) build(ctx context.Context, a *app, call callFlag, r *round) (err error) {
	o := view.Outcome{Started: time.Now()}
	defer func() { err = errors.Join(err, c.report(ctx, a, o, err)) }()
	request, err := c.request(a)
	if err != nil {
		return err
	}
	if r != nil {
		request.Keys, request.Since = true, r.since
	}
	logs := &logged{Reporter: a.progress, open: func() (*targetlog.Set, error) { return c.openLogs(a) }}
	s := a.engineFor(logs).Open(request)
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Through(ctx, engine.Access); err != nil {
		return err
	}
	if len(s.Definition().Targets) == 0 {
		return c.answer(ctx, a, s, call)
	}
	if err := r.begin(ctx, a, c, s); err != nil || r.nothing() {
		return err
	}
	if err := s.Through(ctx, engine.Order); err != nil {
		return err
	}
	if r == nil {
		if err := c.showChanges(ctx, a, s.Changes().Comparison()); err != nil {
			return err
		}
	}
	failure, err := a.carryOut(ctx, s, logs, &o)
	if err != nil {
		return err
	}
	if r != nil {
		r.since = s.State(lastBuild)
	}
	c.hintFlaky(a, o.Result)
	if c.Timings {
		a.progress.Timings(s.Timings())
	}
	if failure == nil && len(s.Questions()) > 0 {
		return c.answer(ctx, a, s, call)
	}
	content := withWarnings(a.env, metadata(o.Result), s.Build().Warnings())
	if a.image != nil && failure == nil {
		if content, err = a.image.finish(ctx, a, content); err != nil {
			return err
		}
	}
	return errors.Join(failure, c.writeMetadata(ctx, a, content, failure != nil))
}

// carryOut carries the plan of a session out, keeps what was learned, and shows and notes
// the result. failure is why not everything was built although the run has ended.
func (a *app) carryOut(ctx context.Context, s *engine.Session, logs *logged, o *view.Outcome) (failure, err error) {
	err = s.Through(ctx, engine.Run)
	a.progress.Remarks(s.Build().Warnings(), a.debug)
	if err != nil {
		return nil, err
	}
	result, failure := s.Result()
	for _, w := range result.Warnings {
		a.progress.Warn(w)
	}
	if err := s.Through(ctx, engine.Remember); err != nil {
		return nil, err
	}
	o.Result, o.Run = result, logs.describe()
	if p := s.Plan(); p != nil {
		o.Run.Makespan, o.Run.Bound = p.Makespan, p.Bound
	}
	a.progress.Summary(result, o.Run)
	return failure, nil
}

// hintFlaky names the option that would have helped when a step failed that is known to be
// flaky.
func (c *buildCmd) hintFlaky(a *app, r *runtime.Result) {
	if c.RetrySteps > 0 {
		return
	}
	for _, s := range r.FailedSteps {
		if s.Passed == "" && s.Past.Flaky() {
			a.progress.Note(fmt.Sprintf("%s failed %d of %d times before this build with the same inputs: --retry-steps 2 executes such steps again", s.Step, s.Past.Failed, s.Past.All))
		}
	}
}

// showChanges lists the targets that have changed if --changed-since asks for it.
func (c *buildCmd) showChanges(ctx context.Context, a *app, changes *engine.Comparison) error {
	if changes == nil {
		return nil
	}
	for _, t := range changes.Changed {
		a.progress.Note(fmt.Sprintf("%s has changed since %s: %s", t.Target, changes.Since, view.ChangeReason(changes, t)))
	}
	if len(changes.Changed) == 0 {
		a.progress.Note(fmt.Sprintf("no target has changed since %s", changes.Since))
	}
	if c.Format != "json" {
		return nil
	}
	return a.output(ctx, "", func(w io.Writer) error { return view.Matrix(w, changes) })
}

// request returns the request of a build to the engine.
func (c *buildCmd) request(a *app) (engine.Request, error) {
	r, err := a.request(&c.definitionFlags, &c.nodeFlags, &c.planFlags)
	if err != nil {
		return r, err
	}
	r.Reach = engine.Started
	if c.ChangedSince != "" {
		if r.Since, err = a.since(c.ChangedSince); err != nil {
			return r, err
		}
		r.ListFiles = true
	} else if c.Format == "json" {
		return r, usageError{errors.New("--format says how --changed-since lists the targets that have changed: it needs that flag")}
	}
	r.Admit = func(ctx context.Context, asked engine.Admission) error { return c.admit(ctx, a, asked) }
	images := loader{a.docker()}
	r.Load, r.LoadEngine = images.load, images.engineID
	r.Saved = c.saved
	r.Jobs, r.NoSteal = c.Jobs.limit, c.NoSteal
	r.KeepGoing, r.DeferOutput, r.Atomic = c.Execution == deferError, c.Execution == deferOutput, c.Execution == atomically
	r.Trace, r.RetrySteps = c.Trace, c.RetrySteps
	if c.MetadataFile != "" {
		r.Provenance = metadataProvenance(a.env)
	}
	return r, nil
}

// admit checks that the build was granted its privileges and that no output would be lost.
func (c *buildCmd) admit(ctx context.Context, a *app, asked engine.Admission) error {
	if err := a.privileges().authorize(ctx, asked.Project, &c.definitionFlags); err != nil {
		return err
	}
	if err := a.image.check(asked.Build); err != nil {
		return err
	}
	if len(asked.Build.Targets) == 0 {
		return nil
	}
	if err := a.checkPlaces(asked.Build, flagFile{metadataFlag, c.MetadataFile}, flagFile{"--summary-json", c.SummaryJSON}); err != nil {
		c.misplaced = true
		return err
	}
	if err := c.dropMetadata(ctx, a); err != nil {
		return err
	}
	if len(asked.Questions) == 0 {
		a.warnNoOutput(asked.Build)
	}
	return nil
}

// envNoDefaultLoad reports that results are meant to stay in the cache.
const envNoDefaultLoad = "BUILDX_NO_DEFAULT_LOAD"

// noOutputNamed is how many targets without an output are named.
const noOutputNamed = 10

// warnNoOutput names the targets whose results go nowhere.
func (a *app) warnNoOutput(p *ir.Project) {
	if off, err := strconv.ParseBool(a.env[envNoDefaultLoad]); err == nil && off {
		return
	}
	var names []string
	for _, t := range p.Targets {
		if !t.Linked && len(t.Outputs) == 0 {
			names = append(names, t.Name)
		}
	}
	if len(names) == 0 {
		return
	}
	which := ""
	if len(names) > 1 || names[0] != "default" {
		which = " for " + view.Some(names, noOutputNamed) + " target(s)"
	}
	a.progress.Warn(fmt.Sprintf("No output specified%s. Build result will only remain in the build cache. To push result image into registry use --push or to load image into docker use --load", which))
}

// describe prints the definition instead of building it.
func (c *buildCmd) describe(ctx context.Context, a *app) (err error) {
	if _, err := entitlement.Parse(c.Allow); err != nil {
		return usageError{err}
	}
	if _, err := c.callFlag(); err != nil {
		return usageError{err}
	}
	request, err := a.request(&c.definitionFlags, &c.nodeFlags, &c.planFlags)
	if err != nil {
		return err
	}
	request.Reach, request.Nodes.Late = engine.Running, len(c.Nodes) == 0
	s := a.engine().Open(request)
	defer func() { err = errors.Join(err, s.Close()) }()
	if c.List != "" {
		if err := s.Through(ctx, engine.Choose); err != nil {
			return err
		}
		warnings, err := compiler.List(ctx, s.Options(), c.List, a.stdout)
		return errors.Join(a.judge(warnings, c.Strict), err)
	}
	if err := s.Through(ctx, engine.Compile); err != nil {
		return err
	}
	return compiler.WriteJSON(a.stdout, s.Project())
}

// strategyNames lists the strategies for the help text.
func strategyNames() string {
	var names string
	for i, s := range partition.Strategies() {
		if i > 0 {
			names += ", "
		}
		names += s.Name()
	}
	return names
}

// path makes a file name from the command line absolute; "" stays "".
func (a *app) path(name string) string { return engine.Path(a.dir, name) }
