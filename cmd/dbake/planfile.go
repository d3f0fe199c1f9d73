package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
)

// requestOf is what is kept of the command line in a saved plan. What was granted
// with --allow is not: that is for whoever builds to say.
func requestOf(d *definitionFlags, n *nodeFlags, p *planFlags) plan.Request {
	return plan.Request{
		Files: d.File, Targets: d.Targets, Set: d.Set, Vars: d.Var, NoCache: d.NoCache, Pull: d.Pull,
		SBOM: d.SBOM, Provenance: d.Provenance, Policy: d.Policy, Push: d.Push, Load: d.Load,
		Strict: d.Strict, Exclude: d.Exclude, WithDeps: d.WithDeps, Profiles: d.Profile,
		Nodes: n.Nodes, Builder: n.Builder, StateDir: n.StateDir, Buildkitd: n.Buildkitd,
		CacheRegistry: strings.Join(p.CacheRegistry, " "), // one, or none
	}
}

// planFile returns the saved plan that the command line names, nil when it names
// targets: a plan is the only argument, and a file whose name ends in .json and
// whose content says that it is one. No target can have such a name.
func (a *app) planFile(args []string) (*plan.File, error) {
	for _, name := range args {
		if !strings.HasSuffix(name, ".json") {
			continue
		}
		info, err := os.Stat(a.path(name))
		if err != nil || !info.Mode().IsRegular() {
			continue // a URL, or a target to be refused as unknown
		}
		f, err := os.Open(a.path(name))
		if err != nil {
			return nil, err
		}
		saved, err := plan.ReadFile(f)
		err = errors.Join(err, f.Close())
		switch {
		case errors.Is(err, plan.ErrNotPlan):
			return nil, usageError{fmt.Errorf("%s: %w; a definition is named with --file", name, err)}
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		case len(args) > 1:
			return nil, usageError{fmt.Errorf("%s is a plan, which says what to build: it stands alone", name)}
		}
		return saved, nil
	}
	return nil, nil
}

// useSaved replaces the flags that say what to build by those of a saved plan.
// Nodes may be named anew, so that a plan can be built where addresses differ.
func (c *buildCmd) useSaved(f *plan.File) error {
	d := &c.definitionFlags
	given := requestOf(d, &nodeFlags{}, &planFlags{})
	given.Targets = nil
	if !given.IsZero() {
		return usageError{errors.New("a plan says what to build: flags that change the definition cannot be added to it")}
	}
	r := f.Request
	*d = definitionFlags{
		File: r.Files, Targets: r.Targets, Set: r.Set, Var: r.Vars, NoCache: r.NoCache, Pull: r.Pull,
		SBOM: r.SBOM, Provenance: r.Provenance, Policy: r.Policy, Push: r.Push, Load: r.Load,
		Strict: r.Strict, Exclude: r.Exclude, WithDeps: r.WithDeps, Profile: r.Profiles,
		Allow: d.Allow, Call: d.Call, Check: d.Check,
	}
	if n := &c.nodeFlags; len(n.Nodes) == 0 && n.Builder == "" {
		n.Nodes, n.Builder = r.Nodes, r.Builder
	}
	if c.StateDir == "" {
		c.StateDir = r.StateDir
	}
	if c.Buildkitd == "" {
		c.Buildkitd = r.Buildkitd
	}
	if len(c.CacheRegistry) == 0 && r.CacheRegistry != "" {
		c.CacheRegistry = []string{r.CacheRegistry}
	}
	c.saved = f
	return nil
}

// checkSaved refuses a saved plan whose targets are defined in another way now.
func (c *buildCmd) checkSaved(nodes *nodes, project *ir.Project) error {
	if c.saved == nil {
		return nil
	}
	definitions, err := nodes.definitions(project)
	if err != nil {
		return err
	}
	return c.saved.Check(definitions)
}

// plan is the saved plan, or a new one.
func (c *buildCmd) plan(ctx context.Context, b *plan.Build, nodes []plan.Node) (*plan.Plan, error) {
	if c.saved != nil {
		return b.Restore(ctx, nodes, c.saved)
	}
	return makePlan(ctx, b, nodes, &c.planFlags)
}

// definitions returns the digests of the targets' definitions, wherever the local
// registry is.
func (n *nodes) definitions(p *ir.Project) (map[string]digest.Digest, error) {
	registry := ""
	if n.cluster != nil {
		registry = n.cluster.Registry()
	}
	return plan.Definitions(p, registry)
}

// planBudget is how long a plan is searched for: a number of tasks to schedule,
// which gives the same plan on every machine, or a time, which does not. The zero
// value is the default of the strategy.
type planBudget struct {
	tasks int
	limit time.Duration
}

// UnmarshalText reads "20000000" or "2s".
func (b *planBudget) UnmarshalText(text []byte) error {
	s := string(text)
	if n, err := strconv.Atoi(s); err == nil && n >= 0 {
		b.tasks = n
		if n == 0 {
			b.tasks = -1 // to the strategies 0 is their default
		}
		return nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is neither a number of tasks, as 20000000, nor a time, as 2s", s)
	}
	b.tasks, b.limit = math.MaxInt32, d
	return nil
}

// context returns ctx with the time limit, and the options for a strategy.
func (b planBudget) context(ctx context.Context) (context.Context, context.CancelFunc, partition.Options) {
	o := partition.Options{Budget: b.tasks}
	if b.limit > 0 {
		ctx, stop := context.WithTimeout(ctx, b.limit)
		return ctx, stop, o
	}
	return ctx, func() {}, o
}
