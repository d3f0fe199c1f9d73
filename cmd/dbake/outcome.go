package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
	"github.com/dbake/dbake/cmd/dbake/internal/targetlog"
	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/internal/redact"
	"github.com/dbake/dbake/runtime"
)

// recordFlags choose where the record of a run goes.
type recordFlags struct {
	SummaryJSON string `name:"summary-json" placeholder:"FILE" help:"Write what became of each target and node, and of the build as a whole, as JSON; - is standard output."`
	LogDir      string `placeholder:"DIR" help:"Directory for the log of each target, TARGET.log; none writes none (default: dbake-logs in the directory for temporary files)."`

	misplaced bool // a file of a flag is that of something else
}

// logged is a reporter that also writes the logs of the targets of a run.
type logged struct {
	engine.Reporter
	open func() (*targetlog.Set, error) // returns nil for no logs
	set  *targetlog.Set                 // nil before a run, and without logs
}

// Begin implements engine.Reporter.
func (l *logged) Begin(b *plan.Build, p *plan.Plan, named bool) (err error) {
	if l.set, err = l.open(); err != nil {
		return err
	}
	if l.set != nil {
		l.set.Begin(scene.NewOutlook(b, p))
	}
	return l.Reporter.Begin(b, p, named)
}

// Observe implements engine.Reporter.
func (l *logged) Observe(e runtime.Event) {
	if l.set != nil {
		l.set.Observe(e)
	}
	l.Reporter.Observe(e)
}

// End implements engine.Reporter.
func (l *logged) End() {
	if l.set != nil {
		if err := l.set.Close(); err != nil {
			l.Warn(err.Error())
		}
	}
	l.Reporter.End()
}

// describe adds the directory of the logs.
func (l *logged) describe() view.Run {
	if l.set == nil {
		return view.Run{}
	}
	return view.Run{Logs: l.set.Dir(), Log: l.set.Path}
}

// noLogs is the --log-dir of a build that writes no logs.
const noLogs = "none"

// openLogs opens the logs of the targets; nil is none. Failure to open the default ones is
// not an error.
func (c *recordFlags) openLogs(a *app) (*targetlog.Set, error) {
	switch c.LogDir {
	case noLogs:
		return nil, nil
	case "":
	default:
		set, err := targetlog.Open(a.path(c.LogDir))
		if err != nil {
			return nil, fmt.Errorf("--log-dir: %w", err)
		}
		return set, nil
	}
	temporary := a.env["TMPDIR"]
	if temporary == "" {
		temporary = os.TempDir()
	}
	dir, err := targetlog.Default(a.path(temporary))
	if err == nil {
		var set *targetlog.Set
		if set, err = targetlog.Open(dir); err == nil {
			return set, nil
		}
	}
	a.progress.Warn(fmt.Sprintf("cannot write the logs of targets: %v", err))
	return nil, nil
}

// report writes the outcome of a build, good or bad, to the files that programs read.
func (c *recordFlags) report(ctx context.Context, a *app, o view.Outcome, err error) error {
	o.State, o.Err = "done", err
	switch {
	case errors.Is(context.Cause(ctx), errInterrupted):
		o.State = "interrupted"
	case err != nil:
		o.State = "failed"
	}
	if err := a.jobSummary(o); err != nil {
		a.progress.Warn(fmt.Sprintf("cannot write the summary of the job: %v", err))
	}
	if c.SummaryJSON == "" || c.misplaced {
		return nil
	}
	if err != nil { // then nobody is waited for
		var stop func()
		ctx, stop = context.WithTimeoutCause(context.WithoutCancel(ctx), hurry, errors.New("the build has failed, and nobody reads about it"))
		defer stop()
	}
	if err := a.output(ctx, c.SummaryJSON, func(w io.Writer) error { return view.JSON(w, o) }); err != nil {
		return fmt.Errorf("--summary-json: %w", err)
	}
	return nil
}

// jobSummary adds the result of a build to the page of the job, where GitHub Actions runs
// it. Other steps of the job write there, too.
func (a *app) jobSummary(o view.Outcome) (err error) {
	name := a.env["GITHUB_STEP_SUMMARY"]
	if on, err := strconv.ParseBool(a.env["GITHUB_ACTIONS"]); name == "" || err != nil || !on {
		return nil
	}
	var page strings.Builder
	if err := view.Markdown(&page, o); err != nil {
		return err
	}
	// A pipe that nobody reads is not waited for.
	f, err := os.OpenFile(a.path(name), os.O_WRONLY|os.O_APPEND|os.O_CREATE|syscall.O_NONBLOCK, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(redact.Text(page.String()))
	return errors.Join(err, f.Close())
}
