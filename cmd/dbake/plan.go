package main

import (
	"cmp"
	"context"
	"errors"
	"io"
	"time"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/report"
	"github.com/dbake/dbake/partition"
)

// planMaxAge is how old facts about a tag may be for a plan: a plan needs the shape of the
// build, not the latest base image.
const planMaxAge = 24 * time.Hour

type planCmd struct {
	definitionFlags
	nodeFlags
	planFlags

	Format  string   `default:"table" enum:"table,json,dot,mermaid,html" help:"Output: table; json, which \"dbake build FILE\" can build; dot or mermaid for a diagram; html for a page with a time chart."`
	Output  string   `short:"o" placeholder:"FILE" help:"Write to a file instead of standard output."`
	Explain string   `placeholder:"TARGET" help:"Explain why this target is on its node, what each other node would cost, and what its steps cost."`
	Compare []string `placeholder:"NAME" help:"Show the plans of several strategies side by side; all is every one of them."`
	Curve   bool     `help:"Show what the build would take on 1, 2, … nodes, and what the next node is worth: up to --max-nodes, which may be more than there are, else twice as many. With --format=json for an autoscaler."`
	Against string   `placeholder:"REV" help:"Show what has changed since a commit, a branch or a saved plan instead of a plan: which files make which steps of which targets run again, and what that costs. With --format=json a matrix of the changed targets for CI."`
	Timings bool     `help:"Show where the time of the command went, phase by phase, after the plan."`
	Offline bool     `help:"Ask no registry and no node: base images that are not known are assumed, and named."`
}

func (c *planCmd) Run(ctx contextBinding, a *app) (err error) {
	if err := c.check(); err != nil {
		return err
	}
	call, err := c.callFlag()
	if err == nil && call.method != "" {
		err = errors.New("--call and --check ask about Dockerfiles and build nothing: there is nothing to plan")
	}
	if err != nil {
		return usageError{err}
	}
	request, err := c.request(a)
	if err != nil {
		return err
	}
	s := a.engine().Open(request)
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Through(ctx, engine.Access); err != nil {
		return err
	}
	if len(s.Definition().Targets) == 0 {
		return errors.New("none of the targets is to be built: all have the attribute call")
	}
	if len(c.Compare) > 0 {
		return c.compare(ctx, a, s)
	}
	if c.Against != "" {
		return c.changes(ctx, a, s)
	}
	if c.Curve {
		return c.curve(ctx, a, s)
	}
	if err := s.Through(ctx, engine.Divide); err != nil {
		return err
	}
	if err := s.Price(ctx); err != nil {
		return err
	}
	if err := c.show(ctx, a, s); err != nil {
		return err
	}
	if c.Timings {
		a.progress.Timings(s.Timings())
	}
	return nil
}

// request returns the request of a plan to the engine.
func (c *planCmd) request(a *app) (engine.Request, error) {
	c.moment = engine.NewMoment()
	r, err := a.request(&c.definitionFlags, &c.nodeFlags, &c.planFlags)
	if err != nil {
		return r, err
	}
	r.MaxAge, r.Reach = planMaxAge, engine.Running
	r.ListFiles = c.Against != ""
	if !c.Curve && (c.Against != "" || c.Format != "table") || c.Explain != "" || len(c.Compare) > 0 {
		// Building a saved plan decides which of its targets are built.
		r.Reuse = engine.ReuseNever
	}
	r.Keys = c.Format == "json" && !c.Curve
	if c.Offline {
		r.Reach = engine.Offline
	}
	r.Admit = func(_ context.Context, asked engine.Admission) error {
		if err := a.privileges().warn(asked.Project, &c.definitionFlags); err != nil {
			return err
		}
		return a.checkPlaces(asked.Build)
	}
	return r, nil
}

// changes shows the changes since some state.
func (c *planCmd) changes(ctx context.Context, a *app, s *engine.Session) error {
	since, err := a.since(c.Against)
	if err != nil {
		return err
	}
	if err := s.Through(ctx, engine.Prepare); err != nil {
		return err
	}
	changes, err := s.Changes().Compare(ctx, since)
	if err != nil {
		return err
	}
	return a.output(ctx, c.Output, func(w io.Writer) error {
		if c.Format == "json" {
			return view.Matrix(w, changes)
		}
		return view.Changes(w, changes)
	})
}

// show writes the plan in the format that was asked for.
func (c *planCmd) show(ctx context.Context, a *app, s *engine.Session) error {
	if s.Plan() == nil {
		return a.output(ctx, c.Output, func(w io.Writer) error {
			return view.UnchangedTargets(w, s.Images().ListUnchanged(), s.Images().Always())
		})
	}
	p, err := report.New(ctx, s.Build(), s.Plan())
	if err != nil {
		return err
	}
	if c.Explain != "" {
		e, err := p.Explain(ctx, c.Explain)
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
	var file *report.File
	if c.Format == "json" {
		definitions, err := s.Definitions()
		if err != nil {
			return err
		}
		request := requestOf(&c.definitionFlags, &c.nodeFlags, &c.planFlags)
		request.State = stateDigest(a.path(c.StateDir))
		file = p.File(request, definitions)
		for i := range file.Targets {
			t := &file.Targets[i]
			if k := s.Images().Keys()[cmp.Or(t.Target, t.Name)]; k.Unknown == "" {
				t.ImageKey, t.Attested = k.Digest, k.Attested
			}
		}
		file.World = c.moment.World(s.Definition(), a.env)
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
		return errors.Join(view.Plan(w, p), view.UnchangedTargets(w, s.Images().ListUnchanged(), s.Images().Always()))
	})
}

// check refuses flags that mean nothing together.
func (c *planCmd) check() error {
	switch {
	case c.Against != "" && (c.Explain != "" || len(c.Compare) > 0):
		return usageError{errors.New("--against excludes --explain and --compare")}
	case c.Against != "" && c.Format != "table" && c.Format != "json":
		return usageError{errors.New("--against is written as a table or as json")}
	case c.Curve && (c.Against != "" || c.Explain != "" || len(c.Compare) > 0):
		return usageError{errors.New("--curve excludes --against, --explain and --compare")}
	case c.Curve && c.Format != "table" && c.Format != "json":
		return usageError{errors.New("--curve is written as a table or as json")}
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

// curve plans for 1 node and more.
func (c *planCmd) curve(ctx context.Context, a *app, s *engine.Session) error {
	if err := s.Through(ctx, engine.Caches); err != nil {
		return err
	}
	curve, err := s.Curve(ctx, c.MaxNodes)
	if err != nil {
		return err
	}
	err = a.output(ctx, c.Output, func(w io.Writer) error {
		if c.Format == "json" {
			return curve.Write(w)
		}
		return view.Curve(w, curve)
	})
	if err == nil && c.Timings {
		a.progress.Timings(s.Timings())
	}
	return err
}

// compare plans with several strategies.
func (c *planCmd) compare(ctx context.Context, a *app, s *engine.Session) error {
	if err := s.Through(ctx, engine.Caches); err != nil {
		return err
	}
	var plans []*report.Report
	for _, name := range c.Compare {
		strategy, err := partition.Lookup(name)
		if err != nil {
			return usageError{err}
		}
		b, made, err := s.With(ctx, strategy)
		if err != nil {
			return err
		}
		p, err := report.New(ctx, b, made)
		if err != nil {
			return err
		}
		plans = append(plans, p)
	}
	return a.output(ctx, c.Output, func(w io.Writer) error { return view.Compare(w, plans) })
}
