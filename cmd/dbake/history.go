package main

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/dbake/dbake/internal/memory"
	"github.com/dbake/dbake/internal/memory/cost"
)

type historyCmd struct {
	Export historyExportCmd `cmd:"" help:"Write the history as JSON lines, to be carried to another machine."`
	Import historyImportCmd `cmd:"" help:"Read what export wrote. Entries that are known already change nothing."`
}

// historyFlag names the history that a command is about.
type historyFlag struct {
	History string `placeholder:"FILE" help:"The history (default: that in the user's cache directory)."`
}

// open opens the history, which must be kept somewhere.
func (f historyFlag) open(a *app) (*cost.Store, error) {
	known := memory.New(a.env, a.progress.Warn)
	if f.History == cost.InMemory || f.History == "" && known.Dir("") == "" {
		return nil, usageError{errors.New("there is no history: name its file with --history")}
	}
	history, err := known.History(a.historyFile(f.History))
	if err != nil {
		return nil, err
	}
	for _, note := range history.Notes() {
		a.progress.Warn(note)
	}
	return history, nil
}

type historyExportCmd struct {
	historyFlag
	Output string `short:"o" placeholder:"FILE" help:"Write to a file instead of standard output."`
}

func (c *historyExportCmd) Run(ctx contextBinding, a *app) error {
	history, err := c.open(a)
	if err != nil {
		return err
	}
	return a.output(ctx, c.Output, history.Export)
}

type historyImportCmd struct {
	historyFlag
	Files []string `arg:"" name:"file" help:"What export wrote; - is standard input."`
}

func (c *historyImportCmd) Run(a *app) error {
	history, err := c.open(a)
	if err != nil {
		return err
	}
	steps := 0
	for _, name := range c.Files {
		n, err := importHistory(history, a, name)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		steps += n
	}
	if err := history.Close(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.stdout, "%d steps read, %d known now\n", steps, history.Len())
	return err
}

func importHistory(history *cost.Store, a *app, name string) (int, error) {
	var r io.Reader = a.stdin
	if name != "-" {
		f, err := os.Open(a.path(name))
		if err != nil {
			return 0, err
		}
		defer f.Close()
		r = f
	}
	return history.Import(r)
}

// historyFile returns the value of --history with an absolute name of a file.
func (a *app) historyFile(name string) string {
	if name == cost.InMemory {
		return name
	}
	return a.path(name)
}
