package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/partition"
)

// planMaxAge is how old what is known of a tag may be for a plan: a plan needs the
// shape of the build, not the latest base image.
const planMaxAge = 24 * time.Hour

type planCmd struct {
	definitionFlags
	nodeFlags
	planFlags

	Format  string   `default:"table" enum:"table,json,dot,mermaid,html" help:"Output: table; json, which \"dbake build FILE\" can build; dot or mermaid for a diagram; html for a page with a time chart."`
	Output  string   `short:"o" placeholder:"FILE" help:"Write to a file instead of standard output."`
	Explain string   `placeholder:"TARGET" help:"Tell why this target is on its node, what each other node would cost, and what its steps cost."`
	Compare []string `placeholder:"NAME" help:"Show the plans of several strategies side by side; all is every one of them."`
	Offline bool     `help:"Ask no registry and no node: base images that are not known are assumed, and named."`
}

func (c *planCmd) Run(ctx contextBinding, a *app) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	store, err := c.cacheStore()
	if err != nil {
		return err
	}
	call, err := c.callFlag()
	if err == nil && call.method != "" {
		err = errors.New("--call and --check ask about Dockerfiles and build nothing: there is nothing to plan")
	}
	if err != nil {
		return usageError{err}
	}
	nodes, err := a.findNodes(ctx, &c.nodeFlags)
	if err != nil {
		return err
	}
	standby := &standby{app: a, flags: &c.nodeFlags, nodes: nodes}
	defer func() { err = errors.Join(err, standby.close()) }()
	var remote compiler.RemoteReader
	if !c.Offline {
		remote = standby
	}
	c.moment = newMoment()
	project, err := a.compile(ctx, &c.definitionFlags, nodes.environment(a.env), remote)
	if err != nil {
		return err
	}
	if err := a.refusePolicies(project); err != nil {
		return err
	}
	if err := a.warnPrivileges(project, &c.definitionFlags); err != nil {
		return err
	}
	_, definition := split(standby.withAccess(project))
	if len(definition.Targets) == 0 {
		return errors.New("none of the targets is to be built: all have the attribute call")
	}
	project = a.buildable(definition)
	if err := a.checkPlaces(project, ""); err != nil {
		return err
	}
	known, err := standby.guess(ctx, c.Offline)
	if err != nil {
		return err
	}
	for _, err := range known.silent {
		a.progress.Warn(fmt.Sprintf("%v; what it holds is taken from earlier builds", err))
	}
	opts := standby.frontendOptions(ctx, known, planMaxAge, c.Offline)
	history := a.openHistory(c.History)
	defer a.closeHistory(history)
	files := a.files()
	build, err := plan.Prepare(ctx, project, opts, plan.Memory{History: history, Files: files})
	if err != nil {
		return err
	}
	a.saveFiles(files)
	var may func(*ir.Target) bool // offline every target whose outputs allow it
	if !c.Offline {
		caches := standby.caches(ctx, store, nodes, build)
		may = a.joinable(ctx, caches.access)
		build = build.WithCache(caches.held(ctx, a))
	}
	if len(c.Compare) > 0 {
		return c.compare(ctx, a, build, known.nodes, may)
	}
	build, p, err := makePlan(ctx, build, known.nodes, &c.planFlags, may)
	if err != nil {
		return err
	}
	if c.Explain != "" {
		e, err := p.Explain(ctx, build, c.Explain)
		if err != nil {
			return err
		}
		return a.output(ctx, c.Output, func(w io.Writer) error { return view.Explain(w, p, e) })
	}
	if c.Format == "json" || c.Format == "html" {
		if err := p.Reasons(ctx); err != nil {
			return err
		}
	}
	var file *plan.File
	if c.Format == "json" {
		definitions, err := nodes.definitions(definition)
		if err != nil {
			return err
		}
		file = p.File(requestOf(&c.definitionFlags, &c.nodeFlags, &c.planFlags), definitions)
		file.World = c.moment.file(project, a.env)
	}
	return a.output(ctx, c.Output, func(w io.Writer) error {
		switch c.Format {
		case "json":
			return file.Write(w)
		case "dot":
			return view.Dot(w, p)
		case "mermaid":
			return view.Mermaid(w, p)
		case "html":
			return view.HTML(w, p)
		}
		return view.Plan(w, p)
	})
}

// check refuses flags that mean nothing together.
func (c *planCmd) check() error {
	switch {
	case c.Explain != "" && len(c.Compare) > 0:
		return usageError{errors.New("--explain and --compare exclude each other")}
	case (c.Explain != "" || len(c.Compare) > 0) && c.Format != "table":
		return usageError{errors.New("--explain and --compare are written as tables only")}
	}
	if len(c.Compare) == 1 && c.Compare[0] == "all" {
		c.Compare = nil
		for _, s := range partition.Strategies() {
			c.Compare = append(c.Compare, s.Name())
		}
	}
	for _, name := range append([]string{c.Strategy}, c.Compare...) {
		if _, err := partition.Lookup(name); err != nil {
			return usageError{err}
		}
	}
	return nil
}

// compare plans with several strategies.
func (c *planCmd) compare(ctx context.Context, a *app, build *plan.Build, nodes []plan.Node, may func(*ir.Target) bool) error {
	var plans []*plan.Plan
	for _, name := range c.Compare {
		f := c.planFlags
		f.Strategy = name
		_, p, err := makePlan(ctx, build, nodes, &f, may)
		if err != nil {
			return err
		}
		plans = append(plans, p)
	}
	return a.output(ctx, c.Output, func(w io.Writer) error { return view.Compare(w, plans) })
}
