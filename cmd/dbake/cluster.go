package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/runtime/local"
	"github.com/dbake/dbake/runtime/nodeset/nodecert"
)

type clusterCmd struct {
	Up     clusterUpCmd     `cmd:"" help:"Start nodes and a registry that stay when the command ends."`
	Down   clusterDownCmd   `cmd:"" help:"Stop them, unless a command uses them; what they have built is kept."`
	Status clusterStatusCmd `cmd:"" help:"Show what is running."`
	Certs  clusterCertsCmd  `cmd:"" help:"Make certificates for nodes on other machines, and say where they go."`
}

type clusterUpCmd struct {
	Nodes     int    `default:"1" placeholder:"N" help:"How many nodes."`
	StateDir  string `placeholder:"DIR" help:"Where nodes and registry keep their state."`
	Buildkitd string `placeholder:"FILE" help:"The buildkitd to start."`
	Format    string `default:"table" enum:"table,json" help:"Output: table or json."`
}

func (c *clusterUpCmd) Run(ctx contextBinding, a *app) error {
	st, err := local.Up(ctx, local.Options{
		StateDir: a.path(c.StateDir), Nodes: c.Nodes, Buildkitd: a.path(c.Buildkitd),
		Supervisor: a.supervisor, Command: a.title(),
		Notify: a.progress.Note,
	})
	if err != nil {
		return err
	}
	return showStatus(a, st, c.Format)
}

type clusterDownCmd struct {
	StateDir string `placeholder:"DIR" help:"Where nodes and registry keep their state."`
}

func (c *clusterDownCmd) Run(ctx contextBinding, a *app) error {
	err := local.Down(ctx, a.path(c.StateDir))
	if cause := context.Cause(ctx); cause != nil && (err == nil || errors.Is(err, local.ErrNotRunning)) {
		// Processes that did not end by themselves in time were killed.
		return cause
	}
	if errors.Is(err, local.ErrNotRunning) {
		a.progress.Note("no cluster is running")
		return nil
	}
	return err
}

type clusterStatusCmd struct {
	StateDir string `placeholder:"DIR" help:"Where nodes and registry keep their state."`
	Format   string `default:"table" enum:"table,json" help:"Output: table or json."`
}

func (c *clusterStatusCmd) Run(ctx contextBinding, a *app) error {
	st, err := local.ReadStatus(ctx, a.path(c.StateDir))
	if err != nil {
		return err
	}
	return showStatus(a, st, c.Format)
}

type clusterCertsCmd struct {
	Dir    string   `arg:"" name:"directory" help:"Where the certificates are made; the authority that is there signs those of further nodes."`
	Node   []string `sep:"none" placeholder:"NAME[,NAME...]" help:"A node, by all host names and IP addresses under which it is reached; may be repeated."`
	Format string   `default:"table" enum:"table,json" help:"Output: table or json."`
}

func (c *clusterCertsCmd) Run(a *app) error {
	dir := a.path(c.Dir)
	if strings.ContainsAny(dir, ", \t\n") {
		return usageError{fmt.Errorf("%s: choose a directory without commas and spaces in its name; --nodes could not name its files", dir)}
	}
	var nodes []nodecert.Node
	for _, value := range c.Node {
		n, err := nodecert.ParseNode(value)
		if err != nil {
			return usageError{err}
		}
		nodes = append(nodes, n)
	}
	made, err := nodecert.Make(dir, nodes, time.Now())
	if err != nil {
		return fmt.Errorf("certificates: %w", err)
	}
	if made.Authority == nil && made.Client == nil && len(nodes) == 0 {
		return usageError{fmt.Errorf("%s has an authority and a client already; name a node with --node to add it", dir)}
	}
	list := view.NewCertificates(dir, nodes, made)
	if c.Format == "json" {
		return a.writeJSON(list)
	}
	return list.Write(a.stdout)
}

// title is how other users of the local nodes see this command.
func (a *app) title() string {
	if len(a.args) == 0 {
		return "dbake"
	}
	return "dbake " + a.args[0]
}

func showStatus(a *app, st *local.Status, format string) error {
	if format == "json" {
		return a.writeJSON(st)
	}
	return view.Status(a.stdout, st)
}

// superviseCmd runs local nodes for all commands that use them.
type superviseCmd struct{}

func (c *superviseCmd) Run(ctx contextBinding) error { return local.Supervise(ctx) }
