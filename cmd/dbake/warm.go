package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/dbake/dbake/cmd/dbake/internal/targetlog"
	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/plan"
)

type warmCmd struct {
	definitionFlags
	nodeFlags
	planFlags

	All bool `help:"Build all steps of all targets, not only those that several targets share."`
	recordFlags
	Progress string `default:"auto" placeholder:"MODE" help:"How progress is shown: ${modes} ($$BUILDKIT_PROGRESS replaces auto)."`
}

func (c *warmCmd) Run(ctx contextBinding, a *app) (err error) {
	switch {
	case c.Push || c.Load:
		return usageError{errors.New("dbake warm writes nothing: --push and --load mean nothing to it")}
	case c.Call != "" || c.Check:
		return usageError{errors.New("dbake warm builds: --call and --check ask about Dockerfiles")}
	}
	o := view.Outcome{Started: time.Now()}
	defer func() { err = errors.Join(err, c.report(ctx, a, o, err)) }()
	// The outputs of targets are not written, and need no grant.
	c.Set = append(slices.Clone(c.Set), "*.output=type=cacheonly", "*.cache-to=")
	request, err := a.request(&c.definitionFlags, &c.nodeFlags, &c.planFlags)
	if err != nil {
		return err
	}
	request.Reach, request.Reuse = engine.Started, engine.ReuseNever
	request.Warm, request.WarmAll, request.NoSteal = true, c.All, true
	request.Admit = func(ctx context.Context, asked engine.Admission) error {
		if err := a.privileges().authorize(ctx, asked.Project, &c.definitionFlags); err != nil {
			return err
		}
		err := a.checkPlaces(asked.Build, flagFile{"--summary-json", c.SummaryJSON})
		c.misplaced = err != nil
		return err
	}
	logs := &logged{Reporter: a.progress, open: func() (*targetlog.Set, error) { return c.openLogs(a) }}
	s := a.engineFor(logs).Open(request)
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Through(ctx, engine.Access); err != nil {
		return err
	}
	if len(s.Definition().Targets) == 0 {
		return errors.New("none of the targets is to be built: all have the attribute call")
	}
	err = s.Through(ctx, engine.Order)
	if errors.Is(err, plan.ErrNothingShared) {
		return fmt.Errorf("%w; --all builds everything on every node", err)
	}
	if err != nil {
		return err
	}
	failure, err := a.carryOut(ctx, s, logs, &o)
	return errors.Join(failure, err)
}
