package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/plan"
)

type warmCmd struct {
	definitionFlags
	nodeFlags
	planFlags

	All      bool   `help:"Build all steps of all targets, not only those that several targets share."`
	Progress string `default:"auto" placeholder:"MODE" help:"How progress is shown: auto, plain, tty, quiet or rawjson ($$BUILDKIT_PROGRESS replaces auto)."`
}

func (c *warmCmd) Run(ctx contextBinding, a *app) (err error) {
	switch {
	case c.Push || c.Load:
		return usageError{errors.New("dbake warm writes nothing: --push and --load mean nothing to it")}
	case c.Call != "" || c.Check:
		return usageError{errors.New("dbake warm builds: --call and --check ask about Dockerfiles")}
	}
	// What targets write is not written, and needs no grant.
	c.Set = append(slices.Clone(c.Set), "*.output=type=cacheonly", "*.cache-to=")
	request, err := a.request(&c.definitionFlags, &c.nodeFlags, &c.planFlags)
	if err != nil {
		return err
	}
	request.Reach, request.Reuse = engine.Started, engine.ReuseNever
	request.Warm, request.WarmAll, request.NoSteal = true, c.All, true
	request.Admit = func(ctx context.Context, asked engine.Admission) error {
		return a.privileges().authorize(ctx, asked.Project, &c.definitionFlags)
	}
	s := a.engine().Open(request)
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
	err = s.Through(ctx, engine.Run)
	a.progress.Remarks(s.Build().Warnings(), a.debug)
	if err != nil {
		return err
	}
	result, failure := s.Result()
	for _, w := range result.Warnings {
		a.progress.Warn(w)
	}
	if err := s.Through(ctx, engine.Remember); err != nil {
		return err
	}
	a.progress.Summary(result, view.Run{Makespan: s.Plan().Makespan, Bound: s.Plan().Bound})
	return failure
}
