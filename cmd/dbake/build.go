package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/cost"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/warm"
	"github.com/dbake/dbake/partition"
	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/registry"
	"github.com/dbake/dbake/runtime/sched"
)

type buildCmd struct {
	definitionFlags
	nodeFlags
	planFlags

	Print        bool   `help:"Print the resolved definition as JSON and build nothing."`
	List         string `placeholder:"WHAT" help:"List targets or variables and build nothing; type=WHAT,format=json for JSON."`
	Progress     string `default:"auto" placeholder:"MODE" help:"How progress is shown: auto, plain, tty, quiet or rawjson ($$BUILDKIT_PROGRESS replaces auto)."`
	MetadataFile string `placeholder:"FILE" help:"Write the digests and descriptors of what was built, as JSON by target."`
	Jobs         jobs   `short:"j" placeholder:"N|MODE" help:"Build at most N targets at once over all nodes (default: no limit); or what to do when a target fails: fail-fast ends the build (the default), defer-output does too and writes no output before every target is built, defer-error builds all that does not depend on it; MODE,parallel=N for both."`
	KeepGoing    bool   `short:"k" help:"Same as --jobs=defer-error."`
	NoSteal      bool   `help:"Let no node take over what was planned for another."`

	ListTargets   bool `hidden:""` // as buildx still has them
	ListVariables bool `hidden:""`

	saved           *plan.File // the plan to build; nil makes one
	metadataWritten bool
}

func (c *buildCmd) Run(ctx contextBinding, a *app) (err error) {
	switch {
	case c.ListTargets:
		c.List = "targets"
	case c.ListVariables:
		c.List = "variables"
	}
	if c.Print && c.List != "" {
		return usageError{errors.New("--print and --list are mutually exclusive")}
	}
	if c.Jobs, err = c.Jobs.orKeepGoing(c.KeepGoing); err != nil {
		return usageError{err}
	}
	saved, err := a.planFile(c.Targets)
	if err != nil {
		return err
	}
	if saved != nil {
		if err := c.useSaved(a, saved); err != nil {
			return err
		}
	}
	if c.Print || c.List != "" {
		return c.describe(ctx, a)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.dropMetadata(ctx, a))
		}
	}()
	if _, err := partition.Lookup(c.Strategy); err != nil {
		return usageError{err}
	}
	call, err := c.callFlag()
	if err != nil {
		return usageError{err}
	}
	if call.method != "" {
		return c.callAll(ctx, a, call)
	}
	c.deferFaults = c.Jobs.mode == deferError
	return c.build(ctx, a, call)
}

// build builds the targets that are to be built, then answers for the others.
func (c *buildCmd) build(ctx context.Context, a *app, call callFlag) (err error) {
	store, err := c.cacheStore()
	if err != nil {
		return err
	}
	nodes, err := a.findNodes(ctx, &c.nodeFlags)
	if err != nil {
		return err
	}
	standby := &standby{app: a, flags: &c.nodeFlags, nodes: nodes}
	defer func() { err = errors.Join(err, standby.close()) }()
	all, err := a.compile(ctx, &c.definitionFlags, nodes.environment(a.env), standby)
	if err != nil {
		return err
	}
	if err := a.admit(ctx, all, &c.definitionFlags); err != nil {
		return err
	}
	all = standby.withAccess(all)
	called, project := split(all)
	if err := c.checkSaved(nodes, project); err != nil {
		return err
	}
	project = a.buildable(project)
	if len(project.Targets) == 0 {
		return c.answer(ctx, a, all, standby, nil, nil, call)
	}
	if err := a.checkPlaces(project, c.MetadataFile); err != nil {
		return err
	}
	if err := c.dropMetadata(ctx, a); err != nil {
		return err
	}
	if len(called) == 0 {
		a.warnNoOutput(project)
	}
	project, load, err := a.prepareLoad(ctx, project)
	if err != nil {
		return err
	}
	nodes.allow(project)
	known, err := standby.ask(ctx)
	if err != nil {
		return err
	}

	history := a.openHistory(c.History)
	defer a.closeHistory(history)
	opts := standby.frontendOptions(ctx, known, 0, false)
	files := a.files()
	build, faults, err := plan.PrepareWhole(ctx, project, opts, plan.Memory{History: history, Files: files})
	if err != nil {
		return err
	}
	if c.Jobs.mode != deferError || len(build.Jobs) == 0 {
		if err := plan.Join(faults); err != nil {
			return err
		}
	}
	a.saveFiles(files)
	caches := standby.caches(ctx, store, nodes, build)
	build, p, err := c.plan(ctx, build.WithCache(caches.held(ctx, a)), known.nodes, a.joinable(ctx, caches.access))
	if errors.Is(err, plan.ErrNoNode) {
		// One of those that are away might.
		return errors.Join(err, errors.Join(known.pool.Absent()...))
	}
	if err != nil {
		return err
	}
	request, err := c.request(a, nodes, project, build, p, caches)
	if err != nil {
		return err
	}
	request.Load, request.Credentials = load, runtime.NewCacheCredentials(ctx, project, a.env)
	if c.MetadataFile != "" {
		request.Provenance = a.metadataProvenance()
	}

	if err := a.progress.Begin(len(known.nodes) > 1); err != nil {
		return err
	}
	result, err := known.pool.Run(ctx, request, a.progress.Observe)
	a.progress.End()
	err = errors.Join(err, plan.Join(faults))
	a.progress.Remarks(build.Warnings(), a.debug)
	if result == nil {
		return err
	}
	result.Jobs = append(result.Jobs, faulty(faults)...)
	for _, w := range result.Warnings {
		a.progress.Warn(w)
	}
	if rememberErr := caches.remember(context.WithoutCancel(ctx), a, build, result.Caches, time.Now()); rememberErr != nil {
		a.forgets(rememberErr)
	}
	if rememberErr := a.remember(build, history, known.pool.All(), known.pool.Records(context.WithoutCancel(ctx)), result); rememberErr != nil {
		a.forgets(rememberErr)
	}
	a.progress.Summary(result, view.Prediction{Makespan: p.Makespan, Bound: p.Bound})
	if err == nil && len(called) > 0 {
		return c.answer(ctx, a, all, standby, known, metadata(result), call)
	}
	return errors.Join(err, c.writeMetadata(ctx, a, a.withWarnings(metadata(result), build.Warnings()), err != nil))
}

// faulty are the targets that were not built because of faults.
func faulty(faults []plan.Fault) []runtime.JobResult {
	var list []runtime.JobResult
	for _, f := range faults {
		j := runtime.JobResult{Job: f.Target, Target: f.Target, State: runtime.Skipped, Reason: f.Needs + " failed"}
		if f.Err != nil {
			j.State, j.Reason, j.Err = runtime.Failed, f.Err.Error(), f.Err
		}
		list = append(list, j)
	}
	return list
}

// admit checks that nothing is asked for that cannot be done or was not granted.
func (a *app) admit(ctx context.Context, p *ir.Project, f *definitionFlags) error {
	if err := a.checkSwitches(); err != nil {
		return err
	}
	if err := a.refusePolicies(p); err != nil {
		return err
	}
	return a.authorize(ctx, p, f)
}

// envSourcePolicy names a file with a policy that BuildKit applies to sources.
const envSourcePolicy = "EXPERIMENTAL_BUILDKIT_SOURCE_POLICY"

// refusePolicies refuses what the environment and targets ask of source policies,
// and --policy, which is a value of all targets: a build that went past a policy
// would be worse than none. A policy beside a Dockerfile is found, and refused,
// where the Dockerfile is compiled.
func (a *app) refusePolicies(p *ir.Project) error {
	if file := a.env[envSourcePolicy]; file != "" {
		return fmt.Errorf("the source policy %s cannot be enforced: dbake does not apply $%s; build with docker buildx, or without it", file, envSourcePolicy)
	}
	for _, t := range p.Targets {
		asks := a.on(envDefaultPolicy)
		for _, policy := range t.Policy {
			if policy.Disabled {
				asks = false
				break
			}
			asks = asks || policy.Filename != "" || policy.Strict != nil || policy.LogLevel != nil
		}
		if asks {
			return &ir.SourceError{
				Range:   t.Origin("policy"),
				Summary: fmt.Sprintf("the source policies of target %s cannot be enforced", t.Name),
				Detail:  "dbake does not evaluate Rego policies, nor the default policy of $" + envDefaultPolicy + "; build with docker buildx, or without policies: --policy disabled=true",
			}
		}
	}
	return nil
}

// envNoDefaultLoad says that results are meant to stay in the cache.
const envNoDefaultLoad = "BUILDX_NO_DEFAULT_LOAD"

// warnNoOutput names the targets whose result is going nowhere.
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
		which = " for " + strings.Join(names, ", ") + " target(s)"
	}
	a.progress.Warn(fmt.Sprintf("No output specified%s. Build result will only remain in the build cache. To push result image into registry use --push or to load image into docker use --load", which))
}

// describe prints the definition instead of building it.
func (c *buildCmd) describe(ctx context.Context, a *app) (err error) {
	if _, err := parseAllow(c.Allow); err != nil {
		return usageError{err}
	}
	if _, err := c.callFlag(); err != nil {
		return usageError{err}
	}
	var nodes *nodes
	if len(c.Nodes) > 0 {
		if nodes, err = a.findNodes(ctx, &c.nodeFlags); err != nil {
			return err
		}
	}
	standby := &standby{app: a, flags: &c.nodeFlags, nodes: nodes}
	defer func() { err = errors.Join(err, standby.close()) }()
	if c.List != "" {
		warnings, err := compiler.List(ctx, a.compilerOptions(&c.definitionFlags, nodes.environment(a.env), standby), c.List, a.stdout)
		return errors.Join(a.judge(warnings, c.Strict), err)
	}
	project, err := a.compile(ctx, &c.definitionFlags, nodes.environment(a.env), standby)
	if err != nil {
		return err
	}
	return compiler.WriteJSON(a.stdout, project)
}

// request puts together what the run needs.
func (c *buildCmd) request(a *app, nodes *nodes, project *ir.Project, build *plan.Build, p *plan.Plan, caches buildCaches) (*runtime.Build, error) {
	r := &runtime.Build{
		Graph: build.Graph, Jobs: build.Jobs, Steps: p.Exchange.Steps,
		Sched: runtime.Schedule(p, sched.Options{
			Jobs: c.Jobs.limit, KeepGoing: c.Jobs.mode == deferError, DeferOutput: c.Jobs.mode == deferOutput,
			Steal:   !c.NoSteal && len(nodes.specs) > 1,
			Backoff: time.Second, Ahead: 1,
			// Nodes on one machine would only take the processor from each other.
			NoHedge: nodes.cluster != nil,
		}),
		Inputs: runtime.Inputs{
			Dirs: build.Locals(), Secrets: runtime.SecretSources(build.Secrets, a.env, a.path), SSH: map[string][]string{},
			Env: a.env, SharedKey: a.sharedKey(project.Dir),
		},
		Dir: project.Dir, Stdout: a.stdout, Cache: caches.Input, Registries: caches.access,
	}
	for id, s := range build.SSH {
		r.Inputs.SSH[id] = s.Paths
	}
	var err error
	if r.Entitlements, err = entitled(build.Units); err != nil {
		return nil, err
	}
	return r, nil
}

// makePlan divides the build among the nodes; may says which targets may be divided
// although they need not be.
func makePlan(ctx context.Context, b *plan.Build, nodes []plan.Node, f *planFlags, may func(*ir.Target) bool) (*plan.Build, *plan.Plan, error) {
	strategy, err := partition.Lookup(f.Strategy)
	if err != nil {
		return nil, nil, usageError{err}
	}
	ctx, stop, opts := f.PlanBudget.context(ctx)
	defer stop()
	return b.Choose(ctx, nodes, strategy, opts, may)
}

// joinable returns what says whether the parts of a target can be put together.
func (a *app) joinable(ctx context.Context, access registry.Options) func(*ir.Target) bool {
	return func(t *ir.Target) bool { return runtime.Joinable(ctx, t, a.dir, access) }
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

// remember notes what the steps of a run took and where their results are. records
// are what each node keeps now.
func (a *app) remember(b *plan.Build, history *cost.Store, infos []runtime.NodeInfo, records []warm.Records, r *runtime.Result) error {
	now := time.Now()
	addr, atOnce, kept := map[string]string{}, map[string]int{}, map[string]warm.Records{}
	native := map[string]ocispecs.Platform{}
	for i, n := range r.Nodes {
		at := infos[i].Addr
		addr[n.Name], native[n.Name], kept[at] = at, infos[i].Native, records[i]
		atOnce[at], _ = slots(infos[i].Spec)
	}
	var list []plan.Measurement
	for _, m := range r.Measured {
		list = append(list, plan.Measurement{Node: addr[m.Node], Native: native[m.Node], Vertex: m.Vertex, Job: m.Job, Start: m.Start, Took: m.Took})
	}
	b.Record(history, list, atOnce, kept, now)
	var errs []error
	for i, n := range r.Nodes {
		if n.Lost == nil && infos[i].ID != "" {
			at := infos[i].Addr
			errs = append(errs, a.ledger().Add(at, infos[i].ID, b.Held(n.Held), b.Traces(at, list), records[i], now))
		}
	}
	return errors.Join(errs...)
}

// path returns a file name of the user's as an absolute one; "" stays "".
func (a *app) path(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(a.dir, name)
}

// sharedKey tells this project on this machine from all others, without telling
// the nodes its path.
func (a *app) sharedKey(dir string) string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown" // then only the path tells projects apart
	}
	sum := sha256.Sum256([]byte(host + "\x00" + dir))
	return hex.EncodeToString(sum[:16])
}
