package main

import (
	"errors"
	"io"
	"os"
	"time"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/frontend"
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

	Format  string `default:"table" enum:"table,json" help:"Output: table or json."`
	Output  string `short:"o" placeholder:"FILE" help:"Write to a file instead of standard output."`
	Offline bool   `help:"Ask no registry and no node: base images that are not known are assumed, and named."`
}

func (c *planCmd) Run(ctx contextBinding, a *app) (err error) {
	if _, err := partition.Lookup(c.Strategy); err != nil {
		return usageError{err}
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
	project, err := a.compile(ctx, &c.definitionFlags, nodes.environment(a.env))
	if err != nil {
		return err
	}
	if err := refusePolicies(project); err != nil {
		return err
	}
	if err := a.warnPrivileges(project, &c.definitionFlags); err != nil {
		return err
	}
	if _, project = split(project); len(project.Targets) == 0 {
		return errors.New("none of the targets is to be built: all have the attribute call")
	}
	opts := a.frontendOptions(nodes, nil, nil)
	opts.Resolver = frontend.NewRegistryResolver(frontend.RegistryOptions{
		Mirrors: nodes.mirrors(), CacheDir: a.cacheDir("images"), DockerConfig: a.env["DOCKER_CONFIG"],
		MaxAge: planMaxAge, Offline: c.Offline,
	})
	history, err := a.openHistory(c.History)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, history.Close()) }()
	build, err := plan.Prepare(ctx, project, opts, history)
	if err != nil {
		return err
	}
	planned, err := nodes.planned(a.ledger())
	if err != nil {
		return err
	}
	p, err := makePlan(ctx, build, planned, &c.planFlags)
	if err != nil {
		return err
	}
	return a.output(c.Output, func(w io.Writer) error {
		if c.Format == "json" {
			return p.WriteJSON(w)
		}
		return view.Plan(w, p)
	})
}

// output lets write fill a file, or standard output when name is "" or "-".
func (a *app) output(name string, write func(io.Writer) error) error {
	if name == "" || name == "-" {
		return write(a.stdout)
	}
	f, err := os.Create(a.path(name))
	if err != nil {
		return err
	}
	return errors.Join(write(f), f.Close())
}
