package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/memory"
	"github.com/dbake/dbake/internal/memory/runs"
)

// logCmd answers from the records of builds; it asks no node.
type logCmd struct {
	Show         logShowCmd     `cmd:"" default:"withargs" help:"Show what became of a build."`
	List         logListCmd     `cmd:"" name:"ls" help:"List the builds that are remembered."`
	WhatRan      logRanCmd      `cmd:"" help:"Show the steps of a build, with node, start and time."`
	WhatFailed   logFailedCmd   `cmd:"" help:"Show the targets and steps that failed."`
	Slowest      logSlowestCmd  `cmd:"" help:"Show the steps that took longest."`
	CriticalPath logCriticalCmd `cmd:"" help:"Show the steps that decided when the build was over."`
	Diff         logDiffCmd     `cmd:"" help:"Show which steps ran in one build and not in another, and which took another time."`
}

// runFlag names a build.
type runFlag struct {
	RunID  string `name:"run" placeholder:"ID" help:"The build, by the beginning of its name (default: the last)."`
	Format string `default:"table" enum:"table,json" help:"Output: table or json."`
}

func (a *app) runs() runs.Store { return memory.New(a.env, a.progress.Warn).Runs() }

// readRun returns the record of a build.
func readRun(store runs.Store, id string) (*runs.Run, error) {
	r, err := store.Read(id)
	if errors.Is(err, runs.ErrNone) {
		if id == "" {
			return nil, errors.New("no build is remembered on this machine")
		}
		return nil, fmt.Errorf("no build is remembered whose name begins with %q; 'dbake log ls' lists them", id)
	}
	return r, err
}

// show prints a build in one of several ways.
func (f runFlag) show(a *app, table func(io.Writer, *runs.Run) error) error {
	r, err := readRun(a.runs(), f.RunID)
	if err != nil {
		return err
	}
	if f.Format == "json" {
		return a.writeJSON(r)
	}
	return table(a.stdout, r)
}

type logShowCmd struct{ runFlag }

func (c *logShowCmd) Run(a *app) error { return c.show(a, view.RunSummary) }

type logRanCmd struct {
	runFlag
	Target string `arg:"" optional:"" help:"Only the steps of this target."`
	All    bool   `help:"Also the steps that were answered from a cache."`
}

func (c *logRanCmd) Run(a *app) error {
	return c.show(a, func(w io.Writer, r *runs.Run) error { return view.RunSteps(w, r, c.Target, c.All) })
}

type logFailedCmd struct{ runFlag }

func (c *logFailedCmd) Run(a *app) error { return c.show(a, view.RunFailures) }

type logSlowestCmd struct {
	runFlag
	Number int `short:"n" default:"10" placeholder:"N" help:"How many."`
}

func (c *logSlowestCmd) Run(a *app) error {
	if c.Number <= 0 {
		return usageError{errors.New("--number must be at least 1")}
	}
	return c.show(a, func(w io.Writer, r *runs.Run) error { return view.RunSlowest(w, r, c.Number) })
}

type logCriticalCmd struct{ runFlag }

func (c *logCriticalCmd) Run(a *app) error { return c.show(a, view.RunCriticalPath) }

type logListCmd struct {
	Format string `default:"table" enum:"table,json" help:"Output: table or json."`
}

func (c *logListCmd) Run(a *app) error {
	ids, err := a.runs().List()
	if err != nil {
		return err
	}
	list := []*runs.Run{}
	for _, id := range ids {
		r, err := a.runs().Read(id)
		if err != nil {
			a.progress.Warn(err.Error())
			continue
		}
		r.Steps = nil // the list is about the builds
		list = append(list, r)
	}
	if c.Format == "json" {
		return a.writeJSON(list)
	}
	return view.Runs(a.stdout, list)
}

type logDiffCmd struct {
	Then   string `arg:"" name:"run" help:"The earlier build, by the beginning of its name."`
	Now    string `arg:"" optional:"" name:"other" help:"The later one (default: the last)."`
	Format string `default:"table" enum:"table,json" help:"Output: table or json."`
}

func (c *logDiffCmd) Run(a *app) error {
	then, err := readRun(a.runs(), c.Then)
	if err != nil {
		return err
	}
	now, err := readRun(a.runs(), c.Now)
	if err != nil {
		return err
	}
	if c.Format == "json" {
		return a.writeJSON(runs.Compare(then, now))
	}
	return view.RunDiff(a.stdout, then, now)
}
