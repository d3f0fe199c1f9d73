package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/runtime/daemon"
)

type nodesCmd struct {
	nodeChoice
	Args    []string `arg:"" optional:"" name:"drain|undrain NODE" help:"drain NODE... has nodes, named by name or address, end what they have begun and get no work any more, in builds in progress and later ones; undrain NODE... has them get work again."`
	File    []string `short:"f" sep:"none" placeholder:"FILE" help:"Show what nodes hold of this definition (default: that of the working directory, if there is one). Repeatable."`
	Var     []string `sep:"none" placeholder:"NAME=VALUE" help:"Set a variable of the definition. Repeatable."`
	History string   `placeholder:"FILE" help:"Where measured costs of steps are kept; none keeps nothing."`
	Format  string   `default:"table" enum:"table,json" help:"Output: table or json."`
}

// Run shows the nodes that a build with the same flags would use. It ends with an
// error when none of them can be used.
func (c *nodesCmd) Run(ctx contextBinding, a *app) error {
	if len(c.Args) > 0 {
		return c.mark(ctx, a)
	}
	d := definitionFlags{File: c.File, Var: c.Var}
	p := planFlags{Strategy: "affinity", History: c.History}
	n := nodeFlags{nodeChoice: c.nodeChoice, NodeTimeout: daemon.DefaultNodeTimeout}
	request, err := a.request(&d, &n, &p)
	if err != nil {
		return err
	}
	request.Reach = engine.Running
	request.Nodes.Drained = true
	list, err := c.inspect(ctx, a, request)
	if err != nil {
		return err
	}
	err = a.output(ctx, "", func(w io.Writer) error {
		if c.Format == "json" {
			return view.NodesJSON(w, list)
		}
		return view.Nodes(w, list)
	})
	usable := slices.ContainsFunc(list, engine.NodeState.Usable)
	if err == nil && !usable {
		err = errors.New("no node can be used")
	}
	return err
}

// mark notes that nodes are to go, or to stay after all.
func (c *nodesCmd) mark(ctx context.Context, a *app) error {
	what, names := c.Args[0], c.Args[1:]
	if what != "drain" && what != "undrain" {
		return usageError{fmt.Errorf("unexpected argument %q: want drain NODE or undrain NODE, or nothing", what)}
	}
	if len(names) == 0 {
		return usageError{fmt.Errorf("name the nodes to %s", what)}
	}
	choice, err := c.choice(a)
	if err != nil {
		return err
	}
	return a.engine().Drain(ctx, choice, names, what == "drain")
}

// inspect asks the nodes what they are, and which results of the definition they hold: the
// one that was asked for, or the default one. Failure to read the default one is only a
// warning.
func (c *nodesCmd) inspect(ctx context.Context, a *app, request engine.Request) (list []engine.NodeState, err error) {
	looking := a.engine()
	looking.Report = withoutWarnings{a.progress}
	s := looking.Open(request)
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Through(ctx, engine.Choose); err != nil {
		return nil, err
	}
	if len(c.File) > 0 {
		return s.Inspect(ctx, true)
	}
	list, err = s.Inspect(ctx, true)
	if err == nil || ctx.Err() != nil {
		return list, err
	}
	if !errors.Is(err, compiler.ErrNoDefinition) {
		a.progress.Warn(fmt.Sprintf("cannot find out what nodes hold of the definition: %v", err))
	}
	again := looking.Open(request)
	defer func() { err = errors.Join(err, again.Close()) }()
	if err := again.Through(ctx, engine.Choose); err != nil {
		return nil, err
	}
	return again.Inspect(ctx, false)
}

// withoutWarnings drops warnings: the table shows what they are about.
type withoutWarnings struct{ engine.Reporter }

func (withoutWarnings) Warn(string) {}
